//! A cgroup's limits and use, version 1 (one folder per controller) or 2 (one folder).

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use godwit_protocol::{Bytes, MilliCpu};
use procfs::process::Process;

use super::{Error, Reading};

/// Where its figures are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cgroup {
    V1 { memory: PathBuf, cpu: PathBuf, cpuacct: PathBuf },
    V2(PathBuf),
}

impl Cgroup {
    /// The root of this process's cgroup namespace, as it is mounted; `None` where cgroups are not mounted in full.
    pub(super) fn of_namespace() -> Result<Option<Self>, Error> {
        let mounts = Process::myself()
            .and_then(|me| me.mountinfo())
            .map_err(|source| Error::Procfs { what: "/proc/self/mountinfo", source })?;
        let v1 = |controller: &str| {
            let mut all = mounts.iter().filter(|m| m.fs_type == "cgroup" && m.super_options.contains_key(controller));
            all.next().map(|mount| mount.mount_point.clone())
        };
        if let (Some(memory), Some(cpu), Some(cpuacct)) = (v1("memory"), v1("cpu"), v1("cpuacct")) {
            return Ok(Some(Self::V1 { memory, cpu, cpuacct }));
        }
        let v2 = mounts.iter().find(|mount| mount.fs_type == "cgroup2").map(|mount| mount.mount_point.clone());
        // The real root has no figures of its own; on a hybrid machine the controllers are elsewhere.
        Ok(v2.filter(|folder| folder.join("memory.current").exists()).map(Self::V2))
    }

    /// The cgroup of these folders.
    pub(super) fn at(folders: &[PathBuf]) -> Result<Self, Error> {
        let with = |file: &'static str| {
            folders.iter().find(|folder| folder.join(file).exists()).cloned().ok_or(Error::Missing(file))
        };
        if let Ok(folder) = with("memory.current") {
            return Ok(Self::V2(folder));
        }
        Ok(Self::V1 {
            memory: with("memory.usage_in_bytes")?,
            cpu: with("cpu.cfs_quota_us")?,
            cpuacct: with("cpuacct.usage")?,
        })
    }

    /// Whether its memory or its processor time has a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.memory_limit().is_ok_and(|limit| limit.is_some()) || self.cpu_limit().is_ok_and(|limit| limit.is_some())
    }

    /// Limits, where there are some, and use; `host` fills in for absent limits.
    pub(super) fn read(&self, host: &Reading) -> Result<Reading, Error> {
        Ok(Reading {
            cpu_total: self.cpu_limit()?.map_or(host.cpu_total, |limit| limit.min(host.cpu_total)),
            cpu_time: self.cpu_time()?,
            memory_total: self.memory_limit()?.map_or(host.memory_total, |limit| limit.min(host.memory_total)),
            memory_used: self.memory_used()?,
        })
    }

    fn memory_limit(&self) -> Result<Option<Bytes>, Error> {
        match self {
            // Includes the limits of the cgroups above.
            Self::V1 { memory, .. } => {
                let limit: u64 = entry(&memory.join("memory.stat"), "hierarchical_memory_limit")?;
                // "No limit" is the largest count of pages, in bytes.
                Ok((limit < 1 << 62).then_some(Bytes(limit)))
            }
            Self::V2(folder) => {
                let path = folder.join("memory.max");
                let said = read(&path)?;
                if said.trim() == "max" { Ok(None) } else { figure(&path, said.trim()).map(|limit| Some(Bytes(limit))) }
            }
        }
    }

    fn memory_used(&self) -> Result<Bytes, Error> {
        let (folder, usage, cache) = match self {
            Self::V1 { memory, .. } => (memory, "memory.usage_in_bytes", "total_inactive_file"),
            Self::V2(folder) => (folder, "memory.current", "inactive_file"),
        };
        let usage: u64 = whole(&folder.join(usage))?;
        let stat = folder.join("memory.stat");
        // The kernel drops the file pages it has not seen used lately first, and most of the others when it must. Counting
        // only the former is what schedulers call the working set.
        Ok(Bytes(usage.saturating_sub(entry(&stat, cache)?)))
    }

    fn cpu_limit(&self) -> Result<Option<MilliCpu>, Error> {
        let (quota, period) = match self {
            Self::V1 { cpu, .. } => (read(&cpu.join("cpu.cfs_quota_us"))?, read(&cpu.join("cpu.cfs_period_us"))?),
            Self::V2(folder) => {
                let said = read(&folder.join("cpu.max"))?;
                let (quota, period) = said.trim().split_once(' ').unwrap_or((said.trim(), "100000"));
                (quota.to_owned(), period.to_owned())
            }
        };
        let (quota, period) = (quota.trim().parse::<u64>(), period.trim().parse::<u64>());
        // "max" and -1 are no limit.
        let (Ok(quota), Ok(period @ 1..)) = (quota, period) else {
            return Ok(None);
        };
        Ok(Some(MilliCpu(u32::try_from(quota.saturating_mul(1000) / period).unwrap_or(u32::MAX))))
    }

    fn cpu_time(&self) -> Result<Duration, Error> {
        match self {
            Self::V1 { cpuacct, .. } => whole(&cpuacct.join("cpuacct.usage")).map(Duration::from_nanos),
            Self::V2(folder) => entry(&folder.join("cpu.stat"), "usage_usec").map(Duration::from_micros),
        }
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Cgroup { path: path.to_owned(), source })
}

fn figure<T: FromStr>(path: &Path, said: &str) -> Result<T, Error> {
    said.parse().map_err(|_| Error::Figure { path: path.to_owned(), said: said.chars().take(80).collect() })
}

fn whole(path: &Path) -> Result<u64, Error> {
    figure(path, read(path)?.trim())
}

/// The value of `key` in a file of `key value` lines.
fn entry(path: &Path, key: &str) -> Result<u64, Error> {
    let text = read(path)?;
    let value = text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key);
    let missing = || Error::Cgroup { path: path.to_owned(), source: io::Error::other(format!("no `{key}` in it")) };
    figure(path, value.ok_or_else(missing)?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const HOST: Reading = Reading {
        cpu_total: MilliCpu(8000),
        cpu_time: Duration::from_secs(1000),
        memory_total: Bytes(64 << 30),
        memory_used: Bytes(10 << 30),
    };

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn v1(limit: &str, quota: &str) -> tempfile::TempDir {
        folder(&[
            ("memory.usage_in_bytes", "1000000\n"),
            ("memory.stat", &format!("cache 5\nhierarchical_memory_limit {limit}\ntotal_inactive_file 300000\n")),
            ("cpu.cfs_quota_us", quota),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpuacct.usage", "1500000000\n"),
        ])
    }

    fn v2(limit: &str, quota: &str) -> tempfile::TempDir {
        folder(&[
            ("memory.current", "1000000\n"),
            ("memory.max", limit),
            ("memory.stat", "anon 7\ninactive_file 300000\n"),
            ("cpu.max", quota),
            ("cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
        ])
    }

    #[test]
    fn both_versions_tell_the_same() {
        for folder in [v1("2000000", "150000\n"), v2("2000000\n", "150000 100000\n")] {
            let cgroup = Cgroup::at(&[folder.path().to_owned()]).unwrap();
            assert!(cgroup.is_limited());
            let expected = Reading {
                cpu_total: MilliCpu(1500),
                cpu_time: Duration::from_millis(1500),
                memory_total: Bytes(2_000_000),
                memory_used: Bytes(700_000),
            };
            assert_eq!(cgroup.read(&HOST).unwrap(), expected, "{cgroup:?}");
        }
    }

    #[test]
    fn without_limits_there_is_what_the_machine_has() {
        for folder in [v1("9223372036854771712", "-1\n"), v2("max\n", "max 100000\n")] {
            let cgroup = Cgroup::at(&[folder.path().to_owned()]).unwrap();
            assert!(!cgroup.is_limited(), "{cgroup:?}");
            let reading = cgroup.read(&HOST).unwrap();
            assert_eq!((reading.cpu_total, reading.memory_total), (HOST.cpu_total, HOST.memory_total));
            assert_eq!(reading.memory_used, Bytes(700_000));
        }
    }

    #[test]
    fn a_folder_that_is_no_cgroup_is_refused_by_name() {
        let empty = folder(&[]);
        assert!(matches!(Cgroup::at(&[empty.path().to_owned()]), Err(Error::Missing(_))));
        let odd = v2("much\n", "max 100000\n");
        let cgroup = Cgroup::at(&[odd.path().to_owned()]).unwrap();
        assert!(matches!(cgroup.read(&HOST), Err(Error::Figure { said, .. }) if said == "much"));
    }
}
