//! One stage of a rollout: what was measured in it, and what that says.
//!
//! Three-valued: a stage is refuted, has passed, or is open. Only what was measured can close
//! it; silence leaves it open until its time is up.

use schemas::Ns;
use serde::{Deserialize, Serialize};

use super::gate::{BOUND_SHARE, Claim, Gate, Pair, Signal};
use super::measure::Measured;
use crate::profile::Profile;
use crate::stats::{self, Histogram, Share};

/// Share of answers that may be slower than twice the baseline's p95. It follows from the
/// meaning of p95: of the old version's own answers, 5 % lie above it.
const SLOW_ALLOWED: f64 = 0.05;

/// Below this no answer is called slow, milliseconds: on a busy machine the scheduler alone
/// costs as much, and no user notices.
const SLOW_FLOOR_MS: f64 = 20.0;

/// What is compared with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub(super) enum Sort {
    /// Nothing yet: the old version's baseline is being measured.
    #[default]
    Baseline,
    /// Mirrored answers of the new version with the old one's.
    Shadow,
    /// What users were served by each, in the same window.
    Canary,
    /// The new version alone with a bound on what the old one did before.
    Verify,
}

/// A stage and its tallies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stage {
    pub(super) sort: Sort,
    /// When its time is up, or when the next check of a verification is due.
    pub(super) until: Ns,
    /// Whether its time was extended already.
    pub(super) extended: bool,
    /// Failed or differing answers in this stage.
    pub(super) failure: Pair,
    /// Slow answers in this stage.
    pub(super) latency: Pair,
    /// Latency of the new version in this stage, for people.
    pub(super) latency_new: Histogram,
    /// Outcomes of a block whose other side has not been seen yet.
    failure_open: Pair,
    latency_open: Pair,
    /// What was known of the old version before the block that is open: a bet may rest on
    /// nothing that it is settled by.
    failure_known: Share,
    latency_known: Share,
    /// Bounds on the old version, fixed when a verification begins.
    failure_bound: f64,
    latency_bound: f64,
    /// Whether the last probe of this stage passed.
    pub(super) probe: Option<bool>,
    /// Whether a probe has failed since the last check.
    pub(super) probe_failed: bool,
    /// Checks of a verification so far.
    pub(super) n_checks: u32,
    /// Green ones in a row.
    pub(super) n_green: u32,
}

/// What was measured over the whole rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) shadow_n: u64,
    pub(super) shadow_differ: u64,
    /// Mirrored answers that were errors, compared or not.
    pub(super) shadow_errors: u64,
    pub(super) canary_n: u64,
    pub(super) canary_errors: u64,
    pub(super) baseline_n: u64,
    pub(super) baseline_errors: u64,
    pub(super) latency_old: Histogram,
    /// Milliseconds above which an answer is slow, fixed once the baseline has enough answers.
    pub(super) slow_above: Option<f64>,
}

/// What a stage says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The evidence refutes the new version.
    Refuted(Signal),
    /// Enough was seen, and nothing of it speaks against going on.
    Passed,
    /// Neither: too little, or more than is allowed without being proven.
    Open,
}

impl Stage {
    /// A stage that ends at `until`. What the old version did while the new one was started goes
    /// over into the shadow; answers of the new version that no answer of the old one could be
    /// held against yet go over into a verification, which needs none.
    pub(super) fn open(&self, sort: Sort, until: Ns, totals: &Totals, profile: &Profile) -> Self {
        let mut stage = Stage { sort, until, ..Stage::default() };
        stage.failure_known = totals.failed();
        stage.latency_known = totals.slow();
        if sort == Sort::Shadow {
            (stage.failure_known, stage.latency_known) = (self.failure_known, self.latency_known);
            stage.failure_open = Pair { n_new: 0, k_new: 0, ..self.failure_open };
            stage.latency_open = Pair { n_new: 0, k_new: 0, ..self.latency_open };
        }
        if sort == Sort::Verify {
            stage.failure_open = Pair { n_old: 0, k_old: 0, ..self.failure_open };
            stage.latency_open = Pair { n_old: 0, k_old: 0, ..self.latency_open };
            // Two bounds share what is set apart for them.
            let alpha = profile.rollout_alpha * BOUND_SHARE / 2.0;
            let (failed, slow) = (stage.failure_known, stage.latency_known);
            stage.failure_bound = stats::upper_bound(failed.k, failed.n, alpha);
            stage.latency_bound = stats::upper_bound(slow.k, slow.n, alpha);
        }
        stage
    }

    /// Folds one sealed range into tallies and evidence.
    pub(super) fn fold(
        &mut self,
        measured: &Measured,
        totals: &mut Totals,
        gate: &mut Gate,
        profile: &Profile,
    ) {
        let failure = self.failure_of(measured);
        let latency = self.latency_of(measured, totals);
        self.failure.add(failure);
        self.latency.add(latency);
        self.failure_open.add(failure);
        self.latency_open.add(latency);
        if self.sort != Sort::Baseline {
            let (failures, slow) = (self.failure_claim(profile), self.latency_claim());
            let failure = settle(&mut self.failure_open, failures);
            let latency = settle(&mut self.latency_open, slow);
            if failure.is_some() || latency.is_some() {
                gate.observe(failure, latency);
            }
        }
        self.keep(measured, totals, profile);
        // A block that was settled is known from here on.
        if self.failure_open == Pair::default() {
            self.failure_known = totals.failed();
        }
        if self.latency_open == Pair::default() {
            self.latency_known = totals.slow();
        }
    }

    /// After the evidence, so that what is expected of a block was known before it.
    fn keep(&mut self, measured: &Measured, totals: &mut Totals, profile: &Profile) {
        self.latency_new.merge(match self.sort {
            Sort::Baseline | Sort::Shadow => &measured.shadow.latency,
            Sort::Canary | Sort::Verify => &measured.new.latency,
        });
        totals.add(measured);
        if totals.slow_above.is_none() {
            totals.slow_above = slow_above(&totals.latency_old, profile);
        }
        if measured.probes_failed > 0 {
            (self.probe, self.probe_failed) = (Some(false), true);
        } else if measured.probes_passed > 0 {
            self.probe = Some(true);
        }
    }

    /// The proxy compares only where the old version did not fail, so a difference is what the
    /// new one did, or what the service does to itself ([`super::words::refuted`] says which).
    fn failure_of(&self, measured: &Measured) -> Pair {
        let (n_new, k_new) = match self.sort {
            Sort::Baseline | Sort::Shadow => (measured.compared, measured.differ),
            Sort::Canary | Sort::Verify => (measured.new.requests, measured.new.errors),
        };
        Pair { n_new, k_new, n_old: measured.old.requests, k_old: measured.old.errors }
    }

    fn latency_of(&self, measured: &Measured, totals: &Totals) -> Pair {
        let Some(slow_above) = totals.slow_above else { return Pair::default() };
        let new = match self.sort {
            Sort::Baseline | Sort::Shadow => &measured.shadow.latency,
            Sort::Canary | Sort::Verify => &measured.new.latency,
        };
        let (new, old) =
            (new.slower_than(slow_above), measured.old.latency.slower_than(slow_above));
        Pair { n_new: new.n, k_new: new.k, n_old: old.n, k_old: old.k }
    }

    fn failure_claim(&self, profile: &Profile) -> Claim {
        let margin = profile.success_delta_max.clamp(0.0, 0.9);
        let Share { k, n } = self.failure_known;
        let old_expected = (k as f64 + 0.2) / (n as f64 + 40.0);
        match self.sort {
            Sort::Baseline | Sort::Shadow | Sort::Canary => {
                Claim { slope: 1.0, margin, old_expected }
            }
            Sort::Verify => Claim { slope: 0.0, margin: margin + self.failure_bound, old_expected },
        }
    }

    fn latency_claim(&self) -> Claim {
        let Share { k, n } = self.latency_known;
        let old_expected = (k as f64 + 1.0) / (n as f64 + 25.0);
        match self.sort {
            Sort::Baseline | Sort::Shadow | Sort::Canary => {
                Claim { slope: 1.0, margin: SLOW_ALLOWED, old_expected }
            }
            Sort::Verify => {
                Claim { slope: 0.0, margin: SLOW_ALLOWED + self.latency_bound, old_expected }
            }
        }
    }

    /// What the stage says now.
    pub(super) fn verdict(&self, gate: &Gate, profile: &Profile) -> Verdict {
        if self.sort == Sort::Baseline {
            return Verdict::Open;
        }
        if gate.is_decided(profile.rollout_alpha) {
            return Verdict::Refuted(gate.loudest());
        }
        if self.n_missing(profile) == 0 && self.is_within(profile) {
            return Verdict::Passed;
        }
        Verdict::Open
    }

    /// Answers that are missing until the stage may pass.
    pub(super) fn n_missing(&self, profile: &Profile) -> u64 {
        let needed = match self.sort {
            Sort::Baseline | Sort::Shadow => profile.shadow_compared_min,
            Sort::Canary | Sort::Verify => profile.ring_requests_min,
        };
        u64::from(needed.max(1)).saturating_sub(self.failure.n_new)
    }

    /// Whether the shares measured so far keep both claims. Without any measured latency only
    /// failures count; without a baseline nothing does.
    pub(super) fn is_within(&self, profile: &Profile) -> bool {
        let failures = self.failure_claim(profile).kept_by(&self.failure);
        let latency = self.latency_claim().kept_by(&self.latency);
        failures == Some(true) && latency != Some(false)
    }
}

/// What is slow beside this baseline: past the ratio at which a service's p95 is red, rounded up
/// to a bound of the buckets, so that both sides are counted exactly.
fn slow_above(baseline: &Histogram, profile: &Profile) -> Option<f64> {
    let p95 = baseline.quantile_bound(0.95, u64::from(profile.ring_requests_min))?;
    let least = (p95 * profile.p95_ratio_red).max(SLOW_FLOOR_MS);
    stats::BOUNDS_MS.iter().find(|it| **it >= least).copied()
}

/// Takes a block whose sides have both been seen.
fn settle(open: &mut Pair, claim: Claim) -> Option<(Claim, Pair)> {
    claim.is_measured_by(open).then(|| (claim, std::mem::take(open)))
}

impl Totals {
    fn add(&mut self, measured: &Measured) {
        self.shadow_n += measured.compared;
        self.shadow_differ += measured.differ;
        self.shadow_errors += measured.shadow.errors;
        self.canary_n += measured.new.requests;
        self.canary_errors += measured.new.errors;
        self.baseline_n += measured.old.requests;
        self.baseline_errors += measured.old.errors;
        self.latency_old.merge(&measured.old.latency);
    }

    /// Failed answers of the old version, among all.
    fn failed(&self) -> Share {
        Share { k: self.baseline_errors, n: self.baseline_n }
    }

    /// Slow answers of the old version, among all.
    fn slow(&self) -> Share {
        self.slow_above.map_or_else(Share::default, |it| self.latency_old.slower_than(it))
    }
}
