//! What the state keeps of an author: which of its sequence numbers were used.

use serde::{Deserialize, Serialize};

use crate::record::SEQUENCE_WINDOW;
use crate::refusal::Refusal;

const WORDS: usize = (SEQUENCE_WINDOW / 64) as usize;

/// A window over an author's sequence numbers that slides with the highest one used, so that a gap never blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// The highest number used.
    top: u64,
    /// Bit `n % 1024` is set if number `n`, of the 1,024 up to `top`, was used.
    used: [u64; WORDS],
    /// Offers of this author that have not ended.
    pub(crate) open_offers: u32,
}

const fn place(sequence: u64) -> (usize, u64) {
    let bit = sequence % SEQUENCE_WINDOW;
    #[allow(clippy::cast_possible_truncation)] // below WORDS
    ((bit / 64) as usize, 1 << (bit % 64))
}

impl Author {
    /// A number that was not used and is neither too old nor too far ahead.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.top.saturating_add(1)
    }

    /// Offers of this author that have not ended.
    #[must_use]
    pub const fn open_offers(&self) -> u32 {
        self.open_offers
    }

    /// Whether a record with this number may be applied.
    pub(crate) fn check(&self, sequence: u64) -> Result<(), Refusal> {
        if sequence > self.top.saturating_add(SEQUENCE_WINDOW) {
            return Err(Refusal::SequenceAhead { sequence, top: self.top });
        }
        if self.top.saturating_sub(sequence) >= SEQUENCE_WINDOW {
            return Err(Refusal::SequenceOld { sequence, top: self.top });
        }
        let (word, bit) = place(sequence);
        if sequence <= self.top && self.used[word] & bit != 0 {
            return Err(Refusal::SequenceUsed { sequence });
        }
        Ok(())
    }

    /// Uses a number that [`Author::check`] admitted.
    pub(crate) fn mark(&mut self, sequence: u64) {
        // The window slides over numbers that nobody used: their places still hold what was a window ago.
        for skipped in self.top.saturating_add(1)..sequence {
            let (word, bit) = place(skipped);
            self.used[word] &= !bit;
        }
        self.top = self.top.max(sequence);
        let (word, bit) = place(sequence);
        self.used[word] |= bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_number_is_admitted_once_and_only_within_the_window(
            steps in prop::collection::vec((0_u64..1200, any::<bool>()), 1..200),
        ) {
            let (mut author, mut used, mut top) = (Author::default(), BTreeSet::new(), 0);
            for (distance, back) in steps {
                let sequence = if back { u64::saturating_sub(top, distance) } else { top + distance };
                let admitted = author.check(sequence).is_ok();
                let expected = sequence <= top + SEQUENCE_WINDOW
                    && sequence + SEQUENCE_WINDOW > top
                    && !used.contains(&sequence);
                prop_assert_eq!(admitted, expected, "{} of {}", sequence, top);
                if admitted {
                    author.mark(sequence);
                    used.insert(sequence);
                    top = top.max(sequence);
                }
                prop_assert!(author.check(author.next()).is_ok());
            }
        }
    }

    #[test]
    fn the_last_numbers_of_all_neither_wrap_nor_panic() {
        let mut author = Author { top: u64::MAX - 1, ..Author::default() };
        author.mark(u64::MAX);
        assert_eq!(author.check(u64::MAX), Err(Refusal::SequenceUsed { sequence: u64::MAX }));
        assert_eq!(author.check(5), Err(Refusal::SequenceOld { sequence: 5, top: u64::MAX }));
    }
}
