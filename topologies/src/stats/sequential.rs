//! Whether a candidate fails more often than the baseline beside it, asked after every interval.
//!
//! A fixed-horizon test looked at again and again raises false alarms at will. This one is an
//! e-process: a stake that grows when the candidate does worse than allowed, and whose expected
//! value under "no worse than allowed" never exceeds 1, however often and whenever it is looked
//! at. By Ville's inequality it reaches 1/α with a chance of at most α.
//!
//! # The stake
//!
//! H₀: p₁ ≤ p₀ + margin. For an interval with n₀ answers of the baseline and n₁ of the candidate
//! and an alternative (θ₀, θ₁) chosen before it, the stake is multiplied by the likelihood ratio
//! of (θ₀, θ₁) against (q, q + margin), where q minimises n₀·KL(θ₀‖q) + n₁·KL(θ₁‖q + margin)
//! (Turner, Ly and Grünwald, *Generic E-variables for exact sequential k-sample tests that allow
//! for optional stopping*, J. Stat. Plan. Inference 230, 2024; Turner and Grünwald, Stat. Probab.
//! Lett. 198, 2023).
//! Why that is fair: under (p₀, p₁) its expectation is A(p₀)^n₀ · B(p₁)^n₁ with A and B linear, A
//! falling and B rising. Its logarithm is concave along the line p₁ = p₀ + margin, is 0 at q, and
//! its slope there is the derivative that q makes 0: so it is at most 0 on the line, and smaller
//! wherever p₁ is smaller. A test checks this by summation.
//!
//! θ₀ is learnt from the intervals before; θ₁ is θ₀ + margin plus one of five excesses, each with
//! a stake of its own. The mean of the stakes is an e-process too, and finds a candidate that
//! always fails after some three answers and one that fails in 17 % after about thirty.

use serde::{Deserialize, Serialize};

/// Excesses over the allowed share that are betted on, from creeping to total.
const EXCESSES: [f64; 5] = [0.03, 0.08, 0.20, 0.45, 0.90];
/// What the baseline is taken for before it is seen: half an error in fifty answers.
const PRIOR_ERRORS: f64 = 0.5;
/// Weight of that.
const PRIOR_N: f64 = 50.0;
/// Shares stay so far from 0 and 1, so that no single answer decides everything.
const EDGE: f64 = 1e-4;

/// Answers of one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Those that failed (or differed, or were too slow).
    pub errors: u64,
    /// All of them.
    pub n: u64,
}

impl Counts {
    /// `errors` of `n`; never more errors than answers.
    pub fn new(errors: u64, n: u64) -> Self {
        Counts { errors: errors.min(n), n }
    }
}

/// The test: its stakes and what it has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorTest {
    /// Share by which the candidate may be worse.
    pub margin: f64,
    /// All answers of the baseline.
    pub baseline: Counts,
    /// All answers of the candidate.
    pub candidate: Counts,
    /// Logarithms of the stakes, one for each excess.
    log_stakes: Vec<f64>,
}

impl ErrorTest {
    /// A test of "the candidate fails at most `margin` more often".
    pub fn new(margin: f64) -> Self {
        ErrorTest {
            margin: margin.clamp(0.0, 0.5),
            baseline: Counts::default(),
            candidate: Counts::default(),
            log_stakes: vec![0.0; EXCESSES.len()],
        }
    }

    /// Takes one interval. How many answers there were must not depend on how they ended.
    pub fn observe(&mut self, baseline: Counts, candidate: Counts) {
        let seen = PRIOR_N + self.baseline.n as f64;
        let theta = (PRIOR_ERRORS + self.baseline.errors as f64) / seen;
        if candidate.n > 0 {
            for (log_stake, excess) in self.log_stakes.iter_mut().zip(EXCESSES) {
                let bet = Bet::new(theta, self.margin, excess, baseline.n, candidate.n);
                *log_stake += bet.log_gain(baseline, candidate);
            }
        }
        self.baseline.errors += baseline.errors;
        self.baseline.n += baseline.n;
        self.candidate.errors += candidate.errors;
        self.candidate.n += candidate.n;
    }

    /// Evidence against the candidate: 1 is none, and 1/α or more is reached by a harmless one
    /// with a chance of at most α. Finite, so that it can stand in an event.
    pub fn e_value(&self) -> f64 {
        let sum: f64 = self.log_stakes.iter().map(|it| libm::exp(it.min(600.0))).sum();
        sum / EXCESSES.len() as f64
    }

    /// Whether the candidate is told to be worse than allowed, with a chance of at most `alpha`
    /// of saying so of a harmless one.
    pub fn rejects(&self, alpha: f64) -> bool {
        self.e_value() >= 1.0 / alpha
    }

    /// Difference of the shares, candidate minus baseline; `None` while one side has no answer.
    pub fn difference(&self) -> Option<f64> {
        let share = |it: Counts| (it.n > 0).then(|| it.errors as f64 / it.n as f64);
        Some(share(self.candidate)? - share(self.baseline)?)
    }
}

/// One alternative and the null it is held against.
struct Bet {
    baseline: f64,
    candidate: f64,
    null: f64,
    margin: f64,
}

impl Bet {
    fn new(theta: f64, margin: f64, excess: f64, n_baseline: u64, n_candidate: u64) -> Self {
        let baseline = theta.clamp(EDGE, 1.0 - EDGE);
        let candidate = (theta + margin + excess).clamp(EDGE, 1.0 - EDGE);
        let margin = margin.min(candidate - baseline).max(0.0);
        let (n0, n1) = (n_baseline as f64, n_candidate as f64);
        // The slope of the divergence in q rises through its one zero.
        let slope = |q: f64| {
            let part = |theta: f64, p: f64| (1.0 - theta) / (1.0 - p) - theta / p;
            n0 * part(baseline, q) + n1 * part(candidate, q + margin)
        };
        let (mut low, mut high) = (baseline, candidate - margin);
        for _ in 0..50 {
            let middle = (low + high) / 2.0;
            match slope(middle) < 0.0 {
                true => low = middle,
                false => high = middle,
            }
        }
        Bet { baseline, candidate, null: (low + high) / 2.0, margin }
    }

    fn log_gain(&self, baseline: Counts, candidate: Counts) -> f64 {
        let side = |it: Counts, theta: f64, null: f64| {
            let (errors, rest) = (it.errors as f64, (it.n - it.errors) as f64);
            errors * libm::log(theta / null) + rest * libm::log((1.0 - theta) / (1.0 - null))
        };
        side(baseline, self.baseline, self.null)
            + side(candidate, self.candidate, self.null + self.margin)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A small generator for simulated answers.
    struct Chance(u64);

    impl Chance {
        fn hits(&mut self, n: u64, share: f64) -> Counts {
            let errors = (0..n).filter(|_| self.unit() < share).count();
            Counts::new(errors as u64, n)
        }

        fn unit(&mut self) -> f64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    fn binomial(n: u64, k: u64, p: f64) -> f64 {
        let ways = (0..k).fold(1.0, |ways, i| ways * (n - i) as f64 / (i + 1) as f64);
        ways * libm::pow(p, k as f64) * libm::pow(1.0 - p, (n - k) as f64)
    }

    #[test]
    fn the_expected_gain_of_a_harmless_candidate_is_never_above_one() {
        let margin = 0.02;
        for (n0, n1) in [(1, 1), (9, 1), (3, 4), (0, 2)] {
            for theta in [0.001, 0.01, 0.2] {
                for excess in EXCESSES {
                    let bet = Bet::new(theta, margin, excess, n0, n1);
                    for p0 in [0.0001, 0.005, 0.05, 0.3, 0.9] {
                        for p1 in [p0 * 0.5, p0, p0 + margin] {
                            let mut expected = 0.0;
                            for e0 in 0..=n0 {
                                for e1 in 0..=n1 {
                                    let gain =
                                        bet.log_gain(Counts::new(e0, n0), Counts::new(e1, n1));
                                    expected += binomial(n0, e0, p0)
                                        * binomial(n1, e1, p1)
                                        * libm::exp(gain);
                                }
                            }
                            assert!(expected <= 1.0 + 1e-9, "{n0} {n1} {theta} {excess} {p0} {p1}");
                        }
                    }
                }
            }
        }
    }

    /// Intervals of a quarter second at 50 rps with a tenth of them to the candidate, for a
    /// minute: in which interval the candidate is rejected.
    fn rollout(seed: u64, baseline: f64, candidate: f64) -> Option<u32> {
        let mut chance = Chance(seed);
        let mut test = ErrorTest::new(0.02);
        for interval in 1..=240 {
            let n1 = 1 + u64::from(interval % 4 == 0);
            test.observe(chance.hits(11, baseline), chance.hits(n1, candidate));
            if test.rejects(0.01) {
                return Some(interval);
            }
        }
        None
    }

    #[test]
    fn a_rollout_of_the_same_is_rolled_back_in_none_of_two_hundred() {
        let rejected = |share| (1..=200).filter(|it| rollout(*it, share, share).is_some()).count();
        assert_eq!((rejected(0.0), rejected(0.004), rejected(0.05)), (0, 0, 0));
    }

    #[test]
    fn a_candidate_at_the_margin_is_rejected_within_the_bound() {
        let rejected = (1..=1000).filter(|it| rollout(*it, 0.01, 0.03).is_some()).count();
        assert!(rejected <= 10, "{rejected} of 1000 at alpha 0.01");
    }

    #[test]
    fn a_bad_candidate_is_told_soon() {
        let slowest = |share| (1..=200).map(|it| rollout(it, 0.004, share)).max().unwrap();
        let median = |share| {
            let mut all: Vec<_> = (1..=200).map(|it| rollout(it, 0.004, share).unwrap()).collect();
            all.sort_unstable();
            all[100]
        };
        assert!(
            slowest(1.0).unwrap() <= 5 && median(0.17) <= 28,
            "{} {}",
            median(1.0),
            median(0.17)
        );
    }

    #[test]
    fn without_answers_of_the_candidate_nothing_is_known() {
        let mut test = ErrorTest::new(0.02);
        test.observe(Counts::new(0, 1000), Counts::new(0, 0));
        assert_eq!((test.e_value(), test.difference()), (1.0, None));
    }
}
