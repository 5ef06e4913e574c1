//! The command line: what an operator types, and what comes back.
//!
//! Commands that concern a running site are requests to its API; `init`, `genesis`, `config`, `doctor`, `audit`, `verify`,
//! `export` and `rebuild` work on files; `run` is the site itself, `follow` an auditor's; `client` is a vehicle's or
//! device's side.
//!
//! Invariant: standard output carries what was asked for and nothing else; progress and errors go to standard error.

mod args;
mod audit;
mod client;
mod containers;
mod doctor;
mod export;
mod failure;
mod follow;
mod found;
mod input;
mod ledger;
mod logging;
mod member;
mod moves;
mod out;
mod petition;
mod proof;
mod rebuild;
pub mod seam;
mod site;
mod source;
mod table;
mod vehicle;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use godwit_checkpoint::criu::holder;
use godwit_checkpoint::pages::guard;

pub use args::Cli;
pub use failure::Failure;

use args::{ClientCommand, Command, GenesisCommand, MemberCommand};
use client::ApiClient;
use member::Verb;
use out::Out;

/// Parses the arguments, runs the command, prints what failed. Exit codes: 0, 1 for a failure, 2 for wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    if let Some(ended) = helper(&cli.command) {
        return ended;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return failed(&Failure::Io { what: "start the runtime".to_owned(), source }, json),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough, as `head` does.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => failed(&failure, json),
    }
}

/// Helpers do one thing in one thread, as small as they can be.
fn helper(command: &Command) -> Option<ExitCode> {
    let ended = match command {
        Command::HoldDump { socket } => {
            guard::harden().map_err(anyhow::Error::from).and_then(|()| Ok(holder::run(socket)?))
        }
        Command::GuardPages { criu, control, restore_s, patience_s } => {
            let [restore, patience] = [*restore_s, *patience_s].map(Duration::from_secs);
            let config = guard::Config { criu: criu.clone(), control: control.clone(), restore, patience };
            guard::harden().map_err(anyhow::Error::from).and_then(|()| Ok(guard::run(&config).map(drop)?))
        }
        _ => return None,
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("godwit: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn failed(failure: &Failure, json: bool) -> ExitCode {
    eprintln!("{}", failure.text(json));
    ExitCode::FAILURE
}

/// Runs one command.
///
/// # Errors
/// [`Failure`] says what failed and what to do.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let out = Out { json: cli.json };
    let config = cli.config.as_deref();
    let api = || ApiClient::new(cli.api.clone(), config, cli.token_file.as_deref());
    match cli.command {
        Command::Init(args) => found::init(&args, config, out),
        Command::Genesis(GenesisCommand::Create(args)) => found::create(&args, out),
        Command::Genesis(GenesisCommand::Show { file }) => found::show(&file, out),
        Command::Config { example, settings } => site::config(example, config, &settings, out),
        Command::Run(settings) => site::run(config, &settings).await,
        Command::Doctor { fix, settings } => site::doctor(config, fix, &settings, out).await,
        // They are run before there is a runtime.
        Command::HoldDump { .. } | Command::GuardPages { .. } => Ok(()),
        Command::Status => site::status(&api()?, out).await,
        Command::Sites => site::sites(&api()?, out).await,
        Command::Deploy(args) => containers::deploy(&api()?, args, out).await,
        Command::Ps { local } => containers::ps(&api()?, local, out).await,
        Command::Stop { containers } => containers::stop(&api()?, &containers, out).await,
        Command::Rm { containers, force } => containers::remove(&api()?, &containers, force, out).await,
        Command::Logs { container, tail, follow } => containers::logs(&api()?, &container, tail, follow, out).await,
        Command::Offers => moves::offers(&api()?, out).await,
        Command::Migrate { container, prefer, wait } => moves::migrate(&api()?, &container, prefer, wait, out).await,
        Command::Drain { off } => moves::drain(&api()?, !off, out).await,
        Command::Timeline { offer } => moves::timeline(&api()?, &offer, out).await,
        Command::Log { from, most, follow } => ledger::log(&api()?, from, most, follow, out).await,
        Command::Events => ledger::events(&api()?, out).await,
        Command::Audit(args) => audit::audit(args, config, api, out).await,
        Command::Prove(args) => proof::prove(&args, config, api).await,
        Command::Verify(args) => proof::verify(&args, out),
        Command::Export(args) => export::export(args, api, out).await,
        Command::Follow { until, settings } => follow::follow(config, &settings, until, out).await,
        Command::Rebuild { yes } => rebuild::rebuild(yes, config, out).await,
        Command::Member(MemberCommand::List) => member::list(&api()?, out).await,
        Command::Member(MemberCommand::Admit { member, force }) => member::admit(&api()?, &member, force, out).await,
        Command::Member(MemberCommand::Promote(args)) => member::change(&api()?, Verb::Promote, &args, out).await,
        Command::Member(MemberCommand::Demote(args)) => member::change(&api()?, Verb::Demote, &args, out).await,
        Command::Member(MemberCommand::Remove(args)) => member::change(&api()?, Verb::Remove, &args, out).await,
        Command::Member(MemberCommand::Readmit(args)) => member::change(&api()?, Verb::Readmit, &args, out).await,
        Command::Member(MemberCommand::Rotate(args)) if args.finish => member::finish_rotation(config, &args, out),
        Command::Member(MemberCommand::Rotate(args)) => member::rotate(&api()?, config, &args, out).await,
        Command::Member(MemberCommand::Approve(args)) => member::approve(&api()?, &args.files, args.force, out).await,
        Command::Member(MemberCommand::Submit(args)) => member::submit(&api()?, &args.files, args.force, out).await,
        Command::Client(ClientCommand::Init { key }) => vehicle::init(&key, out),
        Command::Client(ClientCommand::Report(args)) => vehicle::report(&args, out).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "godwit", &mut script);
            out.text(&String::from_utf8_lossy(&script))
        }
    }
}

#[cfg(test)]
mod tests;
