//! The release gate: one capital that is staked against the new version for a whole rollout.
//!
//! A *claim* says that the new version fails at most `slope × old + margin` of the time. Bets are
//! placed on alternatives to it; while the claim is true no sequence of bets can be expected to
//! grow, whenever one looks and whenever one stops (Ville: the chance that a capital of 1 ever
//! reaches `1 / alpha` is at most `alpha`). So the capital is an e-value, peeking is free, and
//! one `alpha` covers every stage and every signal of a rollout, because they share one capital.
//!
//! The bet on a block is the likelihood ratio of the alternative to the point of the claim that
//! lies nearest to it (Turner, Ly and Grünwald, "Generic E-variables for exact sequential
//! k-sample tests"). It holds block by block for any rate of the old version: trouble that both
//! versions share is no evidence, and slow drift of the load breaks nothing.
//!
//! A part of the capital is kept back for later stages and later blocks. Without it, a version
//! that behaves for a minute and then fails would first have to win back what its good minute
//! has cost the bets.
//!
//! Deliberately absent: what the numbers mean (`stage.rs`), and any decision to go on: lack of
//! evidence against is not evidence for.

use libm::{exp, log};
use serde::{Deserialize, Serialize};

/// Shares of failures beyond the claim that the bets look for: the smallest is told from the
/// claim within some hundred answers, the largest within three.
const FAILURE_EFFECTS: [f64; 4] = [0.03, 0.15, 0.45, 0.85];
/// The same for the share of slow answers.
const LATENCY_EFFECTS: [f64; 2] = [0.15, 0.60];
/// Share of the stakes that goes to failures: they hurt more than slowness, and they are what
/// most bad releases do.
const ON_FAILURE: f64 = 0.75;
/// Share of the capital that belongs to the first stage: the shadow sees most and costs nobody
/// anything, so a bad release is best found there.
const FIRST_STAGE: f64 = 0.5;
/// Of each stage's capital, the share that is staked when it opens.
const STAKED_AT_ONCE: f64 = 0.7;
/// A bet grows and shrinks at most by this factor (as logarithm) in one block, so that the
/// capital stays a number. Cutting growth can only hide evidence, never invent it.
const LOG_GROWTH_MAX: f64 = 100.0;
/// Above it the capital has long decided.
const CAPITAL_MAX: f64 = 1e30;
/// Share of `alpha` that bounds on the old version's rates may use up where it serves nothing
/// any more; the rest is the capital's.
pub(super) const BOUND_SHARE: f64 = 0.1;

/// Outcomes of both versions in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pair {
    /// Answers of the new version.
    pub(super) n_new: u64,
    /// Bad ones among them.
    pub(super) k_new: u64,
    /// Answers of the old version.
    pub(super) n_old: u64,
    /// Bad ones among them.
    pub(super) k_old: u64,
}

impl Pair {
    /// Adds another window's outcomes.
    pub(super) fn add(&mut self, other: Pair) {
        self.n_new += other.n_new;
        self.k_new += other.k_new;
        self.n_old += other.n_old;
        self.k_old += other.k_old;
    }

    /// Share of bad answers of the new version.
    pub(super) fn rate_new(&self) -> Option<f64> {
        rate(self.k_new, self.n_new)
    }

    /// Share of bad answers of the old version.
    pub(super) fn rate_old(&self) -> Option<f64> {
        rate(self.k_old, self.n_old)
    }
}

fn rate(k: u64, n: u64) -> Option<f64> {
    (n > 0).then(|| k as f64 / n as f64)
}

/// What the new version is held to: `new ≤ slope × old + margin`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    /// Weight of the old version's rate; 0 where it serves nothing and `margin` bounds it.
    pub(super) slope: f64,
    /// What is allowed beyond it.
    pub(super) margin: f64,
    /// The old version's rate as known before the block; only the power rests on it.
    pub(super) old_expected: f64,
}

impl Claim {
    /// Whether the shares measured so far keep the claim; `None` where one was not measured.
    pub(super) fn kept_by(&self, pair: &Pair) -> Option<bool> {
        let old = if self.slope > 0.0 { pair.rate_old()? } else { 0.0 };
        Some(pair.rate_new()? <= self.slope * old + self.margin)
    }

    /// Whether a block can say anything about it.
    pub(super) fn is_measured_by(&self, pair: &Pair) -> bool {
        pair.n_new > 0 && (self.slope <= 0.0 || pair.n_old > 0)
    }

    /// Logarithm of what a bet on `effect` multiplies itself by on this block.
    fn log_growth(&self, pair: &Pair, effect: f64) -> f64 {
        let old = self.old_expected.clamp(1e-4, 0.5);
        let held = self.slope * old + self.margin;
        let new = (held + effect).min(0.99);
        if new <= held {
            return 0.0;
        }
        let nearest = self.nearest(pair, old, new);
        let bound = self.slope * nearest + self.margin;
        log_ratio(pair.k_new, pair.n_new, new, bound)
            + if self.slope > 0.0 { log_ratio(pair.k_old, pair.n_old, old, nearest) } else { 0.0 }
    }

    /// The old version's rate at the claim's point that is nearest to the alternative
    /// `(old, new)`, by divergence weighted with the answers on each side.
    ///
    /// The divergence is convex, so its derivative has one zero between `old`, where only the
    /// new version would have to give, and the rate at which the claim reaches `new`.
    fn nearest(&self, pair: &Pair, old: f64, new: f64) -> f64 {
        if self.slope <= 0.0 {
            return old;
        }
        let (mut low, mut high) = (old, ((new - self.margin) / self.slope).min(0.999));
        for _ in 0..48 {
            let at = (low + high) / 2.0;
            let bound = self.slope * at + self.margin;
            let slope = pair.n_old as f64 * (at - old) / (at * (1.0 - at))
                + pair.n_new as f64 * self.slope * (bound - new) / (bound * (1.0 - bound));
            if slope < 0.0 {
                low = at;
            } else {
                high = at;
            }
        }
        (low + high) / 2.0
    }
}

/// Log likelihood ratio of `k` bad ones among `n` between two rates.
fn log_ratio(k: u64, n: u64, of: f64, to: f64) -> f64 {
    let good = n.saturating_sub(k);
    k as f64 * log(of / to) + good as f64 * log((1.0 - of) / (1.0 - to))
}

/// What a piece of evidence speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Failed or differing answers.
    Failure,
    /// Slow answers.
    Latency,
}

/// The capital of one rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Gate {
    /// Not staked yet.
    kept: f64,
    /// One bet per effect on failures.
    failure: Vec<f64>,
    /// One bet per effect on latency.
    latency: Vec<f64>,
    /// What the open stage may stake.
    of_stage: f64,
    /// The capital when the open stage began.
    at_open: f64,
    /// Stages to come.
    n_left: u32,
    /// Whether one was opened.
    is_open: bool,
    /// Blocks of the open stage.
    n_blocks: u64,
}

impl Gate {
    /// A capital of 1 for `n_stages` stages.
    pub(super) fn new(n_stages: u32) -> Self {
        Gate {
            kept: 1.0,
            failure: vec![0.0; FAILURE_EFFECTS.len()],
            latency: vec![0.0; LATENCY_EFFECTS.len()],
            of_stage: 0.0,
            at_open: 1.0,
            n_left: n_stages,
            is_open: false,
            n_blocks: 0,
        }
    }

    /// Stakes what belongs to the next stage's beginning. What earlier stages have won or lost
    /// stays where it is; what they have not staked is shared by those that are left.
    pub(super) fn open_stage(&mut self) {
        let share = if self.is_open { 1.0 / f64::from(self.n_left.max(1)) } else { FIRST_STAGE };
        self.of_stage = self.kept * share;
        self.at_open = self.evidence();
        self.n_left = self.n_left.saturating_sub(1);
        self.is_open = true;
        self.n_blocks = 0;
        self.stake(self.of_stage * STAKED_AT_ONCE);
    }

    /// Folds one block of both signals. The stake of a block is placed before it is looked at.
    pub(super) fn observe(
        &mut self,
        failure: Option<(Claim, Pair)>,
        latency: Option<(Claim, Pair)>,
    ) {
        self.n_blocks += 1;
        // The sum of 1 / (j (j + 1)) over all j is 1: a stage never stakes more than its part.
        let n = self.n_blocks as f64;
        self.stake(self.of_stage * (1.0 - STAKED_AT_ONCE) / (n * (n + 1.0)));
        if let Some((claim, pair)) = failure {
            play(&mut self.failure, &FAILURE_EFFECTS, claim, pair);
        }
        if let Some((claim, pair)) = latency {
            play(&mut self.latency, &LATENCY_EFFECTS, claim, pair);
        }
    }

    fn stake(&mut self, amount: f64) {
        let amount = amount.min(self.kept);
        self.kept -= amount;
        let n_failure = FAILURE_EFFECTS.len() as f64;
        let n_latency = LATENCY_EFFECTS.len() as f64;
        self.failure.iter_mut().for_each(|it| *it += amount * ON_FAILURE / n_failure);
        self.latency.iter_mut().for_each(|it| *it += amount * (1.0 - ON_FAILURE) / n_latency);
    }

    /// The capital: the evidence against the new version, as an e-value.
    pub(super) fn evidence(&self) -> f64 {
        let staked: f64 = self.failure.iter().chain(&self.latency).sum();
        (self.kept + staked).min(CAPITAL_MAX)
    }

    /// Whether the evidence refutes the claims at `alpha`.
    pub(super) fn is_decided(&self, alpha: f64) -> bool {
        self.evidence() >= bound(alpha)
    }

    /// Whether the open stage has spoken against the new version rather than for it.
    pub(super) fn has_grown(&self) -> bool {
        self.evidence() > self.at_open
    }

    /// The signal that has won more.
    pub(super) fn loudest(&self) -> Signal {
        let failure: f64 = self.failure.iter().sum();
        let latency: f64 = self.latency.iter().sum();
        if failure >= latency { Signal::Failure } else { Signal::Latency }
    }
}

/// The capital at which the evidence decides.
pub(super) fn bound(alpha: f64) -> f64 {
    1.0 / (alpha.max(1e-9) * (1.0 - BOUND_SHARE))
}

fn play(bets: &mut [f64], effects: &[f64], claim: Claim, pair: Pair) {
    for (bet, effect) in bets.iter_mut().zip(effects) {
        let growth = claim.log_growth(&pair, *effect);
        let growth = growth.clamp(-LOG_GROWTH_MAX, LOG_GROWTH_MAX);
        *bet = (*bet * exp(growth)).min(CAPITAL_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Claim = Claim { slope: 1.0, margin: 0.02, old_expected: 0.004 };

    /// Expectation of a bet's growth over all outcomes of one block under given true rates.
    fn expectation(claim: Claim, n_new: u64, n_old: u64, new: f64, old: f64, effect: f64) -> f64 {
        let chance = |k: u64, n: u64, p: f64| {
            let ways = (0..k).fold(1.0, |ways, i| ways * (n - i) as f64 / (i + 1) as f64);
            ways * libm::pow(p, k as f64) * libm::pow(1.0 - p, (n - k) as f64)
        };
        let mut sum = 0.0;
        for k_new in 0..=n_new {
            for k_old in 0..=n_old {
                let pair = Pair { n_new, k_new, n_old, k_old };
                let weight = chance(k_new, n_new, new) * chance(k_old, n_old, old);
                sum += weight * exp(claim.log_growth(&pair, effect));
            }
        }
        sum
    }

    #[test]
    fn no_bet_is_expected_to_grow_while_the_claim_holds() {
        for slope in [0.0, 1.0, 2.0] {
            for (n_new, n_old) in [(1, 1), (1, 12), (9, 3), (8, 8)] {
                for old in [0.0001, 0.004, 0.05, 0.3] {
                    let claim = Claim { slope, ..CLAIM };
                    let new = slope * old + claim.margin;
                    for effect in FAILURE_EFFECTS {
                        let grown = expectation(claim, n_new, n_old, new, old, effect);
                        assert!(grown <= 1.0 + 1e-9, "{slope} {n_new}/{n_old} {old}: {grown}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_bet_grows_when_its_alternative_is_true() {
        let grown = expectation(CLAIM, 8, 8, 0.424, 0.004, 0.40);
        assert!(grown > 5.0, "{grown}");
    }

    #[test]
    fn without_a_baseline_there_is_no_evidence() {
        let pair = Pair { n_new: 50, k_new: 50, ..Pair::default() };
        assert!(!CLAIM.is_measured_by(&pair));
        assert!(CLAIM.log_growth(&pair, 0.4).abs() < 1e-6);
    }

    #[test]
    fn trouble_that_both_versions_share_is_no_evidence() {
        let mut gate = Gate::new(4);
        gate.open_stage();
        for _ in 0..40 {
            let pair = Pair { n_new: 5, k_new: 4, n_old: 45, k_old: 36 };
            gate.observe(Some((CLAIM, pair)), None);
        }
        assert!(gate.evidence() < 1.0, "{}", gate.evidence());
    }

    #[test]
    fn a_long_good_start_delays_the_verdict_by_little() {
        let blocks_until_decided = |n_good: u32| {
            let mut gate = Gate::new(4);
            gate.open_stage();
            let good = Pair { n_new: 5, k_new: 0, n_old: 8, k_old: 0 };
            let bad = Pair { n_new: 5, k_new: 2, n_old: 8, k_old: 0 };
            (0..n_good).for_each(|_| gate.observe(Some((CLAIM, good)), None));
            let mut n = 0;
            while !gate.is_decided(0.01) {
                gate.observe(Some((CLAIM, bad)), None);
                n += 1;
            }
            n
        };
        let (at_once, late) = (blocks_until_decided(0), blocks_until_decided(240));
        assert!(at_once <= 4 && late <= at_once + 7, "{at_once} and {late}");
    }

    #[test]
    fn the_capital_starts_at_one_and_stays_a_number() {
        let mut gate = Gate::new(5);
        for _ in 0..9 {
            gate.open_stage();
            assert!((gate.evidence() - 1.0).abs() < 1e-9);
        }
        let all_bad = Pair { n_new: 1_000_000, k_new: 1_000_000, n_old: 1, k_old: 0 };
        let all_good = Pair { n_new: 1_000_000, k_new: 0, n_old: 1, k_old: 1 };
        for pair in [all_bad, all_good, all_bad] {
            gate.observe(Some((CLAIM, pair)), Some((CLAIM, pair)));
            assert!(gate.evidence().is_finite());
        }
    }
}
