//! `rebuild`: a damaged ledger is moved aside, and fetched again.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use godwit_protocol::Time;
use serde::Serialize;

use super::doctor;
use super::failure::Failure;
use super::out::Out;
use super::seam::Verdict;
use super::table::{fields, moment};
use crate::config::Config;
use crate::genesis;
use crate::rebuild::Rebuilt;
use crate::run::now;

/// What was done, for machines.
#[derive(Debug, Serialize)]
struct Done {
    /// Where the damaged files are; absent if there were none.
    aside: Option<PathBuf>,
    /// The site does not vote before it has followed a block that was built after this, in ms since 1970.
    votes_after_ms: Time,
}

/// `godwit rebuild`.
pub async fn rebuild(yes: bool, config: Option<&Path>, out: Out) -> Result<(), Failure> {
    let config = Config::load(config, std::env::vars(), &[])?;
    let founded = genesis::read(&config.genesis)?.founded;
    // The clock decides on which blocks this site does not vote.
    let clock = doctor::clock().await;
    let wrong = if now() < founded { "it is before the mesh was founded".to_owned() } else { clock.found };
    if clock.verdict == Verdict::Fail || now() < founded {
        return Err(Failure::Input {
            what: "this machine's clock".to_owned(),
            reason: wrong,
            remedy: clock.remedy.unwrap_or_else(|| "set the clock, then run this again".to_owned()),
        });
    }
    let data = config.data_dir.display();
    if !yes && !confirmed(&format!("Move the ledger in {data} aside and fetch it again from the other sites?"))? {
        return Err(Failure::Verdict("nothing was done".to_owned()));
    }
    let done = crate::rebuild::rebuild(&config.data_dir, now()).map_err(|error| Failure::Part {
        what: "move the ledger aside",
        remedy: Some(match &error {
            crate::rebuild::Error::Running(_) => "stop the site first, for example: systemctl stop godwit".to_owned(),
            crate::rebuild::Error::Io { .. } => "run as the user that runs godwit".to_owned(),
            crate::rebuild::Error::NoTime(path) => {
                format!("correct it, or remove it if this site's ledger was never rebuilt: {}", path.display())
            }
        }),
        source: error.into(),
    })?;
    let Rebuilt { aside, since } = done;
    out.show(&Done { aside, votes_after_ms: since }, text)
}

fn text(done: &Done) -> String {
    let aside = done.aside.as_ref().map_or_else(|| "there was none".to_owned(), |aside| aside.display().to_string());
    let mut text = fields(&[
        ("old ledger", aside),
        ("votes", format!("after the first block that was built after {} UTC", moment(done.votes_after_ms))),
    ]);
    text.push_str("now start the site: it fetches the ledger by itself\n");
    text
}

/// Asks a person.
fn confirmed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Input {
            what: "rebuild".to_owned(),
            reason: "nobody is there to confirm it".to_owned(),
            remedy: "give --yes".to_owned(),
        });
    }
    eprint!("{question} Type yes: ");
    std::io::stderr().flush().map_err(Failure::file("write to", "the terminal"))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Failure::file("read from", "the terminal"))?;
    Ok(answer.trim() == "yes")
}
