//! `log`, `events`, `audit`.

use std::path::Path;

use futures::StreamExt;

use super::client::ApiClient;
use super::failure::Failure;
use super::out::Out;
use super::seam::{self, Audited};
use super::table::{fields, moment, or_dash, short};
use crate::api::site::Notice;
use crate::api::view::BlockView;
use crate::config::Config;
use crate::genesis;

/// `godwit log`.
pub async fn log(api: &ApiClient, from: Option<u64>, most: u16, follow: bool, out: Out) -> Result<(), Failure> {
    // Listening first: no block falls between what is printed and what is followed.
    let notices = if follow { Some(api.notices().await?) } else { None };
    let mut query = vec![("most", most.to_string())];
    query.extend(from.map(|height| ("from", height.to_string())));
    let blocks: Vec<BlockView> = api.get(&["v1", "blocks"], &query).await?;
    if out.json && !follow {
        return out.json(&blocks);
    }
    let mut next = blocks.last().map_or_else(|| from.unwrap_or(1), |block| block.height + 1);
    blocks.iter().try_for_each(|block| print(out, block))?;
    let Some(mut notices) = notices else { return Ok(()) };
    while let Some(notice) = notices.next().await {
        let new = match notice? {
            Notice::Committed { height, .. } => height >= next,
            Notice::Missed { .. } => true,
            _ => false,
        };
        if new {
            next = catch_up(api, next, out).await?;
        }
    }
    Err(Failure::Verdict("the site stopped".to_owned()))
}

/// Prints all blocks from a height on; the height after the last.
async fn catch_up(api: &ApiClient, mut next: u64, out: Out) -> Result<u64, Failure> {
    loop {
        let query = [("from", next.to_string()), ("most", "256".to_owned())];
        let blocks: Vec<BlockView> = api.get(&["v1", "blocks"], &query).await?;
        let Some(last) = blocks.last() else { return Ok(next) };
        next = last.height + 1;
        blocks.iter().try_for_each(|block| print(out, block))?;
    }
}

fn print(out: Out, block: &BlockView) -> Result<(), Failure> {
    if out.json { out.json_line(block) } else { out.text(&block_text(block)) }
}

pub(super) fn block_text(block: &BlockView) -> String {
    let mut text = format!(
        "{} {}  {} UTC  by {}, {} signers, round {}\n",
        console::style(format!("block {}", block.height)).bold(),
        short(&block.hash),
        moment(block.time),
        block.proposer_name,
        block.signers,
        block.round
    );
    for record in &block.records {
        text.push_str(&format!("  {:<10}  {:<16}  {}\n", record.kind, record.author_name, record.summary));
    }
    text
}

/// `godwit events`.
pub async fn events(api: &ApiClient, out: Out) -> Result<(), Failure> {
    let mut notices = api.notices().await?;
    while let Some(notice) = notices.next().await {
        out.json_line(&notice?)?;
    }
    Err(Failure::Verdict("the site stopped".to_owned()))
}

/// `godwit audit`.
pub fn audit(dir: &Path, genesis_file: Option<&Path>, config: Option<&Path>, out: Out) -> Result<(), Failure> {
    let genesis = match genesis_file {
        Some(file) => genesis::read(file)?,
        None => genesis::read(&Config::load(config, std::env::vars(), &[])?.genesis)?,
    };
    let bar = out.progress("audit");
    let audited = seam::audit(dir, &genesis, &mut |height| bar.set_message(format!("audit: block {height}")));
    bar.finish_and_clear();
    let audited = audited?;
    out.show(&audited, audited_text)?;
    match audited {
        Audited::Ok(_) => Ok(()),
        Audited::Bad { height, reason } => Err(Failure::Verdict(format!("audit: block {height} is bad: {reason}"))),
    }
}

pub(super) fn audited_text(audited: &Audited) -> String {
    let Audited::Ok(report) = audited else { return String::new() };
    let kinds: Vec<_> = report.records.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let mut text = fields(&[
        ("mesh", report.mesh.to_string()),
        ("blocks", format!("{}, the last at {} UTC", report.height, moment(report.time))),
        ("tip", report.tip.to_string()),
        ("state root", report.root.to_string()),
        ("records", or_dash(Some(kinds.join(", ")))),
        ("members", report.members.to_string()),
        ("containers", report.containers.to_string()),
        ("open offers", report.open_offers.to_string()),
    ]);
    text.push_str(&format!("{}\n", console::style("audit: OK").green().bold()));
    text
}
