//! The whole machine, by procfs.

use std::time::Duration;

use godwit_protocol::{Bytes, MilliCpu};
use procfs::{Current, CurrentSI, KernelStats, Meminfo};

use super::{Error, Reading};

pub(super) fn read() -> Result<Reading, Error> {
    let stat = KernelStats::current().map_err(|source| Error::Procfs { what: "/proc/stat", source })?;
    let memory = Meminfo::current().map_err(|source| Error::Procfs { what: "/proc/meminfo", source })?;
    let cores = u32::try_from(stat.cpu_time.len()).unwrap_or(u32::MAX);
    let all = &stat.total;
    // A guest's time is part of the user's; waiting for a disk is idle time by another name.
    let busy = all.user_duration()
        + all.nice_duration()
        + all.system_duration()
        + [all.irq_duration(), all.softirq_duration(), all.steal_duration()].into_iter().flatten().sum::<Duration>();
    let available = memory.mem_available.unwrap_or(memory.mem_free + memory.buffers + memory.cached);
    Ok(Reading {
        cpu_total: MilliCpu(cores.saturating_mul(1000)),
        cpu_time: busy,
        memory_total: Bytes(memory.mem_total),
        memory_used: Bytes(memory.mem_total.saturating_sub(available)),
    })
}
