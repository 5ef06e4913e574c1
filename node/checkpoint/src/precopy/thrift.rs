//! Whether compressing a frame saves time: what it saves on the link against what it costs the processor, both as measured
//! lately. On a link that is not the bottleneck writing costs next to nothing, and frames go plain.
//!
//! Invariant: knows no clock.

use std::time::Duration;

/// Of plain frames while compressing does not pay, one in so many is tried: the memory's content changes.
const PROBE: u32 = 64;
/// Weight of the past, in eighths.
const KEEP: u64 = 7;

#[derive(Debug, Default)]
pub(super) struct Thrift {
    /// Picoseconds for each byte: to write it to the link, and to compress it.
    write: Option<u64>,
    pack: Option<u64>,
    /// Of each thousand bytes.
    saved: Option<u64>,
    plain: u32,
}

impl Thrift {
    /// Whether to compress the next frame.
    pub fn pays(&mut self) -> bool {
        let pays = match (self.write, self.pack, self.saved) {
            (Some(write), Some(pack), Some(saved)) => write.saturating_mul(saved) / 1000 > pack,
            _ => true,
        };
        self.plain = if pays { 0 } else { (self.plain + 1) % PROBE };
        pays || self.plain == 0
    }

    /// A frame was written; waiting for the link counts.
    pub fn wrote(&mut self, bytes: u64, took: Duration) {
        settle(&mut self.write, per_byte(bytes, took));
    }

    /// A frame was compressed, or it was tried.
    pub fn packed(&mut self, plain: u64, sent: u64, took: Duration) {
        settle(&mut self.pack, per_byte(plain, took));
        settle(&mut self.saved, plain.saturating_sub(sent).saturating_mul(1000) / plain.max(1));
    }
}

fn per_byte(bytes: u64, took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).saturating_mul(1000) / bytes.max(1)
}

fn settle(value: &mut Option<u64>, now: u64) {
    *value = Some(value.map_or(now, |before| before.saturating_mul(KEEP).saturating_add(now) / (KEEP + 1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 256 << 10;

    /// Of 1000 frames that shrink to `per_mille`, compressed at 500 MB/s, how many were over a link of so many MB/s.
    fn compressed(per_mille: u64, link: u64) -> u32 {
        let (mut thrift, mut compressed) = (Thrift::default(), 0);
        for _ in 0..1000 {
            let mut sent = FRAME;
            if thrift.pays() {
                sent = FRAME * per_mille / 1000;
                thrift.packed(FRAME, sent, Duration::from_nanos(FRAME * 2));
                compressed += 1;
            }
            thrift.wrote(sent, Duration::from_nanos(sent * 1000 / link));
        }
        compressed
    }

    #[test]
    fn frames_are_compressed_where_the_link_is_slower_than_that() {
        assert!(compressed(500, 119) > 950, "1 Gbit/s");
        assert!(compressed(500, 4000) < 50, "a fast link");
        assert!(compressed(990, 119) < 150, "hardly anything is saved");
    }
}
