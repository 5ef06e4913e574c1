//! The sites' engines: their tasks begin, take their time and end.

use godwit_protocol::container::Kind;
use godwit_protocol::handoff::{Action, Outcome, Task};
use godwit_protocol::site;
use godwit_protocol::{ContainerId, Hash, Millis};

use super::{Happening, World};
use crate::check::Violation;
use crate::engine::{Circumstances, Copy};
use crate::marks::Mark;

impl World {
    pub(super) fn begin(&mut self, at: usize, task: &Task) {
        let usual = match task.action {
            Action::Serve { .. } => 1..50,
            Action::Prepare { .. } => 50..900,
            Action::Freeze { .. } => 20..500,
            Action::Fetch { .. } => 20..1_500,
            Action::Resume | Action::Thaw => 20..400,
            Action::Discard | Action::Release => 5..100,
        };
        let span = self.dice.span(usual);
        let times = if self.dice.chance(self.faults.slow) { 30 } else { 1 };
        self.put(Millis(span.0 * times), Happening::Ends(at, task.container));
    }

    pub(super) fn ends(&mut self, at: usize, container: ContainerId) -> Result<(), Violation> {
        let Some(asked) = self.hosts[at].engine.current(&container) else { return Ok(()) };
        let before = self.hosts[at].engine.copies.get(&container).copied();
        let needs_room =
            matches!(asked.task.action, Action::Prepare { .. } | Action::Freeze { .. } | Action::Fetch { .. });
        let fails = self.dice.chance(self.faults.task) || (needs_room && self.hosts[at].is_full);
        let known = self.witness.state().container(&container);
        let stateless = known.is_some_and(|known| known.register.profile.kind == Kind::Stateless);
        let world = Circumstances { now: self.now, fails, source: self.source_copy(at, &asked.task), stateless };
        let Some((asked, outcome, next)) = self.hosts[at].engine.finish(&container, world) else { return Ok(()) };
        let Task { offer, action, .. } = asked.task;
        self.say(|| format!("         site {at}: {action:?} of {container:?}: {outcome:?}"));
        if matches!(outcome, Outcome::Failed(_)) {
            self.summary.failures += 1;
            if action == Action::Resume {
                self.mark(Mark::RestoreFails);
            }
        }
        if let Some(next) = next {
            self.begin(at, &next.task);
        }
        self.checker.performed(self.now, &self.hosts, at, &asked.task, before, &self.witness)?;
        if asked.life == self.hosts[at].life {
            self.brain(at, site::Input::Outcome { offer, action, outcome })?;
        }
        Ok(())
    }

    /// What the source has of a container, if it can be asked: its process serves what is pulled.
    fn source_copy(&mut self, at: usize, task: &Task) -> Option<Copy> {
        let (Action::Prepare { source } | Action::Fetch { source, .. }) = task.action else { return None };
        let place = self.place(&source)?;
        let source = &self.hosts[place];
        if !source.is_up() || !self.links.carries(at, place) {
            return None;
        }
        let copy = source.engine.copies.get(&task.container).copied();
        match copy {
            Some(Copy::Frozen { count, root }) if source.liar.as_ref().is_some_and(|liar| liar.spoils()) => {
                self.mark(Mark::WrongBytes);
                Some(Copy::Frozen { count, root: Hash::of(&root.0) })
            }
            copy => copy,
        }
    }
}
