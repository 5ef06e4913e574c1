//! What happens at a site, as its API streams it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::node::Node;

/// A stream of notices.
pub struct Events {
    child: Child,
    notices: Receiver<Value>,
}

/// Something to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A committed block had an effect of this name.
    Committed(&'static str),
    /// The site that is followed took this step.
    Step(&'static str),
}

impl Moment {
    fn is(self, notice: &Value) -> bool {
        match self {
            Self::Committed(name) => notice["kind"] == "committed" && notice["event"].get(name).is_some(),
            Self::Step(name) => notice["kind"] == "step" && notice["step"]["name"] == name,
        }
    }
}

impl Events {
    /// Begins to listen; what happens once this has returned is not missed.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn follow(node: &Node) -> Result<Self> {
        let mut command = node.command("curl");
        command.args(["-sSN", "-i", "--unix-socket", &node.socket(), "http://site/v1/events"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?);
        // It comes with the comment that the site sends once it has subscribed us. `godwit events` prints no such sign.
        let mut head = String::new();
        lines.read_line(&mut head).context("read from the event stream")?;
        if !head.contains("200") {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{}: the event stream answers {head:?}", node.name);
        }
        let (sender, notices) = channel();
        thread::spawn(move || {
            for line in lines.lines().map_while(std::result::Result::ok) {
                let notice = line.strip_prefix("data:").and_then(|json| serde_json::from_str(json).ok());
                if notice.is_some_and(|notice| sender.send(notice).is_err()) {
                    break;
                }
            }
        });
        Ok(Self { child, notices })
    }

    /// The next notice of this moment.
    ///
    /// # Errors
    /// When it has not come after `limit`, or the stream ended: then with what came instead.
    pub fn until(&self, moment: Moment, limit: Duration) -> Result<Value> {
        let deadline = Instant::now() + limit;
        let mut others = Vec::new();
        loop {
            match self.notices.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(notice) if moment.is(&notice) => return Ok(notice),
                Ok(notice) => others.push(short(&notice)),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{moment:?} did not come in {} s; {others:?} did", limit.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the event stream ended before {moment:?}; {others:?} came")
                }
            }
        }
    }
}

fn short(notice: &Value) -> String {
    let event = notice["event"].as_object().and_then(|event| event.keys().next().cloned());
    event.unwrap_or_else(|| notice["step"]["name"].as_str().or(notice["kind"].as_str()).unwrap_or("?").to_owned())
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
