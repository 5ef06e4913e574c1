//! Replicas in a network that a seed drives. The network itself checks agreement, that nobody contradicts itself, and that
//! what is signed is on disk before it leaves; the tests add what must be reached.

mod evidence;

use godwit_protocol::bounded::List;
use godwit_protocol::membership::{Change, Role};
use godwit_protocol::{Hash, MeshId, Message, Millis, Signature, Signed};

mod absence;
mod fetching;
mod forgetting;

use super::*;
use crate::block::{Vote, VoteKind};
use crate::harness::{Network, Weather};
use crate::rules;
use crate::testing::{Mesh, key, member, offer, register, site};

/// A mesh of 4 validators, a member (4) and an observer (5), and the network of its first sites.
fn network(sites: u8, weather: Weather, seed: u64) -> (Mesh, Network) {
    let mesh = Mesh::new();
    let network = Network::new(&mesh.genesis, (0..sites).map(key).collect(), weather, seed);
    (mesh, network)
}

/// The registration of a container by one of the first four sites in turn.
fn registration(mesh: &mut Mesh, network: &Network, n: u8) -> (usize, VerifiedRecord) {
    mesh.now = network.now();
    let by = n % 4;
    (usize::from(by), mesh.sign(by, Message::Register(register(n))))
}

fn submit(mesh: &mut Mesh, network: &mut Network, n: u8) {
    let (by, record) = registration(mesh, network, n);
    network.submit(by, record);
}

fn containers(network: &Network, site: usize) -> usize {
    network.state(site).containers().count()
}

/// Whether these sites know so many containers.
fn all_know(network: &Network, sites: std::ops::Range<usize>, count: usize) -> bool {
    sites.into_iter().all(|site| containers(network, site) == count)
}

#[test]
fn four_validators_decide_and_then_are_silent() {
    let (mut mesh, mut network) = network(4, Weather::FAIR, 1);
    network.run(Millis(1000));
    assert!(network.is_silent(), "nothing to decide, nothing said");
    for n in 2..12 {
        submit(&mut mesh, &mut network, n);
        assert!(network.run_until(Millis(1000), |network| all_know(network, 0..4, usize::from(n) - 1)));
    }
    assert!(network.run_until(Millis(2000), Network::is_silent), "no timer is left after the last block");
    let messages = network.messages;
    network.run(Millis(600_000));
    assert_eq!(network.messages, messages, "an idle mesh says nothing");
    assert!(network.chain(0).iter().all(|committed| committed.certificate.round == 0));
    assert!(network.chain(0).iter().all(|committed| !committed.block.records.is_empty()));
}

#[test]
fn a_block_takes_four_delays_from_the_submission_at_a_site_that_does_not_propose() {
    let (mut mesh, mut network) = network(4, Weather::FAIR, 1);
    let proposer = network.state(0).validators()[0];
    let n = (2..6).find(|n| site(n % 4) != proposer).expect("three do not propose");
    let began = network.now();
    submit(&mut mesh, &mut network, n);
    assert!(network.run_until(Millis(1000), |network| (0..4).any(|site| containers(network, site) == 1)));
    assert_eq!(network.now().since(began), Millis(4 * Weather::FAIR.delay.0));
}

#[test]
fn the_others_go_on_without_a_dead_validator_whichever_it_is() {
    for dead in 0..4 {
        let (mut mesh, mut network) = network(4, Weather::FAIR, 2);
        network.crash(dead);
        let alive: Vec<u8> = (2..10).filter(|n| usize::from(n % 4) != dead).collect();
        for (count, n) in (1..).zip(alive) {
            submit(&mut mesh, &mut network, n);
            let known =
                |network: &Network| (0..4).filter(|site| *site != dead).all(|site| containers(network, site) == count);
            assert!(network.run_until(Millis(10_000), known), "container {n} without site {dead}");
        }
    }
}

#[test]
fn without_a_quorum_nothing_is_decided_and_with_it_again_everything_is() {
    let (mut mesh, mut network) = network(4, Weather::FAIR, 3);
    network.cut(0);
    network.cut(1);
    submit(&mut mesh, &mut network, 2);
    assert!(!network.run_until(Millis(20_000), |network| (0..4).any(|site| containers(network, site) > 0)));
    network.heal(0);
    assert!(network.run_until(Millis(20_000), |network| all_know(network, 0..1, 1) && all_know(network, 2..4, 1)));
    network.heal(1);
    assert!(network.run_until(Millis(20_000), |network| all_know(network, 0..4, 1)), "the last one catches up");
}

#[test]
fn lost_doubled_and_reordered_messages_only_cost_time() {
    for seed in 0..8 {
        let (mut mesh, mut network) = network(4, Weather::FOUL, seed);
        for n in 2..12 {
            submit(&mut mesh, &mut network, n);
            network.run(Millis(40));
        }
        assert!(
            network.run_until(Millis(50_000), |network| (0..4).any(|site| containers(network, site) == 10)),
            "seed {seed}"
        );
        network.clear_up();
        assert!(network.run_until(Millis(30_000), |network| all_know(network, 0..4, 10)), "seed {seed}: all catch up");
        assert!(network.run_until(Millis(60_000), Network::is_silent), "seed {seed}: silent at the end");
        let misbehaved = network
            .sites
            .iter()
            .flat_map(|site| &site.offences)
            .find(|(_, what)| !matches!(what, Offence::Clock { .. }));
        assert_eq!(misbehaved, None, "seed {seed}: no correct site is blamed");
    }
}

#[test]
fn crashes_between_any_two_effects_neither_fork_nor_contradict_nor_halt() {
    let mut crashes = 0;
    for seed in 100..112 {
        let weather = Weather { crashes: 30, lost: 10, ..Weather::FOUL };
        let (mut mesh, mut network) = network(4, weather, seed);
        for n in 2..12 {
            submit(&mut mesh, &mut network, n);
            network.run(Millis(60));
        }
        network.run(Millis(3000));
        network.clear_up();
        network.run(Millis(1000));
        // Submitted again, as a host does after a restart: what is in already is refused.
        for n in 2..12 {
            submit(&mut mesh, &mut network, n);
        }
        assert!(network.run_until(Millis(60_000), |network| all_know(network, 0..4, 10)), "seed {seed}");
        assert!(network.run_until(Millis(120_000), Network::is_silent), "seed {seed}: silent at the end");
        crashes += network.crashes;
    }
    assert!(crashes > 100, "{crashes} crashes are a test of little");
}

#[test]
fn one_seed_leads_to_one_history() {
    let run = |seed| {
        let weather = Weather { crashes: 20, ..Weather::FOUL };
        let (mut mesh, mut network) = network(5, weather, seed);
        for n in 2..8 {
            submit(&mut mesh, &mut network, n);
            network.run(Millis(100));
        }
        network.trace
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn members_and_late_sites_follow() {
    let (mut mesh, mut network) = network(6, Weather::FAIR, 4);
    network.cut(5);
    network.cut(3);
    // More blocks than one answer holds.
    for n in (1..100).filter(|n| n % 4 != 3) {
        submit(&mut mesh, &mut network, n);
        let count = usize::from(n) - usize::from((n + 1) / 4);
        assert!(
            network
                .run_until(Millis(20_000), |network| all_know(network, 0..3, count) && containers(network, 4) == count),
            "{n}"
        );
    }
    assert_eq!((network.height(5).0, network.height(3).0), (0, 0));
    assert!(network.height(0).0 > MAX_BLOCKS as u64);
    network.heal(5);
    network.heal(3);
    let height = network.height(0);
    assert!(network.run_until(Millis(20_000), |network| (3..6).all(|site| network.height(site) == height)));
    assert!(network.run_until(Millis(10_000), Network::is_silent));
}

#[test]
fn a_member_without_a_vote_gets_its_record_committed() {
    let (mut mesh, mut network) = network(6, Weather::FAIR, 5);
    mesh.now = network.now();
    let record = mesh.sign(4, Message::Register(register(9)));
    network.submit(4, record);
    assert!(network.run_until(Millis(1000), |network| all_know(network, 0..6, 1)));
    assert!(network.run_until(Millis(5000), Network::is_silent));
}

#[test]
fn the_end_of_bidding_is_committed_by_a_block_without_records() {
    let (mut mesh, mut network) = network(4, Weather::FAIR, 6);
    submit(&mut mesh, &mut network, 4);
    assert!(network.run_until(Millis(1000), |network| all_know(network, 0..4, 1)));
    mesh.now = network.now();
    let record = mesh.sign(0, Message::Offer(offer(4, 1, &[])));
    network.submit(0, record);
    assert!(network.run_until(Millis(1000), |network| (0..4).all(|site| network.state(site).due().is_some())));
    let due = network.state(0).due().expect("bidding ends");
    assert!(network.run_until(Millis(10_000), |network| (0..4).all(|site| network.state(site).due().is_none())));
    let last = network.chain(0).last().expect("a block");
    assert!(last.block.records.is_empty());
    assert!(last.block.header.time >= due && last.block.header.time.since(due) < Millis(100));
    assert!(network.run_until(Millis(5000), Network::is_silent));
}

#[test]
fn a_height_that_lost_its_reason_stops_and_goes_on_with_the_next_record() {
    let (mut mesh, mut network) = network(4, Weather::FAIR, 7);
    let proposer = network.state(0).validators()[0];
    let other = (0..4).find(|n| site(*n) != proposer).expect("three do not propose");
    mesh.now = network.now();
    // Its only record expires before its site can propose: nobody else has seen it.
    network.cut(usize::from(other));
    let record = mesh.sign_as(other, 900, network.now().after(Millis(5)), Message::Register(register(50)));
    network.submit(usize::from(other), record);
    network.run(Millis(20));
    network.heal(usize::from(other));
    assert!(network.run_until(Millis(120_000), Network::is_silent), "rounds without a reason end");
    assert_eq!(network.sites[usize::from(other)].refused.len(), 1, "the site was told");
    submit(&mut mesh, &mut network, 8);
    assert!(network.run_until(Millis(60_000), |network| all_know(network, 0..4, 1)));
    assert!(network.run_until(Millis(60_000), Network::is_silent));
}

#[test]
fn a_validator_is_added_by_a_record_and_votes_from_the_next_height() {
    let (mut mesh, mut network) = network(5, Weather::FAIR, 8);
    mesh.now = network.now();
    let change = mesh.membership(0, Change::Put(member(4, Role::Validator)), &[0, 1, 2]);
    let record = mesh.sign(0, change);
    network.submit(0, record);
    assert!(network.run_until(Millis(5000), |network| (0..5).all(|site| network.state(site).validators().len() == 5)));
    for dead in [0, 1] {
        network.crash(dead);
        submit(&mut mesh, &mut network, 2 + 4 * u8::from(dead == 0));
        let alive = |network: &Network| (dead + 1..5).all(|site| containers(network, site) == dead + 1);
        assert_eq!(network.run_until(Millis(30_000), alive), dead == 0, "4 of 5 are a quorum, 3 are not");
    }
}

/// A replica that is asked at once, with the others' words made by the test.
fn alone(by: u8) -> (Mesh, Replica) {
    let mesh = Mesh::new();
    let replica = Replica::new(Config::new(key(by)), mesh.state.clone(), &[]).expect("an empty log");
    (mesh, replica)
}

fn offences(effects: &[Effect]) -> Vec<Offence> {
    let of = |effect: &Effect| match effect {
        Effect::Misbehaved { what, .. } => Some(what.clone()),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn hear(mesh: &Mesh, replica: &mut Replica, message: LedgerMessage) -> Vec<Effect> {
    replica.step(mesh.now, Input::Message { from: site(1), message })
}

fn vote(mesh: &Mesh, by: u8, of: &MeshId, height: u64) -> SignedVote {
    let vote = Vote { kind: VoteKind::Prevote, height: Height(height), round: 0, block: None, validator: site(by) };
    let _ = mesh;
    Signed::sign(of, &key(by), vote).expect("small").into_signed()
}

#[test]
fn forged_votes_are_refused_by_name_and_begin_nothing() {
    let (mesh, mut replica) = alone(0);
    let (own, other) = (mesh.state.mesh(), MeshId([9; 32]));
    let say = |vote| LedgerMessage::Vote { vote, eager: true };
    let forged = SignedVote { signature: Signature([7; 64]), ..vote(&mesh, 1, &own, 1) };
    for (message, want) in [
        (say(forged), Offence::ForgedVote),
        (say(vote(&mesh, 1, &other, 1)), Offence::ForgedVote),
        (say(vote(&mesh, 4, &own, 1)), Offence::NotAValidator(site(4))),
        (say(SignedVote { author: site(2), ..vote(&mesh, 1, &own, 1) }), Offence::NotAValidator(site(2))),
    ] {
        let effects = hear(&mesh, &mut replica, message);
        assert_eq!(offences(&effects), vec![want]);
        assert_eq!(effects.len(), 1, "nothing else happens: {effects:?}");
    }
    assert!(!hear(&mesh, &mut replica, say(vote(&mesh, 1, &own, 1))).is_empty(), "a true vote begins the height");
}

#[test]
fn false_certificates_are_refused_by_name() {
    let (mesh, mut replica) = alone(0);
    let block = Hash::of(b"block");
    let polka = Polka { height: Height(1), round: 0, block, signatures: List::first([(site(1), Signature([1; 64]))]) };
    let effects = hear(&mesh, &mut replica, LedgerMessage::Polka(polka));
    assert!(matches!(offences(&effects)[..], [Offence::BadPolka(_)]));
    let one = vote(&mesh, 1, &mesh.state.mesh(), 1);
    for skip in [false, true] {
        let rounds = Rounds { height: Height(1), round: 0, skip, votes: List::first([one.clone()]) };
        let effects = hear(&mesh, &mut replica, LedgerMessage::Rounds(rounds));
        assert!(matches!(offences(&effects)[..], [Offence::BadRounds(_)]));
    }
}

#[test]
fn blocks_are_believed_only_with_a_certificate_that_holds() {
    let (mut mesh, mut follower) = alone(4);
    mesh.say(0, Message::Register(register(1)));
    let honest = mesh.chain[0].clone();
    let two = Committed { certificate: mesh.certify(&honest.block, &[0, 1]), ..honest.clone() };
    let mut stranger = honest.clone();
    stranger.certificate = mesh.certify(&honest.block, &[0, 1, 4]);
    let mut bent = honest.clone();
    bent.block.header.state = Hash::of(b"another");
    bent.certificate = mesh.certify(&bent.block, &[0, 1, 2]);
    for false_block in [two, stranger, bent] {
        let effects = hear(&mesh, &mut follower, LedgerMessage::Blocks(List::first([false_block])));
        assert!(matches!(offences(&effects)[..], [Offence::BadCertificate { .. } | Offence::BadCommitted { .. }]));
        assert_eq!(follower.state().height(), Height(0));
    }
    let effects = hear(&mesh, &mut follower, LedgerMessage::Blocks(List::first([honest])));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Commit(_))));
    assert_eq!(follower.state().root(), mesh.state.root());
}

#[test]
fn a_proposal_whose_clock_is_off_gets_no_vote_and_one_by_another_is_refused() {
    let (mut mesh, _) = alone(0);
    let proposer = (0..4).find(|n| site(*n) == mesh.state.validators()[0]).expect("one leads");
    let voter = (proposer + 1) % 4;
    let record = mesh.sign(proposer, Message::Register(register(1)));
    let propose = |mesh: &Mesh, by: u8, time: Time| {
        let (block, _, _) = rules::build(&mesh.state, site(by), time, [record.clone()]);
        let (height, hash) = (block.header.height, block.header.hash());
        let body = Proposal { height, round: 0, block: hash, polka: None, proposer: site(by) };
        let proposal = Signed::sign(&mesh.state.mesh(), &key(by), body).expect("small").into_signed();
        LedgerMessage::Proposal(Box::new(Proposed { proposal, block }))
    };
    let prevote = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Broadcast(LedgerMessage::Vote { vote, .. }) => Some(vote.body.block),
            _ => None,
        })
    };
    let bound = mesh.genesis.clock_bound_ms;
    let (_, mut fresh) = alone(voter);
    let effects = hear(&mesh, &mut fresh, propose(&mesh, proposer, mesh.now.after(Millis(bound + 1))));
    assert!(matches!(offences(&effects)[..], [Offence::Clock { .. }]));
    assert_eq!(prevote(&effects), Some(None), "it votes for nothing");

    let (_, mut fresh) = alone(voter);
    let effects = hear(&mesh, &mut fresh, propose(&mesh, proposer, mesh.now.after(Millis(bound))));
    assert!(matches!(prevote(&effects), Some(Some(_))), "within the bound it votes for the block");

    let (_, mut fresh) = alone(voter);
    let effects = hear(&mesh, &mut fresh, propose(&mesh, (proposer + 2) % 4, mesh.now));
    assert!(matches!(offences(&effects)[..], [Offence::NotTheProposer(_)]));
    assert_eq!(prevote(&effects), None);
}

#[test]
fn a_log_of_a_later_height_than_the_store_is_refused() {
    let mesh = Mesh::new();
    let entry = Entry::Vote(vote(&mesh, 0, &mesh.state.mesh(), 5)).encode();
    let refused = Replica::new(Config::new(key(0)), mesh.state.clone(), &[entry]).err();
    assert_eq!(refused, Some(BadWal::StoreBehind { index: 0, found: Height(5), stored: Height(0) }));
    assert!(matches!(
        Replica::new(Config::new(key(0)), mesh.state, &[vec![1, 2, 3]]).err(),
        Some(BadWal::Malformed { index: 0, .. })
    ));
}

#[test]
fn one_author_cannot_crowd_out_the_others() {
    let (mut mesh, mut replica) = alone(4);
    for n in 0..1100 {
        let expires = mesh.now.after(Millis(60_000));
        let record = mesh.sign_as(4, 1 + n, expires, Message::Register(register(1)));
        replica.step(mesh.now, Input::Submit(record));
    }
    let mine = replica.mempool.candidates().count();
    assert!(mine <= 1024, "{mine} of one author wait");
    let record = mesh.sign(0, Message::Register(register(2)));
    let effects = replica.step(mesh.now, Input::Submit(record));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Gossip(_))), "another's still finds room");
}

#[test]
fn a_record_goes_to_the_proposer_at_once_whatever_gossip_does() {
    let proposer = Mesh::new().state.validators()[0];
    for by in 0..5 {
        let (mut mesh, mut replica) = alone(by);
        let record = mesh.sign(by, Message::Register(register(1)));
        let sent = |effect: &Effect| match effect {
            Effect::Send { to, message: LedgerMessage::Records(records) } => Some((*to, records[0].clone())),
            _ => None,
        };
        let effects = replica.step(mesh.now, Input::Submit(record.clone()));
        let expected = (site(by) != proposer).then(|| (proposer, record.into_signed()));
        assert_eq!(effects.iter().find_map(sent), expected, "site {by}");
    }
}

#[test]
fn who_says_that_it_is_behind_is_told_how_far_the_others_are() {
    let (mut mesh, _) = alone(0);
    mesh.say(0, Message::Register(register(1)));
    let mut replica = Replica::new(Config::new(key(0)), mesh.state.clone(), &[]).expect("an empty log");
    let told = |effects: &[Effect]| {
        let is_status = |effect: &&Effect| {
            matches!(effect, Effect::Send { to, message: LedgerMessage::Status { height, .. } }
                if *to == site(1) && *height == Height(1))
        };
        effects.iter().filter(is_status).count()
    };
    for (height, count) in [(0, 1), (1, 0), (2, 0)] {
        let status = LedgerMessage::Status { height: Height(height), tip: Hash::ZERO };
        assert_eq!(told(&hear(&mesh, &mut replica, status)), count, "of height {height}");
    }
}

#[test]
fn a_mesh_of_one_validator_decides_alone_at_once() {
    let mut mesh = Mesh::new();
    let only: Vec<_> = mesh.genesis.members.iter().filter(|member| member.site == site(0)).cloned().collect();
    mesh.genesis.members = List::new(only).expect("one");
    mesh.state = State::genesis(&mesh.genesis);
    let mut network = Network::new(&mesh.genesis, vec![key(0)], Weather::FAIR, 1);
    mesh.now = network.now();
    for n in 1..4 {
        let record = mesh.sign(0, Message::Register(register(n)));
        network.submit(0, record);
        assert_eq!(containers(&network, 0), usize::from(n));
    }
    assert!(network.is_silent());
}

/// `cargo test -p godwit-ledger --lib -- --ignored --nocapture records_a_second`
#[test]
#[ignore = "a measurement, not a check"]
fn records_a_second() {
    let (mut mesh, mut network) = network(4, Weather::FAIR, 1);
    mesh.now = network.now();
    let all: u16 = 4000;
    let began = std::time::Instant::now();
    for n in 0..all {
        let (by, [high, low]) = (u8::try_from(n % 4).expect("small"), n.to_be_bytes());
        let mut register = register(1);
        register.container.0[..2].copy_from_slice(&[high, low]);
        register.address = godwit_protocol::Address([10, 77, 16 + high, low].into());
        let record = mesh.sign(by, Message::Register(register));
        network.submit(usize::from(by), record);
        if n % 256 == 255 {
            network.run(Millis(4));
        }
    }
    assert!(network.run_until(Millis(60_000), |network| all_know(network, 0..4, usize::from(all))));
    let (span, blocks) = (began.elapsed(), network.height(0));
    println!("{all} records in {blocks} blocks at 4 replicas in one thread: {span:?}");
}
