//! Time as a value: nanoseconds since the Unix epoch.
//!
//! There is no clock here. Times enter as ticks, as samples and as the sequencer's stamp.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds since 1970-01-01T00:00:00Z.
///
/// Avro `long` in bytes and RFC 3339 UTC with full precision in the JSON view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ns(pub u64);

impl Ns {
    /// The last time that can be journaled, 2262-04-11: what an Avro `long` holds.
    pub const MAX: Ns = Ns(i64::MAX as u64);

    /// A span of `ms` milliseconds; one that is longer than can be journaled is the longest.
    pub const fn from_ms(ms: u64) -> Self {
        Ns::at_most(ms.saturating_mul(1_000_000))
    }

    /// A span of `s` seconds; one that is longer than can be journaled is the longest.
    pub const fn from_s(s: u64) -> Self {
        Ns::at_most(s.saturating_mul(1_000_000_000))
    }

    const fn at_most(ns: u64) -> Self {
        if ns > Ns::MAX.0 { Ns::MAX } else { Ns(ns) }
    }

    /// The span from `earlier` to here; zero when `earlier` is later.
    pub const fn since(self, earlier: Ns) -> Ns {
        Ns(self.0.saturating_sub(earlier.0))
    }

    /// As seconds.
    pub fn as_s(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// As milliseconds, rounded down.
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000_000
    }

    /// As a span for APIs of the standard library.
    pub const fn as_duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

impl Add for Ns {
    type Output = Ns;
    fn add(self, other: Ns) -> Ns {
        // What is said is journaled, so a sum ends where that ends, and is never less than before.
        Ns::at_most(self.0.saturating_add(other.0)).max(self)
    }
}

impl Sub for Ns {
    type Output = Ns;
    fn sub(self, other: Ns) -> Ns {
        self.since(other)
    }
}

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => write!(f, "{}ns", self.0),
        }
    }
}

impl fmt::Debug for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Ns {
    type Err = crate::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: String| crate::Error::malformed("time", why);
        let timestamp: jiff::Timestamp =
            text.parse().map_err(|error: jiff::Error| wrong(error.to_string()))?;
        match u64::try_from(timestamp.as_nanosecond()) {
            Ok(ns) if ns <= Ns::MAX.0 => Ok(Ns(ns)),
            Ok(_) => Err(wrong(format!("{text} lies after {}, the last that is kept", Ns::MAX))),
            Err(_) => Err(wrong(format!("{text} lies before 1970"))),
        }
    }
}

impl Serialize for Ns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Ns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return text.parse().map_err(serde::de::Error::custom);
        }
        u64::deserialize(deserializer).map(Ns)
    }
}
