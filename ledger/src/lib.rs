//! What can be proven: Merkle tree, signed heads, proofs, witnesses, and the offline check of an
//! export from its files and a deployment id alone.
//!
//! Small enough that an auditor reads it whole. Suggested order: `tree`, `proof`, `note`,
//! `checkpoint`, `epoch`, `entry`, `witness`, `head`, `chain`, `manifest`, `bundle`.
//!
//! Invariants:
//! - No I/O, no clock, no randomness, no RocksDB: bytes in, verdict out.
//! - A verifier takes the object and derives the leaf itself; no proof says what it is about.
//! - Everything is parsed strictly: bytes that decode are the only bytes of what they say.
//! - Nothing here updates or deletes: a tree grows, and old heads stay provable.

pub mod bundle;
pub mod chain;
pub mod checkpoint;
pub mod entry;
pub mod epoch;
pub mod head;
pub mod manifest;
pub mod note;
pub mod proof;
pub mod tree;
pub mod witness;

pub use bundle::{Files, KnownHead, Policy, Report, Verdict, WitnessKey};
pub use chain::{Chain, ChainVerifier, Finding, Place};
pub use checkpoint::{Checkpoint, SignedHead};
pub use entry::EntryProof;
pub use epoch::EpochKey;
pub use head::HeadRecord;
pub use note::{Attestation, Note, NoteKey};
pub use tree::{TileId, Tree};
pub use witness::Witness;

use schemas::Hash;
use thiserror::Error;

/// What keeps something from being proven.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Error {
    /// The text is no canonical signed note.
    #[error("signed note is malformed: {0}")]
    Note(&'static str),
    /// The note is signed, but not about a tree head.
    #[error("checkpoint is malformed: {0}")]
    Checkpoint(&'static str),
    /// A line names this key, and its signature is not by this key.
    #[error("signature of {0} does not verify")]
    Signature(String),
    /// The key that has to sign did not.
    #[error("signature of {0} is missing")]
    Unsigned(String),
    /// The epoch key does not chain to the root that the deployment id names.
    #[error("certificate of epoch {0} does not chain to the deployment's root")]
    Certificate(u64),
    /// A field of the proof is about something else.
    #[error("proof is about another {0}")]
    Subject(&'static str),
    /// The hashes do not lead to the root.
    #[error("{0} proof does not lead to the root")]
    Proof(&'static str),
    /// A tile that the tree needs is not there or not 8192 bytes.
    #[error("tile {0} is missing or cut short")]
    Tile(String),
    /// The place is outside the tree.
    #[error("place {place} is outside the tree of size {size}")]
    Range {
        /// The place asked for.
        place: u64,
        /// The size of the tree.
        size: u64,
    },
    /// Two heads of one size: a portable proof of a fork.
    #[error("two heads of size {size}: {known} is known, {offered} is offered")]
    Fork {
        /// Number of entries under both.
        size: u64,
        /// The root that is known.
        known: Hash,
        /// The root that is offered.
        offered: Hash,
    },
    /// The head is older than the one that is known.
    #[error("head of size {offered} is behind the known head of size {known}")]
    Behind {
        /// The size that is known.
        known: u64,
        /// The size that is offered.
        offered: u64,
    },
    /// The head is signed by an epoch that has ended.
    #[error("head is signed by epoch {offered}, and epoch {known} is known")]
    EpochEnded {
        /// The epoch that is known.
        known: u64,
        /// The epoch that signed.
        offered: u64,
    },
    /// The bytes are not what they should be.
    #[error(transparent)]
    Bytes(#[from] schemas::Error),
}
