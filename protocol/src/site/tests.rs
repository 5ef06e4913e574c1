//! The brain of one site: when it offers, how it answers, what it keeps free.

use alloc::vec;
use alloc::vec::Vec;

use ed25519_dalek::SigningKey;

use super::*;
use crate::award::{Award, Ranked};
use crate::bid::{Bid, Decline, Reason};
use crate::bounded::List;
use crate::container::{Image, Kind, Mode, Needs, Profile};
use crate::event::EndReason;
use crate::handoff::Stage;
use crate::id::{ImageId, MeshId};
use crate::offer::{Offer, Why};
use crate::register::Register;
use crate::report::Signal;
use crate::signed::Signed;
use crate::units::{Dbm, PerMille};

const MESH: MeshId = MeshId([1; 32]);
const START: Time = Time(1_000_000);
const GIB: u64 = 1 << 30;
const ME: u8 = 0;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n + 1; 32])
}

fn site(n: u8) -> SiteId {
    key(n).verifying_key().into()
}

fn client() -> SigningKey {
    SigningKey::from_bytes(&[99; 32])
}

fn id(n: u8) -> ContainerId {
    ContainerId([n; 16])
}

fn offer_id(n: u8) -> OfferId {
    OfferId([n; 32])
}

fn config() -> Config {
    let platform =
        Platform { architecture: Text::clipped("x86_64"), cpu_features: List::default(), kernel: (6, 1), criu: 31_700 };
    Config {
        me: site(ME),
        address: Address([192, 0, 2, 1].into()),
        network: Text::clipped("here"),
        platform,
        limits: Limits::default(),
        patience: Patience::default(),
        window: Millis(1_000),
        gossip: Millis(5_000),
        stale: Millis(15_000),
    }
}

/// 10 GiB of which so many are used, each container using 1.
fn load(used: u64, containers: &[u8]) -> Load {
    let each = |n: &u8| (id(*n), Use { cpu: MilliCpu(100), memory: Bytes(GIB), layer: Bytes(0) });
    Load {
        cpu: Share { total: MilliCpu(10_000), used: MilliCpu(0), reserved: MilliCpu(0) },
        memory: Share { total: Bytes(10 * GIB), used: Bytes(used * GIB), reserved: Bytes(0) },
        containers: containers.iter().map(each).collect(),
        ..Load::default()
    }
}

fn register(n: u8) -> Register {
    Register {
        container: id(n),
        name: Text::clipped("counter"),
        image: Image { id: ImageId([9; 32]), reference: Text::default() },
        profile: Profile {
            cpu: MilliCpu(100),
            memory: Bytes(GIB),
            gpu: 0,
            kind: Kind::Stateful,
            mode: Mode::StopAndCopy,
            max_delay_ms: Millis(u64::from(n)),
        },
        address: Address([10, 77, 1, n].into()),
        clients: List::first([client().verifying_key().into()]),
    }
}

/// What another site offers.
fn foreign(n: u8, memory: u64, named: &[u8]) -> Offer {
    Offer {
        container: id(n),
        epoch: Epoch(1),
        source_address: Address([192, 0, 2, 2].into()),
        size: Bytes(GIB),
        cpu: MilliCpu(100),
        gpu: 0,
        memory: Bytes(memory * GIB),
        why: Why::Drain,
        needs: Needs {
            architecture: Text::clipped("x86_64"),
            cpu_features: List::default(),
            kernel: (6, 1),
            criu: 31_700,
            image: ImageId([9; 32]),
        },
        named: List::first(named.iter().map(|n| site(*n))),
        window: Millis(1_000),
    }
}

fn members_of(many: u8) -> BTreeMap<SiteId, Role> {
    (0..many).map(|n| (site(n), Role::Member)).collect()
}

/// A site in a mesh of so many members, and its clock.
struct Bench {
    site: Site,
    now: Time,
}

impl Bench {
    fn of(members: u8) -> Self {
        Self::among(members_of(members))
    }

    fn among(members: BTreeMap<SiteId, Role>) -> Self {
        let mut site = Site::new(config(), 0);
        site.recover(START, members, BTreeMap::new(), vec![], &[]);
        Self { site, now: START }
    }

    /// With containers of its own that have been here for long.
    fn owning(members: u8, containers: &[u8]) -> Self {
        let mut bench = Self::of(members);
        for n in containers {
            bench.sees(Event::Registered { owner: site(ME), register: register(*n) });
        }
        bench.later(60_000);
        bench
    }

    fn later(&mut self, ms: u64) -> &mut Self {
        self.now = self.now.after(Millis(ms));
        self
    }

    /// What an input leads to, without gossip and notices.
    fn on(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = self.site.step(self.now, input);
        effects.retain(|effect| !matches!(effect, Effect::Gossip(_) | Effect::Tell(_)));
        effects
    }

    fn sees(&mut self, event: Event) -> Vec<Effect> {
        let time = self.now;
        self.on(Input::Ledger { time, event })
    }

    fn loaded(&mut self, used: u64, containers: &[u8]) -> Vec<Effect> {
        self.on(Input::Load(load(used, containers)))
    }

    fn hears(&mut self, n: u8, used: u64) {
        let load = load(used, &[]);
        let capacity = Capacity {
            sequence: self.now.0,
            at: self.now,
            address: Address([192, 0, 2, n].into()),
            network: Text::clipped("here"),
            cpu: load.cpu,
            memory: load.memory,
            gpu: load.gpu,
            platform: config().platform,
            accepting: true,
            height: crate::vote::Height(0),
        };
        self.on(Input::Capacity(Signed::sign(&MESH, &key(n), capacity).unwrap()));
    }

    fn opens(&mut self, offer: u8, source: u8, body: Offer) -> Vec<Effect> {
        let closes = self.now.after(body.window);
        self.sees(Event::Opened { offer: offer_id(offer), source: site(source), body, closes })
    }

    fn reserved(&self) -> u64 {
        self.site.capacity(self.now).expect("it was measured").memory.reserved.0 / GIB
    }

    fn reports(&mut self, sequence: u64, here: i16, there: i16) -> Vec<Effect> {
        let signals =
            List::first([Signal { site: site(ME), dbm: Dbm(here) }, Signal { site: site(1), dbm: Dbm(there) }]);
        let report = Report { sequence, at: self.now, signals };
        self.on(Input::Report(Signed::sign(&MESH, &client(), report).unwrap()))
    }
}

fn offers(effects: &[Effect]) -> Vec<&Offer> {
    let mut offers = vec![];
    for effect in effects {
        if let Effect::Append(Message::Offer(offer)) = effect {
            offers.push(offer);
        }
    }
    offers
}

fn offered(effects: &[Effect]) -> Vec<ContainerId> {
    offers(effects).iter().map(|offer| offer.container).collect()
}

fn bid(effects: &[Effect]) -> Option<Bid> {
    match effects {
        [Effect::Journal(Promise::Bid { .. }), Effect::Append(Message::Bid(bid))] => Some(*bid),
        _ => None,
    }
}

fn declined(effects: &[Effect]) -> Option<&Reason> {
    match effects {
        [Effect::Append(Message::Decline(Decline { reason, .. }))] => Some(reason),
        _ => None,
    }
}

#[test]
fn overload_that_lasts_offers_the_most_tolerant_until_relieved() {
    let mut bench = Bench::owning(4, &[1, 2, 3]);
    assert!(offered(&bench.loaded(6, &[1, 2, 3])).is_empty(), "a peak moves nothing");
    let effects = bench.later(3_000).loaded(6, &[1, 2, 3]);
    assert_eq!(offered(&effects), [id(3), id(2)]);
    assert!(matches!(offers(&effects)[0].why, Why::Overload { memory: PerMille(600), .. }));
    assert!(offered(&bench.later(1_000).loaded(6, &[1, 2, 3])).is_empty(), "no container is offered twice");
}

#[test]
fn overload_moves_nothing_that_came_just_now() {
    let mut bench = Bench::of(4);
    bench.sees(Event::Registered { owner: site(ME), register: register(1) });
    bench.loaded(9, &[1]);
    assert!(offered(&bench.later(29_999).loaded(9, &[1])).is_empty());
    assert_eq!(offered(&bench.later(1).loaded(9, &[1])), [id(1)]);
}

#[test]
fn a_red_site_offers_until_use_is_below_the_limit_by_the_hysteresis() {
    let mut bench = Bench::owning(4, &[1, 2]);
    bench.loaded(6, &[1, 2]);
    assert_eq!(offered(&bench.later(3_000).loaded(5, &[1, 2])), [id(2)], "still red at the limit");
    bench.loaded(4, &[1]);
    assert!(offered(&bench.later(3_000).loaded(5, &[1])).is_empty(), "green again");
}

#[test]
fn an_offer_names_at_least_three_sites_or_all_there_are_or_none() {
    let drain = Input::Operator(Wish::Drain(true));
    let named = |members: u8, heard: &[(u8, u64)]| {
        let mut bench = Bench::owning(members, &[1]);
        bench.loaded(1, &[1]);
        heard.iter().for_each(|(n, used)| bench.hears(*n, *used));
        let effects = bench.on(drain.clone());
        offers(&effects)[0].named.to_vec()
    };
    assert_eq!(named(6, &[(1, 3), (2, 1), (3, 9), (4, 9)]).len(), 3, "two are able, one more fills up");
    assert_eq!(named(6, &[(1, 3), (2, 1), (3, 2), (4, 0)]), [site(4), site(2), site(3), site(1)], "least loaded first");
    assert_eq!(named(3, &[(1, 3), (2, 1)]), [site(2), site(1)], "all there are");
    assert_eq!(named(6, &[(1, 3), (2, 1)]), [], "too few for the ledger");
    assert_eq!(named(2, &[(1, 1), (7, 1)]), [site(1)], "no stranger");
}

#[test]
fn the_site_that_the_client_hears_best_is_named_however_loaded_it_is() {
    let mut bench = Bench::owning(21, &[7]);
    bench.loaded(1, &[7]);
    // Twenty sites are able; the client's best is the most loaded of them.
    (1..=20).for_each(|n| bench.hears(n, if n == 1 { 3 } else { 0 }));
    let effects = bench.reports(1, -110, -60);
    let named = &offers(&effects)[0].named;
    assert_eq!(named.first(), Some(&site(1)));
}

#[test]
fn stale_gossip_names_nobody() {
    let mut bench = Bench::owning(2, &[1]);
    bench.hears(1, 1);
    bench.later(15_001);
    let effects = bench.on(Input::Operator(Wish::Drain(true)));
    assert!(offers(&effects)[0].named.is_empty());
}

#[test]
fn a_drained_site_offers_all_and_takes_nothing() {
    let mut bench = Bench::owning(3, &[1, 2]);
    bench.loaded(1, &[1, 2]);
    assert_eq!(offered(&bench.on(Input::Operator(Wish::Drain(true)))), [id(1), id(2)]);
    assert!(offered(&bench.on(Input::Tick)).is_empty(), "no container is offered twice");
    assert_eq!(declined(&bench.opens(7, 1, foreign(7, 1, &[ME]))), Some(&Reason::Draining));
    bench.on(Input::Operator(Wish::Drain(false)));
    assert!(bid(&bench.opens(8, 1, foreign(8, 1, &[ME]))).is_some());
}

#[test]
fn a_fruitless_offer_is_made_again_only_after_a_while() {
    let mut bench = Bench::owning(3, &[1]);
    let effects = bench.on(Input::Operator(Wish::Drain(true)));
    let body = offers(&effects)[0].clone();
    bench.opens(7, ME, body);
    bench.sees(Event::Ended { offer: offer_id(7), reason: EndReason::NoBids });
    assert!(offered(&bench.later(30_000).on(Input::Tick)).is_empty());
    assert_eq!(offered(&bench.later(1).on(Input::Tick)), [id(1)]);
}

#[test]
fn an_operator_moves_one_container_and_only_ones_own() {
    let mut bench = Bench::owning(3, &[1, 2]);
    bench.sees(Event::Registered { owner: site(1), register: register(5) });
    let wish = |n| Input::Operator(Wish::Migrate { container: id(n), prefer: Some(site(2)) });
    let effects = bench.on(wish(1));
    assert_eq!(offered(&effects), [id(1)]);
    assert_eq!(offers(&effects)[0].why, Why::Manual { prefer: Some(site(2)) });
    assert!(bench.on(wish(1)).is_empty(), "it is on its way");
    assert!(bench.on(wish(5)).is_empty(), "it is another's");
}

#[test]
fn a_refused_offer_frees_the_container_for_the_next() {
    let mut bench = Bench::owning(3, &[1]);
    let wish = Input::Operator(Wish::Migrate { container: id(1), prefer: None });
    let effects = bench.on(wish.clone());
    let refused = Message::Offer(offers(&effects)[0].clone());
    assert!(bench.on(wish.clone()).is_empty());
    bench.on(Input::Refused(refused));
    assert_eq!(offered(&bench.on(wish)), [id(1)]);
}

#[test]
fn a_container_follows_its_client() {
    let mut bench = Bench::owning(3, &[1]);
    assert!(bench.reports(1, -90, -60).is_empty(), "well served here");
    let effects = bench.reports(2, -100, -60);
    assert_eq!(offered(&effects), [id(1)]);
    let Why::Mobility { report } = &offers(&effects)[0].why else { panic!("not for mobility") };
    assert_eq!(report.body.sequence, 2);
}

#[test]
fn an_old_report_moves_nothing() {
    let mut bench = Bench::owning(3, &[1]);
    assert!(bench.reports(5, -90, -60).is_empty());
    assert!(bench.reports(4, -100, -60).is_empty());
}

#[test]
fn a_report_reaches_the_owner_elsewhere() {
    let mut bench = Bench::of(3);
    bench.sees(Event::Registered { owner: site(1), register: register(5) });
    let effects = bench.reports(1, -100, -60);
    assert!(matches!(&effects[..], [Effect::Say { to, word: crate::word::Word::Report(_) }] if *to == site(1)));
}

#[test]
fn a_destination_that_would_pass_its_own_threshold_declines_by_name() {
    let mut bench = Bench::of(3);
    bench.loaded(3, &[]);
    assert_eq!(declined(&bench.opens(7, 1, foreign(7, 3, &[ME]))), Some(&Reason::Memory));
    assert!(bench.opens(8, 1, foreign(8, 3, &[2])).is_empty(), "nobody waits for a site that is not named");
    let bid = bid(&bench.opens(9, 1, foreign(9, 2, &[ME]))).expect("it fits");
    assert_eq!(bid.load, PerMille(500));
}

#[test]
fn who_is_not_named_bids_only_when_too_few_have_by_half_the_window() {
    let bid_placed = |n: u8| Event::BidPlaced {
        bidder: site(n),
        bid: Bid { offer: offer_id(8), same_network: true, load: PerMille(0), downtime_ms: Millis(1) },
    };
    let late = |bids: &[u8], named: &[u8]| {
        let mut bench = Bench::owning(6, &[]);
        bench.loaded(1, &[]);
        let at_once = bench.opens(8, 1, foreign(8, 1, named));
        bids.iter().for_each(|n| drop(bench.sees(bid_placed(*n))));
        let before = bench.later(499).on(Input::Tick);
        let after = bench.later(1).on(Input::Tick);
        let again = bench.later(300).on(Input::Tick);
        (bid(&at_once).is_some(), bid(&before).is_some(), bid(&after).is_some(), bid(&again).is_some())
    };
    assert_eq!(late(&[], &[ME, 2, 3]), (true, false, false, false), "asked");
    assert_eq!(late(&[], &[]), (true, false, false, false), "everybody is asked");
    assert_eq!(late(&[2], &[2, 3, 4]), (false, false, true, false), "two of three are silent");
    assert_eq!(late(&[2, 3, 4], &[2, 3, 4, 5]), (false, false, false, false), "there are runners-up enough");
}

#[test]
fn who_is_not_named_does_not_bid_on_what_is_awarded() {
    let mut bench = Bench::owning(6, &[]);
    bench.loaded(1, &[]);
    bench.opens(8, 1, foreign(8, 1, &[2, 3]));
    bench.sees(Event::Ended { offer: offer_id(8), reason: EndReason::NoBids });
    assert_eq!(bid(&bench.later(600).on(Input::Tick)), None);
}

#[test]
fn reservations_sum_up_until_nothing_more_fits() {
    let mut bench = Bench::of(3);
    bench.loaded(2, &[]);
    assert!(bid(&bench.opens(7, 1, foreign(7, 2, &[]))).is_some());
    assert!(bid(&bench.opens(8, 1, foreign(8, 1, &[]))).is_some());
    assert_eq!(bench.reserved(), 3);
    assert_eq!(declined(&bench.opens(9, 1, foreign(9, 1, &[ME]))), Some(&Reason::Memory));
    bench.sees(Event::Ended { offer: offer_id(7), reason: EndReason::NoBids });
    assert_eq!(bench.reserved(), 1);
    assert!(bid(&bench.opens(10, 1, foreign(10, 2, &[]))).is_some());
}

#[test]
fn a_refused_bid_frees_what_it_reserved_unless_it_is_in_the_ledger() {
    let mut bench = Bench::of(3);
    bench.loaded(2, &[]);
    let mut place = |n: u8, committed: bool| {
        let bid = bid(&bench.opens(n, 1, foreign(n, 1, &[]))).expect("it fits");
        if committed {
            bench.sees(Event::BidPlaced { bidder: site(ME), bid });
        }
        let effects = bench.on(Input::Refused(Message::Bid(bid)));
        (effects, bench.reserved())
    };
    let (effects, reserved) = place(7, false);
    assert_eq!((effects, reserved), (vec![Effect::Journal(Promise::Closed { offer: offer_id(7) })], 0));
    assert_eq!(place(8, true), (vec![], 1));
}

#[test]
fn a_bid_that_was_given_up_and_is_committed_all_the_same_still_wins_if_it_fits() {
    let mut bench = Bench::of(3);
    bench.loaded(2, &[]);
    let bid = bid(&bench.opens(7, 1, foreign(7, 1, &[]))).expect("it fits");
    bench.on(Input::Refused(Message::Bid(bid)));
    bench.sees(Event::BidPlaced { bidder: site(ME), bid });
    assert_eq!(bench.reserved(), 0, "what was kept free for it may be promised to others by now");
    let award = Award { ranking: vec![Ranked { site: site(ME), score: 1 }] };
    let effects = bench.sees(Event::Awarded { offer: offer_id(7), award });
    assert!(matches!(&effects[..], [Effect::Do(task)] if matches!(task.action, Action::Prepare { .. })));
    assert_eq!(bench.reserved(), 1);
}

#[test]
fn a_runner_up_that_has_filled_up_meanwhile_passes() {
    let mut bench = Bench::of(3);
    bench.loaded(2, &[]);
    let bid = bid(&bench.opens(7, 1, foreign(7, 2, &[]))).expect("it fits");
    bench.sees(Event::BidPlaced { bidder: site(ME), bid });
    let ranking = vec![Ranked { site: site(2), score: 2 }, Ranked { site: site(ME), score: 1 }];
    bench.sees(Event::Awarded { offer: offer_id(7), award: Award { ranking } });
    assert_eq!(bench.reserved(), 0, "only the winner keeps it");
    bench.loaded(4, &[]);
    let passed = Event::Passed { offer: offer_id(7), attempt: 2, winner: site(ME), reason: Reason::Silent };
    assert_eq!(declined(&bench.sees(passed)), Some(&Reason::Memory));
}

#[test]
fn a_container_does_not_come_back_before_its_last_handoff_is_settled_here() {
    let mut bench = Bench::owning(3, &[1]);
    bench.loaded(1, &[1]);
    let effects = bench.on(Input::Operator(Wish::Migrate { container: id(1), prefer: None }));
    let body = offers(&effects)[0].clone();
    bench.opens(7, ME, body);
    let award = Award { ranking: vec![Ranked { site: site(1), score: 1 }] };
    bench.sees(Event::Awarded { offer: offer_id(7), award });
    let done = crate::done::Done {
        offer: offer_id(7),
        spans: crate::done::Spans::default(),
        bytes: Bytes(0),
        late_root: crate::id::Hash::ZERO,
    };
    bench.sees(Event::Received { offer: offer_id(7), attempt: 1, container: id(1), owner: site(1), epoch: Epoch(2) });
    bench.sees(Event::Closed { offer: offer_id(7), done });
    let back = foreign(1, 1, &[ME]);
    assert!(matches!(declined(&bench.opens(8, 1, back.clone())), Some(Reason::Failed(_))));
    bench.sees(Event::Ended { offer: offer_id(8), reason: EndReason::NoBids });
    bench.on(Input::Outcome { offer: offer_id(7), action: Action::Release, outcome: Outcome::Settled });
    assert!(bid(&bench.opens(9, 1, back)).is_some());
}

#[test]
fn an_observer_and_an_unmeasured_site_do_not_bid() {
    let mut bench = Bench::of(3);
    assert_eq!(declined(&bench.opens(7, 1, foreign(7, 1, &[ME]))), Some(&Reason::Memory));
    let members = [(site(ME), Role::Observer), (site(1), Role::Member)].into();
    let mut bench = Bench::among(members);
    bench.loaded(1, &[]);
    assert!(bench.opens(7, 1, foreign(7, 1, &[ME])).is_empty());
}

#[test]
fn after_a_restart_only_promises_that_still_bind_are_settled() {
    let freeze = |n| Promise::Freeze { offer: offer_id(n), container: id(n), attempt: 1 };
    let promises = [
        freeze(1),
        freeze(2),
        Promise::Closed { offer: offer_id(2) },
        Promise::Bid { offer: offer_id(3), container: id(3) },
    ];
    let mut bench = Bench::of(3);
    let known = Known {
        register: register(1),
        owner: site(ME),
        epoch: Epoch(1),
        open: None,
        since: START,
        asked: None,
        tried: None,
    };
    let effects = bench.site.recover(START, members_of(3), [(id(1), known)].into(), vec![], &promises);
    let done = |effect: &Effect| match effect {
        Effect::Do(task) => Some((task.container, task.action)),
        _ => None,
    };
    let done: Vec<_> = effects.iter().filter_map(done).collect();
    assert_eq!(done, [(id(1), Action::Thaw), (id(3), Action::Discard)]);
}

#[test]
fn a_site_that_does_not_know_the_ledger_neither_undoes_what_it_promised_nor_answers_what_was_long_ago() {
    let mut bench = Bench { site: Site::new(config(), 0), now: START };
    bench.loaded(1, &[]);
    bench.sees(Event::Registered { owner: site(1), register: register(7) });
    assert!(bench.opens(7, 1, foreign(7, 1, &[ME])).is_empty());
    assert!(bench.later(60_000).on(Input::Tick).is_empty() && !bench.site.is_awake());
    bench.site.recover(bench.now, members_of(3), BTreeMap::new(), vec![], &[]);
    assert!(bench.site.is_awake());
    bench.sees(Event::Registered { owner: site(1), register: register(8) });
    assert!(bid(&bench.opens(8, 1, foreign(8, 1, &[ME]))).is_some(), "what it has was measured meanwhile");
}

/// Another's container, as it is before it is offered.
fn foreign_bench(containers: &[u8]) -> Bench {
    let mut bench = Bench::of(3);
    bench.loaded(2, &[]);
    for n in containers {
        bench.sees(Event::Registered { owner: site(1), register: register(*n) });
    }
    bench
}

impl Bench {
    fn overhears(&mut self, offer: u8, source: u8, body: Offer) -> Vec<Effect> {
        let expires = self.now.after(Millis(30_000));
        self.on(Input::Heard { offer: offer_id(offer), source: site(source), body, expires })
    }
}

const CLOSED: fn(u8) -> Effect = |n| Effect::Journal(Promise::Closed { offer: offer_id(n) });

#[test]
fn an_offer_that_is_heard_before_its_commit_is_bid_for_once() {
    let mut bench = foreign_bench(&[7]);
    let early = bid(&bench.overhears(7, 1, foreign(7, 2, &[ME]))).expect("it fits");
    assert_eq!(bench.reserved(), 2, "kept from the bid on");
    assert!(bench.overhears(7, 1, foreign(7, 2, &[ME])).is_empty(), "gossip repeats itself");
    assert!(bench.opens(7, 1, foreign(7, 2, &[ME])).is_empty(), "no second bid");
    bench.sees(Event::BidPlaced { bidder: site(ME), bid: early });
    assert_eq!(bench.reserved(), 2);
    bench.later(90_000).on(Input::Tick);
    assert_eq!(bench.reserved(), 2, "committed, it does not lapse");
    let award = Award { ranking: vec![Ranked { site: site(ME), score: 1 }] };
    let effects = bench.sees(Event::Awarded { offer: offer_id(7), award });
    assert!(matches!(&effects[..], [Effect::Do(task)] if matches!(task.action, Action::Prepare { .. })));
}

#[test]
fn an_offer_that_is_heard_and_cannot_be_taken_is_declined_once() {
    let mut bench = foreign_bench(&[7, 8]);
    assert_eq!(declined(&bench.overhears(7, 1, foreign(7, 4, &[ME]))), Some(&Reason::Memory));
    assert!(bench.opens(7, 1, foreign(7, 4, &[ME])).is_empty(), "no second answer");
    // But when the first was lost, another is given.
    assert!(declined(&bench.overhears(8, 1, foreign(8, 4, &[ME]))).is_some());
    bench.on(Input::Refused(Message::Decline(Decline { offer: offer_id(8), attempt: 0, reason: Reason::Memory })));
    assert!(declined(&bench.opens(8, 1, foreign(8, 4, &[ME]))).is_some());
}

#[test]
fn an_offer_that_is_never_committed_reserves_until_it_has_expired() {
    let mut bench = foreign_bench(&[7, 8]);
    bench.overhears(7, 1, foreign(7, 2, &[ME]));
    assert!(bench.later(30_000).on(Input::Tick).is_empty());
    assert_eq!((bench.later(1).on(Input::Tick), bench.reserved()), (vec![CLOSED(7)], 0));
    // However long its record lives, no longer than any of a correct site.
    let expires = bench.now.after(Millis(600_000));
    bench.on(Input::Heard { offer: offer_id(8), source: site(1), body: foreign(8, 2, &[]), expires });
    assert!(bench.later(60_000).on(Input::Tick).is_empty());
    assert_eq!(bench.later(1).on(Input::Tick), [CLOSED(8)]);
    // It comes after all: it is answered like any other.
    assert!(bid(&bench.opens(8, 1, foreign(8, 2, &[]))).is_some());
}

#[test]
fn an_early_bid_that_is_refused_frees_what_it_reserved_and_is_made_again_at_the_commit() {
    let mut bench = foreign_bench(&[7]);
    let early = bid(&bench.overhears(7, 1, foreign(7, 2, &[]))).expect("it fits");
    assert_eq!((bench.on(Input::Refused(Message::Bid(early))), bench.reserved()), (vec![CLOSED(7)], 0));
    assert!(bid(&bench.opens(7, 1, foreign(7, 2, &[]))).is_some());
}

#[test]
fn of_two_offers_of_a_container_the_one_that_is_committed_is_bid_for() {
    let mut bench = foreign_bench(&[7]);
    assert!(bid(&bench.overhears(1, 1, foreign(7, 2, &[ME]))).is_some());
    assert!(bench.overhears(2, 1, foreign(7, 2, &[ME])).is_empty(), "one at a time");
    let effects = bench.opens(2, 1, foreign(7, 2, &[ME]));
    assert_eq!((effects.first(), bid(&effects[1..]).is_some()), (Some(&CLOSED(1)), true));
    assert_eq!(bench.reserved(), 2, "and not twice");
}

#[test]
fn what_is_not_its_authors_to_offer_or_comes_from_this_site_is_not_answered_early() {
    let mut bench = foreign_bench(&[7]);
    let stale = Offer { epoch: Epoch(2), ..foreign(7, 1, &[ME]) };
    assert!(bench.overhears(1, 2, foreign(7, 1, &[ME])).is_empty(), "another's container");
    assert!(bench.overhears(1, 1, foreign(6, 1, &[ME])).is_empty(), "no container");
    assert!(bench.overhears(1, 1, stale).is_empty(), "another epoch");
    bench.opens(2, 1, foreign(7, 4, &[]));
    assert!(bench.overhears(1, 1, foreign(7, 1, &[ME])).is_empty(), "it is on offer already");
    let mut own = Bench::owning(3, &[5]);
    own.loaded(1, &[]);
    assert!(own.overhears(1, ME, foreign(5, 1, &[])).is_empty());
}

#[test]
fn a_bid_from_before_a_restart_whose_offer_is_committed_after_it_is_kept() {
    let mut bench = foreign_bench(&[7]);
    let early = bid(&bench.overhears(7, 1, foreign(7, 2, &[ME]))).expect("it fits");
    let promises = [Promise::Bid { offer: offer_id(7), container: id(7) }];
    let mut again = Bench { site: Site::new(config(), 0), now: bench.now };
    let known = Known {
        register: register(7),
        owner: site(1),
        epoch: Epoch(1),
        open: None,
        since: START,
        asked: None,
        tried: None,
    };
    let effects = again.site.recover(again.now, members_of(3), [(id(7), known)].into(), vec![], &promises);
    assert!(matches!(&effects[..], [Effect::Do(task)] if task.action == Action::Discard), "nobody knows the offer yet");
    again.loaded(2, &[]);
    let settled = Input::Outcome { offer: offer_id(7), action: Action::Discard, outcome: Outcome::Settled };
    assert_eq!(again.on(settled), [CLOSED(7)]);
    assert!(bid(&again.opens(7, 1, foreign(7, 2, &[ME]))).is_some());
    again.sees(Event::BidPlaced { bidder: site(ME), bid: early });
    assert_eq!(again.reserved(), 2);
}

#[test]
fn a_bid_that_is_committed_while_what_it_left_is_discarded_is_stood_by_afterwards() {
    let award = Award { ranking: vec![Ranked { site: site(2), score: 2 }, Ranked { site: site(ME), score: 1 }] };
    let passed = Event::Passed { offer: offer_id(7), attempt: 2, winner: site(ME), reason: Reason::Silent };
    let body = foreign(7, 2, &[ME]);
    let bid = Bid { offer: offer_id(7), same_network: true, load: PerMille(0), downtime_ms: Millis(0) };
    let promise = Promise::Bid { offer: offer_id(7), container: id(7) };
    // So much of it happens before the discard has ended.
    for before in 1..=3_usize {
        let mut bench = Bench { site: Site::new(config(), 0), now: START };
        bench.site.recover(START, members_of(3), BTreeMap::new(), vec![], core::slice::from_ref(&promise));
        bench.loaded(2, &[]);
        bench.opens(7, 1, body.clone());
        let mut events = vec![
            Event::BidPlaced { bidder: site(ME), bid },
            Event::Awarded { offer: offer_id(7), award: award.clone() },
            passed.clone(),
        ];
        let after = events.split_off(before);
        for event in events {
            assert_eq!(bench.sees(event), [], "one task of a handoff at a time");
        }
        let settled = Input::Outcome { offer: offer_id(7), action: Action::Discard, outcome: Outcome::Settled };
        let mut effects = bench.on(settled);
        assert_eq!(effects[..2], [CLOSED(7), Effect::Journal(promise.clone())]);
        effects.drain(..2);
        effects.extend(after.into_iter().flat_map(|event| bench.sees(event)));
        let answers = match &effects[..] {
            [Effect::Do(task)] => before < 3 && task.action == Action::Prepare { source: site(1) },
            _ => before == 3 && matches!(declined(&effects), Some(Reason::Failed(_))),
        };
        assert!(answers, "after {before}: {effects:?}");
    }
}

#[test]
fn a_bid_that_was_given_up_and_is_in_the_ledger_after_a_restart_is_promised_again() {
    let body = foreign(7, 2, &[ME]);
    let open = |stage, attempt| Open {
        id: offer_id(7),
        source: site(1),
        body: body.clone(),
        award: (attempt > 0).then(|| Award { ranking: vec![Ranked { site: site(ME), score: 1 }] }),
        bidders: vec![site(ME)],
        attempt,
        stage,
    };
    let promise = Promise::Bid { offer: offer_id(7), container: id(7) };
    let closed = [promise.clone(), Promise::Closed { offer: offer_id(7) }];
    // A journal holds what is closed until it is rewritten.
    for promises in [&closed[..], &[]] {
        let mut bench = Bench::of(3);
        let effects =
            bench.site.recover(START, members_of(3), BTreeMap::new(), vec![open(Stage::Bidding, 0)], promises);
        assert_eq!(effects, [Effect::Journal(promise.clone())]);
        bench.loaded(2, &[]);
        assert_eq!(bench.reserved(), 0, "what was kept free for it may be promised to others by now");
        let award = Award { ranking: vec![Ranked { site: site(ME), score: 1 }] };
        bench.sees(Event::Awarded { offer: offer_id(7), award });
        assert_eq!(bench.reserved(), 2);

        let mut won = Bench::of(3);
        let effects = won.site.recover(START, members_of(3), BTreeMap::new(), vec![open(Stage::Awarded, 1)], promises);
        assert_eq!(effects[0], Effect::Journal(promise.clone()));
        assert!(matches!(declined(&effects[1..]), Some(Reason::Failed(_))), "nothing vouches for it yet");
    }
}
