//! The whole state as bytes, and back.
//!
//! A snapshot is the last header and the entries of all tables in key order, in chunks that each fit the codec. Nothing in
//! it is believed: the root of what was read must be the one in its header, and the header is for its caller to check
//! against a certificate.

use std::sync::Arc;

use godwit_protocol::membership::Member;
use godwit_protocol::{ContainerId, Hash, Malformed, MeshId, OfferId, SiteId, decode, encode};
use serde::{Deserialize, Serialize};

use super::{Auction, Author, Container, Phase, Seat, State};
use crate::block::Header;
use crate::genesis::Genesis;

/// A chunk ends after the entry that brings it here: far below the codec's limit, since an entry is bounded by a record's
/// size and the number of bids.
const CHUNK: usize = 256 * 1024;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    mesh: MeshId,
    header: Option<Header>,
    membership_epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Member(Member),
    Author(SiteId, Author),
    Container(Container),
    Retired(ContainerId),
    Auction(OfferId, Box<Auction>),
    Seat(SiteId, Seat),
}

/// Why bytes are not the snapshot of a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    /// It ends within a chunk.
    #[error("it ends within chunk {chunk}")]
    Cut {
        /// Counted from 0, the head.
        chunk: usize,
    },
    /// A chunk's bytes are not canonical.
    #[error("chunk {chunk} cannot be read")]
    Chunk {
        /// Counted from 0, the head.
        chunk: usize,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
    /// It belongs to another mesh.
    #[error("it is of mesh {0}")]
    Mesh(MeshId),
    /// What it holds is not what its header says.
    #[error("its content has root {got}, its header says {want}")]
    Root {
        /// The header's; the genesis state's without a header.
        want: Hash,
        /// Of what it holds.
        got: Hash,
    },
    /// It says the same in another way.
    #[error("it is not the canonical snapshot of its state")]
    NotCanonical,
}

impl State {
    /// The whole state in canonical chunks, each within the codec's limit: one state has one snapshot.
    ///
    /// # Panics
    /// Never: entries are bounded below the codec's limit.
    #[must_use]
    pub fn chunks(&self) -> Vec<Vec<u8>> {
        let head =
            Head { mesh: self.mesh, header: self.header.as_deref().cloned(), membership_epoch: self.membership_epoch };
        let mut chunks = vec![encode(&head).expect("a header is far below the codec's limit")];
        let (mut chunk, mut size) = (Vec::new(), 0);
        for entry in self.entries() {
            size += encode(&entry).expect("entries are bounded below the codec's limit").len();
            chunk.push(entry);
            if size >= CHUNK {
                chunks.push(encode(&chunk).expect("a chunk is bounded below the codec's limit"));
                (chunk, size) = (Vec::new(), 0);
            }
        }
        if !chunk.is_empty() {
            chunks.push(encode(&chunk).expect("a chunk is bounded below the codec's limit"));
        }
        chunks
    }

    /// The state of a snapshot's chunks. Its header is not checked against a certificate here.
    ///
    /// # Errors
    /// [`BadSnapshot`] says what is wrong with it.
    pub fn from_chunks<T: AsRef<[u8]>>(genesis: &Genesis, chunks: &[T]) -> Result<Self, BadSnapshot> {
        let (first, rest) = chunks.split_first().ok_or(BadSnapshot::Cut { chunk: 0 })?;
        let head: Head = decode(first.as_ref()).map_err(|source| BadSnapshot::Chunk { chunk: 0, source })?;
        if head.mesh != genesis.mesh() {
            return Err(BadSnapshot::Mesh(head.mesh));
        }
        let mut state = Self::genesis(genesis);
        let founding = state.root;
        for member in genesis.members.iter() {
            state.members.remove(&member.site);
            state.seats.remove(&member.site);
        }
        state.membership_epoch = head.membership_epoch;
        for (chunk, bytes) in (1..).zip(rest) {
            let entries: Vec<Entry> = decode(bytes.as_ref()).map_err(|source| BadSnapshot::Chunk { chunk, source })?;
            entries.into_iter().for_each(|entry| state.put(entry));
        }
        state.index();
        state.seal();
        let want = head.header.as_ref().map_or(founding, |header| header.state);
        if state.root != want {
            return Err(BadSnapshot::Root { want, got: state.root });
        }
        if let Some(header) = &head.header {
            state.advance(header);
        }
        let same = state.chunks().iter().map(Vec::as_slice).eq(chunks.iter().map(AsRef::as_ref));
        if same { Ok(state) } else { Err(BadSnapshot::NotCanonical) }
    }

    /// The whole state in canonical bytes: its chunks, each behind its length.
    ///
    /// # Panics
    /// Never: a chunk is bounded below the codec's limit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for chunk in self.chunks() {
            let length = u32::try_from(chunk.len()).expect("a chunk is bounded below the codec's limit");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    /// The state of a snapshot. Its header is not checked against a certificate here.
    ///
    /// # Errors
    /// [`BadSnapshot`] says what is wrong with it.
    pub fn decode(genesis: &Genesis, bytes: &[u8]) -> Result<Self, BadSnapshot> {
        Self::from_chunks(genesis, &split(bytes)?)
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let members = self.members.iter().map(|(_, member)| Entry::Member(member.clone()));
        let authors = self.authors.iter().map(|(site, author)| Entry::Author(*site, author.clone()));
        let containers = self.containers.iter().map(|(_, container)| Entry::Container(container.clone()));
        let retired = self.retired.iter().map(|(id, ())| Entry::Retired(*id));
        let auctions = self.auctions.iter().map(|(id, auction)| Entry::Auction(*id, Box::new(auction.clone())));
        let seats = self.seats.iter().map(|(site, seat)| Entry::Seat(*site, *seat));
        members.chain(authors).chain(containers).chain(retired).chain(auctions).chain(seats)
    }

    fn put(&mut self, entry: Entry) {
        match entry {
            Entry::Member(member) => self.members.insert(member.site, member),
            Entry::Author(site, author) => self.authors.insert(site, author),
            Entry::Container(container) => self.containers.insert(container.register.container, container),
            Entry::Retired(id) => self.retired.insert(id, ()),
            Entry::Auction(id, auction) => self.auctions.insert(id, *auction),
            Entry::Seat(site, seat) => self.seats.insert(site, seat),
        }
    }

    /// Derives the indexes. Last, from the tables: an entry that occurs twice must not leave its first form behind.
    fn index(&mut self) {
        for (id, container) in self.containers.iter() {
            self.addresses.insert(container.register.address, *id);
        }
        let bidding = self.auctions.iter().filter(|(_, auction)| auction.phase == Phase::Bidding);
        self.closing = Arc::new(bidding.map(|(id, auction)| (auction.closes, *id)).collect());
        self.elect();
    }
}

/// The chunks of a snapshot that is in one piece.
fn split(mut bytes: &[u8]) -> Result<Vec<&[u8]>, BadSnapshot> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let (chunk, rest) = bytes
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?))
            .ok_or(BadSnapshot::Cut { chunk: chunks.len() })?;
        chunks.push(chunk);
        bytes = rest;
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use godwit_protocol::Message;

    use super::*;
    use crate::block::Height;
    use crate::testing::{Mesh, register};

    fn busy() -> Mesh {
        let mut mesh = Mesh::new();
        mesh.received(1);
        mesh.awarded(2);
        mesh.offered(3);
        mesh.say(4, Message::Register(register(4)));
        mesh
    }

    fn head(snapshot: &[u8]) -> usize {
        4 + snapshot[0] as usize + 256 * snapshot[1] as usize
    }

    #[test]
    fn a_snapshot_brings_back_all_that_a_state_tells() {
        let state = busy().state;
        let back = State::decode(state.founding(), &state.encode()).expect("a snapshot");
        assert_eq!((back.root(), back.tip(), back.height()), (state.root(), state.tip(), state.height()));
        assert_eq!((back.time(), back.due(), back.mesh()), (state.time(), state.due(), state.mesh()));
        assert_eq!((back.validators(), back.validators_hash()), (state.validators(), state.validators_hash()));
        assert!(back.members().eq(state.members()));
        assert!(back.containers().eq(state.containers()));
        assert!(back.offers().eq(state.offers()));
        let genesis = State::genesis(state.founding());
        let again = State::decode(state.founding(), &genesis.encode()).expect("before the first block");
        assert_eq!((again.tip(), again.height()), (genesis.tip(), Height(0)));
    }

    #[test]
    fn a_snapshot_that_is_cut_or_bent_is_refused() {
        let state = busy().state;
        let snapshot = state.encode();
        let read = |bytes: &[u8]| State::decode(state.founding(), bytes);
        for end in 0..snapshot.len() {
            assert!(read(&snapshot[..end]).is_err(), "cut at {end}");
        }
        assert!(read(&[&snapshot[..], &[0]].concat()).is_err());
        for place in head(&snapshot)..snapshot.len() {
            let mut bent = snapshot.clone();
            bent[place] ^= 1 << (place % 8);
            assert!(read(&bent).is_err(), "byte {place}");
        }
    }

    #[test]
    fn a_snapshot_of_another_mesh_or_with_another_order_is_refused() {
        let state = busy().state;
        let snapshot = state.encode();
        let other = Genesis { prefix: 20, ..state.founding().clone() };
        assert_eq!(State::decode(&other, &snapshot).err(), Some(BadSnapshot::Mesh(state.mesh())));
        let entries: Vec<Entry> = state.entries().collect();
        for turned in [entries.iter().rev().cloned().collect(), [&entries[..], &entries[..1]].concat()] {
            let chunks = [state.chunks()[0].clone(), encode(&turned).expect("small")];
            assert_eq!(State::from_chunks(state.founding(), &chunks).err(), Some(BadSnapshot::NotCanonical));
        }
        let chunks = [state.chunks()[0].clone(), encode(&entries[1..].to_vec()).expect("small")];
        assert!(matches!(State::from_chunks(state.founding(), &chunks), Err(BadSnapshot::Root { .. })));
    }

    #[test]
    fn a_large_state_travels_in_several_chunks() {
        let mut state = busy().state;
        let held = state.containers().next().expect("one").1.clone();
        for n in 0..4_000_u16 {
            let [high, low] = n.to_be_bytes();
            let mut held = held.clone();
            held.register.container.0[..2].copy_from_slice(&[low, high]);
            held.register.address.0 = [10, 77, high + 100, low].into();
            state.containers.insert(held.register.container, held);
        }
        state.index();
        state.seal();
        let header = Header { state: state.root(), ..state.header().expect("blocks").clone() };
        state.advance(&header);
        let snapshot = state.encode();
        assert!(snapshot.len() > 2 * CHUNK);
        let back = State::decode(state.founding(), &snapshot).expect("a snapshot");
        assert!(back.containers().eq(state.containers()));
        assert_eq!(back.tip(), state.tip());
    }
}
