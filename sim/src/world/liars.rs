//! Lets the sites that lie do so.

use godwit_ledger::replica::{self, LedgerMessage};
use godwit_protocol::effect::Effect;
use godwit_protocol::{Millis, SiteId};

use super::{Happening, World};
use crate::byzantine::{Byzantine, Deed, Scene};
use crate::check::Violation;

impl World {
    /// What a site says to one other: what its replica wants said, unless it lies.
    pub(super) fn lie_to(&mut self, at: usize, to: SiteId, message: &LedgerMessage) -> Option<Vec<LedgerMessage>> {
        self.at_it(at, |liar, scene| liar.say(scene, to, message.clone()))
    }

    /// What a site does instead of one effect of its brain.
    pub(super) fn bend(&mut self, at: usize, effect: Effect) -> Vec<Effect> {
        if !self.hosts[at].lies {
            return vec![effect];
        }
        self.at_it(at, |liar, scene| liar.obey(scene, effect)).unwrap_or_default()
    }

    /// Once a second.
    pub(super) fn lie(&mut self, at: usize) -> Result<(), Violation> {
        self.put(Millis(1_000), Happening::Lie(at));
        if !self.hosts[at].is_up() {
            return Ok(());
        }
        let everybody: Vec<SiteId> = self.others(at).into_iter().map(|other| self.hosts[other].id).collect();
        for deed in self.at_it(at, |liar, scene| liar.act(scene)).unwrap_or_default() {
            match deed {
                Deed::SayAll(message) => self.post_as_is(at, &everybody, &message)?,
                Deed::Submit(record) => self.replica(at, replica::Input::Submit(*record))?,
            }
        }
        Ok(())
    }

    /// A site that lies overhears what its replica hears.
    pub(super) fn overhear(&mut self, at: usize, message: &LedgerMessage) {
        if let Some(liar) = &mut self.hosts[at].liar {
            liar.hear(message);
        }
    }

    /// None if the site does not lie.
    fn at_it<T>(&mut self, at: usize, act: impl FnOnce(&mut dyn Byzantine, &mut Scene<'_>) -> T) -> Option<T> {
        let host = &mut self.hosts[at];
        let mut liar = host.liar.take()?;
        let mut scene = Scene {
            key: &host.key,
            me: host.id,
            mesh: self.mesh,
            now: host.clock(self.now),
            state: self.witness.state_at(host.disk.height),
            dice: &mut self.dice,
            sequence: &mut host.forged,
        };
        let done = act(&mut *liar, &mut scene);
        self.hosts[at].liar = Some(liar);
        Some(done)
    }
}
