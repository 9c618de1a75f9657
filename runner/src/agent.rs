//! The agent of one host: it verifies before it acts, and answers for what it did.
//!
//! A request from the control plane is carried out only when everything about it is proven from
//! its own bytes and the pinned deployment id, offline ([`verify`]); at most once ([`receipts`]);
//! under a live start lease and the current mode epoch ([`gate`]); and every answer is signed
//! ([`answer`]). [`core`] ties these together as a machine of messages in, effects out;
//! [`session`] gives it a socket, threads and a host.
//!
//! It decides nothing, and trusts the control plane with nothing but availability.
//!
//! Invariants:
//! - Nothing is started that does not stand in the ledger, decided on, for this host.
//! - A request starts at most once, over any number of repeats, restarts and crashes.
//! - After a confirmed mode epoch nothing starts under an older one.
//! - An error of the disk ends the process: what it holds is then not known, and the next start
//!   reads it anew.
//!
//! In its folder: `runner.key` (its identity), `deployment` (pinned on first contact),
//! `runner.json` (the owner's allow lists, optional), `heads/`, `receipts`, `mode.json`,
//! `registered.json`, `runner.lock`.

pub mod answer;
pub mod core;
pub mod gate;
pub mod identity;
#[cfg(target_os = "linux")]
pub mod local;
pub mod policy;
pub mod receipts;
pub mod refusal;
pub mod session;
pub mod telemetry;
pub mod verify;
pub mod witness;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use schemas::Ns;
use thiserror::Error;

pub use identity::Identity;
pub use policy::Policy;
pub use refusal::Refusal;
pub use session::{Machine, run};

/// What ends a runner, or keeps it from starting.
#[derive(Debug, Error)]
pub enum Error {
    /// A file of its folder, or the disk under it.
    #[error(transparent)]
    Disk(#[from] crate::error::Error),
    /// A rule is broken; the runner goes on, the request does not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The proxy, or a socket of it.
    #[error(transparent)]
    Proxy(#[from] crate::proxy::Error),
    /// Another runner serves the folder.
    #[error("{dir} is served by another runner")]
    Locked {
        /// The folder.
        dir: String,
    },
    /// The control plane is another than the one that was met first.
    #[error("this runner belongs to deployment {pinned}, and {told} calls it")]
    OtherDeployment {
        /// The deployment that was pinned.
        pinned: String,
        /// The one that was named now.
        told: String,
    },
}

impl Error {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let disk = crate::error::Error::io(what, path);
        move |source| Error::Disk(disk(source))
    }

    fn damaged(path: &Path, why: impl ToString) -> Self {
        Error::Disk(crate::error::Error::damaged(path, why))
    }
}

/// The two clocks of a runner. Leases are counted on the monotone one, expiry on the other.
pub trait Clock: Send + Sync {
    /// Time since some moment in the life of the process; it never goes back.
    fn monotone(&self) -> Duration;
    /// The wall clock.
    fn wall(&self) -> Ns;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn monotone(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> Ns {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ns(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
