//! The sites' engines: their tasks begin, take their time and end.

use godwit_ledger::state::Phase;
use godwit_protocol::container::{Kind, Mode};
use godwit_protocol::handoff::{Action, Outcome, Task};
use godwit_protocol::site;
use godwit_protocol::{ContainerId, Hash, Millis};

use super::{Happening, World};
use crate::check::Violation;
use crate::engine::{Asked, Circumstances, Copy};
use crate::marks::Mark;

/// How often a container looks for pages whose source is silent.
const LOOK: Millis = Millis(500);

impl World {
    pub(super) fn begin(&mut self, at: usize, task: &Task) {
        let usual = match task.action {
            Action::Serve { .. } => 1..50,
            Action::Prepare { .. } => 50..900,
            Action::Freeze { .. } => 20..500,
            Action::Fetch { .. } => 20..1_500,
            Action::Restore => 20..600,
            Action::Resume | Action::Thaw => 20..400,
            Action::Fill { .. } => 5..3_000,
            Action::Discard | Action::Release => 5..100,
        };
        let span = self.dice.span(usual);
        let times = if self.dice.chance(self.faults.slow) { 30 } else { 1 };
        self.put(Millis(span.0 * times), Happening::Ends(at, task.container));
    }

    pub(super) fn ends(&mut self, at: usize, container: ContainerId) -> Result<(), Violation> {
        let Some(asked) = self.hosts[at].engine.current(&container) else { return Ok(()) };
        let before = self.hosts[at].engine.copies.get(&container).copied();
        if self.stalls(at, &asked) {
            self.hosts[at].engine.stall(&container, self.now);
            self.put(LOOK, Happening::Ends(at, container));
            return Ok(());
        }
        let needs_room =
            matches!(asked.task.action, Action::Prepare { .. } | Action::Freeze { .. } | Action::Fetch { .. });
        let fails = self.dice.chance(self.faults.task) || (needs_room && self.hosts[at].is_full);
        let profile = self.witness.state().container(&container).map(|known| known.register.profile);
        let stateless = profile.is_some_and(|profile| profile.kind == Kind::Stateless);
        let late = profile.is_some_and(|profile| profile.mode == Mode::PostCopy);
        let lost = self.source_of(&asked.task).is_some_and(|source| self.hosts[source].is_lost);
        let source = self.source_copy(at, &asked.task);
        let world = Circumstances { now: self.now, fails, source, lost, late, stateless };
        let Some((asked, outcome, next)) = self.hosts[at].engine.finish(&container, world) else { return Ok(()) };
        let Task { offer, action, .. } = asked.task;
        self.say(|| format!("         site {at}: {action:?} of {container:?}: {outcome:?}"));
        if matches!(outcome, Outcome::Failed(_)) {
            self.summary.failures += 1;
            let received = self.witness.state().offer(&offer).is_some_and(|auction| auction.phase == Phase::Received);
            match action {
                Action::Resume => self.mark(Mark::RestoreFails),
                Action::Restore if !received => self.mark(Mark::RestoreFailsBeforeCommit),
                _ => {}
            }
        }
        if let Some(next) = next {
            self.begin(at, &next.task);
        }
        self.checker.performed(self.now, &self.hosts, at, &asked.task, before, &self.witness)?;
        let lacked = before.is_some_and(|copy| copy.lacks().is_some());
        if lost && lacked && matches!(outcome, Outcome::Filled { .. }) {
            self.mark(Mark::SourceLostDuringFill);
            self.checker.lost(&container);
        }
        if asked.life == self.hosts[at].life {
            self.brain(at, site::Input::Outcome { offer, action, outcome })?;
        }
        Ok(())
    }

    /// Whether a container waits for pages: nobody serves them yet, and nobody has given them up.
    fn stalls(&self, at: usize, asked: &Asked) -> bool {
        let host = &self.hosts[at];
        let (Action::Fill { .. }, Some(source)) = (asked.task.action, self.source_of(&asked.task)) else {
            return false;
        };
        let lacks = host.engine.copies.get(&asked.task.container).and_then(Copy::lacks);
        let asks = host.is_up() && asked.life == host.life && !host.engine.is_awaited(&asked.task.container);
        lacks.is_some()
            && asks
            && !self.hosts[source].is_lost
            && self.served(at, source, asked.task.container).is_none()
    }

    /// From where a task pulls.
    fn source_of(&self, task: &Task) -> Option<usize> {
        let (Action::Prepare { source } | Action::Fetch { source, .. } | Action::Fill { source }) = task.action else {
            return None;
        };
        self.place(&source)
    }

    /// What a site can pull from another: its process serves it.
    fn served(&self, at: usize, from: usize, container: ContainerId) -> Option<Copy> {
        let source = &self.hosts[from];
        if source.is_up() && self.links.carries(at, from) { source.engine.serves(&container) } else { None }
    }

    /// What the source serves of a container.
    fn source_copy(&mut self, at: usize, task: &Task) -> Option<Copy> {
        let place = self.source_of(task)?;
        let copy = self.served(at, place, task.container);
        let source = &self.hosts[place];
        match copy {
            Some(Copy::Frozen { count, root }) if source.liar.as_ref().is_some_and(|liar| liar.spoils()) => {
                self.mark(Mark::WrongBytes);
                Some(Copy::Frozen { count, root: Hash::of(&root.0) })
            }
            copy => copy,
        }
    }
}
