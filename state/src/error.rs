//! What the log and the store can answer instead of data. One enum for the crate's traits; the
//! head record has its own, because it outlives the log.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::Skip;
use thiserror::Error;

/// Why the log or the store could not do what it was asked.
///
/// It can be cloned, because a fault that a fold met while reading travels with its changes and
/// is given back by the append that refuses them.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// Another process owns the data directory.
    #[error("{dir} is in use by {name} (pid {pid})", dir = .dir.display())]
    Busy {
        /// Process id of the owner; 0 when the lock file does not tell.
        pid: u32,
        /// Name of the owner's program.
        name: String,
        /// The data directory.
        dir: PathBuf,
    },
    /// What is stored is not what was written. The partition stops here.
    #[error("{damage}")]
    Corrupt {
        /// What, where, why, and what repairs it. Boxed: it is rare and large.
        damage: Box<Damage>,
    },
    /// Durability is no longer known (a write or an fsync did not succeed). The process must
    /// end: after such an answer the operating system may have dropped the pages, so trying
    /// again would report success for bytes that are lost.
    #[error("cannot {what}: {why}")]
    Fatal {
        /// What was being made durable.
        what: String,
        /// What the system said.
        why: String,
    },
    /// The batch names the head and does not link to it: its author is faulty.
    #[error("batch at {first_seq} names the head and does not link to it ({skip:?})")]
    Unlinked {
        /// First sequence of the batch.
        first_seq: u64,
        /// The part of the link rule that it breaks.
        skip: Skip,
    },
    /// The record is larger than a stream takes.
    #[error("a record of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// No answer came: the append may or may not be in the chain. Reading the chain to its end
    /// tells, and so does appending the same bytes again.
    #[error("no answer to {what}; it may or may not have been persisted")]
    Unanswered {
        /// What was being done.
        what: &'static str,
    },
    /// Another process has claimed office with a certified election, linked or not. Whoever
    /// reads that stops sending at once (protocol.md §2, "Yield").
    #[error("another process claims office with epoch {epoch}")]
    Yielded {
        /// The epoch that it claims.
        epoch: u64,
    },
    /// The cluster cannot be used: it does not answer, or what is there is not what must be.
    #[error("cannot {what}: {why}")]
    Cluster {
        /// What was being done.
        what: String,
        /// Why not, and what to do.
        why: String,
    },
    /// The chain on the cluster is not the one that this process has read. Nothing is decided
    /// on it any more; a person must find out what was lost.
    #[error(
        "the journal on the cluster is not the one that was read here: {why}; this node's copy \
         ends with batch {hash} after {next_seq} entries, export it with `healwright export` \
         before anything else"
    )]
    Diverged {
        /// Entries in the copy.
        next_seq: u64,
        /// Hash of its last batch.
        hash: schemas::Hash,
        /// How it was noticed.
        why: String,
    },
    /// The data directory belongs to another deployment or partition, or to another format.
    #[error("{dir} holds {found}, not {expected}", dir = .dir.display())]
    Foreign {
        /// The data directory.
        dir: PathBuf,
        /// What it says it is.
        found: String,
        /// What it was opened as.
        expected: String,
    },
    /// There is no journal in this directory.
    #[error("{dir} holds no journal; `healwright up --data {dir}` makes one", dir = .dir.display())]
    Absent {
        /// The directory.
        dir: PathBuf,
    },
    /// An operating-system call did not succeed.
    #[error("cannot {what} {path}", path = .path.display())]
    Io {
        /// What was being done, a verb.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
}

/// Where stored bytes are not the ones that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The kind of thing: `journal record`, `state`, `telemetry record`, …
    pub what: &'static str,
    /// Sequence or stream position, where one is concerned.
    pub position: Option<u64>,
    /// File, or column family and key, that holds it.
    pub file: String,
    /// What is wrong with it.
    pub why: String,
    /// A sentence: what is lost, and which command repairs it.
    pub repair: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(position) = self.position {
            write!(f, " {position}")?;
        }
        write!(f, " in {} is corrupt ({}); {}", self.file, self.why, self.repair)
    }
}

impl LogError {
    /// An error of the operating system about `path`.
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        LogError::Io { what, path: path.to_owned(), source: Arc::new(source) }
    }

    /// The damage, when that is what stops the partition.
    pub fn damage(&self) -> Option<&Damage> {
        if let LogError::Corrupt { damage } = self { Some(damage) } else { None }
    }
}

impl From<Damage> for LogError {
    fn from(damage: Damage) -> Self {
        LogError::Corrupt { damage: Box::new(damage) }
    }
}

/// What repairs anything that is only `fold(chain)`.
pub(crate) const REPAIR_STATE: &str =
    "nothing is lost, `healwright repair state` folds it again from the journal";
/// What repairs what only the journal holds.
pub(crate) const REPAIR_JOURNAL: &str = "`healwright repair journal` keeps what can be read and \
     says what is lost, and with `--from BUNDLE` an export fills the gap";
/// What repairs a directory whose files cannot be opened.
pub(crate) const REPAIR_DATABASE: &str = "nothing was changed, `healwright repair journal` keeps \
     what can be read and says what is lost, and with `--from BUNDLE` an export fills the gap";
/// What repairs a directory whose table of contents is lost.
pub(crate) const REPAIR_CONTENTS: &str = "nothing is lost while the other files are there, \
     `healwright repair database` writes it anew";
/// What repairs telemetry: what was sealed stays provable, what it derived is recorded.
pub(crate) const REPAIR_TELEMETRY: &str = "no journaled entry is lost, `healwright repair \
     telemetry` drops the damaged range and records the gap";

/// A batch whose stored bytes are not what was signed.
pub(crate) fn damaged_batch(
    first_seq: u64,
    damage: &schemas::batch::Damage,
    file: String,
) -> LogError {
    LogError::from(Damage {
        what: "journal entry",
        position: Some(first_seq.saturating_add(u64::from(damage.entry.unwrap_or(0)))),
        file,
        why: damage.error.to_string(),
        repair: REPAIR_JOURNAL.to_owned(),
    })
}
