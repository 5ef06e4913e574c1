//! `run`, `doctor`, `config`, `status`, `sites`.

use std::path::Path;

use godwit_protocol::{Bytes, MilliCpu, PerMille};

use super::args::SettingArgs;
use super::client::ApiClient;
use super::failure::Failure;
use super::out::Out;
use super::seam::{self, Check, Verdict};
use super::table::{bytes, cores, fields, moment, or_dash, percent, short, span, table};
use super::{doctor, logging};
use crate::api::view::{CapacityView, SiteView, StatusView};
use crate::config::{Config, example};

fn load(config: Option<&Path>, settings: &SettingArgs) -> Result<Config, Failure> {
    Ok(Config::load(config, std::env::vars(), &settings.settings())?)
}

/// `godwit run`.
pub async fn run(config: Option<&Path>, settings: &SettingArgs) -> Result<(), Failure> {
    let config = load(config, settings)?;
    logging::start(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    seam::run(config).await
}

/// `godwit config`.
pub fn config(print: bool, file: Option<&Path>, settings: &SettingArgs, out: Out) -> Result<(), Failure> {
    if print {
        return out.text(&example(&[]));
    }
    let config = load(file, settings)?;
    for warning in &config.warnings {
        out.remark(&format!("warning: {warning}"));
    }
    out.show(&serde_json::json!({ "valid": true, "warnings": config.warnings }), |_| "valid\n".to_owned())
}

/// `godwit doctor`.
pub async fn doctor(config: Option<&Path>, fix: bool, settings: &SettingArgs, out: Out) -> Result<(), Failure> {
    let config = load(config, settings)?;
    if fix {
        out.remark(seam::register_runtime()?);
    }
    let mut found = doctor::checks(&config).await;
    found.extend(seam::engine_checks(&config).await);
    out.show(&found, |found| checks_table(found))?;
    match found.iter().filter(|check| check.verdict == Verdict::Fail).count() {
        0 => Ok(()),
        failed => Err(Failure::Verdict(format!("{failed} of {} checks failed", found.len()))),
    }
}

fn checks_table(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let mark = match check.verdict {
            Verdict::Pass => console::style("ok  ").green(),
            Verdict::Warn => console::style("warn").yellow(),
            Verdict::Fail => console::style("FAIL").red().bold(),
        };
        text.push_str(&format!("{mark}  {}: {}\n", check.name, check.found));
        if let Some(remedy) = &check.remedy {
            text.push_str(&format!("      {remedy}\n"));
        }
    }
    text
}

/// `godwit status`.
pub async fn status(api: &ApiClient, out: Out) -> Result<(), Failure> {
    let status: StatusView = api.get(&["v1", "status"], &[]).await?;
    out.show(&status, status_table)
}

pub(super) fn status_table(status: &StatusView) -> String {
    let role = status.role.map(|role| format!("{role:?}").to_lowercase());
    fields(&[
        ("site", format!("{} ({})", status.site, or_dash(Some(status.name.clone())))),
        ("mesh", format!("{} ({})", status.mesh, status.mesh_name)),
        ("role", role.unwrap_or_else(|| "no member of this mesh".to_owned())),
        (
            "votes",
            if status.abstains { "not yet: its ledger was rebuilt (see its health)" } else { "as its role says" }
                .to_owned(),
        ),
        ("version", format!("{}, up for {}", status.version, span(status.uptime_ms))),
        ("height", format!("{}, {} UTC", status.height, moment(status.block_time))),
        ("blocks", format!("from {} on", status.base)),
        ("tip", status.tip.to_string()),
        ("state root", status.state_root.to_string()),
        ("peers", format!("{} of {} members, {} validators", status.peers, status.members, status.validators)),
        ("containers", status.containers.to_string()),
        ("open offers", status.open_offers.to_string()),
        ("draining", if status.draining { "yes" } else { "no" }.to_owned()),
        ("address", status.address.to_string()),
        ("listening", or_dash(Some(status.listening.join(", ")))),
    ])
}

/// `godwit sites`.
pub async fn sites(api: &ApiClient, out: Out) -> Result<(), Failure> {
    let sites: Vec<SiteView> = api.get(&["v1", "sites"], &[]).await?;
    out.show(&sites, |sites| sites_table(sites))
}

pub(super) fn sites_table(sites: &[SiteView]) -> String {
    let row = |site: &SiteView| {
        let of = |show: fn(&CapacityView) -> String| site.capacity.as_ref().map_or_else(|| "-".to_owned(), show);
        vec![
            site.name.clone(),
            short(&site.site),
            format!("{:?}", site.role).to_lowercase(),
            state(site).to_owned(),
            of(|c| c.address.to_string()),
            of(|c| or_dash(Some(c.network.clone()))),
            of(|c| format!("{} / {}", milli(c.cpu_m.used), milli(c.cpu_m.total))),
            of(|c| format!("{} / {}", bytes(Bytes(c.memory_bytes.used)), bytes(Bytes(c.memory_bytes.total)))),
            of(|c| {
                percent(PerMille::of(c.memory_bytes.used.saturating_add(c.memory_bytes.reserved), c.memory_bytes.total))
            }),
            of(|c| c.gpu.total.to_string()),
            site.containers.to_string(),
            of(|c| span(c.age_ms)),
        ]
    };
    let headings = [
        "NAME",
        "SITE",
        "ROLE",
        "STATE",
        "ADDRESS",
        "NETWORK",
        ">CPU",
        ">MEMORY",
        ">MEM %",
        ">GPU",
        ">CONTAINERS",
        ">HEARD",
    ];
    table(&headings, &sites.iter().map(row).collect::<Vec<_>>())
}

fn milli(cpu: u64) -> String {
    cores(MilliCpu(u32::try_from(cpu).unwrap_or(u32::MAX)))
}

fn state(site: &SiteView) -> &'static str {
    match &site.capacity {
        Some(capacity) if !capacity.accepting => "draining",
        _ if site.local => "here",
        _ if !site.connected => "away",
        Some(capacity) if capacity.stale => "silent",
        None => "unheard",
        Some(_) => "up",
    }
}
