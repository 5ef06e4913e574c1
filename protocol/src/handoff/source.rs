//! The source's side of one handoff.

use alloc::vec;
use alloc::vec::Vec;

use super::{Action, Effect, Input, Notice, Open, Outcome, Patience, Promise, Stage, Step, Task, What};
use crate::abort::{Abort, Then};
use crate::award::Award;
use crate::bid::Reason;
use crate::bounded::Text;
use crate::event::Event;
use crate::id::{ContainerId, Hash, OfferId, SiteId};
use crate::message::Message;
use crate::planted::{self, Bug};
use crate::units::{Bytes, Epoch, Millis, Time};
use crate::yield_::Yield;

/// How often a `Yield` is repeated until the ledger shows that it arrived.
const REPEAT: Millis = Millis(500);

/// After what an action that must succeed is tried again: the container stands still, or lacks pages, meanwhile.
const AFTER_FAILURE: Millis = Millis(2_000);

/// The source of one offer, from its opening to its end.
#[derive(Clone, Debug)]
pub struct Source {
    offer: OfferId,
    container: ContainerId,
    epoch: Epoch,
    patience: Patience,
    award: Option<Award>,
    attempt: u32,
    target: Option<SiteId>,
    phase: Phase,
    /// When the phase began or its counterpart last gave a sign of life.
    since: Time,
    /// When the attempt began.
    began: Time,
    /// When something was last said, to be said again.
    said: Time,
    /// When an action that must succeed, and failed, is to be tried again.
    retry: Option<Time>,
}

/// Where the source stands. Each frozen phase leads out only by the ledger or by a promise that was never made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// H1: until the award.
    Bidding,
    /// H4: until `Ready`.
    Serving,
    /// H5: until all is on disk.
    Freezing,
    /// H6: `Yield` is out, the copy is kept.
    Yielded { body: Yield, bytes: Bytes },
    /// An `Abort` of ours is before the ledger.
    Aborting { copy: Standing, then: Then },
    /// Making the container run again, then the next attempt or the end.
    Thawing { over: bool },
    /// H7: the target owns it, and may still lack pages.
    Handed,
    /// H8: deleting.
    Releasing,
    /// Nothing is left to do.
    Over,
}

/// What the container does while an `Abort` is before the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It was not stopped.
    Runs,
    /// It may have been stopped, but was never yielded: it is being made to run again.
    Thaws,
    /// It was yielded: only the ledger can let it run again.
    Kept,
}

impl Source {
    /// An offer of ours was committed.
    #[must_use]
    pub fn open(now: Time, offer: OfferId, container: ContainerId, epoch: Epoch, patience: Patience) -> Self {
        Self {
            offer,
            container,
            epoch,
            patience,
            award: None,
            attempt: 0,
            target: None,
            phase: Phase::Bidding,
            since: now,
            began: now,
            said: now,
            retry: None,
        }
    }

    /// Goes on after a restart, from what the ledger says and what was promised.
    #[must_use]
    pub fn recover(now: Time, open: &Open, promises: &[Promise], patience: Patience) -> (Self, Vec<Effect>) {
        let mut this = Self::open(now, open.id, open.body.container, open.body.epoch, patience);
        this.award.clone_from(&open.award);
        this.attempt = open.attempt;
        this.target = open.award.as_ref().and_then(|award| award.winner(open.attempt));
        let yielded = promises.iter().rev().find_map(|promise| match promise {
            Promise::Yield(body) if body.offer == open.id && body.attempt == open.attempt => Some(*body),
            _ => None,
        });
        let froze =
            promises.iter().any(|promise| matches!(promise, Promise::Freeze { offer, .. } if *offer == open.id));
        let effects = match (open.stage, yielded) {
            (Stage::Received, _) => {
                this.phase = Phase::Handed;
                this.serve_frozen()
            }
            (_, Some(body)) => {
                this.phase = Phase::Yielded { body, bytes: Bytes(0) };
                this.serve_frozen()
            }
            (Stage::Bidding, None) => vec![],
            // A freeze that was cut short, or a `Ready` that is no longer fresh: make it run, then the next in line.
            (Stage::Awarded | Stage::Ready, None) if froze || open.stage == Stage::Ready => {
                let mut effects = vec![this.act(Action::Thaw)];
                let reason = Reason::Failed(Text::clipped("the source was restarted"));
                effects.extend(this.abort(now, Standing::Thaws, Then::Next, reason));
                effects
            }
            (Stage::Awarded | Stage::Ready, None) => this.serve(now),
        };
        (this, effects)
    }

    /// Settles an offer that ended while this site was away and had frozen the container: makes it run if it is ours,
    /// drops it if it is not.
    #[must_use]
    pub fn settle(
        now: Time,
        offer: OfferId,
        container: ContainerId,
        ours: bool,
        patience: Patience,
    ) -> (Self, Vec<Effect>) {
        let mut this = Self::open(now, offer, container, Epoch(0), patience);
        let effects = if ours {
            this.thaw(now, true)
        } else {
            this.enter(now, Phase::Releasing);
            vec![this.act(Action::Release)]
        };
        (this, effects)
    }

    /// The container on offer.
    #[must_use]
    pub fn container(&self) -> ContainerId {
        self.container
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether the container stands still here.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        Self::stopped(self.phase)
    }

    /// What follows from an input.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        match (self.phase, input) {
            (_, Input::Ledger(at, event)) => self.committed(now, at, event),

            // H4
            (Phase::Serving, Input::Preparing(attempt)) if attempt == self.attempt => {
                self.since = now;
                vec![]
            }
            (Phase::Serving, Input::Outcome(Action::Serve { .. }, Outcome::Failed(reason))) => {
                let mut effects = vec![self.failed(Action::Serve { target: self.peer() }, reason.clone())];
                effects.extend(self.abort(now, Standing::Runs, Then::End, reason));
                effects
            }
            (Phase::Serving, Input::Tick)
                if now.since(self.since) > self.patience.ready || now.since(self.began) > self.patience.prepare =>
            {
                self.abort(now, Standing::Runs, Then::Next, Reason::Silent)
            }

            // H5
            (
                Phase::Freezing,
                Input::Outcome(Action::Freeze { .. }, Outcome::Frozen { root, bytes, freeze, collect }),
            ) => self.yield_(now, bytes, self.body(root, freeze, collect)),
            (Phase::Freezing, Input::Outcome(action @ Action::Freeze { .. }, Outcome::Failed(reason))) => {
                // What cannot be frozen for one target cannot for the next. The engine says that it runs on: made sure of
                // at once, as no `Yield` forbids it.
                let mut effects = vec![self.failed(action, reason.clone()), self.act(Action::Thaw)];
                effects.extend(self.abort(now, Standing::Thaws, Then::End, reason));
                effects
            }

            // After a restart: the frozen state is served again, or what was promised can no longer be had.
            (Phase::Yielded { body, .. }, Input::Outcome(action @ Action::Freeze { .. }, outcome)) => match outcome {
                Outcome::Frozen { root, bytes, .. } if root == body.root => {
                    self.phase = Phase::Yielded { body, bytes };
                    vec![]
                }
                outcome => {
                    let reason = Reason::Failed(Text::clipped("the frozen state is not what was yielded"));
                    let told = if let Outcome::Failed(cause) = outcome { cause } else { reason.clone() };
                    let mut effects = vec![self.failed(action, told)];
                    effects.extend(self.abort(now, Standing::Kept, Then::Next, reason));
                    effects
                }
            },

            // H6
            (Phase::Yielded { bytes, .. }, Input::Tick)
                if now.since(self.since) > self.patience_for(bytes) && planted::is(Bug::ResumeWithoutAbort) =>
            {
                let mut effects = vec![self.act(Action::Thaw)];
                effects.extend(self.abort(now, Standing::Thaws, Then::Next, Reason::Silent));
                effects
            }
            (Phase::Yielded { bytes, .. }, Input::Tick) if now.since(self.since) > self.patience_for(bytes) => {
                self.abort(now, Standing::Kept, Then::Next, Reason::Silent)
            }
            (Phase::Yielded { body, .. }, Input::Tick) if now.since(self.said) > REPEAT => {
                self.said = now;
                vec![Effect::Yield { to: self.peer(), body }]
            }

            // H7: after a restart. Whoever runs it lacks what is not served.
            (Phase::Handed, Input::Outcome(action @ Action::Freeze { .. }, Outcome::Failed(reason))) => {
                self.try_later(now, action, reason)
            }
            (Phase::Handed, Input::Tick) if self.is_due(now) => {
                self.retry = None;
                self.serve_frozen()
            }

            // What was never yielded runs again before the ledger has decided; if that fails, it is tried until it does.
            (
                Phase::Aborting { copy: Standing::Thaws, then },
                Input::Outcome(Action::Thaw, Outcome::Settled | Outcome::Resumed),
            ) => {
                self.phase = Phase::Aborting { copy: Standing::Runs, then };
                vec![self.tell(What::Step(Step::Thawed))]
            }
            (
                Phase::Aborting { copy: Standing::Thaws, .. } | Phase::Thawing { .. },
                Input::Outcome(Action::Thaw, Outcome::Failed(reason)),
            ) => self.try_later(now, Action::Thaw, reason),
            (Phase::Aborting { copy: Standing::Thaws, .. } | Phase::Thawing { .. }, Input::Tick)
                if self.is_due(now) =>
            {
                self.retry = None;
                vec![self.act(Action::Thaw)]
            }
            (Phase::Aborting { copy, then }, Input::Tick) if now.since(self.said) > self.patience.again => {
                let mut effects = self.abort(now, copy, then, Reason::Silent);
                effects.push(self.tell(What::Undecided));
                effects
            }

            (Phase::Thawing { over }, Input::Outcome(Action::Thaw, Outcome::Settled | Outcome::Resumed)) => {
                let mut effects = vec![self.tell(What::Step(Step::Thawed))];
                effects.extend(if over { self.close() } else { self.serve(now) });
                effects
            }

            // H8
            (Phase::Releasing, Input::Outcome(Action::Release, Outcome::Settled)) => {
                let mut effects = vec![self.tell(What::Step(Step::Released))];
                effects.extend(self.close());
                effects
            }
            (Phase::Releasing, Input::Outcome(Action::Release, Outcome::Failed(reason))) => {
                self.try_later(now, Action::Release, reason)
            }
            (Phase::Releasing, Input::Tick) if self.is_due(now) => {
                self.retry = None;
                vec![self.act(Action::Release)]
            }
            _ => vec![],
        }
    }

    fn committed(&mut self, now: Time, at: Time, event: Event) -> Vec<Effect> {
        match (self.phase, event) {
            // H3
            (Phase::Bidding, Event::Awarded { award, .. }) => {
                self.attempt = 1;
                self.target = award.winner(1);
                self.award = Some(award);
                self.serve(now)
            }

            // H5
            (Phase::Serving, Event::Readied { attempt, .. }) if attempt == self.attempt => {
                if now.since(at) > self.patience.fresh {
                    return self.abort(now, Standing::Runs, Then::Next, Reason::Silent);
                }
                self.enter(now, Phase::Freezing);
                vec![
                    Effect::Journal(Promise::Freeze { offer: self.offer, container: self.container, attempt }),
                    self.tell(What::Step(Step::Freezing)),
                    self.act(Action::Freeze { target: self.peer() }),
                ]
            }

            // H7: it is the target's, whatever we were about to say. What made us say it may be that it cannot be served.
            (Phase::Aborting { copy: Standing::Kept, .. }, Event::Received { .. }) => {
                self.enter(now, Phase::Handed);
                self.serve_frozen()
            }
            (_, Event::Received { .. }) => {
                self.enter(now, Phase::Handed);
                vec![]
            }

            // H8
            (_, Event::Closed { .. }) => {
                self.enter(now, Phase::Releasing);
                vec![self.act(Action::Release)]
            }

            // The attempt ended in the ledger: what was yielded in it is void, and the container ours.
            (phase, Event::Passed { attempt, winner, .. }) => {
                self.attempt = attempt;
                self.target = Some(winner);
                if Self::stopped(phase) { self.thaw(now, false) } else { self.serve(now) }
            }
            (phase, Event::Ended { .. }) if Self::stopped(phase) => self.thaw(now, true),
            (_, Event::Ended { .. }) => self.close(),
            (_, Event::Returned { .. }) => self.thaw(now, true),
            _ => vec![],
        }
    }

    fn stopped(phase: Phase) -> bool {
        match phase {
            Phase::Freezing | Phase::Yielded { .. } | Phase::Thawing { .. } => true,
            Phase::Aborting { copy, .. } => copy != Standing::Runs,
            _ => false,
        }
    }

    fn serve(&mut self, now: Time) -> Vec<Effect> {
        self.enter(now, Phase::Serving);
        self.began = now;
        vec![self.act(Action::Serve { target: self.peer() })]
    }

    /// Frozen it is already: the host serves it again.
    fn serve_frozen(&self) -> Vec<Effect> {
        self.target.map(|target| self.act(Action::Freeze { target })).into_iter().collect()
    }

    fn yield_(&mut self, now: Time, bytes: Bytes, body: Yield) -> Vec<Effect> {
        self.enter(now, Phase::Yielded { body, bytes });
        vec![
            self.tell(What::Step(Step::Frozen)),
            Effect::Journal(Promise::Yield(body)),
            Effect::Yield { to: self.peer(), body },
            self.tell(What::Step(Step::Yielded)),
        ]
    }

    fn abort(&mut self, now: Time, copy: Standing, then: Then, reason: Reason) -> Vec<Effect> {
        let retry = self.retry;
        self.enter(now, Phase::Aborting { copy, then });
        self.retry = retry;
        vec![Effect::Append(Message::Abort(Abort { offer: self.offer, attempt: self.attempt, then, reason }))]
    }

    fn thaw(&mut self, now: Time, over: bool) -> Vec<Effect> {
        self.enter(now, Phase::Thawing { over });
        vec![self.tell(What::Step(Step::Thawing)), self.act(Action::Thaw)]
    }

    fn close(&mut self) -> Vec<Effect> {
        self.phase = Phase::Over;
        vec![Effect::Journal(Promise::Closed { offer: self.offer })]
    }

    /// An action that must succeed did not. It is asked for again only after the host has answered, so that it never
    /// lies in the host's queue twice.
    fn try_later(&mut self, now: Time, action: Action, reason: Reason) -> Vec<Effect> {
        self.retry = Some(now.after(AFTER_FAILURE));
        vec![self.failed(action, reason)]
    }

    fn is_due(&self, now: Time) -> bool {
        self.retry.is_some_and(|at| at <= now)
    }

    fn enter(&mut self, now: Time, phase: Phase) {
        self.phase = phase;
        self.retry = None;
        self.since = now;
        self.said = now;
    }

    fn body(&self, root: Hash, freeze_ms: Millis, collect_ms: Millis) -> Yield {
        let (offer, attempt, epoch) = (self.offer, self.attempt, self.epoch);
        Yield { offer, attempt, target: self.peer(), epoch, freeze_ms, collect_ms, root }
    }

    fn patience_for(&self, bytes: Bytes) -> Millis {
        self.patience.receipt.plus(Millis(bytes.0 / self.patience.bytes_per_ms.max(1)))
    }

    /// The winner of the attempt. There is one in every phase after bidding.
    fn peer(&self) -> SiteId {
        self.target.expect("an attempt has a winner")
    }

    fn act(&self, action: Action) -> Effect {
        Effect::Do(Task { offer: self.offer, container: self.container, action })
    }

    fn tell(&self, what: What) -> Effect {
        Effect::Tell(Notice { offer: self.offer, what })
    }

    fn failed(&self, action: Action, reason: Reason) -> Effect {
        self.tell(What::Failed(action, reason))
    }
}
