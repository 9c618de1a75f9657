//! What is seen and asked for: configuration, telemetry, changes, release requests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::vocabulary;
use crate::Ns;

vocabulary! {
    /// What a `config.activated.v1` activates.
    ConfigKind {
        /// Rules, profiles, services, signers.
        Policy = "policy",
        /// One tunable number.
        Threshold = "threshold",
        /// An entry of the trigger registry.
        Trigger = "trigger",
        /// A behaviour baseline.
        Baseline = "baseline",
        /// The failure taxonomy.
        Taxonomy = "taxonomy",
    }
}

/// Something that changes how folds behave, at a definite place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigActivated {
    /// What it is.
    pub kind: ConfigKind,
    /// Which one, `profile`, `service/<name>`, `runner/<host>`, `signers`, `trigger/<id>` …
    pub name: String,
    /// Running version of that name, from 1.
    pub version: u64,
    /// SHA-256 of the body, `sha256:<hex>`.
    pub digest: String,
    /// Who approved it.
    pub approved_by: String,
    /// Entry that approved it, where there is one.
    #[serde(default)]
    pub audit_log_id: Option<String>,
    /// The configuration itself as JSON; folds read it from here and nowhere else.
    #[serde(default)]
    pub body: Option<String>,
    /// The approver's signature over name, version and digest, 128 hex digits.
    #[serde(default)]
    pub signature: Option<String>,
}

/// The identity of a time series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Series {
    /// Service it speaks of.
    pub service: String,
    /// Host it was measured on.
    #[serde(default)]
    pub host: String,
    /// Normalized key (spec 20 §1) or SLI name.
    pub key: String,
    /// Further dimensions: `slot`, `release`, `le` …
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A batch of samples: a dictionary of series and three columns of equal length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TelemetrySample {
    /// Who measured.
    pub source: String,
    /// Adapter that read it.
    #[serde(default)]
    pub exporter: String,
    /// Dictionary.
    pub series: Vec<Series>,
    /// Index into the dictionary, one per sample.
    pub series_idx: Vec<u32>,
    /// Event time of each sample, nanoseconds since the epoch.
    pub ts_ns: Vec<u64>,
    /// Value of each sample, in the unit of its key.
    pub value: Vec<f64>,
    /// Behaviour snapshot of spec 20 §7 as JSON.
    #[serde(default)]
    pub snapshot: Option<String>,
}

vocabulary! {
    /// What sort of change was observed.
    ChangeKind {
        /// A release was deployed.
        Deploy = "deploy",
        /// A feature flag was switched.
        Flag = "flag",
        /// Configuration was changed.
        Config = "config",
        /// Code was committed.
        Commit = "commit",
    }
}

/// Somebody changed something. Only `id`, `service`, `kind` and `version` are required of a
/// client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeObserved {
    /// The client's own id; a repeat within 24 h is answered with the first one's place.
    pub id: String,
    /// Service that changed.
    pub service: String,
    /// What sort of change.
    pub kind: ChangeKind,
    /// The version after it.
    pub version: String,
    /// Link or digest.
    #[serde(default, rename = "ref")]
    pub reference: String,
    /// Who did it.
    #[serde(default)]
    pub author: String,
    /// One line.
    #[serde(default)]
    pub summary: String,
    /// When it took effect; `None` is when it was journaled.
    #[serde(default)]
    pub at: Option<Ns>,
    /// Where it took effect; `None` is everywhere.
    #[cfg(feature = "next-schemas")]
    #[serde(default)]
    pub region: Option<String>,
}

/// An operator wants a release rolled out, or the rollout of one taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequested {
    /// Service to change.
    pub service: String,
    /// `local://releases/<service>/<version>`.
    pub artifact_ref: String,
    /// Digest of the artifact's signed manifest, `sha256:<hex>`.
    pub digest: String,
    /// Name of the operator.
    pub requested_by: String,
    /// `blue_green`, or [`ReleaseRequested::ABORT`].
    pub strategy: String,
    /// Human version, `1.1.0`.
    #[serde(default)]
    pub version: Option<String>,
    /// The operator's signature ([`ReleaseRequested::statement`]), 128 hex digits.
    #[serde(default)]
    pub signature: Option<String>,
    /// Tells a second deliberate request from a repeat of the first. Since the second form.
    #[serde(default)]
    pub nonce: Option<String>,
    /// Why, in the operator's words. Since the second form.
    #[serde(default)]
    pub reason: Option<String>,
}

impl ReleaseRequested {
    /// The strategy that takes the running rollout of this digest back. Persisted: frozen.
    pub const ABORT: &str = "abort";

    /// Whether it takes a rollout back.
    pub fn is_abort(&self) -> bool {
        self.strategy == Self::ABORT
    }
}
