//! What `godwit doctor` checks besides the container engine: files, ports, clock.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use godwit_protocol::SiteId;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::process::Command;

use super::seam::{Check, Verdict};
use crate::api::fault::chain;
use crate::config::Config;
use crate::{genesis, key};

/// The clock's programs answer at once.
const PROGRAM_WAIT: Duration = Duration::from_secs(5);

/// Key and genesis, the data folder, the ports, the clock.
pub async fn checks(config: &Config) -> Vec<Check> {
    let site = key::read(&config.key).map(|key| SiteId::from(key.verifying_key()));
    let mut checks = vec![
        match &site {
            Ok(site) => Check::new("key", true, format!("site {site}"), ""),
            Err(bad) => Check::new("key", false, chain(bad), bad.remedy()),
        },
        founding(config, site.ok()),
        writable("data folder", &config.data_dir),
    ];
    checks.extend(config.net.listen.iter().map(port));
    checks.push(clock().await);
    checks
}

fn founding(config: &Config, site: Option<SiteId>) -> Check {
    match genesis::read(&config.genesis) {
        Err(bad) => Check::new("genesis", false, chain(&bad), bad.remedy()),
        Ok(genesis) => {
            let mesh = format!("mesh {} ({})", genesis.mesh().short(), genesis.name);
            let founder = site.is_some_and(|site| genesis.members.iter().any(|member| member.site == site));
            let mut check = Check::new("genesis", true, mesh.clone(), "");
            if !founder {
                check.verdict = Verdict::Warn;
                check.found = format!("{mesh}; this site is not among the founders");
                check.remedy = Some(
                    "unless it was admitted later, have its member line admitted: `godwit member admit`".to_owned(),
                );
            }
            check
        }
    }
}

/// Whether this user can write there, or where it will be made.
fn writable(name: &str, folder: &Path) -> Check {
    let Some(there) = folder.ancestors().find(|path| path.exists()) else {
        return Check::new(name, false, format!("{} has no parent", folder.display()), "set another `data_dir`");
    };
    let probe = tempfile::tempfile_in(there);
    let owner = std::fs::metadata(there).map_or(0, |metadata| metadata.uid());
    let remedy = format!("run as the owner of {} (user id {owner}), or set another `data_dir`", there.display());
    match probe {
        Ok(_) if there == folder => Check::new(name, true, folder.display().to_string(), ""),
        Ok(_) => Check::new(name, true, format!("{} will be made", folder.display()), ""),
        Err(error) => Check::new(name, false, format!("{}: {error}", there.display()), remedy),
    }
}

/// Whether the port is free. A site that runs holds it itself.
fn port(listen: &Multiaddr) -> Check {
    let name = format!("port {listen}");
    let parts: Vec<_> = listen.iter().collect();
    let ip = parts.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(*ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    let bound = match (ip, parts.as_slice()) {
        (Some(ip), [_, Protocol::Udp(port), ..]) => UdpSocket::bind(SocketAddr::new(ip, *port)).map(drop),
        (Some(ip), [_, Protocol::Tcp(port), ..]) => TcpListener::bind(SocketAddr::new(ip, *port)).map(drop),
        _ => Err(std::io::Error::other("not the address of an interface")),
    };
    let remedy = "stop what holds it (`ss -tulpn` shows it; a running godwit does), or set another `listen`";
    match bound {
        Ok(()) => Check::new(name, true, "free", ""),
        Err(error) => Check::new(name, false, error.to_string(), remedy),
    }
}

/// Validators whose clocks differ refuse each other's blocks.
pub async fn clock() -> Check {
    let name = "clock";
    let remedy = "start a time service, for example chrony or systemd-timesyncd";
    if let Some(text) = answer("chronyc", &["-n", "tracking"]).await {
        let disciplined =
            text.lines().any(|line| line.starts_with("Leap status") && line.trim_end().ends_with("Normal"));
        return Check::new(
            name,
            disciplined,
            if disciplined { "disciplined by chrony" } else { "chrony is not in step" },
            remedy,
        );
    }
    match answer("timedatectl", &["show", "--property=NTPSynchronized", "--value"]).await.as_deref().map(str::trim) {
        Some("yes") => Check::new(name, true, "synchronised", ""),
        Some(_) => Check::new(name, false, "not synchronised", remedy),
        None => Check {
            name: name.to_owned(),
            verdict: Verdict::Warn,
            found: "neither chronyc nor timedatectl answers, so nothing is known of it".to_owned(),
            remedy: Some(
                "make sure that something disciplines the clock, the host of a container or a virtual machine"
                    .to_owned(),
            ),
        },
    }
}

/// What a program prints, if it is there and succeeds.
async fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PROGRAM_WAIT, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_held_fails_and_a_free_one_passes() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", held.local_addr().unwrap().port()).parse().unwrap();
        let check = port(&address);
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.remedy.is_some_and(|remedy| remedy.contains("ss -tulpn")));
        assert_eq!(port(&"/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).verdict, Verdict::Pass);
    }

    #[test]
    fn a_folder_is_writable_or_will_be_made_or_neither() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(writable("data", folder.path()).verdict, Verdict::Pass);
        let below = writable("data", &folder.path().join("a/b"));
        assert!(below.verdict == Verdict::Pass && below.found.contains("will be made"), "{below:?}");
        assert_eq!(writable("data", Path::new("/proc/1/none")).verdict, Verdict::Fail);
    }
}
