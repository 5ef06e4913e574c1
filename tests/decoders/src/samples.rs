//! Bytes that are taken: what sites of the mesh say, sign, keep and send.

use std::collections::VecDeque;
use std::sync::LazyLock;

use godwit::chunks::wire::{Answer, Place, Refused, Request};
use godwit::chunks::{Part, PartKey};
use godwit::genesis as file;
use godwit::runtime::layer::{Form, pack};
use godwit_ledger::attested::Attested;
use godwit_ledger::block::Height;
use godwit_ledger::bundle::Bundle;
use godwit_ledger::frames::Framing;
use godwit_ledger::lineage::Lineage;
use godwit_ledger::replica::{Effect, Input, LedgerMessage};
use godwit_ledger::sync::snapshot::{Offer, chunk_hash};
use godwit_ledger::testing::{client_key, key, offer, register, site};
use godwit_ledger::wal;
use godwit_protocol::abort::{Abort, Then};
use godwit_protocol::bid::{Bid, Decline, Reason};
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::capacity::{Capacity, Platform, Share};
use godwit_protocol::done::{Done, Spans};
use godwit_protocol::evidence::Evidence;
use godwit_protocol::manifest::{File, Manifest};
use godwit_protocol::membership::{Change, Member, Membership, Proposal, Role, Rotation};
use godwit_protocol::receipt::{Ready, Receipt};
use godwit_protocol::register::Retire;
use godwit_protocol::report::{Report, Signal};
use godwit_protocol::vote::{Vote, VoteKind};
use godwit_protocol::word::Word;
use godwit_protocol::yield_::Yield;
use godwit_protocol::{
    Address, Bytes, ContainerId, Dbm, Epoch, Hash, Message, MilliCpu, Millis, PerMille, Signable, Signed, Time, encode,
};
use serde::Serialize;

use crate::mesh::{MESH, SITES};

/// What the validators say and write down, from a record to its block.
static SAID: LazyLock<(Vec<LedgerMessage>, Vec<Vec<u8>>)> = LazyLock::new(talk);

fn bytes(value: &impl Serialize) -> Vec<u8> {
    encode(value).expect("small")
}

fn signed<T: Signable<Author = godwit_protocol::SiteId> + Serialize>(by: u8, body: T) -> Signed<T> {
    Signed::sign(&MESH.genesis().mesh(), &key(by), body).expect("small").into_signed()
}

/// Four validators in one room.
fn talk() -> (Vec<LedgerMessage>, Vec<Vec<u8>>) {
    let (mut said, mut log) = (Vec::new(), Vec::new());
    let mut replicas: Vec<_> = (0..4).map(|number| MESH.replica(number)).collect();
    let mut inputs: VecDeque<(usize, Input)> = (0..4).map(|number| (number, Input::Start)).collect();
    for at in 0..4 {
        let others = (0..SITES).filter(|other| usize::from(*other) != at);
        inputs.extend(others.map(|other| (at, Input::Connected(site(other)))));
    }
    inputs.push_back((1, Input::Submit(MESH.sign(1, Message::Register(register(3))))));
    while let Some((at, input)) = inputs.pop_front() {
        let from = site(u8::try_from(at).expect("four"));
        for effect in replicas[at].step(MESH.now(), input) {
            let (to, message) = match effect {
                Effect::Broadcast(message) => ((0..4).map(site).filter(|to| *to != from).collect(), message),
                Effect::Send { to, message } => (vec![to], message),
                Effect::Announce { to, message } => (to, message),
                Effect::WalAppend(entry) if at == 0 => {
                    log.push(entry);
                    continue;
                }
                _ => continue,
            };
            said.push(message.clone());
            for number in (0..4).filter(|number| to.contains(&site(*number))) {
                inputs.push_back((usize::from(number), Input::Message { from, message: message.clone() }));
            }
        }
    }
    (said, log)
}

pub fn messages() -> Vec<Vec<u8>> {
    let chunks = MESH.state().chunks();
    let more = [
        LedgerMessage::Fetch { from: Height(1), most: 64 },
        LedgerMessage::Blocks(List::first(MESH.chain().iter().cloned())),
        LedgerMessage::Pruned { base: Height(9) },
        LedgerMessage::Status { height: Height(9_000), tip: Hash::ZERO },
        LedgerMessage::SnapshotWanted { trusted: Height(1) },
        LedgerMessage::Snapshot(None),
        LedgerMessage::Snapshot(Some(Box::new(the_snapshot()))),
        LedgerMessage::ChunkWanted { height: Height(3), index: 0 },
        LedgerMessage::Chunk { height: Height(3), index: 0, bytes: List::first(chunks[0].iter().copied()) },
    ];
    let mut all: Vec<Vec<u8>> = SAID.0.iter().chain(&more).map(bytes).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn all_messages() -> Vec<Message> {
    let (offered, attempt) = (MESH.offer, 1);
    let yielded = Yield {
        offer: offered,
        attempt,
        target: site(1),
        epoch: Epoch(1),
        root: Hash::of(b"manifest"),
        freeze_ms: Millis(7),
        collect_ms: Millis(5),
    };
    let guest = Member { site: site(9), role: Role::Member, name: Text::clipped("guest"), addresses: List::default() };
    let change = |change: Change| {
        let proposal = Proposal { epoch: 0, change };
        let approvals = List::first((0..3).map(|by| signed(by, proposal.clone())));
        Message::Membership(Membership { proposal, approvals })
    };
    let vote = |block: Option<Hash>| {
        signed(3, Vote { kind: VoteKind::Precommit, height: Height(4), round: 0, block, validator: site(3) })
    };
    let late_root = Hash::ZERO;
    vec![
        Message::Register(register(4)),
        Message::Retire(Retire { container: ContainerId([1; 16]) }),
        Message::Offer(offer(2, 1, &[1, 2, 3])),
        Message::Bid(Bid { offer: offered, same_network: true, load: PerMille(100), downtime_ms: Millis(50) }),
        Message::Decline(Decline { offer: offered, attempt: 0, reason: Reason::Memory }),
        Message::Ready(Ready { offer: offered, attempt }),
        Message::Receipt(Receipt { offer: offered, attempt, yielded: signed(0, yielded) }),
        Message::Abort(Abort { offer: offered, attempt, then: Then::End, reason: Reason::Silent }),
        Message::Done(Done { offer: offered, spans: Spans::default(), bytes: Bytes(1), late_root }),
        change(Change::Put(guest)),
        change(Change::Remove(site(4))),
        change(Change::Rotate(signed(9, Rotation { old: site(4) }))),
        Message::Evidence(Evidence::Votes(vote(Some(Hash::ZERO)), vote(None))),
    ]
}

pub fn records() -> Vec<Vec<u8>> {
    all_messages().into_iter().map(|message| bytes(&MESH.sign(1, message).into_signed())).collect()
}

pub fn submissions() -> Vec<Vec<u8>> {
    let by = |author: u8, message: &Message| [vec![author], bytes(message)].concat();
    all_messages().iter().flat_map(|message| [by(0, message), by(1, message)]).collect()
}

pub fn blocks() -> Vec<Vec<u8>> {
    MESH.chain().iter().map(bytes).collect()
}

pub fn snapshots() -> Vec<Vec<u8>> {
    vec![MESH.state().encode()]
}

fn the_snapshot() -> Offer {
    let last = MESH.chain().last().expect("a block").clone();
    let chunks = List::first(MESH.state().chunks().iter().map(|chunk| chunk_hash(chunk)));
    Offer { header: last.block.header, certificate: last.certificate, lineage: Lineage::default(), chunks }
}

pub fn snapshot_offers() -> Vec<Vec<u8>> {
    vec![bytes(&the_snapshot())]
}

pub fn proofs() -> Vec<Vec<u8>> {
    let bundle = |committed| Bundle {
        genesis: MESH.genesis().clone(),
        lineage: Lineage::default(),
        attested: Attested::of(committed, 0).expect("a record"),
    };
    MESH.chain().iter().map(|committed| bundle(committed).to_bytes().expect("small")).collect()
}

pub fn logs() -> Vec<Vec<u8>> {
    let framing = Framing::new(wal::KIND, *b"sixteen bytes :)");
    let mut log = framing.header();
    let mut logs = vec![log.clone()];
    for entry in &SAID.1 {
        log.extend(framing.frame(entry).expect("short enough"));
        logs.push(log.clone());
    }
    logs
}

fn share<T: Default>(total: T) -> Share<T> {
    Share { total, ..Share::default() }
}

pub fn gossip() -> Vec<Vec<u8>> {
    let platform = Platform {
        architecture: Text::clipped("x86_64"),
        cpu_features: List::first(["avx2", "sse4_2"].map(Text::clipped)),
        kernel: (5, 10),
        criu: 40_200,
    };
    let capacity = Capacity {
        sequence: 7,
        at: Time(1_000_000),
        address: Address([192, 0, 2, 1].into()),
        network: Text::clipped("lab"),
        cpu: share(MilliCpu(2_000)),
        memory: share(Bytes(1 << 30)),
        gpu: share(0),
        platform,
        accepting: true,
        height: Height(3),
    };
    vec![bytes(&signed(1, capacity)), bytes(&report())]
}

fn report() -> Signed<Report> {
    let signals = List::first([Signal { site: site(0), dbm: Dbm(-60) }, Signal { site: site(1), dbm: Dbm(-50) }]);
    let report = Report { sequence: 1, at: Time(1_000_000), signals };
    Signed::sign(&MESH.genesis().mesh(), &client_key(0), report).expect("small").into_signed()
}

pub fn words() -> Vec<Vec<u8>> {
    let (offer, attempt) = (MESH.offer, 1);
    let root = Hash::of(b"manifest");
    let yielded =
        Yield { offer, attempt, target: site(1), epoch: Epoch(1), root, freeze_ms: Millis(7), collect_ms: Millis(5) };
    let words = [
        Word::Yield(signed(0, yielded)),
        Word::Report(report()),
        Word::ImageWanted { offer },
        Word::Preparing { offer, attempt },
    ];
    words.iter().map(bytes).collect()
}

pub fn transfers() -> Vec<Vec<u8>> {
    let place = Place { file: 1, chunk: 2 };
    let files = [("a/b", 3), ("c", 0)].map(|(path, size)| File {
        path: Text::clipped(path),
        size: Bytes(size),
        chunks: List::first((0..size.min(1)).map(|_| Hash::of(b"abc"))),
    });
    let manifest = bytes(&Manifest { files: List::first(files) });
    let answers = [Answer::Refused(Refused::NotOffered), Answer::Manifest(manifest.into())];
    let chunk = Answer::Chunk(place, vec![5; 300].into());
    let asked = [Request::Open(PartKey { offer: MESH.offer, part: Part::Image }), Request::Chunk(place)];
    asked.iter().map(bytes).chain(answers.into_iter().chain([chunk]).map(|answer| answer.encode().to_vec())).collect()
}

pub fn layers() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = || -> std::io::Result<()> {
        std::fs::create_dir(folder.path().join("etc"))?;
        std::fs::write(folder.path().join("etc/name"), "content")?;
        std::fs::hard_link(folder.path().join("etc/name"), folder.path().join("again"))?;
        std::os::unix::fs::symlink("../outside", folder.path().join("link"))?;
        std::fs::File::create(folder.path().join("sparse"))?.set_len(1 << 20)
    };
    made().expect("a tree");
    let mut archive = Vec::new();
    pack(folder.path(), &mut archive, Form::Plain).expect("packed");
    vec![archive]
}

pub fn geneses() -> Vec<Vec<u8>> {
    let json = serde_json::to_vec(MESH.genesis()).expect("a genesis has a form in JSON");
    vec![file::to_toml(MESH.genesis()).into_bytes(), json]
}

pub fn requests() -> Vec<Vec<u8>> {
    let deploy = r#"{"image":"counter:1","cpu_m":500,"memory_bytes":67108864,"max_delay_ms":100,
        "ports":[{"host":8080,"container":80}]}"#;
    let Some(Message::Membership(membership)) =
        all_messages().into_iter().find(|message| matches!(message, Message::Membership(_)))
    else {
        return Vec::new();
    };
    vec![
        deploy.into(),
        serde_json::to_vec(&membership.proposal).expect("JSON"),
        serde_json::to_vec(&membership).expect("JSON"),
        godwit::api::raw::join(&blocks()),
    ]
}
