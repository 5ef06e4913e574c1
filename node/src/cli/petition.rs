//! A change of the membership on its way: a file that travels between operators and gathers their approvals.

use std::collections::BTreeMap;

use godwit_ledger::block::is_quorum;
use godwit_protocol::bounded::List;
use godwit_protocol::membership::{Change, MAX_VALIDATORS, Member, Membership, Proposal, Role};
use godwit_protocol::{MeshId, Signed, SiteId};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::found::read_text;
use crate::api::view::{MembersView, SiteView};

/// Blocks by which a site may be behind without being told of: what it fetches in one go.
const BEHIND: u64 = 64;

/// What operators hand to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Petition {
    /// For people. What counts is the proposal, and whoever approves it is told in words what that says.
    pub what: String,
    /// The mesh.
    pub mesh: MeshId,
    /// What validators sign.
    pub proposal: Proposal,
    /// Who has signed it.
    pub approvals: Vec<Signed<Proposal>>,
}

impl Petition {
    /// Reads files, or `-` for standard input, that all hold the same proposal; its approvals together.
    pub fn read(sources: &[String]) -> Result<Self, Failure> {
        let mut found: Option<Self> = None;
        for source in sources {
            for petition in serde_json::Deserializer::from_str(&read_text(source)?).into_iter() {
                let petition: Self = petition.map_err(|error| bad(source, error.to_string()))?;
                match &mut found {
                    None => found = Some(petition),
                    Some(known) if (known.mesh, &known.proposal) == (petition.mesh, &petition.proposal) => {
                        known.approvals.extend(petition.approvals);
                    }
                    Some(_) => return Err(bad(source, "it is about another change, or of another epoch".to_owned())),
                }
            }
        }
        let mut petition = found.ok_or_else(|| bad("FILE", "there is no proposal in it".to_owned()))?;
        // A copy that went round twice brings an approval twice, which the ledger would refuse.
        let approvals: BTreeMap<SiteId, Signed<Proposal>> =
            petition.approvals.into_iter().map(|approval| (approval.author, approval)).collect();
        petition.approvals = approvals.into_values().collect();
        Ok(petition)
    }

    /// As a record.
    pub fn membership(self) -> Result<Membership, Failure> {
        let approvals = List::new(self.approvals).map_err(|long| bad("FILE", long.to_string()))?;
        Ok(Membership { proposal: self.proposal, approvals })
    }
}

/// What a change leads to, as the asked site sees the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The change in words.
    pub what: String,
    /// Why the mesh could not go on after it.
    pub fatal: Option<String>,
    /// What an operator should know before.
    pub warnings: Vec<String>,
}

impl Outlook {
    /// Of a change to these members, whose sites are seen like this.
    pub fn of(change: &Change, members: &[Member], sites: &[SiteView]) -> Self {
        let name = |site: &SiteId| {
            let member = members.iter().find(|member| member.site == *site);
            member.map_or_else(|| site.short(), |member| format!("{} ({})", member.name, site.short()))
        };
        let known = |site: &SiteId| members.iter().find(|member| member.site == *site);
        let mut after: Vec<SiteId> =
            members.iter().filter(|member| member.role == Role::Validator).map(|member| member.site).collect();
        let (before, mut warnings) = (after.len(), Vec::new());
        let said = match change {
            Change::Put(member) => {
                after.retain(|site| *site != member.site);
                if member.role == Role::Validator {
                    after.push(member.site);
                    warnings.extend(not_caught_up(member, sites));
                }
                let (who, role) = (format!("{} ({})", member.name, member.site.short()), role(member.role));
                match known(&member.site) {
                    None => format!("admit {who} as {role}"),
                    Some(now) if now.role != member.role => format!("make {who}, now {}, {role}", self::role(now.role)),
                    Some(now) if now == member => format!("put {who} back in all its rights as {role}"),
                    Some(_) => format!("change the name or the addresses of {who}"),
                }
            }
            Change::Remove(site) => {
                after.retain(|validator| validator != site);
                format!("let {} go: it leaves the mesh with all its rights", name(site))
            }
            Change::Rotate(rotation) => {
                let (old, new) = (rotation.body.old, rotation.author);
                for validator in after.iter_mut().filter(|validator| **validator == old) {
                    *validator = new;
                }
                format!("let {} go on under the new key {}", name(&old), new.short())
            }
        };
        // A new key connects once it is in force, as the site that has it does now.
        let is_there = |site: &SiteId| {
            let seen = match change {
                Change::Rotate(rotation) if rotation.author == *site => rotation.body.old,
                _ => *site,
            };
            sites.iter().any(|view| view.site == seen && (view.local || view.connected))
        };
        let present = after.iter().filter(|site| is_there(site)).count();
        let validators = match after.len() {
            now if now == before => String::new(),
            now => format!("; then {now} validate, of which {} must agree", now * 2 / 3 + 1),
        };
        if matches!(after.len(), 2 | 3) && after.len() < before {
            warnings.push(format!("{} validators go on only while all of them are up", after.len()));
        }
        Self { what: said + &validators, fatal: fatal(after.len(), present), warnings }
    }
}

fn fatal(validators: usize, present: usize) -> Option<String> {
    if validators == 0 {
        return Some("it leaves nobody to decide".to_owned());
    }
    if validators > MAX_VALIDATORS {
        return Some(format!("it makes {validators} validators; there may be {MAX_VALIDATORS}"));
    }
    (!is_quorum(present, validators)).then(|| {
        format!(
            "of the {validators} that would validate, this site sees {present}: too few to decide anything after it"
        )
    })
}

fn not_caught_up(member: &Member, sites: &[SiteView]) -> Option<String> {
    let here = sites.iter().find(|view| view.local)?.height?;
    let name = &member.name;
    match sites.iter().find(|view| view.site == member.site) {
        None => Some(format!("{name} has no copy of the ledger yet: admit it as member first, then promote it")),
        Some(view) if !view.connected && !view.local => Some(format!("{name} is not connected to this site")),
        Some(SiteView { height: None, .. }) => {
            Some(format!("{name} has not said yet how far its copy of the ledger is"))
        }
        Some(SiteView { height: Some(height), .. }) if height + BEHIND < here => {
            Some(format!("{name} has not caught up: it is at block {height}, this site at {here}"))
        }
        Some(_) => None,
    }
}

/// A role with its article.
fn role(role: Role) -> &'static str {
    match role {
        Role::Validator => "a validator",
        Role::Member => "a member",
        Role::Observer => "an observer",
    }
}

/// The member of this name, or whose id begins so.
pub fn named(members: &MembersView, name: &str) -> Result<Member, Failure> {
    let fits = |site: &SiteId| site.to_string().starts_with(name);
    let by_name: Vec<_> = members.members.iter().filter(|member| member.name.as_str() == name).collect();
    let found =
        if by_name.is_empty() { members.members.iter().filter(|member| fits(&member.site)).collect() } else { by_name };
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(bad(name, "no member has this name or an id that begins so".to_owned())),
        _ => Err(bad(name, "it fits several members: give more of the id".to_owned())),
    }
}

pub fn bad(what: &str, reason: String) -> Failure {
    let remedy = "`godwit member --help` shows how a change is proposed, approved and submitted".to_owned();
    Failure::Input { what: what.chars().take(80).collect(), reason, remedy }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use godwit_protocol::bounded::Text;
    use godwit_protocol::membership::Rotation;

    use super::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn member(n: u8, role: Role) -> Member {
        let site = key(n).verifying_key().into();
        Member { site, role, name: Text::clipped(&format!("site-{n}")), addresses: List::default() }
    }

    fn seen(n: u8, connected: bool, height: Option<u64>) -> SiteView {
        SiteView {
            site: key(n).verifying_key().into(),
            name: String::new(),
            role: Role::Validator,
            local: n == 1,
            connected: n == 1 || connected,
            containers: 0,
            height,
            capacity: None,
        }
    }

    /// Four validators and a member, all seen and at block 1,000.
    fn mesh() -> (Vec<Member>, Vec<SiteView>) {
        let members = (1..=5).map(|n| member(n, if n < 5 { Role::Validator } else { Role::Member }));
        (members.collect(), (1..=5).map(|n| seen(n, true, Some(1_000))).collect())
    }

    fn outlook(change: Change, bend: impl FnOnce(&mut Vec<SiteView>)) -> Outlook {
        let (members, mut sites) = mesh();
        bend(&mut sites);
        Outlook::of(&change, &members, &sites)
    }

    #[test]
    fn a_change_is_told_in_words() {
        let site = |n: u8| member(n, Role::Member).site.short();
        let rotation = Rotation { old: member(2, Role::Validator).site };
        let rotation = Signed::sign(&MeshId([1; 32]), &key(9), rotation).unwrap().into_signed();
        for (change, words) in [
            (Change::Put(member(7, Role::Observer)), format!("admit site-7 ({}) as an observer", site(7))),
            (
                Change::Put(member(5, Role::Validator)),
                format!("make site-5 ({}), now a member, a validator; then 5 validate, of which 4 must agree", site(5)),
            ),
            (
                Change::Put(member(4, Role::Validator)),
                format!("put site-4 ({}) back in all its rights as a validator", site(4)),
            ),
            (
                Change::Remove(member(4, Role::Validator).site),
                format!(
                    "let site-4 ({}) go: it leaves the mesh with all its rights; then 3 validate, of which 3 must agree",
                    site(4)
                ),
            ),
            (Change::Rotate(rotation), format!("let site-2 ({}) go on under the new key {}", site(2), site(9))),
        ] {
            let outlook = outlook(change, |_| {});
            assert_eq!((outlook.what.as_str(), outlook.fatal), (words.as_str(), None));
        }
    }

    #[test]
    fn a_change_after_which_too_few_are_there_is_fatal() {
        let promote = Change::Put(member(5, Role::Validator));
        assert_eq!(outlook(promote.clone(), |sites| sites[3].connected = false).fatal, None);
        let two_away = |sites: &mut Vec<SiteView>| (sites[2].connected, sites[3].connected) = (false, false);
        assert!(
            outlook(promote, two_away)
                .fatal
                .expect("3 of 5")
                .contains("of the 5 that would validate, this site sees 3")
        );
        let gone = Change::Remove(member(2, Role::Validator).site);
        assert!(outlook(gone.clone(), |sites| sites[3].connected = false).fatal.is_some(), "2 of 3");
        let calm = outlook(gone, |_| {});
        assert!(calm.fatal.is_none() && calm.warnings[0].contains("only while all of them are up"));
        assert_eq!(fatal(0, 0).as_deref(), Some("it leaves nobody to decide"));
        assert!(fatal(32, 32).is_some() && fatal(31, 21).is_none());
    }

    #[test]
    fn a_promotion_of_who_has_not_caught_up_is_warned_of() {
        let promote = || Change::Put(member(5, Role::Validator));
        let warning = |bend: fn(&mut Vec<SiteView>)| outlook(promote(), bend).warnings.concat();
        assert_eq!(warning(|_| {}), "");
        assert_eq!(warning(|sites| sites[4].height = Some(936)), "");
        assert!(warning(|sites| sites[4].height = Some(935)).contains("at block 935, this site at 1000"));
        assert!(warning(|sites| sites[4].height = None).contains("has not said yet"));
        assert!(warning(|sites| sites[4].connected = false).contains("not connected"));
        assert!(warning(|sites| sites.truncate(4)).contains("admit it as member first"));
    }

    #[test]
    fn copies_of_a_petition_come_together_with_each_approval_once() {
        let folder = tempfile::tempdir().unwrap();
        let mesh = MeshId([1; 32]);
        let proposal = Proposal { epoch: 3, change: Change::Remove(member(4, Role::Validator).site) };
        let approve = |n: u8| Signed::sign(&mesh, &key(n), proposal.clone()).unwrap().into_signed();
        let write = |name: &str, epoch: u64, approvals: Vec<Signed<Proposal>>| {
            let proposal = Proposal { epoch, ..proposal.clone() };
            let petition = Petition { what: "anything".to_owned(), mesh, proposal, approvals };
            let file = folder.path().join(name);
            std::fs::write(&file, serde_json::to_string(&petition).unwrap()).unwrap();
            file.display().to_string()
        };
        let (one, other) = (write("a", 3, vec![approve(1), approve(2)]), write("b", 3, vec![approve(2), approve(3)]));
        assert_eq!(Petition::read(&[one.clone(), other]).unwrap().approvals.len(), 3);
        let stale = write("c", 2, vec![]);
        assert!(Petition::read(&[one, stale]).unwrap_err().to_string().contains("another epoch"));
    }
}
