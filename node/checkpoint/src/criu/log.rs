//! Why CRIU failed, in the lines of its log that say so.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Only errors are logged, so that the first ones are found in this much; a log that is longer repeats itself.
const LOG_MAX: u64 = 256 * 1024;

/// As many lines as say what failed; the rest are consequences.
const LINES: usize = 4;

/// Characters of one line: paths are long, and the reason goes to terminals and other sites.
const LINE_MAX: usize = 300;

/// Errors by CRIU's own word that are not why anything fails: it lacks CAP_SYS_RESOURCE, or /dev/net/tun, which it tries once
/// after a boot.
const HARMLESS: [&str; 2] = ["rlimit: Can't setup", "tun: Unable to create tun"];

/// The reason that the log in `file` gives, or else `answer`, CRIU's own summary, or else that there is none.
pub(super) fn reason(file: &Path, answer: Option<&str>) -> String {
    let log = read(file).unwrap_or_default();
    let lines = telling(&log);
    match (lines.is_empty(), answer) {
        (false, _) => lines,
        (true, Some(answer)) if !answer.trim().is_empty() => clean(answer),
        _ if file == Path::new("") => "it keeps no log of that".into(),
        _ => format!("its log {} says nothing", file.display()),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LOG_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first errors, without time stamps and places in CRIU's source.
fn telling(log: &str) -> String {
    let errors = log.lines().filter_map(|line| line.split_once("Error (")?.1.split_once("): "));
    let telling = |text: &&str| !text.is_empty() && !HARMLESS.iter().any(|start| text.starts_with(start));
    let mut texts: Vec<&str> = errors.map(|(_, text)| text.trim()).filter(telling).collect();
    texts.dedup();
    texts.truncate(LINES);
    texts.into_iter().map(clean).collect::<Vec<_>>().join("; ")
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LINE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_first_errors_of_the_log() {
        let log = "(00.000001) Version: 4.2\n(00.1) Error (criu/rlimit.c:1): rlimit: Can't setup RLIMIT_NOFILE for 7\n\
            (00.2) Error (criu/sk-inet.c:191): inet: Connected TCP socket\n\
            (00.2) Error (criu/sk-inet.c:191): inet: Connected TCP socket\n\
            (00.3) Error (criu/cr-dump.c:1): Dump files (pid: 7) failed with -1\n";
        assert_eq!(telling(log), "inet: Connected TCP socket; Dump files (pid: 7) failed with -1");
    }

    #[test]
    fn a_reason_is_bounded_and_has_no_control_characters() {
        let line = format!("(00.1) Error (a.c:1): \u{1b}[31m{}\n", "x".repeat(10_000));
        let log: String = (0..100).map(|n| line.replace("a.c", "b.c").replace("[31m", &format!("[{n}m"))).collect();
        let reason = telling(&log);
        assert!(reason.len() <= LINES * (LINE_MAX + 2));
        assert!(!reason.contains(char::is_control));
    }

    #[test]
    fn without_a_log_the_answer_counts() {
        let none = Path::new("/nowhere/dump.log");
        assert_eq!(reason(none, Some("no such process\n")), "no such process");
        assert_eq!(reason(none, None), "its log /nowhere/dump.log says nothing");
    }
}
