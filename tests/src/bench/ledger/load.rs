//! Records under way, so many at a time: when one is committed the next is said.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use godwit_ledger::block::Committed;
use godwit_ledger::record::SignedRecord;
use godwit_protocol::SiteId;
use godwit_tests::wait::LONG;
use tokio::time::Instant;

use super::words;
use super::writer::Writer;
use crate::report::Figures;

/// Before this nothing is counted: connections, caches and the pace of consensus find their way.
const WARM_UP: Duration = Duration::from_secs(1);
/// A record that is not committed by then is said again. Members do so after one second, with the first 64 of theirs; here more
/// are under way than are committed in that time.
const AGAIN: Duration = Duration::from_secs(5);
/// Blocks that are counted at least, for as long as four times the span: with few large ones, what is half done would weigh.
const FEWEST: usize = 8;
/// How often the load looks at what was not committed.
const TICK: Duration = Duration::from_millis(100);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Records that were said and are not committed.
    pub in_flight: usize,
    /// The count ends after this time...
    pub span: Duration,
    /// ...or so many records.
    pub most: usize,
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// How long it was counted.
    pub seconds: f64,
    /// Records committed in that time, and in how many blocks.
    pub records: usize,
    pub blocks: usize,
    /// From the moment before a record is sent to the one in which a block that holds it has come, in ms.
    pub commit_ms: Figures,
    /// Bytes of a record.
    pub record_bytes: usize,
    /// Records that had to be said again.
    pub again: usize,
}

#[derive(Debug)]
struct UnderWay {
    record: SignedRecord,
    first: Instant,
    last: Instant,
}

/// What was said and is not committed, by author and number.
#[derive(Debug, Default)]
struct Tally {
    under_way: HashMap<(SiteId, u64), UnderWay>,
    spans_ms: Vec<f64>,
    counts: bool,
    records: usize,
    blocks: usize,
    again: usize,
}

impl Tally {
    fn said(&mut self, record: &SignedRecord, now: Instant) {
        let key = (record.author, record.body.sequence);
        self.under_way.insert(key, UnderWay { record: record.clone(), first: now, last: now });
    }

    fn committed(&mut self, block: &Committed, now: Instant) {
        let records = &block.block.records;
        let known = records.iter().filter_map(|r| self.under_way.remove(&(r.author, r.body.sequence)));
        let spans: Vec<f64> = known.map(|record| (now - record.first).as_secs_f64() * 1000.0).collect();
        if self.counts {
            self.records += spans.len();
            self.blocks += usize::from(!spans.is_empty());
            self.spans_ms.extend(spans);
        }
    }

    fn overdue(&mut self, now: Instant) -> Vec<SignedRecord> {
        let overdue = self.under_way.values_mut().filter(|record| now - record.last > AGAIN);
        let records: Vec<SignedRecord> = overdue
            .map(|record| {
                record.last = now;
                record.record.clone()
            })
            .collect();
        self.again += records.len();
        records
    }
}

/// Runs a load; `first` is the number of its first container. `measure` is called when the count begins and when it ends.
pub async fn run(
    writer: &mut Writer,
    load: Load,
    first: u32,
    mut measure: impl FnMut() -> Result<()>,
) -> Result<Outcome> {
    // Signed before: the load is to take as little as possible of the processors that the validators run on.
    let numbers = first..first + u32::try_from(load.most)?;
    let signed = numbers.map(|n| Ok(writer.sign(n as usize, words::register(n))?.into_signed()));
    let mut records = signed.collect::<Result<Vec<_>>>()?;
    records.reverse();
    let record_bytes = godwit_protocol::encode(&records[0])?.len();
    let mut tally = Tally::default();
    let begun = Instant::now();
    let mut counted_from = begun;
    let counted_to = loop {
        let now = Instant::now();
        if !tally.counts && now - begun >= WARM_UP {
            tally.counts = true;
            counted_from = now;
            measure()?;
        }
        let counted = now - counted_from;
        let enough = counted >= load.span && (tally.blocks >= FEWEST || counted >= load.span * 4);
        let over = records.is_empty() || (tally.counts && enough);
        if over && tally.counts {
            break now;
        }
        ensure!(!over, "all {} records were said before the count began", load.most);
        let free = load.in_flight.saturating_sub(tally.under_way.len()).min(records.len());
        let next = records.split_off(records.len() - free);
        next.iter().for_each(|record| tally.said(record, now));
        writer.send(&next)?;
        if let Some(block) = writer.block_within(TICK).await? {
            tally.committed(&block, Instant::now());
        }
        let overdue = tally.overdue(Instant::now());
        writer.send(&overdue)?;
    };
    measure()?;
    tally.counts = false;
    writer.unsay(&records);
    drain(writer, &mut tally).await?;
    ensure!(!tally.spans_ms.is_empty(), "no record was committed while it was counted");
    Ok(Outcome {
        seconds: (counted_to - counted_from).as_secs_f64(),
        records: tally.records,
        blocks: tally.blocks,
        commit_ms: Figures::of(tally.spans_ms),
        record_bytes,
        again: tally.again,
    })
}

/// Until nothing is under way any more.
async fn drain(writer: &mut Writer, tally: &mut Tally) -> Result<()> {
    let end = Instant::now() + LONG;
    while !tally.under_way.is_empty() {
        ensure!(Instant::now() < end, "{} records are not committed", tally.under_way.len());
        if let Some(block) = writer.block_within(TICK).await? {
            tally.committed(&block, Instant::now());
        }
        let overdue = tally.overdue(Instant::now());
        writer.send(&overdue)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::forge::Forge;

    #[test]
    fn a_record_counts_once_when_it_is_committed_and_is_said_again_until_then() {
        let block = Forge::new().commit_one().committed;
        let (mut tally, start) = (Tally { counts: true, ..Tally::default() }, Instant::now());
        block.block.records.iter().for_each(|record| tally.said(record, start));
        assert!(tally.overdue(start + AGAIN / 2).is_empty());
        assert_eq!(tally.overdue(start + AGAIN * 2).len(), 1);
        assert!(tally.overdue(start + AGAIN * 5 / 2).is_empty(), "said again just now");
        for _ in 0..2 {
            tally.committed(&block, start + AGAIN * 3);
        }
        assert_eq!(
            (tally.records, tally.blocks, tally.again, tally.spans_ms),
            (1, 1, 1, vec![(AGAIN * 3).as_secs_f64() * 1e3])
        );
        assert!(tally.under_way.is_empty());
    }
}
