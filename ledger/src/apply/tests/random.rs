//! Random messages, sensible and not, from everybody: what the events tell is what the state holds, and it makes sense.

use std::collections::{BTreeMap, BTreeSet};

use godwit_protocol::abort::Then;
use godwit_protocol::evidence::Sentence;
use godwit_protocol::membership::{Change, Role};
use godwit_protocol::offer::Offer;
use godwit_protocol::receipt::Receipt;
use godwit_protocol::register::{Register, Retire};
use godwit_protocol::yield_::Yield;
use godwit_protocol::{ContainerId, Epoch, Event, Hash, Message, Millis, OfferId, SiteId, Time};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::state::{Phase, State};
use crate::testing::{Mesh, abort, bid, container, decline, done, member, offer, ready, register, site};

/// Keys: six members and a stranger, and others that they may change to.
const SITES: u8 = 10;

/// Those that speak by chance.
const SPEAKERS: u8 = 7;

/// One attempt to say something: who, what, about which, and how far from sense.
#[derive(Clone, Copy, Debug)]
struct Word {
    by: u8,
    kind: u8,
    pick: u8,
    /// Mostly the one who may speak does.
    astray: bool,
}

fn words() -> impl Strategy<Value = Vec<(u64, Vec<Word>)>> {
    let word = (0..SPEAKERS, 0_u8..34, any::<u8>(), prop::bool::weighted(0.2))
        .prop_map(|(by, kind, pick, astray)| Word { by, kind, pick, astray });
    prop::collection::vec((1_u64..700, prop::collection::vec(word, 1..8)), 1..50)
}

fn number(site_id: &SiteId) -> u8 {
    (0..SITES).find(|n| site(*n) == *site_id).expect("one of ours")
}

fn message(mesh: &Mesh, past: &[OfferId], Word { by, kind, pick, astray }: Word) -> (u8, Message) {
    let state = &mesh.state;
    let n = pick % 6 + 1;
    let held = state.container(&container(n));
    let owner = held.map_or(by, |held| if astray { by } else { number(&held.owner) });
    let epoch = held.map_or(1, |held| held.epoch.0) + u64::from(astray && pick % 2 == 0);
    match kind {
        0..3 => return (by, Message::Register(Register { container: container(n), ..register(pick % 5 + 1) })),
        3 => return (owner, Message::Retire(Retire { container: container(n) })),
        4..9 => {
            let others: Vec<u8> = (0..SITES).filter(|n| *n != owner && state.is_eligible(&site(*n))).collect();
            let named: Vec<u8> = if pick % 3 == 0 { vec![] } else { others.into_iter().take(3).collect() };
            let window = Millis(400 + u64::from(pick));
            return (owner, Message::Offer(Offer { window, ..offer(n, epoch, &named) }));
        }
        31 => return (by, change(mesh, pick)),
        32 if pick % 3 == 0 => return (by, mesh.accuse(pick / 3 % SPEAKERS, state.height().0 + u64::from(astray))),
        33 if pick % 4 == 0 => {
            let change = mesh.rotation(pick / 4 % SPEAKERS, SPEAKERS - 1 + pick / 4 % 4);
            return (by, mesh.membership(state.membership_epoch(), change, &validators(mesh, pick)));
        }
        _ => {}
    }
    let open: Vec<OfferId> = state.offers().map(|(id, _)| *id).collect();
    let known = if open.is_empty() || (astray && !past.is_empty()) { past } else { &open };
    let Some(id) = known.get(usize::from(pick) % known.len().max(1)).copied() else {
        return (by, done(OfferId([pick; 32])));
    };
    let auction = state.offer(&id);
    let winner = auction.and_then(|auction| auction.winner());
    let winner = winner.filter(|_| !astray).map_or(by, |winner| number(&winner));
    let source = auction.filter(|_| !astray).map_or(by, |auction| number(&auction.source));
    let attempt = auction.map_or(1, |auction| auction.attempt) + u32::from(astray && pick % 3 == 0);
    match kind {
        9..16 => (by, bid(id, u16::from(pick) * 3)),
        16..18 => (by, decline(id, 0)),
        18 => (winner, decline(id, attempt)),
        19..22 => (winner, ready(id, attempt)),
        22..25 => {
            let epoch = auction.map_or(Epoch(1), |auction| auction.body.epoch);
            let yielded = Yield {
                offer: id,
                attempt,
                target: site(winner),
                epoch,
                freeze_ms: Millis(1),
                collect_ms: Millis(1),
                root: Hash::ZERO,
            };
            let Message::Receipt(receipt) = mesh.receipt_of(source, id, attempt, yielded) else { unreachable!() };
            (winner, Message::Receipt(Receipt { offer: id, ..receipt }))
        }
        25 => (source, abort(id, attempt, if pick % 2 == 0 { Then::Next } else { Then::End })),
        26 => (winner, abort(id, attempt, Then::End)),
        27..30 => (winner, done(id)),
        _ => {
            let epoch = auction.and_then(|auction| state.container(&auction.body.container)).map_or(1, |c| c.epoch.0);
            (source, mesh.reclaim(id, epoch, &validators(mesh, pick)))
        }
    }
}

/// Validators that consent: often enough of them.
fn validators(mesh: &Mesh, pick: u8) -> Vec<u8> {
    let all: Vec<u8> = mesh.state.validators().iter().map(number).collect();
    let few = all.len() - usize::from(pick % 3) * all.len() / 4;
    all.into_iter().take(few).collect()
}

fn change(mesh: &Mesh, pick: u8) -> Message {
    let (n, role) = (pick % SPEAKERS, [Role::Validator, Role::Member, Role::Observer][usize::from(pick) % 3]);
    let change = if pick.is_multiple_of(5) { Change::Remove(site(n)) } else { Change::Put(member(n, role)) };
    mesh.membership(mesh.state.membership_epoch(), change, &validators(mesh, pick / 2))
}

/// What a reader of the events alone knows.
#[derive(Default)]
struct Reader {
    containers: BTreeMap<ContainerId, (SiteId, Epoch)>,
    owners: BTreeMap<(ContainerId, Epoch), SiteId>,
    open: BTreeMap<OfferId, (ContainerId, Phase, u32)>,
}

impl Reader {
    fn owns(&mut self, container: ContainerId, owner: SiteId, epoch: Epoch) {
        let before = self.containers.insert(container, (owner, epoch));
        assert_eq!(before.map_or(Epoch(1), |(_, before)| before.next()), epoch, "an epoch rises by one");
        let twice = self.owners.insert((container, epoch), owner);
        assert_eq!(twice, None, "an epoch has one owner and is never used again");
    }

    fn read(&mut self, event: &Event) {
        match event {
            Event::Registered { owner, register } => self.owns(register.container, *owner, Epoch(1)),
            Event::Retired { container, owner } => {
                let (last, _) = self.containers.remove(container).expect("was registered");
                assert_eq!(last, *owner);
            }
            Event::Opened { offer, body, source, .. } => {
                assert_eq!(self.containers[&body.container], (*source, body.epoch));
                self.open.insert(*offer, (body.container, Phase::Bidding, 0));
            }
            Event::BidPlaced { bid, .. } => assert_eq!(self.open[&bid.offer].1, Phase::Bidding),
            Event::Declined { offer, .. } => assert_eq!(self.open[offer].1, Phase::Bidding),
            Event::Awarded { offer, award } => {
                assert!(!award.ranking.is_empty());
                self.moves(offer, &[Phase::Bidding], Phase::Awarded, 1);
            }
            Event::Passed { offer, attempt, .. } => {
                assert!(*attempt > self.open[offer].2, "attempts rise");
                self.moves(offer, &[Phase::Awarded, Phase::Ready], Phase::Awarded, *attempt);
            }
            Event::Readied { offer, attempt } => self.moves(offer, &[Phase::Awarded], Phase::Ready, *attempt),
            Event::Received { offer, attempt, container, owner, epoch } => {
                self.moves(offer, &[Phase::Awarded, Phase::Ready], Phase::Received, *attempt);
                self.owns(*container, *owner, *epoch);
            }
            Event::Closed { offer, .. } => self.ends(offer, true),
            Event::Ended { offer, .. } => self.ends(offer, false),
            Event::Returned { offer, container, owner, epoch, .. } => {
                self.ends(offer, true);
                self.owns(*container, *owner, *epoch);
            }
            Event::MembershipChanged { change: Change::Rotate(rotation) } => {
                let held = self.containers.iter().filter(|(_, (owner, _))| *owner == rotation.body.old);
                for (container, epoch) in held.map(|(id, (_, epoch))| (*id, epoch.next())).collect::<Vec<_>>() {
                    self.owns(container, rotation.author, epoch);
                }
            }
            Event::MembershipChanged { .. } | Event::Punished { .. } => {}
        }
    }

    fn moves(&mut self, offer: &OfferId, from: &[Phase], to: Phase, attempt: u32) {
        let open = self.open.get_mut(offer).expect("is open");
        assert!(from.contains(&open.1), "{open:?} to {to:?}");
        assert!(to == Phase::Awarded || open.2 == attempt, "the attempt is the current one");
        (open.1, open.2) = (to, attempt);
    }

    fn ends(&mut self, offer: &OfferId, after_receipt: bool) {
        let (_, phase, _) = self.open.remove(offer).expect("is open");
        assert_eq!(phase == Phase::Received, after_receipt);
    }

    fn agrees_with(&self, state: &State) {
        let held: BTreeMap<_, _> = state.containers().map(|(id, held)| (*id, (held.owner, held.epoch))).collect();
        assert_eq!(held, self.containers);
        let open: BTreeMap<_, _> =
            state.offers().map(|(id, open)| (*id, (open.body.container, open.phase, open.attempt))).collect();
        assert_eq!(open, self.open);
    }
}

/// What holds in every state.
fn makes_sense(state: &State) {
    for (id, auction) in state.offers() {
        let held = state.container(&auction.body.container).expect("the container of an open offer is there");
        assert_eq!(held.open, Some(*id));
        assert_eq!(auction.award.is_some(), auction.phase != Phase::Bidding);
        let owner = if auction.phase == Phase::Received { auction.winner() } else { Some(auction.source) };
        assert_eq!(Some(held.owner), owner);
    }
    for (id, held) in state.containers() {
        assert!(held.open.is_none_or(|offer| state.offer(&offer).is_some()));
        assert_eq!(state.container_at(&held.register.address), Some(*id), "an address has one container");
        assert!(!state.retired.contains(id));
    }
    for n in 0..SITES {
        let open = state.offers().filter(|(_, auction)| auction.source == site(n)).count();
        let counted = state.authors.get(&site(n)).map_or(0, |author| author.open_offers());
        assert_eq!(u32::try_from(open), Ok(counted));
    }
    let bidding = state.offers().filter(|(_, auction)| auction.phase == Phase::Bidding);
    assert_eq!(state.due(), bidding.map(|(_, auction)| auction.closes).min());
    let seated = |site: &SiteId| state.seat(site).is_some_and(|seat| seat.until.is_none());
    assert!(state.validators().iter().all(seated), "who votes has a seat");
    assert!(state.seats.iter().all(|(site, _)| state.member(site).is_some()), "and who left has none");
    assert!(!state.validators().is_empty());
    assert!(state.validators().is_sorted());
}

/// Says everything, checks after each block; gives the kinds of events there were.
fn run(blocks: Vec<(u64, Vec<Word>)>) -> BTreeSet<&'static str> {
    let mut mesh = Mesh::with(&[(4, Role::Member), (5, Role::Member)]);
    let (mut reader, mut past, mut kinds) = (Reader::default(), Vec::new(), BTreeSet::new());
    for (step, words) in blocks {
        let said: Vec<(u8, Message)> = words.into_iter().map(|word| message(&mesh, &past, word)).collect();
        let records = said.into_iter().map(|(by, message)| mesh.sign(by, message)).collect();
        mesh.proposer = number(&mesh.state.validators()[0]);
        let (events, _) = mesh.commit_what_holds(Time(mesh.now.0 + step), records);
        for event in &events {
            reader.read(event);
            kinds.insert(kind(event));
            if let Event::Opened { offer, .. } = event {
                assert!(!past.contains(offer), "an offer is opened once");
                past.push(*offer);
            }
        }
        reader.agrees_with(&mesh.state);
        makes_sense(&mesh.state);
    }
    kinds
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Registered { .. } => "registered",
        Event::Retired { .. } => "retired",
        Event::Opened { .. } => "opened",
        Event::BidPlaced { .. } => "bid",
        Event::Declined { .. } => "declined",
        Event::Awarded { .. } => "awarded",
        Event::Passed { .. } => "passed",
        Event::Readied { .. } => "readied",
        Event::Received { .. } => "received",
        Event::Closed { .. } => "closed",
        Event::Ended { .. } => "ended",
        Event::Returned { possible_loss: false, .. } => "returned",
        Event::Returned { possible_loss: true, .. } => "reclaimed",
        Event::MembershipChanged { change: Change::Rotate(_) } => "rotated",
        Event::MembershipChanged { .. } => "membership",
        Event::Punished { sentence: Sentence::Removed, .. } => "removed",
        Event::Punished { sentence: Sentence::Suspended, .. } => "suspended",
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_said_the_state_makes_sense_and_the_events_tell_it(blocks in words()) {
        run(blocks);
    }
}

#[test]
fn what_is_said_at_random_leads_to_every_kind_of_event() {
    let mut runner = TestRunner::deterministic();
    let mut kinds = BTreeSet::new();
    for _ in 0..120 {
        let blocks = words().new_tree(&mut runner).expect("nothing is filtered").current();
        kinds.extend(run(blocks));
    }
    assert_eq!(kinds.len(), 17, "{kinds:?}");
}
