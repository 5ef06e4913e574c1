//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use godwit_ledger::audit::Checkpoint;
use godwit_protocol::membership::Role;
use godwit_protocol::{Bytes, ClientId, Dbm, MeshId, MilliCpu, Millis};
use libp2p::Multiaddr;

use super::client::Endpoint;
use super::export::Format;
use super::input;
use crate::api::view::Port;
use crate::config::Setting;
use crate::runtime::helper;

const EXAMPLES: &str = "\
A mesh of three sites:
  each site:    godwit init --name porto            prints the site's member line
  one site:     godwit genesis create --name harbour porto.json faro.json lagos.json --out genesis.toml
  each site:    copy genesis.toml to /etc/godwit/genesis.toml; godwit doctor; godwit run
A container:
  godwit deploy --memory 128m --cpus 0.5 redis:7
  godwit ps
  godwit migrate redis --wait

`godwit COMMAND --help` shows examples of each command.";

/// Godwit moves running containers between edge sites without stopping them, and without a central cloud.
#[derive(Debug, Parser)]
#[command(name = "godwit", version, after_help = EXAMPLES, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// The site's API: the path of its socket, or http://127.0.0.1:PORT [default: the configured socket]
    #[arg(long, global = true, env = "GODWIT_API", value_name = "SOCKET|URL")]
    pub api: Option<Endpoint>,
    /// The file with the API's token, for an http:// API [or the variable GODWIT_API_TOKEN]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// The configuration file [default: /etc/godwit/godwit.toml]
    #[arg(long, short = 'c', global = true, env = "GODWIT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)] // fields are documented as the help that they become
pub enum Command {
    /// Make this site's key and configuration, and print its member line for the founder
    #[command(after_help = "\
Examples:
  godwit init --name porto
  godwit init --name porto --address 192.0.2.7 --network harbour-lan > porto.json
  godwit -c ./site/godwit.toml init --key ./site/site.key --data-dir ./site/data

Keeps what exists and is safe to run twice. Give the printed line to whoever runs `godwit genesis create`.")]
    Init(InitArgs),
    /// Found a mesh, or look at one's founding document
    #[command(subcommand)]
    Genesis(GenesisCommand),
    /// Check the configuration, or print an example of one
    #[command(after_help = "\
Examples:
  godwit config
  godwit config --example > /etc/godwit/godwit.toml")]
    Config {
        /// Print a file with every setting, commented out at its default
        #[arg(long)]
        example: bool,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// Run the site in the foreground, until SIGTERM or Ctrl-C
    #[command(after_help = "\
Examples:
  godwit run
  godwit run --listen /ip4/0.0.0.0/udp/4101/quic-v1 --peer /dns4/faro.example/udp/4101/quic-v1
  godwit run --set cpu_threshold=700 --set log=debug")]
    Run(SettingArgs),
    /// Hold the dump of a container, for the site that starts this
    #[command(name = helper::HOLD, hide = true)]
    HoldDump { socket: PathBuf },
    /// Guard what a restored container still lacks, for the site that starts this
    #[command(name = helper::GUARD, hide = true)]
    GuardPages { criu: PathBuf, control: PathBuf, restore_s: u64, patience_s: u64 },
    /// Check this machine: engine, CRIU, kernel, clock, ports, permissions, disk
    #[command(after_help = "\
Examples:
  godwit doctor
  godwit doctor --fix
  godwit doctor --json | jq '.[] | select(.verdict == \"fail\")'

Says for each failure what to do. Exit code 1 if something failed.")]
    Doctor {
        /// Tell Docker of godwit's OCI runtime and turn its experimental mode on, in /etc/docker/daemon.json, first
        #[arg(long)]
        fix: bool,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// Show the site at a glance
    #[command(after_help = "Examples:\n  godwit status\n  godwit status --json | jq -r .state_root")]
    Status,
    /// List the sites of the mesh with their capacity
    #[command(after_help = "Examples:\n  godwit sites")]
    Sites,
    /// Run a container on this site and bring it into the mesh
    #[command(after_help = "\
Examples:
  godwit deploy redis:7
  godwit deploy --name cam --cpus 0.5 --memory 256m -p 8080:80 -e MODE=fast registry.example/cam:2 -- --verbose
  godwit deploy --stateless --memory 64m nginx:1.29
  godwit deploy --client 5f0c...e1 --max-delay 50ms driving-assistant:1")]
    Deploy(DeployArgs),
    /// List the containers of the mesh
    #[command(after_help = "Examples:\n  godwit ps\n  godwit ps --local --json", visible_alias = "list")]
    Ps {
        /// Only those of this site
        #[arg(long)]
        local: bool,
    },
    /// Stop containers of this site; they stay registered until `rm`
    #[command(after_help = "Examples:\n  godwit stop cam")]
    Stop {
        /// Name, id or a unique beginning of it
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Remove containers of this site from engine and mesh
    #[command(after_help = "Examples:\n  godwit rm cam\n  godwit rm --force 3fa9 77c1")]
    Rm {
        /// Name, id or a unique beginning of it
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
        /// Even while it runs
        #[arg(long, short)]
        force: bool,
    },
    /// Print what a container of this site writes
    #[command(after_help = "Examples:\n  godwit logs --tail 20 cam\n  godwit logs --follow cam")]
    Logs {
        /// Name, id or a unique beginning of it
        container: String,
        /// Only so many of the last lines
        #[arg(long, short = 'n', value_name = "LINES")]
        tail: Option<u32>,
        /// Go on with what it writes from now on
        #[arg(long, short)]
        follow: bool,
    },
    /// List open offers and those that ended lately
    #[command(after_help = "Examples:\n  godwit offers")]
    Offers,
    /// Offer a container of this site to the others, who bid for it
    #[command(after_help = "\
Examples:
  godwit migrate cam
  godwit migrate cam --prefer faro --wait

Nobody names the destination: a preference weighs in the score, after a moving client's signal.")]
    Migrate {
        /// Name, id or a unique beginning of it
        container: String,
        /// A site that you would like: name, id or a unique beginning of it
        #[arg(long, value_name = "SITE")]
        prefer: Option<String>,
        /// Follow the handoff to its end and print its timeline
        #[arg(long, short)]
        wait: bool,
    },
    /// Let all containers go and accept none, for maintenance
    #[command(after_help = "Examples:\n  godwit drain\n  godwit drain --off")]
    Drain {
        /// End it
        #[arg(long)]
        off: bool,
    },
    /// Show one handoff step by step, with durations
    #[command(after_help = "Examples:\n  godwit offers\n  godwit timeline 9c1f")]
    Timeline {
        /// The offer's id or a unique beginning of it
        offer: String,
    },
    /// Print the ledger, readable
    #[command(after_help = "\
Examples:
  godwit log
  godwit log --from 1 --most 100
  godwit log --follow
  godwit log --json | jq -c '.records[]'")]
    Log {
        /// The first height [default: so that the last blocks are shown]
        #[arg(long, value_name = "HEIGHT")]
        from: Option<u64>,
        /// How many blocks
        #[arg(long, short = 'n', value_name = "BLOCKS", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=256))]
        most: u16,
        /// Go on with blocks as they are committed
        #[arg(long, short)]
        follow: bool,
    },
    /// Print what happens at the site, as it happens, as JSON lines
    #[command(after_help = "Examples:\n  godwit events | jq -c 'select(.kind == \"step\")'")]
    Events,
    /// Verify a ledger: hash chain, certificates, signatures, replay of the state
    #[command(after_help = "\
Examples:
  godwit audit /var/lib/godwit
  godwit audit --genesis genesis.toml ./copy-of-faro
  godwit audit --live
  godwit audit --checkpoint 4711:0f3c...9a /var/lib/godwit

Names the first bad block, with exit code 1, if there is one. An audit prints the tip: the last block's hash, by which a
later one can be told what was verified before. Up to such a checkpoint certificates are not verified again.")]
    Audit(AuditArgs),
    /// Make a proof of one record, for somebody who has no copy of the ledger
    #[command(after_help = "\
Examples:
  godwit log
  godwit prove 9c1f > receipt.proof
  godwit prove --dir ./copy-of-faro --genesis genesis.toml --out receipt.proof 9c1f")]
    Prove(ProveArgs),
    /// Verify a proof of one record, with no copy of the ledger and no site
    #[command(after_help = "\
Examples:
  godwit verify --genesis genesis.toml receipt.proof
  godwit verify --mesh 5f0c...e1 receipt.proof
  godwit verify receipt.proof

Exit code 1 if it proves nothing. Without a genesis or the mesh's id, compare the id that it prints.")]
    Verify(VerifyArgs),
    /// Write the ledger's records as JSON Lines, CSV or Parquet
    #[command(after_help = "\
Examples:
  godwit export --live > records.jsonl
  godwit export --from 1000 --to 2000 --out records.csv /var/lib/godwit
  godwit export --format parquet --out records.parquet ./copy-of-faro

It verifies nothing: see `godwit audit`.")]
    Export(ExportArgs),
    /// Keep a verified copy of the ledger, without a vote: an observer's program
    #[command(after_help = "\
Examples:
  godwit init -c ./auditor/godwit.toml --name auditor --role observer --address 192.0.2.9
  godwit follow -c ./auditor/godwit.toml
  godwit follow -c ./auditor/godwit.toml --until 4711
  godwit audit ./auditor/data

The validators must admit its member line first: `godwit member --help`. It needs no container engine. Ctrl-C ends it.")]
    Follow {
        /// End once the block of this height is there
        #[arg(long, value_name = "HEIGHT")]
        until: Option<u64>,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// Move a damaged ledger aside, so that the site fetches it again from the others
    #[command(after_help = "\
Examples:
  godwit rebuild
  godwit rebuild --yes --json

For a site that does not start because its ledger or write-ahead log is damaged or lost, and for one whose data folder was
lost as a whole: before its next `godwit run`. The site must not be running. Nothing is deleted: what is damaged goes to
the folder `aside`. A validator then follows without voting until a block is committed that was built after this moment:
on the blocks before it, it may have voted and does not remember. If too few others vote meanwhile, the ledger stands
still: bring them back first.")]
    Rebuild {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// The mesh's members: list, and change by the approval of the validators
    #[command(subcommand)]
    Member(MemberCommand),
    /// A vehicle's or device's side
    #[command(subcommand)]
    Client(ClientCommand),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  godwit completions bash > /etc/bash_completion.d/godwit
  godwit completions zsh > ~/.zfunc/_godwit")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// `godwit init`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct InitArgs {
    /// The site's name in the mesh [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// What the site is to do in the mesh: validator, member or observer [default: validator]
    #[arg(long, value_parser = input::role)]
    pub role: Option<Role>,
    /// The IPv4 address at which other sites reach this one [default: that of the default route]
    #[arg(long, value_name = "IPV4")]
    pub address: Option<std::net::Ipv4Addr>,
    /// Where to listen; repeat it for several
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,
    /// Your name for the network that the site is on
    #[arg(long, value_name = "LABEL")]
    pub network: Option<String>,
    /// The key file to make
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The data folder
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the mesh's genesis will be
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
    /// Let the API listen on loopback too, and make a token for it beside the key
    #[arg(long, value_name = "127.0.0.1:PORT")]
    pub api_listen: Option<std::net::SocketAddr>,
}

/// `godwit genesis`.
#[derive(Debug, Subcommand)]
pub enum GenesisCommand {
    /// Found a mesh from its sites' member lines
    #[command(after_help = "\
Examples:
  godwit genesis create --name harbour --out genesis.toml porto.json faro.json lagos.json
  cat *.json | godwit genesis create --name harbour --network 10.90.0.0/16 --out genesis.toml -

A member is a file with the line that `godwit init` printed, such a line itself, or - for standard input.
Four validators tolerate one that fails or lies; n tolerate fewer than n/3. At most 31 validate.")]
    Create(CreateArgs),
    /// Check a founding document and print its mesh and members
    #[command(after_help = "Examples:\n  godwit genesis show /etc/godwit/genesis.toml")]
    Show {
        /// The document
        #[arg(default_value = "/etc/godwit/genesis.toml")]
        file: PathBuf,
    },
}

/// `godwit genesis create`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct CreateArgs {
    /// Files with member lines, member lines, or - for standard input
    #[arg(required = true, value_name = "MEMBER")]
    pub members: Vec<String>,
    /// The mesh's name
    #[arg(long)]
    pub name: String,
    /// The range of the containers' addresses; no site's own network may overlap it
    #[arg(long, value_name = "IPV4/PREFIX", default_value = "10.77.0.0/16", value_parser = input::range)]
    pub network: (std::net::Ipv4Addr, u8),
    /// How far the validators' clocks may differ, in ms
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub clock_bound_ms: u64,
    /// The file to write, as JSON if it ends in .json [default: print it]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Settings that may be given by flags as well.
#[derive(Args, Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct SettingArgs {
    /// Any setting; repeat it for several
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = input::setting)]
    pub set: Vec<(String, String)>,
    /// The data folder
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The mesh's genesis
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
    /// The site's key
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Where to listen; repeat it for several
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// A site to connect to first; repeat it for several
    #[arg(long = "peer", value_name = "MULTIADDR")]
    pub peers: Vec<String>,
    /// The IPv4 address to which other sites route this site's containers
    #[arg(long, value_name = "IPV4")]
    pub address: Option<String>,
    /// Your name for the network that the site is on
    #[arg(long, value_name = "LABEL")]
    pub network: Option<String>,
    /// What is logged
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl SettingArgs {
    /// As settings of the configuration. Paths count from the current folder.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let path = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string();
        let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
        let flags = [
            ("data_dir", "--data-dir", self.data_dir.as_ref().map(path)),
            ("genesis", "--genesis", self.genesis.as_ref().map(path)),
            ("key", "--key", self.key.as_ref().map(path)),
            ("listen", "--listen", list(&self.listen)),
            ("peers", "--peer", list(&self.peers)),
            ("address", "--address", self.address.clone()),
            ("network", "--network", self.network.clone()),
            ("log", "--log", self.log.clone()),
            ("log_format", "--log-format", self.log_format.clone()),
        ];
        let named = flags.into_iter().filter_map(|(key, flag, value)| {
            value.map(|value| Setting { flag: flag.to_owned(), key: key.to_owned(), value })
        });
        let set = self.set.iter().map(|(key, value)| Setting {
            flag: format!("--set {key}"),
            key: key.clone(),
            value: value.clone(),
        });
        named.chain(set).collect()
    }
}

/// `godwit deploy`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct DeployArgs {
    /// The image's reference
    pub image: String,
    /// Arguments instead of the image's own
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
    /// A name for people [default: made from the image's]
    #[arg(long)]
    pub name: Option<String>,
    /// Processors that it may use, down to a thousandth
    #[arg(long, default_value = "1", value_name = "CORES", value_parser = input::cpus)]
    pub cpus: MilliCpu,
    /// Memory that it may use: 256m, 1g, 1.5g
    #[arg(long, short, default_value = "256m", value_name = "SIZE", value_parser = input::bytes)]
    pub memory: Bytes,
    /// GPUs that it needs
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub gpu: u16,
    /// Publish a port at the site where it runs: [ADDRESS:]HOST:CONTAINER[/tcp|/udp]
    #[arg(long = "publish", short = 'p', value_name = "PORT", value_parser = input::port)]
    pub ports: Vec<Port>,
    /// An environment variable; KEY alone takes this shell's value
    #[arg(long = "env", short = 'e', value_name = "KEY=VALUE", value_parser = input::variable)]
    pub env: Vec<String>,
    /// Nothing of its state needs to survive a move
    #[arg(long)]
    pub stateless: bool,
    /// The longest delay that its users tolerate: of the containers on a full site the most tolerant leaves first
    #[arg(long, default_value = "100ms", value_name = "TIME", value_parser = input::span)]
    pub max_delay: Millis,
    /// A client whose signal reports may move it
    #[arg(long = "client", value_name = "KEY")]
    pub clients: Vec<ClientId>,
}

/// `godwit member`.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)] // fields are documented as the help that they become
pub enum MemberCommand {
    /// List the members and how many approvals a change needs
    #[command(after_help = "Examples:\n  godwit member list")]
    List,
    /// Propose to admit a site, or to change the name or addresses of one
    #[command(after_help = "\
Examples:
  godwit member admit lagos.json > proposal.json

Prints a proposal for the operators of the validators: each runs `godwit member approve` on it. A site that is to validate
is best admitted as member first, and promoted once it has caught up.")]
    Admit {
        /// A file with the line that `godwit init` printed, the line itself, or - for standard input
        #[arg(value_name = "MEMBER")]
        member: String,
        /// Even if too few of those that would validate are connected to this site
        #[arg(long)]
        force: bool,
    },
    /// Propose that a member validate
    #[command(after_help = "Examples:\n  godwit member promote lagos > proposal.json")]
    Promote(ProposeArgs),
    /// Propose that a validator be a member only
    #[command(after_help = "Examples:\n  godwit member demote faro > proposal.json")]
    Demote(ProposeArgs),
    /// Propose that a member leave the mesh
    #[command(after_help = "\
Examples:
  godwit member remove faro > proposal.json

Let it drain first: whatever containers it owns stay its own, and nobody can move them.")]
    Remove(ProposeArgs),
    /// Propose to put a member back that was suspended because it contradicted itself
    #[command(after_help = "\
Examples:
  godwit member readmit faro > proposal.json

Find out first why it did: two machines with one key, or a data folder restored from a copy, would do it again.")]
    Readmit(ProposeArgs),
    /// Make this site a new key, and propose that it take the old one's place
    #[command(after_help = "\
Examples:
  godwit member rotate > proposal.json
  godwit member rotate --finish

Runs on the site itself, and makes the new key beside the old one. Once the change is in force the site starts anew with
the new key. If it was down at that moment nobody knows it any more under the old one: `--finish`, then start it.")]
    Rotate(RotateArgs),
    /// Sign a proposal as this site, which must be a validator
    #[command(after_help = "\
Examples:
  godwit member approve proposal.json > porto.json
  godwit member approve porto.json > porto-faro.json

Says in words what the proposal does, and prints it with this site's approval added to those that it has.")]
    Approve(PetitionArgs),
    /// Append a change that enough validators have approved
    #[command(after_help = "\
Examples:
  godwit member submit porto.json faro.json sines.json
  godwit member submit porto-faro-sines.json

Takes copies that were approved one by one, or one that went round.")]
    Submit(PetitionArgs),
}

/// `godwit member promote`, `demote`, `remove`, `readmit`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct ProposeArgs {
    /// Name, id or a unique beginning of it
    #[arg(value_name = "SITE")]
    pub site: String,
    /// Even if too few of those that would validate are connected to this site
    #[arg(long)]
    pub force: bool,
}

/// `godwit member rotate`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct RotateArgs {
    /// The site's key [default: the configured one]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Even if too few of the validators are connected to this site
    #[arg(long)]
    pub force: bool,
    /// Put the new key in the old one's place now, while the site is down
    #[arg(long, conflicts_with = "force")]
    pub finish: bool,
}

/// `godwit member approve`, `submit`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct PetitionArgs {
    /// Files with one and the same proposal, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
    /// Even if too few of those that would validate are connected to this site
    #[arg(long)]
    pub force: bool,
}

/// Where a ledger is.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
#[allow(missing_docs)]
pub struct SourceArgs {
    /// A site's data folder, or a copy of it
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The running site's
    #[arg(long)]
    pub live: bool,
}

/// `godwit audit`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct AuditArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// The genesis that you trust [default: the configured one]
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
    /// A block that you trust, by its height and hash
    #[arg(long, value_name = "HEIGHT:HASH")]
    pub checkpoint: Option<Checkpoint>,
}

/// `godwit prove`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct ProveArgs {
    /// The record's id or a unique beginning of it
    pub record: String,
    /// Take it from a site's data folder, or a copy of it, instead of the running site
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The mesh's genesis, for --dir [default: the configured one]
    #[arg(long, value_name = "FILE", requires = "dir")]
    pub genesis: Option<PathBuf>,
    /// The file to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `godwit verify`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct VerifyArgs {
    /// The proof, or - for standard input
    pub file: PathBuf,
    /// The genesis that you trust
    #[arg(long, value_name = "FILE", conflicts_with = "mesh")]
    pub genesis: Option<PathBuf>,
    /// The id of the mesh that you trust
    #[arg(long, value_name = "ID")]
    pub mesh: Option<MeshId>,
}

/// `godwit export`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct ExportArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// What to write [default: by the file's name, else jsonl]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// The first height
    #[arg(long, value_name = "HEIGHT", default_value_t = 1)]
    pub from: u64,
    /// The last height [default: the last there is]
    #[arg(long, value_name = "HEIGHT")]
    pub to: Option<u64>,
    /// The file to write; one that exists is replaced [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `godwit client`.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum ClientCommand {
    /// Make a client's key and print its id, for `godwit deploy --client`
    #[command(after_help = "Examples:\n  godwit client init --key car-7.key")]
    Init {
        /// The key file to make
        #[arg(long, value_name = "FILE", default_value = "client.key")]
        key: PathBuf,
    },
    /// Report the signal that the client receives from sites
    #[command(after_help = "\
Examples:
  godwit client report --key car-7.key --genesis genesis.toml --signal porto=-101 --signal faro=-72
  godwit client report --key car-7.key --genesis genesis.toml --trace drive.txt

A trace has one report a line: milliseconds since its start, then SITE=DBM for each site heard:
  0    porto=-60 faro=-110
  1000 porto=-75 faro=-95
  2000 porto=-99 faro=-71")]
    Report(ReportArgs),
}

/// `godwit client report`.
#[derive(Args, Debug)]
#[allow(missing_docs)]
pub struct ReportArgs {
    /// The client's key
    #[arg(long, value_name = "FILE", default_value = "client.key")]
    pub key: PathBuf,
    /// The mesh's genesis: its id, and its sites' names and addresses
    #[arg(long, value_name = "FILE", default_value = "/etc/godwit/genesis.toml")]
    pub genesis: PathBuf,
    /// The mesh's id, to be compared with the genesis
    #[arg(long, value_name = "ID")]
    pub mesh: Option<MeshId>,
    /// A site to report to instead of the genesis' ones; repeat it for several
    #[arg(long = "to", value_name = "MULTIADDR")]
    pub to: Vec<Multiaddr>,
    /// A site and its signal at the client in dBm; repeat it for several
    #[arg(long = "signal", value_name = "SITE=DBM", value_parser = input::signal, allow_hyphen_values = true)]
    pub signals: Vec<(String, Dbm)>,
    /// A trace to report in its own time: a file, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "signals", required_unless_present = "signals")]
    pub trace: Option<PathBuf>,
}
