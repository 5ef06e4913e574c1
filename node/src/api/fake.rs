//! A site that answers from constants, for tests of the API and of the command line.

use std::collections::BTreeMap;

use godwit_ledger::block::Height;
use godwit_protocol::abort::{Abort, Then};
use godwit_protocol::bid::Reason;
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::container::{Kind as ContainerKind, Mode};
use godwit_protocol::event::EndReason;
use godwit_protocol::membership::{Member, Role};
use godwit_protocol::{
    Address, Bytes, ContainerId, Epoch, Event, Hash, ImageId, MeshId, Message, MilliCpu, Millis, OfferId, PerMille,
    RecordId, SiteId, Time,
};
use tokio::sync::mpsc;

use super::fault::{Fault, Kind};
use super::site::{Ask, Notice, SiteEnd, SiteHandle, channel};
use super::view::{
    BidView, BlockView, CapacityView, ContainerState, ContainerView, DeclineView, HealthView, LogLine, MembersView,
    OfferState, OfferView, Problem, RecordView, ShareView, SiteView, StatusView, StepView, Stream, TimelineView,
    UsageView,
};

/// Three blocks, like the status says.
const TIP: u64 = 3;

/// Answers until all handles are gone.
pub fn site() -> SiteHandle {
    let (handle, end) = channel();
    tokio::spawn(answer(end));
    handle
}

async fn answer(SiteEnd { mut asks, notices }: SiteEnd) {
    while let Some(ask) = asks.recv().await {
        match ask {
            Ask::Status(reply) => reply.send(Ok(status())),
            Ask::Health(reply) => reply.send(Ok(health())),
            Ask::Sites(reply) => reply.send(Ok(sites())),
            Ask::Members(reply) => reply.send(Ok(members())),
            // What a site does that stops: it answers nothing.
            Ask::Approve(_, reply) => drop(reply),
            Ask::SubmitMembership(_, reply) => reply.send(Ok(RecordId([7; 32]))),
            Ask::Containers(reply) => reply.send(Ok(containers())),
            Ask::Deploy(deploy, reply) => {
                let subject = deploy.image.to_string();
                let pull = Notice::Progress { subject, task: "pull".to_owned(), done: 1, total: 2 };
                drop(notices.send(pull));
                let mut container = containers().remove(0);
                container.name = deploy.name.map_or_else(|| "made-up".to_owned(), |name| name.to_string());
                container.memory_bytes = deploy.memory_bytes;
                reply.send(Ok(container));
            }
            Ask::Stop(container, reply) => reply.send(elsewhere(container)),
            Ask::Remove { container, force, reply } => {
                reply.send(if force { Ok(()) } else { Err(Fault::new(Kind::Conflict, format!("{container} runs"))) });
            }
            Ask::Logs { tail, reply, .. } => {
                let (lines, read) = mpsc::channel(8);
                for line in log_lines().into_iter().rev().take(tail.map_or(8, |tail| tail as usize)).rev() {
                    drop(lines.try_send(line));
                }
                reply.send(Ok(read));
            }
            Ask::Migrate { prefer, reply, .. } => {
                let offer = offers().remove(0).offer;
                reply.send(Ok(offer));
                // A preference makes this one fail.
                let event = match prefer {
                    None => Event::Closed { offer, done: done(offer) },
                    Some(_) => Event::Ended { offer, reason: EndReason::NoBids },
                };
                drop(notices.send(Notice::Committed { height: TIP, time: Time(5), event: Box::new(event) }));
            }
            Ask::Drain { on, reply } => {
                let here = containers().into_iter().filter(|c| on && c.local).map(|c| c.container);
                reply.send(Ok(here.collect()));
            }
            Ask::Offers(reply) => reply.send(Ok(offers())),
            Ask::Timeline(_, reply) => reply.send(Ok(timeline())),
            Ask::Log { from: Height(from), most, reply } => {
                let heights = (from..=TIP).take(most.into());
                reply.send(Ok(heights.map(block).collect()));
            }
            Ask::Raw { from: Height(from), most, reply } => {
                let heights = (from..=TIP).take(most.into());
                reply.send(Ok(heights.map(|height| height.to_le_bytes().to_vec()).collect()));
            }
            Ask::Find(beginning, reply) => {
                let ids = [0x70, 0x71, 0x88].map(|byte| RecordId([byte; 32]));
                reply.send(Ok(ids.into_iter().filter(|id| id.to_string().starts_with(&beginning)).collect()));
            }
            Ask::Prove(record, reply) => reply.send(if record == RecordId([0x88; 32]) {
                Ok(include_bytes!("../../../tests/golden/valid.proof").to_vec())
            } else {
                Err(Fault::new(Kind::NotFound, format!("no record {record}")))
            }),
        }
    }
}

fn elsewhere(container: ContainerId) -> Result<(), Fault> {
    match containers().iter().find(|c| c.container == container) {
        Some(found) if found.local => Ok(()),
        Some(found) => Err(Fault::new(Kind::Conflict, format!("{} is at {}", found.name, found.owner_name))
            .remedy(format!("stop it at {}", found.owner_name))),
        None => Err(Fault::new(Kind::NotFound, format!("no container {container}"))),
    }
}

fn done(offer: OfferId) -> godwit_protocol::done::Done {
    godwit_protocol::done::Done { offer, spans: Default::default(), bytes: Bytes(1), late_root: Hash::ZERO }
}

pub fn status() -> StatusView {
    StatusView {
        site: SiteId([0xa1; 32]),
        name: "porto".to_owned(),
        role: Some(Role::Validator),
        version: "0.1.0".to_owned(),
        uptime_ms: Millis(65_000),
        mesh: MeshId([0xee; 32]),
        mesh_name: "harbour".to_owned(),
        height: TIP,
        tip: Hash([0x11; 32]),
        state_root: Hash([0x22; 32]),
        block_time: Time(1_795_320_907_123),
        members: 2,
        validators: 2,
        peers: 1,
        containers: 2,
        open_offers: 1,
        draining: false,
        abstains: false,
        base: 1,
        address: Address([192, 0, 2, 7].into()),
        listening: vec!["/ip4/192.0.2.7/tcp/4101".to_owned()],
    }
}

pub fn health() -> HealthView {
    let problem =
        Problem { problem: "the clock is not disciplined".to_owned(), remedy: Some("start chrony".to_owned()) };
    HealthView { healthy: false, problems: vec![problem] }
}

pub fn sites() -> Vec<SiteView> {
    let capacity = CapacityView {
        age_ms: Millis(1200),
        stale: false,
        address: Address([192, 0, 2, 7].into()),
        network: "quay".to_owned(),
        cpu_m: ShareView { total: 4000, used: 500, reserved: 0 },
        memory_bytes: ShareView { total: 8 << 30, used: 3 << 30, reserved: 1 << 30 },
        gpu: ShareView { total: 0, used: 0, reserved: 0 },
        accepting: true,
    };
    let porto = SiteView {
        site: SiteId([0xa1; 32]),
        name: "porto".to_owned(),
        role: Role::Validator,
        local: true,
        connected: true,
        containers: 2,
        height: Some(TIP),
        capacity: Some(capacity),
    };
    let faro = SiteView {
        site: SiteId([0xa2; 32]),
        name: "faro".to_owned(),
        role: Role::Validator,
        local: false,
        connected: false,
        containers: 1,
        height: None,
        capacity: None,
    };
    vec![porto, faro]
}

pub fn members() -> MembersView {
    let member = |site: SiteView| Member {
        site: site.site,
        role: site.role,
        name: Text::clipped(&site.name),
        addresses: List::first([Text::clipped("/ip4/192.0.2.7/tcp/4101")]),
    };
    let members = sites().into_iter().map(member).collect();
    MembersView { epoch: 0, approvals_needed: 2, members, suspended: Vec::new() }
}

pub fn containers() -> Vec<ContainerView> {
    let container = |n: u8, name: &str, local: bool| ContainerView {
        container: ContainerId([n; 16]),
        name: name.to_owned(),
        image: format!("{name}:1"),
        image_id: ImageId([n; 32]),
        owner: SiteId([if local { 0xa1 } else { 0xa2 }; 32]),
        owner_name: if local { "porto" } else { "faro" }.to_owned(),
        local,
        epoch: Epoch(3),
        state: if local { ContainerState::Running } else { ContainerState::Moving },
        address: Address([10, 77, 0, n].into()),
        kind: ContainerKind::Stateful,
        mode: Mode::StopAndCopy,
        cpu_m: MilliCpu(500),
        memory_bytes: Bytes(256 << 20),
        gpu: 0,
        max_delay_ms: Millis(100),
        usage: local.then_some(UsageView { cpu_m: MilliCpu(250), memory_bytes: Bytes(100 << 20) }),
        clients: vec![],
        offer: None,
    };
    vec![container(0x31, "cam", true), container(0x32, "redis", true), container(0x41, "cam2", false)]
}

pub fn offers() -> Vec<OfferView> {
    let bid = BidView {
        site: SiteId([0xa2; 32]),
        name: "faro".to_owned(),
        score: 130_000,
        load_per_mille: PerMille(210),
        same_network: true,
        predicted_downtime_ms: Millis(300),
    };
    vec![OfferView {
        offer: OfferId([0x9c; 32]),
        container: ContainerId([0x31; 16]),
        container_name: "cam".to_owned(),
        source: SiteId([0xa1; 32]),
        source_name: "porto".to_owned(),
        why: "overload".to_owned(),
        state: OfferState::Awarded,
        attempt: 1,
        winner: Some(SiteId([0xa2; 32])),
        winner_name: Some("faro".to_owned()),
        bids: vec![bid],
        declines: vec![DeclineView { site: SiteId([0xa3; 32]), name: "lagos".to_owned(), reason: Reason::Memory }],
        opened: Time(1_795_320_907_123),
        closes: Time(1_795_320_908_123),
        ended: None,
    }]
}

pub fn timeline() -> TimelineView {
    let step = |name: &str, at: u64, since: u64, site: &str, detail: &str| StepView {
        name: name.to_owned(),
        at_ms: Time(1_795_320_907_123 + at),
        site: site.to_owned(),
        detail: detail.to_owned(),
        since_previous_ms: Millis(since),
    };
    TimelineView {
        offer: OfferId([0x9c; 32]),
        container: ContainerId([0x31; 16]),
        container_name: "cam".to_owned(),
        source_name: "porto".to_owned(),
        target_name: Some("faro".to_owned()),
        state: OfferState::Done,
        steps: vec![
            step("offer", 0, 0, "porto", "overload: memory 612 ‰"),
            step("award", 48, 48, "", "faro of 2 bidders"),
            step("receipt", 1448, 1400, "faro", "epoch 2"),
        ],
        downtime_ms: Some(BTreeMap::from([("commit".to_owned(), 15), ("send".to_owned(), 200)])),
        bytes: Some(Bytes(3 << 19)),
    }
}

pub fn block(height: u64) -> BlockView {
    let abort = Abort { offer: OfferId([0x9c; 32]), attempt: 1, then: Then::Next, reason: Reason::Silent };
    BlockView {
        height,
        time: Time(1_795_320_907_123),
        hash: Hash([0x11; 32]),
        parent: Hash([0x10; 32]),
        state_root: Hash([0x22; 32]),
        proposer: SiteId([0xa1; 32]),
        proposer_name: "porto".to_owned(),
        round: 0,
        signers: 3,
        records: vec![RecordView {
            record: RecordId([7; 32]),
            author: SiteId([0xa1; 32]),
            author_name: "porto".to_owned(),
            kind: "abort".to_owned(),
            summary: "attempt 1 of 9c9c9c9c: silent".to_owned(),
            message: Message::Abort(abort),
        }],
    }
}

pub fn log_lines() -> Vec<LogLine> {
    let line = |stream, line: &str| LogLine { stream, line: line.to_owned() };
    vec![line(Stream::Stdout, "one"), line(Stream::Stderr, "two \"quoted\""), line(Stream::Stdout, "three")]
}
