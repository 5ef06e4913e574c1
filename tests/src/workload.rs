//! The test workload: its image, and the questions that clients ask it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::artifacts::{self, run};
use crate::lab::{Lab, Site};
use crate::view::{Count, Gaps, Journal, Seen, Verified};

/// The image's reference.
pub const IMAGE: &str = "godwit-workload:latest";

/// A running workload, as its clients see it.
#[derive(Clone)]
pub struct Workload {
    lab: Lab,
    program: PathBuf,
    address: String,
}

/// A client that keeps one TCP connection.
pub struct Probe(Child);

/// What must not change when a workload moves.
#[derive(Clone, Debug)]
pub struct Memory {
    /// As it was.
    pub count: Count,
    acknowledged: Vec<u64>,
}

/// Builds the image and the program once a process; cargo knows whether there is anything to do.
///
/// # Errors
/// When it does not build.
pub fn build() -> Result<(PathBuf, PathBuf)> {
    static BUILT: OnceLock<std::result::Result<(PathBuf, PathBuf), String>> = OnceLock::new();
    let built = || -> Result<(PathBuf, PathBuf)> {
        let target = artifacts::target()?;
        // A name of our own, then a rename inside the script: others may be reading the image.
        let image = target.join("e2e/workload.tar");
        run(Command::new(artifacts::root().join("tests/workload/image.sh"))
            .arg(&image)
            .env("CARGO_TARGET_DIR", &target))?;
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        Ok((image, target.join(triple).join("release/workload")))
    };
    BUILT.get_or_init(|| built().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

/// Makes the image known to a site's engine.
///
/// # Errors
/// When the engine refuses it.
pub fn load_image(site: &Site) -> Result<()> {
    let (image, _) = build()?;
    let image = std::fs::File::open(&image).with_context(|| format!("open {}", image.display()))?;
    run(site.command("docker").args(["load", "--quiet"]).stdin(image)).map(drop)
}

impl Workload {
    /// The workload at this address of the mesh. Its clients' way there leads over `gateway`, whose routes are its site's.
    ///
    /// # Errors
    /// When the route cannot be set.
    pub fn at(gateway: &Site, address: &str) -> Result<Self> {
        let lab = gateway.lab().clone();
        let (_, program) = build()?;
        run(lab.backbone("ip").args(["route", "replace", address, "via", &gateway.address()]))?;
        Ok(Self { lab, program, address: address.to_owned() })
    }

    /// # Errors
    /// When it does not answer, or not with a count.
    pub fn count(&self) -> Result<Count> {
        self.get("/")
    }

    /// Has a value made durable.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub fn acknowledge(&self, value: u64) -> Result<()> {
        self.ask("POST", &format!("/acknowledge?n={value}")).map(drop)
    }

    /// # Errors
    /// When it does not answer.
    pub fn gaps(&self) -> Result<Gaps> {
        self.get("/gaps")
    }

    /// Forgets the gaps so far.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn reset(&self) -> Result<()> {
        self.ask("POST", "/reset").map(drop)
    }

    /// What must be true of it from now on.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn remember(&self) -> Result<Memory> {
        Ok(Memory { count: self.count()?, acknowledged: self.acknowledged()? })
    }

    /// Whether it is the same instance with all its state, and goes on: memory page by page, file line by line.
    ///
    /// # Errors
    /// What is lost.
    pub fn check(&self, before: &Memory) -> Result<()> {
        let now = self.count()?;
        ensure!(now.instance == before.count.instance, "started anew: {before:?}, then {now:?}");
        ensure!(now.ticks > before.count.ticks, "the counter stands or went back: {before:?}, then {now:?}");
        let acknowledged = self.acknowledged()?;
        ensure!(
            acknowledged.starts_with(&before.acknowledged),
            "acknowledged values were lost: {:?}, then {acknowledged:?}",
            before.acknowledged
        );
        let journal: Journal = self.get("/journal")?;
        ensure!(
            journal.unbroken && journal.same_file && journal.acknowledged_match && journal.starts == 1,
            "the file is not as it was left: {journal:?}"
        );
        let memory: Verified = self.get("/verify")?;
        ensure!(memory.wrong_pages == 0 && memory.pages > 0, "memory is not as it was left: {memory:?}");
        Ok(())
    }

    /// A client that keeps one TCP connection until it is asked what it saw.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn probe(&self) -> Result<Probe> {
        let mut command = self.lab.backbone(&self.program);
        command.args(["probe", &format!("{}:8081", self.address), "--seconds", "0", "--json"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let mut line = String::new();
        let stderr = child.stderr.take().context("no stderr")?;
        BufReader::new(stderr).read_line(&mut line).context("read from the probe")?;
        ensure!(line.contains("connected"), "the probe says: {line}");
        Ok(Probe(child))
    }

    fn acknowledged(&self) -> Result<Vec<u64>> {
        #[derive(serde::Deserialize)]
        struct All {
            values: Vec<u64>,
        }
        self.get::<All>("/acknowledged").map(|all| all.values)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let text = self.ask("GET", path)?;
        serde_json::from_str(&text).with_context(|| format!("{path} answered {text}"))
    }

    fn ask(&self, method: &str, path: &str) -> Result<String> {
        let mut command = self.lab.backbone(&self.program);
        run(command.args(["http", &format!("{}:8080", self.address), path, "--method", method, "--seconds", "5"]))
    }
}

impl Probe {
    /// Ends it.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn finish(mut self) -> Result<Seen> {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).context("pid")?);
        kill(pid, Signal::SIGTERM).context("end the probe")?;
        let stdout = self.0.stdout.take().context("no stdout")?;
        let text = std::io::read_to_string(stdout).context("read from the probe")?;
        self.0.wait().context("wait for the probe")?;
        serde_json::from_str(&text).with_context(|| format!("the probe said {text}"))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Seen {
    /// Whether the connection was kept, and all that was sent arrived in order.
    ///
    /// # Errors
    /// What was not.
    pub fn is_whole(&self) -> Result<()> {
        if self.connection_broken || !self.unbroken || self.lines == 0 || self.answers == 0 {
            bail!("the TCP connection was not kept: {self:?}");
        }
        Ok(())
    }
}
