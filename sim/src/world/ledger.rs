//! Hosts the sites' replicas, as a node does: write-ahead log, store, timers, gossip.

use std::collections::VecDeque;
use std::sync::Arc;

use godwit_ledger::record::{VerifiedRecord, record_id};
use godwit_ledger::replica::{
    self, Adopted, Commit, Effect, LedgerMessage, MAX_BLOCKS, NotAppended, Offence, TimerToken,
};
use godwit_protocol::bounded::List;
use godwit_protocol::register::Register;
use godwit_protocol::{Event, Hash, Message, Millis, SiteId, decode, encode, site};

use super::network::RECORD;
use super::{CLOCK_BOUND, Happening, REGISTER_AGAIN, Sent, Step, World};
use crate::check::Violation;
use crate::marks::Mark;

/// A block that is proposed again so long after it was built has been locked over a partition.
const OLD: Millis = Millis(5_000);

impl World {
    pub(super) fn register(&mut self, at: usize, register: Box<Register>) -> Result<(), Violation> {
        if self.witness.state().container(&register.container).is_some() {
            return Ok(());
        }
        let message = Message::Register((*register).clone());
        self.put(REGISTER_AGAIN, Happening::Register(at, register));
        self.write(at, message)
    }

    /// A site says something in the ledger.
    pub(super) fn write(&mut self, at: usize, message: Message) -> Result<(), Violation> {
        let mut queue = VecDeque::new();
        self.append(at, message, &mut queue)?;
        self.drain(at, queue)
    }

    pub(super) fn append(&mut self, at: usize, message: Message, queue: &mut VecDeque<Step>) -> Result<(), Violation> {
        let clock = self.hosts[at].clock(self.now);
        let Some(process) = &mut self.hosts[at].process else { return Ok(()) };
        let written = process.author.write(clock, message);
        let (id, record) = written.map_err(|bad| Violation(format!("site {at} says what is malformed: {bad}")))?;
        if matches!(record.body.message, Message::Offer(_)) {
            self.offered.insert(id.into(), self.now);
        }
        queue.push_back(Step::Replica(replica::Input::Submit(record)));
        Ok(())
    }

    /// What can no longer be committed is given up.
    pub(super) fn expire(&mut self, at: usize) -> Result<(), Violation> {
        let clock = self.hosts[at].clock(self.now);
        let Some(process) = &mut self.hosts[at].process else { return Ok(()) };
        let expired = process.author.expire(clock, CLOCK_BOUND);
        let queue = expired.into_iter().map(|(_, message)| Step::Brain(site::Input::Refused(message)));
        self.drain(at, queue.collect())
    }

    pub(super) fn heard(&mut self, from: usize, at: usize, sent: Arc<Sent>) -> Result<(), Violation> {
        let message = Arc::try_unwrap(sent).map_or_else(|shared| shared.message.clone(), |sent| sent.message);
        self.overhear(at, &message);
        self.say(|| format!("         site {at} hears from {from}: {message:?}"));
        let from = self.hosts[from].id;
        self.replica(at, replica::Input::Message { from, message })
    }

    /// A record that was gossiped: an offer is answered at once, if the ledger would take it.
    pub(super) fn gossiped(&mut self, at: usize, record: VerifiedRecord) -> Result<(), Violation> {
        let clock = self.hosts[at].clock(self.now);
        let Some(process) = &self.hosts[at].process else { return Ok(()) };
        let mut queue = VecDeque::new();
        if let Message::Offer(body) = &record.body.message
            && process.replica.state().check(&record, clock).is_ok()
            && let Ok(id) = record_id(&self.mesh, &record)
        {
            let (source, expires) = (record.author, record.body.expires);
            queue.push_back(Step::Brain(site::Input::Heard { offer: id.into(), source, body: body.clone(), expires }));
        }
        queue.push_back(Step::Replica(replica::Input::Record(record)));
        self.drain(at, queue)
    }

    pub(super) fn rang(&mut self, at: usize, life: u32, token: TimerToken) -> Result<(), Violation> {
        let host = &mut self.hosts[at];
        let is_set = host.life == life && host.process.as_mut().is_some_and(|process| process.timers.remove(&token));
        if is_set { self.replica(at, replica::Input::Timer(token)) } else { Ok(()) }
    }

    /// Does what the replica wants, in order.
    pub(super) fn perform(
        &mut self,
        at: usize,
        effects: Vec<Effect>,
        queue: &mut VecDeque<Step>,
    ) -> Result<(), Violation> {
        for effect in effects {
            let writes =
                matches!(effect, Effect::WalAppend(_) | Effect::WalSync | Effect::Commit(_) | Effect::Follow(_));
            if self.dies(at, writes)? {
                break;
            }
            self.perform_one(at, effect, queue)?;
            if !self.hosts[at].is_up() {
                break;
            }
        }
        Ok(())
    }

    fn perform_one(&mut self, at: usize, effect: Effect, queue: &mut VecDeque<Step>) -> Result<(), Violation> {
        match effect {
            Effect::WalAppend(entry) => self.hosts[at].disk.unsynced.push(entry),
            Effect::WalSync => {
                let disk = &mut self.hosts[at].disk;
                disk.log.append(&mut disk.unsynced);
            }
            Effect::Send { to, message } => self.post(at, &[to], &message)?,
            Effect::Announce { to, message } => self.post(at, &to, &message)?,
            Effect::Broadcast(message) => {
                let validators = self.witness.state_at(self.hosts[at].disk.height).validators().to_vec();
                self.post(at, &validators, &message)?;
            }
            Effect::SetTimer { token, after } => {
                let life = self.hosts[at].life;
                if let Some(process) = &mut self.hosts[at].process {
                    process.timers.insert(token);
                }
                self.put(after, Happening::Timer(at, life, token));
            }
            Effect::CancelTimers => {
                if let Some(process) = &mut self.hosts[at].process {
                    process.timers.clear();
                }
            }
            Effect::Commit(commit) | Effect::Follow(commit) => self.commit(at, *commit, queue)?,
            Effect::ServeBlocks { to, from, most } => {
                let blocks = self.witness.blocks(from, self.hosts[at].disk.height).take(usize::from(most));
                let blocks: List<_, MAX_BLOCKS> = List::first(blocks);
                self.post(at, &[to], &LedgerMessage::Blocks(blocks))?;
            }
            Effect::Refused { id, why } => {
                if matches!(why, NotAppended::Full(_)) {
                    self.mark(Mark::MempoolFull);
                }
                let settled = self.hosts[at].process.as_mut().and_then(|process| process.author.settle(&id));
                if let Some(message) = settled {
                    self.mark_refusal(&message, &why);
                    self.say(|| format!("         site {at}: {} refused: {why}", message.name()));
                    queue.push_back(Step::Brain(site::Input::Refused(message)));
                }
            }
            Effect::Gossip(record) => {
                let verified = record.verify(&self.mesh);
                let record: VerifiedRecord = verified.map_err(|bad| Violation(format!("site {at} gossips: {bad}")))?;
                let record = Arc::new(record);
                for to in self.others(at) {
                    self.deliver(at, to, RECORD, |_| Happening::Gossiped(to, Arc::clone(&record)));
                }
            }
            Effect::Misbehaved { site, what } => self.suspect(at, site, &what)?,
            Effect::Accuse(evidence) => {
                let process = self.hosts[at].process.as_ref();
                if process.is_some_and(|process| process.replica.state().judge(&evidence).is_ok()) {
                    self.append(at, Message::Evidence(*evidence), queue)?;
                }
            }
            Effect::Halt { why } => return Err(Violation(format!("the ledger of site {at} stops: {why}"))),
            Effect::ServeSnapshot { to, trusted } => {
                let offer = self.witness.offer(trusted, self.hosts[at].disk.height);
                self.post(at, &[to], &LedgerMessage::Snapshot(offer.map(Box::new)))?;
            }
            Effect::ServeChunk { to, height, index } => {
                let bytes = List::first(self.witness.chunk(height, index).unwrap_or_default());
                self.post(at, &[to], &LedgerMessage::Chunk { height, index, bytes })?;
            }
            Effect::Adopt(adopted) => self.adopt(at, &adopted)?,
            // What was committed is on disk at once, and a download begins anew after a crash.
            Effect::StoreSync | Effect::KeepOffer(_) | Effect::KeepChunk { .. } | Effect::DropDownload => {}
        }
        Ok(())
    }

    /// Of an honest site a late word, or a clock that is off, may look like misbehaviour; a forgery or a contradiction not.
    fn suspect(&mut self, at: usize, site: SiteId, what: &Offence) -> Result<(), Violation> {
        self.say(|| format!("         site {at} suspects {site:?}: {what}"));
        let lies = self.place(&site).is_some_and(|place| self.hosts[place].lies);
        if !self.hosts[at].is_sound() {
            return Ok(());
        }
        match what {
            Offence::Clock { .. } | Offence::AbsurdRound if !lies => self.summary.suspicions += 1,
            _ if !lies => {
                return Err(Violation(format!("site {at} holds against {site:?}, which is honest: {what}")));
            }
            Offence::Equivocation(_) => self.mark(Mark::Equivocation),
            Offence::ForgedVote | Offence::ForgedProposal | Offence::ForgedRecord(_) => self.mark(Mark::Forgery),
            Offence::BadCertificate { .. } | Offence::BadCommitted { .. } => self.mark(Mark::FalseHistory),
            Offence::BadBlock(_) => self.mark(Mark::BadProposal),
            _ => {}
        }
        Ok(())
    }

    fn commit(&mut self, at: usize, commit: Commit, queue: &mut VecDeque<Step>) -> Result<(), Violation> {
        let height = commit.committed.certificate.height;
        if height != self.hosts[at].disk.height.next() {
            let before = self.hosts[at].disk.height;
            return Err(Violation(format!("site {at} commits block {height} on block {before}")));
        }
        if self.witness.commit(self.hosts[at].id, &commit)? {
            self.mark_commit(&commit);
            self.checker.committed(&commit)?;
            for event in &commit.events {
                self.say(|| format!("         block {height}: {event:?}"));
                self.count(event);
            }
        }
        let host = &mut self.hosts[at];
        host.disk.height = height;
        host.disk.empty_log();
        let next = commit.state.next_sequence(&host.id);
        if let Some(process) = &mut host.process {
            process.author.seen(next);
            for id in &commit.records {
                process.author.settle(id);
            }
        }
        if host.is_renewed_in(&commit.state) {
            return self.restart(at);
        }
        // While it does not know the ledger it acts on none of what was long ago.
        let acts = host.process.as_ref().is_some_and(|process| process.brain.is_awake());
        self.time_awards(at, &commit.events);
        if acts {
            let time = commit.committed.block.header.time;
            queue.extend(commit.events.into_iter().map(|event| Step::Brain(site::Input::Ledger { time, event })));
        }
        Ok(())
    }

    /// Takes the time of awards of this site's own offers.
    fn time_awards(&mut self, at: usize, events: &[Event]) {
        for event in events {
            let Event::Awarded { offer, .. } = event else { continue };
            let auction = self.witness.state().offer(offer);
            if auction.is_some_and(|auction| auction.source == self.hosts[at].id)
                && let Some(since) = self.offered.remove(offer)
            {
                self.awarded.push(self.now.since(since).0);
            }
        }
    }

    /// A site goes on from a state that it has fetched: its brain has missed what led there, so the process begins anew.
    fn adopt(&mut self, at: usize, adopted: &Adopted) -> Result<(), Violation> {
        let height = adopted.state.height();
        if height > self.witness.height() || self.witness.state_at(height).root() != adopted.state.root() {
            return Err(Violation(format!("site {at} adopts a state of height {height} that is not the mesh's")));
        }
        let disk = &mut self.hosts[at].disk;
        disk.height = height;
        disk.empty_log();
        self.crash(at)
    }

    /// Sends what the replica wants said, or what a site that lies makes of it.
    fn post(&mut self, at: usize, to: &[SiteId], message: &LedgerMessage) -> Result<(), Violation> {
        if self.hosts[at].lies {
            let me = self.hosts[at].id;
            for to in to.iter().filter(|to| **to != me) {
                for lie in self.lie_to(at, *to, message).unwrap_or_default() {
                    self.post_as_is(at, &[*to], &lie)?;
                }
            }
            return Ok(());
        }
        let signs = matches!(message, LedgerMessage::Vote { .. } | LedgerMessage::Proposal(_));
        if signs && !self.hosts[at].disk.unsynced.is_empty() {
            return Err(Violation(format!("site {at} says a {} before its log is synced", message.name())));
        }
        self.checker.said(at, message)?;
        if let LedgerMessage::Proposal(proposed) = message
            && proposed.proposal.body.polka.is_some()
            && self.now.since(proposed.block.header.time) > OLD
        {
            self.mark(Mark::Reproposal);
        }
        self.post_as_is(at, to, message)
    }

    pub(super) fn post_as_is(&mut self, at: usize, to: &[SiteId], message: &LedgerMessage) -> Result<(), Violation> {
        let malformed = |bad| Violation(format!("site {at} sends what is malformed: {bad}"));
        let bytes = encode(message).map_err(malformed)?;
        let message = decode(&bytes).map_err(malformed)?;
        let sent = Arc::new(Sent { message, bytes: bytes.len(), hash: Hash::of(&bytes) });
        for to in to.iter().filter_map(|to| self.place(to)).filter(|to| *to != at).collect::<Vec<_>>() {
            self.summary.messages += 1;
            self.deliver(at, to, sent.bytes, |from| Happening::Ledger(from, to, Arc::clone(&sent)));
        }
        Ok(())
    }
}
