//! The rows of the failure table: a script of inputs, with what must follow from each.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use ed25519_dalek::SigningKey;

use super::*;
use crate::abort::Then;
use crate::award::Ranked;
use crate::bounded::{List, Text};
use crate::container::Needs;
use crate::done::{Done, Spans};
use crate::event::EndReason;
use crate::id::{ImageId, MeshId};
use crate::message::Message;
use crate::offer::Why;
use crate::units::{Address, Epoch, MilliCpu};
use crate::word::Word;

const MESH: MeshId = MeshId([1; 32]);
const OFFER: OfferId = OfferId([5; 32]);
const CONTAINER: ContainerId = ContainerId([6; 16]);
const ROOT: Hash = Hash([7; 32]);
const LATE: Hash = Hash([8; 32]);
const START: Time = Time(1_000_000);

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn site(n: u8) -> SiteId {
    key(n).verifying_key().into()
}

const SOURCE: u8 = 1;
const FIRST: u8 = 2;
const SECOND: u8 = 3;

fn award() -> Award {
    Award { ranking: vec![Ranked { site: site(FIRST), score: 9 }, Ranked { site: site(SECOND), score: 8 }] }
}

fn body() -> Offer {
    Offer {
        container: CONTAINER,
        epoch: Epoch(4),
        source_address: Address([192, 0, 2, 1].into()),
        size: Bytes(1),
        cpu: MilliCpu(1),
        gpu: 0,
        memory: Bytes(1),
        why: Why::Drain,
        needs: Needs {
            architecture: Text::default(),
            cpu_features: List::default(),
            kernel: (0, 0),
            criu: 0,
            image: ImageId([0; 32]),
        },
        named: List::default(),
        window: Millis(1_000),
    }
}

fn open(stage: Stage, attempt: u32) -> Open {
    Open {
        id: OFFER,
        source: site(SOURCE),
        body: body(),
        award: (stage > Stage::Bidding).then(award),
        bidders: vec![site(FIRST), site(SECOND)],
        attempt,
        stage,
    }
}

fn yield_body(attempt: u32, target: u8) -> Yield {
    let (freeze_ms, collect_ms) = (Millis(11), Millis(12));
    Yield { offer: OFFER, attempt, target: site(target), epoch: Epoch(4), freeze_ms, collect_ms, root: ROOT }
}

fn yielded(attempt: u32, target: u8) -> Signed<Yield> {
    Signed::sign(&MESH, &key(SOURCE), yield_body(attempt, target)).unwrap().into_signed()
}

fn failed() -> Outcome {
    Outcome::Failed(Reason::Failed(Text::clipped("engine")))
}

fn frozen() -> Input {
    frozen_as(ROOT)
}

fn frozen_as(root: Hash) -> Input {
    let (freeze, collect) = (Millis(11), Millis(12));
    refrozen(Outcome::Frozen { root, bytes: Bytes(0), freeze, collect })
}

fn refrozen(outcome: Outcome) -> Input {
    Input::Outcome(Action::Freeze { target: site(FIRST) }, outcome)
}

fn restored(outcome: Outcome) -> Input {
    Input::Outcome(Action::Restore, outcome)
}

fn resumed(outcome: Outcome) -> Input {
    Input::Outcome(Action::Resume, outcome)
}

fn filled() -> Input {
    fill(Outcome::Filled { bytes: Bytes(4), late_root: LATE })
}

fn fill(outcome: Outcome) -> Input {
    Input::Outcome(Action::Fill { source: site(SOURCE) }, outcome)
}

fn discarded() -> Input {
    Input::Outcome(Action::Discard, Outcome::Settled)
}

fn thawed() -> Input {
    Input::Outcome(Action::Thaw, Outcome::Settled)
}

fn fetched() -> Input {
    Input::Outcome(Action::Fetch { source: site(SOURCE), root: ROOT }, Outcome::Fetched { bytes: Bytes(3) })
}

fn prepared(outcome: Outcome) -> Input {
    Input::Outcome(Action::Prepare { source: site(SOURCE) }, outcome)
}

/// Committed just now, whenever that is.
enum Fact {
    Awarded,
    Readied(u32),
    Passed(u32, u8),
    Received(u8),
    Closed,
    Ended,
    Returned,
}

fn event(fact: Fact) -> Event {
    let offer = OFFER;
    match fact {
        Fact::Awarded => Event::Awarded { offer, award: award() },
        Fact::Readied(attempt) => Event::Readied { offer, attempt },
        Fact::Passed(attempt, winner) => Event::Passed { offer, attempt, winner: site(winner), reason: Reason::Silent },
        Fact::Received(owner) => {
            Event::Received { offer, attempt: 1, container: CONTAINER, owner: site(owner), epoch: Epoch(5) }
        }
        Fact::Closed => Event::Closed {
            offer,
            done: Done { offer, spans: Spans::default(), bytes: Bytes(0), late_root: Hash::ZERO },
        },
        Fact::Ended => Event::Ended { offer, reason: EndReason::NoneLeft(Reason::Silent) },
        Fact::Returned => {
            Event::Returned { offer, container: CONTAINER, owner: site(SOURCE), epoch: Epoch(6), possible_loss: false }
        }
    }
}

/// The effects in short, without what an operator is told: `journal freeze`, `append abort next 1`, `do thaw`.
fn brief(effects: &[Effect]) -> Vec<String> {
    effects.iter().filter_map(short).collect()
}

fn short(effect: &Effect) -> Option<String> {
    let text = match effect {
        Effect::Journal(promise) => match promise {
            Promise::Bid { .. } => "journal bid",
            Promise::Freeze { .. } => "journal freeze",
            Promise::Yield(_) => "journal yield",
            Promise::Receipt { .. } => "journal receipt",
            Promise::Resume { .. } => "journal resume",
            Promise::Abort { .. } => "journal abort",
            Promise::Closed { .. } => "journal closed",
        }
        .into(),
        Effect::Append(Message::Abort(abort)) => {
            let then = if abort.then == Then::Next { "next" } else { "end" };
            alloc::format!("append abort {then} {}", abort.attempt)
        }
        Effect::Append(Message::Decline(decline)) => alloc::format!("append decline {}", decline.attempt),
        Effect::Append(message) => alloc::format!("append {}", message.name()),
        Effect::Yield { body, .. } => alloc::format!("send yield {}", body.attempt),
        Effect::Say { word: Word::Preparing { .. }, .. } => "say preparing".into(),
        Effect::Say { .. } => "say".into(),
        Effect::Do(task) => match task.action {
            Action::Serve { .. } => "do serve",
            Action::Prepare { .. } => "do prepare",
            Action::Freeze { .. } => "do freeze",
            Action::Fetch { .. } => "do fetch",
            Action::Restore => "do restore",
            Action::Resume => "do resume",
            Action::Fill { .. } => "do fill",
            Action::Discard => "do discard",
            Action::Thaw => "do thaw",
            Action::Release => "do release",
        }
        .into(),
        Effect::Gossip(_) => "gossip".into(),
        Effect::Tell(_) => return None,
    };
    Some(text)
}

/// A side under test and its clock.
struct Side<M> {
    machine: M,
    now: Time,
}

impl<M> Side<M> {
    fn later(mut self, ms: u64) -> Self {
        self.now = self.now.after(Millis(ms));
        self
    }
}

#[track_caller]
fn same(what: &str, got: &[Effect], expected: &[&str]) {
    assert_eq!(brief(got), expected, "after {what}");
}

impl Side<Source> {
    fn opened() -> Self {
        let machine = Source::open(START, OFFER, CONTAINER, Epoch(4), Patience::default());
        Self { machine, now: START }
    }

    #[track_caller]
    fn recovered(stage: Stage, attempt: u32, promises: &[Promise], expected: &[&str]) -> Self {
        let (machine, effects) = Source::recover(START, &open(stage, attempt), promises, Patience::default());
        same("recovery", &effects, expected);
        Self { machine, now: START }
    }

    #[track_caller]
    fn on(mut self, input: Input, expected: &[&str]) -> Self {
        let what = alloc::format!("{input:?}");
        same(&what, &self.machine.step(self.now, input), expected);
        self
    }

    #[track_caller]
    fn sees(self, fact: Fact, expected: &[&str]) -> Self {
        let at = self.now;
        self.on(Input::Ledger(at, event(fact)), expected)
    }

    /// H5: the container stands still, nothing is yielded.
    fn freezing() -> Self {
        Self::opened().sees(Fact::Awarded, &["do serve"]).sees(Fact::Readied(1), &["journal freeze", "do freeze"])
    }

    /// H6.
    fn yielded() -> Self {
        Self::freezing().on(frozen(), &["journal yield", "send yield 1"])
    }
}

impl Side<Target> {
    fn bidding(me: u8) -> Self {
        let machine = Target::bid(START, site(me), &open(Stage::Bidding, 0), Patience::default());
        Self { machine, now: START }
    }

    #[track_caller]
    fn recovered(stage: Stage, attempt: u32, promises: &[Promise], expected: &[&str]) -> Self {
        let (machine, effects) =
            Target::recover(START, site(FIRST), &open(stage, attempt), promises, Patience::default());
        same("recovery", &effects, expected);
        Self { machine, now: START }
    }

    #[track_caller]
    fn on(self, input: Input, expected: &[&str]) -> Self {
        self.judged(input, Ok(()), expected)
    }

    #[track_caller]
    fn judged(mut self, input: Input, fits: Result<(), Reason>, expected: &[&str]) -> Self {
        let what = alloc::format!("{input:?}");
        same(&what, &self.machine.step(self.now, input, || fits), expected);
        self
    }

    #[track_caller]
    fn sees(self, fact: Fact, expected: &[&str]) -> Self {
        let at = self.now;
        self.on(Input::Ledger(at, event(fact)), expected)
    }

    fn ready() -> Self {
        Self::bidding(FIRST)
            .sees(Fact::Awarded, &["do prepare"])
            .on(prepared(Outcome::Prepared), &["append ready"])
            .sees(Fact::Readied(1), &[])
    }

    fn claiming() -> Self {
        Self::ready().on(Input::Yielded(yielded(1, FIRST)), &["do fetch"]).on(fetched(), CLAIM)
    }

    fn resuming() -> Self {
        Self::claiming().sees(Fact::Received(FIRST), RESUME)
    }

    /// It runs here, and may lack pages.
    fn filling() -> Self {
        Self::resuming().on(resumed(Outcome::Resumed), &["do fill"])
    }

    /// What it says that it measured.
    fn done(mut self, input: Input) -> Done {
        let effects = self.machine.step(self.now, input, || Ok(()));
        let done = effects.iter().find_map(|effect| match effect {
            Effect::Append(Message::Done(done)) => Some(*done),
            _ => None,
        });
        done.expect("it is done")
    }
}

const CLAIM: &[&str] = &["journal receipt", "append receipt", "do restore"];
const RESUME: &[&str] = &["journal resume", "do resume"];
const THAW_AND_NEXT: &[&str] = &["do thaw", "append abort next 1"];

fn freeze_promise() -> Promise {
    Promise::Freeze { offer: OFFER, container: CONTAINER, attempt: 1 }
}

fn bid_promise() -> Promise {
    Promise::Bid { offer: OFFER, container: CONTAINER }
}

fn receipt_promise() -> Promise {
    Promise::Receipt { attempt: 1, yielded: yielded(1, FIRST) }
}

#[test]
fn a_handoff_without_faults_takes_its_steps_in_order() {
    let source = Side::<Source>::yielded()
        .sees(Fact::Received(FIRST), &[])
        .sees(Fact::Closed, &["do release"])
        .on(Input::Outcome(Action::Release, Outcome::Settled), &["journal closed"]);
    assert!(source.machine.is_over());
    let target = Side::<Target>::claiming()
        .on(restored(Outcome::Restored), &[])
        .sees(Fact::Received(FIRST), RESUME)
        .on(resumed(Outcome::Resumed), &["do fill"])
        .on(filled(), &["append done"])
        .sees(Fact::Closed, &["journal closed"]);
    assert!(target.machine.is_over());
}

// "target dies before `Yield`": source resumes if frozen, `Abort{next}`.

#[test]
fn source_goes_to_the_next_when_the_target_is_silent_before_ready() {
    Side::<Source>::opened()
        .sees(Fact::Awarded, &["do serve"])
        .later(29_000)
        .on(Input::Preparing(1), &[])
        .later(29_000)
        .on(Input::Tick, &[])
        .later(2_000)
        .on(Input::Tick, &["append abort next 1"])
        .sees(Fact::Passed(2, SECOND), &["do serve"]);
}

#[test]
fn source_goes_to_the_next_when_the_target_prepares_for_ever() {
    let mut source = Side::<Source>::opened().sees(Fact::Awarded, &["do serve"]);
    for _ in 0..60 {
        source = source.later(20_000).on(Input::Preparing(1), &[]).on(Input::Tick, &[]);
    }
    source.later(1).on(Input::Tick, &["append abort next 1"]).sees(Fact::Passed(2, SECOND), &["do serve"]);
}

#[test]
fn source_thaws_for_the_next_when_the_target_gives_up_during_the_freeze() {
    Side::<Source>::freezing()
        .sees(Fact::Passed(2, SECOND), &["do thaw"])
        .on(frozen(), &[])
        .on(thawed(), &["do serve"])
        .sees(Fact::Readied(2), &["journal freeze", "do freeze"])
        .on(frozen(), &["journal yield", "send yield 2"]);
}

#[test]
fn source_does_not_freeze_for_a_stale_or_foreign_ready() {
    let stale = Input::Ledger(START, event(Fact::Readied(1)));
    Side::<Source>::opened()
        .sees(Fact::Awarded, &["do serve"])
        .sees(Fact::Readied(2), &[])
        .later(2_001)
        .on(stale, &["append abort next 1"]);
}

// "target dies after `Yield`, before `Receipt`": Abort by its own clock, resumes once that is committed, never before.

#[test]
fn source_that_yielded_thaws_only_when_the_ledger_has_ended_the_attempt() {
    Side::<Source>::yielded()
        .later(501)
        .on(Input::Tick, &["send yield 1"])
        .later(15_000)
        .on(Input::Tick, &["append abort next 1"])
        .later(5_001)
        .on(Input::Tick, &["append abort next 1"])
        .on(thawed(), &[])
        .sees(Fact::Passed(2, SECOND), &["do thaw"])
        .on(thawed(), &["do serve"]);
}

// "`Receipt` and `Abort` race": the ledger's order decides.

#[test]
fn source_that_aborted_keeps_its_copy_when_the_receipt_was_first() {
    Side::<Source>::yielded()
        .later(15_001)
        .on(Input::Tick, &["append abort next 1"])
        .sees(Fact::Received(FIRST), &["do freeze"])
        .on(frozen(), &[])
        .later(60_000)
        .on(Input::Tick, &[])
        .sees(Fact::Closed, &["do release"]);
}

#[test]
fn target_discards_a_copy_that_never_ran_when_the_abort_was_first() {
    let target = Side::<Target>::claiming()
        .sees(Fact::Passed(2, SECOND), &["do discard"])
        .on(Input::Outcome(Action::Discard, Outcome::Settled), &[])
        .sees(Fact::Closed, &["journal closed"]);
    assert!(target.machine.is_over());
}

#[test]
fn target_resumes_nothing_before_its_receipt_is_committed() {
    Side::<Target>::claiming()
        .later(5_001)
        .on(Input::Tick, &["append receipt"])
        .on(Input::Yielded(yielded(1, FIRST)), &[])
        .sees(Fact::Received(SECOND), &[])
        .sees(Fact::Received(FIRST), RESUME);
}

// "restore fails after `Receipt`": target's `Abort`, the source resumes.

#[test]
fn a_failed_restore_is_given_back_and_the_source_resumes() {
    Side::<Target>::resuming()
        .on(Input::Outcome(Action::Resume, failed()), &["journal abort", "append abort end 1"])
        .later(5_001)
        .on(Input::Tick, &["append abort end 1"])
        .sees(Fact::Returned, &["do discard"])
        .on(Input::Outcome(Action::Discard, Outcome::Settled), &["journal closed"]);
    Side::<Source>::yielded()
        .sees(Fact::Received(FIRST), &[])
        .sees(Fact::Returned, &["do thaw"])
        .on(thawed(), &["journal closed"]);
}

#[test]
fn a_restore_of_which_nobody_knows_whether_it_ran_is_never_given_back() {
    let target = Side::<Target>::resuming()
        .on(Input::Outcome(Action::Resume, Outcome::Unclear(Reason::Operator)), &[])
        .later(60_000)
        .on(Input::Tick, &[])
        .on(Input::Outcome(Action::Resume, failed()), &[]);
    assert!(!target.machine.is_over() && target.machine.is_reserving());
}

// Restored while the receipt is before the ledger: the resume decides, whatever came of it.

#[test]
fn a_restore_that_fails_while_the_receipt_is_decided_leaves_it_to_the_resume() {
    let told = |mut side: Side<Target>| {
        let told = side.machine.step(side.now, restored(failed()), || Ok(()));
        assert!(matches!(&told[..], [Effect::Tell(Notice { what: What::Failed(Action::Restore, _), .. })]), "{told:?}");
        side
    };
    // Before the commit and after it.
    told(Side::claiming()).sees(Fact::Received(FIRST), RESUME).on(resumed(Outcome::Resumed), &["do fill"]);
    told(Side::resuming()).on(resumed(failed()), &["journal abort", "append abort end 1"]);
    // Nothing is asked for twice while it lasts.
    told(Side::claiming()).later(5_001).on(Input::Tick, &["append receipt"]);
}

#[test]
fn what_was_restored_is_discarded_when_the_attempt_ends() {
    Side::<Target>::claiming()
        .on(restored(Outcome::Restored), &[])
        .sees(Fact::Passed(2, SECOND), &["do discard"])
        .on(discarded(), &[]);
    // So is what is being restored: tasks of a container are done one after the other.
    Side::<Target>::claiming()
        .sees(Fact::Passed(2, SECOND), &["do discard"])
        .on(restored(Outcome::Restored), &[])
        .on(discarded(), &[]);
}

// Pages that follow after the switch: `Done` only when nothing is lacking, and until then the source keeps its copy.

#[test]
fn target_is_done_only_when_nothing_is_lacking() {
    Side::<Target>::filling()
        .later(60_000)
        .on(Input::Tick, &[])
        .on(fill(failed()), &[])
        .later(1_999)
        .on(Input::Tick, &[])
        .later(1)
        .on(Input::Tick, &["do fill"])
        .on(Input::Tick, &[])
        .on(filled(), &["append done"])
        .later(5_001)
        .on(Input::Tick, &["append done"])
        .sees(Fact::Closed, &["journal closed"]);
}

#[test]
fn target_that_is_given_up_while_it_fills_discards_its_copy() {
    let target = Side::<Target>::filling()
        .sees(Fact::Returned, &["do discard"])
        .on(filled(), &[])
        .on(discarded(), &["journal closed"]);
    assert!(target.machine.is_over());
}

#[test]
fn source_that_died_after_the_receipt_serves_its_frozen_copy_until_done() {
    let promises = [freeze_promise(), Promise::Yield(yield_body(1, FIRST))];
    Side::<Source>::recovered(Stage::Received, 1, &promises, &["do freeze"])
        .on(refrozen(failed()), &[])
        .later(1_999)
        .on(Input::Tick, &[])
        .later(1)
        .on(Input::Tick, &["do freeze"])
        .on(frozen(), &[])
        .later(60_000)
        .on(Input::Tick, &[])
        .sees(Fact::Closed, &["do release"]);
    Side::<Source>::recovered(Stage::Received, 1, &promises, &["do freeze"])
        .on(refrozen(failed()), &[])
        .sees(Fact::Returned, &["do thaw"])
        .later(2_000)
        .on(Input::Tick, &[])
        .on(thawed(), &["journal closed"]);
}

#[test]
fn source_that_could_not_serve_its_frozen_copy_tries_again_when_the_receipt_was_first() {
    let promises = [freeze_promise(), Promise::Yield(yield_body(1, FIRST))];
    Side::<Source>::recovered(Stage::Ready, 1, &promises, &["do freeze"])
        .on(refrozen(failed()), &["append abort next 1"])
        .sees(Fact::Received(FIRST), &["do freeze"])
        .on(refrozen(failed()), &[])
        .later(2_000)
        .on(Input::Tick, &["do freeze"]);
}

#[test]
fn done_tells_where_the_time_went_and_what_came_late() {
    let told = |early: bool| {
        let mut target = Side::<Target>::bidding(FIRST)
            .sees(Fact::Awarded, &["do prepare"])
            .later(100)
            .on(prepared(Outcome::Prepared), &["append ready"])
            .later(20)
            .on(Input::Yielded(yielded(1, FIRST)), &["do fetch"])
            .later(30)
            .on(fetched(), CLAIM);
        target = if early { target.later(5).on(restored(Outcome::Restored), &[]).later(35) } else { target.later(40) };
        target = target.sees(Fact::Received(FIRST), RESUME);
        target = if early { target } else { target.later(7).on(restored(Outcome::Restored), &[]) };
        // A fill that fails is a part of the whole.
        target
            .later(8)
            .on(resumed(Outcome::Resumed), &["do fill"])
            .on(fill(failed()), &[])
            .later(2_000)
            .on(Input::Tick, &["do fill"])
            .done(filled())
    };
    let spans = |restore_ms, switch_ms| Spans {
        prepare_ms: Millis(100),
        freeze_ms: Millis(11),
        collect_ms: Millis(12),
        send_ms: Millis(30),
        commit_ms: Millis(40),
        switch_ms,
        restore_ms,
        fill_ms: Millis(2_000),
    };
    let done = |spans| Done { offer: OFFER, spans, bytes: Bytes(3 + 4), late_root: LATE };
    assert_eq!(told(true), done(spans(Millis(5), Millis(8))));
    assert_eq!(told(false), done(spans(Millis(47), Millis(15))));
    assert_eq!(told(true).spans.standstill(), Millis(11 + 12 + 30 + 40 + 8));
}

// "target dies or is cut off after `Receipt`": carries on from its disk, or aborts if it never resumed.

#[test]
fn target_that_died_after_its_receipt_resumes_from_disk() {
    let promises = [bid_promise(), receipt_promise()];
    let again = || Side::<Target>::recovered(Stage::Received, 1, &promises, RESUME);
    again().on(resumed(Outcome::Resumed), &["do fill"]).on(filled(), &["append done"]);
    // What the source measured it still knows.
    let done = again().on(resumed(Outcome::Resumed), &["do fill"]).done(filled());
    assert_eq!((done.spans.freeze_ms, done.spans.collect_ms), (Millis(11), Millis(12)));
}

#[test]
fn target_that_promised_to_abort_does_not_resume_after_a_restart() {
    let promises = [bid_promise(), receipt_promise(), Promise::Abort { offer: OFFER }];
    Side::<Target>::recovered(Stage::Received, 1, &promises, &["journal abort", "append abort end 1"]);
}

#[test]
fn target_that_promised_a_receipt_goes_on_asking_for_it_after_a_restart() {
    let promises = [bid_promise(), receipt_promise()];
    Side::<Target>::recovered(Stage::Ready, 1, &promises, CLAIM).sees(Fact::Received(FIRST), RESUME);
    // One of an earlier attempt is void, and what it left is dropped.
    Side::<Target>::recovered(Stage::Awarded, 2, &promises, &["do discard"])
        .on(Input::Outcome(Action::Discard, Outcome::Settled), &[]);
}

#[test]
fn target_that_died_before_its_yield_prepares_again() {
    Side::<Target>::recovered(Stage::Bidding, 0, &[bid_promise()], &[]).sees(Fact::Awarded, &["do prepare"]);
    Side::<Target>::recovered(Stage::Awarded, 1, &[bid_promise()], &["do prepare"]);
    Side::<Target>::recovered(Stage::Ready, 1, &[bid_promise()], &["do prepare"])
        .on(Input::Yielded(yielded(1, FIRST)), &["do fetch"])
        .on(prepared(failed()), &["append decline 1", "do discard"]);
}

// "no quorum after `Yield`": both wait frozen, the operator is told.

#[test]
fn target_that_has_another_key_since_its_attempt_leaves_nothing() {
    let again = |stage, attempt| {
        let stranger = site(9);
        Target::recover(START, stranger, &open(stage, attempt), &[bid_promise()], Patience::default())
    };
    let (machine, effects) = again(Stage::Ready, 2);
    same("recovery", &effects, &["do discard"]);
    let discarded = Input::Outcome(Action::Discard, Outcome::Settled);
    Side { machine, now: START }.on(discarded, &[]).sees(Fact::Closed, &["journal closed"]);
    assert_eq!(again(Stage::Bidding, 0).1, []);
}

#[test]
fn without_a_quorum_both_wait_and_say_so() {
    let mut source = Side::<Source>::yielded().later(15_001).on(Input::Tick, &["append abort next 1"]);
    source.now = source.now.after(Millis(5_001));
    let told = source.machine.step(source.now, Input::Tick);
    assert!(told.contains(&Effect::Tell(Notice { offer: OFFER, what: What::Undecided })));
    assert!(source.machine.is_frozen());
    let mut target = Side::<Target>::claiming().later(5_001);
    let told = target.machine.step(target.now, Input::Tick, || Ok(()));
    assert!(told.contains(&Effect::Tell(Notice { offer: OFFER, what: What::Undecided })));
}

// "source dies before `Yield`": resumes by the journal; the offer goes on.

#[test]
fn source_that_died_before_its_yield_runs_on_and_passes_the_offer_on() {
    Side::<Source>::recovered(Stage::Bidding, 0, &[], &[]).sees(Fact::Awarded, &["do serve"]);
    Side::<Source>::recovered(Stage::Awarded, 1, &[], &["do serve"]);
    Side::<Source>::recovered(Stage::Ready, 1, &[], THAW_AND_NEXT);
    let source = Side::<Source>::recovered(Stage::Ready, 1, &[freeze_promise()], THAW_AND_NEXT);
    source.on(thawed(), &[]).sees(Fact::Passed(2, SECOND), &["do serve"]);
}

#[test]
fn source_tries_to_thaw_until_it_runs_with_or_without_a_decision() {
    Side::<Source>::recovered(Stage::Ready, 1, &[freeze_promise()], THAW_AND_NEXT)
        .on(Input::Outcome(Action::Thaw, failed()), &[])
        .later(1_999)
        .on(Input::Tick, &[])
        .later(1)
        .on(Input::Tick, &["do thaw"])
        .later(3_000)
        .on(Input::Tick, &[])
        .sees(Fact::Ended, &["do thaw"])
        .on(Input::Outcome(Action::Thaw, failed()), &[])
        .later(2_000)
        .on(Input::Tick, &["do thaw"])
        .on(thawed(), &["journal closed"]);
}

// "source dies after `Yield`": nothing but the ledger lets it run again.

#[test]
fn source_that_died_after_its_yield_stays_frozen() {
    let promises = [freeze_promise(), Promise::Yield(yield_body(1, FIRST))];
    let source = Side::<Source>::recovered(Stage::Ready, 1, &promises, &["do freeze"]);
    assert!(source.machine.is_frozen());
    source.on(frozen(), &[]).later(501).on(Input::Tick, &["send yield 1"]).sees(Fact::Received(FIRST), &[]);
    Side::<Source>::recovered(Stage::Received, 1, &promises, &["do freeze"])
        .on(frozen(), &[])
        .sees(Fact::Closed, &["do release"]);
    // A `Yield` of an earlier attempt is void.
    Side::<Source>::recovered(Stage::Awarded, 2, &promises, &["do thaw", "append abort next 2"]);
}

#[test]
fn source_whose_frozen_state_is_not_what_it_yielded_aborts_and_stays_frozen() {
    let promises = [freeze_promise(), Promise::Yield(yield_body(1, FIRST))];
    let source = Side::<Source>::recovered(Stage::Ready, 1, &promises, &["do freeze"])
        .on(frozen_as(LATE), &["append abort next 1"]);
    assert!(source.machine.is_frozen());
}

// "corrupt or wrong bytes": a `Yield` that is not for us is refused.

#[test]
fn target_fetches_for_no_yield_but_its_own() {
    let wrong = |change: fn(&mut Yield)| {
        let mut body = yield_body(1, FIRST);
        change(&mut body);
        Input::Yielded(Signed::sign(&MESH, &key(SOURCE), body).unwrap().into_signed())
    };
    let stranger = Signed::sign(&MESH, &key(SECOND), yield_body(1, FIRST)).unwrap().into_signed();
    Side::<Target>::ready()
        .on(Input::Yielded(stranger), &[])
        .on(wrong(|body| body.attempt = 2), &[])
        .on(wrong(|body| body.target = site(SECOND)), &[])
        .on(wrong(|body| body.epoch = Epoch(3)), &[])
        .on(wrong(|body| body.offer = OfferId([9; 32])), &[])
        .on(Input::Yielded(yielded(1, FIRST)), &["do fetch"]);
}

// "disk full, engine refuses, image missing": `Decline` with the reason, the runner-up takes over.

#[test]
fn target_says_its_decline_again_until_the_ledger_shows_it() {
    let discarded = Input::Outcome(Action::Discard, Outcome::Settled);
    Side::<Target>::bidding(FIRST)
        .sees(Fact::Awarded, &["do prepare"])
        .on(prepared(failed()), &["append decline 1", "do discard"])
        .later(6_000)
        .on(Input::Tick, &["append decline 1"])
        .on(discarded, &[])
        .later(6_000)
        .on(Input::Tick, &["append decline 1"])
        .sees(Fact::Passed(2, SECOND), &[])
        .later(60_000)
        .on(Input::Tick, &[]);
}

#[test]
fn target_that_cannot_prepare_or_fetch_declines_and_leaves_nothing() {
    Side::<Target>::bidding(FIRST)
        .sees(Fact::Awarded, &["do prepare"])
        .on(prepared(failed()), &["append decline 1", "do discard"])
        .on(Input::Outcome(Action::Discard, failed()), &[])
        .sees(Fact::Passed(2, SECOND), &[])
        .later(2_000)
        .on(Input::Tick, &["do discard"])
        .sees(Fact::Closed, &[])
        .on(Input::Outcome(Action::Discard, Outcome::Settled), &["journal closed"]);
    let fetch = Action::Fetch { source: site(SOURCE), root: ROOT };
    Side::<Target>::ready()
        .on(Input::Yielded(yielded(1, FIRST)), &["do fetch"])
        .on(Input::Outcome(fetch, failed()), &["append decline 1", "do discard"]);
}

#[test]
fn target_gives_up_on_a_source_that_never_yields() {
    Side::<Target>::ready()
        .later(5_001)
        .on(Input::Tick, &["append ready"])
        .later(120_000)
        .on(Input::Tick, &["append decline 1", "do discard"]);
}

#[test]
fn runner_up_judges_itself_again_when_its_turn_comes() {
    let passed = || Input::Ledger(START, event(Fact::Passed(2, SECOND)));
    let waiting = || Side::<Target>::bidding(SECOND).sees(Fact::Awarded, &[]);
    assert!(!waiting().machine.is_reserving());
    assert!(waiting().on(passed(), &["do prepare"]).machine.is_reserving());
    let refused = waiting().judged(passed(), Err(Reason::Memory), &["append decline 2"]);
    assert!(!refused.machine.is_reserving());
}

#[test]
fn a_bid_that_was_given_up_reserves_nothing_and_a_win_by_it_is_judged_anew() {
    let awarded = || Input::Ledger(START, event(Fact::Awarded));
    let lapsed = || {
        let (machine, _) = Target::recover(START, site(FIRST), &open(Stage::Bidding, 0), &[], Patience::default());
        Side { machine, now: START }
    };
    assert!(!lapsed().machine.is_reserving());
    assert!(lapsed().on(awarded(), &["do prepare"]).machine.is_reserving());
    let refused = lapsed().judged(awarded(), Err(Reason::Memory), &["append decline 1"]);
    assert!(!refused.machine.is_reserving());
}

#[test]
fn source_that_cannot_freeze_runs_on_and_ends_the_offer() {
    let freeze = Action::Freeze { target: site(FIRST) };
    Side::<Source>::freezing()
        .on(Input::Outcome(freeze, failed()), &["do thaw", "append abort end 1"])
        .on(thawed(), &[])
        .sees(Fact::Ended, &["journal closed"]);
}

#[test]
fn source_that_cannot_serve_ends_the_offer() {
    Side::<Source>::opened()
        .sees(Fact::Awarded, &["do serve"])
        .on(Input::Outcome(Action::Serve { target: site(FIRST) }, failed()), &["append abort end 1"])
        .sees(Fact::Ended, &["journal closed"]);
}

// "process restart at any point": what ended meanwhile is settled.

#[test]
fn what_ended_while_a_side_was_away_is_settled() {
    let settle = |ours| Source::settle(START, OFFER, CONTAINER, ours, Patience::default());
    let (machine, effects) = settle(true);
    same("an end", &effects, &["do thaw"]);
    Side { machine, now: START }.on(thawed(), &["journal closed"]);
    let (machine, effects) = settle(false);
    same("a done", &effects, &["do release"]);
    Side { machine, now: START }
        .on(Input::Outcome(Action::Release, failed()), &[])
        .later(2_000)
        .on(Input::Tick, &["do release"]);
    let (machine, effects) = Target::settle(START, site(FIRST), OFFER, CONTAINER, Patience::default());
    same("an end", &effects, &["do discard"]);
    Side { machine, now: START }.on(Input::Outcome(Action::Discard, Outcome::Settled), &["journal closed"]);
}
