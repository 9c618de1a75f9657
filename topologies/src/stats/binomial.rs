//! Exact bounds on a share from `k` hits in `n` trials (Clopper and Pearson, Biometrika 26, 1934).
//!
//! A ratio at low traffic is noise: "> 5 % over 60 s" on a healthy service with 0.2 requests a
//! second opens 82 false incidents a day. The question asked here is whether the share can be
//! told to lie above a limit at all.

use serde::{Deserialize, Serialize};

use super::Answer;

/// Chance that a share at its limit is taken for one above it. Windows overlap and are looked at
/// four times a second, so it stands well below the usual 0.05; healthy services stand far below
/// their limits and are not taken for bad in a simulated day.
const ALPHA: f64 = 0.001;
/// Halvings until the interval is below the resolution of f64.
const HALVINGS: u32 = 60;

/// Hits in trials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Share {
    /// Hits.
    pub k: u64,
    /// Trials.
    pub n: u64,
}

impl Share {
    /// The ratio; `None` without a trial.
    pub fn ratio(self) -> Option<f64> {
        (self.n > 0).then(|| self.k as f64 / self.n as f64)
    }

    /// Whether the share lies above `limit`: *yes* when a share at the limit would give so many
    /// hits once in a thousand, *no* when even the ratio is not above it, *unknown* between, and
    /// with fewer than `n_min` trials.
    pub fn exceeds(self, limit: f64, n_min: u64) -> Answer {
        let Some(ratio) = self.ratio() else { return Answer::Unknown };
        if self.n < n_min {
            return Answer::Unknown;
        }
        if ratio <= limit {
            return Answer::No;
        }
        match tail_at_least(self.k, self.n, limit) < ALPHA {
            true => Answer::Yes,
            false => Answer::Unknown,
        }
    }
}

/// P(X ≥ k) for X ~ Binomial(n, p).
pub fn tail_at_least(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 || p >= 1.0 {
        return 1.0;
    }
    if k > n || p <= 0.0 {
        return 0.0;
    }
    beta_share(k as f64, (n - k + 1) as f64, p)
}

/// The largest share below which `k` or more hits in `n` have a chance below `alpha`.
pub fn lower_bound(k: u64, n: u64, alpha: f64) -> f64 {
    if k == 0 || n == 0 {
        return 0.0;
    }
    bisect(|p| tail_at_least(k, n, p) < alpha)
}

/// The smallest share above which `k` or fewer hits in `n` have a chance below `alpha`.
pub fn upper_bound(k: u64, n: u64, alpha: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    bisect(|p| 1.0 - tail_at_least(k + 1, n, p) >= alpha)
}

/// The point in [0, 1] where `below` turns from true to false.
fn bisect(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        match below(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    low
}

/// The regularized incomplete beta function I_x(a, b), by its continued fraction in the form of
/// Lentz (Press et al., Numerical Recipes, §6.4).
fn beta_share(a: f64, b: f64, x: f64) -> f64 {
    let log_front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b)
        + a * libm::log(x)
        + b * libm::log1p(-x);
    let front = libm::exp(log_front);
    // The fraction converges fast on one side of the mean only; the other is its mirror.
    match x < (a + 1.0) / (a + b + 2.0) {
        true => (front * fraction(a, b, x) / a).min(1.0),
        false => (1.0 - front * fraction(b, a, 1.0 - x) / b).max(0.0),
    }
}

fn fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let keep = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / keep(1.0 - (a + b) * x / (a + 1.0));
    let mut result = d;
    for step in 1..500 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / keep(1.0 + even * d);
        c = keep(1.0 + even / c);
        result *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / keep(1.0 + odd * d);
        c = keep(1.0 + odd / c);
        result *= d * c;
        if (d * c - 1.0).abs() < 1e-14 {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum itself, term by term.
    fn dumb_tail(k: u64, n: u64, p: f64) -> f64 {
        let mut term = libm::pow(1.0 - p, n as f64);
        let mut below = 0.0;
        for i in 0..k {
            below += term;
            term *= (n - i) as f64 / (i + 1) as f64 * p / (1.0 - p);
        }
        1.0 - below
    }

    #[test]
    fn the_tail_is_the_sum_of_its_terms() {
        for (k, n, p) in [(1, 1, 0.3), (3, 10, 0.2), (11, 30, 0.1), (30, 30, 0.9), (40, 250, 0.1)] {
            let (tail, sum) = (tail_at_least(k, n, p), dumb_tail(k, n, p));
            assert!((tail - sum).abs() < 1e-12, "{k} of {n} at {p}: {tail} and {sum}");
        }
    }

    #[test]
    fn bounds_are_those_of_the_published_table() {
        // 95 % two-sided interval of 2 in 10: 0.0252 to 0.5561 (Clopper and Pearson).
        assert!((lower_bound(2, 10, 0.025) - 0.0252).abs() < 1e-4);
        assert!((upper_bound(2, 10, 0.025) - 0.5561).abs() < 1e-4);
        assert_eq!((lower_bound(0, 10, 0.05), upper_bound(10, 10, 0.05)), (0.0, 1.0));
        // The rule of three: no hit in 300 bounds the share by 1 %.
        assert!((upper_bound(0, 300, 0.05) - 0.00994).abs() < 1e-4);
    }

    #[test]
    fn few_trials_and_thin_excess_are_unknown() {
        let exceeds = |k, n| Share { k, n }.exceeds(0.10, 30);
        assert_eq!(exceeds(0, 0), Answer::Unknown);
        assert_eq!(exceeds(29, 29), Answer::Unknown);
        assert_eq!(exceeds(3, 30), Answer::No);
        assert_eq!(exceeds(4, 30), Answer::Unknown);
        assert_eq!(exceeds(12, 30), Answer::Yes);
        assert_eq!(exceeds(50, 250), Answer::Yes);
    }
}
