//! A replica that lags, among sites that serve it well or badly.

use std::collections::VecDeque;

use super::*;
use crate::lineage::Lineage;
use crate::sync::snapshot::{Kept, Offer, chunk_hash};

/// Sites that serve are members like any other; their votes play no part here.
type Habit = fn(&Source, LedgerMessage) -> Option<LedgerMessage>;

/// What there is to serve.
struct Source {
    mesh: Mesh,
    /// The first block that those who prune keep.
    base: u64,
    offer: Offer,
    chunks: Vec<Vec<u8>>,
}

/// A chain of so many blocks; those who prune keep the last `kept`, and offer the state before them.
fn source(blocks: u8, kept: u8) -> Source {
    let mut mesh = Mesh::new();
    let mut offered = None;
    for n in 0..blocks {
        mesh.say(0, Message::Register(register(n)));
        if n + 1 == blocks - kept {
            let (chunks, last) = (mesh.state.chunks(), mesh.chain.last().expect("a block").clone());
            let hashes = List::first(chunks.iter().map(|chunk| chunk_hash(chunk)));
            let (header, certificate) = (last.block.header, last.certificate);
            offered = Some((Offer { header, certificate, lineage: Lineage::default(), chunks: hashes }, chunks));
        }
    }
    let (offer, chunks) = offered.expect("some are kept");
    Source { mesh, base: u64::from(blocks - kept) + 1, offer, chunks }
}

fn archive(source: &Source, asked: LedgerMessage) -> Option<LedgerMessage> {
    match asked {
        LedgerMessage::Fetch { from, most } => {
            let skip = usize::try_from(from.0 - 1).expect("small");
            let blocks = source.mesh.chain.iter().skip(skip).take(usize::from(most)).cloned();
            Some(LedgerMessage::Blocks(List::first(blocks)))
        }
        LedgerMessage::SnapshotWanted { trusted } => {
            let offer = Some(source.offer.clone()).filter(|offer| offer.header.height > trusted);
            Some(LedgerMessage::Snapshot(offer.map(Box::new)))
        }
        LedgerMessage::ChunkWanted { height, index } => {
            let chunk = source.chunks.get(usize::try_from(index).expect("small")).cloned();
            Some(LedgerMessage::Chunk { height, index, bytes: List::first(chunk.unwrap_or_default()) })
        }
        _ => None,
    }
}

fn pruned(source: &Source, asked: LedgerMessage) -> Option<LedgerMessage> {
    match asked {
        LedgerMessage::Fetch { from, .. } if from.0 < source.base => {
            Some(LedgerMessage::Pruned { base: Height(source.base) })
        }
        asked => archive(source, asked),
    }
}

/// Serves a history that nobody decided.
fn false_history(source: &Source, asked: LedgerMessage) -> Option<LedgerMessage> {
    match archive(source, asked)? {
        LedgerMessage::Blocks(blocks) => {
            let mut blocks = blocks.into_inner();
            let bent = blocks.last_mut()?;
            bent.block.header.state = Hash::of(b"another");
            bent.certificate.block = bent.block.header.hash();
            Some(LedgerMessage::Blocks(List::first(blocks)))
        }
        other => Some(other),
    }
}

fn empty(_: &Source, asked: LedgerMessage) -> Option<LedgerMessage> {
    matches!(asked, LedgerMessage::Fetch { .. }).then(|| LedgerMessage::Blocks(List::default()))
}

fn silent(_: &Source, _: LedgerMessage) -> Option<LedgerMessage> {
    None
}

/// Offers another state under a header that was decided.
fn false_state(source: &Source, asked: LedgerMessage) -> Option<LedgerMessage> {
    let chunks = State::genesis(&source.mesh.genesis).chunks();
    match asked {
        LedgerMessage::SnapshotWanted { .. } => {
            let hashes = List::first(chunks.iter().map(|chunk| chunk_hash(chunk)));
            Some(LedgerMessage::Snapshot(Some(Box::new(Offer { chunks: hashes, ..source.offer.clone() }))))
        }
        LedgerMessage::ChunkWanted { height, index } => {
            let chunk = chunks.get(usize::try_from(index).expect("small")).cloned();
            Some(LedgerMessage::Chunk { height, index, bytes: List::first(chunk.unwrap_or_default()) })
        }
        asked => pruned(source, asked),
    }
}

/// The lagging replica, its host, and the others.
struct World {
    source: Source,
    habits: Vec<Habit>,
    replica: Replica,
    now: Time,
    timers: BTreeMap<(Time, u64), TimerToken>,
    inbox: VecDeque<(usize, LedgerMessage)>,
    asked: Vec<(usize, &'static str)>,
    offences: Vec<(SiteId, &'static str)>,
    stored: Vec<u64>,
    synced: bool,
    adopted: Vec<u64>,
    kept: Option<Kept>,
}

/// Serving sites are numbered from 10: none of them has a vote.
fn server(place: usize) -> SiteId {
    site(10 + u8::try_from(place).expect("few"))
}

impl World {
    fn new(source: Source, habits: &[Habit], archives: bool, kept: Option<Kept>) -> Self {
        let config = Config { archives, kept: kept.clone(), ..Config::new(key(0)) };
        let replica = Replica::new(config, State::genesis(&source.mesh.genesis), &[]).expect("an empty log");
        let mut world = Self {
            now: source.mesh.now,
            source,
            habits: habits.to_vec(),
            replica,
            timers: BTreeMap::new(),
            inbox: VecDeque::new(),
            asked: Vec::new(),
            offences: Vec::new(),
            stored: Vec::new(),
            synced: true,
            adopted: Vec::new(),
            kept,
        };
        for place in 0..habits.len() {
            world.input(Input::Connected(server(place)));
            world.inbox.push_back((place, world.status()));
        }
        world
    }

    /// As those who serve say it.
    fn status(&self) -> LedgerMessage {
        LedgerMessage::Status { height: self.source.mesh.state.height(), tip: self.source.mesh.state.tip() }
    }

    fn input(&mut self, input: Input) {
        for effect in self.replica.step(self.now, input) {
            match effect {
                Effect::Send { to, message } => {
                    let place = (0..self.habits.len()).find(|place| server(*place) == to).expect("a server");
                    self.asked.push((place, message.name()));
                    if let Some(answer) = self.habits[place](&self.source, message) {
                        self.inbox.push_back((place, answer));
                    }
                }
                // Who is told that the replica is behind says how far it is itself.
                Effect::Broadcast(LedgerMessage::Status { height, .. }) if height < self.source.mesh.state.height() => {
                    let status = self.status();
                    self.inbox.extend((0..self.habits.len()).map(|place| (place, status.clone())));
                }
                Effect::SetTimer { token, after } => {
                    self.timers.insert((self.now.after(after), token.0), token);
                }
                Effect::CancelTimers => self.timers.clear(),
                Effect::Commit(commit) | Effect::Follow(commit) => {
                    self.stored.push(commit.committed.block.header.height.0);
                    self.synced = false;
                }
                Effect::StoreSync => self.synced = true,
                Effect::Misbehaved { site, what } => self.offences.push((site, what.name())),
                Effect::KeepOffer(offer) => self.kept = Some(Kept { offer: *offer, chunks: BTreeMap::new() }),
                Effect::KeepChunk { index, bytes } => {
                    self.kept.as_mut().expect("an offer first").chunks.insert(index, bytes);
                }
                Effect::DropDownload => self.kept = None,
                Effect::Adopt(adopted) => {
                    assert_eq!(adopted.state.height(), adopted.offer.header.height);
                    self.adopted.push(adopted.state.height().0);
                }
                _ => {}
            }
        }
    }

    /// One message, or else the next timer.
    fn happen(&mut self) -> bool {
        if let Some((place, message)) = self.inbox.pop_front() {
            // As it is on the wire.
            let bytes = encode(&message).expect("within the limit");
            let message = decode(&bytes).expect("canonical");
            self.input(Input::Message { from: server(place), message });
        } else if let Some(((at, _), token)) = self.timers.pop_first() {
            self.now = self.now.max(at);
            self.input(Input::Timer(token));
        } else {
            return false;
        }
        true
    }

    fn run(&mut self) {
        let mut happened = 0;
        while self.replica.state().height() < self.source.mesh.state.height() && self.happen() {
            happened += 1;
            assert!(happened < 10_000, "it ends");
        }
    }

    fn is_level(&self) -> bool {
        let (own, theirs) = (self.replica.state(), &self.source.mesh.state);
        (own.root(), own.tip()) == (theirs.root(), theirs.tip())
    }

    fn blamed(&self) -> BTreeSet<(SiteId, &'static str)> {
        self.offences.iter().copied().collect()
    }
}

use godwit_protocol::{decode, encode};

#[test]
fn blocks_are_fetched_from_all_who_have_them_and_are_on_disk_at_the_end() {
    let mut world = World::new(source(250, 10), &[archive, archive, archive], true, None);
    world.run();
    assert!(world.is_level() && world.synced);
    assert_eq!(world.stored, (1..=250).collect::<Vec<_>>());
    assert_eq!((world.blamed(), world.adopted), (BTreeSet::new(), vec![]));
    assert!((0..3).all(|place| world.asked.contains(&(place, "fetch"))), "{:?}", world.asked);
}

#[test]
fn who_serves_a_false_history_or_none_is_named_and_the_others_serve() {
    let habits = [false_history, empty, silent, pruned, archive];
    let mut world = World::new(source(250, 10), &habits, true, None);
    world.run();
    assert!(world.is_level());
    assert_eq!(world.stored, (1..=250).collect::<Vec<_>>());
    let want = [(server(0), "bad-committed"), (server(1), "no-blocks")];
    assert_eq!(world.blamed(), BTreeSet::from(want));
}

#[test]
fn what_was_decided_while_a_site_caught_up_is_fetched_too() {
    for (habit, archives) in [(archive as Habit, true), (pruned, false)] {
        let mut world = World::new(source(60, 10), &[habit], archives, None);
        // All that it has heard is of the block before the last: the last was decided since, and nobody says more.
        world.inbox.clear();
        world.inbox.push_back((0, LedgerMessage::Status { height: Height(59), tip: Hash::ZERO }));
        world.run();
        assert!(world.is_level(), "at {}", world.replica.state().height());
    }
}

#[test]
fn a_connected_sites_gossip_of_its_height_stands_in_for_a_lost_status() {
    let mut world = World::new(source(60, 10), &[archive], true, None);
    world.inbox.clear();
    world.input(Input::Reach { site: server(1), height: Height(60) });
    world.run();
    assert_eq!((world.replica.state().height(), world.asked.len()), (Height(0), 1), "nothing but its own status");
    world.input(Input::Reach { site: server(0), height: Height(60) });
    world.run();
    assert!(world.is_level());
    assert_eq!(world.blamed(), BTreeSet::new());
}

#[test]
fn where_nobody_keeps_the_blocks_a_state_is_fetched_and_the_blocks_after_it() {
    let mut world = World::new(source(60, 10), &[pruned, pruned], false, None);
    world.run();
    assert!(world.is_level());
    assert_eq!((world.adopted.as_slice(), world.stored.as_slice()), (&[50][..], &(51..=60).collect::<Vec<_>>()[..]));
    assert_eq!(world.blamed(), BTreeSet::new());
}

#[test]
fn an_archive_waits_for_the_blocks_instead() {
    let mut world = World::new(source(60, 10), &[pruned, pruned], true, None);
    world.run();
    assert_eq!((world.replica.state().height(), world.adopted.len()), (Height(0), 0));
    assert!(world.asked.iter().all(|(_, what)| *what != "snapshot-wanted"));
    // One comes that has them.
    world.habits.push(archive);
    world.input(Input::Connected(server(2)));
    world.inbox.push_back((2, world.status()));
    world.run();
    assert!(world.is_level());
}

#[test]
fn a_state_that_is_not_the_headers_is_dropped_and_an_honest_one_adopted() {
    let mut world = World::new(source(60, 10), &[false_state, pruned], false, None);
    world.run();
    assert!(world.is_level());
    assert_eq!(world.adopted, [50]);
    assert!(world.blamed().is_subset(&BTreeSet::from([(server(0), "bad-snapshot")])), "{:?}", world.offences);
    let mut alone = World::new(source(60, 10), &[false_state], false, None);
    for _ in 0..50 {
        alone.happen();
    }
    assert_eq!((alone.adopted.len(), alone.kept.is_none()), (0, true));
    assert_eq!(alone.blamed(), BTreeSet::from([(server(0), "bad-snapshot")]));
}

#[test]
fn a_broken_download_goes_on_with_what_was_kept() {
    let mut broken = World::new(source(60, 10), &[pruned], false, None);
    while broken.kept.as_ref().is_none_or(|kept| kept.chunks.is_empty()) {
        assert!(broken.happen());
    }
    let kept = broken.kept.expect("an offer and a chunk");
    assert!(kept.chunks.len() < kept.offer.chunks.len());
    let missing = kept.offer.chunks.len() - kept.chunks.len();
    let mut world = World::new(source(60, 10), &[pruned], false, Some(kept));
    world.run();
    assert!(world.is_level());
    assert_eq!(world.asked.iter().filter(|(_, what)| *what == "chunk-wanted").count(), missing);
}

#[test]
fn a_snapshot_from_before_the_votes_of_a_height_ends_them() {
    // A validator in the middle of a height adopts a later state: what it had heard of that height is over.
    let mut world = World::new(source(60, 10), &[pruned], false, None);
    let mesh = world.source.mesh.state.mesh();
    let vote = vote(&world.source.mesh, 1, &mesh, 1);
    world.input(Input::Message { from: site(1), message: LedgerMessage::Vote { vote, eager: true } });
    world.run();
    assert!(world.is_level());
}

#[test]
fn requests_wait_for_their_turn_so_that_nobody_takes_all_the_time() {
    let (mesh, mut replica) = alone(0);
    let serves = |effects: &[Effect]| effects.iter().filter(|e| matches!(e, Effect::ServeBlocks { .. })).count();
    let mut served = 0;
    for now in 0..200 {
        let message = LedgerMessage::Fetch { from: Height(1), most: 64 };
        let effects = replica.step(Time(mesh.now.0 + now), Input::Message { from: site(5), message });
        served += serves(&effects);
    }
    assert_eq!(served, 5);
}
