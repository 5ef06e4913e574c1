//! What of a container CRIU neither captures nor makes, since runc has made it already: bind mounts, cgroups, and file
//! systems in memory that are empty or hold only what runc has put there, devices and links.
//!
//! CRIU spends some 3 ms on each file system in memory that it captures, and again on each that it restores. So the source
//! names them by a key, and the target gives for each key what it has prepared. Both sides derive the keys here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use procfs::process::{MountInfo, Process};

/// What CRIU is told about one mount: at the source (mount point, key), at the target (key, path).
pub type Pair = (String, String);

/// The key of a mount point.
#[must_use]
pub fn key(mount_point: &Path) -> String {
    format!("godwit{}", mount_point.display())
}

/// The container cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[error("process {pid} of the container")]
pub struct Unseen {
    /// As this host numbers it.
    pub pid: i32,
    #[source]
    cause: procfs::ProcError,
}

/// A file system in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where, in the container.
    pub mount_point: PathBuf,
    /// It is read only, as a whole.
    pub read_only: bool,
    /// What it was mounted with, such as `size=65536k,mode=755`.
    pub data: String,
}

/// The mounts of a container as a process in it sees them.
#[derive(Clone, Debug)]
pub struct Seen {
    pid: i32,
    mounts: Vec<MountInfo>,
    /// By controller, or the empty name for version 2.
    cgroups: BTreeMap<String, String>,
}

impl Seen {
    /// By any process of the container.
    ///
    /// # Errors
    /// [`Unseen`] if it is gone.
    pub fn by(pid: i32) -> Result<Self, Unseen> {
        let see = || {
            let process = Process::new(pid)?;
            Ok((process.mountinfo()?.0, process.cgroups()?.0))
        };
        let (mounts, groups) = see().map_err(|cause| Unseen { pid, cause })?;
        let named = |group: procfs::ProcessCGroup| {
            (group.controllers.join(",").trim_start_matches("name=").to_owned(), group.pathname)
        };
        let mut cgroups: BTreeMap<String, String> = groups.into_iter().map(named).collect();
        // Beside controllers of version 1 the hierarchy of version 2 controls nothing, and runc does not mount it.
        if cgroups.len() > 1 {
            cgroups.remove("");
        }
        Ok(Self { pid, mounts, cgroups })
    }

    /// Its cgroups, as folders of this host.
    #[must_use]
    pub fn cgroups(&self) -> Vec<PathBuf> {
        self.cgroups.iter().map(|(controller, path)| on_host(controller, path)).collect()
    }

    /// Its file systems in memory. Of one that is mounted in parts, the whole.
    #[must_use]
    pub fn tmpfs(&self) -> Vec<Tmpfs> {
        let whole = |mount: &&MountInfo| mount.fs_type == "tmpfs" && mount.root == "/";
        self.mounts.iter().filter(whole).map(Tmpfs::of).collect()
    }

    /// At the source: what CRIU leaves out.
    #[must_use]
    pub fn left_out(&self, spec: &Spec) -> Vec<Pair> {
        let mut left_out: Vec<PathBuf> = binds(spec).map(|mount| mount.destination().clone()).collect();
        left_out.extend(self.cgroup_mounts(spec).map(|(mount_point, ..)| mount_point));
        left_out.extend(self.masks().cloned());
        let made = [Path::new("/dev"), Path::new("/sys/fs/cgroup")];
        let kept = |tmpfs: &Tmpfs| made.contains(&tmpfs.mount_point.as_path()) || self.is_empty(&tmpfs.mount_point);
        left_out.extend(self.tmpfs().into_iter().filter(kept).map(|tmpfs| tmpfs.mount_point));
        left_out.into_iter().map(|path| (path.display().to_string(), key(&path))).collect()
    }

    /// At the target: what CRIU finds prepared. `below` holds the file systems of [`Seen::tmpfs`], by [`Tmpfs::folder`].
    #[must_use]
    pub fn prepared(&self, spec: &Spec, below: &Path) -> Vec<Pair> {
        let give = |mount_point: &Path, path: PathBuf| (key(mount_point), path.display().to_string());
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let sources = binds(spec).filter_map(|mount| Some((mount.destination(), mount.source().as_ref()?)));
        let mut prepared: Vec<Pair> = sources.map(|(to, from)| give(to, real(from))).collect();
        prepared.extend(self.cgroup_mounts(spec).map(|(mount_point, path)| give(&mount_point, path)));
        let null = Tmpfs::folder(below, Path::new("/dev")).join("null");
        prepared.extend(self.masks().map(|mask| give(mask, null.clone())));
        let tmpfs = self.tmpfs();
        prepared.extend(tmpfs.iter().map(|one| give(&one.mount_point, Tmpfs::folder(below, &one.mount_point))));
        prepared
    }

    /// Files that `/dev/null` lies over.
    fn masks(&self) -> impl Iterator<Item = &PathBuf> {
        self.mounts
            .iter()
            .filter(|mount| mount.fs_type == "tmpfs" && mount.root == "/null")
            .map(|mount| &mount.mount_point)
    }

    /// Where cgroups are mounted in the container, and what is mounted there.
    fn cgroup_mounts<'a>(&'a self, spec: &'a Spec) -> impl Iterator<Item = (PathBuf, PathBuf)> + 'a {
        let mounts = of_kind(spec, |mount| mount.typ().as_deref() == Some("cgroup"));
        mounts.flat_map(|mount| {
            // Of version 2 the one hierarchy is mounted there itself.
            let at = |controller: &str| match controller {
                "" => mount.destination().clone(),
                _ => mount.destination().join(controller),
            };
            self.cgroups.iter().map(move |(controller, path)| (at(controller), on_host(controller, path)))
        })
    }

    fn is_empty(&self, mount_point: &Path) -> bool {
        let inside = mount_point.strip_prefix("/").unwrap_or(mount_point);
        let path = Path::new("/proc").join(self.pid.to_string()).join("root").join(inside);
        fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
    }
}

impl Tmpfs {
    fn of(mount: &MountInfo) -> Self {
        let wanted = ["size", "mode", "nr_inodes", "uid", "gid"];
        let options = mount.super_options.iter().filter(|(name, _)| wanted.contains(&name.as_str()));
        let data = options.filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
        let mut data: Vec<String> = data.collect();
        data.sort_unstable();
        Self {
            mount_point: mount.mount_point.clone(),
            read_only: mount.super_options.contains_key("ro"),
            data: data.join(","),
        }
    }

    /// Where it is prepared, below a folder.
    #[must_use]
    pub fn folder(below: &Path, mount_point: &Path) -> PathBuf {
        // Unique, as no other character is replaced by `%`.
        below.join(mount_point.display().to_string().replace('%', "%25").replace('/', "%2f"))
    }
}

fn binds(spec: &Spec) -> impl Iterator<Item = &Mount> {
    of_kind(spec, |mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        mount.typ().as_deref() == Some("bind") || options.iter().any(|option| option == "bind" || option == "rbind")
    })
}

fn of_kind(spec: &Spec, is: impl Fn(&Mount) -> bool) -> impl Iterator<Item = &Mount> {
    spec.mounts().as_deref().unwrap_or_default().iter().filter(move |mount| is(mount))
}

fn on_host(controller: &str, path: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
100 99 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l
101 100 0:51 / /proc rw,nosuid - proc proc rw
102 100 0:52 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
103 102 0:53 / /dev/shm rw,nosuid - tmpfs shm rw,size=65536k
104 100 0:54 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755
105 104 0:55 /docker/4711 /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory
106 101 0:52 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
107 101 0:56 / /proc/acpi ro,relatime - tmpfs tmpfs ro
108 100 8:1 /volumes/v /data rw,relatime - ext4 /dev/vda rw
";

    fn spec() -> Spec {
        let mounts = r#"{"ociVersion":"1.0.2","root":{"path":"/r"},"mounts":[
            {"destination":"/proc","type":"proc","source":"proc"},
            {"destination":"/dev","type":"tmpfs","source":"tmpfs"},
            {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup"},
            {"destination":"/data","type":"bind","source":"/volumes/v","options":["rbind"]}]}"#;
        serde_json::from_str(mounts).expect("a spec")
    }

    fn seen(cgroups: &[(&str, &str)]) -> Seen {
        let mounts = MOUNTS.lines().map(|line| MountInfo::from_line(line).expect("a mount")).collect();
        // Nobody has this process id: nothing that it mounts can be looked into.
        Seen { pid: -1, mounts, cgroups: cgroups.iter().map(|(c, p)| ((*c).to_owned(), (*p).to_owned())).collect() }
    }

    #[test]
    fn the_target_gives_what_the_source_leaves_out() {
        let (spec, seen) = (spec(), seen(&[("memory", "/docker/4711"), ("cpu,cpuacct", "/docker/4711")]));
        let left_out = seen.left_out(&spec);
        let paths: Vec<&str> = left_out.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            ["/data", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/proc/kcore", "/dev", "/sys/fs/cgroup"],
            "what is not known to be empty travels"
        );
        let prepared: BTreeMap<String, String> = seen.prepared(&spec, Path::new("/m")).into_iter().collect();
        for (path, key) in &left_out {
            assert!(prepared.contains_key(key), "{path}");
        }
        assert_eq!(prepared["godwit/data"], "/volumes/v");
        assert_eq!(prepared["godwit/sys/fs/cgroup/memory"], "/sys/fs/cgroup/memory/docker/4711");
        assert_eq!(prepared["godwit/proc/kcore"], "/m/%2fdev/null");
        assert_eq!(prepared["godwit/dev/shm"], "/m/%2fdev%2fshm");
    }

    #[test]
    fn of_the_second_version_of_cgroups_there_is_one_mount() {
        let seen = seen(&[("", "/system.slice/docker-4711.scope")]);
        let prepared: BTreeMap<String, String> = seen.prepared(&spec(), Path::new("/m")).into_iter().collect();
        assert_eq!(prepared["godwit/sys/fs/cgroup"], "/m/%2fsys%2ffs%2fcgroup", "a tmpfs, as the mounts above have it");
        assert_eq!(seen.cgroups(), [Path::new("/sys/fs/cgroup/system.slice/docker-4711.scope")]);
    }

    #[test]
    fn file_systems_in_memory_are_prepared_as_they_were_mounted() {
        let tmpfs = seen(&[]).tmpfs();
        let of = |path: &str| tmpfs.iter().find(|one| one.mount_point == Path::new(path)).expect("it is there");
        assert_eq!((of("/dev").data.as_str(), of("/dev").read_only), ("mode=755,size=65536k", false));
        assert!(of("/proc/acpi").read_only);
        assert_eq!(tmpfs.len(), 4, "what lies over a file is no file system of its own");
    }
}
