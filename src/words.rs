//! Each event in one plain sentence: the same words in the timeline, in `events tail`, on the
//! page and in the demo.
//!
//! A sentence says what is known. What is inferred is marked with its confidence.

use schemas::event::{Health, Signal, TriggerVerdict};
use schemas::{Event, Ns};

use crate::engine::owner::TICK_ACTIVE;

/// What happened, in one sentence without a full stop.
pub fn sentence(event: &Event) -> String {
    match event {
        Event::OwnerElected(it) => format!("{} took office, epoch {}", it.node, it.epoch),
        Event::TelemetrySealed(it) => {
            format!("{} samples sealed ({}..{})", it.n_samples, it.from, it.to)
        }
        Event::Tick(it) => format!("time is {}", it.now),
        Event::InputRefused(it) => {
            format!("input {}/{} stands alone: {}", it.stream, it.position, it.reason)
        }
        Event::HeadCosigned(it) => format!("{} confirmed the head of {}", it.witness, it.size),
        Event::ConfigActivated(it) => {
            format!("{} version {} activated by {}", it.name, it.version, it.approved_by)
        }
        Event::TelemetrySample(it) => format!("{} samples from {}", it.value.len(), it.source),
        Event::ChangeObserved(it) => {
            let by =
                if it.author.is_empty() { String::new() } else { format!(" by {}", it.author) };
            format!("{} of {} to {}{by}", it.kind, it.service, it.version)
        }
        Event::ReleaseRequested(it) => {
            let version = it.version.as_deref().unwrap_or(&it.digest);
            let verb = if it.is_abort() { "stops the rollout of" } else { "asks for" };
            let why = it.reason.as_deref().map_or_else(String::new, |why| format!(": {why}"));
            format!("{} {verb} {} {version}{why}", it.requested_by, it.service)
        }
        Event::SloAnomalyDetected(it) => anomaly(it),
        Event::RcaHypothesis(it) => format!(
            "probably {} (class {}, confidence {:.2}): {}",
            plain(it.pattern.as_str()),
            it.failure_class,
            it.confidence,
            it.explanation_nl
        ),
        Event::HealTriggerEvaluated(it) => evaluated(it),
        Event::HealEscalated(it) => {
            let why = it.explanation.clone().unwrap_or_else(|| it.reason.to_string());
            format!("escalated to level {}: {why}", it.level)
        }
        Event::RemediationProposed(it) => {
            format!("proposal {}: {} ({})", it.rank, plain(&it.playbook), it.ops.join(", "))
        }
        Event::VoteCast(it) => {
            format!("{} voter: {} — {}", it.voter, it.verdict, it.reasons.join("; "))
        }
        Event::L1ConsensusResult(it) => format!("first layer: {}", it.outcome),
        Event::L2ConsensusResult(it) => format!("second layer: {}", it.outcome),
        Event::L3ExecutionResult(it) => {
            let why = it.reason.as_deref().map_or_else(String::new, |why| format!(": {why}"));
            format!("third layer: {}{why}", it.outcome)
        }
        Event::GovernanceDecision(it) => decided(it),
        Event::ApprovalGiven(it) => format!("{} signed: {}", it.approver, it.verdict),
        Event::SandboxResult(it) => preflight(it),
        Event::RunnerRequest(it) => format!("runner asked: {}", it.ops.join(", ")),
        Event::RunnerResult(it) => format!("runner: {} — {}", it.status, it.explanation),
        Event::DeployState(it) => {
            let version = it.version.as_deref().unwrap_or_default();
            format!("{} {version} {}: {}", it.service, plain(it.state.as_str()), it.reason)
        }
        Event::KpiTrustUpdate(it) => {
            let component = plain(&it.component);
            format!("trust in {component} {:.2} → {:.2}: {}", it.before, it.after, it.reason)
        }
        Event::ModeChanged(it) => format!("mode {} → {}: {}", it.from, it.to, it.cause),
        Event::FreezeCommand(it) => format!("{} by {}: {}", it.command, it.signer_id, it.reason),
        Event::IncidentChanged(it) => format!("incident {}: {}", it.change, it.summary),
        Event::AnnotationAdded(it) => format!("{} on {}: {}", it.kind, it.log_id, it.data),
    }
}

fn preflight(it: &schemas::event::SandboxResult) -> String {
    let said = |name: &str, status: &str| format!("{} {}", plain(name), plain(status));
    let checks = it.checks.iter().map(|(name, it)| said(name, it.status.as_str()));
    format!("preflight: {}", checks.collect::<Vec<_>>().join(", "))
}

/// A name of the vocabulary as words.
fn plain(name: &str) -> String {
    name.replace('_', " ")
}

fn anomaly(it: &schemas::event::SloAnomalyDetected) -> String {
    let signal = signal_name(it.signal);
    match it.health_to {
        Health::Green if it.health_from == Health::Unknown => {
            format!("{} {signal} is well", it.service)
        }
        Health::Green => format!("{} {signal} is well again", it.service),
        Health::Unknown => format!("{} {signal} is unknown: nothing was seen", it.service),
        Health::Amber | Health::Red => format!(
            "{} {signal} {} → {}: {} against {}",
            it.service,
            it.health_from,
            it.health_to,
            measure(it.signal, it.observed),
            measure(it.signal, it.threshold)
        ),
    }
}

fn decided(it: &schemas::event::GovernanceDecision) -> String {
    let why: Vec<&str> = it.failure_modes.iter().chain(&it.reasons).map(String::as_str).collect();
    let why = if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) };
    format!("policy: {}{why}", it.decision)
}

fn evaluated(it: &schemas::event::HealTriggerEvaluated) -> String {
    let why = it.reason.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    match it.verdict {
        TriggerVerdict::Fired => format!("{} may be tried{why}", plain(&it.trigger_type)),
        TriggerVerdict::NotFired
        | TriggerVerdict::Debounced
        | TriggerVerdict::OverBudget
        | TriggerVerdict::RejectedProvenance => {
            let (what, verdict) = (plain(&it.trigger_type), plain(it.verdict.as_str()));
            format!("{what} refused ({verdict}){why}")
        }
    }
}

/// A signal as people call it.
pub fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::ApiP95Ms => "p95 latency",
        Signal::ErrorRate => "error rate",
        Signal::QueueLag => "queue lag",
        Signal::DlqDepth => "dead letters",
        Signal::CpuLoad => "CPU load",
        Signal::MemPressure => "memory",
        Signal::DiskIo => "disk",
        Signal::NetErrors => "network errors",
        Signal::Heartbeat => "probe",
    }
}

/// A value of a signal with its unit.
pub fn measure(signal: Signal, value: f64) -> String {
    match signal {
        Signal::ApiP95Ms => format!("{value:.0} ms"),
        Signal::ErrorRate | Signal::CpuLoad | Signal::MemPressure | Signal::NetErrors => {
            format!("{:.1} %", value * 100.0)
        }
        Signal::Heartbeat => format!("{value:.0} missed"),
        Signal::QueueLag | Signal::DlqDepth | Signal::DiskIo => format!("{value:.0}"),
    }
}

/// A span of time as people read it: `4.3 s`, `12 min`, `3.5 h`.
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1000.0),
        s if s < 99.5 => format!("{s:.1} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 129_600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// How long something took between two ticks. What happened within one is not told apart.
pub fn took(between: Ns) -> String {
    if between < TICK_ACTIVE { "under 0.25 s".to_owned() } else { span(between.as_s()) }
}

/// A colour with its mark, so that health is never colour alone.
pub fn mark(health: Health) -> &'static str {
    match health {
        Health::Green => "● ok",
        Health::Amber => "▲ amber",
        Health::Red => "■ red",
        Health::Unknown => "? unknown",
    }
}
