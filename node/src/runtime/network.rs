//! Where this site sends packets for the mesh's containers.
//!
//! Every site has the mesh's whole range on its own bridge, so a container finds the same gateway and the same neighbours
//! wherever it runs. A container that runs elsewhere has a host route of its own, which is more specific. While a container
//! runs nowhere its packets wait (`hold.rs`); behind that route lies another, a black hole, so that nobody is answered if
//! this process dies. An answer, a reset or a host-unreachable, could end the connections that are to survive.
//!
//! Frames between containers on one bridge would not pass these routes. So the bridge hands those for the mesh's containers to
//! this host, which routes them like all others: a container that stands still, or waits to be restored in a network that is
//! there already, is not reached by its neighbours either.
//!
//! Containers on one bridge ask for each other by ARP; for one that runs elsewhere the bridge answers in its place. Those
//! who asked before it left are told so: their connections would stall until they asked again, a minute perhaps.
//!
//! Connections from containers to the outside are masqueraded as the site's own; connections that outsiders opened never
//! are. A connection that arrives with its container begins in the middle: only what looks like a beginning (a SYN, a
//! datagram to a well-known port) is masqueraded, or a reply would come from an address its client never spoke to.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use godwit_protocol::Address;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Mutex;

use super::error::Cause;
use super::hold::{self, Hold};

/// The bridge on every site.
pub const BRIDGE: &str = "godwit0";

/// Marks routes as ours (any number the kernel and the usual routing daemons do not use), so that no others are touched.
const OURS: RouteProtocol = RouteProtocol::Other(0x67);

/// The metric of a route that lasts.
const LASTING: u32 = 100;

/// The metric of a route into the device where packets wait: it goes before the other.
const PASSING: u32 = 50;

/// The firewall waits for its lock; longer than this and something is stuck.
const IPTABLES_DEADLINE: Duration = Duration::from_secs(15);

/// The mesh's range of container addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Its first address.
    pub network: Ipv4Addr,
    /// The length of its prefix.
    pub prefix: u8,
}

/// Where packets for an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// To the bridge: it runs here.
    Here,
    /// To another site.
    Via(Ipv4Addr),
    /// Nowhere, without an answer: they wait for another way.
    Nowhere,
}

impl Range {
    /// The address of every site's bridge: the first after the network's own.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits().saturating_add(1))
    }

    /// Whether a container may have the address.
    #[must_use]
    pub fn admits(&self, address: Ipv4Addr) -> bool {
        let size = 1_u64 << (32 - u32::from(self.prefix.min(32)));
        let offset = u64::from(address.to_bits()).checked_sub(u64::from(self.network.to_bits()));
        offset.is_some_and(|offset| (2..size - 1).contains(&offset))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// The MAC address that goes with a container's address: the same on every site, so that neighbours need not ask again. It is
/// the one that older engines give by themselves.
#[must_use]
pub fn mac(address: Address) -> String {
    let [a, b, c, d] = address.0.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The kernel's routes for the mesh's addresses.
#[derive(Clone, Debug)]
pub struct Routes {
    handle: Handle,
    range: Range,
    waiting: Arc<Mutex<Waiting>>,
}

/// Where packets wait. One way at a time is set, and its packets given back, before the next.
#[derive(Debug)]
enum Waiting {
    /// None had to.
    NotYet,
    Here(Hold),
    /// They cannot: they are dropped.
    Refused,
}

impl Routes {
    /// Talks to the kernel from here on, on the current tokio runtime.
    ///
    /// # Errors
    /// [`Cause::Network`] if it cannot.
    pub fn open(range: Range) -> Result<Self, Cause> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|e| Cause::Network(format!("open a netlink socket: {e}")))?;
        tokio::spawn(connection);
        Ok(Self { handle, range, waiting: Arc::new(Mutex::new(Waiting::NotYet)) })
    }

    /// Sends packets for an address that way from now on, first those that have waited for it.
    ///
    /// # Errors
    /// [`Cause::Route`] for an address outside the range, a site that is not on a network of this one's, or without the
    /// permission.
    pub async fn set(&self, address: Address, way: Way) -> Result<(), Cause> {
        let failed = |reason: String| Cause::Route { address, reason };
        if !self.range.admits(address.0) {
            return Err(failed(format!("not an address for containers in {}", self.range)));
        }
        let mut waiting = self.waiting.lock().await;
        let set = match way {
            Way::Here => self.remove(route(address, LASTING)).await,
            Way::Via(site) => self.replace(route(address, LASTING).gateway(site)).await,
            Way::Nowhere => self.replace(route(address, LASTING).kind(RouteType::BlackHole)).await,
        };
        set.map_err(|error| failed(error.to_string()))?;
        if way == Way::Nowhere {
            self.wait(&mut waiting, address).await.map_err(|error| failed(error.to_string()))?;
        } else if let Waiting::Here(hold) = &*waiting {
            self.remove(route(address, PASSING)).await.map_err(|error| failed(error.to_string()))?;
            let (packets, dropped) = hold.release(address.0).await;
            tracing::debug!(%address, packets, dropped, "network.released");
        }
        tracing::debug!(%address, ?way, "network.route");
        if let Way::Via(_) = way
            && let Err(error) = announce(address.0)
        {
            // Without a container on the bridge there is nobody to tell, and the bridge is down.
            tracing::debug!(%address, %error, "network.announce");
        }
        Ok(())
    }

    /// Lets packets for an address wait, if they can.
    async fn wait(&self, waiting: &mut Waiting, address: Address) -> Result<(), rtnetlink::Error> {
        if matches!(waiting, Waiting::NotYet) {
            *waiting = match open_hold() {
                Ok(hold) => Waiting::Here(hold),
                Err(error) => {
                    tracing::warn!(%error, "packets for containers that move cannot wait here and are dropped");
                    Waiting::Refused
                }
            };
        }
        let Waiting::Here(hold) = waiting else { return Ok(()) };
        hold.hold(address.0);
        match hold.index() {
            Ok(index) => self.replace(route(address, PASSING).output_interface(index)).await,
            Err(error) => {
                tracing::warn!(%error, "packets for {address} are dropped");
                Ok(())
            }
        }
    }

    async fn replace(&self, route: RouteMessageBuilder<Ipv4Addr>) -> Result<(), rtnetlink::Error> {
        self.handle.route().add(route.build()).replace().execute().await
    }

    /// Nothing to do if there is none.
    async fn remove(&self, route: RouteMessageBuilder<Ipv4Addr>) -> Result<(), rtnetlink::Error> {
        let route = route.kind(RouteType::Unspec).scope(RouteScope::NoWhere).build();
        match self.handle.route().del(route).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ESRCH => Ok(()),
            other => other,
        }
    }

    /// All ways that this site has set, also before a restart.
    ///
    /// # Errors
    /// [`Cause::Network`].
    pub async fn all(&self) -> Result<Vec<(Address, Way)>, Cause> {
        let mut query = RouteMessage::default();
        query.header.address_family = rtnetlink::packet_route::AddressFamily::Inet;
        let routes: Vec<RouteMessage> = self
            .handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(|e| Cause::Network(format!("list routes: {e}")))?;
        Ok(routes.iter().filter_map(|route| ours(route, self.range)).collect())
    }
}

fn route(address: Address, metric: u32) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address.0, 32).protocol(OURS).priority(metric)
}

/// The device where packets wait, with what it takes that they are let through when they come out of it again.
fn open_hold() -> io::Result<Hold> {
    let hold = Hold::open()?;
    // They come from anywhere, this host's own addresses among it.
    for (name, value) in [("rp_filter", "0"), ("accept_local", "1")] {
        setting(&format!("net/ipv4/conf/{}/{name}", hold::DEVICE), value).map_err(io::Error::other)?;
    }
    Ok(hold)
}

fn ours(route: &RouteMessage, range: Range) -> Option<(Address, Way)> {
    if route.header.protocol != OURS || route.header.destination_prefix_length != 32 {
        return None;
    }
    let (mut to, mut via) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(*address),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            RouteAttribute::Priority(PASSING) => return None,
            _ => {}
        }
    }
    let to = to.filter(|to| range.admits(*to))?;
    Some((Address(to), via.map_or(Way::Nowhere, Way::Via)))
}

/// Tells everybody on the bridge that it answers for the address now: a gratuitous ARP request (RFC 5227, section 3).
fn announce(address: Ipv4Addr) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(BRIDGE)?;
    let own = own_mac()?;
    let small = |constant: i32| u16::try_from(constant).map_err(io::Error::other);
    let to = nix::libc::sockaddr_ll {
        sll_family: small(nix::libc::AF_PACKET)?,
        sll_protocol: small(nix::libc::ETH_P_ARP)?.to_be(),
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let size = u32::try_from(size_of_val(&to)).map_err(io::Error::other)?;
    // SAFETY: `to` is a `sockaddr_ll` of that size, which `LinkAddr` copies before this statement ends.
    #[allow(unsafe_code)]
    let to = unsafe { LinkAddr::from_raw((&raw const to).cast(), Some(size)) };
    let to = to.ok_or_else(|| io::Error::other("no link address"))?;
    let socket = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    sendto(socket.as_raw_fd(), &arp_request(own, address), &to, MsgFlags::empty())?;
    Ok(())
}

/// Ethernet and IPv4; who has the address? I have it.
fn arp_request(own: [u8; 6], address: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&own);
    packet[14..18].copy_from_slice(&address.octets());
    packet[24..].copy_from_slice(&address.octets());
    packet
}

/// The bridge's own address.
fn own_mac() -> io::Result<[u8; 6]> {
    let mut interfaces = nix::ifaddrs::getifaddrs()?.filter(|interface| interface.interface_name == BRIDGE);
    let own = interfaces.find_map(|interface| interface.address?.as_link_addr()?.addr());
    own.ok_or_else(|| io::Error::other("it has none"))
}

/// What the firewall and the kernel must let through; safe to repeat. The engine must have made its own chains before.
///
/// # Errors
/// [`Cause::Network`] says what is refused.
pub(super) async fn open_ways(range: Range) -> Result<(), Cause> {
    setting("net/ipv4/ip_forward", "1")?;
    // Loose: while routes move, packets come and go on different ways.
    for interface in ["all", BRIDGE] {
        setting(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
    }
    neighbours(range).await?;
    setting(&format!("net/ipv4/conf/{BRIDGE}/proxy_arp"), "1")?;
    setting(&format!("net/ipv4/neigh/{BRIDGE}/proxy_delay"), "0")?;
    let range = range.to_string();
    for end in ["-s", "-d"] {
        rule(&["filter", "-I", "DOCKER-USER", end, &range, "-j", "ACCEPT"]).await?;
    }
    // What was held has gone through connection tracking before it was.
    rule(&["raw", "-A", "PREROUTING", "-i", hold::DEVICE, "-j", "CT", "--notrack"]).await?;
    let outside = ["nat", "-A", "POSTROUTING", "-s", &range, "!", "-d", &range, "!", "-o", BRIDGE];
    for beginning in [&["-p", "tcp", "--syn"][..], &["-p", "udp", "--dport", "0:1023"], &["-p", "icmp"]] {
        rule(&[&outside[..], beginning, &["-j", "MASQUERADE"]].concat()).await?;
    }
    Ok(())
}

/// Frames that containers send each other go through this host.
async fn neighbours(range: Range) -> Result<(), Cause> {
    let own = own_mac().map_err(|error| Cause::Network(format!("find out the address of {BRIDGE}: {error}")))?;
    // Nobody wants to be told of a shorter way.
    for interface in ["all", BRIDGE] {
        setting(&format!("net/ipv4/conf/{interface}/send_redirects"), "0")?;
    }
    let failed = |error: io::Error| Cause::Network(format!("run nft: {error}; install nftables"));
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut nft = command.spawn().map_err(failed)?;
    let run = async {
        if let Some(mut stdin) = nft.stdin.take() {
            stdin.write_all(frames(range, own).as_bytes()).await?;
        }
        let mut said = String::new();
        if let Some(mut stderr) = nft.stderr.take() {
            stderr.read_to_string(&mut said).await?;
        }
        Ok((nft.wait().await?, said))
    };
    let ran = tokio::time::timeout(IPTABLES_DEADLINE, run).await.map_err(|_| Cause::Deadline(IPTABLES_DEADLINE))?;
    match ran.map_err(failed)? {
        (status, _) if status.success() => Ok(()),
        (_, said) => Err(Cause::Network(format!("nft: {}", said.trim()))),
    }
}

/// In place of an earlier one: the containers' [addresses](mac) become the bridge's own.
fn frames(range: Range, own: [u8; 6]) -> String {
    let own = own.map(|byte| format!("{byte:02x}")).join(":");
    let mask = u32::MAX.checked_shl(32 - u32::from(range.prefix.min(32))).unwrap_or(0);
    let [a, b, c, d] = mask.to_be_bytes();
    let first = mac(Address(Ipv4Addr::from_bits(range.network.to_bits() & mask)));
    format!(
        "table bridge {BRIDGE}\ndelete table bridge {BRIDGE}\ntable bridge {BRIDGE} {{\n\
         chain frames {{\ntype filter hook prerouting priority dstnat; policy accept;\n\
         ether daddr & ff:ff:{a:02x}:{b:02x}:{c:02x}:{d:02x} == {first} ether type ip \
         meta pkttype set host ether daddr set {own}\n}}\n}}\n"
    )
}

/// Adds a rule, `[table, -I or -A, chain, what...]`, unless it is there.
async fn rule(rule: &[&str]) -> Result<(), Cause> {
    let (table, how, chain) = (rule[0], rule[1], rule[2]);
    let there = iptables(&[&["-t", table, "-C", chain], &rule[3..]].concat()).await?;
    if there.status.success() {
        return Ok(());
    }
    let added = iptables(&[&["-t", table, how, chain], &rule[3..]].concat()).await?;
    if added.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&added.stderr);
    Err(Cause::Network(format!("iptables {}: {}", rule.join(" "), said.trim())))
}

async fn iptables(arguments: &[&str]) -> Result<Output, Cause> {
    let run = Command::new("iptables").arg("-w").args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(IPTABLES_DEADLINE, run).await.map_err(|_| Cause::Deadline(IPTABLES_DEADLINE))?;
    output.map_err(|e| Cause::Network(format!("run iptables: {e}")))
}

/// Sets a kernel parameter unless it is set; in a container they may be read-only and yet right.
fn setting(name: &str, value: &str) -> Result<(), Cause> {
    let path = Path::new("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|found| found.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|e| Cause::Network(format!("set {name} to {value}: {e}")))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;

    const RANGE: Range = Range { network: Ipv4Addr::new(10, 50, 0, 0), prefix: 16 };

    #[test]
    fn the_range_admits_containers_but_no_gateway_and_no_broadcast() {
        assert_eq!(RANGE.gateway(), Ipv4Addr::new(10, 50, 0, 1));
        let admitted = |a, b| RANGE.admits(Ipv4Addr::new(10, 50, a, b));
        assert!(!admitted(0, 0) && !admitted(0, 1) && admitted(0, 2) && admitted(255, 254) && !admitted(255, 255));
        assert!(!RANGE.admits(Ipv4Addr::new(10, 51, 0, 2)) && !RANGE.admits(Ipv4Addr::new(10, 49, 0, 2)));
        let all = Range { network: Ipv4Addr::UNSPECIFIED, prefix: 0 };
        assert!(all.admits(Ipv4Addr::new(255, 255, 255, 254)) && !all.admits(Ipv4Addr::BROADCAST));
    }

    #[test]
    fn a_mac_address_is_local_and_tells_containers_apart() {
        assert_eq!(mac(Address(Ipv4Addr::new(10, 50, 0, 10))), "02:42:0a:32:00:0a");
    }

    #[test]
    fn an_announcement_asks_for_the_address_it_has() {
        let own = [2, 0x42, 10, 50, 0, 1];
        let packet = arp_request(own, Ipv4Addr::new(10, 50, 0, 10));
        let expected = [
            &[0, 1, 8, 0, 6, 4, 0, 1][..],
            &[2, 0x42, 10, 50, 0, 1, 10, 50, 0, 10],
            &[0, 0, 0, 0, 0, 0, 10, 50, 0, 10],
        ];
        assert_eq!(packet.as_slice(), expected.concat());
    }

    #[tokio::test]
    async fn an_address_outside_the_range_gets_no_route() {
        let routes = Routes::open(RANGE).unwrap();
        let refused = routes.set(Address(Ipv4Addr::new(8, 8, 8, 8)), Way::Nowhere).await;
        assert!(matches!(refused, Err(Cause::Route { .. })), "{refused:?}");
    }

    /// A network namespace of its own, for as long as this is there.
    struct Namespace {
        thread: i32,
        _stays: std::sync::mpsc::Sender<()>,
    }

    impl Namespace {
        /// And a socket in it, once it has an address.
        fn with_socket() -> (Self, std::sync::mpsc::Receiver<UdpSocket>, std::sync::mpsc::Sender<SocketAddr>) {
            let (stays, goes) = std::sync::mpsc::channel::<()>();
            let (tell, told) = std::sync::mpsc::channel();
            let (bind, bound) = std::sync::mpsc::channel::<SocketAddr>();
            let (give, given) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
                tell.send(nix::unistd::gettid().as_raw()).expect("awaited");
                while let Ok(address) = bound.recv() {
                    give.send(UdpSocket::bind(address).expect("it has the address")).expect("awaited");
                }
                // Ends when the sender does.
                let _ = goes.recv();
            });
            (Self { thread: told.recv().expect("it starts"), _stays: stays }, given, bind)
        }
    }

    /// In this thread's network namespace.
    fn ip(line: &str) {
        let ran = std::process::Command::new("ip").args(line.split_whitespace()).output().expect("iproute2 is there");
        assert!(ran.status.success(), "ip {line}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    fn in_namespace_of(namespace: &Namespace, line: &str) {
        let run = format!("-t {} -n ip {line}", namespace.thread);
        let ran =
            std::process::Command::new("nsenter").args(run.split_whitespace()).output().expect("util-linux is there");
        assert!(ran.status.success(), "nsenter {run}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    #[test]
    fn frames_for_all_containers_of_the_range_and_no_others_are_this_hosts() {
        let rules = frames(RANGE, [2, 0, 0, 0, 0, 1]);
        assert!(rules.contains("ether daddr & ff:ff:ff:ff:00:00 == 02:42:0a:32:00:00 ether type ip"), "{rules}");
        assert!(rules.contains("ether daddr set 02:00:00:00:00:01"), "{rules}");
        let odd = Range { network: Ipv4Addr::new(10, 50, 16, 0), prefix: 20 };
        assert!(frames(odd, [2, 0, 0, 0, 0, 1]).contains("& ff:ff:ff:ff:f0:00 == 02:42:0a:32:10:00 "));
    }

    /// Two containers on a site's bridge. As root: in network namespaces of its own.
    #[test]
    fn what_a_neighbour_sends_waits_while_a_container_stands_still() {
        // This thread becomes the site.
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            ip(&format!("link add {BRIDGE} type bridge"));
            ip(&format!("link set {BRIDGE} address 02:00:00:00:00:01 up"));
            ip(&format!("addr add 10.50.0.1/16 dev {BRIDGE}"));
            let inside = |number: u8| {
                let (namespace, sockets, binds) = Namespace::with_socket();
                let address = Ipv4Addr::new(10, 50, 0, number);
                ip(&format!("link add k{number} type veth peer name c{number} netns {}", namespace.thread));
                ip(&format!("link set k{number} master {BRIDGE} up"));
                in_namespace_of(&namespace, &format!("link set c{number} address {} up", mac(Address(address))));
                in_namespace_of(&namespace, &format!("addr add {address}/16 dev c{number}"));
                binds.send(SocketAddr::from((address, 7777))).expect("it listens");
                let socket = sockets.recv().expect("bound");
                socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
                (namespace, socket, binds)
            };
            let (_first, neighbour, _keep) = inside(2);
            let (_second, container, _kept) = inside(3);
            neighbour.connect("10.50.0.3:7777").expect("a route");
            setting("net/ipv4/ip_forward", "1").expect("it is this namespace's own");
            for interface in ["all", BRIDGE] {
                setting(&format!("net/ipv4/conf/{interface}/rp_filter"), "0").expect("it is this namespace's own");
            }
            let hear = || {
                let mut byte = [0];
                container.recv(&mut byte).map(|_| byte[0])
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let routes = Routes::open(RANGE).expect("netlink");
                for _ in 0..2 {
                    neighbours(RANGE).await.expect("nftables is there");
                }
                let address = Address(Ipv4Addr::new(10, 50, 0, 3));
                neighbour.send(&[1]).expect("sent");
                assert_eq!(hear().expect("it runs"), 1);
                routes.set(address, Way::Nowhere).await.expect("held");
                neighbour.send(&[2]).expect("sent");
                tokio::time::sleep(Duration::from_millis(100)).await;
                container.set_nonblocking(true).expect("set");
                assert!(hear().is_err(), "it stands still");
                container.set_nonblocking(false).expect("set");
                routes.set(address, Way::Here).await.expect("released");
                assert_eq!(hear().expect("it was held"), 2);
                assert_eq!(neighbour.take_error().expect("asked").map(|error| error.to_string()), None);
            });
        })
        .join()
        .expect("as promised");
    }

    /// A client, a site between, a container on the site's bridge. As root: in network namespaces of its own.
    #[test]
    fn what_comes_while_a_container_stands_still_arrives_when_it_goes_on_and_nobody_is_answered() {
        // This thread becomes the site.
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            let (client, client_sockets, client_binds) = Namespace::with_socket();
            let (container, container_sockets, container_binds) = Namespace::with_socket();
            ip(&format!("link add c0 type veth peer name c1 netns {}", client.thread));
            ip(&format!("link add k0 type veth peer name k1 netns {}", container.thread));
            ip(&format!("link add {BRIDGE} type bridge"));
            ip(&format!("link set k0 master {BRIDGE} up"));
            ip(&format!("link set {BRIDGE} up"));
            ip("link set c0 up");
            ip("addr add 192.0.2.1/24 dev c0");
            ip(&format!("addr add 10.50.0.1/16 dev {BRIDGE}"));
            in_namespace_of(&client, "link set c1 up");
            in_namespace_of(&client, "addr add 192.0.2.2/24 dev c1");
            in_namespace_of(&client, "route add default via 192.0.2.1");
            in_namespace_of(&container, "link set k1 up");
            in_namespace_of(&container, "addr add 10.50.0.2/16 dev k1");
            in_namespace_of(&container, "route add default via 10.50.0.1");
            for (name, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/c0/rp_filter", "0")] {
                setting(&format!("net/ipv4/{name}"), value).expect("it is this namespace's own");
            }

            let to: SocketAddr = "10.50.0.2:7777".parse().expect("an address");
            container_binds.send(to).expect("it listens");
            client_binds.send("192.0.2.2:0".parse().expect("an address")).expect("it listens");
            let (client, container) = (client_sockets.recv().expect("bound"), container_sockets.recv().expect("bound"));
            client.connect(to).expect("a route");
            container.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
            let hear = || {
                let mut bytes = [0; 8];
                container.recv(&mut bytes).map(|_| u64::from_be_bytes(bytes))
            };
            let mut said = 0_u64;
            let mut say = |many: u64| {
                for _ in 0..many {
                    client.send(&said.to_be_bytes()).expect("nobody has answered");
                    said += 1;
                }
            };

            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let routes = Routes::open(RANGE).expect("netlink");
                let address = Address(Ipv4Addr::new(10, 50, 0, 2));
                say(1);
                assert_eq!(hear().expect("it runs"), 0);
                for round in 0..2 {
                    routes.set(address, Way::Nowhere).await.expect("held");
                    say(100);
                    // The reader and the kernel have their time; more than the ones that came must not be needed.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    container.set_nonblocking(true).expect("set");
                    assert!(hear().is_err(), "it stands still");
                    container.set_nonblocking(false).expect("set");
                    assert_eq!(routes.all().await.expect("listed"), [(address, Way::Nowhere)]);
                    routes.set(address, Way::Here).await.expect("released");
                    for number in 0..100 {
                        assert_eq!(hear().expect("it was held"), round * 101 + 1 + number);
                    }
                    say(1);
                    assert_eq!(hear().expect("it runs"), round * 101 + 101);
                    assert_eq!(routes.all().await.expect("listed"), []);
                }
                // The process dies while packets wait: they vanish, and nobody is told that the container is away.
                routes.set(address, Way::Nowhere).await.expect("held");
                drop(routes);
                tokio::time::sleep(Duration::from_millis(100)).await;
                say(10);
                tokio::time::sleep(Duration::from_millis(100)).await;
                say(1);
                assert_eq!(client.take_error().expect("asked").map(|error| error.to_string()), None);
                container.set_nonblocking(true).expect("set");
                assert!(hear().is_err());
            });
        })
        .join()
        .expect("as promised");
    }
}
