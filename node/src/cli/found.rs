//! `init` and `genesis`: from nothing to a mesh.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use godwit_ledger::genesis::{Genesis, MAX_FOUNDERS};
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::membership::{Member, Role};
use godwit_protocol::{Address, SiteId, Time};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde::Serialize;

use super::args::{CreateArgs, InitArgs};
use super::failure::Failure;
use super::out::Out;
use super::table::{fields, moment, short, table};
use crate::api::token::Token;
use crate::config::{Config, DEFAULT_FILE, example};
use crate::{genesis, key};

/// Member lines in one file: as many founders as a genesis takes, each with 8 addresses.
const MEMBERS_MAX: u64 = 2 * 1024 * 1024;

/// `godwit init`.
pub fn init(args: &InitArgs, config: Option<&Path>, out: Out) -> Result<(), Failure> {
    let file = absolute(config.unwrap_or(Path::new(DEFAULT_FILE)))?;
    let given = given(args, &file)?;
    if file.exists() {
        refuse_changes(args, &file)?;
        out.remark(&format!("kept the configuration {}", file.display()));
    } else {
        check(&given)?;
        write_config(&file, &given)?;
        out.remark(&format!("wrote the configuration {}", file.display()));
    }
    let config = Config::load(Some(&file), [], &[])?;
    let site_key = if config.key.exists() {
        out.remark(&format!("kept the key {}", config.key.display()));
        key::read(&config.key)?
    } else {
        let new = key::write_new(&config.key)?;
        out.remark(&format!("made the key {}: keep it secret, and a copy of it safe", config.key.display()));
        new
    };
    if let Some((_, token)) = &config.api.loopback
        && !token.exists()
    {
        Token::write_new(token).map_err(Failure::file("write the token", token))?;
        out.remark(&format!("made the API's token {}", token.display()));
    }
    let line = file.with_file_name("member.json");
    let before = read_members(&line.display().to_string()).ok().and_then(|members| members.into_iter().next());
    let member = member_of(args, &config, site_key.verifying_key().into(), before)?;
    let text = serde_json::to_string(&member).map_err(|error| Failure::file("write", &line)(error.into()))?;
    std::fs::write(&line, text + "\n").map_err(Failure::file("write", &line))?;
    out.remark(&format!("site {}\nits member line, for whoever founds or governs the mesh:", member.site));
    out.json_line(&member)
}

/// What the flags set, as TOML. Paths that are not given lie beside a configuration file that is not the default one.
fn given(args: &InitArgs, file: &Path) -> Result<Vec<(&'static str, String)>, Failure> {
    let folder = file.parent().filter(|_| file != Path::new(DEFAULT_FILE));
    let place = |given: &Option<PathBuf>, name: &str| -> Result<Option<String>, Failure> {
        let path = match (given, folder) {
            (Some(path), _) => Some(absolute(path)?),
            (None, Some(folder)) => Some(folder.join(name)),
            (None, None) => None,
        };
        Ok(path.map(|path| quoted(&path.display().to_string())))
    };
    let mut set = vec![
        ("data_dir", place(&args.data_dir, "data")?),
        ("genesis", place(&args.genesis, "genesis.toml")?),
        ("key", place(&args.key, "site.key")?),
        ("address", args.address.map(|address| quoted(&address.to_string()))),
        ("network", args.network.as_deref().map(quoted)),
    ];
    if !args.listen.is_empty() {
        let items: Vec<_> = args.listen.iter().map(|address| quoted(&address.to_string())).collect();
        set.push(("listen", Some(format!("[{}]", items.join(", ")))));
    }
    if let Some(listen) = args.api_listen {
        let token = file.parent().unwrap_or(Path::new("/")).join("api.token");
        set.push(("api_listen", Some(quoted(&listen.to_string()))));
        set.push(("api_token_file", Some(quoted(&token.display().to_string()))));
    }
    if let Some(folder) = folder {
        set.push(("api_socket", Some(quoted(&folder.join("api.sock").display().to_string()))));
    }
    Ok(set.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(Failure::file("find the place of", path))
}

/// Refuses what the configuration would refuse before it is written.
fn check(given: &[(&'static str, String)]) -> Result<(), Failure> {
    let folder =
        tempfile::tempdir().map_err(|source| Failure::Io { what: "make a scratch folder".to_owned(), source })?;
    let scratch = folder.path().join("godwit.toml");
    std::fs::write(&scratch, example(given)).map_err(Failure::file("write", &scratch))?;
    Config::load(Some(&scratch), [], &[])?;
    Ok(())
}

fn write_config(file: &Path, given: &[(&'static str, String)]) -> Result<(), Failure> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(Failure::file("create", folder))?;
    }
    let written =
        File::create_new(file).and_then(|mut f| f.write_all(example(given).as_bytes()).and_then(|()| f.sync_all()));
    written.map_err(Failure::file("write the configuration", file))
}

/// Flags cannot change a configuration that exists: silently ignoring them would be worse.
fn refuse_changes(args: &InitArgs, file: &Path) -> Result<(), Failure> {
    let flags = [
        ("--address", args.address.is_some()),
        ("--listen", !args.listen.is_empty()),
        ("--network", args.network.is_some()),
        ("--key", args.key.is_some()),
        ("--data-dir", args.data_dir.is_some()),
        ("--genesis", args.genesis.is_some()),
        ("--api-listen", args.api_listen.is_some()),
    ];
    match flags.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(Failure::Input {
            what: flag.to_string(),
            reason: format!("the configuration {} exists", file.display()),
            remedy: "change the setting in that file, or name another with `--config`".to_owned(),
        }),
    }
}

/// Name and role stay those of the line `before`, unless they are given.
fn member_of(args: &InitArgs, config: &Config, site: SiteId, before: Option<Member>) -> Result<Member, Failure> {
    let before = before.filter(|member| member.site == site);
    let role = args.role.or(before.as_ref().map(|member| member.role)).unwrap_or(Role::Validator);
    let name = match (&args.name, &before) {
        (Some(name), _) => name.clone(),
        (None, Some(before)) => before.name.to_string(),
        (None, None) => nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .map_err(|error| Failure::Io { what: "read the host's name".to_owned(), source: error.into() })?,
    };
    let refused = |what: &str, reason: String| Failure::Input {
        what: what.to_owned(),
        reason,
        remedy: "choose a shorter one".to_owned(),
    };
    let addresses: Vec<Text<255>> = config
        .net
        .listen
        .iter()
        .map(|listen| Text::new(&reachable_at(listen, config.net.address.0).to_string()))
        .collect::<Result<_, _>>()
        .map_err(|long| refused("--listen", long.to_string()))?;
    Ok(Member {
        site,
        role,
        name: Text::new(&name).map_err(|long| refused("--name", long.to_string()))?,
        addresses: List::new(addresses).map_err(|long| refused("--listen", long.to_string()))?,
    })
}

/// A wildcard address as others see it.
fn reachable_at(listen: &Multiaddr, address: Ipv4Addr) -> Multiaddr {
    let seen = |part| match part {
        Protocol::Ip4(ip) if ip.is_unspecified() => Protocol::Ip4(address),
        other => other,
    };
    listen.iter().map(seen).collect()
}

/// A mesh as `genesis create` and `genesis show` print it.
#[derive(Serialize)]
struct Founded<'a> {
    mesh: godwit_protocol::MeshId,
    file: Option<&'a Path>,
    genesis: &'a Genesis,
}

/// `godwit genesis create`.
pub fn create(args: &CreateArgs, out: Out) -> Result<(), Failure> {
    let mut members = Vec::new();
    for source in &args.members {
        members.extend(read_members(source)?);
    }
    members.sort_by_key(|member| member.site);
    let founded = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let refused = |what: &str, reason: String| Failure::Input {
        what: what.to_owned(),
        reason,
        remedy: "`godwit genesis create --help` shows how".to_owned(),
    };
    let genesis = Genesis {
        name: Text::new(&args.name).map_err(|long| refused("--name", long.to_string()))?,
        founded: Time(u64::try_from(founded).unwrap_or(u64::MAX)),
        network: Address(args.network.0),
        prefix: args.network.1,
        clock_bound_ms: args.clock_bound_ms,
        members: List::new(members).map_err(|long| refused("MEMBER", long.to_string()))?,
    };
    genesis.check().map_err(|bad| refused("the genesis", bad.to_string()))?;
    match &args.out {
        Some(file) => {
            genesis::write_new(file, &genesis)?;
            let founded = Founded { mesh: genesis.mesh(), file: Some(file), genesis: &genesis };
            out.show(&founded, founded_text)
        }
        None if out.json => out.json(&genesis),
        None => out.text(&genesis::to_toml(&genesis)),
    }
}

/// `godwit genesis show`.
pub fn show(file: &Path, out: Out) -> Result<(), Failure> {
    let genesis = genesis::read(file)?;
    out.show(&Founded { mesh: genesis.mesh(), file: Some(file), genesis: &genesis }, founded_text)
}

fn founded_text(founded: &Founded<'_>) -> String {
    let genesis = founded.genesis;
    let validators = genesis.members.iter().filter(|member| member.role == Role::Validator).count();
    let mut text = fields(&[
        ("mesh", founded.mesh.to_string()),
        ("name", genesis.name.to_string()),
        ("founded", format!("{} UTC", moment(genesis.founded))),
        ("containers", format!("{}/{}", genesis.network, genesis.prefix)),
        ("members", format!("{}, {validators} of them validators", genesis.members.len())),
        ("tolerates", format!("{} validators that fail or lie", validators.saturating_sub(1) / 3)),
    ]);
    text.push('\n');
    text.push_str(&members_table(&genesis.members));
    text
}

pub(super) fn members_table(members: &[Member]) -> String {
    let row = |member: &Member| {
        let addresses: Vec<_> = member.addresses.iter().map(ToString::to_string).collect();
        let role = format!("{:?}", member.role).to_lowercase();
        vec![member.name.to_string(), short(&member.site), role, addresses.join(" ")]
    };
    table(&["NAME", "SITE", "ROLE", "ADDRESSES"], &members.iter().map(row).collect::<Vec<_>>())
}

/// Members from a file, from `-` for standard input, or from the line itself.
pub(super) fn read_members(source: &str) -> Result<Vec<Member>, Failure> {
    let text = if source.trim_start().starts_with('{') { source.to_owned() } else { read_text(source)? };
    let bad = |reason: String| Failure::Input {
        what: format!("member lines of {}", source.chars().take(80).collect::<String>()),
        reason,
        remedy: "a member line is the JSON that `godwit init` prints".to_owned(),
    };
    let members: Vec<Member> = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .take(MAX_FOUNDERS + 1)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(error.to_string()))?;
    if members.is_empty() { Err(bad("there is none".to_owned())) } else { Ok(members) }
}

/// A bounded file, or standard input for `-`.
pub(super) fn read_text(source: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if source == "-" {
        std::io::stdin().take(MEMBERS_MAX).read_to_string(&mut text)
    } else {
        File::open(source).and_then(|file| file.take(MEMBERS_MAX).read_to_string(&mut text))
    };
    read.map_err(Failure::file("read", source)).map(|_| text)
}
