//! The site's load as its brain takes it: the monitor's figures with each container's use.

use std::sync::Arc;

use godwit_protocol::Bytes;
use godwit_protocol::site::{Load, Use};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::monitor::SiteLoad;
use crate::runtime::Runtime;

/// Joins the two with every sample, until nobody wants them any more.
pub fn watch(mut site: watch::Receiver<SiteLoad>, runtime: Arc<dyn Runtime>) -> mpsc::Receiver<Load> {
    // One waits while the loop is busy: an older measurement is worth nothing.
    let (loads, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut absent = false;
        loop {
            let measured = *site.borrow_and_update();
            let mut load = Load { cpu: measured.cpu, memory: measured.memory, gpu: measured.gpu, ..Load::default() };
            match runtime.usage().await {
                Ok(usage) => {
                    // The writable layer's size costs a walk over it: what an offer says is an estimate without it.
                    load.containers = usage
                        .into_iter()
                        .map(|used| (used.container, Use { cpu: used.cpu, memory: used.memory, layer: Bytes(0) }))
                        .collect();
                    absent = false;
                }
                Err(error) => {
                    load.engine_absent = true;
                    if !std::mem::replace(&mut absent, true) {
                        warn!(%error, "the container engine does not answer: this site takes no containers");
                    }
                }
            }
            if loads.send(load).await.is_err() || site.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}
