//! What the site has and how much of it is in use, sampled once a second.
//!
//! Where the site's cgroup is limited, that is the site: its limits are what there is, its use is what is used. Otherwise
//! the whole machine is. How much of a use belongs to which container is the engine's to say: see
//! [`Runtime::usage`](crate::runtime::Runtime::usage).
//!
//! Memory that the kernel would give back without being asked twice (page cache) does not count as used: otherwise every
//! site would be full after some hours.

mod cgroup;
mod gpu;
mod host;
pub mod platform;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use godwit_protocol::capacity::Share;
use godwit_protocol::{Bytes, MilliCpu};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use platform::platform;

/// How often the site's load is sampled: often enough to see an overload within the second, seldom enough to cost nothing.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// What the site has and uses; `reserved` is zero, reservations are the site's own knowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteLoad {
    /// Processors; use is the mean over the last interval.
    pub cpu: Share<MilliCpu>,
    /// Memory without page cache.
    pub memory: Share<Bytes>,
    /// GPUs; one counts as used while a process computes on it.
    pub gpu: Share<u16>,
}

/// What is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The root of this process's cgroup namespace where it is limited, else the machine. Not the process's own cgroup:
    /// that of a service holds godwit alone, while its containers live beside it.
    #[default]
    Auto,
    /// The machine.
    Host,
    /// These cgroup directories: one of cgroup v2, or several of v1 (`memory`, `cpu`, `cpuacct`).
    Cgroup(Vec<PathBuf>),
}

/// Why the site's load is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's own figures cannot be read.
    #[error("read {what}")]
    Procfs {
        /// The file.
        what: &'static str,
        /// The cause.
        source: procfs::ProcError,
    },
    /// A file of a cgroup cannot be read.
    #[error("read {}", path.display())]
    Cgroup {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file of a cgroup says something else than expected.
    #[error("{} says `{said}`, which is no figure", path.display())]
    Figure {
        /// The file.
        path: PathBuf,
        /// Its content, or the part of it.
        said: String,
    },
    /// The configured cgroup is none, or lacks a controller.
    #[error("no cgroup with {0} among the configured ones")]
    Missing(&'static str),
    /// The sampling thread is gone.
    #[error("sample the site's load")]
    Thread(#[source] tokio::task::JoinError),
}

/// Processor time used so far, and memory; what the differences are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    cpu_total: MilliCpu,
    cpu_time: Duration,
    memory_total: Bytes,
    memory_used: Bytes,
}

/// Measures the site's load; each sample is about the time since the one before.
#[derive(Debug)]
pub struct Sampler {
    cgroup: Option<cgroup::Cgroup>,
    gpu: gpu::Gpus,
    before: (Instant, Duration),
}

impl Sampler {
    /// Finds out what to measure and takes the first reading.
    ///
    /// # Errors
    /// [`Error`] if there are no figures to be had.
    pub fn new(scope: &Scope) -> Result<Self, Error> {
        let cgroup = match scope {
            Scope::Host => None,
            Scope::Auto => cgroup::Cgroup::of_namespace()?.filter(cgroup::Cgroup::is_limited),
            Scope::Cgroup(folders) => Some(cgroup::Cgroup::at(folders)?),
        };
        let mut sampler = Self { cgroup, gpu: gpu::Gpus::find(), before: (Instant::now(), Duration::ZERO) };
        sampler.before = (Instant::now(), sampler.read()?.cpu_time);
        Ok(sampler)
    }

    /// The load since the last sample.
    ///
    /// # Errors
    /// [`Error`] if a figure cannot be read.
    pub fn sample(&mut self) -> Result<SiteLoad, Error> {
        let (now, reading) = (Instant::now(), self.read()?);
        let (then, before) = std::mem::replace(&mut self.before, (now, reading.cpu_time));
        let used = milli_cpu(reading.cpu_time.saturating_sub(before), now.duration_since(then));
        Ok(SiteLoad {
            cpu: Share { total: reading.cpu_total, used, reserved: MilliCpu(0) },
            memory: Share { total: reading.memory_total, used: reading.memory_used, reserved: Bytes(0) },
            gpu: self.gpu.share(),
        })
    }

    fn read(&self) -> Result<Reading, Error> {
        let host = host::read()?;
        match &self.cgroup {
            None => Ok(host),
            Some(cgroup) => cgroup.read(&host),
        }
    }
}

/// Processor time per time, in thousandths of a core; zero for no time.
pub(crate) fn milli_cpu(busy: Duration, passed: Duration) -> MilliCpu {
    let share = (busy.as_nanos() * 1000).checked_div(passed.as_nanos()).unwrap_or(0);
    MilliCpu(u32::try_from(share).unwrap_or(u32::MAX))
}

/// Samples every [`INTERVAL`] until the last receiver is dropped. A sample that fails is logged, and the last one stands.
///
/// # Errors
/// As [`Sampler::new`] and the first [`Sampler::sample`].
pub async fn watch(scope: Scope) -> Result<watch::Receiver<SiteLoad>, Error> {
    let sampler = on_thread(move || {
        let mut sampler = Sampler::new(&scope)?;
        std::thread::sleep(Duration::from_millis(50)); // so that the first sample is about something
        let load = sampler.sample()?;
        Ok((sampler, load))
    });
    let (sampler, first) = sampler.await?;
    let (sender, receiver) = watch::channel(first);
    let sampler = std::sync::Arc::new(Mutex::new(sampler));
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
            }
            let sampler = sampler.clone();
            match on_thread(move || sampler.lock().unwrap_or_else(|e| e.into_inner()).sample()).await {
                Ok(load) => drop(sender.send(load)),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "monitor.sample")
                }
            }
        }
    });
    Ok(receiver)
}

/// A GPU driver may take its time to answer: never on the threads that serve the network.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::Thread)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_use_is_time_per_time() {
        let ms = Duration::from_millis;
        assert_eq!(milli_cpu(ms(500), ms(1000)), MilliCpu(500));
        assert_eq!(milli_cpu(ms(3000), ms(1000)), MilliCpu(3000));
        assert_eq!(milli_cpu(ms(1), ms(0)), MilliCpu(0));
        assert_eq!(milli_cpu(Duration::MAX, Duration::from_nanos(1)), MilliCpu(u32::MAX));
    }

    #[tokio::test]
    async fn this_machine_can_be_watched() {
        let load = *watch(Scope::Host).await.unwrap().borrow();
        assert!(load.cpu.total >= MilliCpu(1000), "{load:?}");
        assert!(load.memory.used > Bytes(0) && load.memory.used < load.memory.total, "{load:?}");
    }

    #[test]
    fn busy_threads_show_as_processor_use() {
        let mut sampler = Sampler::new(&Scope::Host).unwrap();
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        // One busy core; how much of it we got, on a machine shared with other tests, is not ours to say.
        assert!(sampler.sample().unwrap().cpu.used > MilliCpu(50));
    }
}
