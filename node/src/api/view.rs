//! What the API shows and takes: plain data with units in the names, JSON on the wire.
//!
//! Fields are added, never renamed: scripts read them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use godwit_protocol::bid::Reason;
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::container::{Kind, Mode};
use godwit_protocol::membership::{Member, Role};
use godwit_protocol::{
    Address, Bytes, ClientId, ContainerId, Epoch, Hash, ImageId, MeshId, Message, MilliCpu, Millis, OfferId, PerMille,
    RecordId, SiteId, Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The site at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// Its key.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// Its name in the membership; empty if it is no member.
    pub name: String,
    /// What it may do in the mesh; absent if it is no member (yet, or any more).
    #[schema(value_type = Option<String>)]
    pub role: Option<Role>,
    /// The version of the program.
    pub version: String,
    /// How long it has been running.
    #[schema(value_type = u64)]
    pub uptime_ms: Millis,
    /// The mesh.
    #[schema(value_type = String)]
    pub mesh: MeshId,
    /// The mesh's name.
    pub mesh_name: String,
    /// Height of the last committed block.
    pub height: u64,
    /// Hash of its header; zeros at genesis.
    #[schema(value_type = String)]
    pub tip: Hash,
    /// Root of the state after it: equal on all sites at equal heights.
    #[schema(value_type = String)]
    pub state_root: Hash,
    /// Its time.
    #[schema(value_type = u64)]
    pub block_time: Time,
    /// Members of the mesh.
    pub members: u32,
    /// Validators among them.
    pub validators: u32,
    /// Members connected to this site.
    pub peers: u32,
    /// Containers that this site owns.
    pub containers: u32,
    /// Open offers in the mesh.
    pub open_offers: u32,
    /// Whether an operator empties it.
    pub draining: bool,
    /// Whether it is a validator that does not vote, since it may have forgotten what it said.
    #[serde(default)]
    pub abstains: bool,
    /// The first block that it keeps.
    #[serde(default = "first_height")]
    pub base: u64,
    /// Where other sites route its containers' traffic.
    #[schema(value_type = String)]
    pub address: Address,
    /// The multiaddresses it listens on.
    pub listening: Vec<String>,
}

const fn first_height() -> u64 {
    1
}

/// Whether the site is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// No problems.
    pub healthy: bool,
    /// What is wrong, with what to do about it.
    pub problems: Vec<Problem>,
}

/// Something that needs the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: Option<String>,
}

/// A member and its last capacity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteView {
    /// Its key.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// Its name.
    pub name: String,
    /// What it may do.
    #[schema(value_type = String)]
    pub role: Role,
    /// Whether it is the site that answers.
    pub local: bool,
    /// Whether this site is connected to it.
    pub connected: bool,
    /// Containers that it owns.
    pub containers: u32,
    /// The last block that it has, by its last gossip; absent if none came.
    pub height: Option<u64>,
    /// Its last gossip; absent if none came.
    pub capacity: Option<CapacityView>,
}

/// What a site said of its resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapacityView {
    /// How old it is.
    #[schema(value_type = u64)]
    pub age_ms: Millis,
    /// Too old to count on.
    pub stale: bool,
    /// Where traffic for its containers goes.
    #[schema(value_type = String)]
    pub address: Address,
    /// Its operator's network label.
    pub network: String,
    /// Processors in thousandths of a core.
    pub cpu_m: ShareView,
    /// Memory.
    pub memory_bytes: ShareView,
    /// GPUs.
    pub gpu: ShareView,
    /// False while it is drained.
    pub accepting: bool,
}

/// How much there is, is used and is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShareView {
    /// All of it.
    pub total: u64,
    /// Measured use.
    pub used: u64,
    /// Promised to containers that are on their way.
    pub reserved: u64,
}

/// The membership in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MembersView {
    /// The number of changes so far: an approval names it.
    pub epoch: u64,
    /// Signatures that a change needs: more than two thirds of the validators.
    pub approvals_needed: u32,
    /// Everybody.
    #[schema(value_type = Vec<Object>)]
    pub members: Vec<Member>,
    /// Those that contradicted themselves and only vote, until they are removed or put back.
    #[schema(value_type = Vec<String>)]
    pub suspended: Vec<SiteId>,
}

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerState {
    /// It runs at its owner. Of another site's container this is what the ledger implies.
    Running,
    /// It runs and is offered.
    Moving,
    /// It stands still in a handoff.
    Frozen,
    /// It was stopped.
    Stopped,
    /// Its owner cannot run it: see the site's health.
    Failed,
}

/// A container of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerView {
    /// Its id in the whole mesh.
    #[schema(value_type = String)]
    pub container: ContainerId,
    /// For people.
    pub name: String,
    /// The image by the name it was deployed by.
    pub image: String,
    /// The image by content.
    #[schema(value_type = String)]
    pub image_id: ImageId,
    /// The site that owns it.
    #[schema(value_type = String)]
    pub owner: SiteId,
    /// That site's name.
    pub owner_name: String,
    /// Whether that is the site that answers.
    pub local: bool,
    /// How often it has changed owners, plus one.
    #[schema(value_type = u64)]
    pub epoch: Epoch,
    /// Where it stands.
    pub state: ContainerState,
    /// Its own address.
    #[schema(value_type = String)]
    pub address: Address,
    /// Whether its state moves.
    #[schema(value_type = String)]
    pub kind: Kind,
    /// How its state moves.
    #[schema(value_type = String)]
    pub mode: Mode,
    /// Processor time it may use, in thousandths of a core.
    #[schema(value_type = u32)]
    pub cpu_m: MilliCpu,
    /// Memory it may use.
    #[schema(value_type = u64)]
    pub memory_bytes: Bytes,
    /// GPUs it needs.
    pub gpu: u16,
    /// The longest delay its users tolerate.
    #[schema(value_type = u64)]
    pub max_delay_ms: Millis,
    /// Measured use; only of a running container of the site that answers.
    pub usage: Option<UsageView>,
    /// Whose signal reports may move it.
    #[schema(value_type = Vec<String>)]
    pub clients: Vec<ClientId>,
    /// The open offer, if there is one.
    #[schema(value_type = Option<String>)]
    pub offer: Option<OfferId>,
}

/// What a container uses now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Processor time in thousandths of a core.
    #[schema(value_type = u32)]
    pub cpu_m: MilliCpu,
    /// Memory.
    #[schema(value_type = u64)]
    pub memory_bytes: Bytes,
}

/// Where an offer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OfferState {
    /// Sites bid.
    Bidding,
    /// A winner prepares.
    Awarded,
    /// The winner is ready: the source freezes and yields.
    Ready,
    /// The winner owns the container.
    Received,
    /// The handoff is complete.
    Done,
    /// It ended without a change of owner, or was taken back.
    Ended,
}

/// An offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfferView {
    /// Its id.
    #[schema(value_type = String)]
    pub offer: OfferId,
    /// What is offered.
    #[schema(value_type = String)]
    pub container: ContainerId,
    /// The container's name.
    pub container_name: String,
    /// Who offers.
    #[schema(value_type = String)]
    pub source: SiteId,
    /// That site's name.
    pub source_name: String,
    /// Why, in a word: overload, mobility, drain or manual.
    pub why: String,
    /// Where it stands.
    pub state: OfferState,
    /// The attempt that is on; 0 before the award.
    pub attempt: u32,
    /// Whose attempt it is.
    #[schema(value_type = Option<String>)]
    pub winner: Option<SiteId>,
    /// That site's name.
    pub winner_name: Option<String>,
    /// Bids, best first once awarded.
    pub bids: Vec<BidView>,
    /// Sites that declined.
    pub declines: Vec<DeclineView>,
    /// When it was committed.
    #[schema(value_type = u64)]
    pub opened: Time,
    /// When bidding ends at the latest.
    #[schema(value_type = u64)]
    pub closes: Time,
    /// Why it ended, if it ended without success.
    pub ended: Option<String>,
}

/// A bid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BidView {
    /// Who bid.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// That site's name.
    pub name: String,
    /// Larger is better; as all replicas compute it.
    pub score: i64,
    /// How loaded the bidder would be, in thousandths.
    #[schema(value_type = u16)]
    pub load_per_mille: PerMille,
    /// Whether it is on the source's network.
    pub same_network: bool,
    /// The standstill it predicts.
    #[schema(value_type = u64)]
    pub predicted_downtime_ms: Millis,
}

/// A refusal to bid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeclineView {
    /// Who declined.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// That site's name.
    pub name: String,
    /// Why.
    #[schema(value_type = Object)]
    pub reason: Reason,
}

/// A committed block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockView {
    /// Its height.
    pub height: u64,
    /// Its time, in ms since the Unix epoch.
    #[schema(value_type = u64)]
    pub time: Time,
    /// Hash of its header.
    #[schema(value_type = String)]
    pub hash: Hash,
    /// Hash of the header before.
    #[schema(value_type = String)]
    pub parent: Hash,
    /// Root of the state after it.
    #[schema(value_type = String)]
    pub state_root: Hash,
    /// Who built it.
    #[schema(value_type = String)]
    pub proposer: SiteId,
    /// That site's name.
    pub proposer_name: String,
    /// The round in which it was decided.
    pub round: u32,
    /// Validators whose precommit the certificate at this site holds.
    pub signers: u32,
    /// What it holds, in order.
    pub records: Vec<RecordView>,
}

/// A record in a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecordView {
    /// Its id.
    #[schema(value_type = String)]
    pub record: RecordId,
    /// Who appended it.
    #[schema(value_type = String)]
    pub author: SiteId,
    /// That site's name.
    pub author_name: String,
    /// Its kind: register, offer, bid and so on.
    pub kind: String,
    /// One line for people.
    pub summary: String,
    /// All of it.
    #[schema(value_type = Object)]
    pub message: Message,
}

/// One handoff, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimelineView {
    /// The offer.
    #[schema(value_type = String)]
    pub offer: OfferId,
    /// The container.
    #[schema(value_type = String)]
    pub container: ContainerId,
    /// Its name.
    pub container_name: String,
    /// The source's name.
    pub source_name: String,
    /// The name of the site that has it, or is to have it.
    pub target_name: Option<String>,
    /// Where the offer stands.
    pub state: OfferState,
    /// In order of time. Steps of the ledger carry block time; this site's own steps its own clock.
    pub steps: Vec<StepView>,
    /// The standstill in its parts, once `Done` is committed, by name in milliseconds.
    pub downtime_ms: Option<BTreeMap<String, u64>>,
    /// Bytes that travelled, once `Done` is committed.
    #[schema(value_type = Option<u64>)]
    pub bytes: Option<Bytes>,
}

/// One step of a handoff.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// What happened: offer, bid, award, ready, freeze, yield, receipt, resume, done and so on.
    pub name: String,
    /// When, in ms since the Unix epoch.
    #[schema(value_type = u64)]
    pub at_ms: Time,
    /// Who did it, by name.
    pub site: String,
    /// More, for people.
    pub detail: String,
    /// Since the step before.
    #[schema(value_type = u64)]
    pub since_previous_ms: Millis,
}

/// A line that a container wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Where it wrote it.
    pub stream: Stream,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub line: String,
}

/// A container's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The most published ports of a container.
pub const MAX_PORTS: usize = 64;
/// The most environment variables given at deployment.
pub const MAX_ENV: usize = 256;
/// The most arguments given at deployment.
pub const MAX_ARGUMENTS: usize = 256;

/// A container to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// The image's reference.
    #[schema(value_type = String, example = "docker.io/library/redis:7")]
    pub image: Text<255>,
    /// A name for people; made from the image's if absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub name: Option<Text<63>>,
    /// Processor time it may use, in thousandths of a core.
    #[schema(value_type = u32, example = 500)]
    pub cpu_m: MilliCpu,
    /// Memory it may use.
    #[schema(value_type = u64, example = 268_435_456)]
    pub memory_bytes: Bytes,
    /// GPUs it needs.
    #[serde(default)]
    pub gpu: u16,
    /// Ports published at the site where it runs. Its own address is reachable in the mesh without any.
    #[serde(default)]
    #[schema(value_type = Vec<Port>)]
    pub ports: List<Port, MAX_PORTS>,
    /// Environment variables as `KEY=VALUE`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub env: List<Text<4096>, MAX_ENV>,
    /// Arguments instead of the image's own.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub command: List<Text<4096>, MAX_ARGUMENTS>,
    /// Whether its state moves.
    #[serde(default = "stateful")]
    #[schema(value_type = String, example = "stateful")]
    pub kind: Kind,
    /// The longest delay its users tolerate.
    #[schema(value_type = u64, example = 100)]
    pub max_delay_ms: Millis,
    /// Whose signal reports may move it.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub clients: List<ClientId, 16>,
}

fn stateful() -> Kind {
    Kind::Stateful
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// On this address of the site; on all if absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// The port at the site.
    pub host: u16,
    /// The port in the container.
    pub container: u16,
    /// Of what.
    #[serde(default)]
    pub protocol: Transport,
}

/// A port's transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A container is to move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// A site that the operator would like: its name, its id or a unique beginning of it. It weighs in the score.
    #[serde(default)]
    pub prefer: Option<String>,
}

/// The offer that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Offered {
    /// Its id.
    #[schema(value_type = String)]
    pub offer: OfferId,
}

/// The site is to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// False ends it.
    pub on: bool,
}

/// What a drain does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Draining {
    /// Whether it is on.
    pub on: bool,
    /// What is to go.
    #[schema(value_type = Vec<String>)]
    pub containers: Vec<ContainerId>,
}

/// The record that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Appended {
    /// Its id.
    #[schema(value_type = String)]
    pub record: RecordId,
}
