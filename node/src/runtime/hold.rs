//! Packets for containers that stand still, kept until they can be delivered.
//!
//! A packet that is dropped costs its connection 200 ms at least, until TCP sends it again; one that waits costs as long as
//! it waits. So the address is routed into a TUN device of ours, whose packets are put back into the kernel when the address
//! has another way: it then forwards them, as if they had just come.
//!
//! Invariant: nobody is ever answered. What does not fit is dropped, and if this process dies the device goes with it; the
//! route that then holds is a black hole.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;
use tun_rs::{AsyncDevice, DeviceBuilder};

/// The device.
pub(super) const DEVICE: &str = "godwit-hold";

/// What waits for one container: 30 ms at 1 Gbit/s, or the windows of some sixty connections at rest.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// What each packet costs beside its bytes: else empty ones would take a hundred times their size.
const OVERHEAD: usize = 128;

/// No packet is longer, so none is refused for its length: a refusal is an answer.
const MTU: u16 = 65_535;

/// Packets that wait in the kernel while this process is not scheduled: some milliseconds of full-sized ones at 1 Gbit/s.
const KERNEL_QUEUE: u32 = 4_096;

/// The device, and what came out of it.
pub(super) struct Hold {
    device: Arc<AsyncDevice>,
    queues: Arc<Mutex<Queues>>,
    reader: JoinHandle<()>,
}

impl Hold {
    /// Makes the device, on the current tokio runtime.
    ///
    /// # Errors
    /// Without `/dev/net/tun`, the permission, or if another process has the device.
    pub fn open() -> io::Result<Self> {
        let device = DeviceBuilder::new().name(DEVICE).mtu(MTU).with(|device| {
            device.tx_queue_len(KERNEL_QUEUE);
        });
        let device = Arc::new(device.build_async()?);
        let queues = Arc::new(Mutex::new(Queues::default()));
        let reader = tokio::spawn(read(Arc::clone(&device), Arc::clone(&queues)));
        Ok(Self { device, queues, reader })
    }

    /// The device's index.
    ///
    /// # Errors
    /// If it is gone.
    pub fn index(&self) -> io::Result<u32> {
        self.device.if_index()
    }

    /// Keeps packets for this address from now on.
    pub fn hold(&self, address: Ipv4Addr) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).hold(address);
    }

    /// Gives packets for this address back to the kernel, which knows another way for them by now; how many, and how many
    /// did not fit.
    pub async fn release(&self, address: Ipv4Addr) -> (usize, u64) {
        let queue = self.queues.lock().unwrap_or_else(PoisonError::into_inner).release(address);
        let packets = queue.packets.len();
        for packet in queue.packets {
            give_back(&self.device, &packet).await;
        }
        (packets, queue.dropped)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("queues", &self.queues).finish_non_exhaustive()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(device: Arc<AsyncDevice>, queues: Arc<Mutex<Queues>>) {
    let mut buffer = vec![0; usize::from(MTU)];
    loop {
        let packet = match device.recv(&mut buffer).await {
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "packets for containers that move are dropped: {DEVICE} cannot be read");
                return;
            }
        };
        let passes = queues.lock().unwrap_or_else(PoisonError::into_inner).arrive(packet);
        if passes {
            give_back(&device, packet).await;
        }
    }
}

async fn give_back(device: &AsyncDevice, packet: &[u8]) {
    if let Err(error) = device.send(packet).await {
        // As any packet may be lost.
        tracing::debug!(%error, "a packet that was held is lost");
    }
}

/// What waits, by the address that it is for.
#[derive(Debug, Default)]
struct Queues(BTreeMap<Ipv4Addr, Queue>);

/// What waits for one address.
#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
}

impl Queues {
    /// Keeps what is kept for it already.
    fn hold(&mut self, address: Ipv4Addr) {
        self.0.entry(address).or_default();
    }

    /// Whether the packet goes back at once: it was on its way through the device when its address got another way.
    fn arrive(&mut self, packet: &[u8]) -> bool {
        let Some(to) = destination(packet) else { return false };
        match self.0.get_mut(&to) {
            Some(queue) => {
                queue.push(packet);
                false
            }
            None => true,
        }
    }

    fn release(&mut self, address: Ipv4Addr) -> Queue {
        self.0.remove(&address).unwrap_or_default()
    }
}

impl Queue {
    fn push(&mut self, packet: &[u8]) {
        let bytes = packet.len() + OVERHEAD;
        if self.bytes + bytes > BYTES_MAX {
            self.dropped += 1;
            return;
        }
        self.bytes += bytes;
        self.packets.push_back(packet.to_vec());
    }
}

/// Where an IPv4 packet goes (RFC 791, section 3.1).
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (packet[0] >> 4 == 4).then_some(to.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 2);

    fn packet(to: Ipv4Addr, number: u8, length: usize) -> Vec<u8> {
        let mut packet = vec![number; length];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&to.octets());
        packet
    }

    #[test]
    fn what_is_held_comes_out_once_in_its_order() {
        let mut queues = Queues::default();
        queues.hold(HELD);
        for number in 0..5 {
            assert!(!queues.arrive(&packet(HELD, number, 40)));
        }
        queues.hold(HELD);
        let queue = queues.release(HELD);
        let numbers: Vec<u8> = queue.packets.iter().map(|packet| packet[1]).collect();
        assert_eq!((numbers, queue.dropped), (vec![0, 1, 2, 3, 4], 0));
        assert!(queues.release(HELD).packets.is_empty());
    }

    #[test]
    fn what_comes_late_or_is_for_others_passes_and_what_is_no_packet_does_not() {
        let mut queues = Queues::default();
        queues.hold(HELD);
        assert!(queues.arrive(&packet(Ipv4Addr::new(10, 50, 0, 3), 0, 40)));
        queues.release(HELD);
        assert!(queues.arrive(&packet(HELD, 0, 40)));
        for short in 0..20 {
            assert!(!queues.arrive(&packet(HELD, 0, 20)[..short]));
        }
        let version_6 = [&[0x60][..], &[0; 39]].concat();
        assert!(!queues.arrive(&version_6));
    }

    #[test]
    fn what_waits_is_bounded_however_small_the_packets() {
        for length in [20, 1_500, usize::from(MTU)] {
            let mut queues = Queues::default();
            queues.hold(HELD);
            let many = BYTES_MAX / length + 1;
            for _ in 0..many {
                queues.arrive(&packet(HELD, 0, length));
            }
            let queue = queues.release(HELD);
            assert!(queue.bytes <= BYTES_MAX && queue.dropped > 0, "{length}");
            assert_eq!(queue.packets.len() as u64 + queue.dropped, many as u64);
        }
    }
}
