//! Which timers a replica waits for.

use std::collections::BTreeMap;

use godwit_protocol::{Millis, Time};
use malachitebft_core_types::{Timeout, TimeoutKind};

use super::{Effect, TimerToken};

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A timeout of the core.
    Core(Timeout),
    /// One of the replica's own, of which there is one each.
    Own(Standing),
}

/// The replica's own timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Some bidding ends.
    Due,
    /// Own records are sent again, or expire.
    Records,
    /// Missing blocks are asked for.
    CatchUp,
    /// Somebody who asked for blocks is served.
    Serve,
}

/// The timers that are set and not yet overtaken: a token that is not among them is ignored when it fires.
#[derive(Debug, Default)]
pub(super) struct Timers {
    last: u64,
    armed: BTreeMap<u64, Purpose>,
    standing: BTreeMap<Standing, (u64, Time)>,
}

impl Timers {
    /// Sets a timeout of the core, instead of an earlier one of its kind and round.
    pub fn schedule(&mut self, timeout: Timeout, after: Millis) -> Effect {
        self.cancel(timeout);
        self.arm(Purpose::Core(timeout), after)
    }

    pub fn cancel(&mut self, timeout: Timeout) {
        self.armed.retain(|_, armed| !is_same(armed, timeout));
    }

    pub fn cancel_core(&mut self) {
        self.armed.retain(|_, armed| matches!(armed, Purpose::Own(_)));
    }

    /// Sees to it that an own timer fires at `at`, unless it does so earlier.
    pub fn stand(&mut self, timer: Standing, at: Time, now: Time) -> Option<Effect> {
        if let Some((token, armed_at)) = self.standing.get(&timer) {
            if *armed_at <= at {
                return None;
            }
            self.armed.remove(token);
        }
        let effect = self.arm(Purpose::Own(timer), Millis(at.since(now).0.max(1)));
        self.standing.insert(timer, (self.last, at));
        Some(effect)
    }

    /// A timer fired: what it was for, unless it was overtaken.
    pub fn fired(&mut self, token: TimerToken) -> Option<Purpose> {
        let purpose = self.armed.remove(&token.0)?;
        if let Purpose::Own(timer) = purpose {
            self.standing.remove(&timer);
        }
        Some(purpose)
    }

    pub fn clear(&mut self) {
        self.armed.clear();
        self.standing.clear();
    }

    fn arm(&mut self, purpose: Purpose, after: Millis) -> Effect {
        self.last += 1;
        self.armed.insert(self.last, purpose);
        Effect::SetTimer { token: TimerToken(self.last), after }
    }
}

fn is_same(armed: &Purpose, timeout: Timeout) -> bool {
    let Purpose::Core(armed) = armed else { return false };
    let same_kind = match (armed.kind, timeout.kind) {
        (TimeoutKind::FinalizeHeight(_), TimeoutKind::FinalizeHeight(_)) => true,
        (one, other) => one == other,
    };
    same_kind && armed.round == timeout.round
}
