//! What containers use, by the engine's statistics.

use std::time::{Duration, Instant};

use bollard::models::{ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::{ListContainersOptionsBuilder, StatsOptionsBuilder};
use futures::StreamExt;
use futures::future::join_all;
use godwit_protocol::{Bytes, ContainerId, MilliCpu};

use super::{DockerRuntime, LABEL_CONTAINER};
use crate::monitor::milli_cpu;
use crate::runtime::{Cause, Usage};

impl DockerRuntime {
    pub(super) async fn usage_of_all(&self) -> Result<Vec<Usage>, Cause> {
        let options = ListContainersOptionsBuilder::new().filters(&self.labels(None)).build();
        let running = self.docker.list_containers(Some(options)).await?.into_iter().filter_map(|summary| {
            let container: ContainerId = summary.labels?.get(LABEL_CONTAINER)?.parse().ok()?;
            Some((container, summary.id?))
        });
        let asked = running.map(|(container, id)| async move { (container, self.stats(&id).await) });
        let answers = join_all(asked).await;
        let now = Instant::now();
        let mut before = self.before.lock().unwrap_or_else(|e| e.into_inner());
        before.retain(|container, _| answers.iter().any(|(running, _)| running == container));
        // One that ended meanwhile has no figures, and needs none.
        let usages = answers.into_iter().filter_map(|(container, stats)| {
            let stats = stats.ok()?;
            let busy = cpu_time(&stats);
            let cpu = match before.insert(container, (now, busy)) {
                Some((then, earlier)) => milli_cpu(busy.saturating_sub(earlier), now.duration_since(then)),
                None => MilliCpu(0),
            };
            Some(Usage { container, cpu, memory: working_set(stats.memory_stats.as_ref()?) })
        });
        Ok(usages.collect())
    }

    pub(super) async fn memory_of(&self, id: &str) -> Result<Bytes, Cause> {
        Ok(self.stats(id).await?.memory_stats.as_ref().map_or(Bytes(0), working_set))
    }

    /// One look, without the second that the engine waits for a difference.
    async fn stats(&self, id: &str) -> Result<ContainerStatsResponse, Cause> {
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let first = self.docker.stats(id, Some(options)).next().await;
        Ok(first.ok_or(Cause::NotRunning)??)
    }
}

fn cpu_time(stats: &ContainerStatsResponse) -> Duration {
    let usage = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref());
    Duration::from_nanos(usage.and_then(|usage| usage.total_usage).unwrap_or(0))
}

/// Without the file pages that the kernel drops first; the key depends on the version of cgroups.
fn working_set(memory: &ContainerMemoryStats) -> Bytes {
    let stat = |key| memory.stats.as_ref().and_then(|stats| stats.get(key).copied());
    let cache = stat("total_inactive_file").or_else(|| stat("inactive_file")).unwrap_or(0);
    Bytes(memory.usage.unwrap_or(0).saturating_sub(cache))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn memory_is_counted_without_page_cache() {
        let of = |said: serde_json::Value| working_set(&serde_json::from_value(said).unwrap());
        let v1 = json!({"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 10}});
        assert_eq!(of(v1), Bytes(70));
        assert_eq!(of(json!({"usage": 100, "stats": {"inactive_file": 10}})), Bytes(90));
        assert_eq!(of(json!({})), Bytes(0));
    }
}
