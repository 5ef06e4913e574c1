//! The ledger's part of the report. Keys are added, never renamed.

use std::fmt::Write;

use anyhow::{Context, Result};
use godwit_tests::Node;
use serde::Serialize;

use super::absence::{Audit, CatchUp, Kept};
use super::auction::Auctions;
use super::core::Core;
use super::founding;
use super::limits::Limits;
use super::load::Outcome;
use crate::report::Figures;

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Ledger {
    pub limits: Limits,
    pub core: Vec<Core>,
    pub loads: Vec<Loaded>,
    pub auctions: Vec<Auctions>,
    pub catch_up: Option<CatchUp>,
    pub audit: Vec<Audit>,
    pub per_100k_blocks: Option<Kept>,
}

/// A mesh under one load.
#[derive(Debug, Serialize)]
pub struct Loaded {
    pub validators: usize,
    pub in_flight: usize,
    pub records_per_s: f64,
    pub commit_ms: Figures,
    pub records_per_block: f64,
    pub record_bytes: usize,
    /// What a record costs in processor time, at all validators together.
    pub validators_us_per_record: f64,
    /// And at the member that writes: it shares the processors with them.
    pub writer_us_per_record: f64,
    /// What the validators sent to each other and to the writer, as payload.
    pub wire_bytes_per_record: f64,
    /// What a record takes on the disk of one validator.
    pub disk_bytes_per_record: f64,
    /// Of the largest validator.
    pub resident_mb: f64,
    /// Records that had to be said again, because they were not committed within some seconds.
    pub said_again: usize,
}

/// What was used up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    busy_ms: u64,
    own_busy_ms: u64,
    sent: u64,
    disk: u64,
    resident_mb: f64,
}

impl Usage {
    pub fn read(nodes: &[Node]) -> Result<Self> {
        let first = nodes.first().context("no nodes")?;
        Ok(Self {
            busy_ms: founding::busy_ms(nodes)?,
            own_busy_ms: founding::own_busy_ms()?,
            sent: founding::sent_bytes(nodes)?,
            disk: founding::disk_bytes(&founding::data(first)?)?,
            resident_mb: founding::resident_mb(nodes)?,
        })
    }
}

impl Loaded {
    /// From what was used when the count began and when it ended.
    pub fn of(validators: usize, in_flight: usize, outcome: &Outcome, usages: &[Usage]) -> Result<Self> {
        let [before, after] = usages else { anyhow::bail!("a load is measured twice, not {} times", usages.len()) };
        #[allow(clippy::cast_precision_loss)] // far below 2^53
        let (records, blocks) = (outcome.records as f64, outcome.blocks as f64);
        #[allow(clippy::cast_precision_loss)]
        let per_record = |after: u64, before: u64| after.saturating_sub(before) as f64 / records;
        Ok(Self {
            validators,
            in_flight,
            records_per_s: records / outcome.seconds,
            commit_ms: outcome.commit_ms,
            records_per_block: records / blocks,
            record_bytes: outcome.record_bytes,
            validators_us_per_record: per_record(after.busy_ms, before.busy_ms) * 1000.0,
            writer_us_per_record: per_record(after.own_busy_ms, before.own_busy_ms) * 1000.0,
            wire_bytes_per_record: per_record(after.sent, before.sent),
            disk_bytes_per_record: per_record(after.disk, before.disk),
            resident_mb: after.resident_mb,
            said_again: outcome.again,
        })
    }

    /// For whoever waits.
    pub fn line(&self) -> String {
        format!(
            "{:.0} records/s, commit {:.1} ms (99 %: {:.1}), {:.1} records a block, {:.0} us of processors a record, {:.0} MB",
            self.records_per_s,
            self.commit_ms.p50,
            self.commit_ms.p99,
            self.records_per_block,
            self.validators_us_per_record,
            self.resident_mb
        )
    }
}

impl Ledger {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            core: Vec::new(),
            loads: Vec::new(),
            auctions: Vec::new(),
            catch_up: None,
            audit: Vec::new(),
            per_100k_blocks: None,
        }
    }

    /// As Markdown. Writing to a string does not fail.
    pub fn tables(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "\n| validators | under way | records/s | commit, ms | records a block | processors, us a record | wire, bytes a \
             record | disk, bytes a record | memory, MB |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        );
        for load in &self.loads {
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} | {:.1} ({:.1}) | {:.0} | {:.0} + {:.0} | {:.0} | {:.0} | {:.0} |",
                load.validators,
                load.in_flight,
                load.records_per_s,
                load.commit_ms.p50,
                load.commit_ms.p99,
                load.records_per_block,
                load.validators_us_per_record,
                load.writer_us_per_record,
                load.wire_bytes_per_record,
                load.disk_bytes_per_record,
                load.resident_mb
            );
        }
        let _ = writeln!(
            text,
            "\n| validators | offer to award, ms | asked | by the window's end |\n| --- | --- | --- | --- |"
        );
        for auctions in &self.auctions {
            let Auctions { validators, award_ms, by_window, asked } = auctions;
            let (p50, p99, n) = (award_ms.p50, award_ms.p99, award_ms.n);
            let _ = writeln!(text, "| {validators} | {p50:.1} ({p99:.1}) | {asked} | {by_window} of {n} |");
        }
        let _ = writeln!(text, "\n| limit | |\n| --- | --- |");
        for core in &self.core {
            let _ = writeln!(
                text,
                "| {} replicas alone, in memory, in one thread | {:.0} records/s; {:.0} us a record and replica |",
                core.validators, core.records_per_s, core.us_per_record_and_replica
            );
        }
        self.rest(&mut text);
        text
    }

    fn rest(&self, text: &mut String) {
        let Limits { fsync_ms, sequential_write_mb_s, loopback_round_trip_us: trip, signatures_per_s } = &self.limits;
        let _ = writeln!(text, "| fsync of 1 KB | {:.2} ms ({:.2}) |", fsync_ms.p50, fsync_ms.p99);
        let _ = writeln!(text, "| sequential write | {sequential_write_mb_s:.0} MB/s |");
        let _ = writeln!(text, "| loopback, there and back | {:.0} us ({:.0}) |", trip.p50, trip.p99);
        let _ = writeln!(text, "| strict verification, one thread | {signatures_per_s:.0} signatures/s |");
        let _ = writeln!(text);
        if let Some(CatchUp { blocks, blocks_per_s, signatures_per_s }) = &self.catch_up {
            let _ = writeln!(
                text,
                "catching up with {blocks} blocks: {blocks_per_s:.0} blocks/s, {signatures_per_s:.0} signatures/s"
            );
        }
        for audit in &self.audit {
            let _ = writeln!(
                text,
                "audit, {} records a block: {:.0} signatures/s, {:.0} blocks/s",
                audit.records_per_block, audit.signatures_per_s, audit.blocks_per_s
            );
        }
        if let Some(Kept { disk_mb, memory_mb }) = &self.per_100k_blocks {
            let _ =
                writeln!(text, "100,000 blocks of one record: {disk_mb:.0} MB on disk, {memory_mb:.0} MB of memory");
        }
    }
}
