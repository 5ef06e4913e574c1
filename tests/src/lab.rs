//! The lab as tests use it: sites of their own, taken down whatever becomes of the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::artifacts::{self, run};

/// A running lab. Taken down when the last handle goes, or with the process.
#[derive(Clone)]
pub struct Lab(Arc<Inner>);

struct Inner {
    name: String,
    logs: PathBuf,
    keeper: Child,
}

/// With a limit of its own a site measures itself; without one, the whole machine and all that runs on it.
const OWN: [&str; 4] = ["--cpus", "2", "--memory", "4g"];

/// One site of a lab.
#[derive(Clone)]
pub struct Site {
    lab: Lab,
    /// `s1`, `s2` and so on.
    pub name: String,
}

/// The command itself.
#[must_use]
pub fn program() -> PathBuf {
    artifacts::root().join("deploy/lab/lab")
}

impl Lab {
    /// Brings up `sites` sites with the built `godwit` in them; `options` as `lab up` takes them.
    ///
    /// # Errors
    /// When the lab does not come up.
    pub fn up(sites: usize, options: &[&str]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // A letter and at most eight more: the process, and which lab of the process.
        let name = format!("e{:x}x{}", std::process::id() & 0xff_ffff, NEXT.fetch_add(1, Ordering::Relaxed) % 10);
        let logs = artifacts::scratch(&name)?;
        eprintln!("lab {name}; logs in {}", logs.display());
        let keeper = keep(&name, &logs)?;
        let lab = Self(Arc::new(Inner { name, logs, keeper }));
        lab.run(Path::new("up"), |up| {
            up.arg(sites.to_string()).arg("--bin").arg(artifacts::godwit()?).args(OWN).args(options);
            Ok(())
        })?;
        Ok(lab)
    }

    /// Its name among the machine's labs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A site, by its number from 1.
    #[must_use]
    pub fn site(&self, number: usize) -> Site {
        Site { lab: self.clone(), name: format!("s{number}") }
    }

    /// Where this lab's logs go.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.0.logs
    }

    /// The lab's command for this lab.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.env("GODWIT_LAB_NAME", &self.0.name);
        command
    }

    /// Changes what `lab up` set: `options` as it takes them.
    ///
    /// # Errors
    /// When the lab refuses.
    pub fn adjust(&self, sites: usize, options: &[&str]) -> Result<()> {
        run(self.command().arg("up").arg(sites.to_string()).args(options)).map(drop)
    }

    /// Stops all traffic between two sites.
    ///
    /// # Errors
    /// When the lab refuses.
    pub fn cut(&self, a: &Site, b: &Site) -> Result<()> {
        run(self.command().args(["cut", &a.name, &b.name])).map(drop)
    }

    /// Stops all traffic between a site and all others.
    ///
    /// # Errors
    /// When the lab refuses.
    pub fn cut_off(&self, site: &Site) -> Result<()> {
        run(self.command().args(["cut", &site.name])).map(drop)
    }

    /// Starts what is off in a site: all of it, or its engine.
    ///
    /// # Errors
    /// When the lab refuses.
    pub fn power_on(&self, site: &Site) -> Result<()> {
        run(self.command().args(["start", &site.name])).map(drop)
    }

    /// Undoes all cuts.
    ///
    /// # Errors
    /// When the lab refuses.
    pub fn heal(&self) -> Result<()> {
        run(self.command().arg("heal")).map(drop)
    }

    /// A command on the network between the sites, where clients are.
    #[must_use]
    pub fn backbone(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.command();
        command.arg("backbone").arg(program);
        command
    }

    fn run(&self, what: &Path, fill: impl FnOnce(&mut Command) -> Result<()>) -> Result<()> {
        let mut command = self.command();
        command.arg(what);
        fill(&mut command)?;
        run(&mut command).with_context(|| format!("lab {}", self.0.name)).map(drop)
    }
}

/// A process in a session of its own that takes the lab down when its standard input ends: when we let go of it, or die
/// of anything, be it Ctrl-C, a time limit or SIGKILL.
fn keep(name: &str, logs: &Path) -> Result<Child> {
    let log = std::fs::File::create(logs.join("down.log")).context("create down.log")?;
    Command::new("setsid")
        .args(["sh", "-c", "cat >/dev/null; exec \"$0\" down"])
        .arg(program())
        .env("GODWIT_LAB_NAME", name)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().context("down.log")?)
        .stderr(log)
        .spawn()
        .context("start the lab's keeper")
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        if !self.keeper.wait().is_ok_and(|status| status.success()) {
            eprintln!("the lab did not go down cleanly: see {}", self.logs.join("down.log").display());
        }
    }
}

impl Site {
    /// The lab it is part of.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// A command in the site.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.lab.command();
        command.args(["exec", &self.name]).arg(program);
        command
    }

    /// Runs a shell script in the site.
    ///
    /// # Errors
    /// When it fails.
    pub fn shell(&self, script: &str) -> Result<String> {
        run(self.command("sh").args(["-euc", script])).with_context(|| format!("in site {}", self.name))
    }

    /// Its first process, as this machine counts it.
    ///
    /// # Errors
    /// When the site is off.
    pub fn init(&self) -> Result<u32> {
        let said = run(self.lab.command().args(["pid", &self.name]))?;
        said.trim().parse().with_context(|| format!("lab pid says {said}"))
    }

    /// Its address on the network between the sites.
    #[must_use]
    pub fn address(&self) -> String {
        format!("10.99.0.{}", &self.name[1..])
    }

    /// Copies a file into the site.
    ///
    /// # Errors
    /// When it cannot be read here or written there.
    pub fn put(&self, content: &[u8], path: &str) -> Result<()> {
        use std::io::Write;
        let mut command = self.command("sh");
        command.args(["-euc", "mkdir -p \"$(dirname \"$0\")\"; cat >\"$0\"", path]).stdin(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let written = child.stdin.take().context("no stdin")?.write_all(content);
        let status = child.wait().context("wait")?;
        written.with_context(|| format!("write {path} in site {}", self.name))?;
        anyhow::ensure!(status.success(), "write {path} in site {}: {status}", self.name);
        Ok(())
    }
}
