//! Standard output: tables for people, JSON for programs.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::failure::Failure;

/// How a command shows its answer.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    /// As JSON.
    pub json: bool,
}

impl Out {
    /// The answer: JSON as it is, or the text that `table` makes of it.
    pub fn show<T: Serialize>(self, answer: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.json { self.json(answer) } else { self.text(&table(answer)) }
    }

    /// A JSON document.
    pub fn json<T: Serialize>(self, answer: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(answer).map_err(|error| print_failed(error.into()))?;
        self.text(&format!("{text}\n"))
    }

    /// One JSON value in one line.
    pub fn json_line<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| print_failed(error.into()))?;
        self.text(&format!("{text}\n"))
    }

    /// Text as it is.
    pub fn text(self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(print_failed)
    }

    /// A remark for a person, on standard error, so that it is not taken for the answer.
    pub fn remark(self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
    }

    /// Progress on standard error, if a person watches.
    pub fn progress(self, message: &str) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner().with_message(message.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        bar
    }
}

/// A bar of so many bytes instead of a spinner.
pub fn measure_bytes(bar: &ProgressBar, task: &str, done: u64, total: u64) {
    if total > 0 && bar.length() != Some(total) {
        let template = "{spinner} {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_length(total);
    }
    bar.set_message(task.to_owned());
    bar.set_position(done);
}

fn print_failed(source: std::io::Error) -> Failure {
    Failure::Io { what: "print".to_owned(), source }
}
