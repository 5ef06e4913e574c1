//! `godwit-runtime`: runc, but for the restore of a container whose annotations name a handoff.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use godwit_oci::ANNOTATION;
use godwit_oci::arguments::Asked;
use oci_spec::runtime::Spec;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let ours = Asked::of(&arguments).and_then(|asked| {
        let spec = Spec::load(asked.bundle.join("config.json")).ok()?;
        let handoff = handoff(&spec)?;
        Some((asked, spec, handoff))
    });
    let Some((asked, spec, handoff)) = ours else {
        let Err(error) = runc(&arguments);
        eprintln!("godwit-runtime: start runc: {error}; is it installed, and in the PATH?");
        return ExitCode::FAILURE;
    };
    match godwit_oci::restore::restore(&asked, &spec, &handoff) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let why = format!("godwit: {}", error.chain());
            eprintln!("{why}");
            if let Some(log) = &asked.log {
                report(log, &why);
            }
            ExitCode::FAILURE
        }
    }
}

/// The folder in which a site waits for this restore.
fn handoff(spec: &Spec) -> Option<PathBuf> {
    let folder = spec.annotations().as_ref()?.get(ANNOTATION)?;
    Some(PathBuf::from(folder)).filter(|folder| folder.is_absolute())
}

fn runc(arguments: &[OsString]) -> Result<Infallible, std::io::Error> {
    Err(Command::new("runc").args(arguments).exec())
}

/// As runc writes it, so that the engine shows it to whoever asked.
fn report(log: &Path, why: &str) {
    let line = serde_json::json!({ "level": "error", "msg": why });
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(log) {
        // Nobody is left to be told.
        let _ = writeln!(file, "{line}");
    }
}
