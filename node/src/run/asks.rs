//! Answers what the API asks. What takes long is done in a task of its own, which comes back to the loop by an [`Order`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use futures::StreamExt;
use godwit_ledger::block::{Committed, Height};
use godwit_ledger::record::record_id;
use godwit_ledger::state::Container;
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::capacity::{Capacity, Share};
use godwit_protocol::container::{Kind as ContainerKind, Mode, Profile};
use godwit_protocol::effect::Effect;
use godwit_protocol::membership::{Membership, Proposal, Role};
use godwit_protocol::register::{Register, Retire};
use godwit_protocol::site::{self, Wish};
use godwit_protocol::{Address, Bytes, ContainerId, Message, MilliCpu, OfferId, RecordId, Signed, SiteId};
use tokio::sync::{mpsc, oneshot};

use super::host::{Fatal, Fate, Host, Order, now, suspended_remedy};
use super::{DRAINED, address, history};
use crate::api::fault::{Fault, Kind};
use crate::api::site::{Ask, LOG_LINES_MAX, Reply};
use crate::api::view::{
    BlockView, CapacityView, ContainerState, ContainerView, Deploy, HealthView, LogLine, MembersView, Problem,
    RecordView, ShareView, SiteView, StatusView, Stream, Transport, UsageView,
};
use crate::runtime::{self, Runtime, State};

/// What answering needs besides the host's own state.
pub struct Desk {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) config: Arc<crate::config::Config>,
}

/// Blocks in one answer.
const BLOCKS_MAX: u16 = 256;

/// The default name of a container is the last part of its image's reference.
fn default_name(image: &str) -> Text<63> {
    let base = image.rsplit('/').next().unwrap_or(image);
    Text::clipped(base.split(['@', ':']).next().unwrap_or(base))
}

impl Host {
    pub(super) fn asked(&mut self, ask: Ask) -> Result<(), Fatal> {
        match ask {
            Ask::Status(reply) => reply.send(Ok(self.status())),
            Ask::Health(reply) => self.health(reply),
            Ask::Sites(reply) => reply.send(Ok(self.sites())),
            Ask::Members(reply) => reply.send(Ok(self.members())),
            Ask::Approve(proposal, reply) => reply.send(self.approve(*proposal)),
            Ask::SubmitMembership(membership, reply) => self.submit(*membership, reply)?,
            Ask::Containers(reply) => self.containers(reply),
            Ask::Deploy(deploy, reply) => self.deploy(*deploy, reply),
            Ask::Stop(container, reply) => self.halt(container, reply),
            Ask::Remove { container, force, reply } => self.remove(container, force, reply),
            Ask::Logs { container, tail, follow, reply } => self.logs(container, tail, follow, reply),
            Ask::Migrate { container, prefer, reply } => self.migrate(container, prefer, reply)?,
            Ask::Drain { on, reply } => self.drained(on, reply)?,
            Ask::Offers(reply) => reply.send(Ok(self.history.offers())),
            Ask::Timeline(offer, reply) => reply.send(self.timeline(&offer)),
            Ask::Log { from, most, reply } => reply.send(self.log(from, most)),
            Ask::Raw { from, most, reply } => reply.send(self.ledger.raw(from, most).map_err(|e| Fault::failed(&e))),
            Ask::Find(beginning, reply) => reply.send(self.ledger.find(&beginning).map_err(|e| Fault::failed(&e))),
            Ask::Prove(record, reply) => reply.send(self.prove(&record)),
        }
        Ok(())
    }

    fn status(&self) -> StatusView {
        let state = self.ledger.state();
        let me = state.member(&self.me);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        StatusView {
            site: self.me,
            name: me.map(|member| member.name.to_string()).unwrap_or_default(),
            role: me.map(|member| member.role),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: now().since(self.started),
            mesh: state.mesh(),
            mesh_name: state.founding().name.to_string(),
            height: state.height().0,
            tip: state.tip(),
            state_root: state.root(),
            block_time: state.time(),
            members: count(state.members().count()),
            validators: count(state.validators().len()),
            peers: count(state.members().filter(|member| self.net.is_connected(&member.site)).count()),
            containers: count(state.containers().filter(|(_, known)| known.owner == self.me).count()),
            open_offers: count(state.offers().count()),
            draining: self.site.is_draining(),
            abstains: self.ledger.abstains(),
            base: self.ledger.base().0,
            address: self.asks.config.net.address,
            listening: self.net.listening().borrow().iter().map(ToString::to_string).collect(),
        }
    }

    fn health(&self, reply: Reply<HealthView>) {
        let runtime = Arc::clone(&self.asks.runtime);
        let state = self.ledger.state();
        let validators = state.validators();
        let present = validators.iter().filter(|site| **site == self.me || self.net.is_connected(site)).count();
        let quorum = present * 3 > validators.len() * 2;
        let total = validators.len();
        let (abstains, knows) = (self.ledger.abstains(), self.site.is_awake());
        let mut problems: Vec<Problem> = state
            .members()
            .filter(|member| state.is_suspended(&member.site))
            .map(|member| Problem {
                problem: format!("{} contradicted itself and is suspended", member.name),
                remedy: Some(suspended_remedy(member.name.as_str())),
            })
            .collect();
        tokio::spawn(async move {
            let failed = runtime.checks().await.into_iter().filter(|check| !check.ok);
            problems.extend(failed.map(|check| Problem {
                problem: format!("{}: {}", check.name, check.found),
                remedy: Some(check.remedy),
            }));
            if !quorum {
                problems.push(Problem {
                    problem: format!("{present} of {total} validators are connected: the ledger stands still"),
                    remedy: Some("look at the other sites and the network between them".to_owned()),
                });
            }
            if !knows {
                problems.push(Problem {
                    problem: super::ledger::UNAWARE.to_owned(),
                    remedy: Some("wait until it has fetched the ledger from the other sites".to_owned()),
                });
            }
            if abstains {
                problems.push(Problem {
                    problem: super::ledger::ABSTAINS.to_owned(),
                    remedy: Some(
                        "if no block comes although records wait, too few others vote: bring them back, or have this \
                         site's key replaced by the key of a new member"
                            .to_owned(),
                    ),
                });
            }
            reply.send(Ok(HealthView { healthy: problems.is_empty(), problems }));
        });
    }

    fn sites(&self) -> Vec<SiteView> {
        let now = now();
        let heard: BTreeMap<SiteId, &Capacity> = self.site.heard(now).map(|(site, has)| (*site, has)).collect();
        let own = self.site.capacity(now);
        let state = self.ledger.state();
        let owned = |site: &SiteId| {
            u32::try_from(state.containers().filter(|(_, known)| known.owner == *site).count()).unwrap_or(u32::MAX)
        };
        state
            .members()
            .map(|member| {
                let local = member.site == self.me;
                let capacity = if local { own.as_ref() } else { heard.get(&member.site).copied() };
                SiteView {
                    site: member.site,
                    name: member.name.to_string(),
                    role: member.role,
                    local,
                    connected: local || self.net.is_connected(&member.site),
                    containers: owned(&member.site),
                    height: if local { Some(state.height().0) } else { capacity.map(|has| has.height.0) },
                    capacity: capacity.map(|has| CapacityView {
                        age_ms: now.since(has.at),
                        stale: false,
                        address: has.address,
                        network: has.network.to_string(),
                        cpu_m: share(&has.cpu, |cpu: MilliCpu| cpu.0.into()),
                        memory_bytes: share(&has.memory, |memory: Bytes| memory.0),
                        gpu: share(&has.gpu, u64::from),
                        accepting: has.accepting,
                    }),
                }
            })
            .collect()
    }

    fn members(&self) -> MembersView {
        let state = self.ledger.state();
        let needed = state.validators().len() * 2 / 3 + 1;
        MembersView {
            epoch: state.membership_epoch(),
            approvals_needed: u32::try_from(needed).unwrap_or(u32::MAX),
            members: state.members().cloned().collect(),
            suspended: state.members().map(|member| member.site).filter(|site| state.is_suspended(site)).collect(),
        }
    }

    fn approve(&self, proposal: Proposal) -> Result<Signed<Proposal>, Fault> {
        let state = self.ledger.state();
        if proposal.epoch != state.membership_epoch() {
            let epoch = state.membership_epoch();
            return Err(Fault::new(Kind::Conflict, format!("the membership is at epoch {epoch}"))
                .remedy("make the proposal for that epoch"));
        }
        if !state.validators().contains(&self.me) {
            return Err(Fault::new(Kind::Conflict, "this site is not a validator: its approval counts for nothing"));
        }
        state
            .check_change(&proposal.change)
            .map_err(|refusal| Fault::new(Kind::Conflict, format!("the ledger would refuse it: {refusal}")))?;
        let signed = Signed::sign(&state.mesh(), &self.key, proposal).map_err(|error| Fault::failed(&error))?;
        Ok(signed.into_signed())
    }

    fn submit(&mut self, membership: Membership, reply: Reply<RecordId>) -> Result<(), Fatal> {
        let id = self.append(Message::Membership(membership))?;
        let (fate, told) = oneshot::channel();
        self.waiting.insert(id, fate);
        tokio::spawn(async move { reply.send(settled(told.await).map(|()| id)) });
        Ok(())
    }

    /// One container as people see it; `found` is what the engine says of it.
    fn container(&self, id: &ContainerId, known: &Container, found: Option<State>) -> ContainerView {
        let local = known.owner == self.me;
        let register = &known.register;
        let state = match (local, found) {
            _ if self.site.is_frozen(id) => ContainerState::Frozen,
            (true, Some(State::Ended { .. })) => ContainerState::Stopped,
            (true, Some(State::Absent | State::Prepared)) if known.open.is_none() => ContainerState::Failed,
            _ if known.open.is_some() => ContainerState::Moving,
            _ => ContainerState::Running,
        };
        ContainerView {
            container: *id,
            name: register.name.to_string(),
            image: register.image.reference.to_string(),
            image_id: register.image.id,
            owner: known.owner,
            owner_name: self.history.site(&known.owner),
            local,
            epoch: known.epoch,
            state,
            address: register.address,
            kind: register.profile.kind,
            mode: register.profile.mode,
            cpu_m: register.profile.cpu,
            memory_bytes: register.profile.memory,
            gpu: register.profile.gpu,
            max_delay_ms: register.profile.max_delay_ms,
            usage: self
                .load
                .containers
                .get(id)
                .filter(|_| local)
                .map(|used| UsageView { cpu_m: used.cpu, memory_bytes: used.memory }),
            clients: register.clients.to_vec(),
            offer: known.open,
        }
    }

    /// Asks the engine, then the loop again: the ledger may have moved on meanwhile.
    fn containers(&self, reply: Reply<Vec<ContainerView>>) {
        let (runtime, orders) = (Arc::clone(&self.asks.runtime), self.asks.orders.clone());
        tokio::spawn(async move {
            // Without an engine the ledger still knows whose the containers are.
            let found = runtime.list().await.unwrap_or_default();
            let found = found.into_iter().map(|found| (found.spec.deploy.container, found.state)).collect();
            drop(orders.send(Order::List(found, reply)));
        });
    }

    pub(super) fn list(&self, found: &BTreeMap<ContainerId, State>) -> Vec<ContainerView> {
        let state = self.ledger.state();
        state.containers().map(|(id, known)| self.container(id, known, found.get(id).copied())).collect()
    }

    fn deploy(&self, deploy: Deploy, reply: Reply<ContainerView>) {
        let state = self.ledger.state();
        if state.member(&self.me).is_none_or(|member| member.role == Role::Observer) {
            return reply.send(Err(Fault::new(Kind::Conflict, "this site is an observer: it runs no containers")));
        }
        if self.site.is_draining() {
            let fault = Fault::new(Kind::Conflict, "this site is being drained");
            return reply.send(Err(fault.remedy("`godwit drain --off`, or deploy at another site")));
        }
        let container = ContainerId(rand::random());
        let taken: BTreeSet<Address> = state.containers().map(|(_, known)| known.register.address).collect();
        let Some(address) = address::free(state.founding(), &taken, &container) else {
            let fault = Fault::new(Kind::Conflict, "all addresses of the mesh's range are taken");
            return reply.send(Err(fault.remedy("remove containers that are no longer needed")));
        };
        let name = deploy.name.clone().unwrap_or_else(|| default_name(deploy.image.as_str()));
        let (runtime, orders) = (Arc::clone(&self.asks.runtime), self.asks.orders.clone());
        tokio::spawn(async move {
            match bring_up(runtime.as_ref(), &orders, container, name, address, deploy).await {
                Ok(()) => drop(orders.send(Order::Show(container, reply))),
                Err(fault) => reply.send(Err(fault)),
            }
        });
    }

    pub(super) fn show(&self, container: &ContainerId) -> Result<ContainerView, Fault> {
        let known = self.ledger.state().container(container);
        known.map(|known| self.container(container, known, Some(State::Running))).ok_or_else(|| unknown(container))
    }

    fn halt(&self, container: ContainerId, reply: Reply<()>) {
        if let Err(fault) = self.is_ours_and_at_rest(&container) {
            return reply.send(Err(fault));
        }
        let runtime = Arc::clone(&self.asks.runtime);
        tokio::spawn(async move { reply.send(runtime.stop(container).await.map_err(engine)) });
    }

    fn remove(&self, container: ContainerId, force: bool, reply: Reply<()>) {
        if let Err(fault) = self.is_ours_and_at_rest(&container) {
            return reply.send(Err(fault));
        }
        let (runtime, orders) = (Arc::clone(&self.asks.runtime), self.asks.orders.clone());
        tokio::spawn(async move { reply.send(take_down(runtime.as_ref(), &orders, container, force).await) });
    }

    fn logs(&self, container: ContainerId, tail: Option<u32>, follow: bool, reply: Reply<mpsc::Receiver<LogLine>>) {
        if !self.owns(&container) {
            return reply.send(Err(self.elsewhere(&container)));
        }
        let runtime = Arc::clone(&self.asks.runtime);
        tokio::spawn(async move {
            let mut output = match runtime.logs(container, runtime::Logs { follow, tail }).await {
                Ok(output) => output,
                Err(error) => return reply.send(Err(engine(error))),
            };
            let (lines, receiver) = mpsc::channel(LOG_LINES_MAX);
            reply.send(Ok(receiver));
            while let Some(Ok(line)) = output.next().await {
                let stream = if line.stderr { Stream::Stderr } else { Stream::Stdout };
                let text = String::from_utf8_lossy(&line.bytes);
                let line = LogLine { stream, line: text.trim_end_matches(['\n', '\r']).to_owned() };
                if lines.send(line).await.is_err() {
                    return; // the reader has gone
                }
            }
        });
    }

    fn migrate(&mut self, container: ContainerId, prefer: Option<SiteId>, reply: Reply<OfferId>) -> Result<(), Fatal> {
        if let Err(fault) = self.is_ours_and_at_rest(&container) {
            reply.send(Err(fault));
            return Ok(());
        }
        if !self.ledger.state().is_eligible(&self.me) {
            reply.send(Err(Fault::new(Kind::Conflict, "this site may offer nothing: see its role in `godwit status`")));
            return Ok(());
        }
        let effects = self.site.step(now(), site::Input::Operator(Wish::Migrate { container, prefer }));
        match self.obey(effects)?.first() {
            Some(offer) => {
                let offer = *offer;
                let (fate, told) = oneshot::channel();
                self.waiting.insert(RecordId(offer.0), fate);
                tokio::spawn(async move { reply.send(settled(told.await).map(|()| offer)) });
            }
            None => {
                let fault = Fault::new(Kind::Conflict, "an offer for it is about to be committed already");
                reply.send(Err(fault.remedy("watch it with `godwit offers`")));
            }
        }
        Ok(())
    }

    fn drained(&mut self, on: bool, reply: Reply<Vec<ContainerId>>) -> Result<(), Fatal> {
        if let Err(error) = self.remember_drain(on) {
            reply.send(Err(Fault::failed(&error).remedy("free or mend the disk of the data folder, and ask again")));
            return Ok(());
        }
        let effects = self.site.step(now(), site::Input::Operator(Wish::Drain(on)));
        let leaving = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Append(Message::Offer(offer)) => Some(offer.container),
                _ => None,
            })
            .collect();
        self.obey(effects)?;
        reply.send(Ok(leaving));
        Ok(())
    }

    fn remember_drain(&self, on: bool) -> std::io::Result<()> {
        let folder = &self.asks.config.data_dir;
        let mark = folder.join(DRAINED);
        match if on { File::create(mark).map(drop) } else { std::fs::remove_file(mark) } {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(folder)?.sync_all()
    }

    fn timeline(&self, offer: &OfferId) -> Result<crate::api::view::TimelineView, Fault> {
        self.history.timeline(offer).ok_or_else(|| {
            Fault::new(Kind::NotFound, format!("offer {offer} is not among those remembered"))
                .remedy("`godwit offers` lists them; older ones are in `godwit log`")
        })
    }

    fn log(&self, from: Height, most: u16) -> Result<Vec<BlockView>, Fault> {
        let blocks = self.ledger.blocks(from, most.min(BLOCKS_MAX)).map_err(|error| Fault::failed(&error))?;
        Ok(blocks.into_iter().map(|committed| self.block(&committed)).collect())
    }

    fn prove(&self, record: &RecordId) -> Result<Vec<u8>, Fault> {
        let bundle = self.ledger.prove(record).map_err(|error| Fault::failed(&error))?;
        let bundle = bundle.ok_or_else(|| {
            Fault::new(Kind::NotFound, format!("record {record} is not in the ledger"))
                .remedy("`godwit log` lists them")
        })?;
        bundle.to_bytes().map_err(|error| Fault::failed(&error))
    }

    fn block(&self, committed: &Committed) -> BlockView {
        let header = &committed.block.header;
        let records = committed
            .block
            .records
            .iter()
            .filter_map(|record| {
                let message = &record.body.message;
                Some(RecordView {
                    record: record_id(&header.mesh, record).ok()?,
                    author: record.author,
                    author_name: self.history.site(&record.author),
                    kind: message.name().to_owned(),
                    summary: history::summary(message, &self.history),
                    message: message.clone(),
                })
            })
            .collect();
        BlockView {
            height: header.height.0,
            time: header.time,
            hash: header.hash(),
            parent: header.parent,
            state_root: header.state,
            proposer: header.proposer,
            proposer_name: self.history.site(&header.proposer),
            round: committed.certificate.round,
            signers: u32::try_from(committed.certificate.signatures.len()).unwrap_or(u32::MAX),
            records,
        }
    }

    fn is_ours_and_at_rest(&self, container: &ContainerId) -> Result<(), Fault> {
        if !self.owns(container) {
            return Err(self.elsewhere(container));
        }
        match self.ledger.state().container(container).and_then(|known| known.open) {
            Some(offer) => Err(Fault::new(Kind::Conflict, format!("it is on its way: offer {}", offer.short()))
                .remedy(format!("wait for it: `godwit timeline {}`", offer.short()))),
            None => Ok(()),
        }
    }

    fn elsewhere(&self, container: &ContainerId) -> Fault {
        match self.ledger.state().container(container) {
            Some(known) => {
                let owner = self.history.site(&known.owner);
                Fault::new(Kind::Conflict, format!("the container is at {owner}")).remedy("ask that site")
            }
            None => unknown(container),
        }
    }
}

fn share<T: Copy>(share: &Share<T>, number: impl Fn(T) -> u64) -> ShareView {
    ShareView { total: number(share.total), used: number(share.used), reserved: number(share.reserved) }
}

fn unknown(container: &ContainerId) -> Fault {
    Fault::new(Kind::NotFound, format!("the mesh knows no container {container}")).remedy("`godwit ps` lists them")
}

fn engine(error: runtime::Error) -> Fault {
    let fault = Fault::failed(&error);
    match error.cause.remedy() {
        Some(remedy) => fault.remedy(remedy),
        None => fault,
    }
}

fn settled(fate: Result<Fate, oneshot::error::RecvError>) -> Result<(), Fault> {
    match fate {
        Ok(Fate::Committed) => Ok(()),
        Ok(Fate::Refused(why)) => Err(Fault::new(Kind::Conflict, format!("the ledger refuses it: {why}"))),
        Ok(Fate::Expired) => Err(Fault::new(Kind::Unavailable, "the ledger did not commit it in time")
            .remedy("more than two thirds of the validators must be up and connected: `godwit sites`")),
        Err(_) => Err(Fault::new(Kind::Unavailable, "the site is stopping")),
    }
}

/// Says something in the ledger and waits for what becomes of it.
async fn append(orders: &mpsc::UnboundedSender<Order>, message: Message) -> Result<(), Fault> {
    let (fate, told) = oneshot::channel();
    drop(orders.send(Order::Append(Box::new(message), fate)));
    settled(told.await)
}

/// Creates and starts the container, then registers it; undone if the mesh refuses it.
async fn bring_up(
    runtime: &dyn Runtime,
    orders: &mpsc::UnboundedSender<Order>,
    container: ContainerId,
    name: Text<63>,
    address: Address,
    deploy: Deploy,
) -> Result<(), Fault> {
    let stateful = deploy.kind == ContainerKind::Stateful;
    let wanted = runtime::Deploy {
        container,
        name: name.to_string(),
        image: deploy.image.to_string(),
        command: deploy.command.iter().map(ToString::to_string).collect(),
        env: deploy.env.iter().map(ToString::to_string).collect(),
        ports: deploy
            .ports
            .iter()
            .map(|port| runtime::Port {
                site: port.host,
                container: port.container,
                protocol: match port.protocol {
                    Transport::Tcp => runtime::Protocol::Tcp,
                    Transport::Udp => runtime::Protocol::Udp,
                },
            })
            .collect(),
        cpu: deploy.cpu_m,
        memory: deploy.memory_bytes,
        gpu: deploy.gpu,
        address,
        hostname: None,
        kind: deploy.kind,
    };
    let deployed = runtime.deploy(wanted).await.map_err(engine)?;
    let register = Register {
        container,
        name,
        image: deployed.image,
        profile: Profile {
            cpu: deploy.cpu_m,
            memory: deploy.memory_bytes,
            gpu: deploy.gpu,
            kind: deploy.kind,
            mode: if stateful { Mode::StopAndCopy } else { Mode::Restart },
            max_delay_ms: deploy.max_delay_ms,
        },
        address,
        clients: List::first(deploy.clients.iter().copied()),
    };
    let registered = append(orders, Message::Register(register)).await;
    if registered.is_err() {
        // Nobody was told of it: it must not run on unknown to the mesh.
        runtime.remove(container).await.map_err(engine)?;
    }
    registered
}

async fn take_down(
    runtime: &dyn Runtime,
    orders: &mpsc::UnboundedSender<Order>,
    container: ContainerId,
    force: bool,
) -> Result<(), Fault> {
    let state = runtime.state(container).await.map_err(engine)?;
    if state == State::Running && !force {
        return Err(Fault::new(Kind::Conflict, "it runs").remedy("`godwit stop` it first, or `godwit rm --force`"));
    }
    // First out of the mesh: a container that nobody may offer any more can be removed in peace.
    append(orders, Message::Retire(Retire { container })).await?;
    runtime.remove(container).await.map_err(engine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_after_its_image() {
        for (image, name) in [
            ("redis", "redis"),
            ("docker.io/library/redis:7", "redis"),
            ("registry.example:5000/team/app@sha256:00", "app"),
        ] {
            assert_eq!(default_name(image).as_str(), name);
        }
    }
}
