//! The program as its users see it: over loopback, by its own client, through a crash and a signal.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

const WORKLOAD: &str = env!("CARGO_BIN_EXE_workload");

/// A running workload; killed when dropped.
struct Running {
    child: Child,
    log: BufReader<ChildStdout>,
    instance: String,
    port: u16,
}

impl Running {
    fn start(file: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(WORKLOAD);
        command.args(["--port", "0", "--file"]).arg(file).args(more).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let ["instance", instance, "http", port, "lines", _] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("first line {line:?}");
        };
        Self { child, log, instance: instance.into(), port: port.parse().unwrap() }
    }

    fn ask(&self, path: &str, method: &str) -> String {
        let output = run(&["http", &format!("127.0.0.1:{}", self.port), path, "--method", method]);
        assert!(output.status.success(), "{path}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn signal(&self, name: &str) {
        signal(name, &self.child);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(name: &str, child: &Child) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn run(arguments: &[&str]) -> Output {
    Command::new(WORKLOAD).args(arguments).output().unwrap()
}

/// A file in a directory of its own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("godwit-workload-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "{part} is not in {text}"));
}

#[test]
fn acknowledged_values_survive_a_crash_and_the_journal_tells_of_it() {
    let scratch = Scratch::new("crash");
    let first = Running::start(&scratch.journal(), &[]);
    assert_contains(&first.ask("/acknowledge?n=17", "POST"), &[r#""acknowledged":17,"count":1"#]);
    assert_contains(&first.ask("/acknowledge?n=4", "POST"), &[r#""count":2"#]);
    let before = first.instance.clone();
    drop(first);

    // A line torn by the crash.
    std::fs::OpenOptions::new().append(true).open(scratch.journal()).unwrap().write_all(b"99 ti").unwrap();
    let second = Running::start(&scratch.journal(), &["--fsync"]);
    assert_ne!(second.instance, before);
    assert_contains(&second.ask("/acknowledged", "GET"), &[r#"{"count":2,"values":[17,4]}"#]);
    let journal = second.ask("/journal", "GET");
    assert_contains(&journal, &[r#""unbroken":true"#, r#""starts":2"#, r#""acknowledged_match":true"#]);
}

#[test]
fn a_changed_or_exchanged_journal_is_noticed() {
    let scratch = Scratch::new("changed");
    let workload = Running::start(&scratch.journal(), &[]);
    workload.ask("/acknowledge?n=17", "POST");
    let right = std::fs::read_to_string(scratch.journal()).unwrap();

    let other = scratch.0.join("other");
    std::fs::write(&other, &right).unwrap();
    std::fs::rename(&other, scratch.journal()).unwrap();
    assert_contains(&workload.ask("/journal", "GET"), &[r#""same_file":false"#]);
    std::fs::write(scratch.journal(), right.replace(" acknowledge 17 ", " acknowledge 18 ")).unwrap();
    assert_contains(&workload.ask("/journal", "GET"), &[r#""unbroken":false"#, r#""acknowledged_match":false"#]);
    drop(workload);

    let refused = run(&["--port", "0", "--file", scratch.journal().to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert_contains(&String::from_utf8_lossy(&refused.stderr), &["BadChecksum"]);
}

#[test]
fn dirtied_memory_verifies_while_several_threads_rewrite_it() {
    let scratch = Scratch::new("memory");
    let workload =
        Running::start(&scratch.journal(), &["--memory-mb", "3", "--dirty-mb-per-s", "200", "--threads", "3"]);
    assert_contains(&workload.ask("/", "GET"), &[&workload.instance, r#""memory_mb":3"#, r#""wrong_pages":null"#]);
    // Rewritten at least five times, however slowly that goes.
    while generation(&workload.ask("/verify", "GET")) < 5 {}
    assert_contains(&workload.ask("/verify", "GET"), &[r#""pages":768"#, r#""wrong_pages":0"#]);
    assert_contains(&workload.ask("/", "GET"), &[r#""wrong_pages":0"#]);
}

fn generation(json: &str) -> u64 {
    let (_, rest) = json.split_once(r#""generation":"#).unwrap();
    rest.trim_end_matches(['}', '\n']).parse().unwrap()
}

#[test]
fn the_log_counts_and_a_signal_ends_the_process_well() {
    let scratch = Scratch::new("signal");
    let mut workload = Running::start(&scratch.journal(), &[]);
    for expected in ["tick 1\n", "tick 2\n"] {
        let mut line = String::new();
        workload.log.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    }
    workload.signal("-TERM");
    assert_eq!(workload.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_stopped_process_shows_as_a_gap_inside_and_as_a_stall_outside() {
    let scratch = Scratch::new("stall");
    let workload = Running::start(&scratch.journal(), &[]);
    let probe = start_probe(&workload, &[]);
    workload.ask("/reset", "POST");
    workload.signal("-STOP");
    std::thread::sleep(std::time::Duration::from_millis(700));
    workload.signal("-CONT");
    // The probe has seen the end of the stall when the workload has served again.
    let gaps = workload.ask("/gaps", "GET");
    signal("-TERM", &probe);
    let output = probe.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert_contains(&text, &["sequence unbroken", "connection kept"]);
    // Lower bounds only: for this long the process did stand still, less one tick or line before it.
    assert!(number_after(&text, "max stall ") >= 680.0, "{text}");
    assert!(number_after(&gaps, r#""max_gap_ms":"#) >= 680.0, "{gaps}");
}

/// A probe that has its connection.
fn start_probe(workload: &Running, more: &[&str]) -> Child {
    let lines = format!("127.0.0.1:{}", workload.port + 1);
    let mut command = Command::new(WORKLOAD);
    command.args(["probe", &lines, "--seconds", "0"]).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut probe = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(probe.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("probe: connected to {lines}\n"));
    probe
}

fn number_after(text: &str, label: &str) -> f64 {
    let (_, rest) = text.split_once(label).unwrap();
    rest.split([' ', ',', '}']).next().unwrap().parse().unwrap()
}

#[test]
fn a_probe_reports_a_connection_that_breaks() {
    let scratch = Scratch::new("broken");
    let workload = Running::start(&scratch.journal(), &[]);
    let lines = format!("127.0.0.1:{}", workload.port + 1);
    let probe = start_probe(&workload, &["--json"]);
    drop(workload);
    let output = probe.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_contains(&String::from_utf8(output.stdout).unwrap(), &[r#""connection_broken":true"#]);
    assert_eq!(run(&["probe", &lines]).status.code(), Some(2), "nobody listens any more");
}

#[test]
fn a_kept_connection_answers_requests_in_order_and_refuses_by_status() {
    let scratch = Scratch::new("http");
    let workload = Running::start(&scratch.journal(), &[]);
    let mut connection = TcpStream::connect(("127.0.0.1", workload.port)).unwrap();
    let requests = [
        ("POST /acknowledge?n=1", "200"),
        ("POST /acknowledge?n=-1", "400"),
        ("GET /acknowledge?n=2", "405"),
        ("GET /nowhere", "404"),
        ("GET /acknowledged", "200"),
    ];
    // All at once: the server must not lose what came along with the first one.
    let all: String = requests.iter().map(|(line, _)| format!("{line} HTTP/1.1\r\nHost: w\r\n\r\n")).collect();
    connection.write_all(all.as_bytes()).unwrap();
    connection.write_all(b"nonsense\r\n\r\n").unwrap();
    let mut answers = String::new();
    connection.read_to_string(&mut answers).unwrap();
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    let expected: Vec<&str> = requests.iter().map(|(_, status)| *status).chain(["400"]).collect();
    assert_eq!(statuses, expected);
    assert_contains(&answers, &[r#"{"count":1,"values":[1]}"#]);
}
