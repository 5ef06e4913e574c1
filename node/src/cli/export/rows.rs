//! Blocks to rows, and rows to lines of JSON or CSV.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::ops::RangeInclusive;

use godwit_ledger::block::Committed;
use godwit_ledger::record::record_id;
use godwit_protocol::{ContainerId, Message, OfferId, RecordId, SiteId, Time, decode};
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::source::Unreadable;

/// Offers whose container is remembered, the oldest forgotten first: so many later it has ended long ago.
const OFFERS_MAX: usize = 65_536;

/// One record.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The block.
    pub height: u64,
    /// The block's time, in ms since the Unix epoch.
    pub time: Time,
    /// Its place in the block, from 0.
    pub index: u32,
    /// Its id.
    pub record: RecordId,
    /// Who appended it.
    pub author: SiteId,
    /// Its kind.
    pub kind: &'static str,
    /// The offer that it makes or is about.
    pub offer: Option<OfferId>,
    /// The container that it is about.
    pub container: Option<ContainerId>,
    /// All that it says.
    pub message: Message,
}

impl Row {
    /// The message as JSON.
    pub fn json(&self) -> Result<String, Unreadable> {
        Ok(serde_json::to_string(&self.message)?)
    }
}

/// The heading of the columns.
pub const COLUMNS: [&str; 9] = ["height", "time", "index", "record", "author", "kind", "offer", "container", "message"];

/// Where rows go.
pub trait Sink {
    /// One more row.
    fn row(&mut self, row: Row) -> Result<(), Unreadable>;
    /// No more.
    fn finish(self: Box<Self>) -> Result<(), Unreadable>;
}

/// Flattens blocks.
pub struct Flat {
    wanted: RangeInclusive<u64>,
    sink: Box<dyn Sink>,
    containers: BTreeMap<OfferId, ContainerId>,
    order: VecDeque<OfferId>,
}

impl Flat {
    pub fn new(wanted: RangeInclusive<u64>, sink: Box<dyn Sink>) -> Self {
        Self { wanted, sink, containers: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Writes the records of the wanted blocks; how many there were.
    pub fn write(
        mut self,
        blocks: &mut dyn Iterator<Item = Result<Vec<u8>, Unreadable>>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, Failure> {
        let mut count = 0;
        for block in blocks {
            let committed: Committed = block.and_then(|bytes| Ok(decode(&bytes)?)).map_err(unreadable)?;
            let height = committed.block.header.height.0;
            if height > *self.wanted.end() {
                break;
            }
            progress(height);
            for row in self.rows(&committed).map_err(unreadable)? {
                if self.wanted.contains(&height) {
                    self.sink.row(row).map_err(unwritten)?;
                    count += 1;
                }
            }
        }
        self.sink.finish().map_err(unwritten)?;
        Ok(count)
    }

    fn rows(&mut self, committed: &Committed) -> Result<Vec<Row>, Unreadable> {
        let header = &committed.block.header;
        let mut rows = Vec::with_capacity(committed.block.records.len());
        for (index, record) in (0..).zip(committed.block.records.iter()) {
            let message = record.body.message.clone();
            let id = record_id(&header.mesh, record)?;
            let offer = match &message {
                Message::Offer(offer) => {
                    self.remember(id.into(), offer.container);
                    Some(id.into())
                }
                other => other.offer(),
            };
            let container = match &message {
                Message::Register(register) => Some(register.container),
                Message::Retire(retire) => Some(retire.container),
                _ => offer.and_then(|offer| self.containers.get(&offer).copied()),
            };
            let (author, kind) = (record.author, message.name());
            let (height, time) = (header.height.0, header.time);
            rows.push(Row { height, time, index, record: id, author, kind, offer, container, message });
        }
        Ok(rows)
    }

    fn remember(&mut self, offer: OfferId, container: ContainerId) {
        if self.order.len() == OFFERS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.containers.remove(&oldest);
        }
        self.order.push_back(offer);
        self.containers.insert(offer, container);
    }
}

fn unreadable(source: Unreadable) -> Failure {
    let remedy = Some("`godwit audit` says where it is damaged".to_owned());
    Failure::Part { what: "read the ledger", source, remedy }
}

/// The target's disk is full, or its reader has gone.
pub fn unwritten(source: Unreadable) -> Failure {
    match source.downcast::<io::Error>() {
        Ok(source) => Failure::Io { what: "write the export".to_owned(), source: *source },
        Err(source) => Failure::Part { what: "write the export", source, remedy: None },
    }
}

/// JSON Lines.
pub struct Lines<W>(W);

impl<W: Write> Lines<W> {
    pub fn new(target: W) -> Self {
        Self(target)
    }
}

impl<W: Write> Sink for Lines<W> {
    fn row(&mut self, row: Row) -> Result<(), Unreadable> {
        let mut line = serde_json::to_vec(&row)?;
        line.push(b'\n');
        Ok(self.0.write_all(&line)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Unreadable> {
        Ok(self.0.flush()?)
    }
}

/// CSV as RFC 4180 has it, but for the ends of its lines.
pub struct Sheet<W: Write>(csv::Writer<W>);

impl<W: Write> Sheet<W> {
    pub fn new(target: W) -> Result<Self, Failure> {
        let mut writer = csv::Writer::from_writer(target);
        writer.write_record(COLUMNS).map_err(|error| unwritten(io::Error::from(error).into()))?;
        Ok(Self(writer))
    }
}

impl<W: Write> Sink for Sheet<W> {
    fn row(&mut self, row: Row) -> Result<(), Unreadable> {
        let message = row.json()?;
        let optional = |id: Option<String>| id.unwrap_or_default();
        let written = self.0.write_record([
            row.height.to_string(),
            row.time.0.to_string(),
            row.index.to_string(),
            row.record.to_string(),
            row.author.to_string(),
            row.kind.to_owned(),
            optional(row.offer.map(|id| id.to_string())),
            optional(row.container.map(|id| id.to_string())),
            message,
        ]);
        // As the cause that it is: a reader that has gone is told by it.
        Ok(written.map_err(io::Error::from)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Unreadable> {
        Ok(self.0.flush()?)
    }
}
