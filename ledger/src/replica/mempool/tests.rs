//! Who gets in, who has to go, and whose turn it is.

use godwit_protocol::Message;
use proptest::prelude::*;

use super::*;
use crate::record::{MAX_LIFETIME_MS, MAX_RECORD, measure};
use crate::testing::{Mesh, register, site};

const SMALL: Limits = Limits { records: 12, bytes: 1200, records_of_author: 8, bytes_of_author: 800 };

/// A pool within small limits, and records made for it.
struct Bench {
    mesh: Mesh,
    pool: Mempool,
    said: u64,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self { mesh: Mesh::new(), pool: Mempool::within(limits), said: 0 }
    }

    fn record(&mut self, by: u8, lives: u64) -> (RecordId, VerifiedRecord) {
        self.said += 1;
        let expires = Time(self.mesh.now.0 + lives);
        let record = self.mesh.sign_as(by, self.said, expires, Message::Register(register(1)));
        (self.mesh.id(&record), record)
    }

    fn put(&mut self, by: u8, size: usize, own: bool) -> (RecordId, Result<(), Full>) {
        let (id, record) = self.record(by, 60_000);
        (id, self.pool.insert(id, record, size, true, own))
    }

    fn puts(&mut self, by: u8, count: usize) -> Vec<RecordId> {
        (0..count).map(|_| self.put(by, 100, false)).filter(|(_, put)| put.is_ok()).map(|(id, _)| id).collect()
    }

    fn authors(&self) -> Vec<SiteId> {
        self.pool.candidates().map(|candidate| candidate.record.author).collect()
    }
}

#[test]
fn a_record_is_found_by_its_number_and_by_its_id_when_its_author_used_the_number_twice() {
    let mut bench = Bench::new(LIMITS);
    let expires = Time(bench.mesh.now.0 + 60_000);
    let say = |bench: &Bench, n: u8| bench.mesh.sign_as(1, 7, expires, Message::Register(register(n)));
    let (first, second, never) = (say(&bench, 1), say(&bench, 2), say(&bench, 3));
    for record in [&first, &second] {
        let (id, size) = measure(&bench.mesh.state.mesh(), record).expect("small");
        bench.pool.insert(id, record.clone(), size, true, false).expect("has room");
    }
    let mesh = bench.mesh.state.mesh();
    for record in [&first, &second] {
        let found = bench.pool.verified(&mesh, record).expect("waits here");
        let (id, size) = measure(&mesh, record).expect("small");
        assert_eq!((found.record, found.id, found.size), (record, id, size));
    }
    let mut forged = second.clone().into_signed();
    forged.signature.0[0] ^= 1;
    assert!(bench.pool.verified(&mesh, &forged).is_none(), "it is not the one that was verified");
    assert!(bench.pool.knows(&second) && bench.pool.knows(&forged));
    assert!(!bench.pool.knows(&never) && bench.pool.verified(&mesh, &never).is_none());
    bench.pool.remove(&bench.mesh.id(&second));
    assert!(!bench.pool.knows(&second) && bench.pool.verified(&mesh, &second).is_none());
    assert!(bench.pool.verified(&mesh, &first).is_some());
}

#[test]
fn authors_take_turns_and_each_keeps_its_order() {
    let mut bench = Bench::new(LIMITS);
    let flood = bench.puts(0, 5);
    let (calm, other) = (bench.puts(1, 2), bench.puts(2, 1));
    let (a, b, c) = (site(0), site(1), site(2));
    assert_eq!(bench.authors(), [a, b, c, a, b, a, a, a]);
    let ids: Vec<RecordId> = bench.pool.candidates().map(|candidate| bench.mesh.id(candidate.record)).collect();
    assert_eq!(ids, [flood[0], calm[0], other[0], flood[1], calm[1], flood[2], flood[3], flood[4]]);
    bench.pool.remove(&calm[0]);
    assert_eq!(bench.authors()[..3], [a, b, c], "the next of each moves up");
}

#[test]
fn nobody_has_more_than_its_share_even_while_there_is_room() {
    let mut bench = Bench::new(SMALL);
    assert_eq!(bench.puts(0, 20).len(), SMALL.records_of_author);
    let mut bench = Bench::new(SMALL);
    assert_eq!((0..5).filter(|_| bench.put(0, 300, false).1.is_ok()).count(), 2, "by bytes");
}

#[test]
fn who_has_little_gets_in_at_the_expense_of_the_last_that_who_has_most_said() {
    let mut bench = Bench::new(SMALL);
    let flood = bench.puts(0, 8);
    let some = bench.puts(1, 4);
    let (_, put) = bench.put(2, 100, false);
    assert_eq!(put, Ok(()));
    assert!(!bench.pool.contains(&flood[7]) && flood[..7].iter().all(|id| bench.pool.contains(id)));
    assert_eq!(bench.put(0, 100, false).1, Err(Full), "who has most gets in no more");
    // Down to equal shares, and no further: nobody is driven out of his own.
    bench.puts(2, 10);
    assert_eq!((bench.pool.share_of(&site(0)).0, bench.pool.share_of(&site(2)).0), (4, 4));
    assert!(some.iter().all(|id| bench.pool.contains(id)));
    let mut bench = Bench::new(SMALL);
    assert!(bench.put(0, 700, false).1.is_ok());
    assert!(bench.put(1, 300, false).1.is_ok());
    assert!(bench.put(2, 250, false).1.is_ok(), "by bytes");
    assert_eq!(bench.pool.share_of(&site(0)), (0, 0));
}

#[test]
fn an_own_record_that_has_to_go_is_told_of() {
    let mut bench = Bench::new(SMALL);
    let own: Vec<RecordId> = (0..8).map(|_| bench.put(0, 100, true).0).collect();
    bench.puts(1, 4);
    assert_eq!(bench.put(2, 100, false).1, Ok(()));
    assert_eq!((bench.pool.driven_out(), bench.pool.driven_out()), (vec![own[7]], vec![]));
}

#[test]
fn a_record_waits_until_it_expires_and_is_told_of_if_it_is_an_own_one() {
    let mut bench = Bench::new(LIMITS);
    let now = bench.mesh.now;
    for (by, lives, own) in [(0, 10, true), (1, 10, false), (2, 11, true)] {
        let (id, record) = bench.record(by, lives);
        bench.pool.insert(id, record, 100, true, own).expect("room");
    }
    assert_eq!(bench.pool.next_expiry(), Some(Time(now.0 + 10)));
    assert!(bench.pool.expire(Time(now.0 + 10)).is_empty(), "it may be in a block of that time");
    let gone: Vec<Refusal> = bench.pool.expire(Time(now.0 + 11)).into_iter().map(|(_, why)| why).collect();
    assert_eq!(gone, [Refusal::Expired { expires: Time(now.0 + 10), at: Time(now.0 + 11) }]);
    assert_eq!(bench.authors(), [site(2)]);
}

#[test]
fn the_limits_leave_room_for_every_record_that_the_ledger_admits() {
    const { assert!(LIMITS.bytes_of_author >= MAX_RECORD && LIMITS.bytes >= LIMITS.bytes_of_author) };
    const { assert!(LIMITS.records >= LIMITS.records_of_author) };
    let mesh = Mesh::new();
    let (most, at) = (Time(mesh.now.0 + MAX_LIFETIME_MS), mesh.now);
    let record = |expires| mesh.sign_as(0, 1, expires, Message::Register(register(1)));
    assert_eq!(mesh.state.check(&record(most), at), Ok(()));
    assert!(mesh.state.check(&record(Time(most.0 + 1)), at).is_err(), "the oldest waits for so long");
}

/// One step against the pool.
#[derive(Clone, Debug)]
enum Step {
    Put { by: u8, size: usize, own: bool },
    Remove(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = (0_u8..4, 1_usize..300, any::<bool>()).prop_map(|(by, size, own)| Step::Put { by, size, own });
    prop::collection::vec(prop_oneof![4 => put, 1 => (0_usize..20).prop_map(Step::Remove)], 1..60)
}

/// What waits, as a plain list: author, size, id.
type Model = Vec<(SiteId, usize, RecordId)>;

/// The same rule, written down without any index.
fn put(model: &mut Model, gone: &mut Vec<RecordId>, by: SiteId, size: usize, id: RecordId) -> Result<(), Full> {
    let share = |model: &Model, of: SiteId| {
        let his = model.iter().filter(|(author, ..)| *author == of);
        his.fold((0, 0), |(records, bytes), (_, size, _)| (records + 1, bytes + size))
    };
    let (records, bytes) = share(model, by);
    if records >= SMALL.records_of_author || bytes + size > SMALL.bytes_of_author {
        return Err(Full);
    }
    loop {
        let total: usize = model.iter().map(|(_, size, _)| size).sum();
        let too_many = model.len() >= SMALL.records;
        if !too_many && total + size <= SMALL.bytes {
            model.push((by, size, id));
            return Ok(());
        }
        let weight = |of: SiteId| if too_many { share(model, of).0 } else { share(model, of).1 };
        let (records, bytes) = share(model, by);
        let mine = if too_many { records + 1 } else { bytes + size };
        let mut authors: Vec<SiteId> = model.iter().map(|(author, ..)| *author).collect();
        authors.sort_unstable();
        // Of equals the last by key, as `max_by_key` has it.
        let most = authors.into_iter().max_by_key(|author| weight(*author)).filter(|author| weight(*author) > mine);
        let Some(most) = most else { return Err(Full) };
        let last = model.iter().rposition(|(author, ..)| *author == most).expect("it has some");
        gone.push(model.remove(last).2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_keeps_what_the_rule_says_within_its_limits(steps in steps()) {
        let (mut bench, mut model) = (Bench::new(SMALL), Model::new());
        let mut own = BTreeSet::new();
        for step in steps {
            match step {
                Step::Put { by, size, own: is_own } => {
                    let (id, record) = bench.record(by, 60_000);
                    let got = bench.pool.insert(id, record, size, true, is_own);
                    let mut gone = vec![];
                    prop_assert_eq!(got, put(&mut model, &mut gone, site(by), size, id));
                    gone.retain(|id| own.contains(id));
                    prop_assert_eq!(bench.pool.driven_out(), gone);
                    if is_own && got.is_ok() {
                        own.insert(id);
                    }
                }
                Step::Remove(at) if at < model.len() => {
                    let (.., id) = model.remove(at);
                    prop_assert_eq!(bench.pool.remove(&id), own.contains(&id));
                }
                Step::Remove(_) => {}
            }
            let total: usize = model.iter().map(|(_, size, _)| size).sum();
            prop_assert_eq!((bench.pool.waiting.len(), bench.pool.bytes), (model.len(), total));
            prop_assert!(model.len() <= SMALL.records && total <= SMALL.bytes);
            let mut turns: Vec<(usize, usize)> = model.iter().enumerate().map(|(at, (author, ..))| {
                (model[..at].iter().filter(|(other, ..)| other == author).count(), at)
            }).collect();
            turns.sort_unstable();
            let due: Vec<RecordId> = turns.into_iter().map(|(_, at)| model[at].2).collect();
            let got: Vec<RecordId> = bench.pool.candidates().map(|candidate| bench.mesh.id(candidate.record)).collect();
            prop_assert_eq!(got, due);
            prop_assert_eq!(bench.pool.ready, model.len());
        }
    }
}
