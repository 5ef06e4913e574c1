//! A mesh whose keys are known, with a short history: what comes from outside is read in its midst.

use std::sync::LazyLock;

use godwit_ledger::block::Committed;
use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::VerifiedRecord;
use godwit_ledger::replica::{Config, Replica};
use godwit_ledger::state::State;
use godwit_ledger::testing::{Mesh, key, register, site};
use godwit_protocol::{Message, Millis, OfferId, Time};

/// Sites: four validators, a member, an observer.
pub const SITES: u8 = 6;

/// The mesh.
pub static MESH: LazyLock<Midst> = LazyLock::new(Midst::new);

/// What is known of it.
pub struct Midst {
    mesh: Mesh,
    /// Its one open offer.
    pub offer: OfferId,
}

impl Midst {
    fn new() -> Self {
        let mut mesh = Mesh::new();
        mesh.say(1, Message::Register(register(2)));
        let offer = mesh.offered(1);
        Self { mesh, offer }
    }

    /// The founding document.
    #[must_use]
    pub const fn genesis(&self) -> &Genesis {
        &self.mesh.genesis
    }

    /// The blocks.
    #[must_use]
    pub fn chain(&self) -> &[Committed] {
        &self.mesh.chain
    }

    /// The state after the last.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.mesh.state
    }

    /// When the next block may be built.
    #[must_use]
    pub fn now(&self) -> Time {
        self.mesh.now.after(Millis(10))
    }

    /// A message as a site's next record.
    ///
    /// # Panics
    /// When it is too large for a record.
    #[must_use]
    pub fn sign(&self, by: u8, message: Message) -> VerifiedRecord {
        let (sequence, expires) = (self.state().next_sequence(&site(by)), self.now().after(Millis(60_000)));
        self.mesh.sign_as(by, sequence, expires, message)
    }

    /// A validator's replica at the end of the history.
    ///
    /// # Panics
    /// Never: its log is empty.
    #[must_use]
    pub fn replica(&self, number: u8) -> Replica {
        Replica::new(Config::new(key(number)), self.state().clone(), &[]).expect("an empty log")
    }
}
