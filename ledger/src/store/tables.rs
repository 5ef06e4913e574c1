//! What can be read of an open database, whoever has it open.

use std::path::Path;

use godwit_protocol::bounded::List;
use godwit_protocol::{RecordId, decode};
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BLOCKS, Damage, LINKS, Place, RECORDS, StoreError};
use crate::attested::Attested;
use crate::block::{Committed, Height};
use crate::bundle::Bundle;
use crate::genesis::Genesis;
use crate::lineage::Lineage;

/// An open database and its folder.
#[derive(Clone, Copy)]
pub(super) struct Tables<'a> {
    pub db: &'a DB,
    pub path: &'a Path,
}

impl<'a> Tables<'a> {
    pub fn column(self, name: &str) -> &'a ColumnFamily {
        self.db.cf_handle(name).expect("all columns are opened with the database")
    }

    pub fn failed(self, what: &'static str, source: rocksdb::Error) -> StoreError {
        StoreError::Database { what, path: self.path.to_owned(), source }
    }

    pub fn damaged(self, what: &str, source: Option<Damage>) -> StoreError {
        StoreError::Damaged { path: self.path.to_owned(), what: what.to_owned(), source: source.map(Box::new) }
    }

    pub fn read<T: Serialize + DeserializeOwned>(
        self,
        column: &str,
        key: &[u8],
        what: &str,
    ) -> Result<Option<T>, StoreError> {
        let bytes = self.db.get_pinned_cf(self.column(column), key).map_err(|source| self.failed("read", source))?;
        let decoded = bytes.map(|bytes| decode(&bytes)).transpose();
        decoded.map_err(|bad| self.damaged(what, Some(bad.into())))
    }

    pub fn locate(self, record: &RecordId) -> Result<Option<Place>, StoreError> {
        self.read(RECORDS, &record.0, &format!("the place of record {record}"))
    }

    /// The bytes of the blocks from a height on, in order.
    pub fn raw(self, from: Height) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> + 'a {
        let begin = from.0.to_be_bytes();
        let entries = self.db.iterator_cf(self.column(BLOCKS), IteratorMode::From(&begin, Direction::Forward));
        entries.map(move |entry| match entry {
            Ok((_, block)) => Ok(block.into_vec()),
            Err(source) => Err(self.failed("read", source)),
        })
    }

    /// Records whose ids begin with these hexadecimal digits.
    pub fn find(self, beginning: &str, most: usize) -> Result<Vec<RecordId>, StoreError> {
        let Ok(first) = format!("{beginning:0<64}").parse::<RecordId>() else { return Ok(Vec::new()) };
        let entries = self.db.iterator_cf(self.column(RECORDS), IteratorMode::From(&first.0, Direction::Forward));
        let mut found = Vec::new();
        for entry in entries.take(most) {
            let (key, _) = entry.map_err(|source| self.failed("read", source))?;
            let id = <[u8; 32]>::try_from(&key[..]).map(RecordId);
            let id = id.map_err(|_| self.damaged("an index of its records", None))?;
            if !id.to_string().starts_with(beginning) {
                break;
            }
            found.push(id);
        }
        Ok(found)
    }

    /// What changed the validators after one height and below another, in order.
    pub fn links(self, after: Height, below: Height) -> Result<Vec<Attested>, StoreError> {
        let from = after.next().0.to_be_bytes();
        let entries = self.db.iterator_cf(self.column(LINKS), IteratorMode::From(&from, Direction::Forward));
        let mut links = Vec::new();
        for entry in entries {
            let (height, link) = entry.map_err(|source| self.failed("read", source))?;
            if *height >= below.0.to_be_bytes()[..] {
                break;
            }
            links.push(decode(&link).map_err(|bad| self.damaged("a change of the validators", Some(bad.into())))?);
        }
        Ok(links)
    }

    /// The changes of the validators below a height.
    pub fn lineage(self, below: Height) -> Result<Lineage, StoreError> {
        // More than a lineage holds lead nowhere, as whoever follows them finds out.
        Ok(Lineage { links: List::first(self.links(Height(0), below)?) })
    }

    /// What there is to prove a record by.
    pub fn prove(self, genesis: &Genesis, record: &RecordId) -> Result<Option<Bundle>, StoreError> {
        let Some(Place { height, index }) = self.locate(record)? else { return Ok(None) };
        let what = format!("block {height}");
        let block: Option<Committed> = self.read(BLOCKS, &height.0.to_be_bytes(), &what)?;
        let attested = usize::try_from(index).ok().and_then(|index| Attested::of(&block?, index));
        let attested = attested.ok_or_else(|| self.damaged(&what, None))?;
        Ok(Some(Bundle { genesis: genesis.clone(), lineage: self.lineage(height)?, attested }))
    }
}
