//! What the load says: records that every mesh takes, of the size that is measured with.

use godwit_protocol::abort::{Abort, Then};
use godwit_protocol::bid::{Bid, Decline, Reason};
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::container::{Image, Kind, Mode, Needs, Profile};
use godwit_protocol::membership::{Member, Role};
use godwit_protocol::offer::{DEFAULT_WINDOW, Offer, Why};
use godwit_protocol::register::Register;
use godwit_protocol::{
    Address, Bytes, ClientId, ContainerId, Epoch, Hash, ImageId, Message, MilliCpu, Millis, OfferId, PerMille, SiteId,
};

/// The range of the containers' addresses, as `godwit genesis create` takes it: room for all containers that a mesh may have.
pub const RANGE: &str = "10.0.0.0/8";
pub const NETWORK: Address = Address(std::net::Ipv4Addr::new(10, 0, 0, 0));
pub const PREFIX: u8 = 8;

/// As many as a registration takes: they make up most of the kilobyte.
const CLIENTS: u32 = 16;
/// Fills what the clients leave.
const REFERENCE: usize = 255;

/// A founding member that is no `godwit` process.
pub fn member(site: SiteId, role: Role, name: &str) -> Member {
    Member { site, role, name: Text::clipped(name), addresses: List::default() }
}

/// The id of a container: like a real one it begins with any byte.
pub fn container(n: u32) -> ContainerId {
    let hash = Hash::of_parts("bench/container", &[&n.to_le_bytes()]);
    ContainerId(hash.0[..16].try_into().expect("a hash has 32 bytes"))
}

/// A registration of 1 KB: with as many clients as it may have, and an image of the longest name.
pub fn register(n: u32) -> Message {
    let client = |place: u32| ClientId(Hash::of_parts("bench/client", &[&(n * CLIENTS + place).to_le_bytes()]).0);
    let reference = format!("registry.example/{}", "x".repeat(REFERENCE));
    Message::Register(Register {
        container: container(n),
        name: Text::clipped(&format!("load-{n}")),
        image: Image { id: ImageId([9; 32]), reference: Text::clipped(&reference) },
        profile: Profile {
            cpu: MilliCpu(0),
            memory: Bytes(0),
            gpu: 0,
            kind: Kind::Stateless,
            mode: Mode::Restart,
            max_delay_ms: Millis(1000),
        },
        // Behind the network's own address and its gateway's.
        address: Address((NETWORK.0.to_bits() + 2 + n).into()),
        clients: List::first((0..CLIENTS).map(client)),
    })
}

/// An offer of that container at its first epoch, which any site of this machine can take.
pub fn offer(n: u32, named: &[SiteId]) -> Message {
    Message::Offer(Offer {
        container: container(n),
        epoch: Epoch(1),
        source_address: Address([192, 0, 2, 1].into()),
        size: Bytes(1 << 20),
        cpu: MilliCpu(0),
        gpu: 0,
        memory: Bytes(0),
        why: Why::Manual { prefer: None },
        needs: Needs {
            architecture: Text::clipped(std::env::consts::ARCH),
            cpu_features: List::default(),
            kernel: (0, 0),
            criu: 0,
            image: ImageId([9; 32]),
        },
        named: List::first(named.iter().copied()),
        window: DEFAULT_WINDOW,
    })
}

pub fn bid(offer: OfferId) -> Message {
    Message::Bid(Bid { offer, same_network: false, load: PerMille(100), downtime_ms: Millis(100) })
}

pub fn decline(offer: OfferId) -> Message {
    Message::Decline(Decline { offer, attempt: 0, reason: Reason::Memory })
}

/// The source ends its offer.
pub fn end(offer: OfferId, attempt: u32) -> Message {
    Message::Abort(Abort { offer, attempt, then: Then::End, reason: Reason::Operator })
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_protocol::encode;

    #[test]
    fn a_registration_has_a_kilobyte_and_no_two_are_the_same() {
        let sizes: Vec<usize> = [0, 1, 65_535].iter().map(|n| encode(&register(*n)).expect("small").len()).collect();
        // Author, signature, sequence and expiry come to it: 952 bytes and a few more.
        assert!(sizes.iter().all(|size| (840..900).contains(size)), "{sizes:?}");
        assert_ne!(register(1), register(2));
    }
}
