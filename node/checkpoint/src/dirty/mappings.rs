//! A process's mappings, as `/proc/PID/maps` tells them, and which of them can be tracked.

use std::ops::Range;

use super::target::{Target, status_line};
use super::{Error, ranges};

/// One mapping that is not tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses, in whole pages.
    pub range: Range<u64>,
    /// Why it is not tracked.
    pub kind: Kind,
}

/// What a mapping is. All but [`Kind::Private`] is left to the final copy, that is to CRIU's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Private anonymous memory: heap, stacks, arenas. Tracked.
    Private,
    /// Shared with other processes, which may write it unseen; with or without a file.
    Shared,
    /// A private copy of a file: the data of programs and libraries.
    File,
    /// Pages of hugetlbfs (not transparent huge pages, which are tracked).
    HugePages,
    /// Locked by `mlock`: CRIU puts it into its images at once.
    Locked,
    /// The kernel's own: vdso, vvar, vsyscall.
    Kernel,
    /// Private memory that the kernel does not protect: it belongs to a userfaultfd of the process itself, or the kernel may
    /// drop it at any time (`MAP_DROPPABLE`).
    Unprotectable,
}

/// All mappings, ascending, of one moment or nearly so.
pub(super) struct Mappings {
    pub list: Vec<Mapping>,
    /// Devices or io_uring may write pages of this process behind its page tables.
    pub pinned: bool,
}

pub(super) fn read(target: &Target) -> Result<Mappings, Error> {
    // `smaps` walks all page tables: it is read only where it says more than `maps`.
    let status = target.read_text("status")?;
    let has = |key| status_line(&status, key).is_some_and(|line| !line.starts_with('0'));
    let file = if has("VmLck:") || has("HugetlbPages:") { "smaps" } else { "maps" };
    let list = parse(&target.read_text(file)?);
    let list =
        list.ok_or(Error::Malformed { pid: target.pid, what: "a line of /proc/PID/maps is not as documented" })?;
    if list.is_empty() {
        return Err(Error::Gone { pid: target.pid });
    }
    Ok(Mappings { list, pinned: has("VmPin:") })
}

/// The tracked ones' addresses, one range for each mapping.
pub(super) fn tracked(mappings: &[Mapping]) -> impl Iterator<Item = Range<u64>> {
    mappings.iter().filter(|mapping| mapping.kind == Kind::Private).map(|mapping| mapping.range.clone())
}

/// The same, mappings that touch each other taken together.
pub(super) fn tracked_area(mappings: &[Mapping]) -> Vec<Range<u64>> {
    let mut area = Vec::new();
    tracked(mappings).for_each(|range| ranges::push(&mut area, range));
    area
}

/// Of `maps` or `smaps`. File names are any bytes, so that the whole is no text. The files of a running process are not of
/// one moment: what moved meanwhile may be told twice, and is left as it was told first; the next round sees it as it is.
fn parse(text: &[u8]) -> Option<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut told = 0;
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            let last = mappings.last_mut()?;
            for flag in flags.split(u8::is_ascii_whitespace) {
                match flag {
                    b"ht" => last.kind = Kind::HugePages,
                    b"lo" if last.kind == Kind::Private => last.kind = Kind::Locked,
                    _ => {}
                }
            }
        } else if line.first().is_some_and(u8::is_ascii_uppercase) {
            // Another attribute of `smaps`.
        } else {
            let mut mapping = parse_mapping(line)?;
            mapping.range.start = mapping.range.start.max(told);
            told = told.max(mapping.range.end);
            mappings.push(mapping);
        }
    }
    mappings.retain(|mapping| !mapping.range.is_empty());
    Some(mappings)
}

/// `start-end perms offset dev inode path`, proc_pid_maps(5).
fn parse_mapping(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let (start, end) = str::from_utf8(fields.next()?).ok()?.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    let shared = *fields.next()?.get(3)? == b's';
    let inode = fields.nth(2)?;
    let name = fields.next().unwrap_or_default().trim_ascii();
    let kind = match name {
        _ if shared => Kind::Shared,
        _ if name.starts_with(b"/anon_hugepage") => Kind::HugePages,
        _ if inode != b"0" => Kind::File,
        b"" | b"[heap]" => Kind::Private,
        _ if name.starts_with(b"[stack") || name.starts_with(b"[anon:") => Kind::Private,
        _ => Kind::Kernel,
    };
    (range.start < range.end).then_some(Mapping { range, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_mapping_is_told_from_the_others() {
        for (line, kind) in [
            ("7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ", Kind::Private),
            ("7f0000000000-7f0000001000 ---p 00000000 00:00 0", Kind::Private),
            ("55d000000000-55d000021000 rw-p 00000000 00:00 0                          [heap]", Kind::Private),
            ("7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]", Kind::Private),
            (
                "7f0000000000-7f0000001000 rw-p 00000000 00:00 0                          [anon:glibc: malloc]",
                Kind::Private,
            ),
            (
                "7f0000000000-7f0000001000 rw-s 00000000 00:01 1024                       /dev/zero (deleted)",
                Kind::Shared,
            ),
            ("7f0000000000-7f0000001000 rw-s 00000000 00:01 1                          [anon_shmem:x]", Kind::Shared),
            ("7f0000000000-7f0000001000 rw-p 001c0000 fe:00 1187                       /usr/lib/libc.so.6", Kind::File),
            (
                "7f0000000000-7f0000200000 rw-p 00000000 00:0f 31                         /anon_hugepage (deleted)",
                Kind::HugePages,
            ),
            ("7ffc00100000-7ffc00102000 r-xp 00000000 00:00 0                          [vdso]", Kind::Kernel),
            ("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]", Kind::Kernel),
        ] {
            let mappings = parse(format!("{line}\n").as_bytes()).expect(line);
            assert_eq!(mappings.len(), 1);
            assert_eq!(mappings[0].kind, kind, "{line}");
        }
    }

    #[test]
    fn locked_and_huge_mappings_are_known_by_their_flags() {
        let text = b"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \nSize: 4 kB\nVmFlags: rd wr mr mw me lo ac sd \n\
            7f0000200000-7f0000400000 rw-p 00000000 00:10 5 /mnt/huge/a\nVmFlags: rd wr ht \n\
            7f0000500000-7f0000501000 rw-p 00000000 00:00 0 \nVmFlags: rd wr\n";
        let kinds: Vec<_> = parse(text).unwrap().iter().map(|mapping| mapping.kind).collect();
        assert_eq!(kinds, [Kind::Locked, Kind::HugePages, Kind::Private]);
    }

    #[test]
    fn what_is_told_twice_is_taken_once() {
        let text = b"1000-5000 rw-p 0 00:00 0 \n2000-3000 rw-s 0 00:01 7 \n4000-7000 rw-p 0 00:00 0 \n";
        let ranges: Vec<_> = parse(text).unwrap().into_iter().map(|mapping| (mapping.range, mapping.kind)).collect();
        assert_eq!(ranges, [(0x1000..0x5000, Kind::Private), (0x5000..0x7000, Kind::Private)]);
    }

    #[test]
    fn a_file_name_of_any_bytes_is_read_and_a_malformed_line_is_not() {
        assert!(parse(b"7f0000000000-7f0000001000 rw-p 00000000 fe:00 9 /tmp/\xff\xfe\n").is_some());
        for line in [
            "7f0000000000 rw-p 0 00:00 0",
            "2000-1000 rw-p 0 00:00 0 ",
            "1000-2000 rw",
            "x-y rw-p 0 00:00 0 ",
            "VmFlags: lo",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
