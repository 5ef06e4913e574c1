//! `member`: how the membership changes, by the signatures of its validators.

use godwit_protocol::bounded::List;
use godwit_protocol::membership::{Change, Membership, Proposal};
use godwit_protocol::{Signed, SiteId};

use super::args::ApproveArgs;
use super::client::ApiClient;
use super::failure::Failure;
use super::found::{members_table, read_members, read_text};
use super::out::Out;
use crate::api::view::{Appended, MembersView};

/// `godwit member list`.
pub async fn list(api: &ApiClient, out: Out) -> Result<(), Failure> {
    let members: MembersView = api.get(&["v1", "members"], &[]).await?;
    out.show(&members, |members| {
        let table = members_table(&members.members);
        format!("{table}\nepoch {}; a change needs {} approvals\n", members.epoch, members.approvals_needed)
    })
}

/// `godwit member approve`.
pub async fn approve(api: &ApiClient, args: &ApproveArgs, out: Out) -> Result<(), Failure> {
    let members: MembersView = api.get(&["v1", "members"], &[]).await?;
    let change = match (&args.put, &args.remove) {
        (Some(source), _) => match read_members(source)?.as_slice() {
            [member] => Change::Put(member.clone()),
            several => return Err(bad(source, format!("{} members, where one is approved at a time", several.len()))),
        },
        (None, Some(name)) => Change::Remove(named(&members, name)?),
        (None, None) => return Err(bad("approve", "neither --put nor --remove".to_owned())),
    };
    let proposal = Proposal { epoch: members.epoch, change };
    let approval: Signed<Proposal> = api.post(&["v1", "approvals"], &proposal).await?;
    out.remark(&format!("a change needs {} such approvals", members.approvals_needed));
    out.json_line(&approval)
}

fn named(members: &MembersView, name: &str) -> Result<SiteId, Failure> {
    let fits = |site: &SiteId| site.to_string().starts_with(name);
    let by_name: Vec<_> = members.members.iter().filter(|member| member.name.as_str() == name).collect();
    let found =
        if by_name.is_empty() { members.members.iter().filter(|member| fits(&member.site)).collect() } else { by_name };
    match found.as_slice() {
        [one] => Ok(one.site),
        [] => Err(bad(name, "no member has this name or an id that begins so".to_owned())),
        _ => Err(bad(name, "it fits several members: give more of the id".to_owned())),
    }
}

/// `godwit member submit`.
pub async fn submit(api: &ApiClient, sources: &[String], out: Out) -> Result<(), Failure> {
    let mut approvals: Vec<Signed<Proposal>> = Vec::new();
    for source in sources {
        for approval in serde_json::Deserializer::from_str(&read_text(source)?).into_iter() {
            approvals.push(approval.map_err(|error| bad(source, error.to_string()))?);
        }
    }
    let Some(first) = approvals.first() else { return Err(bad("APPROVAL", "there is none".to_owned())) };
    let proposal = first.body.clone();
    if let Some(other) = approvals.iter().find(|approval| approval.body != proposal) {
        return Err(bad("APPROVAL", format!("{}'s is for another change or epoch", other.author)));
    }
    let approvals = List::new(approvals).map_err(|long| bad("APPROVAL", long.to_string()))?;
    let appended: Appended = api.post(&["v1", "members"], &Membership { proposal, approvals }).await?;
    out.show(&appended, |appended| format!("appended as {}\n", appended.record))
}

fn bad(what: &str, reason: String) -> Failure {
    let remedy = "`godwit member --help` shows how a change is approved and submitted".to_owned();
    Failure::Input { what: what.chars().take(80).collect(), reason, remedy }
}
