//! Both ends of a move between two containers of one engine, by hand:
//!
//! ```sh
//! move target HANDOFF           # listens for the runtime, restores what `source` leaves in HANDOFF
//! move source PID BUNDLE HANDOFF
//! move cancel HANDOFF           # listens, and calls it off
//! ```

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_checkpoint::criu::{Criu, Dump};
use godwit_oci::SOCKET;
use godwit_oci::external::Seen;
use godwit_oci::link::{Images, Link, Order, Said};
use oci_spec::runtime::Spec;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["target", handoff] => target(Path::new(handoff)),
        ["source", pid, bundle, handoff] => source(pid.parse()?, Path::new(bundle), Path::new(handoff)),
        ["cancel", handoff] => cancel(Path::new(handoff)),
        _ => bail!("move target HANDOFF | move source PID BUNDLE HANDOFF | move cancel HANDOFF"),
    }
}

fn folders(handoff: &Path) -> Result<(PathBuf, PathBuf)> {
    let (images, work) = (handoff.join("images"), handoff.join("work"));
    fs::create_dir_all(&images)?;
    fs::create_dir_all(&work)?;
    Ok((images, work))
}

fn cancel(handoff: &Path) -> Result<()> {
    let mut runtime = answer(handoff)?;
    println!("{:?}", runtime.hear::<Said>(None)?);
    runtime.say(&Order::Cancel)?;
    println!("{:?}", runtime.hear::<Said>(None)?);
    Ok(())
}

fn answer(handoff: &Path) -> Result<Link> {
    let path = handoff.join(SOCKET);
    Ok(Link::new(UnixListener::bind(&path)?.accept()?.0, &path))
}

fn target(handoff: &Path) -> Result<()> {
    let (folder, work) = folders(handoff)?;
    let mut runtime = answer(handoff)?;
    println!("{:?}", runtime.hear::<Said>(None)?);
    let stdio = handoff.join("stdio");
    while !stdio.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    runtime.say(&Order::Expect { stdio: serde_json::from_slice(&fs::read(stdio)?)? })?;
    println!("{:?}", runtime.hear::<Said>(None)?);
    fs::write(handoff.join("ready"), "")?;
    while !handoff.join("frozen").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let began = Instant::now();
    runtime.say(&Order::Restore(Images { folder, work, lazy: false }))?;
    let said = runtime.hear::<Said>(None)?;
    println!("{said:?} after {:?}", began.elapsed());
    ensure!(matches!(said, Said::Held { .. }), "not held");
    runtime.say(&Order::Release)?;
    println!("{:?} after {:?}", runtime.hear::<Said>(None)?, began.elapsed());
    Ok(())
}

fn source(pid: u32, bundle: &Path, handoff: &Path) -> Result<()> {
    let (images, work) = folders(handoff)?;
    let spec = Spec::load(bundle.join("config.json"))?;
    let here = i32::try_from(pid)?;
    let fd = |n: u32| fs::read_link(format!("/proc/{pid}/fd/{n}")).map(|path| path.display().to_string());
    fs::write(handoff.join("stdio.new"), serde_json::to_vec(&[fd(0)?, fd(1)?, fd(2)?])?)?;
    fs::rename(handoff.join("stdio.new"), handoff.join("stdio"))?;
    while !handoff.join("ready").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let left_out = Seen::by(here)?.left_out(&spec).into_iter().map(|(path, key)| format!("mnt[{path}]:{key}"));
    let external = left_out.collect();
    let dump = Dump { pid, images, work, lazy: false, external, ghost_limit: 1 << 20 };
    let worker = Criu::at("criu").in_network(format!("/proc/{pid}/ns/net")).worker(Vec::new())?;
    let began = Instant::now();
    let held = worker.dump(&dump, began + Duration::from_secs(10)).context("dump")?;
    println!("held after {:?}", began.elapsed());
    held.commit(Instant::now() + Duration::from_secs(10))?;
    println!("ended after {:?}", began.elapsed());
    fs::write(handoff.join("frozen"), "")?;
    Ok(())
}
