//! The method to compare with: docker checkpoint, tar, scp to the other site, create, start, by a script, on the same
//! workload over the same link.

use anyhow::{Context, Result, ensure};
use godwit_tests::wait::{LONG, until};
use godwit_tests::workload::{IMAGE, load_image};
use godwit_tests::{Mesh, Site};

use super::report::{Figures, Peer};

const METHOD: &str = "docker checkpoint + tar + scp + create + start";

/// The writable layer: CRIU restores only what finds its open files.
const UPPER: &str = "$(docker inspect -f '{{.GraphDriver.Data.UpperDir}}' peer)";

pub fn measure(mesh: &Mesh, mb: u64, runs: usize) -> Result<Peer> {
    eprintln!("bench: {METHOD}, {mb} MB, {runs} times");
    let (source, target) = (mesh.node(1).site(), mesh.node(2).site());
    load_image(source)?;
    load_image(target)?;
    let key = source.shell(
        "test -f ~/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519; cat ~/.ssh/id_ed25519.pub",
    )?;
    target.put(key.as_bytes(), "/root/.ssh/authorized_keys")?;
    target.shell("mkdir -p /run/sshd; pgrep -x sshd >/dev/null || /usr/sbin/sshd")?;
    let downtime = (0..runs).map(|_| once(source, target, mb)).collect::<Result<Vec<_>>>()?;
    Ok(Peer { method: METHOD, mb, downtime_ms: Figures::of(downtime) })
}

fn once(source: &Site, target: &Site, mb: u64) -> Result<f64> {
    let create = |verb: &str| format!("docker {verb} --name peer {IMAGE} --memory-mb {mb}");
    source.shell(&create("run -d"))?;
    until("the workload's first line", LONG, || {
        ensure!(source.shell("docker logs peer")?.contains("instance"), "it says nothing");
        Ok(())
    })?;
    source.shell(&format!(
        "docker checkpoint create --checkpoint-dir /tmp/peer peer cp >/dev/null
         tar -c -C /tmp/peer -f /tmp/peer.tar cp -C {UPPER} .
         scp -q -o StrictHostKeyChecking=accept-new /tmp/peer.tar {}:/tmp/peer.tar",
        target.address()
    ))?;
    target.shell(&format!(
        "id=$({})
         mkdir /tmp/peer
         tar -x -C /tmp/peer -f /tmp/peer.tar
         mv /tmp/peer/cp /var/lib/docker/containers/$id/checkpoints/
         cp -a /tmp/peer/. {UPPER}/
         docker start --checkpoint cp peer",
        create("create")
    ))?;
    let gap = until("the workload's own account", LONG, || gap(target))?;
    for site in [source, target] {
        site.shell("docker rm -f peer >/dev/null; rm -rf /tmp/peer /tmp/peer.tar")?;
    }
    Ok(gap)
}

/// The largest gap between two ticks that the workload knows of.
fn gap(site: &Site) -> Result<f64> {
    #[derive(serde::Deserialize)]
    struct Gaps {
        max_gap_ms: f64,
    }
    let said = site.shell(
        "pid=$(docker inspect -f '{{.State.Pid}}' peer); nsenter -t $pid -n -- curl -sf http://127.0.0.1:8080/gaps",
    )?;
    let gaps: Gaps = serde_json::from_str(&said).with_context(|| format!("/gaps answered {said}"))?;
    Ok(gaps.max_gap_ms)
}
