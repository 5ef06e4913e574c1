//! What decides whether a checkpoint can be restored on this machine.

use std::path::Path;
use std::time::Duration;

use godwit_protocol::bounded::{List, Text};
use godwit_protocol::capacity::Platform;
use tokio::process::Command;

/// Loading a program from a slow disk takes a moment; longer than this and it hangs.
const CRIU_DEADLINE: Duration = Duration::from_secs(10);

/// This machine. `criu` is the program; where it is absent or fails, the version is 0: the site takes stateless containers.
pub async fn platform(criu: &Path) -> Platform {
    let uname = nix::sys::utsname::uname().ok();
    let said = |value: Option<&std::ffi::OsStr>| value.and_then(|text| text.to_str()).unwrap_or_default().to_owned();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Platform {
        architecture: Text::clipped(&said(uname.as_ref().map(|uname| uname.machine()))),
        cpu_features: List::first(cpu_features(&info).into_iter().map(|flag| Text::clipped(&flag))),
        kernel: kernel(&said(uname.as_ref().map(|uname| uname.release()))),
        criu: criu_version(criu).await.unwrap_or(0),
    }
}

/// The flags that all processors have, sorted: `flags` on x86, `Features` on ARM.
fn cpu_features(info: &str) -> Vec<String> {
    let lists = info.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| {
        let key = key.trim();
        key == "flags" || key == "Features"
    });
    let mut common: Option<std::collections::BTreeSet<&str>> = None;
    for (_, flags) in lists {
        let flags = flags.split_whitespace().collect();
        common = Some(match common {
            None => flags,
            Some(before) => before.intersection(&flags).copied().collect(),
        });
    }
    common.into_iter().flatten().map(str::to_owned).collect()
}

/// Major and minor of a kernel release like `6.18.44-generic`; zeros for what is none.
fn kernel(release: &str) -> (u16, u16) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The version that the program says of itself, as major * 10,000 + minor * 100 + patch.
pub async fn criu_version(criu: &Path) -> Option<u32> {
    let run = Command::new(criu).arg("--version").kill_on_drop(true).output();
    let output = tokio::time::timeout(CRIU_DEADLINE, run).await.ok()?.ok()?;
    parse_criu(std::str::from_utf8(&output.stdout).ok()?)
}

fn parse_criu(said: &str) -> Option<u32> {
    let version = said.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().ok().filter(|&n| n < 100));
    let (major, minor) = (parts.next()??, parts.next()??);
    Some(major * 10_000 + minor * 100 + parts.next().flatten().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_those_that_all_processors_have() {
        let info = "processor: 0\nflags\t\t: fpu sse avx2\nbugs\t: x\nprocessor: 1\nflags\t\t: sse fpu\n";
        assert_eq!(cpu_features(info), ["fpu", "sse"]);
        assert_eq!(cpu_features("Features\t: fp asimd"), ["asimd", "fp"]);
        assert!(cpu_features("").is_empty());
    }

    #[test]
    fn versions_are_read_from_what_programs_say() {
        assert_eq!(kernel("6.18.44-generic"), (6, 18));
        assert_eq!(kernel("7.0"), (7, 0));
        assert_eq!(kernel("strange"), (0, 0));
        assert_eq!(parse_criu("Version: 4.2.1\nGitID: v4.2.1\n"), Some(40_201));
        assert_eq!(parse_criu("Version: 4.2\n"), Some(40_200));
        assert_eq!(parse_criu("Version: 4.2-rc1\n"), Some(40_200));
        assert_eq!(parse_criu("command not found"), None);
    }

    #[tokio::test]
    async fn a_machine_without_criu_says_zero() {
        let platform = platform(Path::new("/nonexistent/criu")).await;
        assert_eq!(platform.criu, 0);
        assert!(!platform.architecture.as_str().is_empty() && platform.kernel.0 > 2, "{platform:?}");
    }
}
