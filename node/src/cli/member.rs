//! `member`: how the membership changes, by the signatures of its validators.

use std::path::Path;

use godwit_protocol::membership::{Change, Member, Proposal, Role, Rotation};
use godwit_protocol::{Signed, SiteId};

use super::args::{ProposeArgs, RotateArgs};
use super::client::ApiClient;
use super::failure::Failure;
use super::found::{members_table, read_members};
use super::out::Out;
use super::petition::{Outlook, Petition, bad, named};
use crate::api::view::{Appended, MembersView, SiteView, StatusView};
use crate::config::Config;
use crate::key;

/// `godwit member list`.
pub async fn list(api: &ApiClient, out: Out) -> Result<(), Failure> {
    let members = members(api).await?;
    out.show(&members, |members| {
        let mut text = members_table(&members.members);
        let called = |site: &SiteId| members.members.iter().find(|m| m.site == *site).map(|m| m.name.to_string());
        for name in members.suspended.iter().filter_map(called) {
            text.push_str(&format!("\n{name} contradicted itself and is suspended: remove it, or readmit it\n"));
        }
        format!("{text}\nepoch {}; a change needs {} approvals\n", members.epoch, members.approvals_needed)
    })
}

/// What a verb wants of the member that it names.
#[derive(Clone, Copy, Debug)]
pub enum Verb {
    /// Vote.
    Promote,
    /// Vote no longer.
    Demote,
    /// Leave.
    Remove,
    /// Be as before it was suspended.
    Readmit,
}

/// `godwit member admit`.
pub async fn admit(api: &ApiClient, source: &str, force: bool, out: Out) -> Result<(), Failure> {
    let member = match read_members(source)?.as_slice() {
        [member] => member.clone(),
        several => return Err(bad(source, format!("{} members, where one is admitted at a time", several.len()))),
    };
    propose(api, Change::Put(member), force, out).await
}

/// `godwit member promote`, `demote`, `remove`, `readmit`.
pub async fn change(api: &ApiClient, verb: Verb, args: &ProposeArgs, out: Out) -> Result<(), Failure> {
    let members = members(api).await?;
    let member = named(&members, &args.site)?;
    let refuse = |reason: &str| Err(bad(&args.site, reason.to_owned()));
    let with = |role: Role| Change::Put(Member { role, ..member.clone() });
    let change = match verb {
        Verb::Promote if member.role == Role::Validator => return refuse("it is a validator"),
        Verb::Promote => with(Role::Validator),
        Verb::Demote if member.role != Role::Validator => return refuse("it is no validator"),
        Verb::Demote => with(Role::Member),
        Verb::Remove => Change::Remove(member.site),
        Verb::Readmit if !members.suspended.contains(&member.site) => return refuse("it is not suspended"),
        Verb::Readmit => with(member.role),
    };
    propose(api, change, args.force, out).await
}

/// `godwit member rotate`, on the site itself.
pub async fn rotate(api: &ApiClient, config: Option<&Path>, args: &RotateArgs, out: Out) -> Result<(), Failure> {
    let status: StatusView = api.get(&["v1", "status"], &[]).await?;
    let path = match &args.key {
        Some(path) => path.clone(),
        None => Config::load(config, std::env::vars(), &[])?.key,
    };
    if SiteId::from(key::read(&path)?.verifying_key()) != status.site {
        let reason = format!("it is not the key of the site that answers, {}", status.site.short());
        return Err(bad(&path.display().to_string(), reason));
    }
    let next = key::next_of(&path);
    let new = if next.exists() {
        out.remark(&format!("kept the new key {}", next.display()));
        key::read(&next)?
    } else {
        let new = key::write_new(&next)?;
        out.remark(&format!("made the new key {}: keep it secret, and a copy of it safe", next.display()));
        new
    };
    let rotation = Signed::sign(&status.mesh, &new, Rotation { old: status.site })
        .map_err(|source| Failure::Encode { what: "the rotation", source })?;
    out.remark("leave both where they are: once the change is in force, the site starts anew with the new one");
    propose(api, Change::Rotate(rotation.into_signed()), args.force, out).await
}

/// `godwit member rotate --finish`, for a site that was away when its new key came into force.
pub fn finish_rotation(config: Option<&Path>, args: &RotateArgs, out: Out) -> Result<(), Failure> {
    let path = match &args.key {
        Some(path) => path.clone(),
        None => Config::load(config, std::env::vars(), &[])?.key,
    };
    let new = SiteId::from(key::succeed(&path)?.verifying_key());
    out.show(&serde_json::json!({ "site": new }), |_| {
        format!("the site is {new} from its next start on; its old key is {}\n", key::old_of(&path).display())
    })
}

/// `godwit member approve`.
pub async fn approve(api: &ApiClient, sources: &[String], force: bool, out: Out) -> Result<(), Failure> {
    let mut petition = Petition::read(sources)?;
    let members = members(api).await?;
    petition.what = outlook(api, &petition.proposal.change, &members, force, out).await?;
    let approval: Signed<Proposal> = api.post(&["v1", "approvals"], &petition.proposal).await?;
    petition.approvals.retain(|known| known.author != approval.author);
    petition.approvals.push(approval);
    let (has, needs) = (petition.approvals.len(), members.approvals_needed);
    out.remark(&format!("approved: {}\n{has} of the {needs} approvals that it needs are in this file", petition.what));
    out.json_line(&petition)
}

/// `godwit member submit`.
pub async fn submit(api: &ApiClient, sources: &[String], force: bool, out: Out) -> Result<(), Failure> {
    let petition = Petition::read(sources)?;
    let members = members(api).await?;
    let (has, needs) = (petition.approvals.len(), members.approvals_needed as usize);
    if has < needs {
        return Err(bad("FILE", format!("{has} validators have approved it, and it needs {needs}")));
    }
    let what = outlook(api, &petition.proposal.change, &members, force, out).await?;
    let appended: Appended = api.post(&["v1", "members"], &petition.membership()?).await?;
    out.show(&appended, |appended| format!("appended as {}: {what}\n", appended.record))
}

async fn propose(api: &ApiClient, change: Change, force: bool, out: Out) -> Result<(), Failure> {
    let members = members(api).await?;
    let status: StatusView = api.get(&["v1", "status"], &[]).await?;
    let what = outlook(api, &change, &members, force, out).await?;
    out.remark(&format!(
        "proposed: {what}\nhave {} validators approve it: `godwit member approve FILE`, then `submit` what they print",
        members.approvals_needed
    ));
    let proposal = Proposal { epoch: members.epoch, change };
    out.json_line(&Petition { what, mesh: status.mesh, proposal, approvals: Vec::new() })
}

async fn members(api: &ApiClient) -> Result<MembersView, Failure> {
    Ok(api.get(&["v1", "members"], &[]).await?)
}

/// What a change does, in words; refused if the mesh could not go on after it, as far as the asked site sees.
async fn outlook(
    api: &ApiClient,
    change: &Change,
    members: &MembersView,
    force: bool,
    out: Out,
) -> Result<String, Failure> {
    let sites: Vec<SiteView> = api.get(&["v1", "sites"], &[]).await?;
    let outlook = Outlook::of(change, &members.members, &sites);
    for warning in &outlook.warnings {
        out.remark(&format!("warning: {warning}"));
    }
    match outlook.fatal {
        Some(reason) if force => out.remark(&format!("warning, overruled by --force: {reason}")),
        Some(reason) => {
            let remedy = "bring the missing sites back first, or say --force if you know better".to_owned();
            return Err(Failure::Input { what: outlook.what, reason, remedy });
        }
        None => {}
    }
    Ok(outlook.what)
}
