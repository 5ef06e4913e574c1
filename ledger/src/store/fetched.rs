//! A snapshot that is being fetched: what is on disk of it outlives a restart.

use std::collections::BTreeMap;

use rocksdb::{IteratorMode, WriteBatch};

use super::{Disk, FETCHED, FETCHING, META, StoreError, canonical};
use crate::sync::snapshot::{Kept, Offer};

impl Disk {
    /// What is here of a snapshot that was being fetched.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn fetched(&self) -> Result<Option<Kept>, StoreError> {
        let Some(offer) = self.read(META, FETCHING, "the description of what was being fetched")? else {
            return Ok(None);
        };
        let mut chunks = BTreeMap::new();
        for entry in self.db.iterator_cf(self.column(FETCHED), IteratorMode::Start) {
            let (index, chunk) = entry.map_err(|source| self.failed("read", source))?;
            if let Ok(index) = index[..].try_into() {
                chunks.insert(u32::from_be_bytes(index), chunk.into_vec());
            }
        }
        Ok(Some(Kept { offer, chunks }))
    }

    /// A snapshot is being fetched from now on, instead of an earlier one.
    ///
    /// # Errors
    /// [`StoreError`]; what was there stays.
    pub fn keep_offer(&self, offer: &Offer) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        self.clear_download(&mut batch);
        batch.put_cf(self.column(META), FETCHING, canonical(offer));
        self.write_lazily("begin a snapshot in", batch)
    }

    /// A chunk of it is here.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn keep_chunk(&self, index: u32, chunk: &[u8]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.column(FETCHED), index.to_be_bytes(), chunk);
        self.write_lazily("keep a chunk of a snapshot in", batch)
    }

    /// Nothing of it is of use.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn drop_download(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        self.clear_download(&mut batch);
        self.write_lazily("drop a snapshot in", batch)
    }

    pub(super) fn clear_download(&self, batch: &mut WriteBatch) {
        batch.delete_cf(self.column(META), FETCHING);
        batch.delete_range_cf(self.column(FETCHED), 0_u32.to_be_bytes(), u32::MAX.to_be_bytes());
    }
}
