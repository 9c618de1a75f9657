//! A Linux machine, for processes of the runner's own user: no root, no service manager.
//!
//! What this file holds is the way from an operation's words to the service it is about; what
//! is done is in the folder beside it. Spec 60 §4 names more hooks (systemd, packages, kernel,
//! network): they are not written, and an operation that needs one has no name here.
//!
//! Invariants:
//! - The words of an operation match one of the forms below exactly, or it is refused (C09).
//! - A release runs only from a folder that was just compared with its signed manifest.
//! - Users are served before anything else is tidied: in a rollback the route comes first.

mod managed;
mod preflight;
mod rebuild;
mod release;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use schemas::Hash;
use schemas::event::TelemetrySample;

use crate::durable::{self, Steps};
use crate::environment::{self, Python};
use crate::error::Error;
use crate::host::{Call, Host, Installed, Outcome, Sample, Sink, to_record};
use crate::proxy::Router;
use crate::sandbox::{BUBBLEWRAP, Inner, Sandbox};
use crate::store::{Listed, Store, digest_of};
use crate::supervisor::{self, ServiceSpec, Slot};
use crate::target::Target;

use managed::Managed;

/// The algorithm of signatures that this host checks.
const ALGORITHM: &str = "ed25519-manifest";

/// What a Linux host is opened with.
#[derive(Clone)]
pub struct LinuxConfig {
    /// The runner's own folder; `store/` and `services/` lie in it.
    pub dir: PathBuf,
    /// Name of the host in telemetry.
    pub host: String,
    /// How this program is called inside a sandbox.
    pub inner: Inner,
    /// Steps at which a test may stop the work.
    pub steps: Steps,
}

/// A Linux machine.
pub struct LinuxHost {
    config: LinuxConfig,
    store: Store,
    router: Arc<dyn Router>,
    sink: Sink,
    services: Mutex<BTreeMap<String, Watched>>,
    latest: Arc<Mutex<BTreeMap<String, Vec<Sample>>>>,
    sandbox: OnceLock<Result<Sandbox, String>>,
    python: OnceLock<Result<Python, String>>,
}

struct Watched {
    managed: Arc<Managed>,
    prober: JoinHandle<()>,
}

impl LinuxHost {
    /// Opens the host in `config.dir` and adopts the services that run there.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Damaged`] for a file of ours that cannot be read.
    pub fn open(config: LinuxConfig, router: Arc<dyn Router>, sink: Sink) -> Result<Self, Error> {
        let store = Store::open(&config.dir.join("store"))?;
        durable::private_dir(&config.dir.join("services"))?;
        let host = LinuxHost {
            config,
            store,
            router,
            sink,
            services: Mutex::default(),
            latest: Arc::default(),
            sandbox: OnceLock::new(),
            python: OnceLock::new(),
        };
        let folder = host.config.dir.join("services");
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))?.flatten() {
            if let Some(spec) = durable::read_json(&entry.path().join("service.json"))? {
                let managed = host.manage(spec)?;
                // The proxy may have kept an older route than was recorded, or none.
                if let Err(error) = managed.set_route(host.router.as_ref()) {
                    tracing::warn!(%error, "the route of an adopted service is not set");
                }
            }
        }
        Ok(host)
    }

    /// The artifact store; register the signers before anything is launched.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Kinds of sandbox that work here, found by trying; empty where none does.
    pub fn sandbox_kinds(&self) -> Vec<String> {
        self.sandbox_here().map_or_else(|_| Vec::new(), |_| vec![BUBBLEWRAP.to_owned()])
    }

    /// What this machine lacks, a sentence each.
    pub fn gaps(&self) -> Vec<String> {
        let gaps = [self.sandbox_here().err(), self.python_here().err()];
        gaps.into_iter().flatten().map(|gap| gap.to_string()).collect()
    }

    /// Takes a service under supervision, or replaces its specification. A service that never
    /// ran here is started; one that ran is left as it is, also when it is dead: to start it
    /// again is a decision.
    ///
    /// # Errors
    /// What kept it from being started; it is under supervision all the same, and its probes
    /// fail.
    pub fn declare(&self, spec: &ServiceSpec) -> Result<(), Error> {
        spec.check()?;
        let known = self.lock().get(&spec.name).map(|it| Arc::clone(&it.managed));
        let managed = match known {
            Some(managed) => {
                managed.service().redeclare(spec.clone())?;
                managed
            }
            None => self.manage(spec.clone())?,
        };
        let _operation = managed.service().operate();
        if managed.is_new() {
            self.first_start(&managed)?;
        }
        managed.set_route(self.router.as_ref())
    }

    /// Ends every process of a service and forgets it. Its folder stays.
    ///
    /// # Errors
    /// [`Error::UnknownService`], or a process that cannot be ended.
    pub fn retire(&self, name: &str) -> Result<(), Error> {
        let watched = self.lock().remove(name);
        let watched = watched.ok_or_else(|| Error::UnknownService(name.to_owned()))?;
        let managed = Arc::clone(&watched.managed);
        end(watched);
        let _operation = managed.service().operate();
        Slot::ALL.into_iter().try_for_each(|slot| managed.service().stop(slot))
    }

    /// Names of the services under supervision.
    pub fn services(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Starts a service for the first time: its environment is built, its release laid out.
    fn first_start(&self, managed: &Managed) -> Result<(), Error> {
        let service = managed.service();
        let spec = service.spec();
        if let Some(wanted) = &spec.environment
            && environment::current(service.dir())?.is_none()
        {
            let digest = Some(digest_of(&wanted.digest)?);
            let artifact = self.store.open_reference(&wanted.artifact_ref, digest)?;
            let (home, steps) = (service.dir(), service.steps());
            let python = self.python_here()?;
            let generation = environment::stage(home, &self.store, &artifact, python, steps)?;
            environment::flip(home, &generation, steps)?;
        }
        if let Some(release) = &spec.release {
            service.assign(Slot::Green, &release.digest, &release.artifact_ref)?;
            managed.change(|deployment| deployment.remember(&release.digest))?;
        }
        let source = managed.source(Slot::Green, &self.store)?;
        service.start(Slot::Green, &source).map(|_| ())
    }

    fn manage(&self, spec: ServiceSpec) -> Result<Arc<Managed>, Error> {
        let name = spec.name.clone();
        let dir = self.config.dir.join("services").join(spec.folder());
        let managed = Arc::new(Managed::open(&dir, spec, self.config.steps.clone())?);
        let (latest, sink) = (Arc::clone(&self.latest), Arc::clone(&self.sink));
        let key = name.clone();
        let keep: Sink = Arc::new(move |samples| {
            let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
            latest.insert(key.clone(), samples.clone());
            drop(latest);
            sink(samples);
        });
        let prober = supervisor::watch(
            Arc::clone(managed.service()),
            Arc::clone(&managed) as Arc<dyn supervisor::Standing>,
            self.config.host.clone(),
            keep,
        );
        let prober = prober.map_err(Error::io("watch", &dir))?;
        self.lock().insert(name, Watched { managed: Arc::clone(&managed), prober });
        Ok(managed)
    }

    fn managed(&self, name: &str) -> Result<Arc<Managed>, Error> {
        let services = self.lock();
        let found = services.get(name).map(|it| Arc::clone(&it.managed));
        found.ok_or_else(|| Error::UnknownService(name.to_owned()))
    }

    fn sandbox_here(&self) -> Result<&Sandbox, Error> {
        let detect = || Sandbox::detect(self.config.inner.clone()).map_err(gap_text);
        let found = self.sandbox.get_or_init(detect);
        found.as_ref().map_err(|why| Error::CapabilityGap(why.clone()))
    }

    fn python_here(&self) -> Result<&Python, Error> {
        let found = self.python.get_or_init(|| Python::detect().map_err(gap_text));
        found.as_ref().map_err(|why| Error::CapabilityGap(why.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, call: &Call<'_>) -> Result<Outcome, Error> {
        match action(call.op.target)? {
            Target::Service(name) => self.apply_release(&*self.managed(name)?, call),
            Target::Shadow(name) => self.mirror(&*self.managed(name)?),
            Target::Canary(name, pct) => self.widen(&*self.managed(name)?, pct),
            Target::Commit(name) => self.commit(&*self.managed(name)?),
            Target::Environment(name) => self.apply_environment(&*self.managed(name)?, call),
        }
    }

    fn try_sandbox(&self, call: &Call<'_>) -> Result<Outcome, Error> {
        match action(call.op.target)? {
            Target::Service(name) => self.preflight_release(&*self.managed(name)?, call),
            Target::Environment(name) => self.preflight_environment(&*self.managed(name)?, call),
            Target::Shadow(_) | Target::Canary(..) | Target::Commit(_) => {
                Err(Error::refused("operation", "there is nothing in it to run in a sandbox"))
            }
        }
    }

    /// Ends what serves and starts it again, from the same release.
    fn restart_live(&self, managed: &Managed, call: &Call<'_>) -> Result<Outcome, Error> {
        let service = managed.service();
        let _operation = service.operate();
        let start = Instant::now();
        let slot = managed.deployment().live;
        let source = managed.source(slot, &self.store)?;
        let port_before = service.slot(slot).port;
        let process = service.start(slot, &source)?;
        service.count_restart();
        if service.slot(slot).port != port_before {
            managed.set_route(self.router.as_ref())?;
        }
        let probe_ms = service.wait_well(slot, call.deadline)?;
        let took = millis(start);
        let name = service.spec().name;
        let text = format!("{name} was restarted in {took:.0} ms and is well again.");
        let outcome = managed.report(Outcome::success(text), slot);
        Ok(outcome
            .with("pid", f64::from(process.pid))
            .with("probe", 1.0)
            .with("probe_ms", probe_ms)
            .with("duration_ms", took))
    }
}

impl Host for LinuxHost {
    fn apply_patch(&self, call: &Call<'_>) -> Outcome {
        self.apply(call).unwrap_or_else(Outcome::from)
    }

    fn restart(&self, call: &Call<'_>) -> Outcome {
        let restart = |managed: Arc<Managed>| self.restart_live(&managed, call);
        self.managed(call.op.target).and_then(restart).unwrap_or_else(Outcome::from)
    }

    fn metrics(&self) -> Result<TelemetrySample, Error> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let samples: Vec<Sample> = latest.values().flatten().cloned().collect();
        Ok(to_record(&self.config.host, &samples))
    }

    fn rollback(&self, call: &Call<'_>) -> Outcome {
        let roll_back = |managed: Arc<Managed>| self.roll_back(&managed, call);
        self.managed(call.op.target).and_then(roll_back).unwrap_or_else(Outcome::from)
    }

    fn sandbox(&self, call: &Call<'_>) -> Outcome {
        self.try_sandbox(call).unwrap_or_else(Outcome::from)
    }

    fn inventory(&self) -> Result<Vec<Installed>, Error> {
        let services = self.lock();
        let slots = services.values().flat_map(|it| it.managed.inventory());
        Ok(slots.collect())
    }

    fn cache_info(&self) -> Result<Vec<Listed>, Error> {
        Ok(self.store.list())
    }
}

impl Drop for LinuxHost {
    /// The watching ends; the services go on and are adopted by the next runner.
    fn drop(&mut self) {
        for (_, watched) in std::mem::take(&mut *self.lock()) {
            end(watched);
        }
    }
}

fn end(watched: Watched) {
    watched.managed.service().retire();
    watched.prober.thread().unpark();
    if watched.prober.join().is_err() {
        tracing::error!("a prober had panicked");
    }
}

/// Reads the target of `apply_patch` and `sandbox`.
fn action(target: &str) -> Result<Target<'_>, Error> {
    let found = Target::parse(target);
    found.ok_or_else(|| Error::refused(format!("operation on {target:?}"), "it is none of ours"))
}

/// The artifact's digest as the request signs it.
fn signed_digest(call: &Call<'_>) -> Result<Hash, Error> {
    let sign = &call.request.sign;
    if sign.algo != ALGORITHM {
        let why = format!("the request names {:?}, and {ALGORITHM} is what is checked", sign.algo);
        return Err(Error::Unsigned { digest: sign.digest.clone(), why });
    }
    digest_of(&sign.digest)
}

fn gap_text(error: Error) -> String {
    // Its own words stand in front already; they are put there again when it is told.
    if let Error::CapabilityGap(why) = error { why } else { error.to_string() }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
