//! What the site counts of itself, beside what the network counts.

use godwit_protocol::Event;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What of its sort.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Kind {
    kind: &'static str,
}

/// The site's own figures. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Height of the last committed block.
    pub height: Gauge,
    /// Offers that have not ended.
    pub open_offers: Gauge,
    /// Containers that this site owns.
    pub containers: Gauge,
    /// Members' words that a correct member does not say.
    pub misbehaviour: Family<Kind, Counter>,
    /// Records of this site that had no effect.
    pub refused: Family<Kind, Counter>,
    /// How offers ended.
    pub offers: Family<Kind, Counter>,
    /// The standstill of containers that came here or left, in ms, summed up over the handoffs counted as `done`.
    pub standstill_ms: Counter,
}

impl Metrics {
    /// Shows the figures under `godwit_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("godwit");
        // Shown from the start, so that its absence is not taken for zero.
        drop(self.misbehaviour.get_or_create(&Kind { kind: "equivocation" }));
        registry.register("ledger_height", "Height of the last committed block", self.height.clone());
        registry.register("offers_open", "Offers that have not ended", self.open_offers.clone());
        registry.register("containers", "Containers that this site owns", self.containers.clone());
        registry.register(
            "misbehaviour",
            "Words of members that a correct member does not say, by kind",
            self.misbehaviour.clone(),
        );
        registry.register("records_refused", "Records of this site that had no effect, by kind", self.refused.clone());
        registry.register("offers_ended", "How the mesh's offers ended", self.offers.clone());
        registry.register(
            "standstill_ms",
            "Standstill of the containers that were handed over",
            self.standstill_ms.clone(),
        );
    }

    /// A member said what a correct member does not say.
    pub fn misbehave(&self, kind: &'static str) {
        self.misbehaviour.get_or_create(&Kind { kind }).inc();
    }

    /// A record of this site had no effect.
    pub fn refuse(&self, kind: &'static str) {
        self.refused.get_or_create(&Kind { kind }).inc();
    }

    /// Follows the ledger.
    pub fn committed(&self, event: &Event) {
        let ended = match event {
            Event::Closed { done, .. } => {
                self.standstill_ms.inc_by(done.spans.standstill().0);
                "done"
            }
            Event::Ended { .. } => "ended",
            Event::Returned { .. } => "returned",
            _ => return,
        };
        self.offers.get_or_create(&Kind { kind: ended }).inc();
    }
}
