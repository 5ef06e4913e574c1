//! Real endpoints over loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::SinkExt;
use godwit_ledger::record::Record;
use godwit_protocol::capacity::{Platform, Share};
use godwit_protocol::membership::Role;
use godwit_protocol::register::Retire;
use godwit_protocol::report::Signal;
use godwit_protocol::{Address, ClientId, ContainerId, Dbm, Message, OfferId, Signed, Time};
use tokio::io::AsyncWriteExt;

use super::client::{Client, ConnectError};
use super::report::{Answer, Why};
use super::testing::{MESH, QUIC, Site, TCP, admit_each_other, key, pair, site, soon};
use super::*;

fn capacity(seed: u8, sequence: u64) -> Verified<Capacity> {
    let body = Capacity {
        sequence,
        at: Time(sequence),
        address: Address(Ipv4Addr::LOCALHOST),
        network: "lab".try_into_text(),
        cpu: Share::default(),
        memory: Share::default(),
        gpu: Share::default(),
        platform: Platform {
            architecture: "x86_64".try_into_text(),
            cpu_features: Default::default(),
            kernel: (6, 1),
            criu: 40_200,
        },
        accepting: true,
        height: godwit_ledger::block::Height(1),
    };
    Signed::sign(&MESH, &key(seed), body).unwrap()
}

trait IntoText {
    fn try_into_text<const MAX: usize>(&self) -> godwit_protocol::bounded::Text<MAX>;
}

impl IntoText for str {
    fn try_into_text<const MAX: usize>(&self) -> godwit_protocol::bounded::Text<MAX> {
        godwit_protocol::bounded::Text::new(self).unwrap()
    }
}

fn record(seed: u8, mesh: &MeshId, sequence: u64) -> VerifiedRecord {
    let message = Message::Retire(Retire { container: ContainerId([9; 16]) });
    Signed::sign(mesh, &key(seed), Record { sequence, expires: Time(1), message }).unwrap()
}

/// Gossips until somebody is subscribed: subscriptions travel after the connection.
async fn publish(from: &Site, kind: Kind, data: Vec<u8>) {
    soon(async {
        while let Err(error) = from.net.publish(kind, data.clone()).await {
            assert!(matches!(error, PublishError::Alone), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn members_talk(listen: &str) {
    let (a, mut b) = pair(listen).await;
    let block: Arc<[u8]> = vec![7; godwit_protocol::codec::LIMIT].into();
    a.net.send_ledger(site(2), &block).unwrap();
    let (from, bytes) = b
        .until(|event| match event {
            NetEvent::Ledger { from, bytes } => Some((from, bytes)),
            _ => None,
        })
        .await;
    assert_eq!((from, &bytes[..]), (site(1), &block[..]));

    let word = Word::Preparing { offer: OfferId([4; 32]), attempt: 1 };
    soon(a.net.send_word(site(2), &word)).await.unwrap();
    let heard = b
        .until(|event| match event {
            NetEvent::Word { from, word } => Some((from, word)),
            _ => None,
        })
        .await;
    assert_eq!(heard, (site(1), word));

    let sent = record(1, &MESH, 1);
    publish(&a, Kind::Record, encode(&sent).unwrap()).await;
    let heard = b
        .until(|event| match event {
            NetEvent::Record(record) => Some(*record),
            _ => None,
        })
        .await;
    assert_eq!(heard, sent);

    let sent = capacity(1, 1);
    publish(&a, Kind::Capacity, encode(&sent).unwrap()).await;
    let heard = b
        .until(|event| match event {
            NetEvent::Capacity(capacity) => Some(*capacity),
            _ => None,
        })
        .await;
    assert_eq!(heard, sent);
    a.net.shutdown().await;
    b.until(|event| matches!(event, NetEvent::Disconnected(who) if who == site(1)).then_some(())).await;
}

#[tokio::test]
async fn members_exchange_ledger_messages_words_and_gossip_over_tcp() {
    members_talk(TCP).await;
}

#[tokio::test]
async fn members_exchange_ledger_messages_words_and_gossip_over_quic() {
    members_talk(QUIC).await;
}

#[tokio::test]
async fn a_stranger_is_refused_at_the_connection() {
    let mut a = Site::start(1, MESH, QUIC).await;
    let mut stranger = Site::start(3, MESH, QUIC).await;
    a.net.admit([a.as_member()].into());
    stranger.net.admit([a.as_member(), stranger.as_member()].into());
    assert_eq!(a.refused().await, (Some(site(3)), Refusal::Stranger));
    assert!(a.net.metrics().refused(Refusal::Stranger) >= 1);
    assert!(!a.net.is_connected(&site(3)));
    assert!(std::iter::from_fn(|| stranger.events.try_recv().ok()).all(|e| !matches!(e, NetEvent::Connected(_))));
    assert!(matches!(stranger.net.open(site(1), Protocol::Ledger).await, Err(OpenError::NotConnected(_))));
}

#[tokio::test]
async fn a_member_of_another_mesh_is_refused_by_name() {
    let (mut a, b) = (Site::start(1, MESH, TCP).await, Site::start(2, MeshId([4; 32]), TCP).await);
    admit_each_other(&[&a, &b]);
    assert_eq!(a.refused().await, (Some(site(2)), Refusal::WrongMesh));
    assert!(!a.net.is_connected(&site(2)));
}

#[tokio::test]
async fn who_is_no_longer_a_member_is_disconnected() {
    let (mut a, _b) = pair(TCP).await;
    a.net.admit([a.as_member()].into());
    a.until(|event| matches!(event, NetEvent::Disconnected(who) if who == site(2)).then_some(())).await;
    let refused = a.net.send_ledger(site(2), &Arc::from(&b"late"[..]));
    assert!(matches!(refused, Err(SendError::NotMember(who)) if who == site(2)));
    assert_eq!(a.refused().await, (Some(site(2)), Refusal::Stranger)); // it dials again
}

#[tokio::test]
async fn bad_gossip_is_refused_by_name_and_not_delivered() {
    let (a, mut b) = pair(TCP).await;
    publish(&a, Kind::Record, vec![1, 2, 3]).await;
    assert_eq!(b.refused().await, (Some(site(1)), Refusal::Malformed));
    publish(&a, Kind::Record, encode(&record(1, &MeshId([8; 32]), 1)).unwrap()).await;
    assert_eq!(b.refused().await, (Some(site(1)), Refusal::Forged));
    publish(&a, Kind::Record, encode(&record(7, &MESH, 1)).unwrap()).await;
    assert_eq!(b.refused().await, (Some(site(1)), Refusal::NotMember));
    publish(&a, Kind::Capacity, vec![0; 20_000]).await;
    assert_eq!(b.refused().await, (Some(site(1)), Refusal::Oversized));
}

#[tokio::test]
async fn a_replayed_capacity_is_refused() {
    let (a, mut b) = pair(TCP).await;
    for (sequence, fresh) in [(5, true), (6, true), (4, false)] {
        publish(&a, Kind::Capacity, encode(&capacity(1, sequence)).unwrap()).await;
        let outcome = b
            .until(|event| match event {
                NetEvent::Capacity(capacity) => Some(Ok(capacity.body.sequence)),
                NetEvent::Refused { what, .. } => Some(Err(what)),
                _ => None,
            })
            .await;
        assert_eq!(outcome, if fresh { Ok(sequence) } else { Err(Refusal::Replayed) });
    }
}

#[tokio::test]
async fn an_oversized_frame_is_refused_before_it_is_read() {
    let (a, mut b) = pair(TCP).await;
    let mut stream = soon(a.net.open(site(2), Protocol::Ledger)).await.unwrap();
    stream.write_u32(u32::MAX).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(b.refused().await, (Some(site(1)), Refusal::BadFrame));

    let stream = soon(a.net.open(site(2), Protocol::Word)).await.unwrap();
    let mut frames = tokio_util::codec::FramedWrite::new(stream, framing(100));
    frames.send(&b"no word"[..]).await.unwrap();
    assert_eq!(b.refused().await, (Some(site(1)), Refusal::Malformed));
}

#[tokio::test]
async fn a_peer_cannot_hold_more_than_its_share_of_streams() {
    let (a, b) = pair(QUIC).await;
    let mut held = Vec::new();
    let refused = loop {
        match soon(a.net.open(site(2), Protocol::Word)).await {
            Ok(stream) => held.push(stream),
            Err(error) => break error,
        }
        assert!(held.len() < 100);
    };
    assert!(matches!(refused, OpenError::Refused { .. }), "{refused}");
    assert_eq!(b.net.metrics().refused(Refusal::TooManyStreams), 1);
}

#[test]
fn a_site_that_returns_is_connected_anew_although_its_old_connection_seems_alive() {
    let steady = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut a = steady.block_on(Site::start(1, MESH, QUIC));
    let mut frozen = Vec::new();
    for life in 1..=2_u8 {
        // Outside of `block_on` nothing of this runtime moves: its sockets stay open and nobody says goodbye.
        let mortal = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let b = mortal.block_on(async {
            let mut b = Site::start(2, MESH, QUIC).await;
            admit_each_other(&[&a, &b]);
            b.connected(site(1)).await;
            if life > 1 {
                a.until(|event| matches!(event, NetEvent::Disconnected(who) if who == site(2)).then_some(())).await;
            }
            a.connected(site(2)).await;
            let hello: Arc<[u8]> = vec![life].into();
            b.net.send_ledger(site(1), &hello).unwrap();
            let ledger = |event| match event {
                NetEvent::Ledger { bytes, .. } => Some(bytes.to_vec()),
                _ => None,
            };
            assert_eq!(a.until(ledger).await, [life]);
            a.net.send_ledger(site(2), &hello).unwrap();
            assert_eq!(b.until(ledger).await, [life]);
            b
        });
        frozen.push((mortal, b));
    }
    assert_eq!(a.net.metrics().peers.get(), 1);
}

#[tokio::test]
async fn a_configured_address_without_a_name_is_enough_to_meet() {
    let mut a = Site::start(1, MESH, TCP).await;
    let config = NetConfig { key: key(2), mesh: MESH, listen: Vec::new(), peers: vec![a.address.clone()], mdns: false };
    let (net, _events) = Endpoint::start(config).unwrap();
    let nowhere = |seed| (site(seed), MemberInfo { role: Role::Member, addresses: Vec::new() });
    net.admit([nowhere(1), nowhere(2)].into());
    a.net.admit([nowhere(1), nowhere(2)].into());
    a.connected(site(2)).await;
}

fn measured(sequence: u64) -> Report {
    let signals = vec![Signal { site: site(1), dbm: Dbm(-60) }];
    Report { sequence, at: Time(sequence), signals: godwit_protocol::bounded::List::new(signals).unwrap() }
}

async fn site_for_clients() -> (Site, Vec<Multiaddr>) {
    let a = Site::start(1, MESH, TCP).await;
    a.net.admit([a.as_member()].into());
    a.net.admit_clients(vec![ClientId::from(key(5).verifying_key())]);
    let addresses = vec![a.address.clone()];
    (a, addresses)
}

#[tokio::test]
async fn a_client_reports_about_itself() {
    let (mut a, addresses) = site_for_clients().await;
    let mut client = soon(Client::connect(key(5), MESH, &addresses)).await.unwrap();
    assert_eq!(client.site(), site(1));
    assert_eq!(soon(client.report(measured(1))).await.unwrap(), Answer::Accepted);
    let report = a
        .until(|event| match event {
            NetEvent::Report(report) => Some(*report),
            _ => None,
        })
        .await;
    assert_eq!((report.author, &report.body), (ClientId::from(key(5).verifying_key()), &measured(1)));
}

#[tokio::test]
async fn a_clients_bad_reports_are_refused_by_name() {
    let (a, addresses) = site_for_clients().await;
    let mut client = soon(Client::connect(key(5), MESH, &addresses)).await.unwrap();
    let others = Signed::sign(&MESH, &key(6), measured(2)).unwrap().into_signed();
    assert_eq!(soon(client.send(&others)).await.unwrap(), Answer::Refused(Why::NotItsOwn));
    let elsewhere = Signed::sign(&MeshId([8; 32]), &key(5), measured(9)).unwrap().into_signed();
    assert_eq!(soon(client.send(&elsewhere)).await.unwrap(), Answer::Refused(Why::Forged));
    assert_eq!(soon(client.report(measured(2))).await.unwrap(), Answer::Accepted);
    assert_eq!(soon(client.report(measured(2))).await.unwrap(), Answer::Refused(Why::Replayed));
    for what in [Refusal::NotItsOwn, Refusal::Forged, Refusal::Replayed] {
        assert_eq!(a.net.metrics().refused(what), 1, "{what}");
    }
}

#[tokio::test]
async fn a_key_that_is_no_client_is_refused() {
    let (mut a, addresses) = site_for_clients().await;
    let refused = soon(Client::connect(key(6), MESH, &addresses)).await;
    assert!(refused.is_err());
    assert_eq!(a.refused().await, (Some(site(6)), Refusal::Stranger));
}

#[tokio::test]
async fn a_client_of_another_mesh_is_told_so() {
    let (_a, addresses) = site_for_clients().await;
    let refused = soon(Client::connect(key(5), MeshId([8; 32]), &addresses)).await.map(|_| ());
    let unsupported = matches!(&refused, Err(ConnectError::NotAdmitted { source: OpenError::Unsupported { .. }, .. }));
    assert!(unsupported, "{refused:?}");
}

#[tokio::test]
async fn a_client_gets_nothing_but_the_report_protocol() {
    let (a, _) = site_for_clients().await;
    // A whole site that runs under a client's key.
    let b = Site::start(5, MESH, TCP).await;
    b.net.admit([a.as_member(), b.as_member()].into());
    let peer = identity::peer_of(&site(1)).unwrap();
    for protocol in [Protocol::Ledger, Protocol::Word, Protocol::Pull] {
        let opened = soon(async {
            loop {
                match stream::open(&mut b.net.0.control.clone(), &MESH, site(1), peer, protocol).await {
                    // Not connected yet.
                    Err(OpenError::Io { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                    other => break other,
                }
            }
        });
        let opened = opened.await.map(|_| ());
        assert!(matches!(opened, Err(OpenError::Unsupported { .. })), "{opened:?}");
    }
    assert!(!a.net.is_connected(&site(5)));
}
