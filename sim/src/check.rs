//! What must hold after every event, and what must hold when all is whole again.
//!
//! Promises are those of honest sites. What a lying site runs, keeps or forgets on its own machine is its own affair, as
//! long as no honest site follows it.

use std::collections::{BTreeMap, BTreeSet};

use godwit_ledger::block::{Header, Height, VoteKind};
use godwit_ledger::replica::{Commit, LedgerMessage};
use godwit_protocol::container::Kind;
use godwit_protocol::handoff::{Action, Task};
use godwit_protocol::membership::Change;
use godwit_protocol::offer::Offer;
use godwit_protocol::{ContainerId, Epoch, Event, Hash, OfferId, SiteId, Time, auction, award::Award, bid::Bid};

use crate::engine::Copy;
use crate::host::{CPU, Host, MEMORY};
use crate::witness::Witness;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// Remembers what later events must not contradict.
#[derive(Debug, Default)]
pub struct Checker {
    owners: BTreeMap<(ContainerId, Epoch), SiteId>,
    /// The highest counter that a client saw.
    acknowledged: BTreeMap<ContainerId, u64>,
    received: BTreeSet<OfferId>,
    /// What was signed, by whom and for which height, round and kind of word.
    signed: BTreeMap<(Height, SiteId, u32, u8), Option<Hash>>,
    /// Records submitted to see whether the mesh is alive, and whether they are committed.
    probes: BTreeMap<ContainerId, bool>,
}

type Check = Result<(), Violation>;

fn refuse(what: String) -> Check {
    Err(Violation(what))
}

impl Checker {
    /// What a block did: one owner per container and epoch, epochs rise by one, one receipt an offer, the best bid wins.
    ///
    /// # Errors
    /// What is out of order.
    pub fn committed(&mut self, commit: &Commit) -> Check {
        commit.events.iter().try_for_each(|event| self.event(event, commit))
    }

    fn event(&mut self, event: &Event, commit: &Commit) -> Check {
        let (container, owner, epoch) = match event {
            Event::Registered { owner, register } => (register.container, *owner, Epoch(1)),
            Event::Received { offer, container, owner, epoch, .. } => {
                if !self.received.insert(*offer) {
                    return refuse(format!("offer {offer:?} is received twice"));
                }
                (*container, *owner, *epoch)
            }
            Event::Returned { container, owner, epoch, possible_loss, .. } => {
                if *possible_loss {
                    self.acknowledged.remove(container);
                }
                (*container, *owner, *epoch)
            }
            Event::Retired { container, .. } => {
                if let Some(done) = self.probes.get_mut(container) {
                    *done = true;
                }
                return Ok(());
            }
            Event::MembershipChanged { change: Change::Rotate(rotation) } => {
                return self.rotated(rotation.body.old, rotation.author, commit);
            }
            Event::Awarded { offer, award } => {
                let known = commit.state.offer(offer);
                return known.map_or(Ok(()), |known| {
                    best_wins(&commit.committed.block.header, offer, &known.body, &known.bids, award)
                });
            }
            _ => return Ok(()),
        };
        let last = self.owners.range((container, Epoch(0))..=(container, Epoch(u64::MAX))).next_back();
        let expected = last.map_or(Epoch(1), |((_, epoch), _)| epoch.next());
        if epoch != expected {
            return refuse(format!("{container:?} has epoch {epoch} where {expected} was due"));
        }
        self.owners.insert((container, epoch), owner);
        Ok(())
    }

    /// Whatever a site has goes with it to its new key, and under the old one nothing is anybody's.
    fn rotated(&mut self, old: SiteId, new: SiteId, commit: &Commit) -> Check {
        let mut last: BTreeMap<ContainerId, (Epoch, SiteId)> = BTreeMap::new();
        for ((container, epoch), owner) in &self.owners {
            last.insert(*container, (*epoch, *owner));
        }
        for (container, (epoch, _)) in last.into_iter().filter(|(_, (_, owner))| *owner == old) {
            let Some(known) = commit.state.container(&container) else { continue };
            if (known.owner, known.epoch) != (new, epoch.next()) {
                let (owner, at) = (known.owner, known.epoch);
                return refuse(format!("{container:?} of {old:?}, now {new:?}, is {owner:?}'s at epoch {at}"));
            }
            self.owners.insert((container, epoch.next()), new);
        }
        Ok(())
    }

    /// What an honest site says with its signature: never two things for one round.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn said(&mut self, at: usize, message: &LedgerMessage) -> Check {
        let (author, height, round, kind, block) = match message {
            LedgerMessage::Vote { vote, .. } => {
                let kind = if vote.body.kind == VoteKind::Prevote { 1 } else { 2 };
                (vote.author, vote.body.height, vote.body.round, kind, vote.body.block)
            }
            LedgerMessage::Proposal(proposed) => {
                let body = &proposed.proposal.body;
                (proposed.proposal.author, body.height, body.round, 0, Some(body.block))
            }
            _ => return Ok(()),
        };
        let before = *self.signed.entry((height, author, round, kind)).or_insert(block);
        if before == block {
            return Ok(());
        }
        refuse(format!("site {at} says {block:?} after {before:?} at height {height}, round {round}"))
    }

    /// A record was submitted that retires this container: it must be committed in the end.
    pub fn probe(&mut self, container: ContainerId) {
        self.probes.insert(container, false);
    }

    /// What a task did to a copy.
    ///
    /// # Errors
    /// What it broke.
    pub fn performed(
        &mut self,
        now: Time,
        hosts: &[Host],
        at: usize,
        task: &Task,
        before: Option<Copy>,
        witness: &Witness,
    ) -> Check {
        if !hosts[at].is_sound() {
            return Ok(());
        }
        let (container, action) = (task.container, task.action);
        let after = hosts[at].engine.copies.get(&container).copied();
        if let Some(copy @ Copy::Running { .. }) = before {
            self.saw(container, copy.count(now));
            if after.is_none() {
                return refuse(format!("{action:?} dropped the running copy of {container:?} at site {at}"));
            }
        }
        self.keeps(hosts, at, task, before, after)?;
        let began = !matches!(before, Some(Copy::Running { .. })) && matches!(after, Some(Copy::Running { .. }));
        if began {
            self.began(now, hosts, at, container, action, witness)?;
        }
        one_copy(hosts, container)
    }

    /// What a copy that runs elsewhere still lacks is not dropped, nor is half a state taken for a whole one.
    fn keeps(&self, hosts: &[Host], at: usize, task: &Task, before: Option<Copy>, after: Option<Copy>) -> Check {
        let (container, action) = (task.container, task.action);
        let is_frozen = matches!(after, Some(Copy::Frozen { .. }));
        if before.and_then(|copy| copy.lacks()).is_some() && is_frozen {
            return refuse(format!("{container:?} is frozen at site {at} while it lacks pages"));
        }
        let Some(Copy::Frozen { root, .. }) = before else { return Ok(()) };
        let lacks = |host: &&Host| host.engine.copies.get(&container).and_then(Copy::lacks) == Some(root);
        if !is_frozen && hosts.iter().filter(|host| host.is_sound()).any(|host| lacks(&host)) {
            return refuse(format!("{action:?} drops what the running copy of {container:?} lacks, at site {at}"));
        }
        Ok(())
    }

    /// What a client saw of a container may be lost: so its profile's mode, and an operator, have it.
    pub fn lost(&mut self, container: &ContainerId) {
        self.acknowledged.remove(container);
    }

    fn began(
        &mut self,
        now: Time,
        hosts: &[Host],
        at: usize,
        id: ContainerId,
        action: Action,
        witness: &Witness,
    ) -> Check {
        let known = witness.state().container(&id);
        let owner = known.map(|known| known.owner);
        // It may have another key in the ledger before it has seen so itself.
        if !owner.is_some_and(|owner| hosts[at].is_known_as(owner)) {
            return refuse(format!("{id:?} runs at site {at} by {action:?}, but its owner is {owner:?}"));
        }
        if known.is_some_and(|known| known.register.profile.kind == Kind::Stateless) {
            self.acknowledged.remove(&id);
            return Ok(());
        }
        let count = hosts[at].engine.copies[&id].count(now);
        let seen = self.acknowledged.get(&id).copied().unwrap_or(0);
        if count < seen {
            return refuse(format!("{id:?} went back from {seen} to {count} by {action:?} at site {at}"));
        }
        Ok(())
    }

    fn saw(&mut self, container: ContainerId, count: u64) {
        let seen = self.acknowledged.entry(container).or_default();
        *seen = count.max(*seen);
    }

    /// A site keeps free no more than it may fill.
    ///
    /// # Errors
    /// Which site does, and by how much.
    pub fn reserved(now: Time, host: &Host) -> Check {
        let limits = &host.config().limits;
        let (memory, cpu) = host.reserved(now);
        let most = (MEMORY.0 * u64::from(limits.memory.0) / 1000, CPU.0 * u32::from(limits.cpu.0) / 1000);
        if host.is_sound() && (memory.0 > most.0 || cpu.0 > most.1) {
            return refuse(format!("{:?} reserves {memory} and {cpu}, more than its limits", host.id));
        }
        Ok(())
    }

    /// All is whole: every offer has ended, each container runs once, at its owner, nothing is left over, and what was
    /// submitted is committed. Offers between sites that lie or are lost are theirs.
    ///
    /// # Errors
    /// The first thing that has not settled.
    pub fn settled(&self, now: Time, hosts: &[Host], witness: &Witness) -> Check {
        let state = witness.state();
        let sound = |site: &SiteId| hosts.iter().any(|host| host.id == *site && host.is_sound());
        let theirs = |offer: &OfferId| {
            let parties = state.offer(offer).map(|auction| (auction.source, auction.winner()));
            parties.is_some_and(|(source, winner)| !sound(&source) && winner.is_none_or(|winner| !sound(&winner)))
        };
        if let Some((id, auction)) = state.offers().find(|(id, _)| !theirs(id)) {
            return refuse(format!("offer {id:?} is still open at {:?}, attempt {}", auction.phase, auction.attempt));
        }
        for (id, known) in state.containers() {
            for (at, host) in hosts.iter().enumerate().filter(|(_, host)| host.is_sound()) {
                match (host.engine.copies.get(id), host.id == known.owner) {
                    (Some(Copy::Running { lacks: None, .. }), true) | (None, false) => {}
                    (copy, owns) => return refuse(format!("site {at} (owner: {owns}) has {copy:?} of {id:?}")),
                }
            }
        }
        for (at, host) in hosts.iter().enumerate().filter(|(_, host)| host.is_sound()) {
            if host.disk.height != witness.height() {
                return refuse(format!("site {at} is at block {} of {}", host.disk.height, witness.height()));
            }
            if !host.engine.is_idle() {
                return refuse(format!("the engine of site {at} is still busy"));
            }
            if let Some(promise) = host.binding().iter().find(|promise| !theirs(&promise.offer())) {
                return refuse(format!("site {at} is still bound by {promise:?}"));
            }
            if host.reserved(now).0.0 != 0 {
                return refuse(format!("site {at} still reserves {:?}", host.reserved(now)));
            }
        }
        match self.probes.iter().find(|(_, done)| !**done) {
            Some((id, _)) => refuse(format!("the record that retires {id:?} is not committed")),
            None => Ok(()),
        }
    }
}

/// Whatever an event did, no container runs twice.
///
/// # Errors
/// Which one does.
pub fn one_copy(hosts: &[Host], container: ContainerId) -> Check {
    let runs = |host: &&Host| matches!(host.engine.copies.get(&container), Some(Copy::Running { .. }));
    let running = hosts.iter().filter(|host| host.is_sound()).filter(runs).count();
    if running > 1 { refuse(format!("two copies of {container:?} run")) } else { Ok(()) }
}

/// The award is what DESIGN says: best score first, ties by a hash over the parent block.
fn best_wins(header: &Header, id: &OfferId, offer: &Offer, bids: &[(SiteId, Bid)], award: &Award) -> Check {
    let tie = |site: &SiteId| Hash::of_parts("godwit/tie", &[&header.parent.0, &id.0, &site.0]);
    let mut ranked: Vec<_> = bids
        .iter()
        .map(|(site, bid)| (std::cmp::Reverse(auction::score(offer, site, bid)), tie(site), *site))
        .collect();
    ranked.sort_unstable();
    // A bidder that has left the mesh meanwhile is not ranked.
    let awarded: Vec<SiteId> = award.ranking.iter().map(|ranked| ranked.site).collect();
    let expected: Vec<SiteId> =
        ranked.into_iter().map(|(.., site)| site).filter(|site| awarded.contains(site)).collect();
    if expected == awarded {
        Ok(())
    } else {
        refuse(format!("offer {id:?} is awarded to {awarded:?}, not {expected:?}"))
    }
}
