//! One `godwit run`, in a site of the lab or here on loopback, and the command line that talks to it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::artifacts::{self, run};
use crate::lab::Site;
use crate::view::{Block, Container, Offer, SiteLine, Status, Timeline};
use crate::wait::{LONG, until};

/// The daemon's pid, as its site counts it.
const PID: &str = "/run/godwit.pid";

/// Lines of a log that are shown when a test fails.
const TAIL: usize = 25;

/// A site's daemon and its command line.
#[derive(Clone)]
pub struct Node {
    /// Its name in the mesh.
    pub name: String,
    place: Place,
    log: PathBuf,
    process: Arc<Mutex<Option<Child>>>,
    /// Put before `godwit run`, for example a tracer.
    pub wrapper: Vec<String>,
    run_arguments: Arc<Mutex<Vec<String>>>,
}

/// Where it runs.
#[derive(Clone)]
pub enum Place {
    /// In a site of the lab.
    Lab(Site),
    /// On this machine, with its configuration and data in this folder.
    Here(PathBuf),
}

/// Longer than the API itself waits for what it is asked.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(20);

impl Node {
    /// In a site of the lab.
    #[must_use]
    pub fn in_lab(site: &Site) -> Self {
        let log = site.lab().logs().join(format!("{}.log", site.name));
        Self::new(&site.name, Place::Lab(site.clone()), log)
    }

    /// On this machine, in `folder`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn here(name: &str, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self::new(name, Place::Here(folder.to_owned()), folder.join("run.log")))
    }

    fn new(name: &str, place: Place, log: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            place,
            log,
            process: Arc::default(),
            wrapper: Vec::new(),
            run_arguments: Arc::default(),
        }
    }

    /// Where it runs.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its site.
    ///
    /// # Panics
    /// When it runs outside the lab.
    #[must_use]
    pub fn site(&self) -> &Site {
        match &self.place {
            Place::Lab(site) => site,
            Place::Here(_) => panic!("{} is in no lab", self.name),
        }
    }

    /// Its configuration file, where it runs. In the lab all files are where `godwit` expects them by default.
    #[must_use]
    pub fn config(&self) -> String {
        self.path("/etc/godwit/godwit.toml")
    }

    /// The mesh's genesis, where it runs.
    #[must_use]
    pub fn genesis(&self) -> String {
        self.path("/etc/godwit/genesis.toml")
    }

    /// Its data, where it runs.
    #[must_use]
    pub fn data(&self) -> String {
        self.path("/var/lib/godwit")
    }

    /// Its API's socket, where it runs.
    #[must_use]
    pub fn socket(&self) -> String {
        self.path("/run/godwit/api.sock")
    }

    /// Where a file of a site is: as on a machine of its own in the lab, else in the node's folder.
    #[must_use]
    pub fn path(&self, file: &str) -> String {
        match &self.place {
            Place::Lab(_) => file.to_owned(),
            Place::Here(folder) => folder.join(file.rsplit('/').next().unwrap_or(file)).display().to_string(),
        }
    }

    /// Writes a file where it runs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        match &self.place {
            Place::Lab(site) => site.put(content, path),
            Place::Here(_) => fs::write(path, content).with_context(|| format!("write {path}")),
        }
    }

    /// A command where it runs.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.place {
            Place::Lab(site) => site.command(program),
            Place::Here(_) => Command::new(program),
        }
    }

    /// `godwit`, where it runs.
    ///
    /// # Errors
    /// When it was not built.
    pub fn godwit(&self) -> Result<Command> {
        match &self.place {
            Place::Lab(site) => Ok(site.command("godwit")),
            Place::Here(_) => Ok(Command::new(artifacts::godwit()?)),
        }
    }

    /// Puts more arguments after `godwit run`, from its next start on.
    ///
    /// # Panics
    /// Never.
    pub fn run_with(&self, arguments: Vec<String>) {
        self.run_arguments.lock().expect("nobody panics with it").extend(arguments);
    }

    /// Starts the daemon; its output goes on in the same log.
    ///
    /// # Errors
    /// When it cannot be started or is running.
    pub fn start(&self) -> Result<()> {
        let mut process = self.process();
        ensure!(process.is_none(), "{} is running", self.name);
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let program = match &self.place {
            Place::Lab(_) => PathBuf::from("godwit"),
            Place::Here(_) => artifacts::godwit()?,
        };
        // The shell's pid, as the site counts it, becomes the daemon's.
        let mut command = self.command("sh");
        command.args(["-euc", "echo $$ >\"$0\"; exec \"$@\"", &self.path(PID)]).args(&self.wrapper).arg(program);
        command
            .args(["--config", &self.config(), "run"])
            .args(&*self.run_arguments.lock().expect("nobody panics with it"));
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share the log")?).stderr(log);
        *process = Some(command.spawn().with_context(|| format!("start {command:?}"))?);
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.process().take().with_context(|| format!("{} does not run", self.name))?;
        // In the lab this ends the one who entered the site; the lab has the kernel pass SIGKILL on.
        child.kill().context("kill")?;
        child.wait().context("wait")?;
        if let Place::Lab(site) = &self.place {
            site.shell(&format!("pid=$(cat {}); while kill -0 $pid 2>/dev/null; do sleep 0.01; done", self.path(PID)))?;
        }
        Ok(())
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Errors
    /// When it does not run, or fails.
    pub fn stop(&self) -> Result<()> {
        let mut child = self.process().take().with_context(|| format!("{} does not run", self.name))?;
        match &self.place {
            Place::Lab(site) => drop(site.shell(&format!("kill -TERM $(cat {})", self.path(PID)))?),
            Place::Here(_) => {
                kill(Pid::from_raw(i32::try_from(child.id()).context("pid")?), Signal::SIGTERM).context("SIGTERM")?;
            }
        }
        let ended = until("the daemon to end", LONG, || child.try_wait().context("wait")?.context("it still runs"));
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!("{} ended with {status}\n{}", self.name, self.tail()),
            Err(error) => {
                let _ = child.kill();
                Err(error)
            }
        }
    }

    /// The pid of the daemon on this machine; for loopback nodes only.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        self.process().as_ref().map(Child::id).with_context(|| format!("{} does not run", self.name))
    }

    /// Whether it was started and has not ended by itself.
    ///
    /// # Errors
    /// How it ended.
    pub fn is_alive(&self) -> Result<()> {
        match self.process().as_mut().map(Child::try_wait) {
            Some(Ok(None)) => Ok(()),
            Some(Ok(Some(status))) => bail!("{} ended by itself with {status}\n{}", self.name, self.tail()),
            Some(Err(error)) => Err(error).context("wait"),
            None => bail!("{} was not started", self.name),
        }
    }

    /// Asks the daemon by the command line, with `--json`.
    ///
    /// # Errors
    /// When the command fails, or prints something else.
    pub fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let text = self.say(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("{}: godwit {arguments:?} printed {text}", self.name))
    }

    /// Sends a request to the site's API without a process in between that would take time of its own.
    ///
    /// # Errors
    /// When there is no answer, or not one of success.
    pub fn post(&self, path: &str, body: &str) -> Result<serde_json::Value> {
        let answer = self.request("POST", path, body)?;
        serde_json::from_str(&answer).with_context(|| format!("{path} answered {answer}"))
    }

    /// As [`Node::post`], for what is only read.
    ///
    /// # Errors
    /// When there is no answer, or not one of success.
    pub fn get(&self, path: &str) -> Result<String> {
        self.request("GET", path, "")
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let socket = match &self.place {
            // A site's files as seen from the machine.
            Place::Lab(site) => format!("/proc/{}/root{}", site.init()?, self.socket()),
            Place::Here(_) => self.socket(),
        };
        let mut stream = UnixStream::connect(&socket).with_context(|| format!("connect to {socket}"))?;
        stream.set_read_timeout(Some(ANSWER)).context("bound the wait for the answer")?;
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: site\r\nconnection: close");
        let content = format!("content-type: application/json\r\ncontent-length: {length}");
        write!(stream, "{head}\r\n{content}\r\n\r\n{body}").context("send the request")?;
        let answer = std::io::read_to_string(stream).context("read the answer")?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer}"))?;
        ensure!(head.starts_with("HTTP/1.1 2"), "{path}: {answer}");
        Ok(body.to_owned())
    }

    /// As [`Node::ask`], for what it prints.
    ///
    /// # Errors
    /// When the command fails.
    pub fn say(&self, arguments: &[&str]) -> Result<String> {
        run(self.godwit()?.args(["--api", &self.socket(), "--json"]).args(arguments))
    }

    /// As a person sees it.
    ///
    /// # Errors
    /// When the command fails.
    pub fn show(&self, arguments: &[&str]) -> Result<String> {
        run(self.godwit()?.args(["--api", &self.socket()]).args(arguments))
    }

    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.ask(&["status"])
    }

    /// Whether it is a validator that does not vote, since it may have forgotten what it said.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn abstains(&self) -> Result<bool> {
        let status: serde_json::Value = self.ask(&["status"])?;
        status["abstains"].as_bool().context("the status does not say whether it abstains")
    }

    /// # Errors
    /// When it does not answer.
    pub fn sites(&self) -> Result<Vec<SiteLine>> {
        self.ask(&["sites"])
    }

    /// # Errors
    /// When it does not answer, or knows no such container.
    pub fn container(&self, name: &str) -> Result<Container> {
        let all: Vec<Container> = self.ask(&["ps"])?;
        all.into_iter()
            .find(|one| one.name == name || one.container == name)
            .with_context(|| format!("no container {name}"))
    }

    /// Newest first.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn offers(&self) -> Result<Vec<Offer>> {
        self.ask(&["offers"])
    }

    /// # Errors
    /// When it does not answer, or knows no such offer.
    pub fn offer(&self, id: &str) -> Result<Offer> {
        self.offers()?.into_iter().find(|offer| offer.offer == id).with_context(|| format!("no offer {id}"))
    }

    /// # Errors
    /// When it does not answer, or knows no such offer.
    pub fn timeline(&self, offer: &str) -> Result<Timeline> {
        self.ask(&["timeline", offer])
    }

    /// The last blocks.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn blocks(&self) -> Result<Vec<Block>> {
        self.ask(&["log", "--most", "256"])
    }

    /// How many lines of its log hold this text.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn logged(&self, text: &str) -> Result<u64> {
        let log = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        let log = String::from_utf8_lossy(&log);
        Ok(log.lines().filter(|line| line.contains(text)).count() as u64)
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        format!("--- {} ({}):\n{last}\n", self.name, self.log.display())
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().expect("nobody panics with it")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if Arc::strong_count(&self.process) == 1
            && let Some(mut child) = self.process().take()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
