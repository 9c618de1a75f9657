//! What moves a rollout: measurements, answers, silence, the mode, a burning objective.

use schemas::Ns;
use schemas::event::{
    Health, ModeChanged, RESULT_DOMAIN, RunnerResult, RunnerStatus, SloAnomalyDetected,
};
use schemas::signature::signature_from_text;
use schemas::telemetry::Samples;

use super::rollout::{Rollout, Step, active, load, waiting_for};
use super::stage::{Sort, Verdict};
use super::turn::Turn;
use super::{history, measure, words};
use crate::config;
use crate::fold::{Output, View};

/// Folds a sealed range into every rollout that is under way.
pub(super) fn sealed(view: &mut View<'_>, now: Ns, samples: &Samples<'_>) -> Vec<Output> {
    let mut said = Vec::new();
    for service in active(view) {
        let Some(rollout) = load(view, &service).filter(Rollout::is_judged) else { continue };
        let measured = measure::measure(samples, &service, &rollout.slot);
        if measured == measure::Measured::default() {
            continue;
        }
        let mut turn = Turn::new(view, now, rollout);
        turn.measured(&measured);
        said.extend(turn.end());
    }
    said
}

/// Folds a runner's answer into the rollout that waits for it.
pub(super) fn answered(view: &mut View<'_>, now: Ns, result: &RunnerResult) -> Vec<Output> {
    history::returned(view, result);
    let Some(rollout) = waiting_for(view, result.id) else { return Vec::new() };
    if !is_signed_by_runner(view, &rollout.host, result) {
        return Vec::new();
    }
    let mut turn = Turn::new(view, now, rollout);
    turn.answered(result);
    turn.end()
}

/// Whoever can write to the inbox could otherwise claim that a rollback has succeeded.
pub(super) fn is_signed_by_runner(view: &View<'_>, host: &str, result: &RunnerResult) -> bool {
    let key = config::host(view, host).map(|it| it.key);
    let signature = result.signature.as_deref().and_then(signature_from_text);
    key.zip(signature).is_some_and(|(key, it)| key.verify(RESULT_DOMAIN, &result.statement(), &it))
}

/// Time is up: for an answer, for a stage, or for the next check.
pub(super) fn due(view: &mut View<'_>, now: Ns, service: &str) -> Vec<Output> {
    let Some(rollout) = load(view, service) else { return Vec::new() };
    let mut turn = Turn::new(view, now, rollout);
    turn.due();
    turn.end()
}

/// Entering `read_only` or `frozen` ends every rollout at its last good slot, because half a
/// change is worse than none (spec 50 §11). One that is being committed has passed its health
/// gate: that is its nearest safe end (spec 50 §18).
pub(super) fn mode_changed(view: &mut View<'_>, now: Ns, changed: &ModeChanged) -> Vec<Output> {
    if changed.to.allows_action() {
        return Vec::new();
    }
    let mut said = Vec::new();
    for service in active(view) {
        let Some(rollout) = load(view, &service).filter(|it| it.step != Step::Commit) else {
            continue;
        };
        let mut turn = Turn::new(view, now, rollout);
        turn.roll_back(&format!("the mode is {} ({})", changed.to, changed.cause), false);
        said.extend(turn.end());
    }
    said
}

/// A burning objective ends a rollout (spec 50 §4), also where the new version may not be the
/// cause: into a fire nothing is promoted. It bars the digest only where nothing else served.
pub(super) fn anomaly(view: &mut View<'_>, now: Ns, it: &SloAnomalyDetected) -> Vec<Output> {
    if it.health_to != Health::Red {
        return Vec::new();
    }
    let rollout = load(view, &it.service).filter(|it| it.stage.sort != Sort::Baseline);
    let Some(rollout) = rollout else { return Vec::new() };
    let served_alone = rollout.stage.sort == Sort::Verify;
    let reason = format!(
        "{} burns its objective: {} is {} against {}",
        it.service,
        it.signal,
        words::figure(it.observed),
        words::figure(it.threshold)
    );
    let mut turn = Turn::new(view, now, rollout);
    turn.roll_back(&reason, served_alone);
    turn.end()
}

impl Turn<'_, '_> {
    fn measured(&mut self, measured: &measure::Measured) {
        let it = &mut self.rollout;
        // The proxy knows best which slot is new: nothing else is ever mirrored to.
        if let (Step::Shadow, Some(slot)) = (it.step, &measured.shadow_slot) {
            it.slot.clone_from(slot);
        }
        it.stage.fold(measured, &mut it.totals, &mut it.gate, &self.profile);
        match it.stage.verdict(&it.gate, &self.profile) {
            Verdict::Refuted(signal) => {
                let reason = words::refuted(&self.rollout, signal, &self.profile);
                self.roll_back(&reason, true);
            }
            // A verification passes by its checks, never by a count alone.
            Verdict::Passed if matches!(it.step, Step::Shadow | Step::Canary) => self.passed(),
            Verdict::Passed | Verdict::Open => {}
        }
    }

    fn answered(&mut self, result: &RunnerResult) {
        self.rollout.pending = None;
        let is_done = result.status == RunnerStatus::Success && result.known != Some(false);
        match self.rollout.step {
            Step::Preflight => self.preflight_answered(result),
            Step::Apply if is_done => {
                if let Some(slot) = result.metrics.get("slot") {
                    self.rollout.slot = if *slot < 0.5 { "green" } else { "blue" }.to_owned();
                }
                self.applied();
            }
            // What does not start is bad (spec 60 §15), unless nobody knows whether it did.
            Step::Apply => {
                let is_bad = result.known != Some(false);
                self.roll_back(&words::not_done("start it", result), is_bad);
            }
            Step::Mirror if is_done => self.mirrored(),
            Step::Mirror => self.roll_back(&words::not_done("mirror to it", result), false),
            Step::Route if is_done => self.routed(),
            Step::Route => self.roll_back(&words::not_done("open the next ring", result), false),
            Step::Commit if is_done => self.committed(),
            Step::Commit => self.roll_back(&words::not_done("commit it", result), false),
            Step::Rollback => self.rollback_answered(result, is_done),
            // These have no request in flight.
            Step::Shadow | Step::Canary | Step::Verify | Step::Ended => {}
        }
    }

    fn preflight_answered(&mut self, result: &RunnerResult) {
        let checks = result.checks.clone().unwrap_or_default();
        if result.known == Some(false) || checks.is_empty() {
            let why = words::not_done("run the preflight", result);
            return self.reject(format!("preflight: {why}; nothing was applied"));
        }
        let kinds = config::host(self.view, &self.rollout.host).map(|it| it.sandbox);
        let kind = kinds.unwrap_or_default().into_iter().next().unwrap_or_default();
        self.preflight_done(checks, &kind);
    }

    /// A rollback is proven by what the runner measured, never by its word alone.
    fn rollback_answered(&mut self, result: &RunnerResult, is_done: bool) {
        let holds = |name: &str| result.metrics.get(name).is_some_and(|it| *it >= 1.0);
        if !is_done {
            return self.not_rolled_back(&words::not_done("return to it", result));
        }
        if !holds("digest_equal") {
            return self.not_rolled_back("the digest that runs is not the one that ran before");
        }
        if !holds("probe") {
            return self.not_rolled_back("what runs again does not answer its probe");
        }
        self.rolled_back();
    }

    fn due(&mut self) {
        let now = self.now;
        if self.rollout.is_forward() && self.rollout.back_by.is_some_and(|it| it <= now) {
            return self.roll_back("the permission for this rollout ends before it is done", false);
        }
        if self.rollout.retry_at.is_some_and(|it| it <= now) {
            return self.ask_rollback();
        }
        if self.rollout.pending.as_ref().is_some_and(|it| it.until <= now) {
            return self.unanswered();
        }
        if !self.rollout.is_measuring() || self.rollout.stage.until > now {
            return;
        }
        match self.rollout.stage.sort {
            Sort::Verify => self.check(),
            Sort::Shadow => self.time_is_up(self.profile.shadow_timeout_ms),
            Sort::Canary => self.time_is_up(self.profile.ring_timeout_ms),
            Sort::Baseline => {}
        }
    }

    /// Silence leaves open what was done, so it is answered like a failure.
    fn unanswered(&mut self) {
        self.rollout.pending = None;
        let reason = format!("the runner of {} gave no answer in time", self.rollout.host);
        match self.rollout.step {
            Step::Preflight => self.reject(format!("preflight: {reason}; nothing was applied")),
            Step::Rollback => self.not_rolled_back(&reason),
            Step::Apply
            | Step::Mirror
            | Step::Shadow
            | Step::Route
            | Step::Canary
            | Step::Verify
            | Step::Commit
            | Step::Ended => self.roll_back(&reason, false),
        }
    }

    /// A stage without a verdict is extended once and then given up: an unseen version is
    /// unproven (spec 60 §17). One that was seen enough, and against which the evidence has not
    /// grown in all that time, goes on: a share a little above the allowed one is then chance,
    /// and giving it up would roll back one harmless release in a thousand.
    fn time_is_up(&mut self, timeout_ms: u64) {
        let Rollout { stage, gate, .. } = &self.rollout;
        let is_seen = stage.n_missing(&self.profile) == 0 && stage.failure.n_old > 0;
        if stage.extended && is_seen && !gate.has_grown() {
            return self.passed();
        }
        let why = words::unproven(&self.rollout, &self.profile);
        if self.rollout.stage.extended {
            return self.roll_back(&format!("{why}, also after one extension"), false);
        }
        self.rollout.stage.extended = true;
        self.rollout.stage.until = self.now + Ns::from_ms(timeout_ms);
        self.tell(self.rollout.phase(), format!("{why}: its time is extended once"));
    }

    /// One attempt to verify the promoted version (spec 60 §17).
    fn check(&mut self) {
        let needed = self.profile.validation_passes.max(1);
        let probed = config::service(self.view, &self.rollout.service)
            .is_some_and(|it| !it.probe_url.is_empty());
        let stage = &mut self.rollout.stage;
        let is_probe_red = stage.probe_failed || stage.probe == Some(false);
        let is_red = is_probe_red || (stage.failure.n_new > 0 && !stage.is_within(&self.profile));
        let is_unknown = stage.n_missing(&self.profile) > 0 || (probed && stage.probe.is_none());
        stage.n_checks += 1;
        stage.n_green = if is_red || is_unknown { 0 } else { stage.n_green + 1 };
        stage.probe_failed = false;
        stage.until = self.now + Ns::from_ms(self.profile.promotion_check_ms);
        let (n_checks, n_green) = (stage.n_checks, stage.n_green);
        if n_green >= needed {
            return self.verified();
        }
        if n_checks >= self.profile.promotion_checks {
            let last = match (is_red, is_unknown) {
                (true, _) if is_probe_red => "its probe failed",
                (true, _) => "more answers failed than allowed",
                (false, true) => "too little was seen of it",
                (false, false) => "not enough green ones in a row",
            };
            let measured = words::measured(&self.rollout);
            let reason =
                format!("{measured}; check {n_checks} of {n_checks} did not verify it: {last}");
            self.roll_back(&reason, is_red);
        }
    }
}
