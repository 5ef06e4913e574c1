//! What a container is created from, at its first site and at every later one.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use godwit_protocol::container::{Image, Kind};
use godwit_protocol::{Address, Bytes, ContainerId, MilliCpu};
use serde::{Deserialize, Serialize};

use super::error::Cause;

/// The file in the folder that travels.
pub const FILE: &str = "spec.json";

/// Larger than any command line and environment that Linux would start (2 MiB with quotes) need be.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// A container has few ports, and each takes a rule in the firewall of every site it visits.
const MAX_PORTS: usize = 64;

/// The least memory that engines accept as a limit.
const MIN_MEMORY: u64 = 6 * 1024 * 1024;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// In the mesh.
    pub container: ContainerId,
    /// For people: up to 63 letters, digits, `_`, `.` and `-`, of which the first is a letter or digit.
    pub name: String,
    /// The image's name, as in `docker run`.
    pub image: String,
    /// Arguments, or the command if the image has no entry point; the image's own if empty.
    pub command: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Published on whichever site it runs.
    pub ports: Vec<Port>,
    /// The most processor time it may take.
    pub cpu: MilliCpu,
    /// The most memory it may take.
    pub memory: Bytes,
    /// GPUs it is given.
    pub gpu: u16,
    /// Its own address, the same on every site.
    pub address: Address,
    /// Its host name; its name if absent.
    pub hostname: Option<String>,
    /// Whether its state moves with it.
    pub kind: Kind,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Port {
    /// On the site.
    pub site: u16,
    /// In the container.
    pub container: u16,
    /// Of the packets.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Everything a container is created from: what was asked for, and the image that was found for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What was asked for.
    pub deploy: Deploy,
    /// Its image by content: names change their meaning.
    pub image: Image,
}

/// Why no container is created from a specification.
#[derive(Debug, thiserror::Error)]
pub enum BadSpec {
    /// The name is not one that engines accept.
    #[error("name `{0}`: 1 to 63 letters, digits, `_`, `.` and `-`, of which the first is a letter or digit")]
    Name(String),
    /// The host name is not one.
    #[error("host name `{0}`: 1 to 63 letters, digits and `-`, not at its ends")]
    Hostname(String),
    /// Not an assignment.
    #[error("environment entry {0}: not NAME=value without NUL") /* its content may be a secret */]
    Env(usize),
    /// Commands cannot hold NUL.
    #[error("argument {0} holds a NUL")]
    Argument(usize),
    /// Too many ports, port zero or one port twice.
    #[error("ports: at most {MAX_PORTS}, none 0, none twice on the site")]
    Ports,
    /// Without a limit a container could take the whole site, and its size would be unknown.
    #[error("limits: memory at least {MIN_MEMORY} bytes and processor time at least 1 mCPU")]
    Limits,
    /// The file of the folder is about something else.
    #[error("it is of container {found}, not of {expected}")]
    WrongContainer {
        /// Whose handoff it is.
        expected: ContainerId,
        /// Whose specification was found.
        found: ContainerId,
    },
    /// Too long to be written or read.
    #[error("longer than {MAX_FILE} bytes")]
    TooLong,
    /// Not JSON, or not of this version.
    #[error("not a specification: {0}")]
    Json(#[from] serde_json::Error),
}

impl Deploy {
    /// The host name in the container.
    #[must_use]
    pub fn hostname(&self) -> String {
        let fallback = || self.name.replace(['_', '.'], "-").trim_matches('-').to_owned();
        self.hostname.clone().unwrap_or_else(fallback)
    }

    /// Whether an engine can be asked for it.
    ///
    /// # Errors
    /// [`BadSpec`] names the first field that is wrong.
    pub fn check(&self) -> Result<(), BadSpec> {
        let word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let label = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !(1..=63).contains(&self.name.len())
            || !self.name.chars().all(word)
            || !self.name.starts_with(|c: char| c.is_ascii_alphanumeric())
        {
            return Err(BadSpec::Name(self.name.chars().take(80).collect()));
        }
        let hostname = self.hostname();
        if !(1..=63).contains(&hostname.len())
            || !hostname.chars().all(label)
            || hostname.starts_with('-')
            || hostname.ends_with('-')
        {
            return Err(BadSpec::Hostname(hostname.chars().take(80).collect()));
        }
        let assignment = |entry: &str| entry.find('=').is_some_and(|at| at > 0) && !entry.contains('\0');
        if let Some(at) = self.env.iter().position(|entry| !assignment(entry)) {
            return Err(BadSpec::Env(at));
        }
        if let Some(at) = self.command.iter().position(|argument| argument.contains('\0')) {
            return Err(BadSpec::Argument(at));
        }
        let on_site: std::collections::HashSet<_> = self.ports.iter().map(|port| (port.site, port.protocol)).collect();
        if self.ports.len() > MAX_PORTS
            || on_site.len() != self.ports.len()
            || self.ports.iter().any(|port| port.site == 0 || port.container == 0)
        {
            return Err(BadSpec::Ports);
        }
        if self.memory.0 < MIN_MEMORY || self.cpu.0 == 0 || i64::try_from(self.memory.0).is_err() {
            return Err(BadSpec::Limits);
        }
        Ok(())
    }
}

impl Spec {
    /// As JSON.
    ///
    /// # Errors
    /// [`BadSpec::TooLong`].
    pub fn to_json(&self) -> Result<String, BadSpec> {
        let json = serde_json::to_string(self)?;
        if json.len() as u64 > MAX_FILE { Err(BadSpec::TooLong) } else { Ok(json) }
    }

    /// From JSON, checked.
    ///
    /// # Errors
    /// [`BadSpec`] says what is wrong.
    pub fn from_json(json: &str) -> Result<Self, BadSpec> {
        let spec: Self = serde_json::from_str(json)?;
        spec.deploy.check()?;
        Ok(spec)
    }

    /// Writes `spec.json`, readable by its owner alone: environments hold secrets.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Cause> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = dir.join(FILE);
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let json = self.to_json()?;
        let write = |mut file: File| file.write_all(json.as_bytes()).and_then(|()| file.sync_all());
        options.open(&path).and_then(write).map_err(Cause::io("write", &path))
    }

    /// Reads the `spec.json` of a container.
    pub(super) fn read(dir: &Path, container: ContainerId) -> Result<Self, Cause> {
        let path = dir.join(FILE);
        let file = File::open(&path).map_err(Cause::io("open", &path))?;
        let mut json = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut json).map_err(Cause::io("read", &path))?;
        if json.len() as u64 > MAX_FILE {
            return Err(BadSpec::TooLong.into());
        }
        let spec = Self::from_json(&json)?;
        if spec.deploy.container != container {
            return Err(BadSpec::WrongContainer { expected: container, found: spec.deploy.container }.into());
        }
        Ok(spec)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use godwit_protocol::ImageId;
    use godwit_protocol::bounded::Text;

    pub fn spec() -> Spec {
        let deploy = Deploy {
            container: ContainerId([7; 16]),
            name: "counter_1".into(),
            image: "counter:latest".into(),
            command: vec!["--port".into(), "80".into()],
            env: vec!["KEY=a=b".into()],
            ports: vec![Port { site: 8080, container: 80, protocol: Protocol::Tcp }],
            cpu: MilliCpu(500),
            memory: Bytes(64 << 20),
            gpu: 0,
            address: Address([10, 50, 0, 10].into()),
            hostname: None,
            kind: Kind::Stateful,
        };
        Spec { image: Image { id: ImageId([3; 32]), reference: Text::clipped(&deploy.image) }, deploy }
    }

    #[test]
    fn a_specification_is_read_back_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        spec().write(folder.path()).unwrap();
        assert_eq!(Spec::read(folder.path(), ContainerId([7; 16])).unwrap(), spec());
        let other = Spec::read(folder.path(), ContainerId([8; 16]));
        assert!(matches!(other, Err(Cause::Spec(BadSpec::WrongContainer { .. }))));
    }

    #[test]
    fn what_no_engine_would_run_is_refused_by_name() {
        let refused = |change: fn(&mut Deploy)| {
            let mut spec = spec();
            change(&mut spec.deploy);
            Spec::from_json(&serde_json::to_string(&spec).unwrap()).unwrap_err()
        };
        assert!(matches!(refused(|d| d.name = "../x".into()), BadSpec::Name(_)));
        assert!(matches!(refused(|d| d.name.clear()), BadSpec::Name(_)));
        assert!(matches!(refused(|d| d.hostname = Some("-x".into())), BadSpec::Hostname(_)));
        assert!(matches!(refused(|d| d.env.push("=x".into())), BadSpec::Env(1)));
        assert!(matches!(refused(|d| d.command.push("\0".into())), BadSpec::Argument(2)));
        assert!(matches!(refused(|d| d.ports.push(d.ports[0])), BadSpec::Ports));
        assert!(matches!(refused(|d| d.memory = Bytes(1)), BadSpec::Limits));
        assert!(matches!(refused(|d| d.cpu = MilliCpu(0)), BadSpec::Limits));
        assert!(matches!(Spec::from_json("{}"), Err(BadSpec::Json(_))));
    }

    #[test]
    fn the_host_name_comes_from_the_name() {
        assert_eq!(spec().deploy.hostname(), "counter-1");
    }

    #[test]
    fn a_secret_in_the_environment_is_not_in_the_error() {
        let mut spec = spec();
        spec.deploy.env = vec!["hunter2".into()];
        assert!(!spec.deploy.check().unwrap_err().to_string().contains("hunter2"));
    }
}
