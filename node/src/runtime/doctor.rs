//! What must be right on a machine for containers to move to and from it, and what to do where it is not.

use std::path::Path;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::docker::RUNTIME;
use crate::monitor::platform::criu_version;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is right.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do; empty if it is right.
    pub remedy: String,
}

/// The least version of CRIU with which all of this works: older ones fail on kernels from 6.16 on.
const MIN_CRIU: u32 = 40_200;

/// Below this the next container may not fit.
const MIN_FREE: u64 = 2 << 30;

/// A program or an engine that does not answer within this time does not answer.
const DEADLINE: Duration = Duration::from_secs(15);

impl Check {
    /// A check, with its remedy kept only if it is needed.
    pub fn new(name: &str, ok: bool, found: impl Into<String>, remedy: &str) -> Self {
        let remedy = if ok { "" } else { remedy };
        Self { name: name.into(), ok, found: found.into(), remedy: remedy.into() }
    }
}

/// The engine at `socket`, CRIU, the kernel, permissions, and the disk that holds `state`.
pub async fn checks(socket: &Path, criu: &Path, state: &Path) -> Vec<Check> {
    let mut checks = engine(socket).await;
    checks.extend(criu_checks(criu).await);
    checks.extend([
        permissions(),
        firewall("firewall", "iptables", &["-w", "-S", "FORWARD"]).await,
        firewall("firewall of bridges", "nft", &["list", "tables", "bridge"]).await,
        forwarding(),
        tunnel(),
        disk("disk for godwit", state),
    ]);
    checks
}

async fn engine(socket: &Path) -> Vec<Check> {
    let ask = async {
        let docker = Docker::connect_with_unix(&socket.to_string_lossy(), DEADLINE.as_secs(), API_DEFAULT_VERSION)?;
        docker.negotiate_version().await?.info().await
    };
    let info = match ask.await {
        Ok(info) => info,
        Err(error) => {
            let remedy =
                "install and start Docker Engine (systemctl start docker), or set its socket in the configuration";
            return vec![Check::new("engine", false, format!("{}: {error}", socket.display()), remedy)];
        }
    };
    let driver = info.driver.unwrap_or_default();
    let status = info.driver_status.unwrap_or_default();
    let snapshotter = status.iter().flatten().any(|text| text.contains("io.containerd.snapshotter"));
    let root = info.docker_root_dir.unwrap_or_default();
    let mut checks = vec![
        Check::new("engine", true, format!("Docker {}", info.server_version.unwrap_or_default()), ""),
        Check::new(
            "engine: checkpoints",
            info.experimental_build == Some(true),
            if info.experimental_build == Some(true) { "experimental mode" } else { "not in experimental mode" },
            "godwit doctor --fix, and restart Docker",
        ),
        runtime(info.runtimes.unwrap_or_default().get(RUNTIME)),
        Check::new(
            "engine: storage",
            driver == "overlay2" && !snapshotter,
            if snapshotter { "containerd's snapshotter".into() } else { driver },
            r#"set "storage-driver": "overlay2" and "features": {"containerd-snapshotter": false} in /etc/docker/daemon.json"#,
        ),
        Check::new(
            "engine: data directory",
            Path::new(&root).is_dir(),
            root.clone(),
            "godwit must run where the engine's data directory is, under the same path",
        ),
    ];
    let cgroup = info.cgroup_version.map(|version| format!("version {version:?}")).unwrap_or_default();
    checks.push(Check::new(
        "engine: cgroups",
        info.memory_limit != Some(false),
        cgroup,
        "enable the memory controller",
    ));
    checks.push(disk("disk for the engine", Path::new(&root)));
    checks
}

/// Whether the engine knows our OCI runtime, and where.
fn runtime(known: Option<&bollard::models::Runtime>) -> Check {
    let path = known.and_then(|runtime| runtime.path.as_deref());
    let (ok, found) = match path {
        Some(path) if Path::new(path).is_file() => (true, path.to_owned()),
        Some(path) => (false, format!("{path}, which is not there")),
        None => (false, "the engine does not know it".to_owned()),
    };
    Check::new(
        "engine: godwit's runtime",
        ok,
        found,
        "godwit doctor --fix; stateful containers cannot come here without it",
    )
}

async fn criu_checks(criu: &Path) -> Vec<Check> {
    let remedy = "install CRIU 4.2 or newer (https://criu.org/Installation); stateless containers move without it";
    let Some(version) = criu_version(criu).await else {
        return vec![Check::new("CRIU", false, format!("{} does not run", criu.display()), remedy)];
    };
    let found = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
    let run = Command::new(criu).args(["check"]).kill_on_drop(true).output();
    let (works, said) = match tokio::time::timeout(DEADLINE, run).await {
        Ok(Ok(output)) => (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()),
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (false, "no answer".into()),
    };
    let said = if works { "works on this kernel" } else { said.lines().next_back().unwrap_or("fails") };
    vec![
        Check::new("CRIU", version >= MIN_CRIU, found, remedy),
        Check::new("CRIU: kernel", works, said, "criu check --all says which kernel feature is missing"),
    ]
}

/// Names of the capabilities that moving a container takes, and their bits.
const CAPABILITIES: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_MKNOD", 27)];

fn permissions() -> Check {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(_, bit)| bits >> bit & 1 == 0).map(|(name, _)| *name).collect();
    let root = nix::unistd::geteuid().is_root();
    let found = match (root, missing.is_empty()) {
        (true, true) => "root".to_owned(),
        (_, false) => format!("without {}", missing.join(", ")),
        (false, true) => "not root".to_owned(),
    };
    Check::new("permissions", root && missing.is_empty(), found, "run godwit as root, as its systemd unit does")
}

async fn firewall(name: &str, program: &str, arguments: &[&str]) -> Check {
    let run = Command::new(program).args(arguments).kill_on_drop(true).output();
    let (ok, found) = match tokio::time::timeout(DEADLINE, run).await {
        Ok(Ok(output)) if output.status.success() => (true, "works".to_owned()),
        Ok(Ok(output)) => (false, String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Ok(Err(error)) => (false, format!("{program}: {error}")),
        Err(_) => (false, "no answer".to_owned()),
    };
    Check::new(name, ok, found, "install iptables and nftables, and run godwit as root")
}

fn forwarding() -> Check {
    let found = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    let on = found.trim() == "1";
    Check::new("forwarding", on, if on { "on" } else { "off" }, "sysctl -w net.ipv4.ip_forward=1")
}

/// Where packets wait for containers that stand still.
fn tunnel() -> Check {
    let device = Path::new("/dev/net/tun");
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(device);
    let found = opened.as_ref().map_or_else(|error| format!("{}: {error}", device.display()), |_| "works".to_owned());
    let remedy = "modprobe tun; without it packets for containers that move are dropped, and their clients wait longer";
    Check::new("tunnel device", opened.is_ok(), found, remedy)
}

fn disk(name: &str, path: &Path) -> Check {
    // A folder that is still to be made will be on the disk of the one it is made in.
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let found = format!("{} MB free at {}", free >> 20, path.display());
            Check::new(name, free >= MIN_FREE, found, "free space: docker system prune, or a larger disk")
        }
        Err(error) => Check::new(name, false, format!("{}: {error}", path.display()), "see that the path exists"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_without_engine_and_criu_is_told_what_to_do() {
        let nowhere = Path::new("/nonexistent");
        let checks = checks(nowhere, nowhere, Path::new("/")).await;
        for name in ["engine", "CRIU"] {
            let check = checks.iter().find(|check| check.name == name).unwrap();
            assert!(!check.ok && !check.remedy.is_empty() && check.found.contains("/nonexistent"), "{check:?}");
        }
    }

    #[test]
    fn what_is_right_needs_no_remedy() {
        assert_eq!(Check::new("x", true, "y", "do").remedy, "");
        assert_eq!(Check::new("x", false, "y", "do").remedy, "do");
    }
}
