//! What the engine asks for, in runc's command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The `restore` that may be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What comes before `restore`, for other calls of runc.
    pub globals: Vec<OsString>,
    /// Where runc keeps the state of its containers.
    pub root: PathBuf,
    /// Where the engine reads why it failed.
    pub log: Option<PathBuf>,
    /// The folder of `config.json`.
    pub bundle: PathBuf,
    /// Where the engine reads the init process's id.
    pub pid_file: PathBuf,
    /// The container, as the engine names it.
    pub id: String,
}

/// Runc's options, as far as the engine gives them; whatever else there is, is runc's.
#[derive(Parser)]
#[command(disable_help_flag = true, disable_help_subcommand = true)]
struct Line {
    #[arg(long, default_value = "/run/runc")]
    root: PathBuf,
    #[arg(long)]
    log: Option<PathBuf>,
    #[arg(long)]
    log_format: Option<OsString>,
    #[arg(long)]
    debug: bool,
    #[arg(long)]
    systemd_cgroup: bool,
    #[arg(long)]
    rootless: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Restore(Restore),
    #[command(external_subcommand)]
    Other(#[expect(dead_code, reason = "runc reads them itself")] Vec<OsString>),
}

#[derive(Args)]
#[command(disable_help_flag = true)]
struct Restore {
    #[arg(long, short, default_value = ".")]
    bundle: PathBuf,
    #[arg(long)]
    pid_file: Option<PathBuf>,
    #[arg(long)]
    console_socket: Option<PathBuf>,
    #[arg(long)]
    image_path: Option<PathBuf>,
    #[arg(long)]
    work_path: Option<PathBuf>,
    #[arg(long)]
    parent_path: Option<PathBuf>,
    #[arg(long, short)]
    detach: bool,
    #[arg(long)]
    no_subreaper: bool,
    #[arg(long)]
    no_pivot: bool,
    #[arg(long)]
    tcp_established: bool,
    #[arg(long)]
    ext_unix_sk: bool,
    #[arg(long)]
    shell_job: bool,
    #[arg(long)]
    file_locks: bool,
    #[arg(long)]
    manage_cgroups_mode: Option<OsString>,
    id: String,
}

impl Asked {
    /// The `restore` that these arguments (without the program) ask for; none if they ask for anything else, or for what
    /// this runtime does not do: a restore in the foreground, or with a terminal.
    #[must_use]
    pub fn of(arguments: &[OsString]) -> Option<Self> {
        let program = OsString::from("runc");
        let line = Line::try_parse_from(std::iter::once(program).chain(arguments.iter().map(long))).ok()?;
        let Command::Restore(restore) = line.command else { return None };
        if !restore.detach || restore.console_socket.is_some() {
            return None;
        }
        let globals = arguments.iter().take_while(|argument| *argument != "restore").cloned().collect();
        Some(Self {
            globals,
            root: line.root,
            log: line.log,
            bundle: restore.bundle,
            pid_file: restore.pid_file?,
            id: restore.id,
        })
    }
}

/// Runc is written in Go, which takes `-no-subreaper` for `--no-subreaper`; containerd uses both.
fn long(argument: &OsString) -> OsString {
    match argument.to_str() {
        Some(text) if text.starts_with('-') && !text.starts_with("--") && text.len() > 2 => format!("-{text}").into(),
        _ => argument.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Option<Asked> {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Asked::of(&arguments)
    }

    const CONTAINERD: &str = "--root /run/docker/runtime-runc/moby --log /b/log.json --log-format json restore \
        --image-path /b/criu --work-path /b/work --detach --pid-file /b/init.pid -no-subreaper --bundle /b 4711";

    #[test]
    fn what_containerd_asks_for_is_understood() {
        let asked = asked(CONTAINERD).expect("a restore");
        assert_eq!(asked.root, PathBuf::from("/run/docker/runtime-runc/moby"));
        assert_eq!((asked.bundle, asked.pid_file), ("/b".into(), "/b/init.pid".into()));
        assert_eq!((asked.id.as_str(), asked.log), ("4711", Some("/b/log.json".into())));
        assert_eq!(asked.globals.len(), 6);
    }

    #[test]
    fn everything_else_is_runcs() {
        for line in [
            "",
            "--version",
            "--root /r state 4711",
            "--root /r create --bundle /b --pid-file /p 4711",
            // The name of a container is no command.
            "--root /r delete restore",
            // What is new in runc may matter to it.
            "--root /r restore --bundle /b --pid-file /p --detach --unheard-of 4711",
            "--root /r restore --bundle /b --detach 4711",
            "--root /r restore --bundle /b --pid-file /p 4711",
            "--root /r restore --bundle /b --pid-file /p --detach --console-socket /c 4711",
        ] {
            assert_eq!(asked(line), None, "{line}");
        }
    }
}
