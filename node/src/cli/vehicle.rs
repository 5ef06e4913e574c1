//! `client`: a vehicle's or device's side.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use godwit_ledger::genesis::Genesis;
use godwit_protocol::bounded::List;
use godwit_protocol::report::{Report, Signal};
use godwit_protocol::{ClientId, Dbm, MeshId, SiteId, Time};
use godwit_protocol::{Signed, Verified};
use libp2p::Multiaddr;
use serde::Serialize;

use super::args::ReportArgs;
use super::failure::Failure;
use super::found::read_text;
use super::input;
use super::out::Out;
use crate::api::fault::chain;
use crate::net::client::Client;
use crate::net::report::Answer;
use crate::{genesis, key};

/// Sites that a client hears; a report holds no more.
const HEARD_MAX: usize = 16;

/// `godwit client init`.
pub fn init(file: &Path, out: Out) -> Result<(), Failure> {
    let client = ClientId::from(key::write_new(file)?.verifying_key());
    out.remark(&format!("made the key {}; the client's id, for `godwit deploy --client`:", file.display()));
    if out.json { out.json_line(&serde_json::json!({ "client": client })) } else { out.text(&format!("{client}\n")) }
}

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    after: Duration,
    signals: Vec<Signal>,
}

/// `godwit client report`.
pub async fn report(args: &ReportArgs, out: Out) -> Result<(), Failure> {
    let key = key::read(&args.key)?;
    let genesis = genesis::read(&args.genesis)?;
    let mesh = mesh(args, &genesis)?;
    let trace = match &args.trace {
        Some(file) => trace(&read_text(&file.display().to_string())?, &genesis)?,
        None => vec![Heard { after: Duration::ZERO, signals: signals(&args.signals, &genesis)? }],
    };
    let sites = if args.to.is_empty() { addresses(&genesis) } else { args.to.clone() };
    let mut client = connect(&key, mesh, &sites).await?;
    let start = tokio::time::Instant::now();
    let (reports, mut refused) = (trace.len(), 0);
    for heard in trace {
        tokio::time::sleep_until(start + heard.after).await;
        let report = signed(&mesh, &key, heard.signals)?;
        let answer = match client.send(&report).await {
            Ok(answer) => answer,
            // The site may have gone, and another may answer.
            Err(lost) => {
                out.remark(&format!("connecting again: {}", chain(&lost)));
                client = connect(&key, mesh, &sites).await?;
                client.send(&report).await.map_err(|lost| part("report", lost.into()))?
            }
        };
        if let Answer::Refused(why) = answer {
            refused += 1;
            out.remark(&format!("{} refused the report: {why}", client.site().short()));
        }
        out.json_line(&Reported { site: client.site(), report: report.body, answer })?;
    }
    match refused {
        0 => Ok(()),
        _ => Err(Failure::Verdict(format!("{refused} of {reports} reports were refused"))),
    }
}

/// A report and what became of it.
#[derive(Serialize)]
struct Reported {
    site: SiteId,
    report: Report,
    answer: Answer,
}

async fn connect(key: &SigningKey, mesh: MeshId, sites: &[Multiaddr]) -> Result<Client, Failure> {
    Client::connect(key.clone(), mesh, sites).await.map_err(|error| part("connect to a site", error.into()))
}

fn part(what: &'static str, source: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    let remedy = "does a site run at these addresses, and was a container deployed with `--client` and this key's id?";
    Failure::Part { what, source, remedy: Some(remedy.to_owned()) }
}

/// The clock's milliseconds serve as the sequence: they rise over restarts, and clients report seldom.
fn signed(mesh: &MeshId, key: &SigningKey, signals: Vec<Signal>) -> Result<Signed<Report>, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let report = Report { sequence: now, at: Time(now), signals: List::first(signals) };
    let signed = Signed::sign(mesh, key, report).map(Verified::into_signed);
    signed.map_err(|source| Failure::Encode { what: "the report", source })
}

fn mesh(args: &ReportArgs, genesis: &Genesis) -> Result<MeshId, Failure> {
    let mesh = genesis.mesh();
    match args.mesh {
        Some(given) if given != mesh => Err(bad("--mesh", format!("{} founds mesh {mesh}", args.genesis.display()))),
        _ => Ok(mesh),
    }
}

fn addresses(genesis: &Genesis) -> Vec<Multiaddr> {
    genesis
        .members
        .iter()
        .flat_map(|member| member.addresses.iter())
        .filter_map(|text| text.as_str().parse().ok())
        .collect()
}

/// One line is one report: milliseconds, then SITE=DBM for each site heard. Empty lines and `#` comments are skipped.
fn trace(text: &str, genesis: &Genesis) -> Result<Vec<Heard>, Failure> {
    let mut trace: Vec<Heard> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let at = |reason: String| bad(&format!("line {} of the trace", number + 1), reason);
        let mut words = line.split_whitespace();
        let after = words.next().and_then(|word| word.parse().ok()).map(Duration::from_millis);
        let after = after.ok_or_else(|| at("it does not begin with milliseconds".to_owned()))?;
        if trace.last().is_some_and(|before| before.after > after) {
            return Err(at("its time is before the line's above".to_owned()));
        }
        let named: Vec<_> = words.map(input::signal).collect::<Result<_, _>>().map_err(at)?;
        trace.push(Heard { after, signals: signals(&named, genesis)? });
    }
    if trace.is_empty() { Err(bad("the trace", "it is empty".to_owned())) } else { Ok(trace) }
}

fn signals(named: &[(String, Dbm)], genesis: &Genesis) -> Result<Vec<Signal>, Failure> {
    let mut signals: Vec<Signal> = Vec::new();
    for (name, dbm) in named {
        let site = site(name, genesis)?;
        if signals.iter().any(|signal| signal.site == site) {
            return Err(bad(name, "it is heard twice in one report".to_owned()));
        }
        signals.push(Signal { site, dbm: *dbm });
    }
    if signals.is_empty() || signals.len() > HEARD_MAX {
        return Err(bad("the report", format!("{} sites are heard, where 1 to {HEARD_MAX} fit", signals.len())));
    }
    Ok(signals)
}

/// A site by name or by the beginning of its id, as the genesis knows it; a whole id may be of a later member.
fn site(name: &str, genesis: &Genesis) -> Result<SiteId, Failure> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let named: Vec<_> = genesis.members.iter().filter(|member| member.name.as_str() == name).collect();
    let fitting: Vec<_> = if named.is_empty() {
        genesis.members.iter().filter(|member| member.site.to_string().starts_with(name)).collect()
    } else {
        named
    };
    match fitting.as_slice() {
        [one] => Ok(one.site),
        [] => Err(bad(name, "the genesis has no site of this name or id".to_owned())),
        _ => Err(bad(name, "it fits several sites: give more of the id".to_owned())),
    }
}

fn bad(what: &str, reason: String) -> Failure {
    let remedy = "`godwit client report --help` shows how signals and traces are written".to_owned();
    Failure::Input { what: what.to_owned(), reason, remedy }
}

#[cfg(test)]
mod tests {
    use godwit_protocol::Address;
    use godwit_protocol::bounded::Text;
    use godwit_protocol::membership::{Member, Role};

    use super::*;

    fn genesis() -> Genesis {
        let member = |(n, name): (u8, &str)| Member {
            site: SiteId([n; 32]),
            role: Role::Validator,
            name: Text::clipped(name),
            addresses: List::default(),
        };
        Genesis {
            name: Text::clipped("harbour"),
            founded: Time(0),
            network: Address([10, 77, 0, 0].into()),
            prefix: 16,
            clock_bound_ms: 500,
            members: List::first([(0xa1, "porto"), (0xa2, "faro"), (0xb3, "faro")].map(member)),
        }
    }

    #[test]
    fn a_trace_is_read_line_by_line() {
        let read = trace("# a drive\n0 porto=-60\n\n1000 porto=-99 a2=-70 # turning\n", &genesis()).unwrap();
        let signal = |n: u8, dbm: i16| Signal { site: SiteId([n; 32]), dbm: Dbm(dbm) };
        let heard = |ms, signals: &[Signal]| Heard { after: Duration::from_millis(ms), signals: signals.to_vec() };
        assert_eq!(read, [heard(0, &[signal(0xa1, -60)]), heard(1000, &[signal(0xa1, -99), signal(0xa2, -70)])]);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_refused() {
        for text in [
            "",
            "porto=-60",
            "0",
            "0 lagos=-60",
            "0 faro=-60",
            "0 porto=-60 a1=-61",
            "0 porto",
            "1000 porto=-60\n500 porto=-61",
        ] {
            assert!(trace(text, &genesis()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_report_is_signed_by_the_client_for_its_mesh() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let mesh = genesis().mesh();
        let report = signed(&mesh, &key, vec![Signal { site: SiteId([1; 32]), dbm: Dbm(-70) }]).unwrap();
        assert_eq!(report.author, ClientId::from(key.verifying_key()));
        assert!(report.clone().verify(&mesh).is_ok() && report.verify(&MeshId([0; 32])).is_err());
    }
}
