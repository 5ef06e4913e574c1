//! How long a validator that was away takes until it votes again: a measurement, in real time, on a real disk.
//!
//! `GODWIT_BLOCKS=100000 cargo test -p godwit-ledger --lib -- --ignored --nocapture voting_again`
//!
//! The other three validators share one ledger of so many blocks, each with a record and a certificate of three. All
//! messages take their form on the wire, and all sites this one thread: what they would do at the same time is added up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use godwit_protocol::register::Retire;
use godwit_protocol::{Address, ContainerId, decode, encode};

use super::*;
use crate::store::{Disk, Store};

/// The three who stayed.
const STAYED: std::ops::Range<u8> = 0..3;
const AWAY: u8 = 3;

/// Registers a container, retires it, registers the next.
fn record(mesh: &mut Mesh, number: u64) -> VerifiedRecord {
    let mut container = ContainerId([0; 16]);
    container.0[..8].copy_from_slice(&(number / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let address = Address([10, 77, 1, 1].into());
    let message = match number % 2 {
        0 => Message::Register(godwit_protocol::register::Register { container, address, ..register(1) }),
        _ => Message::Retire(Retire { container }),
    };
    mesh.sign(0, message)
}

/// A ledger of so many blocks.
fn long(folder: &std::path::Path, blocks: u64) -> (Mesh, Disk) {
    let mut mesh = Mesh::new();
    let (mut store, _) = Disk::open(folder, &mesh.genesis).expect("founds");
    for number in 0..blocks {
        mesh.now = mesh.now.after(Millis(10));
        let record = record(&mut mesh, number);
        let (block, applied, refused) = rules::build(&mesh.state, site(0), mesh.now, [record]);
        assert_eq!(refused, []);
        let committed = Committed { certificate: mesh.certify(&block, &[0, 1, 2]), block };
        mesh.state = applied.state.clone();
        store.follow(&Commit::new(committed, applied)).expect("follows");
    }
    store.sync().expect("syncs");
    (mesh, store)
}

struct World {
    sites: Vec<Replica>,
    /// Of those who stayed, and of the one that was away.
    stores: [Disk; 2],
    began: Instant,
    origin: Time,
    timers: BTreeMap<(Time, u64), (usize, TimerToken)>,
    inbox: VecDeque<(usize, usize, Vec<u8>)>,
    bytes: u64,
    adopted: Option<Height>,
    level: Option<Duration>,
    voted: Option<Duration>,
}

impl World {
    fn now(&self) -> Time {
        self.origin.after(Millis(u64::try_from(self.began.elapsed().as_millis()).expect("short")))
    }

    fn input(&mut self, at: usize, input: Input) {
        let now = self.now();
        for effect in self.sites[at].step(now, input) {
            self.perform(at, effect);
        }
    }

    fn send(&mut self, from: usize, to: &[SiteId], message: &LedgerMessage) {
        let bytes = encode(message).expect("within the limit");
        for (place, _) in self.sites.iter().enumerate().filter(|(_, site)| to.contains(&site.site())) {
            if place != from {
                self.bytes += bytes.len() as u64;
                self.inbox.push_back((from, place, bytes.clone()));
            }
        }
    }

    fn perform(&mut self, at: usize, effect: Effect) {
        let away = at == usize::from(AWAY);
        let store = usize::from(away);
        match effect {
            Effect::Send { to, message } => self.send(at, &[to], &message),
            Effect::Announce { to, message } => self.send(at, &to, &message),
            Effect::Broadcast(message) => {
                if away && matches!(message, LedgerMessage::Vote { .. }) {
                    self.voted.get_or_insert(self.began.elapsed());
                }
                let all: Vec<SiteId> = self.sites.iter().map(Replica::site).collect();
                self.send(at, &all, &message);
            }
            Effect::SetTimer { token, after } => {
                self.timers.insert((self.now().after(after), token.0 * 8 + at as u64), (at, token));
            }
            Effect::CancelTimers => self.timers.retain(|_, (site, _)| *site != at),
            // One writes for all who stayed.
            Effect::Commit(commit) if at < 2 && commit.state.height() > self.stores[store].height() => {
                self.stores[store].commit(&commit).expect("commits");
            }
            Effect::Commit(commit) if away => self.stores[store].commit(&commit).expect("commits"),
            Effect::Follow(commit) => self.stores[store].follow(&commit).expect("follows"),
            Effect::StoreSync => self.stores[store].sync().expect("syncs"),
            Effect::KeepOffer(offer) => self.stores[store].keep_offer(&offer).expect("keeps"),
            Effect::KeepChunk { index, bytes } => self.stores[store].keep_chunk(index, &bytes).expect("keeps"),
            Effect::Adopt(adopted) => {
                self.stores[store].adopt(&adopted).expect("adopts");
                self.adopted = Some(adopted.state.height());
            }
            Effect::ServeBlocks { to, from, most } => {
                let answer = self.stores[store].answer(from, most).expect("reads");
                self.send(at, &[to], &answer);
            }
            Effect::ServeSnapshot { to, trusted } => {
                let offer = self.stores[store].offer(trusted).expect("reads");
                self.send(at, &[to], &LedgerMessage::Snapshot(offer.map(Box::new)));
            }
            Effect::ServeChunk { to, height, index } => {
                let chunk = self.stores[store].chunk(height, index).expect("reads").unwrap_or_default();
                let bytes = List::first(chunk);
                self.send(at, &[to], &LedgerMessage::Chunk { height, index, bytes });
            }
            Effect::Misbehaved { what, .. } => assert!(matches!(what, Offence::Clock { .. }), "{what}"),
            _ => {}
        }
    }

    /// The next message or timer, whichever is due.
    fn happen(&mut self) {
        let now = self.now();
        if let Some(due) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let (at, token) = due.remove();
            self.input(at, Input::Timer(token));
        } else if let Some((from, at, bytes)) = self.inbox.pop_front() {
            let message = decode(&bytes).expect("canonical");
            let from = self.sites[from].site();
            self.input(at, Input::Message { from, message });
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
#[ignore = "a measurement, not a check"]
fn voting_again_after_an_absence() {
    let blocks = std::env::var("GODWIT_BLOCKS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let folder = tempfile::tempdir().expect("a folder");
    let began = Instant::now();
    let (mut mesh, mut store) = long(&folder.path().join("stayed"), blocks);
    println!("{blocks} blocks made in {:.1} s", began.elapsed().as_secs_f64());
    for archives in [false, true] {
        let name = if archives { "archive" } else { "pruned" };
        let (own, founding) = Disk::open(&folder.path().join(name), &mesh.genesis).expect("founds");
        let mut sites: Vec<Replica> =
            STAYED.map(|n| Replica::new(Config::new(key(n)), mesh.state.clone(), &[]).expect("an empty log")).collect();
        let config = Config { archives, ..Config::new(key(AWAY)) };
        sites.push(Replica::new(config, founding, &[]).expect("an empty log"));
        let ids: Vec<SiteId> = sites.iter().map(Replica::site).collect();
        let mut world = World {
            sites,
            stores: [store, own],
            began: Instant::now(),
            origin: mesh.now.after(Millis(10)),
            timers: BTreeMap::new(),
            inbox: VecDeque::new(),
            bytes: 0,
            adopted: None,
            level: None,
            voted: None,
        };
        for (at, other) in (0..4).flat_map(|at| (0..4).map(move |other| (at, other))).filter(|(at, other)| at != other)
        {
            world.input(at, Input::Connected(ids[other]));
        }
        let tip = mesh.state.height();
        while world.voted.is_none() {
            world.happen();
            if world.level.is_none() && world.sites[usize::from(AWAY)].state().height() >= tip {
                world.level = Some(world.began.elapsed());
                mesh.now = world.now();
                let record = record(&mut mesh, tip.0);
                world.input(0, Input::Submit(record));
            }
        }
        let behind = |site: &Replica| site.state().height() <= tip;
        while world.sites.iter().any(behind) {
            world.happen();
        }
        let seconds = |span: Option<Duration>| span.expect("it has happened").as_secs_f64();
        println!(
            "{name}: level after {:.1} s, voted after {:.1} s, by a state of height {:?}, {:.1} MB received, {:.0} blocks/s",
            seconds(world.level),
            seconds(world.voted),
            world.adopted.map(|height| height.0),
            world.bytes as f64 / 1e6,
            (blocks - world.adopted.map_or(0, |height| height.0)) as f64 / seconds(world.level),
        );
        mesh.state = world.sites[0].state().clone();
        mesh.now = world.now();
        [store, _] = world.stores;
    }
}
