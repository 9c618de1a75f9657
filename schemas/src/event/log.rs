//! Records of the log itself: they have no typed topic (spec 10 §3).

use serde::{Deserialize, Serialize};

use crate::signature::{Certificate, PublicKey};
use crate::{Ns, Stream};

/// A process took office: the first entry of the batch that opens an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerElected {
    /// The epoch that begins.
    pub epoch: u64,
    /// Name of the node.
    pub node: String,
    /// Where the node answers, for redirects.
    pub endpoint: String,
    /// Public key of the epoch.
    pub epoch_key: PublicKey,
    /// Root → node → epoch key.
    pub certificate: Certificate,
}

/// A range of `telemetry` took its place in the chain (protocol.md §4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelemetrySealed {
    /// First position of the range.
    pub from: u64,
    /// Position after its last record.
    pub to: u64,
    /// SHA-256 over the length-prefixed records, `sha256:<hex>`.
    pub digest: String,
    /// Number of samples in the range.
    pub n_samples: u64,
}

/// Time passed. Spec 10 §4.6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// Partition whose time it is.
    pub partition: u32,
    /// The new time; never before the last one.
    pub now: Ns,
}

/// An input that could not be folded stands in the chain with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRefused {
    /// `inbox`, `control` or `telemetry`.
    pub stream: String,
    /// Its position there.
    pub position: u64,
    /// Which rule it broke.
    pub reason: String,
    /// SHA-256 of the input, which is kept in quarantine under it.
    pub digest: String,
}

/// A witness confirmed that a tree head extends the last one it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadCosigned {
    /// Number of entries under the head.
    pub size: u64,
    /// Root hash, hex.
    pub root: String,
    /// Name of the witness.
    pub witness: String,
    /// Its cosignature line (C2SP tlog-cosignature).
    pub cosignature: String,
    /// The owner's signature line under the same head, so that the note can be put together from
    /// the journal alone; empty in records of the first form.
    #[serde(default)]
    pub signature: String,
}

/// The name under which a refusal speaks of a stream.
pub fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Inbox => "inbox",
        Stream::Control => "control",
        Stream::Telemetry => "telemetry",
    }
}
