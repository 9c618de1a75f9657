//! A service and what is deployed of it: which slot serves, what stands beside it, and the
//! folders that both run from.
//!
//! `deployment.json` is written before the route is set and before a process is touched, and a
//! restarted runner sets the route that stands there. So a crash leaves what it says or what
//! was before, and nothing in between serves.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::durable::{self, Steps};
use crate::environment::{self, Watch};
use crate::error::Error;
use crate::host::{Installed, Outcome};
use crate::proxy::{self, Canary, Route, Router};
use crate::store::{ArtifactKind, Store, digest_of};
use crate::supervisor::{self, Role, Service, ServiceSpec, Slot, Source, Standing};

/// Committed releases whose folders are kept (spec 60 §14).
const RELEASES_KEPT: usize = 10;
/// How often an environment is compared with what was built.
const ENVIRONMENT_EVERY: Duration = Duration::from_secs(1);

/// How far a new release has come. Names are persisted: frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// There is none.
    #[default]
    None,
    /// It is in the other slot, and nothing reaches it.
    Applied,
    /// It is sent copies.
    Shadow,
    /// It serves this share, percent.
    Canary(u32),
}

/// What is deployed of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Deployment {
    /// The slot that serves.
    pub(super) live: Slot,
    /// How far the release in the other slot has come.
    pub(super) stage: Stage,
    /// Digests that were committed, the newest last.
    pub(super) committed: Vec<String>,
}

impl Deployment {
    /// Notes that `digest` is what serves.
    pub(super) fn remember(&mut self, digest: &str) {
        if digest.is_empty() {
            return;
        }
        self.committed.retain(|it| it != digest);
        self.committed.push(digest.to_owned());
        let surplus = self.committed.len().saturating_sub(RELEASES_KEPT);
        self.committed.drain(..surplus);
    }
}

/// A service with its deployment.
pub(super) struct Managed {
    service: Arc<Service>,
    deployment: Mutex<Deployment>,
    environment: Mutex<Looked>,
    steps: Steps,
}

/// The last look at an environment.
#[derive(Default)]
struct Looked {
    watch: Option<(PathBuf, Watch)>,
    last: Option<(Instant, bool)>,
}

impl Managed {
    /// The service in `dir` with what was recorded of it.
    pub(super) fn open(dir: &Path, spec: ServiceSpec, steps: Steps) -> Result<Self, Error> {
        let service = Arc::new(Service::open(dir, spec, steps.clone())?);
        let deployment = durable::read_json(&dir.join("deployment.json"))?.unwrap_or_default();
        durable::sweep(&dir.join("releases"));
        let (deployment, environment) = (Mutex::new(deployment), Mutex::default());
        Ok(Managed { service, deployment, environment, steps })
    }

    pub(super) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    pub(super) fn deployment(&self) -> Deployment {
        self.lock().clone()
    }

    /// Whether it never ran here.
    pub(super) fn is_new(&self) -> bool {
        Slot::ALL.iter().all(|slot| self.service.slot(*slot).started_at.0 == 0)
    }

    /// Changes what is deployed, on disk first.
    pub(super) fn change(&self, change: impl FnOnce(&mut Deployment)) -> Result<(), Error> {
        let mut deployment = self.lock();
        let mut changed = deployment.clone();
        change(&mut changed);
        let path = self.service.dir().join("deployment.json");
        durable::replace_json(&path, &changed, &self.steps)?;
        *deployment = changed;
        Ok(())
    }

    /// Tells the proxy the whole route, as it is recorded.
    pub(super) fn set_route(&self, router: &dyn Router) -> Result<(), Error> {
        let Some(route) = self.route() else { return Ok(()) };
        let name = &route.service;
        let refused =
            |why: proxy::Error| Error::Route { service: name.clone(), why: why.to_string() };
        router.set_route(&route).map(|_| ()).map_err(refused)
    }

    /// Folder of a release by digest.
    pub(super) fn release_dir(&self, digest: &str) -> PathBuf {
        self.service.dir().join("releases").join(digest.trim_start_matches("sha256:"))
    }

    /// What `slot` is started from: its release, compared with the signed manifest, and the
    /// environment that is in use.
    pub(super) fn source(&self, slot: Slot, store: &Store) -> Result<Source, Error> {
        let digest = self.service.slot(slot).digest;
        let mut source = Source::default();
        if !digest.is_empty() {
            let verified = store.verified(&digest_of(&digest)?)?;
            if verified.manifest().kind != ArtifactKind::Release {
                return Err(Error::refused("artifact", "it is no release"));
            }
            let dir = self.release_dir(&digest);
            durable::private_dir(&self.service.dir().join("releases"))?;
            store.materialize(&verified, &dir, &self.steps)?;
            let name = dir.file_name().unwrap_or_default();
            let link = self.service.dir().join(format!("{}.current", slot.as_str()));
            durable::flip(&link, &Path::new("releases").join(name), &self.steps)?;
            source.dir = Some(dir);
        }
        if self.service.spec().environment.is_some() {
            let generation = environment::current(self.service.dir())?;
            let missing = || Error::Missing { what: "a complete environment".to_owned() };
            source.venv = Some(generation.ok_or_else(missing)?.dir);
        }
        Ok(source)
    }

    /// Removes releases that can no longer be asked for.
    pub(super) fn prune(&self) {
        let deployment = self.deployment();
        let kept = |digest: &str| {
            deployment.committed.iter().any(|it| it == digest)
                || Slot::ALL.iter().any(|slot| self.service.slot(*slot).digest == digest)
        };
        let folder = self.service.dir().join("releases");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            if !kept(&digest) {
                durable::remove(&entry.path());
            }
        }
    }

    /// Forgets the last look at the environment, after it was changed.
    pub(super) fn look_again(&self) {
        *self.environment.lock().unwrap_or_else(PoisonError::into_inner) = Looked::default();
    }

    /// Adds what is known of `slot` to an outcome.
    pub(super) fn report(&self, outcome: Outcome, slot: Slot) -> Outcome {
        let record = self.service.slot(slot);
        let mut outcome = outcome.with("slot", f64::from(slot.number()));
        if let Some(port) = record.port {
            outcome = outcome.with("port", f64::from(port));
        }
        if let Some(process) = record.process {
            outcome = outcome.with("pid", f64::from(process.pid));
        }
        outcome.logs_ref = self.service.log(slot).to_string_lossy().into_owned();
        outcome
    }

    /// What is installed, slot by slot.
    pub(super) fn inventory(&self) -> Vec<Installed> {
        let live = self.deployment().live;
        let home = self.service.dir();
        let environment = environment::current(home).ok().flatten();
        let environment = environment.map(|it| it.record.artifact).unwrap_or_default();
        let used = |slot: &Slot| *slot == live || !self.service.slot(*slot).digest.is_empty();
        let installed = |slot: Slot| {
            let record = self.service.slot(slot);
            Installed {
                service: self.service.spec().name,
                slot: slot.as_str(),
                digest: record.digest,
                environment: environment.clone(),
                pid: self.service.process(slot).map(|it| it.pid),
                port: record.port,
                live: slot == live,
            }
        };
        Slot::ALL.into_iter().filter(used).map(installed).collect()
    }

    fn route(&self) -> Option<Route> {
        let spec = self.service.spec();
        let listen = spec.proxy.parse().ok()?;
        let deployment = self.deployment();
        let (live, other) = (deployment.live, deployment.live.other());
        let mut route = Route::new(spec.name, listen, self.endpoint(live)?);
        route.safe = spec.safe;
        match deployment.stage {
            Stage::None | Stage::Applied => {}
            Stage::Shadow => route.shadow = self.endpoint(other),
            Stage::Canary(pct) => {
                route.canary = self.endpoint(other).map(|proxy::Slot { slot, addr }| Canary {
                    slot,
                    addr,
                    pct,
                });
            }
        }
        Some(route)
    }

    fn endpoint(&self, slot: Slot) -> Option<proxy::Slot> {
        let port = self.service.slot(slot).port?;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        Some(proxy::Slot { slot: slot.as_str().to_owned(), addr })
    }

    fn lock(&self) -> MutexGuard<'_, Deployment> {
        self.deployment.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing for Managed {
    fn slots(&self, _: &Service) -> Vec<(Slot, Role)> {
        let deployment = self.deployment();
        let mut slots = vec![(deployment.live, Role::Live)];
        match deployment.stage {
            Stage::None => {}
            Stage::Applied | Stage::Shadow => slots.push((deployment.live.other(), Role::Shadow)),
            Stage::Canary(_) => slots.push((deployment.live.other(), Role::Live)),
        }
        slots
    }

    fn environment_ok(&self, service: &Service) -> Option<bool> {
        let wanted = service.spec().environment?;
        let mut looked = self.environment.lock().unwrap_or_else(PoisonError::into_inner);
        // What has just died may have died of its environment: the old answer will not do.
        let lives = Slot::ALL.into_iter().any(|slot| {
            service.slot(slot).process.as_ref().is_some_and(supervisor::Identity::is_alive)
        });
        if let Some((at, ok)) = looked.last
            && lives
            && at.elapsed() < ENVIRONMENT_EVERY
        {
            return Some(ok);
        }
        let ok = match environment::current(service.dir()) {
            Ok(Some(generation)) => {
                let known = looked.watch.take().filter(|(dir, _)| *dir == generation.dir);
                let fresh = || (generation.dir.clone(), Watch::new(&generation.record));
                let (dir, mut watch) = known.unwrap_or_else(fresh);
                let ok = watch.is_intact(&dir) && generation.record.artifact == wanted.digest;
                looked.watch = Some((dir, watch));
                ok
            }
            Ok(None) | Err(_) => false,
        };
        looked.last = Some((Instant::now(), ok));
        Some(ok)
    }
}
