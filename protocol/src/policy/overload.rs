//! *Insufficient resources*: when use passes its limit for long enough, containers leave until the site is relieved.

use alloc::vec::Vec;

use super::Limits;
use crate::capacity::Share;
use crate::id::ContainerId;
use crate::units::{Bytes, MilliCpu, Millis, Time};

/// Whether the site is over its limits, with hysteresis and patience.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    red_since: Option<Time>,
}

/// A container that may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub container: ContainerId,
    /// What leaves with it.
    pub cpu: MilliCpu,
    /// What leaves with it.
    pub memory: Bytes,
    /// What its users tolerate.
    pub max_delay: Millis,
    /// What would travel.
    pub size: Bytes,
}

impl Gauge {
    /// Takes a measurement; true when containers should leave.
    pub fn measure(&mut self, now: Time, cpu: &Share<MilliCpu>, memory: &Share<Bytes>, limits: &Limits) -> bool {
        let (cpu, memory) = (cpu.load_with(MilliCpu(0)), memory.load_with(Bytes(0)));
        let over = cpu > limits.cpu || memory > limits.memory;
        let relieved = cpu <= limits.cpu.minus(limits.hysteresis) && memory <= limits.memory.minus(limits.hysteresis);
        match self.red_since {
            None if over => self.red_since = Some(now),
            Some(_) if relieved => self.red_since = None,
            _ => {}
        }
        self.red_since.is_some_and(|since| now.since(since) >= limits.patience)
    }
}

/// Which containers leave: those that tolerate the longest delay first, of equals the one that is moved at the least
/// cost, until use would be below the limits by the hysteresis.
#[must_use]
pub fn choose(
    cpu: &Share<MilliCpu>,
    memory: &Share<Bytes>,
    mut candidates: Vec<Candidate>,
    limits: &Limits,
) -> Vec<ContainerId> {
    candidates
        .sort_by(|a, b| b.max_delay.cmp(&a.max_delay).then(a.size.cmp(&b.size)).then(a.container.cmp(&b.container)));
    let (mut cpu, mut memory) = (*cpu, *memory);
    let mut leaving = Vec::new();
    for candidate in candidates {
        let cpu_over = cpu.load_with(MilliCpu(0)) > limits.cpu.minus(limits.hysteresis);
        let memory_over = memory.load_with(Bytes(0)) > limits.memory.minus(limits.hysteresis);
        let helps = (cpu_over && candidate.cpu.0 > 0) || (memory_over && candidate.memory.0 > 0);
        if helps {
            cpu.used = cpu.used.minus(candidate.cpu);
            memory.used = memory.used.minus(candidate.memory);
            leaving.push(candidate.container);
        }
    }
    leaving
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const LIMITS: fn() -> Limits = Limits::default;

    fn cpu(used: u32) -> Share<MilliCpu> {
        Share { total: MilliCpu(1000), used: MilliCpu(used), reserved: MilliCpu(0) }
    }

    fn memory(used: u64) -> Share<Bytes> {
        Share { total: Bytes(1000), used: Bytes(used), reserved: Bytes(0) }
    }

    fn candidate(id: u8, cpu: u32, memory: u64, max_delay: u64) -> Candidate {
        Candidate {
            container: ContainerId([id; 16]),
            cpu: MilliCpu(cpu),
            memory: Bytes(memory),
            max_delay: Millis(max_delay),
            size: Bytes(memory),
        }
    }

    #[test]
    fn a_short_peak_moves_nothing() {
        let mut gauge = Gauge::default();
        assert!(!gauge.measure(Time(0), &cpu(900), &memory(0), &LIMITS()));
        assert!(!gauge.measure(Time(1000), &cpu(400), &memory(0), &LIMITS()));
        assert!(!gauge.measure(Time(4000), &cpu(900), &memory(0), &LIMITS()));
        assert!(gauge.measure(Time(7000), &cpu(900), &memory(0), &LIMITS()));
    }

    #[test]
    fn a_red_site_stays_red_until_it_is_relieved_by_the_hysteresis() {
        let mut gauge = Gauge::default();
        gauge.measure(Time(0), &cpu(0), &memory(600), &LIMITS());
        assert!(gauge.measure(Time(5000), &cpu(0), &memory(480), &LIMITS()));
        assert!(!gauge.measure(Time(6000), &cpu(0), &memory(450), &LIMITS()));
    }

    #[test]
    fn the_most_tolerant_leave_first_and_only_as_many_as_needed() {
        let all = vec![candidate(1, 0, 200, 10), candidate(2, 0, 100, 500), candidate(3, 0, 90, 500)];
        let leaving = choose(&cpu(100), &memory(600), all, &LIMITS());
        assert_eq!(leaving, [ContainerId([3; 16]), ContainerId([2; 16])]);
    }

    #[test]
    fn a_container_whose_leaving_does_not_help_stays() {
        let all = vec![candidate(1, 100, 0, 500), candidate(2, 0, 300, 1)];
        assert_eq!(choose(&cpu(100), &memory(600), all, &LIMITS()), [ContainerId([2; 16])]);
    }
}
