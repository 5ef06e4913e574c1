//! *Client mobility*: a container follows its client when the serving site's signal is weak and another's is better.

use super::Limits;
use crate::id::SiteId;
use crate::report::Report;
use crate::units::{Dbm, Millis, Time};

/// A report older than this moves nothing.
pub const FRESH: Millis = Millis(10_000);

/// What a site that the client does not hear counts as.
const UNHEARD: Dbm = Dbm(-200);

/// Whether the client is better served elsewhere: its signal here is below the limit, and better by the margin there.
#[must_use]
pub fn leaves(now: Time, me: &SiteId, report: &Report, limits: &Limits, is_member: impl Fn(&SiteId) -> bool) -> bool {
    let here = report.signal(me).unwrap_or(UNHEARD);
    let best =
        report.signals.iter().filter(|signal| signal.site != *me && is_member(&signal.site)).map(|s| s.dbm).max();
    now.since(report.at) <= FRESH && here < limits.signal && best.is_some_and(|best| best >= here.plus(limits.margin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounded::List;
    use crate::report::Signal;

    const HERE: SiteId = SiteId([1; 32]);
    const THERE: SiteId = SiteId([2; 32]);
    const STRANGER: SiteId = SiteId([9; 32]);

    #[test]
    fn a_container_follows_only_a_weak_fresh_and_clearly_worse_signal_to_a_member() {
        type Case = (&'static str, u64, &'static [(SiteId, i16)], bool);
        let cases: [Case; 7] = [
            ("weak here, strong there", 0, &[(HERE, -100), (THERE, -70)], true),
            ("not heard here", 0, &[(THERE, -70)], true),
            ("strong here", 0, &[(HERE, -80), (THERE, -50)], false),
            ("not better by the margin", 0, &[(HERE, -100), (THERE, -95)], false),
            ("better by just the margin", 0, &[(HERE, -100), (THERE, -94)], true),
            ("only a stranger is better", 0, &[(HERE, -100), (STRANGER, -50)], false),
            ("stale", 10_001, &[(HERE, -100), (THERE, -70)], false),
        ];
        for (what, age, signals, expected) in cases {
            let signals = List::first(signals.iter().map(|&(site, dbm)| Signal { site, dbm: Dbm(dbm) }));
            let report = Report { sequence: 1, at: Time(1_000), signals };
            let leaves = leaves(Time(1_000 + age), &HERE, &report, &Limits::default(), |site| *site == THERE);
            assert_eq!(leaves, expected, "{what}");
        }
    }
}
