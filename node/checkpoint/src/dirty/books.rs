//! What the caller was told so far of one process's memory, and what a new look at it means. Pure.

use std::ops::Range;

use super::Round;
use super::kernel::Pages;
use super::mappings::{Kind, Mapping, tracked_area};
use super::ranges::{intersect, subtract, union};

#[derive(Debug, Default)]
pub(super) struct Books {
    /// The tracked mappings, as of the last look.
    area: Vec<Range<u64>>,
    /// The pages of them whose content was reported, and that still had one then.
    held: Vec<Range<u64>>,
}

impl Books {
    pub fn settle(&mut self, mappings: Vec<Mapping>, pages: Pages) -> Round {
        let area = tracked_area(&mappings);
        let populated = pages.populated;
        // A page with content that was not reported yet is new, whatever else is known of it.
        let written = union(&pages.written, &subtract(&populated, &self.held));
        let zeroed = intersect(&subtract(&self.held, &populated), &area);
        let round = Round {
            written,
            zeroed,
            appeared: subtract(&area, &self.area),
            gone: subtract(&self.area, &area),
            left: mappings.into_iter().filter(|mapping| mapping.kind != Kind::Private).collect(),
        };
        (self.area, self.held) = (area, populated);
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private(range: Range<u64>) -> Mapping {
        Mapping { range, kind: Kind::Private }
    }

    #[test]
    fn each_change_of_memory_is_told_once() {
        let mut books = Books::default();
        let file = Mapping { range: 90..99, kind: Kind::File };
        let pages = |populated: &[Range<u64>], written: &[Range<u64>]| Pages {
            populated: populated.to_vec(),
            written: written.to_vec(),
        };

        let first = books.settle(vec![private(10..20), private(20..30), file.clone()], pages(&[12..25], &[]));
        assert_eq!(first.written, [12..25], "what was never reported is written, protected or not");
        assert_eq!((first.appeared, first.left), (vec![10..30], vec![file.clone()]));
        assert!(first.zeroed.is_empty() && first.gone.is_empty());

        let second = books.settle(vec![private(10..20), file.clone()], pages(&[12..14, 18..20], &[13..14]));
        assert_eq!(second.written, [13..14]);
        assert_eq!(second.zeroed, [14..18], "content that is not there any more reads as zeros");
        assert_eq!(second.gone, [20..30]);

        let third = books.settle(vec![private(10..20)], pages(&[12..20], &[]));
        assert_eq!(third.written, [14..18], "content that came back is written");
        assert!(third.zeroed.is_empty() && third.gone.is_empty() && third.appeared.is_empty());
    }

    #[test]
    fn a_mapping_that_is_locked_meanwhile_is_left_to_the_final_copy() {
        let mut books = Books::default();
        books.settle(vec![private(10..20)], Pages { populated: vec![10..20], written: vec![] });
        let locked = Mapping { range: 10..20, kind: Kind::Locked };
        let round = books.settle(vec![locked.clone()], Pages::default());
        assert_eq!((round.gone, round.left, round.zeroed), (vec![10..20], vec![locked], vec![]));
    }
}
