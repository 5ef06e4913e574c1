//! Quantities with their unit in the type. All arithmetic saturates: a peer's absurd figure must neither wrap nor panic.

use core::fmt;
use core::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($inner:ty), $suffix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The sum, or the type's maximum.
            #[must_use]
            pub const fn plus(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// The difference, or the type's minimum.
            #[must_use]
            pub const fn minus(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", self.0, $suffix)
            }
        }
    };
}

quantity!(
    /// A size in bytes.
    Bytes(u64), " B"
);
quantity!(
    /// Processor time in thousandths of one core.
    MilliCpu(u32), " mCPU"
);
quantity!(
    /// A span of time in milliseconds.
    Millis(u64), " ms"
);
quantity!(
    /// A share in thousandths.
    PerMille(u16), " ‰"
);
quantity!(
    /// A received signal strength in dBm; larger is better.
    Dbm(i16), " dBm"
);
quantity!(
    /// How often a container's ownership has changed, plus one.
    Epoch(u64), ""
);

impl PerMille {
    /// `part` of `whole` in thousandths, at most `u16::MAX`; a `whole` of zero counts as full.
    #[must_use]
    pub const fn of(part: u64, whole: u64) -> Self {
        if whole == 0 {
            return Self(1000);
        }
        let share = (part as u128 * 1000) / whole as u128;
        #[allow(clippy::cast_possible_truncation)] // bounded by the comparison
        Self(if share > u16::MAX as u128 { u16::MAX } else { share as u16 })
    }
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// This much later.
    #[must_use]
    pub const fn after(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The time passed since `earlier`, zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// An IPv4 address: a container's own in the mesh, or where a site is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(pub Ipv4Addr);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
