//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

pub const USAGE: &str = "\
workload [--memory-mb N] [--dirty-mb-per-s N] [--threads T] [--port 8080] [--file /data/journal] [--fsync]
workload probe ADDR:PORT [--seconds N] [--json]     keeps one connection to the line service; SIGTERM ends it early (N = 0: only that)
workload http ADDR:PORT PATH [--method GET] [--seconds N]     prints the body; N is the longest silence borne
MB are MiB. ADDR is a number, not a name.";

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Serve(Serve),
    Probe { address: SocketAddr, length: Option<Duration>, json: bool },
    Http { address: SocketAddr, target: String, method: String, timeout: Duration },
    Help,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Serve {
    pub memory_mb: u64,
    /// Of all threads together.
    pub dirty_mb_per_s: u64,
    pub threads: usize,
    pub port: u16,
    pub file: PathBuf,
    pub fsync: bool,
}

impl Default for Serve {
    fn default() -> Self {
        let file = PathBuf::from("/data/journal");
        Self { memory_mb: 1, dirty_mb_per_s: 0, threads: 1, port: 8080, file, fsync: false }
    }
}

/// # Errors
/// When an argument is unknown, missing or out of bounds.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<Command> {
    let mut arguments = arguments.into_iter().peekable();
    match arguments.peek().map(String::as_str) {
        Some("probe") => parse_probe(arguments.skip(1)),
        Some("http") => parse_http(arguments.skip(1)),
        Some("--help" | "-h" | "help") => Ok(Command::Help),
        _ => parse_serve(arguments),
    }
}

fn parse_serve(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Command> {
    let mut serve = Serve::default();
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--memory-mb" => serve.memory_mb = value(&name, &mut arguments)?,
            "--dirty-mb-per-s" => serve.dirty_mb_per_s = value(&name, &mut arguments)?,
            "--threads" => serve.threads = value(&name, &mut arguments)?,
            "--port" => serve.port = value(&name, &mut arguments)?,
            "--file" => serve.file = value(&name, &mut arguments)?,
            "--fsync" => serve.fsync = true,
            _ => bail!("unknown argument {name}"),
        }
    }
    // A TiB is more than any site has; the products below stay far from overflow.
    ensure!(serve.memory_mb <= 1 << 20, "--memory-mb is above 1048576");
    ensure!(serve.dirty_mb_per_s <= 1 << 20, "--dirty-mb-per-s is above 1048576");
    ensure!((1..=256).contains(&serve.threads), "--threads is not within 1..=256");
    ensure!(serve.port < u16::MAX, "--port leaves no room for the port after it");
    Ok(Command::Serve(serve))
}

fn parse_probe(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Command> {
    let address = value("probe", &mut arguments)?;
    let (mut seconds, mut json) = (10, false);
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--seconds" => seconds = value(&name, &mut arguments)?,
            "--json" => json = true,
            _ => bail!("unknown argument {name}"),
        }
    }
    Ok(Command::Probe { address, length: (seconds > 0).then(|| Duration::from_secs(seconds)), json })
}

fn parse_http(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Command> {
    let address = value("http", &mut arguments)?;
    let target: String = value("http ADDR:PORT", &mut arguments)?;
    let (mut method, mut seconds) = ("GET".to_owned(), 30);
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--method" => method = value(&name, &mut arguments)?,
            "--seconds" => seconds = value(&name, &mut arguments)?,
            _ => bail!("unknown argument {name}"),
        }
    }
    ensure!(target.starts_with('/') && !target.contains(|c: char| c <= ' '), "{target:?} is not a path");
    ensure!(!method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase()), "{method:?} is not a method");
    ensure!(seconds > 0, "--seconds is 0");
    Ok(Command::Http { address, target, method, timeout: Duration::from_secs(seconds) })
}

fn value<T: FromStr>(name: &str, arguments: &mut impl Iterator<Item = String>) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = arguments.next().with_context(|| format!("{name} lacks its value"))?;
    text.parse().with_context(|| format!("{name} {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> anyhow::Result<Command> {
        parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn defaults_and_all_arguments() {
        assert_eq!(parse_line("").unwrap(), Command::Serve(Serve::default()));
        let line = "--memory-mb 64 --dirty-mb-per-s 5 --threads 3 --port 9000 --file /tmp/j --fsync";
        let expected =
            Serve { memory_mb: 64, dirty_mb_per_s: 5, threads: 3, port: 9000, file: "/tmp/j".into(), fsync: true };
        assert_eq!(parse_line(line).unwrap(), Command::Serve(expected));
        let address = "10.0.0.2:8081".parse().unwrap();
        assert_eq!(
            parse_line("probe 10.0.0.2:8081 --seconds 0 --json").unwrap(),
            Command::Probe { address, length: None, json: true }
        );
        assert_eq!(
            parse_line("http 10.0.0.2:8081 /acknowledge?n=3 --method POST").unwrap(),
            Command::Http {
                address,
                target: "/acknowledge?n=3".into(),
                method: "POST".into(),
                timeout: Duration::from_secs(30)
            }
        );
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for line in [
            "--memory-mb",
            "--memory-mb -1",
            "--memory-mb 1048577",
            "--threads 0",
            "--port 65535",
            "--colour",
            "probe",
            "probe localhost:1",
            "probe 10.0.0.2:1 2",
            "http 10.0.0.2:1",
            "http 10.0.0.2:1 gaps",
            "http 10.0.0.2:1 / --method G\u{e9}T",
            "http 10.0.0.2:1 / --seconds 0",
        ] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }
}
