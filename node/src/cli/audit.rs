//! `audit`.

use std::path::Path;
use std::time::Duration;

use godwit_ledger::audit::Progress;
use godwit_ledger::genesis::Genesis;

use super::args::AuditArgs;
use super::client::ApiClient;
use super::failure::Failure;
use super::out::Out;
use super::seam::{self, Audited, per_second};
use super::source::Source;
use super::table::{fields, moment, or_dash, span};
use crate::config::Config;
use crate::genesis;

/// The genesis that is trusted: the one that is named, or the configured one.
pub(super) fn trusted_genesis(file: Option<&Path>, config: Option<&Path>) -> Result<Genesis, Failure> {
    match file {
        Some(file) => Ok(genesis::read(file)?),
        None => Ok(genesis::read(&Config::load(config, std::env::vars(), &[])?.genesis)?),
    }
}

/// `godwit audit`.
pub async fn audit(
    args: AuditArgs,
    config: Option<&Path>,
    api: impl FnOnce() -> Result<ApiClient, Failure>,
    out: Out,
) -> Result<(), Failure> {
    let genesis = trusted_genesis(args.genesis.as_deref(), config)?;
    let source = Source::open(&args.source, 1, api)?;
    source.check_whole()?;
    let bar = out.progress("audit");
    let shown = bar.clone();
    let judged = tokio::task::spawn_blocking(move || {
        // A block below the first one does not belong there, and is found.
        source.blocks(0, |blocks| {
            seam::judge(&genesis, args.checkpoint, blocks, &mut |at, took| shown.set_message(progress_text(at, took)))
        })
    });
    let audited = judged.await.map_err(|error| Failure::Part { what: "audit", source: error.into(), remedy: None })?;
    bar.finish_and_clear();
    out.show(&audited, audited_text)?;
    match audited {
        Audited::Ok(_) => Ok(()),
        Audited::Bad { height, reason } => Err(Failure::Verdict(format!("audit: block {height} is bad: {reason}"))),
    }
}

fn progress_text(at: Progress, took: Duration) -> String {
    let (blocks, signatures) = (per_second(at.height.0, took), per_second(at.signatures, took));
    format!("audit: block {}, {} signatures; {blocks} blocks/s, {signatures} signatures/s", at.height, at.signatures)
}

pub(super) fn audited_text(audited: &Audited) -> String {
    let Audited::Ok(verified) = audited else { return String::new() };
    let report = &verified.report;
    let kinds: Vec<_> = report.records.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let took = span(godwit_protocol::Millis(verified.took_ms));
    let trusted = verified
        .checkpoint
        .map(|trusted| format!("block {} by its hash: the certificates up to it were not verified", trusted.height));
    let mut rows = vec![
        ("mesh", report.mesh.to_string()),
        ("blocks", format!("{}, the last at {} UTC", report.height, moment(report.time))),
        ("tip", report.tip.to_string()),
        ("state root", report.root.to_string()),
        ("records", or_dash(Some(kinds.join(", ")))),
        ("members", report.members.to_string()),
        ("containers", report.containers.to_string()),
        ("open offers", report.open_offers.to_string()),
        ("signatures", format!("{} verified in {took}, {}/s", report.signatures, verified.signatures_per_s)),
    ];
    rows.extend(trusted.map(|trusted| ("trusted", trusted)));
    let mut text = fields(&rows);
    text.push_str(&format!("{}\n", console::style("audit: OK").green().bold()));
    text
}
