//! From an offer to its award: a member offers, all validators and another member are asked, each answers on its own, and every
//! replica derives the award from the last answer.
//!
//! The validators have no engine and decline: an answer takes the same way whatever it says. The other member bids at once.

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
/// An offer is ended again so often, until it is.
const AGAIN: Duration = Duration::from_millis(200);
/// Not counted: the sites' first measurements of themselves may still be on their way.
const WARM_UP: usize = 2;

#[derive(Clone, Debug, Serialize)]
pub struct Auctions {
    pub validators: usize,
    /// From the moment before the offer is sent to the one in which the block with the last answer has come.
    pub award_ms: Figures,
    /// Sites that were asked.
    pub asked: usize,
    /// Auctions that ended before all who were asked had answered: by the window's end.
    pub by_window: usize,
}

/// The members that offer and bid, among the writer's.
const SOURCE: usize = 0;
const BIDDER: usize = 1;

/// The ledger as the member follows it.
struct Follower<'a> {
    writer: &'a mut Writer,
    state: State,
    /// To the offer that is open.
    answers: usize,
}

pub async fn measure(writer: &mut Writer, genesis: &Genesis, runs: usize) -> Result<Auctions> {
    let validators = writer.validators().to_vec();
    let mut named = validators[..validators.len().min(MAX_NAMED - 1)].to_vec();
    named.push(writer.author(BIDDER));
    let mut follower = Follower { writer, state: State::genesis(genesis), answers: 0 };
    let register = follower.writer.sign(SOURCE, words::register(0))?;
    follower.writer.say(&register).await?;
    follower.until(|event| matches!(event, Event::Registered { .. })).await.context("a container is registered")?;
    let (mut spans, mut by_window) = (Vec::new(), 0);
    for run in 0..runs + WARM_UP {
        let offer = follower.writer.sign(SOURCE, words::offer(0, &named))?;
        let id = OfferId::from(record_id(&follower.state.mesh(), &offer).context("an offer's id")?);
        let bid = follower.writer.sign(BIDDER, words::bid(id))?;
        follower.answers = 0;
        let begun = Instant::now();
        follower.writer.say(&offer).await?;
        follower.writer.say(&bid).await?;
        let awarded = follower.until(|event| matches!(event, Event::Awarded { offer, .. } if *offer == id)).await;
        awarded.with_context(|| format!("an award (run {run})"))?;
        let span = begun.elapsed().as_secs_f64() * 1e3;
        if run >= WARM_UP {
            spans.push(span);
            by_window += usize::from(follower.answers < named.len());
        }
        follower.end(id).await?;
    }
    Ok(Auctions { validators: validators.len(), award_ms: Figures::of(spans), asked: named.len(), by_window })
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
        let is_answer = |event: &&Event| matches!(event, Event::BidPlaced { .. } | Event::Declined { .. });
        self.answers += applied.events.iter().filter(is_answer).count();
        Ok(applied.events)
    }

    /// Ends an offer, whoever is its winner.
    async fn end(&mut self, offer: OfferId) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while let Some(auction) = self.state.offer(&offer) {
            ensure!(Instant::now() < end, "an offer does not end");
            let abort = self.writer.sign(SOURCE, words::end(offer, auction.attempt))?;
            self.writer.say(&abort).await?;
            let again = Instant::now() + AGAIN;
            while self.state.offer(&offer).is_some() && Instant::now() < again {
                self.follow(AGAIN).await?;
            }
        }
        Ok(())
    }
}
