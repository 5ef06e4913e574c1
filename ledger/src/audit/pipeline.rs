//! Decoding and signatures on all cores, results in the order of the blocks.
//!
//! Batches go round the workers in turn, so that their results are awaited in turn as well: no queue has to sort, and none
//! grows.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

use godwit_protocol::signed::Keys;
use godwit_protocol::{MeshId, decode};

use super::{Fault, Stored};
use crate::block::{Committed, Height};
use crate::record::VerifiedRecord;
use crate::rules::{BadBlock, verify_some};

/// Blocks in a batch: some hundred signatures, which take milliseconds to verify and microseconds to hand over.
const BATCH_BLOCKS: usize = 64;

/// Encoded bytes after which a batch is closed: a large block makes one by itself.
const BATCH_BYTES: usize = 256 * 1024;

/// Batches that wait for a worker, beside the one it has: with blocks of 4 MiB they hold 8 MiB a worker.
const WAITING: usize = 2;

/// The sequential end keeps up with so many.
const WORKERS_MAX: usize = 16;

/// A block whose signatures were looked at.
pub(super) struct Judged {
    pub committed: Committed,
    /// Its records, or the first that is forged.
    pub records: Result<Vec<VerifiedRecord>, BadBlock>,
    /// For each signature of the certificate whether it is its signer's; none where certificates are not looked at.
    pub votes: Vec<bool>,
}

/// A block that may have turned out unreadable.
type Item<T> = Result<T, Fault>;

/// What workers need to know.
#[derive(Clone, Copy)]
pub(super) struct Pipeline {
    pub mesh: MeshId,
    /// Up to this height certificates are not looked at.
    pub trusted: Height,
}

/// One thread and the queues to and from it.
struct Worker {
    jobs: SyncSender<Vec<Item<Stored>>>,
    judged: Receiver<Vec<Item<Judged>>>,
}

impl Pipeline {
    /// Judges all blocks and hands them to `take` in their order, until it fails.
    pub fn run<E>(
        self,
        blocks: impl Iterator<Item = Item<Stored>>,
        mut take: impl FnMut(Vec<Item<Judged>>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut blocks = blocks.fuse();
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        thread::scope(|scope| {
            let workers: Vec<Worker> = (0..cores.min(WORKERS_MAX)).map(|_| self.worker(scope)).collect();
            let (mut sent, mut taken) = (0, 0);
            loop {
                while sent - taken < workers.len() * WAITING {
                    let batch = batch(&mut blocks);
                    // A worker that is gone has panicked, which the end of the scope tells.
                    if batch.is_empty() || workers[sent % workers.len()].jobs.send(batch).is_err() {
                        break;
                    }
                    sent += 1;
                }
                if taken == sent {
                    return Ok(());
                }
                let Ok(judged) = workers[taken % workers.len()].judged.recv() else { return Ok(()) };
                take(judged)?;
                taken += 1;
            }
        })
    }

    fn worker<'scope>(self, scope: &'scope Scope<'scope, '_>) -> Worker {
        let (jobs, wanted) = sync_channel::<Vec<Item<Stored>>>(WAITING);
        let (done, judged) = sync_channel(WAITING);
        scope.spawn(move || {
            let mut keys = Keys::default();
            for batch in wanted {
                let judge = |stored: Item<Stored>| stored.and_then(|stored| self.judge(stored, &mut keys));
                let batch = batch.into_iter().map(judge).collect();
                // Nobody waits any more once a block was found bad.
                if done.send(batch).is_err() {
                    return;
                }
            }
        });
        Worker { jobs, judged }
    }

    fn judge(self, stored: Stored, keys: &mut Keys) -> Item<Judged> {
        let committed = match stored {
            Stored::Bytes(bytes) => decode(&bytes).map_err(|bad| Fault::Unreadable(bad.into()))?,
            Stored::Block(committed) => *committed,
        };
        let Committed { block, certificate } = &committed;
        let looked_at = if block.header.height > self.trusted { certificate.signatures.len() } else { 0 };
        let holds = |index| {
            let (site, bytes, signature) = certificate.vote(&self.mesh, index);
            keys.verify_bytes(&site.0, &bytes, signature)
        };
        let votes = (0..looked_at).map(holds).collect();
        let records = verify_some(&self.mesh, 0, &block.records, keys);
        Ok(Judged { committed, records, votes })
    }
}

/// The next blocks; none at the end.
fn batch(blocks: &mut impl Iterator<Item = Item<Stored>>) -> Vec<Item<Stored>> {
    let (mut batch, mut size) = (Vec::new(), 0);
    while batch.len() < BATCH_BLOCKS && size < BATCH_BYTES {
        let Some(block) = blocks.next() else { break };
        size += match &block {
            Ok(Stored::Bytes(bytes)) => bytes.len(),
            _ => 0,
        };
        batch.push(block);
    }
    batch
}
