//! `Offer`, `Bid`, `Decline` before the award, and the award.

use godwit_protocol::bounded::List;
use godwit_protocol::event::EndReason;
use godwit_protocol::membership::Role;
use godwit_protocol::offer::{MAX_WINDOW, Offer, Why};
use godwit_protocol::{Epoch, Event, Message, Millis, OfferId, SiteId, Time};

use super::refuses;
use crate::apply::bidding::{MAX_OPEN_OFFERS, MAX_REPORT_AGE};
use crate::refusal::Refusal;
use crate::state::Phase;
use crate::testing::{CLOCK_BOUND, Mesh, bid, client_key, container, decline, offer, register, site};

fn naming(named: &[u8]) -> Message {
    Message::Offer(offer(1, 1, named))
}

fn lasting(window: u64) -> Message {
    Message::Offer(Offer { window: Millis(window), ..offer(1, 1, &[]) })
}

#[test]
fn an_offer_is_its_owners_at_this_epoch_and_the_only_one() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let epoch = |got| Refusal::WrongEpoch { current: Epoch(1), got: Epoch(got) };
    refuses(
        &mut mesh,
        vec![
            (0, Message::Offer(offer(2, 1, &[])), Refusal::UnknownContainer(container(2))),
            (1, Message::Offer(offer(1, 1, &[])), Refusal::NotTheOwner(site(0))),
            (0, Message::Offer(offer(1, 0, &[])), epoch(0)),
            (0, Message::Offer(offer(1, 2, &[])), epoch(2)),
        ],
    );
    let open = mesh.say(0, naming(&[]));
    refuses(&mut mesh, vec![(0, naming(&[]), Refusal::OfferOpen(open))]);
}

#[test]
fn an_offer_names_enough_other_members_or_nobody() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let few = |got| Refusal::TooFewNamed { got, least: 3 };
    refuses(
        &mut mesh,
        vec![
            (0, naming(&[1, 2, 1]), Refusal::NamedTwice(site(1))),
            (0, naming(&[1, 2, 0]), Refusal::NamedSource),
            (0, naming(&[1, 2, 5]), Refusal::NamedNotEligible(site(5))),
            (0, naming(&[1, 2, 9]), Refusal::NamedNotEligible(site(9))),
            (0, naming(&[1]), few(1)),
            (0, naming(&[1, 2]), few(2)),
        ],
    );
    mesh.say(0, naming(&[1, 2, 3, 4]));
}

#[test]
fn where_few_are_eligible_an_offer_names_them_all() {
    let mut mesh = Mesh::with(&[]);
    for (epoch, gone) in [(0, 3_u8), (1, 2)] {
        let remove = godwit_protocol::membership::Change::Remove(site(gone));
        let change = mesh.membership(epoch, remove, &[0, 1, 2]);
        mesh.say(0, change);
    }
    mesh.say(0, Message::Register(register(1)));
    mesh.say(0, naming(&[1]));
}

#[test]
fn bidding_lasts_as_long_as_clocks_need_and_no_longer_than_a_minute() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let (least, most) = (2 * CLOCK_BOUND, MAX_WINDOW.0);
    let short = |got| Refusal::WindowTooShort { got: Millis(got), least: Millis(least) };
    refuses(
        &mut mesh,
        vec![
            (0, lasting(0), short(0)),
            (0, lasting(least - 1), short(least - 1)),
            (0, lasting(most + 1), Refusal::WindowTooLong(Millis(most + 1))),
        ],
    );
    let id = mesh.say(0, lasting(least));
    assert_eq!(mesh.state.due(), Some(Time(mesh.now.0 + least)));
    assert_eq!(mesh.state.offer(&id).expect("open").opened, mesh.now);
}

#[test]
fn a_moving_client_speaks_for_itself() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let at = Time(mesh.now.0 + 10); // the time at which refusals are tried
    let fresh = mesh.report(0, at, &[(1, -60), (2, -70)]);
    let mut forged = fresh.clone();
    forged.body.signals = List::first(forged.body.signals.iter().rev().copied());
    let mut lent = fresh.clone();
    lent.author = client_key(1).verifying_key().into();
    let stranger = client_key(7).verifying_key().into();
    let (stale, ahead) = (Time(at.0 - MAX_REPORT_AGE.0 - 1), Time(at.0 + CLOCK_BOUND + 1));
    let cases = vec![
        (0, mesh.mobility(1, forged), Refusal::ReportForged),
        (0, mesh.mobility(1, lent), Refusal::ReportForged),
        (0, mesh.mobility(1, mesh.report(7, at, &[(1, -60)])), Refusal::NotItsClient(stranger)),
        (0, mesh.mobility(1, mesh.report(0, stale, &[(1, -60)])), Refusal::ReportStale { made: stale, at }),
        (0, mesh.mobility(1, mesh.report(0, ahead, &[(1, -60)])), Refusal::ReportAhead { made: ahead, at }),
        (0, mesh.mobility(1, mesh.report(0, at, &[(1, -60), (1, -50)])), Refusal::ReportTwice(site(1))),
    ];
    refuses(&mut mesh, cases);
    for edge in [at.0 - MAX_REPORT_AGE.0, at.0 + CLOCK_BOUND] {
        let record = mesh.mobility(1, mesh.report(0, Time(edge), &[(1, -60)]));
        let record = mesh.sign(0, record);
        assert_eq!(mesh.state.check(&record, at), Ok(()));
    }
    let id = {
        let message = mesh.mobility(1, fresh);
        mesh.say(0, message)
    };
    mesh.say(3, bid(id, 10));
    mesh.say(2, bid(id, 500));
    mesh.say(1, bid(id, 900));
    assert_eq!(mesh.state.offer(&id).expect("open").winner(), Some(site(1)), "its client hears it best");
}

#[test]
fn a_report_of_another_mesh_is_forged_here() {
    let mut here = Mesh::new();
    let there = Mesh::with(&[]);
    here.say(0, Message::Register(register(1)));
    let report = there.report(0, here.now, &[(1, -60)]);
    let message = here.mobility(1, report);
    refuses(&mut here, vec![(0, message, Refusal::ReportForged)]);
}

#[test]
fn a_member_has_a_bounded_number_of_open_offers() {
    let mut mesh = Mesh::new();
    let many = u8::try_from(MAX_OPEN_OFFERS).expect("small") + 1;
    let mut open = OfferId([0; 32]);
    for n in 1..=many {
        mesh.say(0, Message::Register(register(n)));
        if n < many {
            open = mesh.say(0, Message::Offer(Offer { window: MAX_WINDOW, ..offer(n, 1, &[]) }));
        }
    }
    refuses(&mut mesh, vec![(0, Message::Offer(offer(many, 1, &[])), Refusal::TooManyOffers(MAX_OPEN_OFFERS))]);
    let end = crate::testing::abort(open, 0, godwit_protocol::abort::Then::End);
    mesh.say(0, end);
    mesh.say(0, Message::Offer(offer(many, 1, &[])));
}

#[test]
fn any_other_member_bids_once_while_bidding_is_open() {
    let mut mesh = Mesh::new();
    let id = mesh.offered(1);
    mesh.say(1, bid(id, 100));
    mesh.say(2, decline(id, 0));
    let unknown = OfferId([7; 32]);
    refuses(
        &mut mesh,
        vec![
            (1, bid(unknown, 1), Refusal::UnknownOffer(unknown)),
            (0, bid(id, 1), Refusal::OwnOffer),
            (1, bid(id, 1), Refusal::AlreadyBid),
            (2, bid(id, 1), Refusal::AlreadyDeclined),
            (5, bid(id, 1), Refusal::Observer(site(5))),
            (1, decline(id, 0), Refusal::AlreadyBid),
            (2, decline(id, 0), Refusal::AlreadyDeclined),
            (4, decline(id, 0), Refusal::NotNamed),
            (0, decline(id, 0), Refusal::NotNamed),
            (1, decline(id, 1), Refusal::NotAwarded),
            (1, decline(unknown, 0), Refusal::UnknownOffer(unknown)),
            (1, decline(unknown, 1), Refusal::UnknownOffer(unknown)),
        ],
    );
    mesh.say(4, bid(id, 50)); // not named, and may bid
    mesh.say(3, bid(id, 200)); // the last of those named
    assert_eq!(mesh.state.offer(&id).expect("open").winner(), Some(site(4)));
    refuses(&mut mesh, vec![(4, bid(id, 1), Refusal::BiddingOver), (1, decline(id, 0), Refusal::BiddingOver)]);
}

#[test]
fn bids_of_sites_that_are_not_named_are_bounded_and_never_crowd_out_the_named() {
    let mut mesh = Mesh::new();
    let id = mesh.offered(1);
    let filler = mesh.state.auctions.modify(&id).expect("open");
    let Message::Bid(body) = bid(id, 900) else { panic!("a bid") };
    filler.bids = (0..256_u32)
        .map(|n| {
            let mut site = SiteId([0xee; 32]);
            site.0[..4].copy_from_slice(&n.to_le_bytes());
            (site, body)
        })
        .collect();
    mesh.state.seal();
    assert_eq!(mesh.refusal(4, bid(id, 1)), Refusal::TooManyBids(256));
    let record = mesh.sign(1, bid(id, 1));
    assert_eq!(mesh.state.check(&record, mesh.now), Ok(()));
}

#[test]
fn bidding_ends_when_all_named_have_answered() {
    let mut mesh = Mesh::new();
    let id = mesh.offered(1);
    mesh.say(1, decline(id, 0));
    mesh.say(2, bid(id, 10));
    let last = mesh.sign(3, decline(id, 0));
    let events = mesh.commit(vec![last]);
    assert!(matches!(events.as_slice(), [Event::Declined { .. }, Event::Awarded { .. }]), "{events:?}");
    assert_eq!(mesh.state.offer(&id).expect("open").phase, Phase::Awarded);
}

#[test]
fn an_offer_that_all_named_decline_ends() {
    let mut mesh = Mesh::new();
    let id = mesh.offered(1);
    mesh.say(1, decline(id, 0));
    mesh.say(2, decline(id, 0));
    let last = mesh.sign(3, decline(id, 0));
    let events = mesh.commit(vec![last]);
    assert!(
        matches!(events.as_slice(), [Event::Declined { .. }, Event::Ended { reason: EndReason::NoBids, .. }]),
        "{events:?}"
    );
    assert_eq!((mesh.state.offer(&id), mesh.state.due()), (None, None));
    mesh.say(0, naming(&[]));
}

#[test]
fn an_offer_that_names_nobody_waits_for_its_time() {
    let mut mesh = Mesh::with(&[(4, Role::Member)]);
    mesh.say(0, Message::Register(register(1)));
    let id = mesh.say(0, naming(&[]));
    for by in 1..=4 {
        mesh.say(by, bid(id, 100));
    }
    assert_eq!(mesh.state.offer(&id).expect("open").phase, Phase::Bidding);
    let events = mesh.commit_due();
    assert!(matches!(events.as_slice(), [Event::Awarded { award, .. }] if award.ranking.len() == 4), "{events:?}");
}

#[test]
fn of_equal_bids_a_hash_decides_that_the_parent_block_fixes() {
    let mut mesh = Mesh::new();
    let id = mesh.offered(1);
    mesh.say(1, bid(id, 100));
    mesh.say(2, bid(id, 100));
    let parent = mesh.state.tip();
    mesh.say(3, bid(id, 100));
    let open = mesh.state.offer(&id).expect("open");
    let expected = godwit_protocol::auction::close(&parent, &id, &open.body, &open.bids);
    assert_eq!(open.award.as_ref(), Some(&expected));
    assert!(matches!(open.body.why, Why::Drain));
}
