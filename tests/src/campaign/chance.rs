//! What a seed draws: who dies, and when. The processes' own timing is not drawn, so a seed repeats the faults, not the run.

use std::time::Duration;

/// SplitMix64.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.draw() % count.max(1) as u64).unwrap_or(0)
    }

    /// A time of up to `most`, to the microsecond.
    pub fn below(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.draw() % most)
    }

    /// One of so many in half of the cases, else several, all of them in one case of eight.
    pub fn some_of(&mut self, count: usize) -> Vec<usize> {
        let many = match self.draw() % 8 {
            0..4 => 1,
            4..6 => 2,
            6 => count.saturating_sub(1).max(1),
            _ => count,
        };
        let mut all = self.shuffled((0..count).collect());
        all.truncate(many);
        all
    }

    /// The same in another order.
    pub fn shuffled(&mut self, mut items: Vec<usize>) -> Vec<usize> {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
        items
    }
}
