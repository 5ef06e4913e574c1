//! The sites' processes: they start, do what their two machines want, and die.

use std::collections::VecDeque;
use std::sync::Arc;

use godwit_ledger::replica;
use godwit_protocol::capacity::Capacity;
use godwit_protocol::effect::{Effect, What};
use godwit_protocol::handoff::Promise;
use godwit_protocol::site;
use godwit_protocol::word::Word;
use godwit_protocol::{Millis, Signed};

use super::network::RECORD;
use super::{Happening, Step, World};
use crate::check::{Checker, Violation, one_copy};
use crate::engine::Asked;
use crate::marks::Mark;

/// How many times as likely a process dies right after a promise: between the promise and what follows from it most can go
/// wrong.
const AFTER_A_PROMISE: u32 = 10;

/// After what a process that found its disk full is started again.
const WHEN_FULL: Millis = Millis(2_000);

impl World {
    pub(super) fn start(&mut self, at: usize) -> Result<(), Violation> {
        if self.hosts[at].is_up() || self.hosts[at].is_lost {
            return Ok(());
        }
        if self.hosts[at].is_full {
            self.put(WHEN_FULL, Happening::Start(at));
            return Ok(());
        }
        self.mark_return(at);
        self.rotate(at)?;
        let state = self.witness.state_at(self.hosts[at].disk.height).clone();
        self.hosts[at].start(self.now, &state).map_err(|bad| Violation(format!("site {at}: {bad}")))?;
        if self.hosts[at].life == 1 {
            // Its timers run for as long as the world does.
            let phase = self.dice.below(250);
            self.put(Millis(phase), Happening::Tick(at));
            self.put(Millis(phase), Happening::Measure(at));
        }
        let mut queue = VecDeque::from([Step::Replica(replica::Input::Start)]);
        self.wake(at, &mut queue)?;
        self.drain(at, queue)?;
        // Whoever took the life before for alive gets another connection.
        let id = self.hosts[at].id;
        for other in self.others(at) {
            if self.links.learn(other, at, false) {
                self.replica(other, replica::Input::Disconnected(id))?;
            }
        }
        self.notice_all(at);
        Ok(())
    }

    /// The process dies and is started again after a time.
    pub(super) fn crash(&mut self, at: usize) -> Result<(), Violation> {
        self.die(at)?;
        let is_long = self.dice.chance(2_000);
        let away = self.dice.span(if is_long { 5_000..60_000 } else { 100..3_000 });
        self.put(away, Happening::Start(at));
        Ok(())
    }

    /// An operator stops the process and starts it again.
    pub(super) fn restart(&mut self, at: usize) -> Result<(), Violation> {
        self.die(at)?;
        let away = self.dice.span(100..5_000);
        self.put(away, Happening::Start(at));
        Ok(())
    }

    /// A site's ledger is damaged, and its operator has it fetched anew. It does not vote before it knows a block that was
    /// built later, so no more validators lose theirs than the mesh bears.
    pub(super) fn rebuild(&mut self, at: usize) -> Result<(), Violation> {
        if self.is_one_forgetful() || !self.hosts[at].is_sound() || !self.bears_loss_of(at) {
            return Ok(());
        }
        if !self.hosts[at].binding().is_empty() {
            self.mark(Mark::Rebuilt);
        }
        let now = self.hosts[at].clock(self.now);
        if self.hosts[at].is_up() {
            self.restart(at)?;
        }
        self.hosts[at].disk.rebuild(now);
        self.say(|| format!("         site {at} has lost its ledger"));
        Ok(())
    }

    /// Whether a site's ledger was lost and no block was built since by which it could vote again.
    pub(super) fn is_one_forgetful(&self) -> bool {
        self.hosts.iter().any(|host| host.has_forgotten(self.witness.state()))
    }

    /// The process dies.
    pub(super) fn die(&mut self, at: usize) -> Result<(), Violation> {
        self.mark_death(at);
        self.summary.crashes += 1;
        self.hosts[at].die(self.now);
        if self.dice.chance(self.faults.torn) {
            let torn = self.hosts[at].disk.tear(&mut self.dice);
            if torn.map_err(|bad| Violation(format!("the write-ahead log of site {at}: {bad}")))? {
                self.mark(Mark::TornWrite);
            }
        } else {
            self.hosts[at].disk.cut(&mut self.dice);
        }
        self.links.forget(at);
        for other in self.others(at) {
            self.notice_later(other, at);
        }
        let life = self.hosts[at].life;
        self.say(|| format!("         site {at} dies, life {life}"));
        let copies: Vec<_> = self.hosts[at].engine.copies.keys().copied().collect();
        copies.into_iter().try_for_each(|container| one_copy(&self.hosts, container))
    }

    pub(super) fn brain(&mut self, at: usize, input: site::Input) -> Result<(), Violation> {
        self.drain(at, VecDeque::from([Step::Brain(input)]))
    }

    pub(super) fn replica(&mut self, at: usize, input: replica::Input) -> Result<(), Violation> {
        self.drain(at, VecDeque::from([Step::Replica(input)]))
    }

    /// Goes on until the site has nothing more to do, or dies.
    pub(super) fn drain(&mut self, at: usize, mut queue: VecDeque<Step>) -> Result<(), Violation> {
        while let Some(step) = queue.pop_front() {
            let clock = self.hosts[at].clock(self.now);
            let Some(process) = &mut self.hosts[at].process else { return Ok(()) };
            match step {
                Step::Brain(input) => {
                    let effects = process.brain.step(clock, input);
                    self.obey(at, effects, &mut queue)?;
                    Checker::reserved(self.now, &self.hosts[at])?;
                }
                Step::Replica(input) => {
                    let effects = process.replica.step(clock, input);
                    self.perform(at, effects, &mut queue)?;
                    self.wake(at, &mut queue)?;
                }
            }
        }
        Ok(())
    }

    /// The brain recovers as soon as it may.
    fn wake(&mut self, at: usize, queue: &mut VecDeque<Step>) -> Result<(), Violation> {
        let effects = self.hosts[at].wake(self.now);
        self.obey(at, effects, queue)
    }

    /// Whether the process dies before it performs its next effect: by chance, or because the effect finds the disk full.
    pub(super) fn dies(&mut self, at: usize, writes: bool) -> Result<bool, Violation> {
        if writes && self.hosts[at].is_full {
            self.mark(Mark::DiskFull);
            self.die(at)?;
            self.put(WHEN_FULL, Happening::Start(at));
            return Ok(true);
        }
        self.dies_by_chance(at, 1)
    }

    fn dies_by_chance(&mut self, at: usize, times: u32) -> Result<bool, Violation> {
        let dies = self.faults.crash > 0 && self.dice.chance(self.faults.crash * times);
        if dies {
            self.crash(at)?;
        }
        Ok(dies)
    }

    /// Does what the brain wants, in order.
    fn obey(&mut self, at: usize, effects: Vec<Effect>, queue: &mut VecDeque<Step>) -> Result<(), Violation> {
        for effect in effects {
            for effect in self.bend(at, effect) {
                if self.dies(at, matches!(effect, Effect::Journal(_)))? {
                    return Ok(());
                }
                self.say(|| format!("         site {at}: {effect:?}"));
                let promises = matches!(&effect, Effect::Journal(promise) if !matches!(promise, Promise::Bid { .. } | Promise::Closed { .. }));
                self.obey_one(at, effect, queue)?;
                if promises && self.dies_by_chance(at, AFTER_A_PROMISE)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn obey_one(&mut self, at: usize, effect: Effect, queue: &mut VecDeque<Step>) -> Result<(), Violation> {
        match effect {
            Effect::Journal(promise) => self.hosts[at].disk.journal.push(promise),
            Effect::Append(message) => self.append(at, message, queue)?,
            Effect::Yield { to, body } => {
                let signed = Signed::sign(&self.mesh, &self.hosts[at].key, body).expect("a yield is small");
                self.send(at, to, Word::Yield(signed.into_signed()));
            }
            Effect::Say { to, word } => self.send(at, to, word),
            Effect::Do(task) => {
                let life = self.hosts[at].life;
                if self.hosts[at].engine.ask(Asked { task: task.clone(), life }) {
                    self.begin(at, &task);
                }
            }
            Effect::Gossip(capacity) => {
                let capacity = Capacity { height: self.hosts[at].disk.height, ..capacity };
                let signed = Signed::sign(&self.mesh, &self.hosts[at].key, capacity).expect("small");
                let signed = Arc::new(signed);
                for to in self.others(at) {
                    self.deliver(at, to, RECORD, |_| Happening::Hear(to, Arc::clone(&signed)));
                }
            }
            Effect::Tell(told) => {
                if matches!(told.what, What::Undecided) {
                    self.mark(Mark::Undecided);
                }
            }
        }
        Ok(())
    }

    pub(super) fn told(&mut self, from: usize, at: usize, word: Word) -> Result<(), Violation> {
        match word {
            Word::Yield(signed) => match signed.verify(&self.mesh) {
                Ok(yielded) => {
                    let auction = self.witness.state().offer(&yielded.body.offer);
                    if auction.is_some_and(|auction| auction.attempt > yielded.body.attempt) {
                        self.mark(Mark::StaleYield);
                    }
                    self.brain(at, site::Input::Yielded(yielded))
                }
                Err(forged) => Err(Violation(format!("a yield of site {from}: {forged}"))),
            },
            Word::Report(signed) => match signed.verify(&self.mesh) {
                Ok(report) => self.brain(at, site::Input::Report(report)),
                Err(forged) => Err(Violation(format!("a report told by site {from}: {forged}"))),
            },
            Word::Preparing { offer, attempt } => {
                let from = self.hosts[from].id;
                self.brain(at, site::Input::Preparing { from, offer, attempt })
            }
            Word::ImageWanted { .. } => Ok(()),
        }
    }
}
