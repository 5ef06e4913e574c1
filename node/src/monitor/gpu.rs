//! GPUs by NVIDIA's management library, or none.

use godwit_protocol::capacity::Share;
use nvml_wrapper::Nvml;

/// The machine's GPUs.
#[derive(Debug)]
pub(super) struct Gpus(Option<Nvml>);

impl Gpus {
    /// The library is loaded at run time: a machine without it has no GPUs that we could hand out.
    pub(super) fn find() -> Self {
        Self(Nvml::init().inspect_err(|error| tracing::debug!(%error, "monitor.no_gpu")).ok())
    }

    /// How many there are, and on how many a process computes.
    pub(super) fn share(&self) -> Share<u16> {
        let Some(nvml) = &self.0 else {
            return Share::default();
        };
        let total = nvml.device_count().unwrap_or(0);
        let busy = |&index: &u32| {
            nvml.device_by_index(index).and_then(|gpu| gpu.running_compute_processes_count()).is_ok_and(|n| n > 0)
        };
        let used = (0..total).filter(busy).count();
        Share { total: total.try_into().unwrap_or(u16::MAX), used: used.try_into().unwrap_or(u16::MAX), reserved: 0 }
    }
}
