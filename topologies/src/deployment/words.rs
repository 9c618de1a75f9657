//! What a rollout says about itself: the sentence in `reason` and the figures in `deltas`.
//!
//! Every sentence names the version, what was measured and what follows, so that the transcript
//! of a rollout reads as its story.

use std::collections::BTreeMap;

use schemas::event::{CheckStatus, DeployPhase, DeployState, RunnerResult};
use schemas::{Ns, event::Check};

use super::gate::{Pair, Signal, bound};
use super::rollout::Rollout;
use super::stage::{Sort, Stage};
use crate::profile::Profile;
use crate::said;

/// Ends the last sentence of a rollout whose release is barred. Persisted: frozen.
const BARRED: &str = " is barred until a person clears it";

/// What was measured so far, by name. A figure without measurements is absent, not zero.
pub(super) fn deltas(rollout: &Rollout) -> BTreeMap<String, f64> {
    let Rollout { totals, stage, .. } = rollout;
    let mut deltas = BTreeMap::new();
    let mut put = |name: &str, value: f64| {
        deltas.insert(name.to_owned(), value);
    };
    if totals.shadow_n > 0 {
        put("shadow_n", totals.shadow_n as f64);
        put("shadow_differ", totals.shadow_differ as f64);
        put("shadow_errors", totals.shadow_errors as f64);
    }
    if totals.canary_n > 0 {
        put("canary_n", totals.canary_n as f64);
        put("canary_errors", totals.canary_errors as f64);
    }
    if totals.baseline_n > 0 {
        put("baseline_n", totals.baseline_n as f64);
        put("baseline_errors", totals.baseline_errors as f64);
    }
    let old = Pair { n_old: totals.baseline_n, k_old: totals.baseline_errors, ..stage.failure };
    let failure = if stage.sort == Sort::Verify { old } else { stage.failure };
    if let (Some(new), Some(old)) = (failure.rate_new(), failure.rate_old()) {
        put("error_rate", new - old);
        put("success_rate", old - new);
    }
    let (new, old) = (stage.latency_new.quantile(0.95, 1), totals.latency_old.quantile(0.95, 1));
    if let Some(new) = new {
        put("p95_new_ms", new);
    }
    if let Some(old) = old {
        put("p95_old_ms", old);
    }
    if let (Some(new), Some(old)) = (new, old) {
        put("p95_ms", new - old);
    }
    deltas
}

/// The rings of a profile, in words: `10, 50 and 100 %`.
pub(super) fn rings(rings: &[u32]) -> String {
    let texts: Vec<String> = rings.iter().map(u32::to_string).collect();
    match texts.as_slice() {
        [] => String::new(),
        [only] => format!("{only} %"),
        [first @ .., last] => format!("{} and {last} %", first.join(", ")),
    }
}

/// What the stage has measured, in words.
pub(super) fn measured(rollout: &Rollout) -> String {
    let Rollout { stage, release, back_to, .. } = rollout;
    let (new, old) = (&release.version, &back_to.version);
    let Pair { n_new, k_new, n_old, k_old } = stage.failure;
    let failed = match stage.sort {
        Sort::Baseline => return format!("nothing was measured of {new} yet"),
        Sort::Shadow => format!(
            "{k_new} of {n_new} mirrored answers of {new} differ from {old}'s ({})",
            percent(stage.failure.rate_new())
        ),
        Sort::Canary => format!(
            "{k_new} of {n_new} answers of {new} failed ({}), {k_old} of {n_old} of {old} ({})",
            percent(stage.failure.rate_new()),
            percent(stage.failure.rate_old())
        ),
        Sort::Verify => format!(
            "{k_new} of {n_new} answers of {new} failed ({}) while it served alone",
            percent(stage.failure.rate_new())
        ),
    };
    let slow = rollout.totals.slow_above.filter(|_| stage.latency.k_new > 0);
    let Some(slow_above) = slow else { return failed };
    let Pair { n_new, k_new, .. } = stage.latency;
    format!("{failed}; {k_new} of {n_new} took longer than {slow_above} ms")
}

/// Why the evidence ends it.
pub(super) fn refuted(rollout: &Rollout, signal: Signal, profile: &Profile) -> String {
    let what = match signal {
        Signal::Failure => "more failures",
        Signal::Latency => "more slow answers",
    };
    let is_error_free = rollout.stage.sort == Sort::Shadow && rollout.totals.shadow_errors == 0;
    let doubt = if is_error_free && signal == Signal::Failure {
        "; none of them is an error, so see whether its answers hold the time or a random id"
    } else {
        ""
    };
    format!(
        "{}: {what} than allowed, with evidence {} past the bound of {}{doubt}",
        measured(rollout),
        figure(rollout.gate.evidence()),
        figure(bound(profile.rollout_alpha))
    )
}

/// Why a stage whose time is up has neither passed nor been refuted.
pub(super) fn unproven(rollout: &Rollout, profile: &Profile) -> String {
    let Stage { sort, failure, .. } = &rollout.stage;
    let needed = failure.n_new + rollout.stage.n_missing(profile);
    let place = match sort {
        Sort::Baseline | Sort::Shadow => "the shadow".to_owned(),
        Sort::Canary | Sort::Verify => format!("the ring of {} %", rollout.ring_pct),
    };
    let fresh_n = match sort {
        Sort::Verify => 1,
        Sort::Baseline | Sort::Shadow | Sort::Canary => failure.n_old,
    };
    if failure.n_new == 0 {
        return format!("no data in {place}: not one answer of {}", rollout.release.version);
    }
    if rollout.stage.n_missing(profile) > 0 {
        return format!("only {} of {needed} answers were seen in {place}", failure.n_new);
    }
    if fresh_n == 0 {
        return format!("no answer of {} to compare with in {place}", rollout.back_to.version);
    }
    format!("{}: more than is allowed, and not proven either", measured(rollout))
}

/// What is wrong with a runner's answer.
pub(super) fn not_done(step: &str, result: &RunnerResult) -> String {
    let said = if result.explanation.is_empty() { "no reason given" } else { &result.explanation };
    match result.known {
        Some(false) => format!("whether it could {step} was never learned ({said})"),
        Some(true) | None => format!("the runner did not {step}: {said}"),
    }
}

/// The first check that is not green, in words.
pub(super) fn red_check(checks: &BTreeMap<String, Check>) -> Option<String> {
    let (name, check) = checks.iter().find(|(_, it)| !it.is_green())?;
    let verdict = match check.status {
        CheckStatus::Unknown => "unknown",
        CheckStatus::Failed | CheckStatus::Passed | CheckStatus::NotApplicable => "failed",
    };
    Some(format!("{name} {verdict}: {}", check.detail))
}

/// Whether a rollout that ended so has put its release on the deny list.
pub fn bars(state: &DeployState) -> bool {
    state.state == DeployPhase::RolledBack && state.reason.ends_with(BARRED)
}

/// The way back in a sentence, once it is proven.
pub(super) fn restored(rollout: &Rollout, took: Ns) -> String {
    let back = &rollout.back_to;
    let barred = if rollout.is_denied {
        format!("; {}{BARRED}", rollout.release.version)
    } else {
        String::new()
    };
    format!(
        "{} serves alone again {} after the decision: the digest that runs is the one that \
         ran before, and its probe passed{barred}",
        back.version,
        said::span(took)
    )
}

/// A share as people read it.
pub(super) fn percent(rate: Option<f64>) -> String {
    rate.map_or_else(|| "no data".to_owned(), |it| format!("{:.1} %", it * 100.0))
}

/// An e-value as people read it.
pub(super) fn figure(value: f64) -> String {
    match value {
        it if it >= 10_000.0 => format!("{it:.0e}"),
        it if it >= 10.0 => format!("{it:.0}"),
        it => format!("{it:.2}"),
    }
}
