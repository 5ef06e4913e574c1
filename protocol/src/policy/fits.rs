//! Whether a site can take a container: its own judgement of itself, and its peers' guess from gossip.

use super::Limits;
use crate::bid::Reason;
use crate::capacity::Capacity;
use crate::offer::Offer;

/// Whether a site with this capacity can take what is offered without passing its limits.
///
/// # Errors
/// The first [`Reason`] why not; what no waiting changes comes first.
pub fn fits(offer: &Offer, site: &Capacity, limits: &Limits) -> Result<(), Reason> {
    let (needs, has) = (&offer.needs, &site.platform);
    if needs.architecture != has.architecture {
        return Err(Reason::Architecture);
    }
    if let Some(missing) = needs.cpu_features.iter().find(|feature| has.cpu_features.binary_search(feature).is_err()) {
        return Err(Reason::CpuFeature(missing.clone()));
    }
    if has.kernel < needs.kernel {
        return Err(Reason::Kernel);
    }
    if has.criu < needs.criu {
        return Err(Reason::Criu);
    }
    if !site.accepting {
        return Err(Reason::Draining);
    }
    if site.gpu.free() < offer.gpu {
        return Err(Reason::Gpu);
    }
    if site.memory.load_with(offer.memory) > limits.memory {
        return Err(Reason::Memory);
    }
    if site.cpu.load_with(offer.cpu) > limits.cpu {
        return Err(Reason::Cpu);
    }
    Ok(())
}
