//! The engine: the owner's cycle of the protocol, around pure folds.
//!
//! ```text
//! take → fold to rest → append (batch and state in one write) → only now: answers and effects
//! ```
//!
//! [`owner::Owner`] is the cycle as plain calls: it holds no thread, no clock and no socket, so
//! that the simulation drives the very code that runs in production. [`Engine`] is the thread
//! around it. Nothing here knows what an event means; that is the folds' affair.
//!
//! Durable steps, in order, and what a crash after each leaves:
//! 1. inputs taken, folded on the overlay: nothing; they are taken again.
//! 2. `Log::append` of batch and state: not persisted, as before; persisted but unanswered, the
//!    next start reads the chain to its end and finds it there.
//! 3. tree head signed after read-back, head record fsynced: a head that is behind is signed
//!    again; a record ahead of the log means a restored backup, and the start is refused.
//! 4. answers and effects: an intent without an effect; dispatch repeats it by request id.

pub mod ahead;
pub mod bookkeeping;
pub mod fold;
pub mod heads;
pub mod input;
mod member;
pub mod owner;
pub mod replay;
pub mod stages;
mod thread;

pub use input::Input;
pub use member::{Elect, Member};
pub use thread::{AHEAD, Answer, Bell, Engine, Handle, LEASE, Moved, Seat, Sent, wall_now};

use schemas::Hash;
use thiserror::Error;

/// What stops the owner. Each names the place.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The log could not be read or written.
    #[error(transparent)]
    Log(#[from] state::LogError),
    /// The head record and the log disagree.
    #[error(transparent)]
    Head(#[from] state::HeadError),
    /// A fold panicked.
    #[error(
        "processor {processor} panicked at {place} ({message}); nothing of that input was kept; \
         `healwright repair skip {stream}/{position} --partition {partition}` passes over it"
    )]
    Panicked {
        /// Processor that panicked.
        processor: String,
        /// Entry it was folding.
        place: String,
        /// Its partition.
        partition: u32,
        /// Stream of the input being folded.
        stream: String,
        /// Position of that input.
        position: u64,
        /// The panic's message.
        message: String,
    },
    /// The partition has stopped, and nothing is journaled until the node is started again.
    #[error("the partition has stopped: {why}")]
    Stopped {
        /// What stopped it.
        why: String,
    },
    /// Another process has taken the chain over.
    #[error("another owner appended {place}; this process has stepped down")]
    Superseded {
        /// First entry of the other's batch.
        place: String,
    },
    /// A batch that was read back is not the one that was written.
    #[error("batch at {place} reads back differently from what was appended")]
    ReadBack {
        /// First entry of the batch.
        place: String,
    },
    /// What the folds say differs from what the chain holds.
    #[error("folding the gap, {place} differs from what its folds say now: {why}")]
    Diverged {
        /// The entry.
        place: String,
        /// Both payloads.
        why: String,
    },
    /// What was folded here is not what the owner folded.
    #[error(
        "at entry {position} the state folded here has the digest {ours}, and node {node} signed \
         {theirs} in its checkpoint; nothing is decided here any more: set DATA/journal aside for \
         a look and start again, which begins with that checkpoint"
    )]
    StateDiffers {
        /// Sequence of the next entry to fold.
        position: u64,
        /// Digest of the state here.
        ours: Hash,
        /// Digest that the checkpoint holds.
        theirs: Hash,
        /// The node that signed it.
        node: String,
    },
    /// A payload could not be encoded.
    #[error(transparent)]
    Schema(#[from] schemas::Error),
    /// Tree, proof or head is not what it should be.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// An operating-system call failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
