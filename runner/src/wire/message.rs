//! The messages, each with what it means and what it promises.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ledger::EpochKey;
use schemas::event::Mode;
use schemas::signature::PublicKey;
use schemas::{Hash, Uuid};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that travel in JSON as padded standard base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Vec<u8>);

impl std::fmt::Debug for Base64 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Base64).map_err(serde::de::Error::custom)
    }
}

/// The last tree head that a runner has kept: what a consistency proof for it starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Number of entries under it; 0 when it has seen none.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

/// A mode with its running number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeEpoch {
    /// Running number of modes; it only grows.
    pub epoch: u64,
    /// The mode of that number.
    pub mode: Mode,
}

/// One entry of the chain with the way to the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The stored bytes, `schemas::Entry::to_bytes`.
    pub entry: Base64,
    /// Its sequence.
    pub index: u64,
    /// The hashes from its leaf to the root of the evidence's head.
    pub path: Vec<Hash>,
}

/// A signed tree head, that it extends what the runner has seen, and entries under it. It can
/// be checked with nothing but the deployment's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The head as the bytes of its signed note.
    pub checkpoint: Base64,
    /// The key that signed the head, with its certificates: `ledger::EpochKey::encode`.
    pub epoch_key: Base64,
    /// Size of the head from which `consistency` leads here.
    pub from: u64,
    /// The hashes that show it.
    pub consistency: Vec<Hash>,
    /// What is proven. In a dispatch the request comes first, then what its binding names.
    pub entries: Vec<Proven>,
}

impl Evidence {
    /// Evidence of no entry yet, about a head that extends the one of size `from`.
    pub fn new(checkpoint: Vec<u8>, key: &EpochKey, from: u64, consistency: Vec<Hash>) -> Self {
        let epoch_key = Base64(key.encode());
        Evidence {
            checkpoint: Base64(checkpoint),
            epoch_key,
            from,
            consistency,
            entries: Vec::new(),
        }
    }
}

/// What a runner says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromRunner {
    /// The first message of a conversation: who calls. The control plane compares the key with
    /// the registered one of that host, and answers `Welcome` or closes.
    Hello {
        /// Name of the host.
        host: String,
        /// The runner's public key: results, cosignatures.
        key: PublicKey,
        /// The last head that it keeps; evidence starts from here.
        seen: Seen,
        /// The mode epoch that it keeps; 0 when it was never told one.
        mode_epoch: u64,
        /// Sandbox kinds of the host; empty where none works.
        sandbox: Vec<String>,
        /// Version of the program.
        version: String,
    },
    /// A request is verified and stands in the receipts; may it start now? A lease of which
    /// less than the way here is left is of no use, so the runner counts from sending this.
    Lease {
        /// The request.
        request_id: Uuid,
        /// Ties the grant to this asking; a grant for an older one is ignored.
        nonce: u64,
    },
    /// The signed answer to a request. It is kept and repeated until `ResultJournaled`.
    /// A refusal has status `failed` and kind `REJECTED`, and its explanation names the rule.
    Result {
        /// The request.
        request_id: Uuid,
        /// The encoded `runner.result`, signed under `RESULT_DOMAIN`. Bytes and not JSON:
        /// decimal text does not give every number back, and the signature covers numbers.
        payload: Base64,
    },
    /// One `telemetry.sample` record. It is kept until `TelemetryStored`, and what was not
    /// confirmed is sent again in the next conversation, so a record may come twice; `n` tells.
    Telemetry {
        /// Running number of records in the life of the runner, from 1.
        n: u64,
        /// The record, single-object encoded.
        record: Base64,
        /// Samples that were dropped so far because nobody took them.
        dropped: u64,
    },
    /// From here on no request starts under an older mode epoch: it is on disk, and no start is
    /// between its last check and its first instruction.
    EpochConfirmed {
        /// The epoch.
        mode_epoch: u64,
    },
    /// A head was found to extend the one before, kept on disk, and cosigned.
    HeadSeen {
        /// Number of entries under it.
        size: u64,
        /// Root over them.
        root: Hash,
        /// Name of the witness in the signature line.
        witness: String,
        /// The cosignature line (C2SP tlog-cosignature).
        cosignature: String,
    },
    /// A head or an entry is not what it claims: a rewritten history, a foreign key. Nothing
    /// was done. This is an alarm and no answer to a request.
    EvidenceRefused {
        /// The request that the bytes claim to be, where they claim one.
        request_id: Option<Uuid>,
        /// Which rule, in a sentence.
        why: String,
        /// The last head that the runner keeps.
        seen: Seen,
    },
    /// Evidence starts from another head than the runner keeps, and nothing was done. Send it
    /// again from here.
    EvidenceWanted {
        /// The request, where it is about one.
        request_id: Option<Uuid>,
        /// The last head that the runner keeps.
        seen: Seen,
    },
    /// A service is under supervision, or is not; or the signers are known.
    Registered {
        /// Its name; `signers` for those.
        service: String,
        /// Why it is not, in a sentence.
        error: Option<String>,
    },
}

/// The answer to `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// Deployment id. A runner that has pinned another one closes.
    pub deployment: String,
    /// The partition whose owner speaks.
    pub partition: u32,
    /// The current mode, where there is one yet.
    pub mode: Option<ModeEpoch>,
}

/// What the control plane says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToRunner {
    /// The runner is known and may go on.
    Welcome(Welcome),
    /// Supervise a service, or replace how it is supervised; or take artifacts of these signers
    /// and no others. The one proven entry is the `config.activated` named `service/<name>` or
    /// `signers`; a runner takes no command and no key from anywhere else. Answered by
    /// `Registered`. It may be repeated; an older entry than the last is ignored. Signers are
    /// not kept: they are told anew in each conversation, before the services.
    Service {
        /// The entry and its proof.
        evidence: Box<Evidence>,
    },
    /// Carry out a request. The first proven entry is the `runner.request`, the others are
    /// those that its binding names. Answered by `Lease` and `Result`, or by `Result` alone.
    /// It may be repeated at will; a request starts at most once.
    Dispatch {
        /// The request, its approvals, their proofs.
        evidence: Box<Evidence>,
        /// The current mode; the runner keeps it before it looks at the request.
        mode: ModeEpoch,
    },
    /// The start lease holds for `remaining_ms` from when it was asked for.
    LeaseGrant {
        /// The request.
        request_id: Uuid,
        /// The asking that it answers.
        nonce: u64,
        /// What is left of the owner's lease.
        remaining_ms: u64,
        /// The current mode; the runner keeps it before it starts anything.
        mode: ModeEpoch,
    },
    /// The request must not start. That is final for it.
    LeaseDenied {
        /// The request.
        request_id: Uuid,
        /// The asking that it answers.
        nonce: u64,
        /// Why, in a sentence.
        reason: String,
    },
    /// The mode changed. Answered by `EpochConfirmed`.
    ModeEpoch(ModeEpoch),
    /// A new tree head without entries. Answered by `HeadSeen`.
    Head {
        /// The head.
        evidence: Box<Evidence>,
    },
    /// The result stands in the chain, and need not be sent again.
    ResultJournaled {
        /// The request.
        request_id: Uuid,
        /// Where, `immutable:log:<partition>/<seq>`.
        place: String,
    },
    /// Telemetry records up to and with `n` are durable.
    TelemetryStored {
        /// Number of the last one.
        n: u64,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn messages_are_single_tagged_objects() {
        let lease = FromRunner::Lease { request_id: Uuid::default(), nonce: 7 };
        let text =
            r#"{"say":"lease","request_id":"00000000-0000-0000-0000-000000000000","nonce":7}"#;
        assert_eq!(serde_json::to_string(&lease).unwrap(), text);
        let mode = ModeEpoch { epoch: 3, mode: Mode::Frozen };
        let text = r#"{"say":"mode_epoch","epoch":3,"mode":"frozen"}"#;
        assert_eq!(serde_json::to_string(&ToRunner::ModeEpoch(mode)).unwrap(), text);
        assert_eq!(serde_json::from_str::<ToRunner>(text).unwrap(), ToRunner::ModeEpoch(mode));
        let bytes = Base64(vec![0, 255]);
        assert_eq!(serde_json::to_string(&bytes).unwrap(), r#""AP8=""#);
    }

    #[test]
    fn a_message_with_a_field_that_nobody_knows_is_refused() {
        let text = r#"{"say":"telemetry_stored","n":1,"force":true}"#;
        assert!(serde_json::from_str::<ToRunner>(text).is_err());
    }
}
