//! Smoothing, and the baseline of one series in constant space.

/// One step of an exponential moving average.
pub fn ema(before: f64, sample: f64, weight: f64) -> f64 {
    before + weight * (sample - before)
}

/// Weight of a sample in a settled baseline: a memory of about 200 samples.
const WEIGHT: f64 = 0.01;
/// A sample moves the baseline as if it lay at most so many deviations away, so that an incident
/// is not learnt (Huber's bound; 3 costs under 1 % of efficiency on clean data).
const BOUND: f64 = 3.0;
/// Samples after which a series has a baseline.
const SETTLED: u32 = 32;

/// Mean and variance of a series' own past, robust against the incident it should reveal.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Baseline {
    /// Samples seen.
    pub n: u32,
    /// Smoothed mean.
    pub mean: f64,
    /// Smoothed variance.
    pub variance: f64,
}

impl Baseline {
    /// How many deviations `value` lies from the mean; `None` before the baseline has settled.
    /// A flat series has no deviation: any other value is infinitely far.
    pub fn score(&self, value: f64) -> Option<f64> {
        self.scored(value - self.mean, libm::sqrt(self.variance))
    }

    #[inline]
    fn scored(&self, residual: f64, deviation: f64) -> Option<f64> {
        if self.n < SETTLED {
            return None;
        }
        let distance = residual.abs();
        Some(if distance == 0.0 { 0.0 } else { distance / deviation })
    }

    /// Learns `value` and returns its score against what was known before.
    #[inline]
    pub fn learn(&mut self, value: f64) -> Option<f64> {
        let mut residual = value - self.mean;
        let deviation = libm::sqrt(self.variance);
        let score = self.scored(residual, deviation);
        // The first samples weigh 1/n, so that the mean starts as the plain mean.
        let weight = match self.n < SETTLED {
            true => 1.0 / f64::from(self.n + 1),
            false => {
                let bound = BOUND * deviation;
                // A flat past still has to be able to change: an outlier then moves the variance
                // by a thousandth of its square.
                let widest = if bound > 0.0 { bound } else { residual.abs() / 32.0 };
                residual = residual.clamp(-widest, widest);
                WEIGHT
            }
        };
        self.mean += weight * residual;
        self.variance = (1.0 - weight) * (self.variance + weight * residual * residual);
        self.n = self.n.saturating_add(1);
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repeatable wobble between -1 and 1.
    fn wobble(step: u32) -> f64 {
        f64::from(step.wrapping_mul(2_654_435_761) % 2001) / 1000.0 - 1.0
    }

    #[test]
    fn an_incident_is_not_learnt() {
        let mut baseline = Baseline::default();
        for step in 0..500 {
            baseline.learn(100.0 + wobble(step));
        }
        assert!((baseline.mean - 100.0).abs() < 0.3, "{baseline:?}");
        let at_onset = baseline.learn(150.0);
        for _ in 0..30 {
            baseline.learn(150.0);
        }
        let after = baseline.score(150.0);
        assert!(at_onset > Some(50.0) && after > Some(20.0), "{at_onset:?} {after:?}");
    }

    #[test]
    fn a_new_series_has_no_score() {
        let mut baseline = Baseline::default();
        assert!((0..32).all(|step| baseline.learn(wobble(step)).is_none()));
        assert!(baseline.learn(0.0).is_some());
    }

    #[test]
    fn a_flat_series_is_at_home_where_it_always_was() {
        let mut baseline = Baseline::default();
        for _ in 0..100 {
            baseline.learn(7.0);
        }
        assert_eq!(baseline.score(7.0), Some(0.0));
        assert_eq!(baseline.score(8.0), Some(f64::INFINITY));
    }
}
