//! Chance, what a new version does with it, and the telemetry of both.

use std::collections::BTreeMap;

use schemas::event::{Series, TelemetrySample};

/// Chance from a seed (xorshift64*).
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn hits(&mut self, share: f64) -> bool {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        (bits as f64) / ((1u64 << 53) as f64) < share
    }
}

/// What the new version does.
#[derive(Clone, Copy)]
pub(super) struct Behaviour {
    /// Share of answers that fail while it is mirrored to.
    pub(super) shadow_fails: f64,
    /// Share of answers that fail at a ring of so many percent.
    pub(super) fails: fn(u32) -> f64,
    /// Share of answers that take half a second.
    pub(super) slow: f64,
    /// Share of answers that differ from any other answer without being errors.
    pub(super) noise: f64,
}

pub(super) const BASELINE_FAILS: f64 = 0.004;
/// Fails as often as the old version.
pub(super) const SAME: Behaviour =
    Behaviour { shadow_fails: BASELINE_FAILS, fails: |_| BASELINE_FAILS, slow: 0.0, noise: 0.0 };

/// Fails everywhere, half of the time.
pub(super) const BAD: Behaviour =
    Behaviour { shadow_fails: 0.5, fails: |_| 0.5, slow: 0.0, noise: 0.0 };

#[derive(Default)]
pub(super) struct Rows(BTreeMap<Series, f64>);

impl Rows {
    pub(super) fn add(&mut self, key: &str, slot: &str, role: &str, le: &str, value: f64) {
        let labels = [("slot", slot), ("role", role), ("le", le)].into_iter();
        let labels = labels.filter(|(_, it)| !it.is_empty());
        let series = Series {
            service: "shop".to_owned(),
            host: "h".to_owned(),
            key: key.to_owned(),
            labels: labels.map(|(name, it)| (name.to_owned(), it.to_owned())).collect(),
        };
        *self.0.entry(series).or_default() += value;
    }

    pub(super) fn sample(self, ms: u64) -> TelemetrySample {
        let n = self.0.len();
        let (series, value): (Vec<Series>, Vec<f64>) = self.0.into_iter().unzip();
        TelemetrySample {
            source: "proxy".to_owned(),
            exporter: String::new(),
            series,
            series_idx: (0..n as u32).collect(),
            ts_ns: vec![ms * 1_000_000; n],
            value,
            snapshot: None,
        }
    }
}
