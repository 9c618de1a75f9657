//! What a runner is asked and what it answers. The JSON forms of spec 10 §5 are verbatim.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::vocabulary;
use crate::{Ns, Uuid};

/// Tests before anything is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// Whether a sandbox run is demanded.
    pub sandbox: bool,
    /// `smoke:health`, `e2e:login` …
    pub tests: Vec<String>,
}

/// What undoes the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// `local://…`.
    pub artifact: String,
}

/// How the artifact is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// `cosign` or `ed25519-manifest`.
    pub algo: String,
    /// `sha256:<hex>`.
    pub digest: String,
}

/// What ties a request to the decisions behind it (spec 10 §5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The plan that was decided on.
    pub plan_digest: String,
    /// Entries that allow it: governance decision, approvals.
    pub approvals: Vec<String>,
    /// After it the request is void.
    pub expires_at: Ns,
    /// The mode epoch under which it was said.
    pub mode_epoch: u64,
    /// The policy version that decided.
    pub policy_version: u64,
}

/// A runner may act, once the proof stands. Field names are frozen verbatim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerRequest {
    /// The request; a runner is idempotent by it.
    pub id: Uuid,
    /// What is applied, empty where nothing is.
    pub artifact_ref: String,
    /// `<method>` or `<method>:<target>` in order.
    pub ops: Vec<String>,
    /// Tests before anything is applied.
    pub preflight: Preflight,
    /// What undoes it.
    pub rollback: Rollback,
    /// How the artifact is signed.
    pub sign: Sign,
    /// What it rests on; without it every mutating op is refused.
    #[serde(default)]
    pub binding: Option<Binding>,
}

vocabulary! {
    /// Closed: exactly these three (spec 10 §5).
    RunnerStatus {
        /// Done.
        Success = "success",
        /// Not done; what was begun is undone or named.
        Failed = "failed",
        /// Done and taken back.
        RolledBack = "rolled_back",
    }
}

/// A runner's signed answer. Field names are frozen verbatim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunnerResult {
    /// The request it answers.
    pub id: Uuid,
    /// What came of it.
    pub status: RunnerStatus,
    /// `p95_ms`, `error_rate`, `pid`, `port`, `duration_ms` …
    pub metrics: BTreeMap<String, f64>,
    /// Where the log extract lies.
    pub logs_ref: String,
    /// Snapshot taken before.
    pub snapshot: String,
    /// What was done, in a sentence.
    pub explanation: String,
    /// Host event kind of spec 10 §6.
    #[serde(default)]
    pub kind: Option<String>,
    /// Host that answers.
    #[serde(default)]
    pub host: Option<String>,
    /// Checks of a sandbox run, by name.
    #[serde(default)]
    pub checks: Option<BTreeMap<String, super::Check>>,
    /// `false` where it was never learned whether the action took place (protocol.md §7).
    #[serde(default)]
    pub known: Option<bool>,
    /// The runner's signature ([`RunnerResult::statement`]), 128 hex digits.
    #[serde(default)]
    pub signature: Option<String>,
}

/// `<method>:<target>`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op<'a> {
    /// One of the seven Runner methods.
    pub method: &'a str,
    /// What it acts on; empty where the method needs none.
    pub target: &'a str,
}

impl<'a> Op<'a> {
    /// Splits at the first colon.
    pub fn parse(text: &'a str) -> Self {
        let (method, target) = text.split_once(':').unwrap_or((text, ""));
        Op { method, target }
    }

    /// Whether the method changes anything on the host.
    pub fn is_mutating(&self) -> bool {
        matches!(self.method, "apply_patch" | "restart" | "rollback")
    }
}

vocabulary! {
    /// Steps of the blue/green state machine (spec 60 §12, §17).
    DeployPhase {
        /// Resolve to exact artifacts.
        Plan = "plan",
        /// Dry run in the sandbox.
        Preflight = "preflight",
        /// Start beside what serves.
        Apply = "apply",
        /// Mirror safe requests and compare.
        Shadow = "shadow",
        /// Serve a share.
        Canary = "canary",
        /// Serve alone; checks after promotion run.
        Verify = "verify",
        /// Committed.
        Commit = "commit",
        /// Going back to what ran before.
        Rollback = "rollback",
        /// Back; nothing of it serves.
        RolledBack = "rolled_back",
        /// It never ran.
        Rejected = "rejected",
    }
}

/// A deployment moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeployState {
    /// The deployment.
    pub deployment_id: Uuid,
    /// Service concerned.
    pub service: String,
    /// Where it is now.
    pub state: DeployPhase,
    /// Slot of the new version, `blue` or `green`.
    pub slot: String,
    /// Share of requests it serves, percent.
    pub ring_pct: u32,
    /// New minus old, and counts: `shadow_n`, `shadow_differ`, `canary_n`, `canary_errors` …
    pub deltas: BTreeMap<String, f64>,
    /// Evidence against the new version so far, as an e-value.
    pub slo_burn: f64,
    /// Why it moved, in a sentence.
    pub reason: String,
    /// Digest of the version it is about.
    #[serde(default)]
    pub digest: Option<String>,
    /// Human version.
    #[serde(default)]
    pub version: Option<String>,
}
