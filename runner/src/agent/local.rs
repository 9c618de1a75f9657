//! This machine's agent: the host of this operating system, its proxy, and the session.
//!
//! It is the whole life of the process `healwright runner`. Services and proxy outlive it, and
//! the next one adopts them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use schemas::signature::PublicKey;

use super::identity::lock;
use super::session::{Machine, run};
use super::telemetry::Collector;
use super::{Error, Identity};
use crate::durable::Steps;
use crate::host::Host;
use crate::linux::{LinuxConfig, LinuxHost};
use crate::proxy::{Keeper, Router};
use crate::sandbox::Inner;
use crate::supervisor::{Kept, ServiceSpec};

/// How the runner of this machine is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// The runner's folder, `DATA/runner`.
    pub dir: PathBuf,
    /// The control plane's socket, `DATA/run/control.sock`.
    pub socket: PathBuf,
    /// Deployment id, from `DATA/deployment`; pinned on first contact.
    pub deployment: String,
    /// Name of the host.
    pub host: String,
    /// This program's file: it is called as `proxy --dir DIR`, and within a sandbox as
    /// `sandbox-probe`.
    pub program: PathBuf,
}

/// Runs this machine's agent until `stop` is set.
///
/// # Errors
/// Another runner holds the folder, another deployment is pinned, or a file is damaged.
pub fn run_here(config: &Config, stop: &Arc<AtomicBool>) -> Result<(), Error> {
    // First of all: its lock says that no other runner supervises what lies in the folder.
    let identity = Identity::open(&config.dir, &config.host, &config.deployment)?;
    let collector = Arc::new(Collector::default());
    let router: Arc<dyn Router> = Arc::new(Keeper::new(config.dir.join("proxy"), &config.program));
    let linux = LinuxConfig {
        dir: config.dir.clone(),
        host: config.host.clone(),
        inner: Inner { program: config.program.clone(), args: vec!["sandbox-probe".to_owned()] },
        steps: Steps::default(),
    };
    let host = LinuxHost::open(linux, Arc::clone(&router), collector.sink())?;
    let machine: Arc<dyn Machine> = Arc::new(Here { host, router });
    run(identity, &config.socket, &machine, &collector, stop)
}

/// Ends what runs of a service that is about to be defined anew, so that the new definition is
/// started as the first one was.
///
/// # Errors
/// A runner is there, a process that cannot be ended, or a record that cannot be read.
pub fn forget(dir: &Path, name: &str) -> Result<(), Error> {
    let _lock = lock(dir)?;
    let Some(kept) = Kept::read(dir, name)? else { return Ok(()) };
    Ok(kept.forget()?)
}

struct Here {
    host: LinuxHost,
    router: Arc<dyn Router>,
}

impl Machine for Here {
    fn host(&self) -> &dyn Host {
        &self.host
    }

    fn register(&self, body: &str) -> Result<(), String> {
        let spec: ServiceSpec = serde_json::from_str(body).map_err(|error| error.to_string())?;
        self.host.declare(&spec).map_err(|error| error.to_string())
    }

    fn trust(&self, keys: Vec<PublicKey>) {
        self.host.store().trust(keys);
    }

    fn sandbox_kinds(&self) -> Vec<String> {
        self.host.sandbox_kinds()
    }

    fn router(&self) -> Option<Arc<dyn Router>> {
        Some(Arc::clone(&self.router))
    }
}
