//! What can stop the host from doing what it was asked: one error type for the store, the
//! supervisor, the sandbox, environments and releases.
//!
//! Each message is a sentence's worth of words for a person, for it becomes the explanation of a
//! runner's result and so stands in the journal.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the host did not do it.
#[derive(Debug, Error)]
pub enum Error {
    /// The file system said no.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// What it concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of ours does not read as what it should be.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which rule it breaks.
        why: String,
    },
    /// A reference, manifest, specification or URL that the rules do not allow.
    #[error("{what} is refused: {why}")]
    Refused {
        /// The thing.
        what: String,
        /// Which rule it breaks.
        why: String,
    },
    /// No registered key signed it.
    #[error("artifact {digest} is unsigned: {why}; it is blocked")]
    Unsigned {
        /// Digest of the manifest.
        digest: String,
        /// What is missing.
        why: String,
    },
    /// The bytes are not those that were signed.
    #[error("{what} has the wrong digest: expected {expected}, found {found}")]
    WrongDigest {
        /// The file or artifact.
        what: String,
        /// What the manifest says.
        expected: String,
        /// What the bytes say.
        found: String,
    },
    /// It is not in the local store, and nothing is ever downloaded.
    #[error("{what} is not in the local store; promote it from the local mirror first")]
    Missing {
        /// The reference, manifest or blob.
        what: String,
    },
    /// It was marked and waits for a person.
    #[error("artifact {digest} is {state}: {why}; a person must clear it")]
    Marked {
        /// Digest of the manifest.
        digest: String,
        /// `bad` or `quarantined`.
        state: &'static str,
        /// Why it was marked.
        why: String,
    },
    /// A part of this machine that the work needs is missing (spec 60 §6).
    #[error("capability gap: {0}")]
    CapabilityGap(String),
    /// The service is not one of ours.
    #[error("no service {0:?} is declared on this host")]
    UnknownService(String),
    /// The process did not become well.
    #[error("{service} did not become well: {why}")]
    NotWell {
        /// The service.
        service: String,
        /// What was seen.
        why: String,
    },
    /// A process is still there after SIGKILL.
    #[error("process {pid} of {service} is still there after SIGKILL")]
    Unkillable {
        /// The service.
        service: String,
        /// Its process.
        pid: u32,
    },
    /// The proxy did not take the route.
    #[error("the proxy did not take the route of {service}: {why}")]
    Route {
        /// The service.
        service: String,
        /// What it said.
        why: String,
    },
    /// A test stopped the work at a step, as a crash would.
    #[error("stopped at step {0}")]
    Stopped(&'static str),
}

impl Error {
    /// For `map_err`: names the step and the path of an I/O error.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io { what, path: path.to_owned(), source }
    }

    pub(crate) fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Refused { what: what.into(), why: why.into() }
    }

    // Callers hand over an error that they are done with.
    #[allow(clippy::needless_pass_by_value)]
    pub(crate) fn damaged(path: &Path, why: impl ToString) -> Self {
        Error::Damaged { path: path.to_owned(), why: why.to_string() }
    }
}
