//! The signatures of a batch of blocks, verified on all cores before the blocks are applied one after the other.

use std::num::NonZeroUsize;

use godwit_protocol::{MeshId, SiteId};

use crate::block::{BadCertificate, Committed};
use crate::record::VerifiedRecord;
use crate::rules::{self, BadBlock};

/// A block and what was found of its signatures.
#[derive(Debug)]
pub(crate) struct Checked {
    pub committed: Committed,
    /// Its records, if all are their authors'.
    pub records: Result<Vec<VerifiedRecord>, BadBlock>,
    /// Whether the validators that were given decided it. It says nothing if others were to decide.
    pub certificate: Result<(), BadCertificate>,
}

/// Checks blocks by the validators who decided the first of them: mostly they decided all.
pub(crate) fn check(mesh: &MeshId, blocks: Vec<Committed>, validators: &[SiteId]) -> Vec<Checked> {
    let check = |blocks: Vec<Committed>| -> Vec<Checked> {
        let checked = blocks.into_iter().map(|committed| Checked {
            records: rules::verify_records(mesh, &committed.block),
            certificate: committed.certificate.check(&committed.block.header, validators),
            committed,
        });
        checked.collect()
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = blocks.len().div_ceil(cores).max(1);
    let mut blocks = blocks.into_iter();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        loop {
            let part: Vec<Committed> = blocks.by_ref().take(share).collect();
            if part.is_empty() {
                break;
            }
            threads.push(scope.spawn(move || check(part)));
        }
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.flatten().collect()
    })
}
