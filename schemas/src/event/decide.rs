//! The gate, proposals, votes, policy and approvals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::vocabulary;
use crate::{Ns, Uuid};

vocabulary! {
    /// What a trigger's evaluation came to. Spec 10 §8.
    TriggerVerdict {
        /// It fired: an attempt is open.
        Fired = "fired",
        /// Its condition does not hold.
        NotFired = "not_fired",
        /// Inside its cooling window.
        Debounced = "debounced",
        /// Over a ceiling; the next event is an escalation.
        OverBudget = "over_budget",
        /// The cause was raised by somebody who may not.
        RejectedProvenance = "rejected_provenance",
    }
}

/// A trigger was evaluated. One row of `self_heal_attempts` (spec 40 §1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealTriggerEvaluated {
    /// The attempt.
    pub attempt_id: Uuid,
    /// Stable name of the trigger.
    pub trigger_id: String,
    /// Budget key.
    pub trigger_type: String,
    /// SHA-256 of the canonical cause, hex.
    pub cause_hash: String,
    /// Who raised it.
    pub raised_by: String,
    /// Whether an attempt is open.
    pub fired: bool,
    /// What it came to.
    pub verdict: TriggerVerdict,
    /// Open attempts before this evaluation.
    pub active_before: u32,
    /// Ceiling at that time.
    pub ceiling: u32,
    /// End of the cooling window.
    pub debounce_until: Option<Ns>,
    /// The entry that this evaluation rests on: audit before insert (LOCK-HEAL-1).
    pub audit_log_id: String,
    /// Evaluations that this row stands for.
    pub coalesced_count: u32,
    /// First of them.
    pub window_start: Option<Ns>,
    /// Last of them.
    pub window_end: Option<Ns>,
    /// Service concerned.
    #[serde(default)]
    pub service: Option<String>,
    /// The verdict in words, with the command that would change it.
    #[serde(default)]
    pub reason: Option<String>,
    /// The hypothesis it answers.
    #[serde(default)]
    pub hypothesis_id: Option<Uuid>,
}

vocabulary! {
    /// Why people are asked (spec 10 §8).
    EscalationReason {
        /// A budget is spent.
        BudgetCeiling = "budget_ceiling",
        /// Repairs had no effect.
        RepairExhausted = "repair_exhausted",
        /// The service was not well after a repair.
        ValidationFailed = "validation_failed",
        /// The failure class ran out of time.
        ClassTimeout = "class_timeout",
        /// Class 6.
        CriticalFailure = "critical_failure",
        /// The healer itself failed its test.
        SelfTestFailed = "self_test_failed",
    }
}

/// Handed to people. Spec 40 §11.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealEscalated {
    /// The escalation.
    pub escalation_id: Uuid,
    /// The incident.
    pub incident_id: String,
    /// Trigger type whose repairs ended here.
    pub trigger_type: String,
    /// 0–4.
    pub level: u8,
    /// Why.
    pub reason: EscalationReason,
    /// What was tried, in words.
    pub tried: Vec<String>,
    /// Roles that should act.
    pub roles: Vec<String>,
    /// What it rests on.
    pub evidence_refs: Vec<String>,
    /// The entry that led here.
    pub audit_log_id: String,
    /// The reason in a sentence, with the command that would change it.
    #[serde(default)]
    pub explanation: Option<String>,
    /// Service concerned.
    #[serde(default)]
    pub service: Option<String>,
}

vocabulary! {
    /// How a repair works (spec 10 §8).
    Strategy {
        /// Try again.
        Retry = "retry",
        /// Start anew.
        Restart = "restart",
        /// Put back what was damaged.
        Repair = "repair",
        /// Align with the desired state.
        Sync = "sync",
        /// More of it.
        Scale = "scale",
        /// Hand over.
        Escalate = "escalate",
    }
}

vocabulary! {
    /// Impact of an action, spec 50 §8.
    ActionImpact {
        /// Restart, or return to a digest that was committed before.
        Low = "low",
        /// Rebuild of an environment.
        Medium = "medium",
        /// Anything else.
        High = "high",
    }
}

/// A repair was proposed. Spec 40 §7.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemediationProposed {
    /// The proposal.
    pub proposal_id: Uuid,
    /// Its incident.
    pub incident_id: String,
    /// What it answers.
    pub hypothesis_id: Uuid,
    /// 1–3, 1 is tried first.
    pub rank: u8,
    /// Recovery strategy.
    pub strategy: Strategy,
    /// Name of the playbook.
    pub playbook: String,
    /// What is applied, empty where nothing is.
    pub artifact_ref: String,
    /// `<method>:<target>` in order.
    pub ops: Vec<String>,
    /// What undoes it; named before anyone votes.
    pub rollback: String,
    /// Number of services it can affect.
    pub blast_radius: u32,
    /// How deep it cuts.
    pub impact: ActionImpact,
    /// 0–1.
    pub confidence: f64,
    /// Whitelisted parameters.
    pub parameters: BTreeMap<String, String>,
    /// Service concerned.
    #[serde(default)]
    pub service: Option<String>,
    /// What an approval signs ([`RemediationProposed::plan_digest_of`]), `sha256:<hex>`.
    #[serde(default)]
    pub plan_digest: Option<String>,
    /// The attempt that holds the permit.
    #[serde(default)]
    pub attempt_id: Option<Uuid>,
}

vocabulary! {
    /// Who votes at L1.
    Voter {
        /// Preconditions and history.
        Rule = "rule",
        /// A language model; advisory.
        Llm = "llm",
        /// Signatures, RBAC, blast radius.
        Security = "security",
    }
}

vocabulary! {
    /// What a vote or a layer comes to (spec 10 §8).
    Outcome {
        /// Yes.
        Accept = "accept",
        /// No.
        Reject = "reject",
        /// Neither: it is not an acceptance and escalates.
        Abstain = "abstain",
    }
}

/// A voter's verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoteCast {
    /// Proposal voted on.
    pub proposal_id: Uuid,
    /// 1 or 2.
    pub level: u8,
    /// Who votes.
    pub voter: Voter,
    /// The verdict.
    pub verdict: Outcome,
    /// 0–1.
    pub confidence: f64,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// The plan it is about.
    pub plan_digest: String,
    /// An outside voter's signature; built-in voters are covered by the batch's.
    pub signature: Option<String>,
}

/// One vote inside a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    /// Who voted.
    pub voter: Voter,
    /// The verdict.
    pub verdict: Outcome,
    /// 0–1.
    pub confidence: f64,
    /// Why.
    pub reasons: Vec<String>,
}

vocabulary! {
    /// What a check came to.
    CheckStatus {
        /// It ran and is green.
        Passed = "passed",
        /// It ran and is red.
        Failed = "failed",
        /// There is nothing it could measure, with the reason.
        NotApplicable = "not_applicable",
        /// It did not run or did not answer: never green.
        Unknown = "unknown",
    }
}

/// One check: what it came to, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What it came to.
    pub status: CheckStatus,
    /// One sentence.
    pub detail: String,
    /// How long it took, milliseconds.
    #[serde(default)]
    pub duration_ms: u64,
}

impl Check {
    /// A check that ran and is green.
    pub fn passed(detail: &str) -> Self {
        Check { status: CheckStatus::Passed, detail: detail.to_owned(), duration_ms: 0 }
    }

    /// A check with nothing to measure.
    pub fn not_applicable(detail: &str) -> Self {
        Check { status: CheckStatus::NotApplicable, detail: detail.to_owned(), duration_ms: 0 }
    }

    /// Whether it lets a proposal pass.
    pub fn is_green(&self) -> bool {
        matches!(self.status, CheckStatus::Passed | CheckStatus::NotApplicable)
    }
}

/// The checks of L1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct L1Checks {
    /// Unit tests.
    pub unit: Check,
    /// Lint.
    pub lint: Check,
    /// Static analysis.
    pub sast: Check,
    /// Dependency scan.
    pub dep_scan: Check,
    /// Invariants: playbook preconditions, digest history, RBAC, blast radius.
    pub invariants: Check,
}

/// Outcome of the first layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct L1ConsensusResult {
    /// Proposal.
    pub proposal_id: Uuid,
    /// Files touched.
    pub file_refs: Vec<String>,
    /// Artifacts used.
    pub artifact_refs: Vec<String>,
    /// The votes.
    pub votes: Vec<Vote>,
    /// The checks.
    pub checks: L1Checks,
    /// The rule applied, in words.
    pub quorum_rule: String,
    /// What it came to.
    pub outcome: Outcome,
}

/// Outcome of the second layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct L2ConsensusResult {
    /// Proposal.
    pub proposal_id: Uuid,
    /// Integration tests.
    pub integration: Check,
    /// Chaos probes.
    pub chaos: Check,
    /// Performance budget.
    pub perf_budget: Check,
    /// Compliance: a failed check is a veto.
    pub compliance_veto: Check,
    /// The fitness evaluation, or why there is none.
    pub fitness_ref: String,
    /// What it came to.
    pub outcome: Outcome,
}

vocabulary! {
    /// How the third layer ended (spec 10 §4.6).
    L3Outcome {
        /// It serves.
        Promoted = "promoted",
        /// What ran before runs again.
        RolledBack = "rolled_back",
        /// Held in the blue slot.
        Quarantined = "quarantined",
        /// It never ran.
        Rejected = "rejected",
    }
}

/// Outcome of the third layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct L3ExecutionResult {
    /// Proposal, or the release request's id.
    pub proposal_id: Uuid,
    /// What the preflight came to.
    pub sandbox: Check,
    /// The governance decision's entry.
    pub governance_ref: String,
    /// The last `deploy.state`'s entry.
    pub deploy_ref: String,
    /// New minus old: `error_rate`, `success_rate`, `p95_ms` …
    pub shadow_deltas: BTreeMap<String, f64>,
    /// From the decision to roll back until green served alone, milliseconds.
    pub rollback_ms: Option<u64>,
    /// What it came to.
    pub outcome: L3Outcome,
    /// The trust update's entry, where known.
    pub kpi_ref: String,
    /// Why, in a sentence.
    #[serde(default)]
    pub reason: Option<String>,
    /// Service concerned.
    #[serde(default)]
    pub service: Option<String>,
}

vocabulary! {
    /// What policy says (spec 10 §8).
    Decision {
        /// It may go on.
        Approved = "approved",
        /// A rule forbids it.
        Rejected = "rejected",
        /// A person decides.
        NeedsReview = "needs_review",
    }
}

/// One ballot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// Who.
    pub member: String,
    /// approve, reject, abstain or delegate.
    pub ballot: String,
}

/// What policy says to a proposal or a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GovernanceDecision {
    /// The decision.
    pub decision_id: Uuid,
    /// Proposal, or the release request's id.
    pub proposal_id: Uuid,
    /// What it is.
    pub decision: Decision,
    /// Rules that were broken, each in a sentence.
    pub failure_modes: Vec<String>,
    /// Why a person must look, each in a sentence.
    pub reasons: Vec<String>,
    /// Policy version that decided.
    pub policy_version: u64,
    /// `unattended`, `simple`, …
    pub quorum_type: String,
    /// Who said what.
    pub ballots: Vec<Ballot>,
    /// Share of policy checks that passed.
    pub compliance_score: f64,
    /// Whether the EmergencyPolicyCache decided.
    pub cache_used: bool,
    /// Who ratified it afterwards.
    pub ratified_by: Option<String>,
    /// After it the decision is void.
    pub expires_at: Option<Ns>,
    /// The plan it is about.
    #[serde(default)]
    pub plan_digest: Option<String>,
}

vocabulary! {
    /// A person's answer.
    ApprovalVerdict {
        /// Yes.
        Approve = "approve",
        /// No.
        Reject = "reject",
    }
}

/// A person's signature over a plan digest. Any change of the plan voids it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalGiven {
    /// Proposal.
    pub proposal_id: Uuid,
    /// The plan that is approved, `sha256:<hex>`.
    pub plan_digest: String,
    /// Name of the signer.
    pub approver: String,
    /// What it covers: `once`.
    pub scope: String,
    /// After it the approval is void.
    pub expires_at: Ns,
    /// Yes or no.
    pub verdict: ApprovalVerdict,
    /// Why.
    pub reason: String,
    /// Over [`ApprovalGiven::statement`], 128 hex digits.
    pub signature: String,
}

/// What a preflight measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxResult {
    /// Proposal, or the release request's id.
    pub proposal_id: Uuid,
    /// By name: `smoke:health`, `start`, `manifest` …
    pub checks: BTreeMap<String, Check>,
    /// `bwrap` or `none`.
    pub sandbox_kind: String,
    /// What was tested, `sha256:<hex>`.
    pub digest: String,
}
