//! Which contents the target has, and where: pages that are sent again, or that several tasks share, travel as references.

use std::collections::HashMap;

/// Contents that are remembered: 2 GiB of pages, for which this table takes some 60 MB. When there are more, it begins anew.
const PLACES_MAX: usize = 1 << 19;

/// A page of a task, by the task's pid in the images.
pub(super) type Place = (i32, u64);

#[derive(Debug, Default)]
pub(super) struct Known {
    /// Where a content was sent to, and as which of all.
    places: HashMap<blake3::Hash, (Place, u64)>,
    /// The number of the content that a place has now.
    latest: HashMap<Place, u64>,
    number: u64,
}

impl Known {
    /// A place where the target has this content now.
    pub fn find(&self, hash: &blake3::Hash) -> Option<Place> {
        let (place, number) = self.places.get(hash)?;
        (self.latest.get(place) == Some(number)).then_some(*place)
    }

    /// The content was sent to a place.
    pub fn put(&mut self, place: Place, hash: blake3::Hash) {
        if self.places.len() >= PLACES_MAX {
            (self.places, self.latest) = Default::default();
        }
        self.number += 1;
        self.places.insert(hash, (place, self.number));
        self.latest.insert(place, self.number);
    }

    /// The place has another content, or none.
    pub fn forget(&mut self, place: Place) {
        self.latest.remove(&place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_found_only_where_it_still_is() {
        let (mut known, [a, b]) = (Known::default(), [b"a", b"b"].map(|text| blake3::hash(text)));
        known.put((1, 0x1000), a);
        assert_eq!(known.find(&a), Some((1, 0x1000)));
        known.put((1, 0x1000), b);
        assert_eq!((known.find(&a), known.find(&b)), (None, Some((1, 0x1000))));
        known.put((2, 0x1000), a);
        assert_eq!(known.find(&a), Some((2, 0x1000)));
        known.forget((2, 0x1000));
        assert_eq!(known.find(&a), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        for number in 0..=PLACES_MAX as u64 {
            known.put((1, number << 12), blake3::hash(&number.to_le_bytes()));
        }
        assert!(known.places.len() <= PLACES_MAX && known.latest.len() <= PLACES_MAX);
    }
}
