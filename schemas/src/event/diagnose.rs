//! Anomalies and hypotheses.

use serde::{Deserialize, Serialize};

use super::vocabulary;
use crate::Uuid;

vocabulary! {
    /// The eight SLO signals of spec 20 §2, and the heartbeat of a prober.
    Signal {
        /// 95th percentile of latency, milliseconds.
        ApiP95Ms = "api_p95_ms",
        /// Share of failed requests, 0–1.
        ErrorRate = "error_rate",
        /// Items waiting.
        QueueLag = "queue_lag",
        /// Items in the dead-letter queue.
        DlqDepth = "dlq_depth",
        /// Share of CPU, 0–1.
        CpuLoad = "cpu_load",
        /// Share of memory, 0–1.
        MemPressure = "mem_pressure",
        /// Disk operations.
        DiskIo = "disk_io",
        /// Share of network errors, 0–1.
        NetErrors = "net_errors",
        /// A probe that we sent, or a heartbeat that the service declared.
        Heartbeat = "heartbeat",
    }
}

vocabulary! {
    /// How bad something is, mildest first (spec 10 §8).
    Severity {
        /// Worth knowing.
        Info = "info",
        /// Worth a look in working hours.
        Warning = "warning",
        /// Users are affected.
        Critical = "critical",
        /// Everything is affected, or data is at risk.
        Emergency = "emergency",
    }
}

vocabulary! {
    /// A service's colour. Unknown is neither good nor bad.
    Health {
        /// Not enough seen to judge.
        Unknown = "unknown",
        /// Within objectives.
        Green = "green",
        /// Past the first threshold.
        Amber = "amber",
        /// Past the second.
        Red = "red",
    }
}

/// A signal left its objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SloAnomalyDetected {
    /// Derived from service, signal and place.
    pub anomaly_id: Uuid,
    /// Service concerned.
    pub service: String,
    /// Signal concerned.
    pub signal: Signal,
    /// What was measured, in the signal's unit.
    pub observed: f64,
    /// What it was held against.
    pub threshold: f64,
    /// Window of the measurement, seconds.
    pub window_s: u32,
    /// How bad.
    pub severity: Severity,
    /// Colour before.
    pub health_from: Health,
    /// Colour after; a return to green is an anomaly event of severity `info`.
    pub health_to: Health,
    /// Which detector said so: `probe`, `slo_burn`, `latency_ratio`, `drift_lock` …
    pub detector: String,
    /// Whether a rules-only detector stood in for a learned one.
    pub fallback: bool,
    /// Telemetry ranges and entries it rests on.
    pub evidence_refs: Vec<String>,
}

vocabulary! {
    /// The seven root-cause patterns of spec 30 §3, and the honest eighth answer.
    Pattern {
        /// Network.
        NetworkIssues = "network_issues",
        /// CPU, memory, disk.
        ResourceExhaustion = "resource_exhaustion",
        /// More traffic than it can take.
        ServiceOverload = "service_overload",
        /// A setting or an environment.
        ConfigurationErrors = "configuration_errors",
        /// Damaged data.
        DataCorruption = "data_corruption",
        /// Something it depends on.
        DependencyFailures = "dependency_failures",
        /// The code of a version.
        CodeBugs = "code_bugs",
        /// No pattern has its evidence.
        Unknown = "unknown",
    }
}

/// Severity, urgency and reach. Spec 30 §5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impact {
    /// How bad.
    pub severity: Severity,
    /// 1–10, copied to the priority.
    pub urgency: u8,
    /// Number of services that the action can affect.
    pub blast_radius: u32,
}

/// A cause, with confidence and evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RcaHypothesis {
    /// Derived from incident and place.
    pub hypothesis_id: Uuid,
    /// The anomalies it explains.
    pub anomaly_ids: Vec<Uuid>,
    /// 1–6, spec 30 §2.
    pub failure_class: u8,
    /// Which pattern leads.
    pub pattern: Pattern,
    /// 0.0–1.0, ladder × coverage (spec 30 §4).
    pub confidence: f64,
    /// Never empty: a hypothesis without evidence is refused.
    pub evidence_refs: Vec<String>,
    /// Ordered steps.
    pub causal_chain: Vec<String>,
    /// What was ruled out, and what would have been otherwise.
    pub counterfactuals: Vec<String>,
    /// One paragraph, facts first.
    pub explanation_nl: String,
    /// How far it reaches.
    pub impact: Impact,
    /// Service concerned.
    #[serde(default)]
    pub service: Option<String>,
}
