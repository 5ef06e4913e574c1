//! A mesh of processes on this machine whose validators come and go while members write.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use godwit::net::{Endpoint, MemberInfo, MemberSet, NetConfig};
use godwit_ledger::record::{Record, VerifiedRecord};
use godwit_ledger::replica::{LedgerMessage, MAX_RECORDS_SENT};
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::container::{Image, Kind, Mode, Profile};
use godwit_protocol::membership::Role;
use godwit_protocol::register::Register;
use godwit_protocol::{Address, Bytes, ContainerId, ImageId, MeshId, Message, MilliCpu, Millis, Signed, Time, encode};
use godwit_tests::genesis::{self, Change, Settings};
use godwit_tests::view::{Container, Members};
use godwit_tests::wait::LONG;
use godwit_tests::{Mesh, Node, artifacts};

/// Between two records of the writer.
const PAUSE: Duration = Duration::from_millis(100);

/// A member without engine and ledger, that registers one container after the other, and says again what may be lost.
struct Writer {
    /// Records said so far.
    said: Arc<AtomicU16>,
    /// What it is to do.
    order: Arc<AtomicU8>,
    thread: JoinHandle<Result<()>>,
}

const WRITE: u8 = 0;
/// Say nothing new.
const REPEAT: u8 = 1;
const END: u8 = 2;

impl Writer {
    fn start(key: SigningKey, mesh: MeshId, members: MemberSet) -> Self {
        let (said, order) = (Arc::<AtomicU16>::default(), Arc::<AtomicU8>::default());
        let (count, told) = (Arc::clone(&said), Arc::clone(&order));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
            runtime.block_on(write(key, mesh, members, count, told))
        });
        Self { said, order, thread }
    }

    fn said(&self) -> usize {
        self.said.load(Ordering::SeqCst).into()
    }

    /// Waits until something that is said from now on is in the ledger.
    fn gets_through(&self, mesh: &Mesh, node: &Node, when: &str) -> Result<()> {
        let least = self.said() + 3;
        mesh.until(&format!("records are committed {when}"), LONG, |_| {
            let known = registered(node)?;
            ensure!(known >= least, "{} knows {known} of {least}", node.name);
            Ok(())
        })
    }

    /// All that was said is in the ledger of these nodes.
    fn finish(self, mesh: &Mesh, nodes: &[Node]) -> Result<usize> {
        self.order.store(REPEAT, Ordering::SeqCst);
        std::thread::sleep(PAUSE * 2); // it may be about to say one more
        let all = self.said();
        mesh.until("every record is committed", LONG, |_| {
            for node in nodes {
                let known = registered(node)?;
                ensure!(known == all, "{} knows {known} of {all}", node.name);
            }
            Ok(())
        })?;
        self.order.store(END, Ordering::SeqCst);
        self.thread.join().ok().context("the writer panicked")??;
        Ok(all)
    }
}

fn registered(node: &Node) -> Result<usize> {
    Ok(node.ask::<Vec<Container>>(&["ps"])?.len())
}

async fn write(
    key: SigningKey,
    mesh: MeshId,
    members: MemberSet,
    count: Arc<AtomicU16>,
    order: Arc<AtomicU8>,
) -> Result<()> {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().context("an address")?];
    let config = NetConfig { key: key.clone(), mesh, listen, peers: Vec::new(), mdns: false };
    let (net, mut heard) = Endpoint::start(config)?;
    net.admit(members.clone());
    tokio::spawn(async move { while heard.recv().await.is_some() {} });
    let mut said: Vec<VerifiedRecord> = Vec::new();
    for round in 0_u64.. {
        match order.load(Ordering::SeqCst) {
            WRITE => {
                let record = registration(&key, mesh, u16::try_from(said.len()).context("a number")?)?;
                // Whoever is not there to hear it gets it again below.
                let _ = net.publish_record(&record).await;
                said.push(record);
                count.store(u16::try_from(said.len()).context("a number")?, Ordering::SeqCst);
            }
            REPEAT => {}
            _ => break,
        }
        if round % 10 == 9 {
            // What a site does with its own records that gossip did not get into a block.
            let pages = said.chunks(MAX_RECORDS_SENT);
            let page = pages.clone().nth(usize::try_from(round / 10).context("a number")? % pages.len().max(1));
            let last = &said[said.len().saturating_sub(MAX_RECORDS_SENT)..];
            for records in page.into_iter().chain([last]) {
                let records = List::first(records.iter().map(|record| record.clone().into_signed()));
                let bytes = encode(&LedgerMessage::Records(records))?.into();
                for site in members.keys() {
                    let _ = net.send_ledger(*site, &bytes);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    net.shutdown().await;
    Ok(())
}

fn registration(key: &SigningKey, mesh: MeshId, n: u16) -> Result<VerifiedRecord> {
    let [high, low] = n.to_be_bytes();
    let mut container = ContainerId([0xc0; 16]);
    (container.0[0], container.0[1]) = (low, high);
    let register = Register {
        container,
        name: Text::clipped(&format!("container-{n}")),
        image: Image { id: ImageId([9; 32]), reference: Text::clipped("none:1") },
        profile: Profile {
            cpu: MilliCpu(100),
            memory: Bytes(1 << 20),
            gpu: 0,
            kind: Kind::Stateless,
            mode: Mode::Restart,
            max_delay_ms: Millis(100),
        },
        address: Address([10, 77, high + 1, low].into()),
        clients: List::default(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    let expires = Time(u64::try_from(now.as_millis()).context("a time")?).after(Millis(540_000));
    let record = Record { sequence: u64::from(n) + 1, expires, message: Message::Register(register) };
    Ok(Signed::sign(&mesh, key, record)?)
}

/// The members as the writer's network wants them.
fn members(node: &Node) -> Result<MemberSet> {
    let members: Members = node.ask(&["member", "list"])?;
    let info = |member: &godwit_tests::view::MemberLine| -> Result<_> {
        let addresses = member.addresses.iter().map(|address| address.parse().context("an address"));
        let role = if member.role == "validator" { Role::Validator } else { Role::Member };
        Ok((member.site.parse()?, MemberInfo { role, addresses: addresses.collect::<Result<_>>()? }))
    };
    members.members.iter().map(info).collect()
}

/// A site's process that is no member yet.
fn newcomer(mesh: &Mesh, folder: &Path, n: usize) -> Result<(Node, String)> {
    let node = Node::here(&format!("n{n}"), &folder.join(n.to_string()))?;
    let line = genesis::join(mesh, &node, "member", &Settings::for_tests())?;
    Ok((node, line))
}

fn validators(mesh: &Mesh, nodes: &[Node], count: u32) -> Result<()> {
    mesh.until("the sites agree on the validators", LONG, |_| {
        for node in nodes {
            let status = node.status()?;
            ensure!(status.validators == count, "{status:?}");
        }
        Ok(())
    })
}

#[test]
fn the_set_changes_from_four_to_seven_to_five_while_every_record_is_committed() -> Result<()> {
    let folder = artifacts::scratch("membership")?;
    let nodes = (1..=4).map(|n| Node::here(&format!("n{n}"), &folder.join(n.to_string()))).collect::<Result<_>>()?;
    let mut mesh = Mesh::found(nodes, &Settings::for_tests())?;
    let (writer, line) = newcomer(&mesh, &folder, 9)?;
    Change::of(&["admit", &line]).commit(&mesh, &mesh.nodes)?;
    let key = godwit::key::read(Path::new(&writer.path("site.key")))?;
    let founding = godwit::genesis::read(Path::new(&mesh.node(1).genesis()))?;
    let writer = Writer::start(key, founding.mesh(), members(mesh.node(1))?);
    writer.gets_through(&mesh, mesh.node(1), "by four validators")?;

    for n in 5..=7 {
        let (node, line) = newcomer(&mesh, &folder, n)?;
        Change::of(&["admit", &line]).commit(&mesh, &mesh.nodes)?;
        node.start()?;
        mesh.nodes.push(node);
        let all = mesh.nodes.clone();
        mesh.until("the new site follows the ledger", LONG, |mesh| {
            let (new, first) = (all[n - 1].status()?, mesh.node(1).status()?);
            ensure!(new.height + 8 >= first.height && new.peers as usize >= n - 1, "{new:?}, {first:?}");
            Ok(())
        })?;
        Change::of(&["promote", &format!("n{n}")]).commit(&mesh, &all)?;
        validators(&mesh, &all, u32::try_from(n)?)?;
        writer.gets_through(&mesh, mesh.node(n), &format!("by {n} validators"))?;
    }

    // One of the founders leaves, one of the new ones stays without a vote.
    let all = mesh.nodes.clone();
    Change::of(&["remove", "n1"]).commit(&mesh, &all)?;
    mesh.node(1).stop()?;
    let rest = all[1..].to_vec();
    Change::of(&["demote", "n7"]).commit(&mesh, &rest)?;
    validators(&mesh, &rest, 5)?;
    writer.gets_through(&mesh, mesh.node(7), "by the five that are left")?;

    // A new key, and then so few others that its vote is needed.
    let renewed = mesh.node(5).clone();
    let old = renewed.status()?.site;
    let change = Change::of(&["rotate", "--key", &renewed.path("site.key")]);
    let (first, others): (Vec<_>, Vec<_>) = rest.iter().cloned().partition(|node| node.name == "n5");
    let order: Vec<Node> = first.into_iter().chain(others.iter().cloned()).collect();
    change.approved(&order)?.submit(&others[0])?;
    mesh.until("the site has started anew with its new key", LONG, |_| {
        let (status, known) = (renewed.status()?, others[0].status()?);
        ensure!(status.site != old && status.height + 8 >= known.height, "{status:?}");
        ensure!(status.peers as usize >= others.len(), "{status:?}");
        Ok(())
    })?;
    renewed.is_alive()?;
    mesh.node(2).kill()?;
    let alive: Vec<Node> = rest.iter().filter(|node| node.name != "n2").cloned().collect();
    writer.gets_through(&mesh, &renewed, "with the vote of the new key")?;
    let all = writer.finish(&mesh, &alive)?;
    ensure!(all > 20, "{all} records are no load");
    mesh.until("the sites agree", LONG, |mesh| mesh.agree(&alive)).map(drop)
}
