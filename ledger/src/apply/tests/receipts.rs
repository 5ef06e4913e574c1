//! `Ready`, `Receipt`, `Decline` after the award, `Abort`, `Done`, `Reclaim`: every way to break one.

use godwit_protocol::abort::{Reclaim, Then};
use godwit_protocol::bounded::List;
use godwit_protocol::event::EndReason;
use godwit_protocol::receipt::Receipt;
use godwit_protocol::yield_::Yield;
use godwit_protocol::{Epoch, Event, Hash, Message, Millis, OfferId};

use super::refuses;
use crate::refusal::Refusal;
use crate::state::Phase;
use crate::testing::{Mesh, abort, bid, container, decline, done, ready, site};

const UNKNOWN: OfferId = OfferId([7; 32]);

fn wrong(current: u32, got: u32) -> Refusal {
    Refusal::WrongAttempt { current, got }
}

#[test]
fn nothing_that_follows_the_award_comes_before_it() {
    let mut mesh = Mesh::new();
    let id = mesh.offered(1);
    mesh.say(1, bid(id, 1));
    let receipt = mesh.receipt(id, 1, 1);
    let reclaim = mesh.reclaim(id, 1, &[0, 1, 2]);
    refuses(
        &mut mesh,
        vec![
            (1, ready(id, 1), Refusal::NotAwarded),
            (1, receipt, Refusal::NotAwarded),
            (1, decline(id, 1), Refusal::NotAwarded),
            (1, done(id), Refusal::NotReceived),
            (0, reclaim, Refusal::NotReceived),
            (0, abort(id, 0, Then::Next), Refusal::NotAwarded),
            (0, abort(id, 1, Then::End), wrong(0, 1)),
            (1, abort(id, 0, Then::End), Refusal::NotAParty),
        ],
    );
}

#[test]
fn only_the_winner_of_the_current_attempt_is_ready_and_once() {
    let mut mesh = Mesh::new();
    let id = mesh.awarded(1);
    refuses(
        &mut mesh,
        vec![
            (1, ready(UNKNOWN, 1), Refusal::UnknownOffer(UNKNOWN)),
            (2, ready(id, 1), Refusal::NotTheWinner),
            (0, ready(id, 1), Refusal::NotTheWinner),
            (1, ready(id, 0), wrong(1, 0)),
            (2, ready(id, 2), wrong(1, 2)),
        ],
    );
    mesh.say(1, ready(id, 1));
    refuses(&mut mesh, vec![(1, ready(id, 1), Refusal::AlreadyReady)]);
    mesh.say(1, decline(id, 1));
    mesh.say(2, ready(id, 2));
    assert_eq!(mesh.state.offer(&id).map(|open| (open.phase, open.attempt)), Some((Phase::Ready, 2)));
}

#[test]
fn a_receipt_carries_the_sources_own_word_for_this_attempt() {
    let mut mesh = Mesh::new();
    let id = mesh.awarded(1);
    mesh.say(1, ready(id, 1));
    let good = Yield {
        offer: id,
        attempt: 1,
        target: site(1),
        epoch: Epoch(1),
        freeze_ms: Millis(5),
        collect_ms: Millis(3),
        root: Hash::of(b"manifest"),
    };
    let with = |bent: Yield| mesh.receipt_of(0, id, 1, bent);
    let forged = |change: fn(&mut Yield)| {
        let Message::Receipt(mut receipt) = with(good) else { panic!("a receipt") };
        change(&mut receipt.yielded.body);
        Message::Receipt(receipt)
    };
    let elsewhere = Mesh::with(&[]).receipt_of(0, id, 1, good);
    let Message::Receipt(mut claimed) = mesh.receipt_of(1, id, 1, good) else { panic!("a receipt") };
    claimed.yielded.author = site(0);
    let cases = vec![
        (1, mesh.receipt(UNKNOWN, 1, 1), Refusal::UnknownOffer(UNKNOWN)),
        (2, mesh.receipt(id, 1, 2), Refusal::NotTheWinner),
        (2, mesh.receipt(id, 2, 2), wrong(1, 2)),
        (1, mesh.receipt(id, 0, 1), wrong(1, 0)),
        (1, mesh.receipt_of(1, id, 1, good), Refusal::YieldNotBySource(site(1))),
        (1, with(Yield { offer: UNKNOWN, ..good }), Refusal::YieldOffer),
        (1, with(Yield { attempt: 2, ..good }), Refusal::YieldAttempt(2)),
        (1, with(Yield { target: site(2), ..good }), Refusal::YieldTarget(site(2))),
        (1, with(Yield { epoch: Epoch(2), ..good }), Refusal::YieldEpoch(Epoch(2))),
        (1, forged(|body| body.root.0[0] ^= 1), Refusal::YieldForged),
        (1, forged(|body| body.freeze_ms = Millis(0)), Refusal::YieldForged),
        (1, forged(|body| body.collect_ms = Millis(0)), Refusal::YieldForged),
        (1, elsewhere, Refusal::YieldForged),
        (1, Message::Receipt(claimed), Refusal::YieldForged),
    ];
    refuses(&mut mesh, cases);
    let receipt = mesh.receipt_of(0, id, 1, good);
    mesh.say(1, receipt);
    let (again, other) = (mesh.receipt(id, 1, 1), mesh.receipt(id, 1, 2));
    refuses(
        &mut mesh,
        vec![
            (1, again, Refusal::AlreadyReceived),
            (2, other, Refusal::NotTheWinner),
            (1, decline(id, 1), Refusal::AlreadyReceived),
            (1, ready(id, 1), Refusal::AlreadyReceived),
        ],
    );
}

#[test]
fn a_receipt_of_an_attempt_that_was_aborted_is_refused() {
    let mut mesh = Mesh::new();
    let id = mesh.awarded(1);
    mesh.say(1, ready(id, 1));
    mesh.say(0, abort(id, 1, Then::Next));
    let (late, early) = (
        mesh.receipt(id, 1, 1),
        mesh.receipt_of(
            0,
            id,
            2,
            match mesh.receipt(id, 1, 2) {
                Message::Receipt(Receipt { yielded, .. }) => yielded.body,
                other => panic!("a receipt: {other:?}"),
            },
        ),
    );
    refuses(&mut mesh, vec![(1, late, wrong(2, 1)), (2, early, Refusal::YieldAttempt(1))]);
    let receipt = mesh.receipt(id, 2, 2);
    mesh.say(2, receipt);
    assert_eq!(mesh.state.container(&container(1)).expect("registered").owner, site(2));
}

#[test]
fn winners_that_decline_pass_the_offer_on_until_none_is_left() {
    let mut mesh = Mesh::new();
    let id = mesh.awarded(1);
    refuses(
        &mut mesh,
        vec![
            (2, decline(id, 1), Refusal::NotTheWinner),
            (0, decline(id, 1), Refusal::NotTheWinner),
            (1, decline(id, 2), wrong(1, 2)),
        ],
    );
    for (attempt, by) in [(1, 1), (2, 2)] {
        let record = mesh.sign(by, decline(id, attempt));
        let events = mesh.commit(vec![record]);
        let [Event::Passed { attempt: next, winner, .. }] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((*next, *winner), (attempt + 1, site(by + 1)));
    }
    let record = mesh.sign(3, decline(id, 3));
    let events = mesh.commit(vec![record]);
    assert!(matches!(events.as_slice(), [Event::Ended { reason: EndReason::NoneLeft(_), .. }]), "{events:?}");
    let kept = mesh.state.container(&container(1)).expect("registered");
    assert_eq!((kept.owner, kept.epoch, kept.open), (site(0), Epoch(1), None));
}

#[test]
fn the_source_aborts_until_the_receipt() {
    for phase in [Phase::Bidding, Phase::Awarded, Phase::Ready] {
        let mut mesh = Mesh::new();
        let id = if phase == Phase::Bidding { mesh.offered(1) } else { mesh.awarded(1) };
        if phase == Phase::Ready {
            mesh.say(1, ready(id, 1));
        }
        let attempt = u32::from(phase != Phase::Bidding);
        let record = mesh.sign(0, abort(id, attempt, Then::End));
        let events = mesh.commit(vec![record]);
        assert!(matches!(events.as_slice(), [Event::Ended { reason: EndReason::Aborted(_), .. }]), "{events:?}");
        assert_eq!((mesh.state.offer(&id), mesh.state.due()), (None, None));
        refuses(&mut mesh, vec![(0, abort(id, attempt, Then::End), Refusal::UnknownOffer(id))]);
    }
    let mut mesh = Mesh::new();
    let id = mesh.received(1);
    refuses(&mut mesh, vec![(0, abort(id, 1, Then::End), Refusal::AlreadyReceived)]);
}

#[test]
fn the_source_passes_the_offer_on() {
    let mut mesh = Mesh::new();
    let id = mesh.awarded(1);
    mesh.say(1, ready(id, 1));
    refuses(
        &mut mesh,
        vec![
            (0, abort(id, 2, Then::Next), wrong(1, 2)),
            (0, abort(id, 0, Then::Next), wrong(1, 0)),
            (1, abort(id, 1, Then::Next), Refusal::WinnerDeclines),
            (2, abort(id, 1, Then::Next), Refusal::NotAParty),
        ],
    );
    mesh.say(0, abort(id, 1, Then::Next));
    let open = mesh.state.offer(&id).expect("open");
    assert_eq!((open.attempt, open.phase, open.winner()), (2, Phase::Awarded, Some(site(2))));
}

#[test]
fn the_winner_gives_back_what_it_never_ran() {
    let mut mesh = Mesh::new();
    let id = mesh.received(1);
    refuses(
        &mut mesh,
        vec![(2, abort(id, 1, Then::End), Refusal::NotAParty), (1, abort(id, 2, Then::End), wrong(1, 2))],
    );
    let record = mesh.sign(1, abort(id, 1, Then::Next));
    let events = mesh.commit(vec![record]);
    let returned =
        Event::Returned { offer: id, container: container(1), owner: site(0), epoch: Epoch(3), possible_loss: false };
    assert_eq!(events, vec![returned]);
    let back = mesh.state.container(&container(1)).expect("registered");
    assert_eq!((back.owner, back.epoch, back.open, back.last_done), (site(0), Epoch(3), None, None));
}

#[test]
fn the_new_owner_says_done_once() {
    let mut mesh = Mesh::new();
    let id = mesh.awarded(1);
    refuses(&mut mesh, vec![(1, done(UNKNOWN), Refusal::UnknownOffer(UNKNOWN)), (1, done(id), Refusal::NotReceived)]);
    mesh.say(1, ready(id, 1));
    let receipt = mesh.receipt(id, 1, 1);
    mesh.say(1, receipt);
    refuses(&mut mesh, vec![(0, done(id), Refusal::NotTheWinner), (2, done(id), Refusal::NotTheWinner)]);
    mesh.say(1, done(id));
    refuses(
        &mut mesh,
        vec![(1, done(id), Refusal::UnknownOffer(id)), (1, abort(id, 1, Then::End), Refusal::UnknownOffer(id))],
    );
}

#[test]
fn a_reclaim_takes_the_source_and_two_thirds_of_the_validators() {
    let mut mesh = Mesh::new();
    let id = mesh.received(1);
    let mut forged = mesh.reclaim(id, 2, &[0, 1, 2]);
    if let Message::Reclaim(Reclaim { approvals, .. }) = &mut forged {
        let mut bent = approvals.clone().into_inner();
        bent[1].signature.0[5] ^= 1;
        *approvals = List::first(bent);
    }
    let of_another = match mesh.reclaim(UNKNOWN, 2, &[0, 1, 2]) {
        Message::Reclaim(reclaim) => Message::Reclaim(Reclaim { offer: id, ..reclaim }),
        other => panic!("a reclaim: {other:?}"),
    };
    let few = Refusal::TooFewApprovals { votes: 2, of: 4 };
    let cases = vec![
        (0, mesh.reclaim(UNKNOWN, 2, &[0, 1, 2]), Refusal::UnknownOffer(UNKNOWN)),
        (2, mesh.reclaim(id, 2, &[0, 1, 2]), Refusal::NotTheSource),
        (0, mesh.reclaim(id, 2, &[0, 2]), few),
        (0, mesh.reclaim(id, 2, &[0, 2, 2]), Refusal::ApprovedTwice(site(2))),
        (0, mesh.reclaim(id, 2, &[0, 2, 4]), Refusal::ApproverNotAValidator(site(4))),
        (0, mesh.reclaim(id, 1, &[0, 2, 3]), Refusal::ApprovedOther(site(0))),
        (0, of_another, Refusal::ApprovedOther(site(0))),
        (0, forged, Refusal::ApprovalForged(site(1))),
    ];
    refuses(&mut mesh, cases);
    let message = mesh.reclaim(id, 2, &[0, 2, 3]);
    let record = mesh.sign(0, message);
    let events = mesh.commit(vec![record]);
    assert!(matches!(events.as_slice(), [Event::Returned { possible_loss: true, epoch: Epoch(3), .. }]), "{events:?}");
    let late = done(id);
    refuses(&mut mesh, vec![(1, late, Refusal::UnknownOffer(id))]);
}
