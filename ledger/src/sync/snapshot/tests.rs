//! The download of a snapshot.

use godwit_protocol::Message;
use godwit_protocol::membership::{Change, Role};

use super::*;
use crate::lineage::link;
use crate::testing::{Mesh, member, register, site};

const A: SiteId = SiteId([1; 32]);
const B: SiteId = SiteId([2; 32]);

/// A mesh whose validators change, and what the last block's state is offered as.
fn offered() -> (Mesh, Offer, Vec<Vec<u8>>) {
    let mut mesh = Mesh::new();
    let mut links = Vec::new();
    for (epoch, change, signers) in
        [(0, Change::Put(member(4, Role::Validator)), vec![0, 1, 2]), (1, Change::Remove(site(3)), vec![0, 1, 2, 4])]
    {
        let record = mesh.membership(epoch, change, &signers);
        mesh.signers = signers;
        mesh.say(0, record);
        links.extend(link(mesh.chain.last().expect("a block"), mesh.state.validators_hash()));
    }
    assert_eq!(links.len(), 2);
    mesh.signers = vec![0, 1, 4];
    mesh.say(0, Message::Register(register(1)));
    let chunks = mesh.state.chunks();
    let last = mesh.chain.last().expect("a block").clone();
    let offer = Offer {
        header: last.block.header,
        certificate: last.certificate,
        lineage: Lineage { links: List::first(links) },
        chunks: List::first(chunks.iter().map(|chunk| chunk_hash(chunk))),
    };
    (mesh, offer, chunks)
}

fn begun(download: &mut Download, offer: &Offer, state: &State, sites: &[SiteId]) {
    assert_eq!(download.search(sites, Time(0)), sites);
    for (place, site) in sites.iter().enumerate() {
        let outcome = download.offered(*site, Some(offer.clone()), state, Time(1)).expect("it holds");
        assert_eq!(matches!(outcome, Offered::Begun(_)), place == 0);
    }
}

#[test]
fn an_offer_is_believed_if_the_sites_own_state_leads_to_its_validators() {
    let (mesh, offer, _) = offered();
    let founding = State::genesis(&mesh.genesis);
    assert_eq!(offer.check(&founding), Ok(()));
    let bent = |bend: &dyn Fn(&mut Offer)| {
        let mut bent = offer.clone();
        bend(&mut bent);
        bent.check(&founding).expect_err("bent")
    };
    assert_eq!(bent(&|offer| offer.chunks = List::default()), BadOffer::Empty);
    assert!(matches!(bent(&|offer| offer.header.state = Hash::ZERO), BadOffer::Undecided(Undecided::Certificate(_))));
    assert!(matches!(
        bent(&|offer| offer.lineage = Lineage::default()),
        BadOffer::Undecided(Undecided::Validators { .. })
    ));
    let second = |offer: &mut Offer| offer.lineage.links = List::first(offer.lineage.links.iter().skip(1).cloned());
    assert!(matches!(bent(&second), BadOffer::Link { height: Height(2), .. }));
    assert_eq!(offer.check(&mesh.state), Err(BadOffer::Behind(Height(3))), "it has that already");
}

#[test]
fn chunks_come_from_all_who_offer_the_same_and_lead_to_the_state() {
    let (mesh, mut offer, mut chunks) = offered();
    // More of them than there are, so that there is something to share out.
    chunks.extend([vec![1], vec![2], vec![3]]);
    offer.chunks = List::first(chunks.iter().map(|chunk| chunk_hash(chunk)));
    let founding = State::genesis(&mesh.genesis);
    let mut download = Download::default();
    begun(&mut download, &offer, &founding, &[A, B]);
    let height = offer.header.height;
    assert_eq!(download.ask(Time(2)), [(A, height, 0), (B, height, 1)]);
    assert_eq!(download.ask(Time(3)), [], "one at a time");
    assert_eq!(download.arrived(&A, height, 1, chunks[1].clone()), Arrived::Unasked, "B was asked for that");
    for (index, chunk) in (0_u32..).zip(&chunks) {
        let site = if index % 2 == 0 { A } else { B };
        assert!(download.whole().is_none());
        assert_eq!(download.arrived(&site, height, index, chunk.clone()), Arrived::Here(chunk.clone()));
        download.ask(Time(4));
    }
    let whole = download.whole().expect("all are here");
    assert_eq!((whole.chunks, whole.sources), (chunks, vec![A, B]));
    assert!(!download.is_under_way() && download.next_at().is_none());
}

#[test]
fn a_chunk_with_another_hash_ends_its_senders_part_in_it() {
    let (mesh, offer, chunks) = offered();
    let founding = State::genesis(&mesh.genesis);
    let mut download = Download::default();
    begun(&mut download, &offer, &founding, &[A, B]);
    let height = offer.header.height;
    assert_eq!(download.ask(Time(2))[0], (A, height, 0));
    assert_eq!(download.arrived(&A, height, 0, vec![9]), Arrived::Rubbish);
    assert_eq!(download.arrived(&A, height, 0, chunks[0].clone()), Arrived::Unasked);
    assert_eq!(download.arrived(&B, height, 1, chunks[1].clone()), Arrived::Here(chunks[1].clone()));
    assert_eq!(download.ask(Time(3)), [(B, height, 0)]);
    assert_eq!(download.arrived(&B, height, 0, chunks[0].clone()), Arrived::Here(chunks[0].clone()));
    assert!(download.whole().is_some());
}

#[test]
fn a_download_goes_on_after_a_restart_with_what_is_on_disk() {
    let (mesh, offer, chunks) = offered();
    let founding = State::genesis(&mesh.genesis);
    let rotten = (1, vec![7]);
    let kept = Kept { offer: offer.clone(), chunks: BTreeMap::from([(0, chunks[0].clone()), rotten]) };
    let mut download = Download::resume(kept);
    assert!(!download.is_under_way(), "somebody has to be found first");
    assert_eq!(download.search(&[A], Time(0)), [A]);
    let joined = download.offered(A, Some(offer.clone()), &founding, Time(1));
    assert_eq!(joined, Ok(Offered::Joined));
    assert_eq!(download.ask(Time(2)), [(A, offer.header.height, 1)], "the first is here");
}

#[test]
fn what_is_here_of_an_older_snapshot_serves_for_a_newer_one() {
    let (mut mesh, offer, chunks) = offered();
    let founding = State::genesis(&mesh.genesis);
    let mut download = Download::resume(Kept { offer, chunks: (0..).zip(chunks).collect() });
    mesh.say(0, Message::Register(register(2)));
    let last = mesh.chain.last().expect("a block").clone();
    let (_, older, _) = offered();
    let newer = Offer {
        header: last.block.header,
        certificate: last.certificate,
        // Its first chunk is the one that was the second.
        chunks: List::first([older.chunks[1], Hash::ZERO]),
        lineage: older.lineage,
    };
    download.search(&[A], Time(0));
    let begun = download.offered(A, Some(newer.clone()), &founding, Time(1)).expect("it holds");
    assert_eq!(begun, Offered::Begun(Box::new(newer.clone())));
    assert_eq!(download.known().map(|(index, _)| index).collect::<Vec<_>>(), [0]);
    assert_eq!(download.ask(Time(2)), [(A, newer.header.height, 1)]);
}

#[test]
fn without_a_snapshot_anywhere_blocks_are_fetched_for_a_while() {
    let (mesh, offer, _) = offered();
    let founding = State::genesis(&mesh.genesis);
    let mut download = Download::default();
    assert_eq!(download.search(&[A, B], Time(0)), [A, B]);
    assert_eq!(download.search(&[A, B], Time(1)), [], "both are asked");
    assert_eq!(download.offered(A, None, &founding, Time(2)), Ok(Offered::Ignored));
    assert!(download.is_under_way(), "B has not said no");
    assert_eq!(download.ask(Time(0).after(ANSWER)), []);
    assert!(!download.is_under_way());
    let again = Time(0).after(ANSWER).after(RETRY);
    assert_eq!((download.search(&[A], Time(again.0 - 1)), download.again_at(Time(0))), (vec![], again));
    assert_eq!(download.search(&[A], again), [A]);
    assert_eq!(download.offered(B, Some(offer), &founding, again), Ok(Offered::Ignored), "nobody asked it");
}

#[test]
fn who_has_the_chunk_no_more_or_is_silent_is_replaced() {
    let (mesh, offer, chunks) = offered();
    let founding = State::genesis(&mesh.genesis);
    let mut download = Download::default();
    begun(&mut download, &offer, &founding, &[A, B]);
    let height = offer.header.height;
    download.ask(Time(2));
    assert_eq!(download.arrived(&A, height, 0, Vec::new()), Arrived::Gone);
    assert_eq!(download.next_at(), Some(Time(2).after(ANSWER)));
    assert_eq!(download.ask(Time(2).after(ANSWER)), []);
    assert!(!download.is_under_way(), "nobody is left; somebody else may offer the same");
    let now = Time(2).after(ANSWER);
    assert_eq!(download.search(&[A], now), [A]);
    assert_eq!(download.offered(A, Some(offer), &founding, now), Ok(Offered::Joined));
    assert_eq!(download.ask(now).len(), 1);
    assert_eq!(download.arrived(&A, height, 0, chunks[0].clone()), Arrived::Here(chunks[0].clone()));
}
