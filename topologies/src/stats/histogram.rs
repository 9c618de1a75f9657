//! Latency as counts per bucket: quantiles that admit when they rest on too little, and the
//! comparison of two histograms.

use serde::{Deserialize, Serialize};

use super::{Answer, Share};

/// Upper bounds of the buckets, milliseconds; the last bucket has none. Persisted with
/// baselines: frozen.
pub const BOUNDS_MS: [f64; 13] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0];
/// Buckets, the unbounded one included.
const BUCKETS: usize = BOUNDS_MS.len() + 1;

/// Answers per latency bucket, not cumulative.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Histogram(vec![0; BUCKETS])
    }
}

impl Histogram {
    /// Adds `n` answers to the bucket that ends at `le` (a bound in ms, or `inf`); a bound that
    /// is none of ours goes to the next larger one, so that nothing is lost and nothing gets
    /// faster.
    pub fn add(&mut self, le: &str, n: u64) {
        let bound = le.parse::<f64>().unwrap_or(f64::INFINITY);
        let bucket = BOUNDS_MS.iter().position(|it| bound <= *it).unwrap_or(BUCKETS - 1);
        self.0[bucket] = self.0[bucket].saturating_add(n);
    }

    /// Adds all answers of another.
    pub fn merge(&mut self, other: &Histogram) {
        self.0.iter_mut().zip(&other.0).for_each(|(to, from)| *to = to.saturating_add(*from));
    }

    /// Number of answers.
    pub fn n(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Answers slower than `bound_ms`, counted from the first bucket that lies wholly above it,
    /// among all.
    pub fn slower_than(&self, bound_ms: f64) -> Share {
        let first = BOUNDS_MS.iter().position(|it| *it >= bound_ms).map_or(BUCKETS, |it| it + 1);
        Share { k: self.0.iter().skip(first).sum(), n: self.n() }
    }

    /// The quantile `q` in milliseconds, linear within its bucket; `None` with fewer than `n_min`
    /// answers. In the unbounded bucket it is that bucket's lower bound: at least so slow.
    pub fn quantile(&self, q: f64, n_min: u64) -> Option<f64> {
        let n = self.n();
        if n == 0 || n < n_min {
            return None;
        }
        let (bucket, within) = self.place(q, n);
        let low = if bucket == 0 { 0.0 } else { BOUNDS_MS[bucket - 1] };
        let high = BOUNDS_MS.get(bucket).copied().unwrap_or(low);
        Some(low + (high - low) * within)
    }

    /// The upper bound of the bucket that holds the quantile `q`; `None` with fewer than `n_min`
    /// answers, and infinite in the unbounded bucket.
    pub fn quantile_bound(&self, q: f64, n_min: u64) -> Option<f64> {
        let n = self.n();
        if n == 0 || n < n_min {
            return None;
        }
        Some(BOUNDS_MS.get(self.place(q, n).0).copied().unwrap_or(f64::INFINITY))
    }

    /// The bucket of quantile `q` and how far into it, 0–1.
    fn place(&self, q: f64, n: u64) -> (usize, f64) {
        let rank = q * n as f64;
        let mut below = 0.0;
        for (bucket, count) in self.0.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return (bucket, ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
        }
        (BUCKETS - 1, 1.0)
    }
}

/// Whether the p95 of `current` lies above `ratio` times that of `baseline`: whether more than
/// 5 % of the current answers can be told to be slower than that. The limit is rounded up to a
/// bucket bound, so buckets never make a service look slower than it is. Returns the limit too.
///
/// With fewer than `n_min` answers on either side the answer is unknown.
pub fn latency_exceeds(
    current: &Histogram,
    baseline: &Histogram,
    ratio: f64,
    n_min: u64,
) -> (Answer, Option<f64>) {
    let Some(bound) = baseline.quantile_bound(0.95, n_min) else { return (Answer::Unknown, None) };
    let limit = BOUNDS_MS.iter().find(|it| **it >= bound * ratio).copied();
    let limit = limit.unwrap_or(BOUNDS_MS[BOUNDS_MS.len() - 1]);
    (current.slower_than(limit).exceeds(0.05, n_min), Some(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[(&str, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        counts.iter().for_each(|(le, n)| histogram.add(le, *n));
        histogram
    }

    #[test]
    fn a_quantile_on_too_little_is_unknown() {
        let histogram = histogram(&[("5", 20), ("10", 9)]);
        assert_eq!(histogram.quantile(0.95, 30), None);
        assert_eq!(histogram.quantile(0.5, 29), Some(2.0 + 3.0 * 14.5 / 20.0));
        assert_eq!(histogram.quantile_bound(0.95, 29), Some(10.0));
    }

    #[test]
    fn the_unbounded_bucket_says_at_least() {
        let histogram = histogram(&[("5", 90), ("inf", 10)]);
        assert_eq!(histogram.quantile(0.95, 30), Some(10_000.0));
        assert_eq!(histogram.slower_than(5000.0), Share { k: 10, n: 100 });
        assert_eq!(histogram.slower_than(10_000.0), Share { k: 10, n: 100 });
        assert_eq!(histogram.slower_than(20_000.0), Share { k: 0, n: 100 });
    }

    #[test]
    fn a_bound_that_is_not_ours_goes_to_the_next_larger() {
        assert_eq!(histogram(&[("3", 1)]), histogram(&[("5", 1)]));
        assert_eq!(histogram(&[("nonsense", 1)]), histogram(&[("inf", 1)]));
    }

    #[test]
    fn twice_as_slow_is_told_and_a_long_tail_is_not() {
        let baseline = histogram(&[("10", 970), ("20", 30)]);
        let ask =
            |current: &[(&str, u64)]| latency_exceeds(&histogram(current), &baseline, 2.0, 30).0;
        assert_eq!(ask(&[("10", 96), ("50", 4)]), Answer::No);
        assert_eq!(ask(&[("10", 93), ("50", 7)]), Answer::Unknown);
        assert_eq!(ask(&[("10", 50), ("50", 50)]), Answer::Yes);
        assert_eq!(ask(&[("50", 29)]), Answer::Unknown);
    }
}
