//! What this machine can do at most, measured in the same run: disk, loopback, signatures.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ed25519_dalek::{Signer, SigningKey};
use serde::Serialize;

use crate::report::Figures;

const SYNCS: usize = 200;
const WRITTEN_MB: u64 = 256;
const ROUND_TRIPS: usize = 5_000;
const VERIFYING: Duration = Duration::from_secs(1);
/// As large as the records of the load.
const RECORD: usize = 1024;

/// Beside what the ledger does with it.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    /// Appending 1 KB to a file and bringing it to disk.
    pub fsync_ms: Figures,
    /// Writing one large file, until it is on disk.
    pub sequential_write_mb_s: f64,
    /// One byte to another thread and back over TCP.
    pub loopback_round_trip_us: Figures,
    /// Strict verification of a signature over 1 KB, in one thread of nothing else.
    pub signatures_per_s: f64,
}

impl Limits {
    /// For whoever waits.
    pub fn line(&self) -> String {
        format!(
            "fsync {:.2} ms, {:.0} MB/s, loopback {:.0} us, {:.0} signatures/s",
            self.fsync_ms.p50, self.sequential_write_mb_s, self.loopback_round_trip_us.p50, self.signatures_per_s
        )
    }
}

/// The disk is the one that `folder` is on.
pub fn measure(folder: &Path) -> Result<Limits> {
    eprintln!("bench: disk, loopback, signatures");
    Ok(Limits {
        fsync_ms: fsync(&folder.join("synced"))?,
        sequential_write_mb_s: sequential(&folder.join("written"))?,
        loopback_round_trip_us: round_trip()?,
        signatures_per_s: signatures(),
    })
}

fn fsync(path: &Path) -> Result<Figures> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).context("make a file to sync")?;
    let mut spans = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[7; RECORD]).and_then(|()| file.sync_data()).context("sync a file")?;
        spans.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(path).context("remove a file")?;
    Ok(Figures::of(spans))
}

fn sequential(path: &Path) -> Result<f64> {
    let begun = Instant::now();
    let mut file = File::create(path).context("make a large file")?;
    let some = vec![7; 1 << 20];
    for _ in 0..WRITTEN_MB {
        file.write_all(&some).context("write a large file")?;
    }
    file.sync_all().context("sync a large file")?;
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_file(path).context("remove a file")?;
    #[allow(clippy::cast_precision_loss)] // some hundred
    Ok(WRITTEN_MB as f64 / seconds)
}

fn round_trip() -> Result<Figures> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen on loopback")?;
    let address = listener.local_addr().context("own address")?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        for _ in 0..ROUND_TRIPS {
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address).context("connect over loopback")?;
    stream.set_nodelay(true).context("without delay")?;
    let mut spans = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let begun = Instant::now();
        stream.write_all(&[1]).and_then(|()| stream.read_exact(&mut [0])).context("there and back")?;
        spans.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    echo.join().map_err(|_| anyhow!("the echo panicked"))?.context("echo")?;
    Ok(Figures::of(spans))
}

fn signatures() -> f64 {
    let key = SigningKey::from_bytes(&[1; 32]);
    let (public, bytes) = (key.verifying_key(), [7; RECORD]);
    let signature = key.sign(&bytes);
    let (begun, mut count) = (Instant::now(), 0.0);
    while begun.elapsed() < VERIFYING {
        assert!(black_box(&public).verify_strict(black_box(&bytes), black_box(&signature)).is_ok());
        count += 1.0;
    }
    count / begun.elapsed().as_secs_f64()
}
