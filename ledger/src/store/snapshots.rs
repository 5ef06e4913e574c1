//! Snapshots as they are offered to others, and the store that begins with one.

use godwit_protocol::Hash;
use godwit_protocol::bounded::List;
use rocksdb::{IteratorMode, WriteBatch};
use serde::{Deserialize, Serialize};

use super::{
    BASE, BLOCKS, Disk, EVENTS, LINKS, META, Pace, RECORDS, SNAPSHOT, SNAPSHOTS, StoreError, TIP, canonical, tip_of,
};
use crate::block::{Certificate, Committed, Header, Height};
use crate::lineage::Lineage;
use crate::replica::Adopted;
use crate::state::State;
use crate::sync::snapshot::{MAX_CHUNKS, Offer, chunk_hash};

/// Blocks between two snapshots that are offered. One is kept until the next but one: whoever began to fetch it has time
/// for at least so many blocks.
pub const OFFERED_EVERY: u64 = 1024;

/// What a snapshot is, but for how its asker can believe it.
#[derive(Debug, Serialize, Deserialize)]
struct Described {
    header: Header,
    certificate: Certificate,
    chunks: List<Hash, MAX_CHUNKS>,
}

impl Disk {
    /// The newest snapshot beyond a height, with the changes of the validators in between; none if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn offer(&self, trusted: Height) -> Result<Option<Offer>, StoreError> {
        let newest = self.db.iterator_cf(self.column(SNAPSHOTS), IteratorMode::End).next();
        let newest = newest.transpose().map_err(|source| self.failed("read", source))?;
        let height = newest.and_then(|(key, _)| key.first_chunk::<8>().map(|height| u64::from_be_bytes(*height)));
        let Some(height) = height.map(Height).filter(|height| *height > trusted) else { return Ok(None) };
        let what = format!("the snapshot of height {height}");
        let described = self.read::<Described>(SNAPSHOTS, &height.0.to_be_bytes(), &what)?;
        let Described { header, certificate, chunks } = described.ok_or_else(|| self.damaged(&what, None))?;
        // More changes than a message holds: then there is nothing that its asker could believe.
        let links = List::new(self.tables().links(trusted, height)?).ok();
        Ok(links.map(|links| Offer { header, certificate, lineage: Lineage { links }, chunks }))
    }

    /// A chunk of a snapshot; none if it is not kept any more.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn chunk(&self, height: Height, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let key = chunk_key(height, index);
        self.db.get_cf(self.column(SNAPSHOTS), key).map_err(|source| self.failed("read", source))
    }

    /// Makes a state that was fetched the last one, in place of all blocks up to it: atomic, and on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; the store is then as before.
    pub fn adopt(&mut self, adopted: &Adopted) -> Result<(), StoreError> {
        let Adopted { offer, chunks, state } = adopted;
        let (height, base) = (state.height(), state.height().next());
        let mut batch = WriteBatch::default();
        for column in [BLOCKS, EVENTS] {
            batch.delete_range_cf(self.column(column), 0_u64.to_be_bytes(), base.0.to_be_bytes());
        }
        // Places are found by record, and all are of blocks that go.
        batch.delete_range_cf(self.column(RECORDS), &[0_u8; 32][..], &[0xff_u8; 33][..]);
        batch.delete_range_cf(self.column(SNAPSHOTS), 0_u64.to_be_bytes(), u64::MAX.to_be_bytes());
        self.put_chunks(&mut batch, &offer.header, &offer.certificate, chunks);
        for link in offer.lineage.links.iter() {
            batch.put_cf(self.column(LINKS), link.header.height.0.to_be_bytes(), canonical(link));
        }
        let snapshot = state.encode();
        let pace = Pace { snapshot: snapshot.len(), since: 0 };
        batch.put_cf(self.column(META), SNAPSHOT, snapshot);
        batch.put_cf(self.column(META), BASE, canonical(&base));
        batch.put_cf(self.column(META), TIP, canonical(&tip_of(state)));
        self.clear_download(&mut batch);
        self.write("put a fetched state into", batch)?;
        (self.tip, self.base, self.pace) = (tip_of(state), base, pace);
        tracing::info!(%height, "the ledger goes on from a fetched state");
        Ok(())
    }

    /// With a block: the snapshot that is offered from then on, if it is time for one.
    pub(super) fn put_offered(&self, batch: &mut WriteBatch, committed: &Committed, state: &State) {
        let height = state.height().0;
        if !height.is_multiple_of(OFFERED_EVERY) {
            return;
        }
        let before = (height - OFFERED_EVERY).to_be_bytes();
        batch.delete_range_cf(self.column(SNAPSHOTS), 0_u64.to_be_bytes(), before);
        self.put_chunks(batch, &committed.block.header, &committed.certificate, &state.chunks());
    }

    fn put_chunks(&self, batch: &mut WriteBatch, header: &Header, certificate: &Certificate, chunks: &[Vec<u8>]) {
        let height = header.height;
        let Ok(hashes) = List::new(chunks.iter().map(|chunk| chunk_hash(chunk)).collect()) else {
            tracing::warn!(%height, chunks = chunks.len(), "the state is too large to be offered as a snapshot");
            return;
        };
        let described = Described { header: header.clone(), certificate: certificate.clone(), chunks: hashes };
        batch.put_cf(self.column(SNAPSHOTS), height.0.to_be_bytes(), canonical(&described));
        for (index, chunk) in (0_u32..).zip(chunks) {
            batch.put_cf(self.column(SNAPSHOTS), chunk_key(height, index), chunk);
        }
    }
}

fn chunk_key(height: Height, index: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&height.0.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}
