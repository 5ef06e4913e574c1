//! What must hold after every event, and what must hold when all is whole again.

use std::collections::BTreeMap;

use godwit_protocol::handoff::{Action, Task};
use godwit_protocol::{ContainerId, Epoch, Event, SiteId, Time};

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
}

type Check = Result<(), Violation>;

fn refuse(what: String) -> Check {
    Err(Violation(what))
}

impl Checker {
    /// One owner per container and epoch, and epochs rise by one.
    ///
    /// # Errors
    /// The epoch that is out of order.
    pub fn committed(&mut self, event: &Event) -> Check {
        let (container, owner, epoch) = match event {
            Event::Registered { owner, register } => (register.container, *owner, Epoch(1)),
            Event::Received { container, owner, epoch, .. } | Event::Returned { container, owner, epoch, .. } => {
                (*container, *owner, *epoch)
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
        let (container, action) = (task.container, task.action);
        let after = hosts[at].engine.copies.get(&container).copied();
        if let Some(copy @ Copy::Running { .. }) = before {
            self.saw(container, copy.count(now));
            if after.is_none() {
                return refuse(format!("{action:?} dropped the running copy of {container:?} at site {at}"));
            }
        }
        let began = !matches!(before, Some(Copy::Running { .. })) && matches!(after, Some(Copy::Running { .. }));
        if began {
            self.began(now, hosts, at, container, action, witness)?;
        }
        let running =
            hosts.iter().filter(|host| matches!(host.engine.copies.get(&container), Some(Copy::Running { .. })));
        if running.count() > 1 {
            return refuse(format!("two copies of {container:?} run after {action:?} at site {at}"));
        }
        Ok(())
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
        let owner = witness.state().container(&id).map(|known| known.owner);
        if owner != Some(hosts[at].id) {
            return refuse(format!("{id:?} runs at site {at} by {action:?}, but its owner is {owner:?}"));
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
        if memory.0 > most.0 || cpu.0 > most.1 {
            return refuse(format!("{:?} reserves {memory} and {cpu}, more than its limits", host.id));
        }
        Ok(())
    }

    /// All is whole: every offer has ended, each container runs once, at its owner, and nothing is left over.
    ///
    /// # Errors
    /// The first thing that has not settled.
    pub fn settled(&self, now: Time, hosts: &[Host], witness: &Witness) -> Check {
        if let Some((id, auction)) = witness.state().offers().next() {
            return refuse(format!("offer {id:?} is still open at {:?}, attempt {}", auction.phase, auction.attempt));
        }
        for (id, known) in witness.state().containers() {
            for (at, host) in hosts.iter().enumerate() {
                match (host.engine.copies.get(id), host.id == known.owner) {
                    (Some(Copy::Running { .. }), true) | (None, false) => {}
                    (copy, owns) => return refuse(format!("site {at} (owner: {owns}) has {copy:?} of {id:?}")),
                }
            }
        }
        for (at, host) in hosts.iter().enumerate() {
            if host.disk.height != witness.height() {
                return refuse(format!("site {at} is at block {} of {}", host.disk.height, witness.height()));
            }
            if !host.engine.is_idle() {
                return refuse(format!("the engine of site {at} is still busy"));
            }
            if let Some(promise) = host.binding().first() {
                return refuse(format!("site {at} is still bound by {promise:?}"));
            }
            if host.reserved(now).0.0 != 0 {
                return refuse(format!("site {at} still reserves {:?}", host.reserved(now)));
            }
        }
        Ok(())
    }
}
