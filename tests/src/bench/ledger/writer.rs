//! Members that write: one connection to all validators, the keys of several members, and the blocks as they are committed.
//!
//! It is a plain member of the mesh to the validators. It sends records as members do whose gossip did not get through, to all
//! validators directly in messages of at most [`MAX_RECORDS_SENT`], and it follows as members do: by the blocks that validators
//! announce, and by asking for what is missing.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use ed25519_dalek::SigningKey;
use godwit::net::{Endpoint, MemberInfo, MemberSet, NetConfig, NetEvent};
use godwit_ledger::block::{Committed, Height};
use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::{Record, SignedRecord, VerifiedRecord};
use godwit_ledger::replica::{LedgerMessage, MAX_RECORDS_SENT};
use godwit_protocol::bounded::List;
use godwit_protocol::membership::Role;
use godwit_protocol::{MeshId, Message, Millis, Signed, SiteId, Time, decode, encode};
use godwit_tests::wait::LONG;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// How long a record is worth something: less than the ten minutes that the ledger admits.
const LIFETIME: Millis = Millis(500_000);
/// How long a block that others have may be on its way before it is asked for: as for a replica.
const PATIENCE: Duration = Duration::from_millis(50);
/// Blocks asked for at once.
const FETCHED: u16 = 16;

/// The members.
pub struct Writer {
    net: Endpoint,
    events: mpsc::Receiver<NetEvent>,
    mesh: MeshId,
    validators: Vec<SiteId>,
    authors: Vec<(SigningKey, u64)>,
    chain: Chain,
}

/// Blocks in the order in which they were committed, whatever the order in which they come.
#[derive(Debug, Default)]
struct Chain {
    /// The last that was given out.
    height: u64,
    early: BTreeMap<u64, Committed>,
    /// The highest that somebody has, and who.
    claim: Option<(u64, SiteId)>,
}

impl Chain {
    fn claim(&mut self, site: SiteId, height: u64) {
        if self.claim.is_none_or(|(known, _)| known < height) {
            self.claim = Some((height, site));
        }
    }

    fn put(&mut self, committed: Committed) {
        let height = committed.block.header.height.0;
        if height > self.height {
            self.early.insert(height, committed);
        }
    }

    fn take(&mut self) -> Option<Committed> {
        let next = self.early.remove(&(self.height + 1))?;
        self.height += 1;
        Some(next)
    }

    /// Whom to ask for what, if something is missing.
    fn missing(&self) -> Option<(SiteId, Height)> {
        self.claim.filter(|(height, _)| *height > self.height).map(|(_, site)| (site, Height(self.height + 1)))
    }
}

impl Writer {
    /// Connects, as the member of the first key, to all validators of a mesh that is up.
    pub async fn connect(genesis: &Genesis, keys: Vec<SigningKey>) -> Result<Self> {
        let key = keys.first().context("a writer without a key")?.clone();
        let mesh = genesis.mesh();
        let config = NetConfig { key, mesh, listen: Vec::new(), peers: Vec::new(), mdns: false };
        let (net, events) = Endpoint::start(config).context("start the load's network")?;
        let all = genesis.members.iter().filter(|member| member.role == Role::Validator);
        let validators: Vec<SiteId> = all.clone().map(|member| member.site).collect();
        let members: MemberSet = all
            .map(|member| {
                let addresses = member.addresses.iter().filter_map(|address| address.as_str().parse().ok()).collect();
                (member.site, MemberInfo { role: member.role, addresses })
            })
            .collect();
        net.admit(members);
        let authors = keys.into_iter().map(|key| (key, 0)).collect();
        let mut writer = Self { net, events, mesh, validators, authors, chain: Chain::default() };
        timeout(LONG, writer.connected()).await.context("connect to all validators")??;
        Ok(writer)
    }

    async fn connected(&mut self) -> Result<()> {
        while !self.validators.iter().all(|site| self.net.is_connected(site)) {
            self.hear().await?;
        }
        Ok(())
    }

    /// All validators.
    pub fn validators(&self) -> &[SiteId] {
        &self.validators
    }

    /// One of the members.
    pub fn author(&self, place: usize) -> SiteId {
        self.authors[place].0.verifying_key().into()
    }

    /// Signs a message as the next record of one of the members, by turns.
    pub fn sign(&mut self, author: usize, message: Message) -> Result<VerifiedRecord> {
        let place = author % self.authors.len();
        let (key, sequence) = &mut self.authors[place];
        *sequence += 1;
        let record = Record { sequence: *sequence, expires: now().after(LIFETIME), message };
        Signed::sign(&self.mesh, key, record).context("sign a record")
    }

    /// Takes back records that were signed last and not sent: others get their numbers. The ledger would refuse numbers too far
    /// beyond those that it has seen.
    pub fn unsay(&mut self, records: &[SignedRecord]) {
        for (key, sequence) in &mut self.authors {
            let author = SiteId::from(key.verifying_key());
            let unsaid = records.iter().filter(|record| record.author == author).map(|record| record.body.sequence);
            *sequence = unsaid.min().map_or(*sequence, |first| first - 1);
        }
    }

    /// Sends records to all validators.
    pub fn send(&self, records: &[SignedRecord]) -> Result<()> {
        for some in records.chunks(MAX_RECORDS_SENT) {
            let message = LedgerMessage::Records(List::first(some.iter().cloned()));
            let bytes = encode(&message).context("encode records")?.into();
            for site in &self.validators {
                self.net.send_ledger(*site, &bytes).context("send records")?;
            }
        }
        Ok(())
    }

    /// Sends a record as a site does that says it for the first time: to the validators and by gossip.
    pub async fn say(&self, record: &VerifiedRecord) -> Result<()> {
        self.send(&[record.clone().into_signed()])?;
        self.net.publish_record(record).await.context("gossip a record")
    }

    /// The next block, for as long as `most`; none if it did not come.
    pub async fn block_within(&mut self, most: Duration) -> Result<Option<Committed>> {
        let end = Instant::now() + most;
        loop {
            if let Some(block) = self.chain.take() {
                return Ok(Some(block));
            }
            let patience = end.min(Instant::now() + PATIENCE);
            let before = self.chain.height;
            let heard = tokio::time::timeout_at(patience, self.hear_news()).await;
            match heard {
                Ok(heard) => heard?,
                Err(_) if Instant::now() >= end => return Ok(None),
                Err(_) => {
                    if let Some((site, from)) = self.chain.missing().filter(|_| self.chain.height == before) {
                        let bytes = encode(&LedgerMessage::Fetch { from, most: FETCHED }).context("encode")?.into();
                        self.net.send_ledger(site, &bytes).context("ask for blocks")?;
                    }
                }
            }
        }
    }

    /// Until there is a block to give out.
    async fn hear_news(&mut self) -> Result<()> {
        while !self.chain.early.contains_key(&(self.chain.height + 1)) {
            self.hear().await?;
        }
        Ok(())
    }

    async fn hear(&mut self) -> Result<()> {
        let Some(event) = self.events.recv().await else { bail!("the load's network ended") };
        let NetEvent::Ledger { from, bytes } = event else { return Ok(()) };
        match decode(&bytes).context("decode what a validator says")? {
            LedgerMessage::Status { height, .. } => self.chain.claim(from, height.0),
            LedgerMessage::Blocks(blocks) => blocks.into_inner().into_iter().for_each(|block| {
                self.chain.claim(from, block.block.header.height.0);
                self.chain.put(block);
            }),
            _ => {}
        }
        Ok(())
    }

    pub async fn close(self) {
        self.net.shutdown().await;
    }
}

pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::forge::Forge;

    #[test]
    fn blocks_are_given_out_in_order_and_the_missing_one_is_known() {
        let mut forge = Forge::new();
        let blocks: Vec<Committed> = (0..3).map(|_| forge.commit_one().committed).collect();
        let (mut chain, site) = (Chain::default(), SiteId([1; 32]));
        chain.claim(site, 3);
        chain.put(blocks[2].clone());
        chain.put(blocks[1].clone());
        assert!(chain.take().is_none());
        assert_eq!(chain.missing(), Some((site, Height(1))));
        chain.put(blocks[0].clone());
        chain.put(blocks[0].clone());
        let heights: Vec<u64> = std::iter::from_fn(|| chain.take()).map(|block| block.block.header.height.0).collect();
        assert_eq!((heights, chain.missing()), (vec![1, 2, 3], None));
        chain.put(blocks[1].clone());
        assert!(chain.take().is_none(), "each once");
    }
}
