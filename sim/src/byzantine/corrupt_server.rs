//! Yields properly and then serves other bytes than those it yielded.

use super::Byzantine;

#[derive(Debug)]
pub(super) struct CorruptServer;

impl Byzantine for CorruptServer {
    fn spoils(&self) -> bool {
        true
    }
}
