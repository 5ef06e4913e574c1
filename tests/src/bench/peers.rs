//! The method to compare with: docker checkpoint, tar, copy to the other site, create, start, by a script, on the same
//! workload over the same link. The copy goes over bare TCP: scp's encryption would only make it slower.

use anyhow::{Context, Result, ensure};
use godwit_tests::wait::{LONG, until};
use godwit_tests::workload::{IMAGE, load_image};
use godwit_tests::{Mesh, Site};

use super::report::{Figures, Peer};

const PORT: u16 = 7777;

/// Copies standard input to the peer, or what comes from it to standard output: the sites have perl, and no netcat.
const SEND: &str = "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(\"$ARGV[0]:$ARGV[1]\") or die $!; print $s $_ while sysread STDIN, $_, 1 << 20'";
const RECEIVE: &str = "perl -MIO::Socket::INET -e '$l = IO::Socket::INET->new(Listen => 1, ReuseAddr => 1, LocalPort => $ARGV[0]) or die $!; print STDERR \"listening\\n\"; $s = $l->accept; print $_ while sysread $s, $_, 1 << 20'";

/// The writable layer: CRIU restores only what finds its open files.
const UPPER: &str = "$(docker inspect -f '{{.GraphDriver.Data.UpperDir}}' peer)";

pub fn measure(mesh: &Mesh, mb: u64, runs: usize) -> Result<Peer> {
    eprintln!("bench: docker checkpoint + tar + copy + create + start, {mb} MB, {runs} times");
    let (source, target) = (mesh.node(1).site(), mesh.node(2).site());
    load_image(source)?;
    load_image(target)?;
    let downtime = (0..runs).map(|_| once(source, target, mb)).collect::<Result<Vec<_>>>()?;
    Ok(Peer { method: "docker checkpoint + tar + copy + create + start", mb, downtime_ms: Figures::of(downtime) })
}

fn once(source: &Site, target: &Site, mb: u64) -> Result<f64> {
    let create = |verb: &str| format!("docker {verb} --name peer --network none {IMAGE} --memory-mb {mb}");
    source.shell(&create("run -d"))?;
    until("the workload's first line", LONG, || {
        ensure!(source.shell("docker logs peer")?.contains("instance"), "it says nothing");
        Ok(())
    })?;
    let mut receiver = target.command("sh");
    receiver.args(["-euc", &format!("mkdir -p /tmp/peer; {RECEIVE} {PORT} | tar -x -C /tmp/peer")]);
    let mut receiver = receiver.stderr(std::process::Stdio::piped()).spawn().context("start the receiver")?;
    let mut line = String::new();
    let stderr = receiver.stderr.take().context("no stderr")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut line).context("read from the receiver")?;
    ensure!(line.contains("listening"), "the receiver says {line}");

    source.shell(&format!(
        "docker checkpoint create --checkpoint-dir /tmp/peer peer cp >/dev/null
         tar -c -C /tmp/peer cp -C {UPPER} . | {SEND} {} {PORT}",
        target.address()
    ))?;
    ensure!(receiver.wait().context("wait for the receiver")?.success(), "the receiver failed");
    target.shell(&format!(
        "id=$({})
         mv /tmp/peer/cp /var/lib/docker/containers/$id/checkpoints/
         cp -a /tmp/peer/. {UPPER}/
         docker start --checkpoint cp peer",
        create("create")
    ))?;
    let gap = until("the workload's own account", LONG, || gap(target))?;
    for site in [source, target] {
        site.shell("docker rm -f peer >/dev/null; rm -rf /tmp/peer")?;
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
