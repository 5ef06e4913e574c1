//! What the network counts.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::refusal::Refusal;

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(missing_docs)] // as the protocols are called
pub enum Channel {
    Ledger,
    Word,
    Report,
    Pull,
    Record,
    Capacity,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelLabels {
    channel: Channel,
}

/// The network's metrics; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    refused: Family<RefusedLabels, Counter>,
    received: Family<ChannelLabels, Counter>,
    sent: Family<ChannelLabels, Counter>,
    dropped: Family<ChannelLabels, Counter>,
    /// Members connected now.
    pub peers: Gauge,
}

impl Metrics {
    /// Makes the metrics appear under `godwit_net_...`.
    pub fn register(&self, registry: &mut Registry) {
        let net = registry.sub_registry_with_prefix("godwit_net");
        net.register("refused", "What came from outside and was refused, by reason", self.refused.clone());
        net.register_with_unit("received", "Payload received", Unit::Bytes, self.received.clone());
        net.register_with_unit("sent", "Payload sent", Unit::Bytes, self.sent.clone());
        net.register("dropped", "Frames given up because a peer does not keep up or is away", self.dropped.clone());
        net.register("peers", "Members connected", self.peers.clone());
    }

    /// Counts a refusal.
    pub fn refuse(&self, what: Refusal) {
        self.refused.get_or_create(&RefusedLabels { reason: what.name() }).inc();
    }

    /// How often something was refused.
    #[must_use]
    pub fn refused(&self, what: Refusal) -> u64 {
        self.refused.get_or_create(&RefusedLabels { reason: what.name() }).get()
    }

    /// Counts bytes that arrived.
    pub fn receive(&self, channel: Channel, bytes: usize) {
        self.received.get_or_create(&ChannelLabels { channel }).inc_by(bytes as u64);
    }

    /// Bytes that arrived.
    #[must_use]
    pub fn received(&self, channel: Channel) -> u64 {
        self.received.get_or_create(&ChannelLabels { channel }).get()
    }

    /// Counts bytes that were handed to the transport.
    pub fn send(&self, channel: Channel, bytes: usize) {
        self.sent.get_or_create(&ChannelLabels { channel }).inc_by(bytes as u64);
    }

    /// Bytes that were handed to the transport.
    #[must_use]
    pub fn sent(&self, channel: Channel) -> u64 {
        self.sent.get_or_create(&ChannelLabels { channel }).get()
    }

    /// Counts a frame that was given up.
    pub fn drop_frame(&self, channel: Channel) {
        self.dropped.get_or_create(&ChannelLabels { channel }).inc();
    }

    /// Frames that were given up.
    #[must_use]
    pub fn dropped(&self, channel: Channel) -> u64 {
        self.dropped.get_or_create(&ChannelLabels { channel }).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_by_name() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        for what in Refusal::ALL {
            metrics.refuse(what);
        }
        metrics.send(Channel::Pull, 3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for what in Refusal::ALL {
            assert!(text.contains(&format!("godwit_net_refused_total{{reason=\"{what}\"}} 1")), "{what}: {text}");
        }
        assert!(text.contains("godwit_net_sent_bytes_total{channel=\"Pull\"} 3"), "{text}");
    }
}
