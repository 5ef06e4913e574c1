//! `export`: the ledger's records as flat rows, for analysis.
//!
//! Non-goal: verification. A row says what the copy says; `godwit audit` says whether that is so.

mod columns;
mod rows;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use clap::ValueEnum;

use super::args::ExportArgs;
use super::client::ApiClient;
use super::failure::Failure;
use super::out::Out;
use super::source::Source;
use rows::{Flat, Lines, Sheet, Sink};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON Lines: an object a record, its message in full
    Jsonl,
    /// Comma-separated values with a heading, the message as JSON in the last column
    Csv,
    /// Apache Parquet, the message as JSON in the last column
    Parquet,
}

impl Format {
    /// By the end of a file's name.
    fn of(file: &Path) -> Option<Self> {
        let end = file.extension()?.to_str()?;
        Self::from_str(end, true).ok()
    }
}

/// Where it goes.
type Target = Box<dyn Write + Send>;

/// `godwit export`.
pub async fn export(
    args: ExportArgs,
    api: impl FnOnce() -> Result<ApiClient, Failure>,
    out: Out,
) -> Result<(), Failure> {
    let format = args.format.or_else(|| args.out.as_deref().and_then(Format::of)).unwrap_or(Format::Jsonl);
    let target: Target = match &args.out {
        Some(file) => Box::new(BufWriter::new(File::create(file).map_err(Failure::file("create", file))?)),
        None if format == Format::Parquet => {
            return Err(Failure::Input {
                what: "--format parquet".to_owned(),
                reason: "a Parquet file is written to a file".to_owned(),
                remedy: "name it: `--out FILE`".to_owned(),
            });
        }
        None => Box::new(BufWriter::new(std::io::stdout())),
    };
    // From the beginning: what an offer is about is known from where it was made.
    let source = Source::open(&args.source, 1, api)?;
    let bar = out.progress("export");
    let shown = bar.clone();
    let wanted = args.from.max(1)..=args.to.unwrap_or(u64::MAX);
    let written = tokio::task::spawn_blocking(move || {
        let sink: Box<dyn Sink> = match format {
            Format::Jsonl => Box::new(Lines::new(target)),
            Format::Csv => Box::new(Sheet::new(target)?),
            Format::Parquet => Box::new(columns::Columns::new(target)?),
        };
        source.blocks(1, |blocks| {
            Flat::new(wanted, sink).write(blocks, &mut |height| shown.set_message(format!("export: block {height}")))
        })
    });
    let written =
        written.await.map_err(|error| Failure::Part { what: "export", source: error.into(), remedy: None })?;
    bar.finish_and_clear();
    let records = written?;
    out.remark(&format!("{records} records"));
    Ok(())
}

#[cfg(test)]
mod tests;
