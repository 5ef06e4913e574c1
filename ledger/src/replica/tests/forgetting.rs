//! A validator that lost its disk follows, and votes only where it cannot have voted before.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::harness::Chance;

/// Records under way in foul weather, while validators lose their disks one after the other and start with empty ones.
fn losses(seed: u64, told: bool) -> (Mesh, Network) {
    let (mut mesh, mut network) = network(4, Weather { crashes: 10, ..Weather::FOUL }, seed);
    let mut chance = Chance::new(seed);
    for n in 2..12 {
        submit(&mut mesh, &mut network, n);
        network.run(Millis(chance.below(60)));
        if n % 4 == 0 {
            let site = usize::try_from(chance.below(4)).expect("small");
            network.lose_disk(site, told);
            network.run(Millis(chance.below(20)));
            network.start(site);
        }
    }
    network.run(Millis(3000));
    (mesh, network)
}

#[test]
fn validators_that_lost_their_disks_never_contradict_what_they_said() {
    for seed in 200..240 {
        // The network itself asserts it.
        losses(seed, true);
    }
}

#[test]
fn those_who_are_not_told_of_the_loss_do() {
    let contradicts = |seed| catch_unwind(AssertUnwindSafe(|| drop(losses(seed, false)))).is_err();
    assert!((200..240).any(contradicts), "the losses above are a test of little");
}

#[test]
fn it_follows_and_votes_again_after_the_first_block_that_was_built_without_it() {
    for lost in 0..4 {
        let (mut mesh, mut network) = network(4, Weather::FAIR, 9);
        let others = |network: &Network, count| (0..4).filter(|n| *n != lost).all(|n| containers(network, n) == count);
        let mut n = 1;
        let mut next = |mesh: &mut Mesh, network: &mut Network, count: usize| {
            n += 1;
            if usize::from(n % 4) == lost {
                n += 1;
            }
            submit(mesh, network, n);
            assert!(network.run_until(Millis(20_000), |network| others(network, count)), "site {lost}, {count}");
        };
        next(&mut mesh, &mut network, 1);
        network.lose_disk(lost, true);
        network.start(lost);
        // Beyond twice the clock bound: what is built from now on was built without it.
        network.run(Millis(2 * mesh.genesis.clock_bound_ms + 100));
        assert_eq!(network.height(lost), Height(1), "it has fetched what there is");
        next(&mut mesh, &mut network, 2);
        assert!(network.run_until(Millis(20_000), |network| network.height(lost) == Height(2)), "it hears the votes");
        assert!(!network.has_signed(lost, Height(2)), "site {lost}");
        next(&mut mesh, &mut network, 3);
        assert!(network.run_until(Millis(20_000), |network| network.height(lost) == Height(3)));
        assert!(network.has_signed(lost, Height(3)), "site {lost}");
    }
}

#[test]
fn without_its_vote_nothing_is_decided_rather_than_something_twice() {
    let (mut mesh, mut network) = network(4, Weather::FAIR, 10);
    network.crash(0);
    network.lose_disk(1, true);
    network.start(1);
    submit(&mut mesh, &mut network, 2);
    assert!(!network.run_until(Millis(20_000), |network| (1..4).any(|n| containers(network, n) > 0)));
    assert!(!network.has_signed(1, Height(1)));
    network.start(0);
    assert!(network.run_until(Millis(60_000), |network| all_know(network, 0..4, 1)), "with the fourth it goes on");
}

#[test]
fn only_a_validator_abstains_and_only_for_as_long_as_it_must() {
    let mut mesh = Mesh::new();
    let bound = mesh.genesis.clock_bound_ms;
    let abstains = |mesh: &Mesh, by: u8, forgot: u64| {
        let config = Config { forgot: Some(Time(forgot)), ..Config::new(key(by)) };
        Replica::new(config, mesh.state.clone(), &[]).expect("an empty log").abstains()
    };
    let founded = mesh.genesis.founded.0;
    assert!(abstains(&mesh, 0, founded) && !abstains(&mesh, 4, founded), "a member has no vote to withhold");
    mesh.say(0, Message::Register(register(1)));
    let time = mesh.state.time().0;
    assert!(abstains(&mesh, 0, time - 2 * bound) && !abstains(&mesh, 0, time - 2 * bound - 1));
    assert!(abstains(&mesh, 0, u64::MAX));
}

#[test]
fn a_site_that_lost_its_ledger_knows_what_it_acted_on_by_a_later_block_or_by_what_enough_others_say() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let (height, tip, bound) = (mesh.state.height(), mesh.state.tip(), mesh.genesis.clock_bound_ms);
    let lost = |forgot: Option<Time>| {
        let config = Config { forgot, ..Config::new(key(1)) };
        Replica::new(config, mesh.state.clone(), &[]).expect("an empty log")
    };
    assert!(lost(None).is_current(), "it has lost nothing");
    let time = mesh.state.time().0;
    assert!(lost(Some(Time(time - 2 * bound - 1))).is_current(), "the last block was built later");
    let mut replica = lost(Some(Time(time - 2 * bound)));
    let mut says = |from: u8, height: Height| {
        let message = LedgerMessage::Status { height, tip };
        replica.step(mesh.now, Input::Message { from: site(from), message });
        replica.is_current()
    };
    assert!(!says(0, height) && !says(2, height) && !says(2, height), "a third one may know more");
    assert!(!says(4, height), "who has no vote vouches for nothing");
    assert!(!says(3, height.next()), "one is further");
    let mut replica = lost(Some(Time(time)));
    let mut hears = |input: Input| {
        replica.step(mesh.now, input);
        replica.is_current()
    };
    for from in [0, 2, 3] {
        let message = LedgerMessage::Status { height, tip };
        assert_eq!(hears(Input::Message { from: site(from), message }), from == 3, "all that there are");
    }
    assert!(!hears(Input::Disconnected(site(3))), "what it said before is of no use now");
}
