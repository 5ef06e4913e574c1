//! Deleting old blocks, for sites that are not to keep them all.

use rocksdb::WriteBatch;

use super::{BASE, BLOCKS, Disk, EVENTS, META, OFFERED_EVERY, RECORDS, Store, StoreError, canonical};
use crate::block::Height;
use crate::record::record_id;

/// The fewest blocks that a site keeps. Whoever lags by less than a snapshot is worth ([`SNAPSHOT_GAP`]) finds them, and so
/// does whoever fetches the older of two offered snapshots, and what opening replays is among them.
///
/// [`SNAPSHOT_GAP`]: crate::sync::SNAPSHOT_GAP
pub const MIN_RETAINED: u64 = 4096;

/// Blocks deleted at once, so that a commit is never held up for long. One more block is one to delete; the rest is for a
/// site that has just been told to keep fewer.
const STEP: u64 = 16;

impl Disk {
    /// Deletes some of the blocks below the newest `retained`, what they changed, and where their records lie. What shows
    /// the changes of the validators stays.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is deleted then.
    pub fn prune(&mut self, mesh: godwit_protocol::MeshId, retained: u64) -> Result<(), StoreError> {
        let tip = self.tip.height.0;
        // Opening begins with the last snapshot of the state, at the latest this old, and replays the blocks after it.
        let needed = (tip - tip % OFFERED_EVERY).saturating_add(1);
        let first = tip.saturating_sub(retained.max(MIN_RETAINED)).saturating_add(1).min(needed);
        let until = first.min(self.base.0.saturating_add(STEP));
        if until <= self.base.0 {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        for height in self.base.0..until {
            let key = height.to_be_bytes();
            let block = self.block(Height(height))?;
            let records = block.iter().flat_map(|committed| committed.block.records.iter());
            for id in records.filter_map(|record| record_id(&mesh, record).ok()) {
                batch.delete_cf(self.column(RECORDS), id.0);
            }
            batch.delete_cf(self.column(BLOCKS), key);
            batch.delete_cf(self.column(EVENTS), key);
        }
        batch.put_cf(self.column(META), BASE, canonical(&Height(until)));
        self.write_lazily("prune", batch)?;
        self.base = Height(until);
        Ok(())
    }
}
