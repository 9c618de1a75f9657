//! Trust, modes, freezes, incidents, annotations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Severity, vocabulary};
use crate::{Ns, Uuid};

/// A proposed or applied change of a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThresholdChange {
    /// Which one.
    pub name: String,
    /// Before.
    pub old: f64,
    /// After.
    pub new: f64,
    /// Guardrail.
    pub min: f64,
    /// Guardrail.
    pub max: f64,
    /// Whether a person may still stop it.
    pub human_veto: bool,
}

/// The weight of a playbook: (successes + 1) ÷ (attempts + 2), spec 90 §8.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkillWeight {
    /// Playbook.
    pub name: String,
    /// Its weight.
    pub weight: f64,
}

/// Trust changed, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KpiTrustUpdate {
    /// Component concerned.
    pub component: String,
    /// Before.
    pub before: f64,
    /// After.
    pub after: f64,
    /// Why, in a sentence or a code such as `vouched_by_operator`.
    pub reason: String,
    /// `mttr_s`, `success`, `rollback` …
    pub kpi_deltas: BTreeMap<String, f64>,
    /// Threshold changes that follow.
    pub threshold_changes: Vec<ThresholdChange>,
    /// Playbook weights after it.
    pub skill_weights: Vec<SkillWeight>,
}

vocabulary! {
    /// Operating modes from free to halted (spec 50 §11). An unknown mode fails closed.
    Mode {
        /// All allowed.
        Normal = "normal",
        /// Warning logged, operations continue.
        Alert = "alert",
        /// No new commitments.
        IssuancePaused = "issuance_paused",
        /// Detection, diagnosis and proposals go on; nothing is executed.
        ReadOnly = "read_only",
        /// Immediate halt.
        Frozen = "frozen",
    }
}

impl Mode {
    /// Whether a mutating request may be said under it.
    pub fn allows_action(self) -> bool {
        matches!(self, Mode::Normal | Mode::Alert | Mode::IssuancePaused)
    }
}

/// The operating mode changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeChanged {
    /// Scope concerned.
    pub scope: String,
    /// Before.
    pub from: Mode,
    /// After.
    pub to: Mode,
    /// Why.
    pub cause: String,
    /// Composite coherence score, where one was computed.
    pub composite: Option<f64>,
    /// The invariants behind it.
    pub invariants: BTreeMap<String, f64>,
    /// The incident, where there is one.
    pub incident_id: Option<String>,
    /// Running number of modes in this scope; every runner request names it.
    #[serde(default)]
    pub mode_epoch: u64,
}

vocabulary! {
    /// What a signer commands (spec 10 §4.6).
    FreezeVerb {
        /// Stop. One signature.
        Freeze = "freeze",
        /// One signer agrees to unfreeze.
        UnfreezeSign = "unfreeze_sign",
        /// Unfreeze with all signatures.
        Unfreeze = "unfreeze",
        /// New signers.
        SignerSetChange = "signer_set_change",
    }
}

/// What the signers confirm about value before an unfreeze (spec 50 §12).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditConfirmation {
    /// External balance.
    pub on_chain_balance_usd: f64,
    /// Outstanding units.
    pub ledger_cc_outstanding: f64,
    /// Backing ratio, recomputed.
    pub coherence_score: f64,
}

/// A signer's freeze or unfreeze.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FreezeCommand {
    /// Scope concerned.
    pub scope: String,
    /// What is commanded.
    pub command: FreezeVerb,
    /// Name of the signer.
    pub signer_id: String,
    /// Why.
    pub reason: String,
    /// Over [`FreezeCommand::statement`], 128 hex digits.
    pub signature: String,
    /// Absent under a profile without value fields.
    pub audit_confirmation: Option<AuditConfirmation>,
    /// Signers of the change or of the unfreeze.
    pub signers: Vec<String>,
    /// Chosen by the signer, so that an old command is never taken for a new one.
    #[serde(default)]
    pub nonce: String,
}

vocabulary! {
    /// What sort of incident it is (spec 10 §8).
    IncidentType {
        /// Backing ratio fell.
        TreasuryDegradation = "treasury_degradation",
        /// The chain does not verify.
        HashChainBreak = "hash_chain_break",
        /// A guarded signal jumped.
        OracleAnomaly = "oracle_anomaly",
        /// Peers disagree.
        FederationDesync = "federation_desync",
        /// A key is suspected.
        KeyCompromise = "key_compromise",
        /// An invariant does not hold.
        CoherenceViolation = "coherence_violation",
        /// A service left its objectives.
        ServiceAnomaly = "service_anomaly",
        /// A repair failed.
        RemediationFailure = "remediation_failure",
        /// The healer failed its test.
        SelfTestFailure = "self_test_failure",
    }
}

vocabulary! {
    /// Where an incident stands (spec 10 §8).
    IncidentStatus {
        /// Seen, nothing done yet.
        Open = "open",
        /// Something is being done.
        Mitigating = "mitigating",
        /// Over.
        Resolved = "resolved",
    }
}

/// An incident as it stands after `change`. Spec 80 §19.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentChanged {
    /// The incident.
    pub incident_id: String,
    /// How bad.
    pub severity: Severity,
    /// What sort.
    #[serde(rename = "type")]
    pub incident_type: IncidentType,
    /// One line.
    pub summary: String,
    /// When it was detected.
    pub detected_at: Ns,
    /// When it ended.
    pub resolved_at: Option<Ns>,
    /// Where it stands.
    pub status: IncidentStatus,
    /// What was done, in order.
    pub actions_taken: Vec<String>,
    /// Composite at detection.
    pub coherence_score_at_detection: Option<f64>,
    /// Composite at resolution.
    pub coherence_score_at_resolution: Option<f64>,
    /// What changed: `opened`, `diagnosed`, `acted`, `escalated`, `resolved` …
    pub change: String,
    /// Service concerned.
    #[serde(default)]
    pub service: Option<String>,
}

vocabulary! {
    /// What an annotation states (spec 10 §7).
    AnnotationKind {
        /// Plain-language explanation.
        ExplanationNl = "EXPLANATION_NL",
        /// Ordered causes, evidence per step.
        CausalChain = "CAUSAL_CHAIN",
        /// What would have happened without each.
        Counterfactuals = "COUNTERFACTUALS",
        /// One per Runner call, with the custody entry id.
        RunnerAction = "RUNNER_ACTION",
        /// A recorded fact was wrong.
        Correction = "CORRECTION",
        /// Approve or reject of an explanation, hypothesis or detection.
        HumanFeedback = "HUMAN_FEEDBACK",
        /// Approval of a decision made under the EmergencyPolicyCache.
        Ratification = "RATIFICATION",
        /// Records that could not be kept.
        Drop = "DROP",
    }
}

/// A later statement about an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationAdded {
    /// The annotation.
    pub id: Uuid,
    /// The entry it is about, `immutable:log:<partition>/<seq>`.
    pub log_id: String,
    /// What sort.
    pub kind: AnnotationKind,
    /// Who says it.
    pub author: String,
    /// What is said, text or JSON.
    pub data: String,
    /// Tick time.
    pub created_at: Ns,
}
