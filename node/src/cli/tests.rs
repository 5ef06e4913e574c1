//! What can be typed, what is printed, and the commands against a fake site.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::error::ErrorKind;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::fake;
use crate::api::routes::Api;
use crate::api::serve::Listeners;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_an_example() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        if command.has_subcommands() {
            command.get_subcommands().for_each(|sub| check(sub, &path));
        } else if !command.is_hide_set() {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains(path.trim()), "{path} shows no example of itself");
        }
    }
    Cli::command().get_subcommands().for_each(|sub| check(sub, "godwit"));
}

#[test]
fn the_examples_in_the_help_can_be_typed() {
    fn examples(command: &clap::Command, found: &mut Vec<String>) {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in after.lines().map(str::trim).filter(|line| line.starts_with("godwit ") && !line.contains("COMMAND"))
        {
            let typed = line.split(['|', '>', ';']).next().unwrap_or_default().trim();
            // The founding example explains itself after two spaces, and ids are abridged.
            let typed = typed.split("  ").next().unwrap_or_default().replace("5f0c...e1", &"5f".repeat(32));
            let typed = typed.replace("0f3c...9a", &"0f".repeat(32));
            found.push(typed);
        }
        command.get_subcommands().for_each(|sub| examples(sub, found));
    }
    let mut found = Vec::new();
    examples(&Cli::command(), &mut found);
    assert!(found.len() > 40, "{}", found.len());
    for line in found {
        if let Err(refused) = parse(&line) {
            panic!("`{line}`: {refused}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cases = [
        ("godwit", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("godwit fly", ErrorKind::InvalidSubcommand),
        ("godwit deploy", ErrorKind::MissingRequiredArgument),
        ("godwit deploy --cpus 0 a", ErrorKind::ValueValidation),
        ("godwit deploy --memory lots a", ErrorKind::ValueValidation),
        ("godwit deploy -p 80:x a", ErrorKind::ValueValidation),
        ("godwit deploy --client abc a", ErrorKind::ValueValidation),
        ("godwit deploy a b", ErrorKind::UnknownArgument),
        ("godwit stop", ErrorKind::MissingRequiredArgument),
        ("godwit log --most 0", ErrorKind::ValueValidation),
        ("godwit audit", ErrorKind::MissingRequiredArgument),
        ("godwit audit --live /var/lib/godwit", ErrorKind::ArgumentConflict),
        ("godwit audit --checkpoint 17 /var/lib/godwit", ErrorKind::ValueValidation),
        ("godwit prove", ErrorKind::MissingRequiredArgument),
        ("godwit prove --genesis g 9c1f", ErrorKind::MissingRequiredArgument),
        ("godwit verify --mesh 5f a.proof", ErrorKind::ValueValidation),
        ("godwit export --format xml /var/lib/godwit", ErrorKind::InvalidValue),
        ("godwit export --out a.csv", ErrorKind::MissingRequiredArgument),
        ("godwit follow --until soon", ErrorKind::ValueValidation),
        ("godwit --api ftp://x ps", ErrorKind::ValueValidation),
        ("godwit member approve", ErrorKind::MissingRequiredArgument),
        ("godwit member promote", ErrorKind::MissingRequiredArgument),
        ("godwit member rotate --finish --force", ErrorKind::ArgumentConflict),
        ("godwit client report", ErrorKind::MissingRequiredArgument),
        ("godwit client report --signal porto=5", ErrorKind::ValueValidation),
        ("godwit client report --signal porto=-5 --trace x", ErrorKind::ArgumentConflict),
        ("godwit genesis create --name a --network 10.0.0.0 b", ErrorKind::ValueValidation),
        ("godwit completions klingon", ErrorKind::InvalidValue),
    ];
    for (line, kind) in cases {
        assert_eq!(parse(line).expect_err(line).kind(), kind, "{line}");
    }
}

#[test]
fn deploy_takes_all_that_it_documents() {
    let id = "5f".repeat(32);
    let line = format!(
        "godwit deploy cam:2 --name cam --cpus 0.5 --memory 256m --gpu 1 -p 8080:80 -p 53:53/udp -e A=B --stateless \
         --max-delay 50ms --client {id} --json -- run --fast"
    );
    let cli = parse(&line).unwrap();
    let Command::Deploy(args) = cli.command else { panic!("not deploy") };
    assert!(cli.json && args.stateless);
    assert_eq!((args.image.as_str(), args.cpus.0, args.memory.0, args.gpu), ("cam:2", 500, 256 << 20, 1));
    assert_eq!((args.ports.len(), args.max_delay.0, args.clients.len()), (2, 50, 1));
    assert_eq!(args.env, ["A=B"]);
    assert_eq!(args.command, ["run", "--fast"]);
}

#[test]
fn flags_of_run_become_settings() {
    let Command::Run(args) = parse("godwit run --listen /a --listen /b --key k --set log=debug").unwrap().command
    else {
        panic!("not run");
    };
    let settings = args.settings();
    let value = |key: &str| settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.clone());
    assert_eq!(value("listen"), Some("/a,/b".to_owned()));
    assert_eq!(value("log"), Some("debug".to_owned()));
    assert!(Path::new(&value("key").unwrap()).is_absolute());
    assert!(settings.iter().any(|setting| setting.flag == "--set log"));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let Command::Completions { shell } = parse(&format!("godwit completions {shell}")).unwrap().command else {
            panic!("not completions");
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "godwit", &mut script);
        let script = String::from_utf8(script).unwrap();
        for command in ["timeline", "migrate", "doctor", "prove", "follow"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn tables_are_aligned_and_readable() {
    console::set_colors_enabled(false);
    let expected = "\
NAME   CONTAINER     IMAGE    SITE   STATE    ADDRESS            CPU             MEMORY  GPU  MAX DELAY  MOVES
cam    313131313131  cam:1    porto  running  10.77.0.49  0.25 / 0.5  100 MiB / 256 MiB    0     100 ms      2
redis  323232323232  redis:1  porto  running  10.77.0.50  0.25 / 0.5  100 MiB / 256 MiB    0     100 ms      2
cam2   414141414141  cam2:1   faro   moving   10.77.0.65         0.5            256 MiB    0     100 ms      2
";
    assert_eq!(containers::containers_table(&fake::containers()), expected);

    let expected = "\
NAME   SITE          ROLE       STATE  ADDRESS    NETWORK      CPU         MEMORY   MEM %  GPU  CONTAINERS    HEARD
porto  a1a1a1a1a1a1  validator  here   192.0.2.7  quay     0.5 / 4  3 GiB / 8 GiB  50.0 %    0           2  1.200 s
faro   a2a2a2a2a2a2  validator  away   -          -              -              -       -    -           1        -
";
    assert_eq!(site::sites_table(&fake::sites()), expected);

    let expected = "\
OFFER         OPENED        CONTAINER  SOURCE  WHY       STATE    WINNER  BIDS  DECLINES  ATTEMPT  ENDED
9c9c9c9c9c9c  04:15:07.123  cam        porto   overload  awarded  faro       1         1        1  -
";
    assert_eq!(moves::offers_table(&fake::offers()), expected);

    let expected = "\
offer 9c9c9c9c9c9c: cam from porto to faro, done
from 2026-11-22 04:15:07.123 UTC

     AT  SINCE LAST  STEP     SITE   DETAIL
   0 ms       +0 ms  offer    porto  overload: memory 612 ‰
  48 ms      +48 ms  award           faro of 2 bidders
1.448 s    +1.400 s  receipt  faro   epoch 2

measured by the target: commit 15 ms, send 200 ms
moved 1.5 MiB
";
    assert_eq!(moves::timeline_table(&fake::timeline()), expected);

    let expected = "\
block 2 111111111111  2026-11-22 04:15:07.123 UTC  by porto, 3 signers, round 0
  070707070707  abort       porto             attempt 1 of 9c9c9c9c: silent
";
    assert_eq!(ledger::block_text(&fake::block(2)), expected);

    let status = site::status_table(&fake::status());
    assert!(status.contains("role         validator\n"), "{status}");
    assert!(status.contains("peers        1 of 2 members, 2 validators\n"), "{status}");
}

/// A fake site behind a real socket.
struct Answering {
    _folder: tempfile::TempDir,
    socket: PathBuf,
}

async fn answering() -> Answering {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listeners = Listeners::bind(&socket, None).await.unwrap();
    let api = Api { site: fake::site(), metrics: Arc::new(Registry::default()), stopping: CancellationToken::new() };
    tokio::spawn(listeners.serve(api));
    Answering { _folder: folder, socket }
}

async fn typed(site: &Answering, line: &str) -> Result<(), Failure> {
    run(parse(&format!("godwit --api {} {line}", site.socket.display())).unwrap()).await
}

#[tokio::test]
async fn commands_reach_the_site() {
    let site = answering().await;
    for line in [
        "status",
        "sites --json",
        "ps --local",
        "deploy redis:7 --name db",
        "stop cam redis",
        "rm --force cam",
        "logs cam --tail 1",
        "offers",
        "migrate cam",
        "migrate cam --wait",
        "drain",
        "drain --off",
        "timeline 9c",
        "log --from 2 -n 1",
        "member list",
    ] {
        if let Err(failure) = typed(&site, line).await {
            panic!("{line}: {}", failure.text(false));
        }
    }
}

#[tokio::test]
async fn a_refusal_comes_with_its_remedy_and_a_handoff_that_fails_is_a_failure() {
    console::set_colors_enabled_stderr(false);
    let site = answering().await;
    let refused = typed(&site, "stop cam2").await.unwrap_err();
    assert_eq!(refused.text(false), "error: cam2 is at faro\n       stop it at faro");
    assert_eq!(refused.text(true), r#"{"error":"cam2 is at faro","remedy":"stop it at faro"}"#);
    let stayed = typed(&site, "migrate cam --prefer faro --wait").await.unwrap_err();
    assert!(stayed.text(false).contains("no site bid"), "{}", stayed.text(false));
}

#[tokio::test]
async fn an_absent_site_is_told_from_a_forbidden_one() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let absent = run(parse(&format!("godwit --api {} ps", socket.display())).unwrap()).await.unwrap_err();
    let text = absent.text(false);
    assert!(text.contains(&format!("cannot reach the site at {}", socket.display())), "{text}");
    assert!(text.contains("is `godwit run` running?"), "{text}");
}

#[tokio::test]
async fn sites_are_made_and_found_a_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display().to_string();
    for (name, address) in [("porto", "192.0.2.7"), ("faro", "192.0.2.8")] {
        let init = format!("godwit -c {place}/{name}/godwit.toml init --name {name} --address {address}");
        run(parse(&init).unwrap()).await.unwrap();
        let key = std::fs::read_to_string(format!("{place}/{name}/site.key")).unwrap();
        let line = std::fs::read_to_string(format!("{place}/{name}/member.json")).unwrap();
        assert!(line.contains(&format!(r#""name":"{name}""#)) && line.contains(address), "{line}");
        // Again changes nothing, and flags that it would have to ignore are refused.
        run(parse(&format!("godwit -c {place}/{name}/godwit.toml init")).unwrap()).await.unwrap();
        assert_eq!(std::fs::read_to_string(format!("{place}/{name}/site.key")).unwrap(), key);
        assert_eq!(std::fs::read_to_string(format!("{place}/{name}/member.json")).unwrap(), line);
        let refused = run(parse(&init).unwrap()).await.unwrap_err();
        assert!(refused.text(false).contains("--address"), "{}", refused.text(false));
    }
    let create = format!(
        "godwit genesis create --name harbour {place}/porto/member.json {place}/faro/member.json --out {place}/genesis.toml"
    );
    run(parse(&create).unwrap()).await.unwrap();
    let genesis = crate::genesis::read(&folder.path().join("genesis.toml")).unwrap();
    assert_eq!((genesis.members.len(), genesis.name.as_str()), (2, "harbour"));
    run(parse(&format!("godwit genesis show {place}/genesis.toml --json")).unwrap()).await.unwrap();
    let twice = format!("godwit genesis create --name b {place}/faro/member.json {place}/faro/member.json");
    assert!(run(parse(&twice).unwrap()).await.unwrap_err().text(false).contains("occurs twice"));
}

#[test]
fn an_audit_tells_an_honest_ledger_from_a_bad_one() {
    use godwit_protocol::bounded::{List, Text};
    use godwit_protocol::membership::{Member, Role};

    let site = ed25519_dalek::SigningKey::from_bytes(&[1; 32]).verifying_key().into();
    let founder = Member { site, role: Role::Validator, name: Text::clipped("porto"), addresses: List::default() };
    let genesis = godwit_ledger::genesis::Genesis {
        name: Text::clipped("harbour"),
        founded: godwit_protocol::Time(1),
        network: godwit_protocol::Address([10, 77, 0, 0].into()),
        prefix: 16,
        clock_bound_ms: 500,
        members: List::first([founder]),
    };
    let none: [io::Result<Vec<u8>>; 0] = [];
    let honest = seam::judge(&genesis, None, none, &mut |_, _| ());
    console::set_colors_enabled(false);
    assert!(audit::audited_text(&honest).ends_with("audit: OK\n"));
    let json = serde_json::to_value(&honest).unwrap();
    assert_eq!((json["verdict"].as_str(), json["signatures"].as_u64()), (Some("ok"), Some(0)));
    let torn: [io::Result<Vec<u8>>; 1] = [Err(io::Error::other("a torn page"))];
    let torn = seam::judge(&genesis, None, torn, &mut |_, _| ());
    let json = serde_json::to_value(&torn).unwrap();
    assert_eq!((json["verdict"].as_str(), json["height"].as_u64()), (Some("bad"), Some(1)));
    assert!(json["reason"].as_str().unwrap().contains("a torn page"), "{json}");
    assert_eq!(audit::audited_text(&torn), "");
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

#[tokio::test]
async fn a_proof_is_written_by_a_site_and_verified_without_it() {
    let site = answering().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.proof");
    typed(&site, &format!("prove 88 --out {}", file.display())).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(golden("valid.proof")).unwrap());
    let absent = typed(&site, &format!("prove 71 --out {}", file.display())).await.unwrap_err();
    assert!(absent.text(false).contains("no record"), "{}", absent.text(false));

    let bundle = godwit_ledger::bundle::Bundle::from_bytes(&std::fs::read(&file).unwrap()).unwrap();
    let genesis = folder.path().join("genesis.toml");
    crate::genesis::write_new(&genesis, &bundle.genesis).unwrap();
    for trust in
        [String::new(), format!("--mesh {}", bundle.genesis.mesh()), format!("--genesis {}", genesis.display())]
    {
        let verify = format!("godwit verify {} {trust}", file.display());
        run(parse(verify.trim()).unwrap()).await.unwrap();
    }
    let other = format!("godwit verify {} --mesh {}", file.display(), "5f".repeat(32));
    let refused = run(parse(&other).unwrap()).await.unwrap_err().text(false);
    assert!(refused.contains("it is of mesh"), "{refused}");
}

#[tokio::test]
async fn a_bad_proof_is_refused_by_what_is_wrong_with_it() {
    let index = std::fs::read_to_string(golden("proofs.txt")).unwrap();
    for line in index.lines() {
        let (name, verdict) = line.split_once('\t').unwrap();
        let judged = run(parse(&format!("godwit verify {}", golden(name).display())).unwrap()).await;
        match judged {
            Ok(()) => assert!(verdict.starts_with("ok "), "{line}"),
            Err(failure) => assert!(failure.text(false).contains(verdict), "{line}: {}", failure.text(false)),
        }
    }
}

#[test]
fn what_was_proved_is_told_in_words_and_what_is_to_be_compared_is_said() {
    console::set_colors_enabled(false);
    let bytes = std::fs::read(golden("valid.proof")).unwrap();
    let bundle = godwit_ledger::bundle::Bundle::from_bytes(&bytes).unwrap();
    let proved = bundle.check().unwrap();
    let text = proof::shown_text(&proof::shown(&bundle.genesis, proved.clone(), None));
    for told in
        ["block       12, its record 3 of 5\n", "signed by   3 of 4 validators: ", "says        register: counter"]
    {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(text.contains("Compare the mesh's id above"), "{text}");
    let text = proof::shown_text(&proof::shown(&bundle.genesis, proved.clone(), Some(proved.mesh)));
    assert!(text.ends_with("verify: OK\n"), "{text}");
}
