//! The target's side of one handoff: a bidder from its bid on.

use alloc::vec;
use alloc::vec::Vec;

use super::{Action, Effect, Input, Notice, Open, Outcome, Patience, Promise, Stage, Step, Task, What};
use crate::abort::{Abort, Then};
use crate::award::Award;
use crate::bid::{Decline, Reason};
use crate::bounded::Text;
use crate::done::{Done, Spans};
use crate::event::Event;
use crate::id::{ContainerId, Hash, OfferId, SiteId};
use crate::message::Message;
use crate::planted::{self, Bug};
use crate::receipt::{Ready, Receipt};
use crate::signed::Signed;
use crate::units::{Bytes, Epoch, Millis, Time};
use crate::word::Word;
use crate::yield_::Yield;

/// After what a discard or a fill that failed is tried again.
const AFTER_FAILURE: Millis = Millis(2_000);

/// The bidder on one offer, from its bid to the offer's end.
#[derive(Clone, Debug)]
pub struct Target {
    me: SiteId,
    offer: OfferId,
    container: ContainerId,
    epoch: Epoch,
    source: SiteId,
    patience: Patience,
    award: Option<Award>,
    attempt: u32,
    phase: Phase,
    since: Time,
    said: Time,
    yielded: Option<Signed<Yield>>,
    spans: Spans,
    bytes: Bytes,
    late_root: Hash,
    /// When a discard or a fill that failed is to be tried again.
    retry: Option<Time>,
    /// Why the attempt of ours was declined, until the ledger shows it: a source that is gone ends it for nobody.
    declined: Option<Reason>,
    /// The bid was given up before it was committed after all: nothing is reserved, and a win is judged anew.
    lapsed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// H2, H3: a bid is out, or another's attempt is on.
    Waiting,
    /// H4: pulling spec and image, creating the container.
    Preparing,
    /// H4: `Ready` is said.
    Ready,
    /// H6: pulling the frozen state.
    Fetching,
    /// H6: the receipt is before the ledger, and the container is being restored.
    Claiming,
    /// H7: ours; being resumed.
    Resuming,
    /// H7: runs here, and may still lack pages.
    Filling,
    /// H8: lacks nothing; `Done` is before the ledger.
    Running,
    /// Ours by the ledger, but the copy never ran: `Abort` is before the ledger.
    Returning,
    /// Ours, and nobody knows whether the copy ran: an operator must look.
    Stuck,
    /// Dropping a copy that never ran; then waiting again or over.
    Discarding {
        over: bool,
    },
    Over,
}

impl Target {
    /// A bid of ours is to be made: the first effect reserves, on disk.
    #[must_use]
    pub fn bid(now: Time, me: SiteId, open: &Open, patience: Patience) -> Self {
        let waiting = Self::waiting(now, me, open.id, open.body.container, patience);
        Self { epoch: open.body.epoch, source: open.source, ..waiting }
    }

    /// Nothing has happened yet in the handoff, and its source and epoch do not matter or are still to be filled in.
    fn waiting(now: Time, me: SiteId, offer: OfferId, container: ContainerId, patience: Patience) -> Self {
        Self {
            me,
            offer,
            container,
            epoch: Epoch(0),
            source: me,
            patience,
            award: None,
            attempt: 0,
            phase: Phase::Waiting,
            since: now,
            said: now,
            yielded: None,
            spans: Spans::default(),
            bytes: Bytes(0),
            late_root: Hash::ZERO,
            retry: None,
            declined: None,
            lapsed: false,
        }
    }

    /// Goes on after a restart, from what the ledger says and what was promised. A bid of ours that nothing promises any more
    /// had been given up, and is in the ledger after all: its block was built before the bid expired and decided after. What
    /// was kept free for it may be promised to others by now.
    #[must_use]
    pub fn recover(
        now: Time,
        me: SiteId,
        open: &Open,
        promises: &[Promise],
        patience: Patience,
    ) -> (Self, Vec<Effect>) {
        let lapsed = promises.is_empty();
        let mut this = Self { lapsed, ..Self::bid(now, me, open, patience) };
        this.award.clone_from(&open.award);
        this.attempt = open.attempt;
        let yielded = promises.iter().rev().find_map(|promise| match promise {
            Promise::Receipt { attempt, yielded } if yielded.body.offer == open.id && *attempt == open.attempt => {
                Some(yielded.clone())
            }
            _ => None,
        });
        if let Some(yielded) = yielded {
            this.accept(yielded);
        }
        let mine = this.is_winner();
        // What was journaled first binds.
        let aborted = promises.iter().any(|promise| matches!(promise, Promise::Abort { offer } if *offer == open.id));
        let wanted = match open.stage {
            Stage::Received if mine && aborted => this.give_back(now, Reason::Failed(Text::clipped("restore failed"))),
            Stage::Received if mine => this.resume(now),
            Stage::Ready | Stage::Awarded if mine && this.yielded.is_some() => this.claim(now),
            // Nothing is measured yet: whether it would still fit is not known.
            Stage::Awarded if mine && lapsed => {
                this.prepare_if(now, Err(Reason::Failed(Text::clipped("the bid was given up before a restart"))))
            }
            // A prepared copy may be half made: make it again.
            Stage::Awarded if mine => this.prepare(now),
            Stage::Ready if mine => {
                this.enter(now, Phase::Ready);
                vec![this.act(Action::Prepare { source: this.source })]
            }
            // An attempt of ours has ended; what it left may still be here.
            _ if this.has_won_before() => this.discard(now, false),
            // So it may if the award does not know us: the bid came too late, or was made under an earlier key of ours.
            _ if !lapsed && this.award.is_some() && !this.is_ranked() => this.discard(now, false),
            _ => vec![],
        };
        // Without a promise nobody would settle what it leaves behind, if it ends while this site is away.
        let promise = Effect::Journal(Promise::Bid { offer: open.id, container: open.body.container });
        let effects = lapsed.then_some(promise).into_iter().chain(wanted).collect();
        (this, effects)
    }

    /// Settles an offer that ended while this site was away and that went to somebody else: what was prepared is dropped.
    #[must_use]
    pub fn settle(
        now: Time,
        me: SiteId,
        offer: OfferId,
        container: ContainerId,
        patience: Patience,
    ) -> (Self, Vec<Effect>) {
        let mut this = Self::waiting(now, me, offer, container, patience);
        let effects = this.discard(now, true);
        (this, effects)
    }

    /// The offer's source.
    #[must_use]
    pub fn source(&self) -> SiteId {
        self.source
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

    /// Whether resources must be kept for the container: while bidding, and for the winner. A runner-up judges itself
    /// again when its turn comes.
    #[must_use]
    pub fn is_reserving(&self) -> bool {
        match self.phase {
            Phase::Waiting => self.award.is_none() && !self.lapsed,
            Phase::Discarding { .. } | Phase::Over => false,
            _ => true,
        }
    }

    /// What follows from an input. `fits` is asked when a runner-up's turn comes.
    pub fn step(&mut self, now: Time, input: Input, fits: impl FnOnce() -> Result<(), Reason>) -> Vec<Effect> {
        match (self.phase, input) {
            (_, Input::Ledger(_, event)) => self.committed(now, event, fits),

            // H4
            (Phase::Preparing, Input::Outcome(Action::Prepare { .. }, Outcome::Prepared)) => {
                self.spans.prepare_ms = now.since(self.since);
                self.enter(now, Phase::Ready);
                vec![self.tell(What::Step(Step::Prepared)), self.ready()]
            }
            (
                Phase::Preparing | Phase::Ready | Phase::Fetching,
                Input::Outcome(action @ Action::Prepare { .. }, Outcome::Failed(reason)),
            ) => self.decline(now, action, reason),
            (Phase::Preparing, Input::Tick) if now.since(self.said) > self.patience.again => {
                self.said = now;
                let word = Word::Preparing { offer: self.offer, attempt: self.attempt };
                vec![Effect::Say { to: self.source, word }]
            }

            // H6: the signature was checked; the rest of it is checked here.
            (Phase::Ready, Input::Yielded(yielded)) if self.is_for_me(&yielded) => {
                let root = yielded.body.root;
                self.accept(yielded);
                self.enter(now, Phase::Fetching);
                let fetch = self.act(Action::Fetch { source: self.source, root });
                vec![self.tell(What::Step(Step::YieldReceived)), fetch]
            }
            (Phase::Ready, Input::Tick) if now.since(self.since) > self.patience.yield_ => {
                self.decline(now, Action::Fetch { source: self.source, root: Hash::ZERO }, Reason::Silent)
            }
            (Phase::Ready, Input::Tick) if now.since(self.said) > self.patience.again => {
                self.said = now;
                vec![self.ready()]
            }
            (Phase::Fetching, Input::Outcome(Action::Fetch { .. }, Outcome::Fetched { bytes })) => {
                self.bytes = bytes;
                self.spans.send_ms = now.since(self.since);
                let mut effects = vec![self.tell(What::Step(Step::Fetched))];
                effects.extend(self.claim(now));
                effects
            }
            (Phase::Fetching, Input::Outcome(action @ Action::Fetch { .. }, Outcome::Failed(reason))) => {
                self.decline(now, action, reason)
            }
            (Phase::Claiming | Phase::Resuming, Input::Outcome(Action::Restore, Outcome::Restored)) => {
                let committed = if self.phase == Phase::Resuming { self.spans.commit_ms } else { Millis(0) };
                self.spans.restore_ms = committed.plus(now.since(self.since));
                vec![self.tell(What::Step(Step::Restored))]
            }
            // The resume, which restores what is not held, decides what becomes of it.
            (Phase::Claiming | Phase::Resuming, Input::Outcome(Action::Restore, Outcome::Failed(reason))) => {
                vec![self.tell(What::Failed(Action::Restore, reason))]
            }
            (Phase::Claiming, Input::Tick) if now.since(self.said) > self.patience.again => {
                self.said = now;
                self.receipt().into_iter().chain([self.tell(What::Undecided)]).collect()
            }

            // H7
            (Phase::Resuming, Input::Outcome(Action::Resume, Outcome::Resumed)) => {
                self.spans.switch_ms = now.since(self.since);
                self.enter(now, Phase::Filling);
                let mut effects = vec![self.tell(What::Step(Step::Resumed)), self.fill()];
                effects.extend(planted::is(Bug::DoneBeforeFilled).then(|| self.done()));
                effects
            }
            (Phase::Resuming, Input::Outcome(Action::Resume, Outcome::Failed(reason))) => {
                let mut effects = vec![self.tell(What::Failed(Action::Resume, reason.clone()))];
                effects.extend(self.give_back(now, reason));
                effects
            }
            (Phase::Resuming, Input::Outcome(Action::Resume, Outcome::Unclear(reason))) => {
                self.enter(now, Phase::Stuck);
                vec![self.tell(What::Unclear(reason))]
            }
            (Phase::Filling, Input::Outcome(Action::Fill { .. }, Outcome::Filled { bytes, late_root })) => {
                self.spans.fill_ms = now.since(self.since);
                self.bytes = self.bytes.plus(bytes);
                self.late_root = late_root;
                self.enter(now, Phase::Running);
                vec![self.tell(What::Step(Step::Filled)), self.done()]
            }
            (Phase::Filling, Input::Outcome(action @ Action::Fill { .. }, Outcome::Failed(reason))) => {
                self.retry = Some(now.after(AFTER_FAILURE));
                vec![self.tell(What::Failed(action, reason))]
            }
            (Phase::Filling, Input::Tick) if self.is_due(now) => {
                self.retry = None;
                vec![self.fill()]
            }

            // H8
            (Phase::Running, Input::Tick) if now.since(self.said) > self.patience.again => {
                self.said = now;
                vec![self.done()]
            }
            (Phase::Returning, Input::Tick) if now.since(self.said) > self.patience.again => {
                self.said = now;
                vec![self.abort(Reason::Failed(Text::clipped("restore failed")))]
            }

            (Phase::Waiting | Phase::Discarding { over: false }, Input::Tick)
                if now.since(self.said) > self.patience.again && self.declined.is_some() =>
            {
                self.said = now;
                self.declined.clone().map(|reason| self.refusal(reason)).into_iter().collect()
            }

            // A copy that stays could be taken for one that may run: it goes before anything else.
            (Phase::Discarding { .. }, Input::Outcome(Action::Discard, Outcome::Failed(reason))) => {
                self.retry = Some(now.after(AFTER_FAILURE));
                vec![self.tell(What::Failed(Action::Discard, reason))]
            }
            (Phase::Discarding { over }, Input::Outcome(Action::Discard, _)) => {
                let mut effects = vec![self.tell(What::Step(Step::Discarded))];
                effects.extend(if over { self.close() } else { self.wait(now) });
                effects
            }
            (Phase::Discarding { .. }, Input::Tick) if self.is_due(now) => {
                self.retry = None;
                vec![self.act(Action::Discard)]
            }
            _ => vec![],
        }
    }

    fn committed(&mut self, now: Time, event: Event, fits: impl FnOnce() -> Result<(), Reason>) -> Vec<Effect> {
        match event {
            // What an earlier life of this site left goes first; after it the site stands by anew.
            Event::Awarded { .. } | Event::Passed { .. } if matches!(self.phase, Phase::Discarding { over: true }) => {
                vec![]
            }

            // H3
            Event::Awarded { award, .. } => {
                self.attempt = 1;
                self.award = Some(award);
                match (self.is_winner(), self.lapsed) {
                    (true, false) => self.prepare(now),
                    (true, true) => self.prepare_if(now, fits()),
                    (false, _) => vec![],
                }
            }
            Event::Passed { attempt, .. } => {
                let had = self.holds_copy();
                (self.attempt, self.declined) = (attempt, None);
                match (had, self.is_winner()) {
                    // Our attempt ended: what we hold never ran and never will.
                    (true, _) => self.discard(now, false),
                    (false, true) => self.prepare_if(now, fits()),
                    (false, false) => vec![],
                }
            }

            // H7: only now may it run here.
            Event::Received { owner, .. } if owner == self.me => {
                self.spans.commit_ms = now.since(self.since);
                self.resume(now)
            }

            Event::Closed { .. } if matches!(self.phase, Phase::Discarding { .. }) => self.discard(now, true),
            Event::Closed { .. } => self.close(),
            Event::Ended { .. } | Event::Returned { .. } if self.holds_copy() => self.discard(now, true),
            Event::Ended { .. } | Event::Returned { .. } => self.close(),
            _ => vec![],
        }
    }

    fn is_winner(&self) -> bool {
        self.award.as_ref().and_then(|award| award.winner(self.attempt)) == Some(self.me)
    }

    /// Whether an attempt before the current one was ours.
    fn has_won_before(&self) -> bool {
        let award = self.award.as_ref();
        (1..self.attempt).any(|attempt| award.and_then(|award| award.winner(attempt)) == Some(self.me))
    }

    fn is_ranked(&self) -> bool {
        self.award.iter().flat_map(|award| &award.ranking).any(|ranked| ranked.site == self.me)
    }

    fn is_for_me(&self, yielded: &Signed<Yield>) -> bool {
        yielded.author == self.source
            && yielded.body.offer == self.offer
            && yielded.body.attempt == self.attempt
            && yielded.body.target == self.me
            && yielded.body.epoch == self.epoch
    }

    fn holds_copy(&self) -> bool {
        !matches!(self.phase, Phase::Waiting | Phase::Over)
    }

    fn prepare(&mut self, now: Time) -> Vec<Effect> {
        self.enter(now, Phase::Preparing);
        vec![self.act(Action::Prepare { source: self.source })]
    }

    /// For whoever has nothing reserved: it takes the container if it still fits.
    fn prepare_if(&mut self, now: Time, fits: Result<(), Reason>) -> Vec<Effect> {
        match fits {
            Ok(()) => self.prepare(now),
            Err(reason) => {
                self.said = now;
                self.declined = Some(reason.clone());
                vec![self.refusal(reason)]
            }
        }
    }

    fn accept(&mut self, yielded: Signed<Yield>) {
        let Yield { freeze_ms, collect_ms, .. } = yielded.body;
        self.spans = Spans { freeze_ms, collect_ms, ..self.spans };
        self.yielded = Some(yielded);
    }

    fn claim(&mut self, now: Time) -> Vec<Effect> {
        self.enter(now, Phase::Claiming);
        let promise =
            self.yielded.clone().map(|yielded| Effect::Journal(Promise::Receipt { attempt: self.attempt, yielded }));
        promise.into_iter().chain(self.receipt()).chain([self.act(Action::Restore)]).collect()
    }

    fn resume(&mut self, now: Time) -> Vec<Effect> {
        self.enter(now, Phase::Resuming);
        vec![
            Effect::Journal(Promise::Resume { offer: self.offer }),
            self.tell(What::Step(Step::Resuming)),
            self.act(Action::Resume),
        ]
    }

    fn give_back(&mut self, now: Time, reason: Reason) -> Vec<Effect> {
        self.enter(now, Phase::Returning);
        vec![Effect::Journal(Promise::Abort { offer: self.offer }), self.abort(reason)]
    }

    fn decline(&mut self, now: Time, action: Action, reason: Reason) -> Vec<Effect> {
        self.declined = Some(reason.clone());
        let mut effects = vec![self.tell(What::Failed(action, reason.clone())), self.refusal(reason)];
        effects.extend(self.discard(now, false));
        effects
    }

    fn discard(&mut self, now: Time, over: bool) -> Vec<Effect> {
        if matches!(self.phase, Phase::Discarding { .. }) {
            // It was asked for already.
            self.phase = Phase::Discarding { over };
            return vec![];
        }
        self.enter(now, Phase::Discarding { over });
        vec![self.act(Action::Discard)]
    }

    fn wait(&mut self, now: Time) -> Vec<Effect> {
        self.enter(now, Phase::Waiting);
        vec![]
    }

    fn close(&mut self) -> Vec<Effect> {
        self.phase = Phase::Over;
        vec![Effect::Journal(Promise::Closed { offer: self.offer })]
    }

    fn enter(&mut self, now: Time, phase: Phase) {
        self.phase = phase;
        self.retry = None;
        self.since = now;
        self.said = now;
    }

    fn is_due(&self, now: Time) -> bool {
        self.retry.is_some_and(|at| at <= now)
    }

    fn fill(&self) -> Effect {
        self.act(Action::Fill { source: self.source })
    }

    fn ready(&self) -> Effect {
        Effect::Append(Message::Ready(Ready { offer: self.offer, attempt: self.attempt }))
    }

    fn receipt(&self) -> Option<Effect> {
        let yielded = self.yielded.clone()?;
        Some(Effect::Append(Message::Receipt(Receipt { offer: self.offer, attempt: self.attempt, yielded })))
    }

    fn done(&self) -> Effect {
        let done = Done { offer: self.offer, spans: self.spans, bytes: self.bytes, late_root: self.late_root };
        Effect::Append(Message::Done(done))
    }

    fn refusal(&self, reason: Reason) -> Effect {
        Effect::Append(Message::Decline(Decline { offer: self.offer, attempt: self.attempt, reason }))
    }

    fn abort(&self, reason: Reason) -> Effect {
        let abort = Abort { offer: self.offer, attempt: self.attempt, then: Then::End, reason };
        Effect::Append(Message::Abort(abort))
    }

    fn act(&self, action: Action) -> Effect {
        Effect::Do(Task { offer: self.offer, container: self.container, action })
    }

    fn tell(&self, what: What) -> Effect {
        Effect::Tell(Notice { offer: self.offer, what })
    }
}
