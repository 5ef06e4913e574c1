//! The chain of validator sets as a light client follows it: from the genesis, by nothing but the blocks that changed it.
//!
//! ```text
//!  genesis ──► validators ──(they certify a block with a change)──► validators ──► ... ──► validators
//!                                                                      they certify any (header, certificate) since
//! ```
//!
//! No change can be skipped: each header carries the hash of the validators that decide its height, and they sign it.
//! Whoever leaves a link out, or puts in another, holds validators whose hash the next header does not carry.
//!
//! What a light client trusts:
//! - the genesis, whose hash is the mesh's id: compare that with somebody who has it from elsewhere;
//! - that no more than a third of any of these sets, also of those that have left, ever signs a false block. Old keys
//!   still sign: a set whose keys are stolen years later can forge what would have come instead. A validator that leaves
//!   destroys its key, and who has seen a block since then pins its hash (`godwit audit --checkpoint`);
//! - that the validators judged the records by the rules. It replays nothing; `audit` does.
//!
//! A change decided at a height acts from the next one on.

use godwit_protocol::bounded::List;
use godwit_protocol::evidence::Sentence;
use godwit_protocol::membership::{Change, Role};
use godwit_protocol::{Hash, MeshId, Message, SiteId};
use serde::{Deserialize, Serialize};

use crate::apply::sentence;
use crate::attested::{Attested, BadAttested};
use crate::block::{BadCertificate, Certificate, Committed, Header, Height, RULES, validators_hash};
use crate::genesis::{BadGenesis, Genesis};
use crate::state::State;

/// Changes of the validators in one lineage. At 4 validators a link has some 2 KB, at 31 some 8: so many fit into what the
/// codec takes.
pub const MAX_LINKS: usize = 512;

/// The sorted validators after a block with this record. A block has one at most that changes them.
///
/// This is all that a light client needs to know of the rules: whatever new record changes the validators is added here,
/// and replicas and light clients both follow.
#[must_use]
pub fn after(validators: &[SiteId], message: &Message) -> Vec<SiteId> {
    match message {
        Message::Membership(membership) => elect(validators, &membership.proposal.change),
        Message::Evidence(evidence) => match sentence(validators, &evidence.culprit()) {
            Sentence::Removed => elect(validators, &Change::Remove(evidence.culprit())),
            Sentence::Suspended => validators.to_vec(),
        },
        Message::Register(_)
        | Message::Retire(_)
        | Message::Offer(_)
        | Message::Bid(_)
        | Message::Decline(_)
        | Message::Ready(_)
        | Message::Receipt(_)
        | Message::Abort(_)
        | Message::Done(_)
        | Message::Reclaim(_) => validators.to_vec(),
    }
}

/// The sorted validators after a change of the membership.
#[must_use]
pub(crate) fn elect(validators: &[SiteId], change: &Change) -> Vec<SiteId> {
    let mut elected = validators.to_vec();
    let (leaves, joins) = match change {
        Change::Put(member) if member.role == Role::Validator => (None, Some(member.site)),
        Change::Put(member) => (Some(member.site), None),
        Change::Remove(site) => (Some(*site), None),
        Change::Rotate(rotation) if validators.contains(&rotation.body.old) => {
            (Some(rotation.body.old), Some(rotation.author))
        }
        Change::Rotate(_) => (None, None),
    };
    elected.retain(|site| Some(*site) != leaves);
    if let Some(site) = joins
        && let Err(seat) = elected.binary_search(&site)
    {
        elected.insert(seat, site);
    }
    elected
}

/// The link that a block adds, if the validators `after` it, by their hash, are others than those who decided it.
#[must_use]
pub fn link(committed: &Committed, after: Hash) -> Option<Attested> {
    let block = &committed.block;
    if block.header.validators == after {
        return None;
    }
    let turns = |message: &Message| matches!(message, Message::Membership(_) | Message::Evidence(_));
    let index = block.records.iter().position(|record| turns(&record.body.message))?;
    Attested::of(committed, index)
}

/// Who decides the heights after some height, until the next change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    mesh: MeshId,
    /// The height that made them so; 0 for the genesis.
    since: Height,
    /// Sorted.
    sites: Vec<SiteId>,
}

/// Why a header proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// What its fields mean is not known here.
    #[error("it follows version {0} of the rules; this is version {RULES}")]
    Rules(u16),
    /// It is another mesh's.
    #[error("it belongs to mesh {0}")]
    Mesh(MeshId),
    /// Others decided its height.
    #[error("it has height {got}, and the validators known decide those after {since}")]
    Height {
        /// The height that made the validators.
        since: Height,
        /// The header's.
        got: Height,
    },
    /// A change is missing, or is not what the mesh decided.
    #[error("it names validators {got}, those known are {want}: a change of the validators is missing or wrong")]
    Validators {
        /// The hash of those that are known.
        want: Hash,
        /// What the header carries.
        got: Hash,
    },
    /// They did not sign it.
    #[error("its certificate proves nothing")]
    Certificate(#[source] BadCertificate),
}

/// Why a link leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLink {
    /// Its record was not decided.
    #[error(transparent)]
    Record(#[from] BadAttested),
    /// Its record leaves the validators as they are.
    #[error("its record does not change the validators")]
    Idle,
}

/// Why a lineage leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLineage {
    /// It begins with no mesh.
    #[error("the genesis founds no mesh")]
    Genesis(#[source] BadGenesis),
    /// The first link that is wrong.
    #[error("change {index} of the validators, at height {height}")]
    Link {
        /// Its place, from 1.
        index: usize,
        /// The height it claims.
        height: Height,
        /// What is wrong with it.
        #[source]
        source: BadLink,
    },
}

impl Validators {
    /// Who decides the first blocks.
    ///
    /// # Errors
    /// [`BadGenesis`] if the genesis founds no mesh.
    pub fn founding(genesis: &Genesis) -> Result<Self, BadGenesis> {
        genesis.check()?;
        let votes = genesis.members.iter().filter(|member| member.role == Role::Validator);
        Ok(Self { mesh: genesis.mesh(), since: Height(0), sites: votes.map(|member| member.site).collect() })
    }

    /// Who decides the heights after a state's, for whoever has followed the ledger to it.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self { mesh: state.mesh(), since: state.height(), sites: state.validators().to_vec() }
    }

    /// The mesh.
    #[must_use]
    pub const fn mesh(&self) -> MeshId {
        self.mesh
    }

    /// The height that made them so: they decide those after it.
    #[must_use]
    pub const fn since(&self) -> Height {
        self.since
    }

    /// Their keys, sorted.
    #[must_use]
    pub fn sites(&self) -> &[SiteId] {
        &self.sites
    }

    /// Whether they decided on this header.
    ///
    /// # Errors
    /// [`Undecided`] says what is wrong.
    pub fn check(&self, header: &Header, certificate: &Certificate) -> Result<(), Undecided> {
        if header.rules != RULES {
            return Err(Undecided::Rules(header.rules));
        }
        if header.mesh != self.mesh {
            return Err(Undecided::Mesh(header.mesh));
        }
        if header.height <= self.since {
            return Err(Undecided::Height { since: self.since, got: header.height });
        }
        let want = validators_hash(&self.sites);
        if header.validators != want {
            return Err(Undecided::Validators { want, got: header.validators });
        }
        certificate.check(header, &self.sites).map_err(Undecided::Certificate)
    }

    /// Who decides the heights after a link, which these validators decided.
    ///
    /// # Errors
    /// [`BadLink`] says what is wrong with it.
    pub fn follow(&self, link: &Attested) -> Result<Self, BadLink> {
        let (_, record) = link.check(self)?;
        let sites = after(&self.sites, &record.body.message);
        if sites == self.sites {
            return Err(BadLink::Idle);
        }
        Ok(Self { mesh: self.mesh, since: link.header.height, sites })
    }
}

/// Every change of the validators, from the genesis to some height.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lineage {
    /// One link for each, by height.
    pub links: List<Attested, MAX_LINKS>,
}

impl Lineage {
    /// The validators to which it leads.
    ///
    /// # Errors
    /// [`BadLineage`] names the first link that is wrong.
    pub fn follow(&self, genesis: &Genesis) -> Result<Validators, BadLineage> {
        let mut validators = Validators::founding(genesis).map_err(BadLineage::Genesis)?;
        for (index, link) in (1..).zip(self.links.iter()) {
            let height = link.header.height;
            validators = validators.follow(link).map_err(|source| BadLineage::Link { index, height, source })?;
        }
        Ok(validators)
    }
}

#[cfg(test)]
mod tests {
    use godwit_protocol::bounded::Text;
    use godwit_protocol::membership::Member;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Mesh, member, register, site};

    /// Site 0 stays, since it builds the blocks.
    const SITES: u8 = 9;

    /// Commits a change with the approval and the votes of all validators.
    fn decide(mesh: &mut Mesh, change: Change) {
        let validators: Vec<u8> = (0..SITES).filter(|n| mesh.state.validators().contains(&site(*n))).collect();
        let record = mesh.membership(mesh.state.membership_epoch(), change, &validators);
        mesh.signers = validators;
        mesh.say(0, record);
        mesh.signers = (0..SITES).filter(|n| mesh.state.validators().contains(&site(*n))).collect();
    }

    /// All changes of the validators in a chain.
    fn lineage(mesh: &Mesh) -> Vec<Attested> {
        let mut validators = Validators::founding(&mesh.genesis).expect("a genesis").sites;
        let mut links = Vec::new();
        for committed in &mesh.chain {
            for record in committed.block.records.iter() {
                validators = after(&validators, &record.body.message);
            }
            links.extend(link(committed, validators_hash(&validators)));
        }
        links
    }

    fn follow(mesh: &Mesh, links: Vec<Attested>) -> Result<Validators, BadLineage> {
        Lineage { links: List::new(links).expect("few") }.follow(&mesh.genesis)
    }

    /// A site joins, a member is renamed, one leaves, one stops voting.
    fn changed() -> Mesh {
        let mut mesh = Mesh::new();
        mesh.say(0, Message::Register(register(1)));
        decide(&mut mesh, Change::Put(member(4, Role::Validator)));
        mesh.say(0, Message::Register(register(2)));
        decide(&mut mesh, Change::Put(Member { name: Text::clipped("faro"), ..member(5, Role::Observer) }));
        decide(&mut mesh, Change::Remove(site(3)));
        decide(&mut mesh, Change::Put(member(1, Role::Member)));
        mesh.say(0, Message::Register(register(3)));
        mesh
    }

    #[test]
    fn a_lineage_leads_to_the_validators_and_they_certify_what_came_since() {
        let mesh = changed();
        let links = lineage(&mesh);
        assert_eq!(links.iter().map(|link| link.header.height.0).collect::<Vec<_>>(), [2, 5, 6]);
        let validators = follow(&mesh, links.clone()).expect("a lineage");
        assert_eq!(validators.sites(), mesh.state.validators());
        assert_eq!((validators.since(), validators.mesh()), (Height(6), mesh.state.mesh()));
        for committed in &mesh.chain {
            let header = &committed.block.header;
            let until: Vec<_> = links.iter().filter(|link| link.header.height < header.height).cloned().collect();
            let validators = follow(&mesh, until).expect("a lineage");
            assert_eq!(validators.check(header, &committed.certificate), Ok(()), "block {}", header.height);
        }
    }

    #[test]
    fn a_punishment_and_a_new_key_are_links_and_a_suspension_is_none() {
        let mut mesh = Mesh::new();
        let accused = mesh.accuse(2, 1);
        mesh.say(0, accused);
        assert_eq!(lineage(&mesh), [], "one of four keeps its vote");
        decide(&mut mesh, Change::Put(member(4, Role::Validator)));
        let rotation = mesh.rotation(4, 7);
        decide(&mut mesh, rotation);
        let accused = mesh.accuse(1, 2);
        mesh.say(0, accused);
        mesh.signers = (0..SITES).filter(|n| mesh.state.validators().contains(&site(*n))).collect();
        mesh.say(0, Message::Register(register(1)));
        let links = lineage(&mesh);
        assert_eq!(
            links.iter().map(|link| link.record.body.message.name()).collect::<Vec<_>>(),
            ["membership", "membership", "evidence"]
        );
        let validators = follow(&mesh, links).expect("a lineage");
        assert_eq!(validators.sites(), mesh.state.validators());
        assert!(validators.sites().contains(&site(7)) && !validators.sites().contains(&site(1)));
    }

    #[test]
    fn a_missing_link_shows_at_the_next_one_or_at_the_header() {
        let mesh = changed();
        let links = lineage(&mesh);
        let without = |index: usize| {
            let mut links = links.clone();
            links.remove(index);
            follow(&mesh, links)
        };
        for index in 0..2 {
            let BadLineage::Link { index: at, source, .. } = without(index).expect_err("a gap") else { panic!() };
            let BadLink::Record(BadAttested::Undecided(Undecided::Validators { .. })) = source else {
                panic!("{source:?}");
            };
            assert_eq!(at, index + 1);
        }
        let last = mesh.chain.last().expect("a block");
        let behind = without(2).expect("what is there holds");
        assert!(matches!(behind.check(&last.block.header, &last.certificate), Err(Undecided::Validators { .. })));
    }

    #[test]
    fn what_is_no_change_of_the_validators_is_no_link() {
        let mesh = changed();
        let bad = |index: usize, link: Attested| {
            let mut links = lineage(&mesh);
            links.insert(index, link);
            let Err(BadLineage::Link { index: at, source, .. }) = follow(&mesh, links) else { panic!("it passes") };
            assert_eq!(at, index + 1);
            source
        };
        let record = |height: usize| Attested::of(&mesh.chain[height - 1], 0).expect("a record");
        assert_eq!(bad(0, record(1)), BadLink::Idle, "a container");
        assert_eq!(bad(1, record(4)), BadLink::Idle, "an observer's name");
        // Twice the same: its validators are not those any more, and its height has passed.
        let since = Height(2);
        let twice = BadAttested::Undecided(Undecided::Height { since, got: since });
        assert_eq!(bad(1, record(2)), BadLink::Record(twice));
        let mut forged = record(2);
        forged.certificate.signatures = List::first(forged.certificate.signatures.iter().take(2).copied());
        let BadLink::Record(BadAttested::Undecided(Undecided::Certificate(few))) = bad(0, forged) else { panic!() };
        assert_eq!(few, BadCertificate::TooFew { votes: 2, of: 4 });
    }

    #[test]
    fn a_header_of_another_mesh_height_or_version_is_refused() {
        let mesh = changed();
        let validators = follow(&mesh, lineage(&mesh)).expect("a lineage");
        let last = mesh.chain.last().expect("a block");
        let bent = |bend: fn(&mut Header)| {
            let mut header = last.block.header.clone();
            bend(&mut header);
            validators.check(&header, &last.certificate).expect_err("bent")
        };
        assert_eq!(bent(|header| header.rules += 1), Undecided::Rules(RULES + 1));
        assert_eq!(bent(|header| header.mesh = MeshId([9; 32])), Undecided::Mesh(MeshId([9; 32])));
        let early = Undecided::Height { since: Height(6), got: Height(6) };
        assert_eq!(bent(|header| header.height = Height(6)), early);
        assert!(matches!(bent(|header| header.records = Hash::ZERO), Undecided::Certificate(_)));
    }

    /// What one decided block does.
    fn arb_change() -> impl Strategy<Value = Change> {
        let role = prop_oneof![Just(Role::Validator), Just(Role::Member), Just(Role::Observer)];
        prop_oneof![
            3 => (1..SITES, role).prop_map(|(n, role)| Change::Put(member(n, role))),
            1 => (1..SITES).prop_map(|n| Change::Remove(site(n))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_light_client_knows_the_validators_that_the_replicas_know(
            changes in prop::collection::vec(arb_change(), 1..12),
            dropped in any::<prop::sample::Index>(),
        ) {
            let mut mesh = Mesh::new();
            for change in changes {
                // What the rules refuse changes nothing, and is not decided.
                let known = |site: &SiteId| mesh.state.member(site);
                let idle = match &change {
                    Change::Put(member) => known(&member.site) == Some(member),
                    Change::Remove(site) => known(site).is_none(),
                    Change::Rotate(_) => false,
                };
                if !idle {
                    decide(&mut mesh, change);
                }
            }
            mesh.say(0, Message::Register(register(1)));
            let links = lineage(&mesh);
            let validators = follow(&mesh, links.clone()).expect("a lineage");
            prop_assert_eq!(validators.sites(), mesh.state.validators());
            let last = mesh.chain.last().expect("a block");
            prop_assert_eq!(validators.check(&last.block.header, &last.certificate), Ok(()));
            if !links.is_empty() {
                let mut short = links;
                short.remove(dropped.index(short.len()));
                let fooled = follow(&mesh, short).is_ok_and(|validators| {
                    validators.sites() != mesh.state.validators()
                        && validators.check(&last.block.header, &last.certificate).is_ok()
                });
                prop_assert!(!fooled);
            }
        }
    }
}
