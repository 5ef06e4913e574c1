//! `prove`, `verify`: one record, shown to somebody who has no copy of the ledger.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use godwit_ledger::bundle::{Bundle, MAX_BUNDLE, Proved};
use godwit_ledger::genesis::Genesis;
use godwit_protocol::{MeshId, RecordId, SiteId};
use serde::Serialize;

use super::args::{ProveArgs, VerifyArgs};
use super::audit::trusted_genesis;
use super::client::ApiClient;
use super::failure::Failure;
use super::out::Out;
use super::seam;
use super::table::{fields, moment};
use crate::api::fault::chain;
use crate::api::find::{Candidate, one};
use crate::api::site::FOUND_MAX;
use crate::genesis;

/// `godwit prove`.
pub async fn prove(
    args: &ProveArgs,
    config: Option<&Path>,
    api: impl FnOnce() -> Result<ApiClient, Failure>,
) -> Result<(), Failure> {
    if args.out.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::Input {
            what: "prove".to_owned(),
            reason: "a proof is no text for a terminal".to_owned(),
            remedy: "write it to a file: `--out FILE`, or `> FILE`".to_owned(),
        });
    }
    let bytes = match &args.dir {
        Some(dir) => from_copy(dir, &args.record, &trusted_genesis(args.genesis.as_deref(), config)?)?,
        None => api()?.bytes(&["v1", "records", &args.record, "proof"], &[]).await?,
    };
    // Nobody should carry a file to an auditor that proves nothing.
    let proved = Bundle::from_bytes(&bytes).and_then(|bundle| bundle.check());
    proved.map_err(|bad| Failure::Verdict(format!("the ledger does not prove it: {}", chain(&bad))))?;
    match &args.out {
        Some(file) => std::fs::write(file, &bytes).map_err(Failure::file("write the proof", file)),
        None => {
            let mut stdout = std::io::stdout().lock();
            let written = stdout.write_all(&bytes).and_then(|()| stdout.flush());
            written.map_err(|source| Failure::Io { what: "print".to_owned(), source })
        }
    }
}

fn from_copy(dir: &Path, record: &str, genesis: &Genesis) -> Result<Vec<u8>, Failure> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Failure::Part {
        what: "prove the record",
        source,
        remedy: Some("`godwit audit` says whether the copy is sound".to_owned()),
    };
    let archive = seam::archive(dir)?;
    let id: RecordId = match record.parse() {
        Ok(id) => id,
        Err(_) => {
            let found = archive.find(record, FOUND_MAX).map_err(|error| failed(error.into()))?;
            let candidates: Vec<_> = found.into_iter().map(|id| Candidate { id, name: String::new() }).collect();
            one("record", record, &candidates).map_err(super::client::ApiError::Refused)?
        }
    };
    let bundle = archive.prove(genesis, &id).map_err(|error| failed(error.into()))?;
    let bundle = bundle.ok_or_else(|| Failure::Input {
        what: record.to_owned(),
        reason: "this copy holds no such record".to_owned(),
        remedy: "`godwit export` lists the records of a copy".to_owned(),
    })?;
    bundle.to_bytes().map_err(|error| failed(error.into()))
}

/// What a proof shows, and to whom.
#[derive(Serialize)]
pub(super) struct Shown {
    verdict: &'static str,
    /// Whether the mesh is the one that was asked for; else its id is only what the file says.
    trusted: bool,
    mesh_name: String,
    author_name: Option<String>,
    summary: String,
    #[serde(flatten)]
    proved: Proved,
    #[serde(skip)]
    signer_names: Vec<String>,
}

/// `godwit verify`.
pub fn verify(args: &VerifyArgs, out: Out) -> Result<(), Failure> {
    let bytes = read(&args.file)?;
    let bad = |reason: String| Failure::Verdict(format!("verify: {} proves nothing: {reason}", args.file.display()));
    let bundle = Bundle::from_bytes(&bytes).map_err(|error| bad(chain(&error)))?;
    let proved = bundle.check().map_err(|error| bad(chain(&error)))?;
    let wanted = match &args.genesis {
        Some(file) => Some(genesis::read(file)?.mesh()),
        None => args.mesh,
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != proved.mesh) {
        return Err(bad(format!("it is of mesh {}, not of {wanted}", proved.mesh)));
    }
    out.show(&shown(&bundle.genesis, proved, wanted), shown_text)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // A byte more than the largest proof shows that it is none.
    let most = MAX_BUNDLE as u64 + 1;
    let read = if file == Path::new("-") {
        std::io::stdin().take(most).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    read.map_err(Failure::file("read the proof", file)).map(|_| bytes)
}

pub(super) fn shown(genesis: &Genesis, proved: Proved, wanted: Option<MeshId>) -> Shown {
    let founder = |site: &SiteId| genesis.members.iter().find(|member| member.site == *site);
    let name = |site: &SiteId| founder(site).map(|member| member.name.to_string());
    let signer_names = proved.signers.iter().map(|site| name(site).unwrap_or_else(|| site.short())).collect();
    Shown {
        verdict: "ok",
        trusted: wanted.is_some(),
        mesh_name: genesis.name.to_string(),
        author_name: name(&proved.author),
        summary: seam::summary(genesis, &proved.message),
        signer_names,
        proved,
    }
}

pub(super) fn shown_text(shown: &Shown) -> String {
    let proved = &shown.proved;
    let author = shown.author_name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    let changed = match proved.changes {
        0 => "as founded".to_owned(),
        1 => "changed once since the founding".to_owned(),
        times => format!("changed {times} times since the founding"),
    };
    let (signed, of, signers) = (proved.signers.len(), proved.validators, shown.signer_names.join(", "));
    let mut text = fields(&[
        ("mesh", format!("{} ({})", proved.mesh, shown.mesh_name)),
        ("record", proved.record.to_string()),
        ("author", format!("{}{author}", proved.author)),
        ("says", format!("{}: {}", proved.message.name(), shown.summary)),
        ("block", format!("{}, its record {} of {}", proved.height, u64::from(proved.index) + 1, proved.count)),
        ("time", format!("{} UTC", moment(proved.time))),
        ("hash", proved.block.to_string()),
        ("signed by", format!("{signed} of {of} validators: {signers}")),
        ("validators", changed),
    ]);
    let verdict = console::style("verify: OK").green().bold();
    text.push_str(&if shown.trusted {
        format!("{verdict}\n")
    } else {
        format!(
            "{verdict}, in the mesh that the file itself names. Compare the mesh's id above with one that you have from \
             elsewhere,\nor let `--mesh ID` or `--genesis FILE` do it: whoever made the file could have founded a mesh for it.\n"
        )
    });
    text
}
