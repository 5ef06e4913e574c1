//! Sets of addresses as sorted lists of ranges. What the kernel reports is sorted already, so that one pass over two lists
//! does; a tree of ranges would cost a search and an allocation for each.
//!
//! Invariant: a list is ascending, its ranges are neither empty nor do they touch each other.

use std::ops::Range;

/// Appends a range that begins where the list ends, or later.
pub(crate) fn push(list: &mut Vec<Range<u64>>, next: Range<u64>) {
    if next.is_empty() {
        return;
    }
    match list.last_mut() {
        Some(last) if last.end >= next.start => {
            assert!(last.start <= next.start, "ranges are appended in ascending order");
            last.end = last.end.max(next.end);
        }
        _ => list.push(next),
    }
}

/// What is in `from` and not in `less`.
pub(crate) fn subtract(from: &[Range<u64>], less: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut skip = 0;
    for range in from {
        while less.get(skip).is_some_and(|hole| hole.end <= range.start) {
            skip += 1;
        }
        let mut start = range.start;
        for hole in less[skip..].iter().take_while(|hole| hole.start < range.end) {
            push(&mut left, start..hole.start.max(start));
            start = hole.end;
        }
        push(&mut left, start..range.end.max(start));
    }
    left
}

/// What is in both.
pub(crate) fn intersect(one: &[Range<u64>], other: &[Range<u64>]) -> Vec<Range<u64>> {
    subtract(one, &subtract(one, other))
}

/// What is in either.
pub(crate) fn union(one: &[Range<u64>], other: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all: Vec<_> = one.iter().chain(other).cloned().collect();
    all.sort_unstable_by_key(|range| range.start);
    let mut list = Vec::new();
    for range in all {
        push(&mut list, range);
    }
    list
}

/// How many bytes the ranges hold.
pub(crate) fn bytes(list: &[Range<u64>]) -> u64 {
    list.iter().map(|range| range.end - range.start).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn list(set: &BTreeSet<u64>) -> Vec<Range<u64>> {
        let mut list = Vec::new();
        for &at in set {
            push(&mut list, at..at + 1);
        }
        list
    }

    fn set(list: &[Range<u64>]) -> BTreeSet<u64> {
        list.iter().cloned().flatten().collect()
    }

    fn addresses() -> impl Strategy<Value = BTreeSet<u64>> {
        proptest::collection::btree_set(0..64_u64, 0..40)
    }

    proptest! {
        #[test]
        fn lists_behave_as_sets(one in addresses(), other in addresses()) {
            let (a, b) = (list(&one), list(&other));
            for (got, expected) in [
                (subtract(&a, &b), &one - &other),
                (intersect(&a, &b), &one & &other),
                (union(&a, &b), &one | &other),
            ] {
                prop_assert_eq!(set(&got), expected.clone());
                prop_assert_eq!(bytes(&got), expected.len() as u64);
                prop_assert!(got.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?} is not in its shortest form", got);
            }
        }
    }
}
