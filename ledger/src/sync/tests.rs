//! Whom to ask for which blocks.

use proptest::prelude::*;

use super::*;
use crate::testing::{Mesh, register, site};
use godwit_protocol::Message;

const A: SiteId = SiteId([1; 32]);
const B: SiteId = SiteId([2; 32]);
const C: SiteId = SiteId([3; 32]);

const LONG_AGO: Time = Time(0);

fn asks(catch_up: &mut CatchUp, own: u64, now: u64) -> Vec<(SiteId, u64, u16)> {
    catch_up.ask(Height(own), Time(now)).into_iter().map(|ask| (ask.site, ask.from.0, ask.most)).collect()
}

/// Blocks of these heights; nothing else of them matters here.
fn blocks(heights: std::ops::RangeInclusive<u64>) -> Vec<Committed> {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let of = |height| {
        let mut committed = mesh.chain[0].clone();
        committed.block.header.height = Height(height);
        committed
    };
    heights.map(of).collect()
}

#[test]
fn nobody_is_asked_while_nobody_is_further() {
    let mut catch_up = CatchUp::default();
    catch_up.learn(A, Height(5), Time(0));
    assert_eq!(catch_up.next_at(Height(5), Time(1)), None);
    assert_eq!(asks(&mut catch_up, 5, 1), []);
}

#[test]
fn a_block_on_its_way_is_waited_for_and_a_silent_site_is_replaced() {
    let mut catch_up = CatchUp::default();
    catch_up.learn(A, Height(7), Time(100));
    catch_up.learn(B, Height(6), Time(120));
    assert_eq!(catch_up.next_at(Height(5), Time(130)), Some(Time(150)));
    assert_eq!(asks(&mut catch_up, 5, 150), [(A, 6, 2)]);
    assert_eq!(catch_up.next_at(Height(5), Time(160)), Some(Time(150 + ANSWER.0)));
    let late = 150 + ANSWER.0;
    assert_eq!(asks(&mut catch_up, 5, late), [(B, 6, 1)], "block 7 is at A only, which is left alone for a while");
    assert_eq!(catch_up.answered(&A, blocks(6..=7)), Answer::Unasked(blocks(6..=7)), "it is not asked any more");
    assert_eq!(catch_up.answered(&B, blocks(6..=6)), Answer::Taken);
    assert_eq!(catch_up.ready(Height(5)), Some((B, blocks(6..=6))));
    assert_eq!(catch_up.next_at(Height(6), Time(late + 10)), Some(Time(late + QUIET.0)), "then A is asked again");
    assert_eq!(asks(&mut catch_up, 6, late + QUIET.0), [(A, 7, 1)]);
}

#[test]
fn what_came_in_another_way_does_not_hold_up_what_is_here() {
    let mut catch_up = CatchUp::default();
    catch_up.learn(A, Height(6), Time(0));
    assert_eq!(asks(&mut catch_up, 5, 100), [(A, 6, 1)]);
    catch_up.learn(B, Height(8), Time(100));
    assert_eq!(asks(&mut catch_up, 5, 150), [(B, 7, 2)]);
    assert_eq!(catch_up.answered(&B, blocks(7..=8)), Answer::Taken);
    assert_eq!(catch_up.ready(Height(5)), None, "6 is still to come");
    assert_eq!(catch_up.ready(Height(6)), Some((B, blocks(7..=8))), "and was decided here meanwhile");
}

#[test]
fn a_claim_that_leads_to_nothing_is_dropped() {
    let mut catch_up = CatchUp::default();
    catch_up.learn(A, Height(u64::MAX), LONG_AGO);
    catch_up.suspect(B, Height(7), LONG_AGO);
    assert_eq!(asks(&mut catch_up, 5, 50), [(A, 6, 64)]);
    assert_eq!(catch_up.answered(&A, Vec::new()), Answer::Contrary { claim: Height(u64::MAX) });
    catch_up.blame(&A, Time(50));
    assert_eq!(asks(&mut catch_up, 5, 50), [(B, 6, 2)]);
    assert_eq!(catch_up.answered(&B, Vec::new()), Answer::Nothing, "it never said that it was so far");
    assert_eq!(asks(&mut catch_up, 5, 50), []);
    assert_eq!(catch_up.next_at(Height(5), Time(60)), None);
}

#[test]
fn several_sites_are_asked_for_parts_and_the_parts_are_used_in_order() {
    let mut catch_up = CatchUp::default();
    for site in [A, B, C] {
        catch_up.learn(site, Height(200), LONG_AGO);
    }
    assert_eq!(asks(&mut catch_up, 0, 50), [(A, 1, 64), (B, 65, 64), (C, 129, 64)]);
    assert_eq!(asks(&mut catch_up, 0, 51), [], "each is asked for one part at a time");
    assert_eq!(catch_up.answered(&B, blocks(65..=128)), Answer::Taken);
    assert_eq!(catch_up.ready(Height(0)), None, "it waits for what comes before it");
    assert_eq!(asks(&mut catch_up, 0, 60), [(B, 193, 8)]);
    assert_eq!(catch_up.answered(&A, blocks(1..=10)), Answer::Taken, "fewer, where they are large");
    assert_eq!(catch_up.ready(Height(0)), Some((A, blocks(1..=10))));
    assert_eq!(catch_up.ready(Height(10)), None);
    assert_eq!(asks(&mut catch_up, 10, 70), [(A, 11, 54)], "and the rest again");
    assert_eq!(catch_up.answered(&A, blocks(11..=64)), Answer::Taken);
    assert_eq!(catch_up.ready(Height(10)).map(|(site, _)| site), Some(A));
    assert_eq!(catch_up.ready(Height(64)).map(|(site, _)| site), Some(B));
}

#[test]
fn no_more_waits_in_memory_than_its_bound() {
    let mut catch_up = CatchUp::default();
    let sites: Vec<SiteId> = (1..20).map(|n| SiteId([n; 32])).collect();
    for site in &sites {
        catch_up.learn(*site, Height(100_000), LONG_AGO);
    }
    let asked = catch_up.ask(Height(0), Time(50));
    assert_eq!(asked.len(), MAX_BATCHES);
    for ask in &asked[1..] {
        let last = ask.from.0 + u64::from(ask.most) - 1;
        assert_eq!(catch_up.answered(&ask.site, blocks(ask.from.0..=last)), Answer::Taken);
    }
    assert_eq!(asks(&mut catch_up, 0, 60), [], "the first part holds the others up");
}

#[test]
fn other_blocks_than_those_asked_for_are_an_offence_and_a_new_block_in_between_is_none() {
    let mut catch_up = CatchUp::default();
    catch_up.learn(A, Height(200), LONG_AGO);
    assert_eq!(asks(&mut catch_up, 0, 50), [(A, 1, 64)]);
    assert_eq!(catch_up.answered(&A, blocks(201..=201)), Answer::Unasked(blocks(201..=201)));
    let (mut gap, mut many) = (blocks(1..=10), blocks(1..=65));
    gap.remove(5);
    many.truncate(65);
    for wrong in [gap, many, blocks(2..=10)] {
        assert_eq!(catch_up.answered(&A, wrong), Answer::Others);
        assert_eq!(asks(&mut catch_up, 0, 60), [(A, 1, 64)]);
    }
}

#[test]
fn an_answer_that_comes_late_or_twice_is_no_offence() {
    let mut catch_up = CatchUp::default();
    catch_up.learn(A, Height(100), LONG_AGO);
    assert_eq!(asks(&mut catch_up, 0, 50), [(A, 1, 64)]);
    // It takes too long; meanwhile some of it comes from elsewhere.
    let now = 50 + ANSWER.0 + QUIET.0;
    assert_eq!(asks(&mut catch_up, 0, now - QUIET.0), []);
    assert_eq!(asks(&mut catch_up, 60, now), [(A, 61, 40)]);
    assert_eq!(catch_up.answered(&A, blocks(1..=64)), Answer::Unasked(blocks(1..=64)));
    assert_eq!(catch_up.answered(&A, blocks(61..=100)), Answer::Taken);
    assert!(catch_up.ready(Height(60)).is_some());
    // The network says it again after the next question, and after a new connection.
    catch_up.learn(A, Height(102), Time(now));
    assert_eq!(asks(&mut catch_up, 100, now + 1), [(A, 101, 2)]);
    assert_eq!(catch_up.answered(&A, blocks(61..=100)), Answer::Unasked(blocks(61..=100)));
    catch_up.forget(&A);
    catch_up.learn(A, Height(102), Time(now));
    assert_eq!(asks(&mut catch_up, 100, now + 2), [(A, 101, 2)]);
    assert_eq!(catch_up.answered(&A, blocks(61..=100)), Answer::Unasked(blocks(61..=100)));
    assert_eq!(catch_up.answered(&A, blocks(60..=100)), Answer::Others);
}

#[test]
fn who_serves_rubbish_is_not_asked_for_a_while_and_longer_each_time() {
    let mut catch_up = CatchUp::default();
    let mut now = 0;
    for times in 0..10 {
        catch_up.learn(A, Height(9), Time(now));
        catch_up.learn(B, Height(9), Time(now));
        catch_up.blame(&A, Time(now));
        catch_up.learn(A, Height(9), Time(now));
        let span = SHUN.0 << times.min(MAX_DOUBLINGS);
        assert_eq!(asks(&mut catch_up, 5, now + span - 1), [(B, 6, 4)], "time {times}");
        catch_up.forget(&B);
        // Whoever leaves and comes back is still not believed.
        catch_up.forget(&A);
        catch_up.learn(A, Height(9), Time(now));
        assert_eq!(asks(&mut catch_up, 5, now + PATIENCE.0), [], "nobody is left to ask, time {times}");
        assert_eq!(catch_up.next_at(Height(5), Time(now + PATIENCE.0)), Some(Time(now + span)));
        now += span;
        assert_eq!(asks(&mut catch_up, 5, now), [(A, 6, 4)]);
    }
}

#[test]
fn a_site_that_keeps_no_old_blocks_is_asked_for_new_ones_only() {
    let mut catch_up = CatchUp::default();
    catch_up.learn(A, Height(200), LONG_AGO);
    catch_up.learn(B, Height(200), LONG_AGO);
    assert_eq!(asks(&mut catch_up, 0, 50), [(A, 1, 64), (B, 65, 64)]);
    assert!(catch_up.pruned(&A, Height(150)));
    assert!(!catch_up.is_cut_off(Height(0)));
    assert_eq!(asks(&mut catch_up, 0, 51), []);
    assert!(catch_up.pruned(&B, Height(120)));
    assert!(catch_up.is_cut_off(Height(0)) && !catch_up.is_cut_off(Height(119)));
    assert_eq!(asks(&mut catch_up, 0, 52), []);
    assert_eq!(asks(&mut catch_up, 119, 53), [(B, 120, 64), (A, 184, 17)]);
    assert!(!catch_up.pruned(&B, Height(120)), "it says that it keeps what it does not serve");
}

#[test]
fn only_a_long_absence_is_worth_a_snapshot() {
    let mut catch_up = CatchUp::default();
    catch_up.learn(A, Height(SNAPSHOT_GAP + 5), LONG_AGO);
    assert!(catch_up.is_far_behind(Height(4)) && !catch_up.is_far_behind(Height(5)));
    assert_eq!(catch_up.further(Height(4), Time(1)), [A]);
    catch_up.blame(&A, Time(1));
    assert!(!catch_up.is_far_behind(Height(4)), "nobody believable says so");
}

/// What a site may answer.
#[derive(Clone, Copy, Debug)]
enum Habit {
    Honest,
    Short,
    Silent,
    Empty,
    Wrong,
    Pruned,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_others_do_one_honest_site_is_enough(
        habits in prop::collection::vec(
            prop_oneof![
                Just(Habit::Short), Just(Habit::Silent), Just(Habit::Empty), Just(Habit::Wrong), Just(Habit::Pruned)
            ],
            0..5,
        ),
        target in 1_u64..400,
        place in 0_usize..6,
    ) {
        let mut habits = habits;
        habits.insert(place.min(habits.len()), Habit::Honest);
        let sites: Vec<SiteId> = (0..6).map(site).collect();
        let all = blocks(1..=target);
        let part = |from: u64, count: u64| {
            let (from, until) = (usize::try_from(from - 1).unwrap(), usize::try_from(from - 1 + count).unwrap());
            all[from..until.min(all.len())].to_vec()
        };
        let (mut catch_up, mut own, mut now) = (CatchUp::default(), Height(0), Time(0));
        for site in &sites[..habits.len()] {
            catch_up.learn(*site, Height(target), now);
        }
        let mut steps = 0;
        while own.0 < target {
            steps += 1;
            prop_assert!(steps < 2_000, "it ends");
            let Some(at) = catch_up.next_at(own, now) else { panic!("somebody has it") };
            now = Time(now.0.max(at.0));
            let asked = catch_up.ask(own, now);
            prop_assert!(asked.len() <= MAX_BATCHES);
            for Ask { site, from, most } in asked {
                let place = sites.iter().position(|one| *one == site).unwrap();
                let count = u64::from(most);
                let answer = match habits[place] {
                    Habit::Honest => catch_up.answered(&site, part(from.0, count)),
                    Habit::Short => catch_up.answered(&site, part(from.0, 1)),
                    Habit::Silent => continue,
                    Habit::Empty => catch_up.answered(&site, Vec::new()),
                    Habit::Wrong => catch_up.answered(&site, blocks(from.0 + 1..=from.0 + 2)),
                    Habit::Pruned => {
                        catch_up.pruned(&site, Height(target + 1));
                        continue;
                    }
                };
                if matches!(answer, Answer::Contrary { .. } | Answer::Others) {
                    catch_up.blame(&site, now);
                }
            }
            while let Some((_, blocks)) = catch_up.ready(own) {
                for committed in blocks {
                    let height = height_of(&committed);
                    prop_assert!(height <= own.next(), "in order");
                    own = own.max(height);
                }
            }
        }
    }
}
