//! The order of effects: written, synced, then said.

use godwit_protocol::planted::{self, Bug};

use super::Effect;

/// Collects one step's effects. Whatever a step wants written comes before whatever it says, so that one sync serves all
/// the votes of a step, and nothing signed leaves before it is on disk.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    sealed: Vec<Effect>,
    entries: Vec<Vec<u8>>,
    said: Vec<Effect>,
    /// Something that was signed is among what is said.
    signed: bool,
    /// Entries were appended and not yet synced, in this step or an earlier one.
    unsynced: bool,
}

impl Outbox {
    pub fn append(&mut self, entry: Vec<u8>) {
        self.entries.push(entry);
        self.unsynced = true;
    }

    /// Says what binds nobody.
    pub fn say(&mut self, effect: Effect) {
        self.said.push(effect);
    }

    /// Says what carries this replica's signature, or follows from it.
    pub fn say_signed(&mut self, effect: Effect) {
        self.signed = true;
        self.said.push(effect);
    }

    /// Commits a block. It empties the log, so what came before must be out of the way, and what follows comes after.
    pub fn commit(&mut self, commit: Effect) {
        self.seal();
        self.sealed.push(commit);
        self.unsynced = false;
    }

    /// The effects so far, in the order in which they must be performed.
    pub fn take(&mut self) -> Vec<Effect> {
        self.seal();
        std::mem::take(&mut self.sealed)
    }

    fn seal(&mut self) {
        self.sealed.extend(self.entries.drain(..).map(Effect::WalAppend));
        if std::mem::take(&mut self.signed) && std::mem::take(&mut self.unsynced) && !planted::is(Bug::SpeakBeforeSync)
        {
            self.sealed.push(Effect::WalSync);
        }
        self.sealed.append(&mut self.said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Height;
    use crate::replica::LedgerMessage;
    use godwit_protocol::Hash;

    fn word() -> Effect {
        Effect::Broadcast(LedgerMessage::Status { height: Height(1), tip: Hash::ZERO })
    }

    fn shape(effects: &[Effect]) -> String {
        let letter = |effect: &Effect| match effect {
            Effect::WalAppend(_) => 'a',
            Effect::WalSync => 's',
            Effect::Broadcast(_) => 'b',
            Effect::CancelTimers => 'c',
            _ => '?',
        };
        effects.iter().map(letter).collect()
    }

    #[test]
    fn what_is_signed_is_said_after_one_sync_of_all_that_was_written() {
        let mut outbox = Outbox::default();
        outbox.say_signed(word());
        outbox.append(vec![1]);
        outbox.say_signed(word());
        outbox.append(vec![2]);
        assert_eq!(shape(&outbox.take()), "aasbb");
    }

    #[test]
    fn what_was_written_in_an_earlier_step_is_synced_before_the_next_signed_word() {
        let mut outbox = Outbox::default();
        outbox.append(vec![1]);
        outbox.say(word());
        assert_eq!(shape(&outbox.take()), "ab");
        outbox.say_signed(word());
        assert_eq!(shape(&outbox.take()), "sb");
        outbox.say_signed(word());
        assert_eq!(shape(&outbox.take()), "b", "nothing new to sync");
    }

    #[test]
    fn what_follows_a_commit_is_written_after_it() {
        let mut outbox = Outbox::default();
        outbox.append(vec![1]);
        outbox.say_signed(word());
        outbox.commit(Effect::CancelTimers);
        outbox.append(vec![2]);
        outbox.say_signed(word());
        assert_eq!(shape(&outbox.take()), "asbcasb");
    }
}
