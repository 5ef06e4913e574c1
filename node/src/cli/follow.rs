//! `follow`.

use std::path::Path;

use super::args::SettingArgs;
use super::failure::Failure;
use super::out::Out;
use super::table::{fields, moment};
use super::{logging, seam};
use crate::config::Config;
use crate::run::follow::Followed;

/// `godwit follow`.
pub async fn follow(
    config: Option<&Path>,
    settings: &SettingArgs,
    until: Option<u64>,
    out: Out,
) -> Result<(), Failure> {
    let config = Config::load(config, std::env::vars(), &settings.settings())?;
    logging::start(&config.log);
    let bar = out.progress("follow");
    let shown = bar.clone();
    let followed = seam::follow(config, until, &mut |at| shown.set_message(progress_text(at))).await;
    bar.finish_and_clear();
    out.show(&followed?, followed_text)
}

fn progress_text(at: &Followed) -> String {
    let peers = if at.peers == 1 { "member" } else { "members" };
    format!("follow: block {} of {} UTC; {} {peers} connected", at.height, moment(at.time), at.peers)
}

fn followed_text(followed: &Followed) -> String {
    fields(&[
        ("blocks", format!("{}, the last at {} UTC", followed.height, moment(followed.time))),
        ("tip", followed.tip.to_string()),
    ])
}
