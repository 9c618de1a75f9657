//! The proxy of one host: HTTP/1.1 between users and the slots of a service.
//!
//! A process of its own (`healwright proxy --dir DIR`), so that it outlives the runner and the
//! control plane: while both are down, users are served by the routes that were set last.
//! It splits requests between the live slot and a canary, mirrors safe ones to a shadow after
//! the user has been answered, and measures at the client's side. It decides nothing: which
//! slot is live, and with which share, is said over its control socket ([`Control`]).
//!
//! It deliberately does no TLS, no HTTP/2, no tunnels or protocol upgrades, no retries and no
//! caching: a request that a user sent once reaches a live slot once.
//!
//! Invariants:
//! - A route is replaced whole: a request sees the old one or the new one. Requests under way
//!   end where they began.
//! - A route that was acknowledged is on disk, and a restarted proxy resumes with it.
//! - No count is lost between its measuring and the reader's word that it has it, unless the
//!   proxy itself dies.
//! - One proxy per folder: the lock file is held for the process's life.
//!
//! On disk: `routes.json` (trusted; its loss costs the service until routes are set again),
//! `proxy.lock`, `proxy.sock`.

mod body;
mod client;
mod control;
mod forward;
mod keeper;
mod listen;
mod meter;
mod mirror;
mod route;

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use schemas::Ns;
use thiserror::Error;

pub use client::{Control, Router};
pub use control::{Stats, Status};
pub use keeper::Keeper;
pub use meter::{BOUNDS_MS, Counts, INTERVAL, Interval, N_BUCKETS, Role};
pub use route::{Canary, Route, Slot, is_canary};

use crate::wire::FrameError;

/// Connections under way may take so long to end when the proxy is told to stop.
const DRAIN: Duration = Duration::from_secs(3);
/// Name of the control socket in the proxy's folder.
const SOCKET: &str = "proxy.sock";

/// What can be wrong with a proxy.
#[derive(Debug, Error)]
pub enum Error {
    /// Another process serves the folder.
    #[error("{dir} is served by another proxy")]
    Locked {
        /// The folder.
        dir: String,
    },
    /// A file or socket of the proxy.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// An address where users are to reach a service.
    #[error("cannot listen on {addr} for {service}: {source}")]
    Listen {
        /// The service.
        service: String,
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// A request over the control socket breaks a rule.
    #[error("{0}")]
    Refused(String),
    /// The control socket did not carry an answer.
    #[error("control socket of the proxy: {0}")]
    Frame(#[from] FrameError),
}

impl Error {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Error::Io { doing, source }
    }
}

/// Serves `dir` until a signal or the control socket says stop. It is the whole life of the
/// process `healwright proxy --dir DIR`.
///
/// # Errors
/// The folder is served by another process, its files are damaged, or an address is taken.
pub fn run(dir: &Path) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("proxy")
        .enable_all()
        .build()
        .map_err(Error::io("start the runtime of the proxy"))?;
    runtime.block_on(async {
        let stop = signals().map_err(Error::io("listen for signals"))?;
        serve(dir, stop).await
    })
}

/// Serves `dir` until `stop` is done or the control socket says stop.
///
/// # Errors
/// As [`run`].
pub async fn serve(dir: &Path, stop: impl Future<Output = ()>) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(Error::io(format!("create {}", dir.display())))?;
    let _lock = lock(dir)?;
    let shared = listen::Shared::start(dir).await?;
    let ended = control::serve(&shared, &dir.join(SOCKET), stop).await;
    shared.drain(DRAIN).await;
    ended
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("proxy.lock");
    let doing = || format!("lock {}", path.display());
    let file = File::create(&path).map_err(Error::io(doing()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.display().to_string() }),
        Err(TryLockError::Error(source)) => Err(Error::io(doing())(source)),
    }
}

fn signals() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}

fn now() -> Ns {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ns(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
