//! The seven methods that a host offers (spec 60 §1), the same on every operating system, and
//! the one place where the system is chosen.
//!
//! A host does what it is told and says what it saw. It decides nothing, verifies no decision
//! and remembers no request: that is the agent's work, before and after it calls here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use schemas::Ns;
use schemas::event::{Check, Op, RunnerRequest, RunnerStatus, Series, TelemetrySample};

use crate::error::Error;
use crate::store::Listed;

/// The host of this machine.
#[cfg(target_os = "linux")]
pub type LocalHost = crate::linux::LinuxHost;
/// The host of this machine.
#[cfg(target_os = "windows")]
pub type LocalHost = crate::windows::WindowsHost;
/// The host of this machine.
#[cfg(target_os = "macos")]
pub type LocalHost = crate::macos::MacHost;

/// What can be done to a host.
///
/// Contract: calls block, so the agent makes them on a thread of its own. Two calls about one
/// service wait for each other; calls about different services do not. A mutating call leaves
/// the old state or the new when the process is killed within it, and may then be made again
/// under a new request. A method returns before `deadline` and a second, or has failed.
/// Where a part of the machine is missing, the answer is a failure that begins with
/// `capability gap` and never a silent success.
pub trait Host: Send + Sync {
    /// Code, configuration or package apply, atomic: `apply_patch:<service>`,
    /// `…:route/<service>/shadow`, `…:route/<service>/canary/<pct>`, `…:commit/<service>`,
    /// `…:env/<service>`.
    fn apply_patch(&self, call: &Call<'_>) -> Outcome;

    /// Safe restart and health probe: `restart:<service>`.
    fn restart(&self, call: &Call<'_>) -> Outcome;

    /// The newest value of everything that is measured here.
    ///
    /// # Errors
    /// [`Error::CapabilityGap`].
    fn metrics(&self) -> Result<TelemetrySample, Error>;

    /// Back to the release that the request's rollback names: `rollback:<service>`.
    fn rollback(&self, call: &Call<'_>) -> Outcome;

    /// Restricted execution that measures: `sandbox:<service>`, `sandbox:env/<service>`.
    fn sandbox(&self, call: &Call<'_>) -> Outcome;

    /// What is installed and running: versions and digests.
    ///
    /// # Errors
    /// [`Error::CapabilityGap`].
    fn inventory(&self) -> Result<Vec<Installed>, Error>;

    /// What lies in the local store, and whether it can be used.
    ///
    /// # Errors
    /// [`Error::CapabilityGap`].
    fn cache_info(&self) -> Result<Vec<Listed>, Error>;
}

/// One operation of a request.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The request, already verified.
    pub request: &'a RunnerRequest,
    /// The operation, one of the request's.
    pub op: &'a Op<'a>,
    /// When it must have come to an end.
    pub deadline: Instant,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Whether it was done.
    pub status: RunnerStatus,
    /// `pid`, `port`, `slot` (0 green, 1 blue), `duration_ms`, `probe`, `digest_equal` …
    pub metrics: BTreeMap<String, f64>,
    /// Checks of a sandbox run, by name.
    pub checks: BTreeMap<String, Check>,
    /// The snapshot that was taken before, `local://…`, or empty.
    pub snapshot: String,
    /// Where the service's output lies, or empty.
    pub logs_ref: String,
    /// What was done or why not, in a sentence.
    pub explanation: String,
}

impl Outcome {
    /// Done.
    pub fn success(explanation: impl Into<String>) -> Self {
        Outcome {
            status: RunnerStatus::Success,
            metrics: BTreeMap::new(),
            checks: BTreeMap::new(),
            snapshot: String::new(),
            logs_ref: String::new(),
            explanation: explanation.into(),
        }
    }

    /// Not done.
    pub fn failed(explanation: impl Into<String>) -> Self {
        Outcome { status: RunnerStatus::Failed, ..Outcome::success(explanation) }
    }

    /// The same with one more number.
    #[must_use]
    pub fn with(mut self, key: &str, value: f64) -> Self {
        self.metrics.insert(key.to_owned(), value);
        self
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        Outcome::failed(sentence(&error.to_string()))
    }
}

/// What is installed for one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Installed {
    /// The service.
    pub service: String,
    /// `green` or `blue`.
    pub slot: &'static str,
    /// Digest of the release in the slot, or empty.
    pub digest: String,
    /// Digest of the environment that it runs in, or empty.
    pub environment: String,
    /// The process, where one runs.
    pub pid: Option<u32>,
    /// Where it listens, where it does.
    pub port: Option<u16>,
    /// Whether users are served from here.
    pub live: bool,
}

/// One measured value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What it speaks of.
    pub series: Series,
    /// When it was measured.
    pub ts: Ns,
    /// The value.
    pub value: f64,
}

/// Takes what was measured. It is called from several threads and must not wait.
pub type Sink = Arc<dyn Fn(Vec<Sample>) + Send + Sync>;

/// The samples as one record with a dictionary.
pub fn to_record(source: &str, samples: &[Sample]) -> TelemetrySample {
    let mut index = BTreeMap::new();
    let mut record = TelemetrySample {
        source: source.to_owned(),
        exporter: String::new(),
        series: Vec::new(),
        series_idx: Vec::new(),
        ts_ns: Vec::new(),
        value: Vec::new(),
        snapshot: None,
    };
    for sample in samples {
        let at = *index.entry(&sample.series).or_insert_with(|| {
            record.series.push(sample.series.clone());
            record.series.len() as u32 - 1
        });
        record.series_idx.push(at);
        record.ts_ns.push(sample.ts.0);
        record.value.push(sample.value);
    }
    record
}

/// A capital letter in front and a full stop behind.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let stop = if text.ends_with('.') { "" } else { "." };
    format!("{}{}{stop}", first.to_uppercase(), chars.as_str())
}
