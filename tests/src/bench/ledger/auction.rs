//! From an offer to its award: a member offers, all validators are asked and bid, every replica derives the award.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::record_id;
use godwit_ledger::rules::{validate, verify_records};
use godwit_ledger::state::State;
use godwit_protocol::offer::MAX_NAMED;
use godwit_protocol::{Event, OfferId};
use serde::Serialize;
use tokio::time::Instant;

use super::words;
use super::writer::Writer;
use crate::report::Figures;

/// Far more than an auction takes, with nobody bidding.
const PATIENCE: Duration = Duration::from_secs(30);
/// An offer is ended again so often, until it is: its winner may give it up in between, which makes another the winner.
const AGAIN: Duration = Duration::from_millis(200);
/// Not counted: the sites' first measurements of themselves may still be on their way.
const WARM_UP: usize = 2;

#[derive(Clone, Debug, Serialize)]
pub struct Auctions {
    pub validators: usize,
    /// From the moment before the offer is sent to the one in which the block with the last bid has come.
    pub award_ms: Figures,
    /// Auctions that ended before all who were asked had answered: by the window's end.
    pub by_window: usize,
    /// Bids of the last one.
    pub bids: usize,
}

/// The ledger as the member follows it.
struct Follower<'a> {
    writer: &'a mut Writer,
    state: State,
}

pub async fn measure(writer: &mut Writer, genesis: &Genesis, runs: usize) -> Result<Auctions> {
    let validators = writer.validators().to_vec();
    let named = &validators[..validators.len().min(MAX_NAMED)];
    let mut follower = Follower { writer, state: State::genesis(genesis) };
    let register = follower.writer.sign(0, words::register(0))?;
    follower.writer.say(&register).await?;
    follower.until(|event| matches!(event, Event::Registered { .. })).await.context("a container is registered")?;
    let (mut spans, mut by_window, mut bids) = (Vec::new(), 0, 0);
    for run in 0..runs + WARM_UP {
        let offer = follower.writer.sign(0, words::offer(0, named))?;
        let id = OfferId::from(record_id(&follower.state.mesh(), &offer).context("an offer's id")?);
        let begun = Instant::now();
        follower.writer.say(&offer).await?;
        let awarded = follower.until(|event| matches!(event, Event::Awarded { offer, .. } if *offer == id)).await;
        awarded.with_context(|| format!("an award (run {run})"))?;
        let span = begun.elapsed().as_secs_f64() * 1e3;
        let auction = follower.state.offer(&id).context("an awarded offer is open")?;
        bids = auction.award.as_ref().map_or(0, |award| award.ranking.len());
        if run >= WARM_UP {
            spans.push(span);
            by_window += usize::from(bids < named.len());
        }
        follower.end(id).await?;
    }
    Ok(Auctions { validators: validators.len(), award_ms: Figures::of(spans), by_window, bids })
}

impl Follower<'_> {
    /// Follows until this has happened.
    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            ensure!(Instant::now() < end, "it has not come to it after {} s", PATIENCE.as_secs());
            if self.follow(PATIENCE).await?.iter().any(&wanted) {
                return Ok(());
            }
        }
    }

    /// Follows one block, if there is one in that time.
    async fn follow(&mut self, most: Duration) -> Result<Vec<Event>> {
        let Some(committed) = self.writer.block_within(most).await? else { return Ok(Vec::new()) };
        let verified = verify_records(&self.state.mesh(), &committed.block)?;
        let applied = validate(&self.state, &committed.block, &verified)?;
        self.state = applied.state;
        Ok(applied.events)
    }

    /// Ends an offer, whoever is its winner.
    async fn end(&mut self, offer: OfferId) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while let Some(auction) = self.state.offer(&offer) {
            ensure!(Instant::now() < end, "an offer does not end");
            let abort = self.writer.sign(0, words::end(offer, auction.attempt))?;
            self.writer.say(&abort).await?;
            let again = Instant::now() + AGAIN;
            while self.state.offer(&offer).is_some() && Instant::now() < again {
                self.follow(AGAIN).await?;
            }
        }
        Ok(())
    }
}
