//! Deciding the next height: from reason to begin, over votes and proposals, to the commit.

use godwit_protocol::planted::{self, Bug};
use godwit_protocol::{Millis, SiteId, Time};
use malachitebft_core_consensus::{Error, Input as Feed, LocallyProposedValue, ProposedValue, process};
use malachitebft_core_types::{
    Round, RoundCertificate, ThresholdParams, Timeout, TimeoutKind, Validity, ValueOrigin, VoteExtensionPolicy,
};

use super::context::{Ctx, Level, Value, Voter};
use super::entry::Entry;
use super::host::{Held, certificate};
use super::message::{Proposed, number_of, proposal_in, proposal_out, round_of, vote_in, vote_out};
use super::{Commit, Effect, LedgerMessage, Offence, Replica, proposer};
use crate::block::{Block, Committed, Height, VoteKind};
use crate::record::Measured;
use crate::rules::{self, Applied, BadBlock};
use crate::state::State;

/// Words of the next height that are kept of one sender: its proposal, votes and certificates of a round or two.
const MAX_AHEAD: usize = 8;

/// Blocks that are held of one height; beyond it, those of the earliest rounds go.
const MAX_HELD: usize = 16;

/// How far ahead of our round a proposal may be: the core's own bound.
const MAX_ROUNDS_AHEAD: u32 = 10;

/// At a round a second this is two weeks.
const ABSURD_ROUND: u32 = 1 << 20;

/// Beyond the clock bound, validators other than the first proposer wait this much longer for bidding to end, in ms: a
/// proposer whose clock is a little behind is not dead.
const DUE_GRACE_MS: u64 = 250;

impl Replica {
    /// Gotcha 4: start the height, index the entries, feed them, end the replay, and only then build values.
    pub(super) fn recover(&mut self) {
        let log = std::mem::take(&mut self.log);
        if log.is_empty() || !self.has_seat() {
            return;
        }
        let feeds: Vec<Feed<Ctx>> = log.iter().map(Entry::input).collect();
        self.host.replaying = Some(log.iter().map(|entry| godwit_protocol::Hash::of(&entry.encode())).collect());
        self.begin();
        self.core.index_wal_entries(feeds.iter());
        for (entry, feed) in log.into_iter().zip(feeds) {
            if self.host.decided.is_some() {
                break;
            }
            self.prepare_replay(&entry);
            self.drive(feed);
        }
        self.core.reset_entries_index();
        self.host.replaying = None;
    }

    fn prepare_replay(&mut self, entry: &Entry) {
        match entry {
            Entry::Value(judged) => {
                if let Some(block) = &judged.block {
                    self.hold(judged.hash, judged.round, (**block).clone());
                }
                if let Some(held) = self.host.held.get_mut(&judged.hash) {
                    held.told = Some(judged.valid);
                }
            }
            // It was proposed before the stop: another value in the same round would be equivocation.
            Entry::Proposal(proposal) if proposal.author == self.host.me => {
                if self.host.wanted == Some(proposal.body.round) {
                    self.host.wanted = None;
                }
            }
            // The timer that fired must not fire again.
            Entry::Timeout { .. } => {
                if let Feed::TimeoutElapsed(timeout) = entry.input() {
                    self.host.timers.cancel(timeout);
                }
            }
            Entry::Proposal(_) | Entry::Vote(_) | Entry::Polka(_) => {}
        }
    }

    // Reasons.

    /// Whether this replica itself has something to decide.
    pub(super) fn has_reason(&self) -> bool {
        let polka = self.running && self.core.driver.valid_value().is_some();
        self.votes() && (self.mempool.has_ready() || self.is_due() || polka)
    }

    /// Whether some bidding has ended, by this site's clock.
    fn is_due(&self) -> bool {
        self.due().is_some_and(|due| due <= self.host.now)
    }

    /// When some bidding ends, for this replica: the proposer acts at once, the others give it a little time.
    fn due(&self) -> Option<Time> {
        let grace = self.state.founding().clock_bound_ms.min(DUE_GRACE_MS);
        let first = self.running || self.committee.proposer(0) == self.host.me;
        self.state.due().map(|due| due.after(Millis(if first { 0 } else { grace })))
    }

    /// When to look again whether something is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.due().filter(|due| self.votes() && *due > self.host.now)
    }

    // Heights.

    /// Begins the next height if there is reason to: on demand, so that an idle mesh is silent.
    pub(super) fn begin_with_reason(&mut self) -> bool {
        let begins = !self.running && self.has_reason() && self.barred != Some(self.next());
        if begins {
            self.begin();
        }
        begins
    }

    fn begin(&mut self) {
        self.running = true;
        self.host.height = self.next();
        self.host.eager = self.has_reason();
        self.core.params.enabled = self.votes();
        // Gotcha 5: no target time.
        let committee = self.committee.clone();
        self.drive(Feed::StartHeight(Level(self.next()), committee, false, None, VoteExtensionPolicy::Disabled));
    }

    /// Builds and proposes a block, if the core wants one and there is something to put into it.
    pub(super) fn propose(&mut self) -> bool {
        let Some(round) = self.host.wanted else { return false };
        let due = self.state.due().is_some_and(|due| due <= self.host.now);
        if !self.running || self.core.round() != Round::new(round) || !(self.mempool.has_ready() || due) {
            return false;
        }
        let candidates = self.mempool.candidates();
        let (block, applied, left_out) = rules::build_of(&self.state, self.host.me, self.host.now, candidates);
        let refused = self.mempool.left_out(left_out);
        self.refuse(refused);
        if block.records.is_empty() && !due {
            return true; // nothing is ready any more
        }
        let hash = block.header.hash();
        self.host.wanted = None;
        self.host.held.insert(hash, Held { block, applied: Some(applied), told: Some(true), round });
        self.drive(Feed::Propose(LocallyProposedValue::new(Level(self.next()), Round::new(round), Value(hash))));
        true
    }

    /// Commits what was decided.
    pub(super) fn commit(&mut self) -> bool {
        let Some(decided) = self.host.decided.take() else { return false };
        let certificate = certificate(&decided);
        match self.host.held.remove(&certificate.block) {
            Some(Held { block, applied: Some(applied), .. }) => {
                self.advance(Committed { block, certificate }, applied);
            }
            // Decided, but dropped here as one of too many: it comes from those who signed.
            _ => {
                let height = certificate.height;
                tracing::warn!(%height, "a block was decided that is not at hand; it is fetched");
                self.barred = Some(height);
                self.stop_height();
                for (site, _) in certificate.signatures.iter().filter(|(site, _)| *site != self.host.me) {
                    self.catch_up.suspect(*site, height, self.host.now);
                }
            }
        }
        true
    }

    /// Makes a block the last one, whether it was decided here or came with its certificate.
    pub(super) fn advance(&mut self, committed: Committed, applied: Applied) {
        let commit = Commit::new(committed, applied);
        let news = self.announcement(&commit);
        self.enter(Effect::Commit, commit);
        news.into_iter().for_each(|word| self.host.outbox.say(word));
        self.resume_words();
    }

    /// As [`Replica::advance`], for one of many blocks that the others have long had.
    pub(super) fn pass(&mut self, committed: Committed, applied: Applied) {
        self.enter(Effect::Follow, Commit::new(committed, applied));
    }

    /// The state after a block takes the place of the one before.
    fn enter(&mut self, effect: fn(Box<Commit>) -> Effect, commit: Commit) {
        let (state, records) = (commit.state.clone(), commit.records.clone());
        self.take_over(effect(Box::new(commit)), state);
        for id in &records {
            self.mempool.remove(id);
        }
        self.revalidate();
    }

    /// Goes on from another state, once the effect that stores it has been performed.
    pub(super) fn take_over(&mut self, effect: Effect, state: State) {
        self.remember_words(self.state.height().next());
        let membership = self.state.membership_epoch();
        self.state = state;
        if self.state.membership_epoch() != membership {
            self.host.accused.clear();
        }
        self.committee = proposer::committee(&self.state);
        self.host.outbox.commit(effect);
        self.stop_height();
    }

    pub(super) fn revalidate(&mut self) {
        let refused = self.mempool.revalidate(&self.state, self.host.now);
        self.refuse(refused);
    }

    /// Hears again what was said of the height that is now the next.
    pub(super) fn resume_words(&mut self) {
        self.host.eager = self.has_reason();
        for (from, messages) in std::mem::take(&mut self.ahead) {
            messages.into_iter().for_each(|message| self.on_consensus(from, message));
        }
    }

    /// Gotcha 2: nothing of a height that is over goes on.
    fn stop_height(&mut self) {
        self.running = false;
        self.stirred = None;
        self.paused.clear();
        self.host.reset();
        self.host.outbox.say(Effect::CancelTimers);
    }

    // Words of other validators.

    pub(super) fn on_consensus(&mut self, from: SiteId, message: LedgerMessage) {
        let Some(height) = height_of(&message) else { return };
        match height.cmp(&self.next()) {
            std::cmp::Ordering::Less => self.on_past(from, &message),
            std::cmp::Ordering::Greater => self.on_future(from, height, message),
            std::cmp::Ordering::Equal => self.on_present(from, message),
        }
    }

    /// Gotcha 2: who still votes on a decided height learns how far we are. Prevotes only: a precommit that comes after
    /// the decision is the rule, not a sign of lagging.
    fn on_past(&mut self, from: SiteId, message: &LedgerMessage) {
        if matches!(message, LedgerMessage::Vote { vote, .. } if vote.body.kind == VoteKind::Prevote) {
            let status = self.status();
            self.host.outbox.say(Effect::Send { to: from, message: status });
        }
        // Its author's own, over its own stream: nobody can fill another's place with a forgery.
        let evidence = match message {
            LedgerMessage::Vote { vote, .. } if vote.author == from => self.past.vote(vote),
            LedgerMessage::Proposal(proposed) if proposed.proposal.author == from => {
                self.past.proposal(&proposed.proposal)
            }
            _ => None,
        };
        if let Some(evidence) = evidence.filter(|evidence| evidence.verify(&self.state.mesh()).is_ok()) {
            self.host.accuse(evidence);
        }
    }

    /// Keeps what the core heard of a height that is decided.
    fn remember_words(&mut self, height: Height) {
        self.past.forget(height);
        let driver = &self.core.driver;
        if driver.height() != Level(height) {
            return;
        }
        for vote in driver.votes().all_rounds().values().flat_map(|round| round.received_votes()) {
            self.past.vote(&vote_out(vote));
        }
        let proposals = driver.proposals().all_rounds().values().flat_map(|round| round.get_proposals_and_validities());
        for (proposal, _) in proposals {
            self.past.proposal(&proposal_out(proposal));
        }
    }

    /// Gotcha 3: its sender has decided this height; what it says about the next is kept until we have, too.
    fn on_future(&mut self, from: SiteId, height: Height, message: LedgerMessage) {
        if !self.committee.contains(&from) {
            return;
        }
        self.catch_up.learn(from, Height(height.0 - 1), self.host.now);
        let kept = self.ahead.entry(from).or_default();
        let is_block = |message: &LedgerMessage| matches!(message, LedgerMessage::Proposal(_));
        let second_block = is_block(&message) && kept.iter().any(is_block);
        if height == self.state.height().next().next() && kept.len() < MAX_AHEAD && !second_block {
            kept.push(message);
        }
    }

    fn on_present(&mut self, from: SiteId, message: LedgerMessage) {
        if !self.has_seat() || self.barred == Some(self.next()) || self.host.decided.is_some() {
            return;
        }
        if let Err(what) = self.vet(&message) {
            self.misbehaved(from, what);
            return;
        }
        if !self.running {
            self.begin();
        }
        match message {
            LedgerMessage::Vote { vote, eager } => {
                if eager {
                    self.stir();
                }
                self.drive(Feed::Vote(vote_in(&vote)));
            }
            LedgerMessage::Proposal(proposed) => {
                self.stir();
                self.judge(*proposed);
            }
            LedgerMessage::Polka(polka) => self.drive(Feed::PolkaCertificate((&polka).into())),
            LedgerMessage::Rounds(rounds) => self.drive(Feed::RoundCertificate((&rounds).into())),
            _ => {}
        }
    }

    /// Gotcha 6: checks what can be checked without the core, so that nothing forged reaches it or begins a height.
    fn vet(&mut self, message: &LedgerMessage) -> Result<(), Offence> {
        let Self { host, committee, core, running, .. } = self;
        let thresholds = ThresholdParams::default();
        match message {
            LedgerMessage::Vote { vote, .. } => {
                if vote.body.round > ABSURD_ROUND {
                    return Err(Offence::AbsurdRound);
                }
                if vote.body.validator != vote.author || !committee.contains(&vote.author) {
                    return Err(Offence::NotAValidator(vote.author));
                }
                let holds = host.verify(&vote.body, &vote.author, &vote.signature);
                if holds { Ok(()) } else { Err(Offence::ForgedVote) }
            }
            LedgerMessage::Proposal(proposed) => {
                let Proposed { proposal, block } = &**proposed;
                let reached = if *running { number_of(core.round()) } else { 0 };
                if proposal.body.round > reached.saturating_add(MAX_ROUNDS_AHEAD) {
                    return Err(Offence::AbsurdRound);
                }
                if proposal.body.proposer != proposal.author
                    || committee.proposer(proposal.body.round) != proposal.author
                {
                    return Err(Offence::NotTheProposer(proposal.author));
                }
                if !host.verify(&proposal.body, &proposal.author, &proposal.signature) {
                    return Err(Offence::ForgedProposal);
                }
                if block.header.hash() != proposal.body.block {
                    return Err(Offence::OtherBlock);
                }
                Ok(())
            }
            LedgerMessage::Polka(polka) => {
                if polka.round > ABSURD_ROUND {
                    return Err(Offence::AbsurdRound);
                }
                let polka: malachitebft_core_types::PolkaCertificate<Ctx> = polka.into();
                host.check_votes(polka.votes(&Ctx), committee, thresholds.quorum)
                    .map_err(|why| Offence::BadPolka(why.to_string()))
            }
            LedgerMessage::Rounds(rounds) => {
                if rounds.round > ABSURD_ROUND {
                    return Err(Offence::AbsurdRound);
                }
                let rounds: RoundCertificate<Ctx> = rounds.into();
                host.check_rounds(&rounds, committee, thresholds.honest, thresholds.quorum)
                    .map_err(|why| Offence::BadRounds(why.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Gotcha 1: gives the core a proposal together with our own verdict on its block.
    fn judge(&mut self, proposed: Proposed) {
        let Proposed { proposal, block } = proposed;
        let (hash, round) = (proposal.body.block, proposal.body.round);
        let (time, builder) = (block.header.time, block.header.proposer);
        if let Some(bad) = self.hold(hash, round, block) {
            self.misbehaved(proposal.author, Offence::BadBlock(bad));
        }
        let valid_block = self.host.held.get(&hash).is_some_and(|held| held.applied.is_some());
        // The proposer's clock is judged on the first proposal only: a polka shows that enough others found it fine.
        let (first, timely) = (proposal.body.polka.is_none(), self.is_timely(time, round));
        if first && builder != proposal.author {
            self.misbehaved(proposal.author, Offence::OthersBlock);
        }
        if first && !timely {
            self.misbehaved(proposal.author, Offence::Clock { got: time, now: self.host.now });
        }
        let mut valid = valid_block && (!first || (builder == proposal.author && timely));
        if planted::is(Bug::ClockOfReproposals) {
            valid &= timely;
        }
        self.drive(Feed::Proposal(proposal_in(&proposal)));
        let Some(held) = self.host.held.get_mut(&hash) else { return };
        // The core keeps a verdict for the height, and lets it change for the better only.
        if held.told == Some(true) || held.told == Some(valid) {
            return;
        }
        held.told = Some(valid);
        let value = ProposedValue {
            height: Level(proposal.body.height),
            round: Round::new(round),
            valid_round: round_of(proposal.body.polka),
            proposer: Voter(proposal.author),
            value: Value(hash),
            validity: Validity::from_bool(valid),
        };
        self.drive(Feed::ProposedValue(value, ValueOrigin::Consensus));
    }

    /// A proposer's clock may differ by the mesh's bound. A block on its way ages, more so the larger it is and the slower
    /// the network: how much is allowed for grows with the round, so that no network is too slow for ever.
    fn is_timely(&self, time: Time, round: u32) -> bool {
        let bound = Millis(self.state.founding().clock_bound_ms);
        let travel = self.host.pace.span(Timeout::propose(Round::new(round)));
        time <= self.host.now.after(bound) && self.host.now <= time.after(bound).after(travel)
    }

    /// Keeps a proposed block and what it leads to; gives the rule it breaks the first time it is seen.
    fn hold(&mut self, hash: godwit_protocol::Hash, round: u32, block: Block) -> Option<BadBlock> {
        if let Some(held) = self.host.held.get_mut(&hash) {
            held.round = held.round.max(round);
            return None;
        }
        if self.host.held.len() >= MAX_HELD {
            self.drop_a_block();
        }
        let (applied, bad) = match self.apply(&block) {
            Ok(applied) => (Some(applied), None),
            Err(bad) => (None, Some(bad)),
        };
        self.host.held.insert(hash, Held { block, applied, told: None, round });
        bad
    }

    /// Where a block leads from the present state.
    pub(super) fn apply(&self, block: &Block) -> Result<Applied, BadBlock> {
        match self.verified_before(block) {
            Some(verified) => rules::validate_of(&self.state, block, &verified),
            None => rules::validate(&self.state, block, &rules::verify_records(&self.state.mesh(), block)?),
        }
    }

    /// The block's records as they were verified on arrival, if all of them wait here.
    fn verified_before(&self, block: &Block) -> Option<Vec<Measured<'_>>> {
        let mesh = self.state.mesh();
        block.records.iter().map(|record| self.mempool.verified(&mesh, record)).collect()
    }

    /// Makes room: drops the block of the earliest round that the core neither locked nor may re-propose.
    fn drop_a_block(&mut self) {
        let state = self.core.driver.round_state();
        let needed = |hash: &godwit_protocol::Hash| {
            [&state.valid, &state.locked].into_iter().flatten().any(|kept| kept.value.0 == *hash)
        };
        let earliest = self.host.held.iter().filter(|(hash, _)| !needed(hash)).min_by_key(|(_, held)| held.round);
        if let Some(hash) = earliest.map(|(hash, _)| *hash) {
            self.host.held.remove(&hash);
        }
    }

    // Timeouts.

    /// Feeds a timeout to the core, unless nobody has anything to decide: then rounds stop until somebody has.
    ///
    /// A height can begin and lose its reason, for example when its only record expires. As long as somebody has one,
    /// its votes say so; every validator has had its turn to propose before rounds stop.
    pub(super) fn on_timeout(&mut self, timeout: Timeout) {
        if !self.running {
            return;
        }
        let round = number_of(self.core.round());
        let turns = u32::try_from(self.committee.len()).unwrap_or(u32::MAX);
        if round >= turns && !self.has_reason() && self.stirred != Some(round) {
            self.paused.push(timeout);
            return;
        }
        self.drive(Feed::TimeoutElapsed(timeout));
    }

    /// Somebody has something to decide: rounds go on.
    fn stir(&mut self) {
        if self.running {
            self.stirred = Some(number_of(self.core.round()));
            self.resume();
        }
    }

    /// Sets the timers again that fired while there was nothing to decide.
    pub(super) fn resume(&mut self) {
        for timeout in std::mem::take(&mut self.paused) {
            if timeout.round == self.core.round() {
                let set = self.host.timers.schedule(timeout, self.host.pace.span(timeout));
                self.host.outbox.say(set);
            }
        }
    }

    /// Repeats the votes of this round, for a validator that has just been connected.
    pub(super) fn repeat_votes(&mut self) {
        if self.running {
            self.drive(Feed::TimeoutElapsed(Timeout::new(self.core.round(), TimeoutKind::Rebroadcast)));
        }
    }

    /// Feeds the core and does what it asks for.
    fn drive(&mut self, feed: Feed<Ctx>) {
        if self.host.decided.is_some() || self.halted {
            return;
        }
        let Self { core, host, .. } = self;
        let fed: Result<(), Error<Ctx>> =
            process!(input: feed, state: core, metrics: &(), with: ask => Ok::<_, Error<Ctx>>(host.perform(ask)));
        match fed {
            Ok(()) => {}
            Err(why @ (Error::ReplayDivergence(..) | Error::WalCorrupted(_))) => {
                self.halted = true;
                self.host.outbox.say(Effect::Halt { why: why.to_string() });
            }
            Err(why) => tracing::error!(height = %self.host.height, %why, "the consensus core failed on an input"),
        }
    }
}

fn height_of(message: &LedgerMessage) -> Option<Height> {
    match message {
        LedgerMessage::Vote { vote, .. } => Some(vote.body.height),
        LedgerMessage::Proposal(proposed) => Some(proposed.proposal.body.height),
        LedgerMessage::Polka(polka) => Some(polka.height),
        LedgerMessage::Rounds(rounds) => Some(rounds.height),
        LedgerMessage::Status { .. }
        | LedgerMessage::Fetch { .. }
        | LedgerMessage::Blocks(_)
        | LedgerMessage::Records(_)
        | LedgerMessage::Pruned { .. }
        | LedgerMessage::SnapshotWanted { .. }
        | LedgerMessage::Snapshot(_)
        | LedgerMessage::ChunkWanted { .. }
        | LedgerMessage::Chunk { .. } => None,
    }
}
