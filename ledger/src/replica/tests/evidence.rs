//! Validators that contradict themselves are noticed, and the mesh goes on without being led by them.

use godwit_protocol::evidence::Evidence;

use super::*;

fn say(mesh: &Mesh, by: u8, height: u64, kind: VoteKind, block: Option<u8>) -> LedgerMessage {
    let vote = Vote { kind, ..mesh.vote(by, height, block).body };
    let vote = Signed::sign(&mesh.state.mesh(), &key(by), vote).expect("small").into_signed();
    LedgerMessage::Vote { vote, eager: false }
}

fn hears(network: &mut Network, at: usize, from: u8, message: LedgerMessage) {
    network.input(at, Input::Message { from: site(from), message });
}

fn accused(network: &Network, at: usize) -> Vec<SiteId> {
    network.sites[at].accusations.iter().map(Evidence::culprit).collect()
}

#[test]
fn a_validator_that_votes_twice_is_accused_once_and_leads_no_more() {
    let (mut mesh, mut network) = network(4, Weather::FAIR, 9);
    submit(&mut mesh, &mut network, 4);
    for block in [None, Some(9), Some(8)] {
        let message = say(&mesh, 1, 1, VoteKind::Prevote, block);
        hears(&mut network, 0, 1, message);
    }
    assert!(network.run_until(Millis(5000), |network| all_know(network, 0..4, 1)));
    assert_eq!(accused(&network, 0), [site(1)], "once, however often it did it");
    let evidence = network.sites[0].accusations[0].clone();
    assert_eq!(evidence.verify(&mesh.state.mesh()), Ok(()));
    mesh.now = network.now();
    let record = mesh.sign(0, Message::Evidence(evidence));
    network.submit(0, record);
    assert!(network.run_until(Millis(5000), |network| (0..4).all(|at| network.state(at).is_suspended(&site(1)))));
    let from = network.chain(0).len();
    for n in (2..20).filter(|n| n % 4 != 1) {
        submit(&mut mesh, &mut network, n + 20);
        network.run(Millis(200));
    }
    let since = &network.chain(0)[from..];
    assert!(since.len() > 10 && since.iter().all(|committed| committed.block.header.proposer != site(1)));
    assert!(since.iter().all(|committed| committed.certificate.round == 0), "and no height waits for it");
}

#[test]
fn two_proposals_for_one_round_are_a_contradiction() {
    let (mut mesh, mut replica) = alone(0);
    let leader = (0..4).find(|n| site(*n) == mesh.state.validators()[0]).expect("one leads");
    if leader == 0 {
        replica = alone(1).1;
    }
    let propose = |mesh: &mut Mesh, n: u8| {
        let record = mesh.sign(leader, Message::Register(register(n)));
        let (block, _, _) = rules::build(&mesh.state, site(leader), mesh.now, [record]);
        let (height, hash) = (block.header.height, block.header.hash());
        let body = Proposal { height, round: 0, block: hash, polka: None, proposer: site(leader) };
        let proposal = Signed::sign(&mesh.state.mesh(), &key(leader), body).expect("small").into_signed();
        (hash, LedgerMessage::Proposal(Box::new(Proposed { proposal, block })))
    };
    let ((first, one), (_, other)) = (propose(&mut mesh, 1), propose(&mut mesh, 2));
    let mut effects = hear(&mesh, &mut replica, one);
    effects.extend(hear(&mesh, &mut replica, other));
    // The height is decided by the others' votes.
    for kind in [VoteKind::Prevote, VoteKind::Precommit] {
        for by in 0..4 {
            let body = Vote { kind, height: Height(1), round: 0, block: Some(first), validator: site(by) };
            let vote = Signed::sign(&mesh.state.mesh(), &key(by), body).expect("small").into_signed();
            effects.extend(hear(&mesh, &mut replica, LedgerMessage::Vote { vote, eager: false }));
        }
    }
    let accused = |effect: &Effect| match effect {
        Effect::Accuse(evidence) if matches!(**evidence, Evidence::Proposals(..)) => Some(evidence.culprit()),
        _ => None,
    };
    assert_eq!(effects.iter().filter_map(accused).collect::<Vec<_>>(), [site(leader)]);
}

#[test]
fn a_contradiction_that_comes_to_light_after_the_decision_is_seen_too() {
    let (mut mesh, mut network) = network(4, Weather::FAIR, 9);
    submit(&mut mesh, &mut network, 4);
    assert!(network.run_until(Millis(5000), |network| all_know(network, 0..4, 1)));
    network.run(Millis(100)); // the last precommits
    let late = |block| say(&mesh, 1, 1, VoteKind::Precommit, block);
    let mut forged = late(Some(9));
    if let LedgerMessage::Vote { vote, .. } = &mut forged {
        vote.signature.0[7] ^= 1;
    }
    for (from, message) in [(2, late(Some(9))), (1, forged)] {
        hears(&mut network, 0, from, message);
        assert_eq!(accused(&network, 0), [], "only what an author says and signs counts");
    }
    hears(&mut network, 0, 1, late(Some(9)));
    hears(&mut network, 0, 1, late(None));
    assert_eq!(accused(&network, 0), [site(1)]);
}
