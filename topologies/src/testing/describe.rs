//! One readable line for each event: what a person would want to know of it, and no ids.

use schemas::Event;
use schemas::event::{
    DeployState, GovernanceDecision, HealTriggerEvaluated, RcaHypothesis, RemediationProposed,
    RunnerRequest, RunnerResult, SloAnomalyDetected,
};

/// What an event says, on one line.
pub fn describe(event: &Event) -> String {
    match event {
        Event::OwnerElected(it) => format!("epoch {} by {}", it.epoch, it.node),
        Event::TelemetrySealed(it) => format!("{} samples {}..{}", it.n_samples, it.from, it.to),
        Event::Tick(it) => it.now.to_string(),
        Event::InputRefused(it) => format!("{}/{}: {}", it.stream, it.position, it.reason),
        Event::HeadCosigned(it) => format!("size {} by {}", it.size, it.witness),
        Event::ConfigActivated(it) => format!("{} version {}", it.name, it.version),
        Event::TelemetrySample(it) => format!("{} samples of {}", it.value.len(), it.source),
        Event::ChangeObserved(it) => format!("{} {}: {}", it.kind, it.version, it.summary),
        Event::ReleaseRequested(it) => {
            let what = if it.is_abort() { "stop " } else { "" };
            format!("{what}{} by {}", it.artifact_ref, it.requested_by)
        }
        Event::SloAnomalyDetected(it) => anomaly(it),
        Event::RcaHypothesis(it) => hypothesis(it),
        Event::HealTriggerEvaluated(it) => trigger(it),
        Event::HealEscalated(it) => {
            format!("level {} {}: {}", it.level, it.reason, text(&it.explanation))
        }
        Event::RemediationProposed(it) => proposal(it),
        Event::VoteCast(it) => {
            format!("{} says {}: {}", it.voter, it.verdict, it.reasons.join(" "))
        }
        Event::L1ConsensusResult(it) => format!("{} by {}", it.outcome, it.quorum_rule),
        Event::L2ConsensusResult(it) => it.outcome.to_string(),
        Event::L3ExecutionResult(it) => format!("{}: {}", it.outcome, text(&it.reason)),
        Event::GovernanceDecision(it) => decision(it),
        Event::ApprovalGiven(it) => format!("{} by {}: {}", it.verdict, it.approver, it.reason),
        Event::SandboxResult(it) => {
            let checks: Vec<String> =
                it.checks.iter().map(|(name, it)| format!("{name} {}", it.status)).collect();
            format!("in {}: {}", it.sandbox_kind, checks.join(", "))
        }
        Event::RunnerRequest(it) => request(it),
        Event::RunnerResult(it) => result(it),
        Event::DeployState(it) => deploy(it),
        Event::KpiTrustUpdate(it) => {
            format!("{} {:.3} → {:.3}: {}", it.component, it.before, it.after, it.reason)
        }
        Event::ModeChanged(it) => {
            format!("{} → {} epoch {}: {}", it.from, it.to, it.mode_epoch, it.cause)
        }
        Event::FreezeCommand(it) => format!("{} by {}: {}", it.command, it.signer_id, it.reason),
        Event::IncidentChanged(it) => {
            let change = format!("{} {} {}: {}", it.change, it.severity, it.status, it.summary);
            match it.actions_taken.is_empty() {
                true => change,
                false => format!("{change} [{}]", it.actions_taken.join("; ")),
            }
        }
        Event::AnnotationAdded(it) => format!("{} on {} by {}", it.kind, it.log_id, it.author),
    }
}

fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or("-")
}

fn anomaly(it: &SloAnomalyDetected) -> String {
    let change = format!("{} {} → {}", it.signal, it.health_from, it.health_to);
    let measured = format!("{} against {}", short(it.observed), short(it.threshold));
    format!("{change} {}: {measured} in {} s ({})", it.severity, it.window_s, it.detector)
}

fn hypothesis(it: &RcaHypothesis) -> String {
    let lead = format!("class {} {} {:.2}", it.failure_class, it.pattern, it.confidence);
    format!("{lead}: {}", it.explanation_nl)
}

fn trigger(it: &HealTriggerEvaluated) -> String {
    let used = format!("{} of {}", it.active_before, it.ceiling);
    format!("{} {} ({used} open): {}", it.trigger_type, it.verdict, text(&it.reason))
}

fn proposal(it: &RemediationProposed) -> String {
    let lead = format!("{}. {} {}", it.rank, it.playbook, it.ops.join(", "));
    format!("{lead} ({} impact, {:.2}) else {}", it.impact, it.confidence, it.rollback)
}

fn decision(it: &GovernanceDecision) -> String {
    let why: Vec<&str> = it.failure_modes.iter().chain(&it.reasons).map(String::as_str).collect();
    format!("{} ({}): {}", it.decision, it.quorum_type, why.join(" "))
}

fn request(it: &RunnerRequest) -> String {
    let bound = if it.binding.is_some() { "" } else { " unbound" };
    format!("{}{bound} {}", it.ops.join(", "), it.artifact_ref)
}

fn result(it: &RunnerResult) -> String {
    let known = if it.known == Some(false) { " not known" } else { "" };
    format!("{}{known}: {}", it.status, it.explanation)
}

fn deploy(it: &DeployState) -> String {
    let version = it.version.as_deref().unwrap_or_default();
    format!("{version} {} {} % in {}: {}", it.state, it.ring_pct, it.slot, it.reason)
}

/// A number as short as it can be read: at most four significant places.
fn short(number: f64) -> String {
    let places = if number.abs() >= 100.0 { 0 } else { 3 };
    let text = format!("{number:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
