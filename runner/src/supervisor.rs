//! Supervised services: processes that are started, probed, ended and found again.
//!
//! A service outlives the runner that started it. Its supervisor never starts it again by
//! itself: a death is measured and reported, and a restart is a decision of the control plane.
//!
//! Invariants:
//! - At most one process per slot. Its record is written before it starts and completed after,
//!   so a crash between the two leaves a process that is found by its instance mark.
//! - A process is ended by identity (boot, pid, start time) with all of its session.
//! - What serves and what is recorded agree: the record names digest and port of the run.
//!
//! On disk, `services/<name>/`: `service.json` (the specification), `<slot>.json` (port, release
//! and process of a slot), `<slot>.log`, `work/`. Trusted as far as the folder is the runner's
//! own; losing it orphans processes and costs a restart.

mod kept;
mod probe;
mod prober;
mod process;
mod spec;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use schemas::Ns;
use serde::{Deserialize, Serialize};

pub use kept::Kept;
pub use probe::{Seen, Target};
pub(crate) use prober::{Role, Standing, watch};
pub use process::Identity;
use process::{INSTANCE, LOOK, Launch};
pub(crate) use process::{find, kill_with_children};
pub(crate) use spec::Words;
pub use spec::{EnvironmentSpec, ReleaseSpec, ServiceSpec, check_name};

use crate::durable::{self, Steps};
use crate::error::Error;

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// A process whose wellness cannot be seen and that ends within this has failed to start.
const START_FAILED_WITHIN: Ns = Ns::from_s(2);
/// A service without probe and heartbeat counts as started when it has lived so long.
const SETTLED: Duration = Duration::from_millis(500);

/// One of the two places in which a version of a service can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// Where a service begins; the only slot of one without a proxy.
    #[default]
    Green,
    /// The other.
    Blue,
}

impl Slot {
    /// Both, in order of number.
    pub const ALL: [Slot; 2] = [Slot::Green, Slot::Blue];

    /// The slot as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Slot::Green => "green",
            Slot::Blue => "blue",
        }
    }

    /// Its number in results: 0 green, 1 blue.
    pub const fn number(self) -> u8 {
        match self {
            Slot::Green => 0,
            Slot::Blue => 1,
        }
    }

    /// The other slot.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Slot::Green => Slot::Blue,
            Slot::Blue => Slot::Green,
        }
    }
}

/// What is recorded of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct SlotRecord {
    /// Where its process listens, where it does.
    pub port: Option<u16>,
    /// Digest of the release in it, or empty.
    pub digest: String,
    /// `local://…` of that release, or empty.
    pub artifact_ref: String,
    /// Mark in the environment of the run that was begun last.
    pub instance: String,
    /// When that run was begun.
    pub started_at: Ns,
    /// The process of the run; none before it is known and after it was ended.
    pub process: Option<Identity>,
    /// Whether that run was seen well.
    pub was_well: bool,
    /// Whether that run ended without ever being well.
    pub start_failed: bool,
}

/// What a run is started from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// Folder of the release.
    pub(crate) dir: Option<PathBuf>,
    /// Folder of the environment.
    pub(crate) venv: Option<PathBuf>,
}

/// A service and its two slots.
pub(crate) struct Service {
    dir: PathBuf,
    spec: RwLock<ServiceSpec>,
    slots: [Mutex<SlotRecord>; 2],
    n_restarts: AtomicU64,
    ended: AtomicBool,
    operation: Mutex<()>,
    steps: Steps,
}

impl Service {
    /// The service in `dir`, its slots as they were recorded, its processes adopted.
    pub(crate) fn open(dir: &Path, spec: ServiceSpec, steps: Steps) -> Result<Self, Error> {
        spec.check()?;
        durable::private_dir(&dir.join("work"))?;
        durable::sweep(dir);
        let service = Service {
            dir: dir.to_owned(),
            spec: RwLock::new(spec),
            slots: [
                Mutex::new(read_slot(dir, Slot::Green)?),
                Mutex::new(read_slot(dir, Slot::Blue)?),
            ],
            n_restarts: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            operation: Mutex::new(()),
            steps,
        };
        service.save_spec()?;
        Slot::ALL.into_iter().try_for_each(|slot| service.adopt(slot))?;
        Ok(service)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }

    pub(crate) fn spec(&self) -> ServiceSpec {
        self.spec.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the specification; a running process keeps what it was started with.
    pub(crate) fn redeclare(&self, spec: ServiceSpec) -> Result<(), Error> {
        spec.check()?;
        *self.spec.write().unwrap_or_else(PoisonError::into_inner) = spec;
        self.save_spec()
    }

    /// Held by whoever changes the service: one operation at a time.
    pub(crate) fn operate(&self) -> MutexGuard<'_, ()> {
        self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slot(&self, slot: Slot) -> SlotRecord {
        self.lock(slot).clone()
    }

    /// The process of `slot`, if it runs.
    pub(crate) fn process(&self, slot: Slot) -> Option<Identity> {
        self.lock(slot).process.clone().filter(Identity::is_alive)
    }

    pub(crate) fn log(&self, slot: Slot) -> PathBuf {
        self.dir.join(format!("{}.log", slot.as_str()))
    }

    /// Says which release lies in a slot. Nothing may run there.
    pub(crate) fn assign(&self, slot: Slot, digest: &str, reference: &str) -> Result<(), Error> {
        self.update(slot, |record| {
            record.digest = digest.to_owned();
            record.artifact_ref = reference.to_owned();
        })
    }

    /// Starts the service in `slot` from `source`, in place of what runs there.
    pub(crate) fn start(&self, slot: Slot, source: &Source) -> Result<Identity, Error> {
        self.stop(slot)?;
        let spec = self.spec();
        let port = self.port(slot, &spec)?;
        let words = Words { port, dir: source.dir.as_deref(), venv: source.venv.as_deref() };
        let words = spec.words(slot, &words)?;
        let started_at = now();
        let instance = format!("{}/{}/{}", spec.name, slot.as_str(), started_at.0);
        self.update(slot, |record| {
            record.port = port;
            record.instance.clone_from(&instance);
            record.started_at = started_at;
            record.was_well = false;
            record.start_failed = false;
        })?;
        self.steps.reach("start: announced")?;
        let variables = self.variables(&spec, slot, &instance);
        let cwd = self.cwd(&spec, source);
        let log = self.log(slot);
        let launch = Launch { words: &words, cwd: &cwd, variables: &variables, log: &log };
        let identity = process::spawn(&launch)?;
        self.steps.reach("start: spawned")?;
        self.update(slot, |record| record.process = Some(identity.clone()))?;
        Ok(identity)
    }

    /// Counts a restart of what serves, for telemetry.
    pub(crate) fn count_restart(&self) {
        self.n_restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends what runs in `slot`, with everything it started.
    pub(crate) fn stop(&self, slot: Slot) -> Result<(), Error> {
        let process = self.lock(slot).process.clone();
        let Some(identity) = process else { return Ok(()) };
        let unkillable = |pid| Error::Unkillable { service: self.spec().name, pid };
        identity.end(GRACE).map_err(unkillable)?;
        self.steps.reach("stop: ended")?;
        self.update(slot, |record| {
            record.process = None;
            record.instance.clear();
        })
    }

    /// Waits until what runs in `slot` is well, and says in how many milliseconds it answered.
    pub(crate) fn wait_well(&self, slot: Slot, deadline: Instant) -> Result<f64, Error> {
        let spec = self.spec();
        let deadline = deadline.min(Instant::now() + spec.start_timeout());
        let start = Instant::now();
        loop {
            let seen = self.look(slot, &spec);
            let not_well =
                |why: &str| Error::NotWell { service: spec.name.clone(), why: why.into() };
            if self.process(slot).is_none() {
                self.note_end(slot);
                let why = format!("its process ended; {}", self.last_words(slot));
                return Err(not_well(&why));
            }
            if seen.passed && (spec.is_probed() || start.elapsed() >= SETTLED) {
                self.note_well(slot);
                return Ok(seen.ms);
            }
            if Instant::now() >= deadline {
                return Err(not_well(&seen.detail));
            }
            std::thread::sleep(LOOK * 5);
        }
    }

    /// Probes `slot` once, in the way that the service has.
    pub(crate) fn look(&self, slot: Slot, spec: &ServiceSpec) -> Seen {
        let record = self.slot(slot);
        if !spec.probe_url.is_empty() {
            let Some(target) = spec.probe_target(record.port) else {
                return Seen { passed: false, ms: 0.0, detail: "its URL cannot be read".into() };
            };
            return target.probe(spec.probe_timeout());
        }
        let alive = record.process.as_ref().is_some_and(Identity::is_alive);
        let cwd = self.cwd(spec, &Source { dir: self.current(slot), venv: None });
        let Some(file) = spec.heartbeat(&cwd) else {
            return Seen { passed: alive, ms: 0.0, detail: "its process is gone".into() };
        };
        let beat = fs::metadata(&file).and_then(|metadata| metadata.modified());
        let age = beat.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        // A beat of the run before says nothing about this one.
        let limit = Duration::from_nanos(now().since(record.started_at).0);
        let passed = age.is_some_and(|age| age <= spec.heartbeat_max_age().min(limit));
        Seen { passed: passed && alive, ms: 0.0, detail: "its heartbeat is too old".into() }
    }

    /// The folder of the release in `slot`, where it has one.
    pub(crate) fn current(&self, slot: Slot) -> Option<PathBuf> {
        fs::canonicalize(self.dir.join(format!("{}.current", slot.as_str()))).ok()
    }

    /// Notes that the run in `slot` was seen well, once.
    pub(crate) fn note_well(&self, slot: Slot) {
        if !self.slot(slot).was_well {
            let result = self.update(slot, |record| record.was_well = true);
            if let Err(error) = result {
                tracing::warn!(%error, "cannot record that a service is well");
            }
        }
    }

    /// Notes that the process of `slot` has ended, once; whether it failed to start: it was
    /// never well or, where wellness cannot be seen, it ended within two seconds.
    pub(crate) fn note_end(&self, slot: Slot) -> bool {
        let record = self.slot(slot);
        let Some(identity) = &record.process else { return record.start_failed };
        if identity.is_alive() {
            return false;
        }
        let early = now().since(record.started_at) <= START_FAILED_WITHIN;
        let failed = !record.was_well && (self.spec().is_probed() || early);
        if failed && !record.start_failed {
            let result = self.update(slot, |record| record.start_failed = true);
            if let Err(error) = result {
                tracing::warn!(%error, "cannot record that a start failed");
            }
        }
        failed || record.start_failed
    }

    /// The last lines that the run in `slot` wrote, for an explanation.
    pub(crate) fn last_words(&self, slot: Slot) -> String {
        let bytes = fs::read(self.log(slot)).unwrap_or_default();
        let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2048)..]).into_owned();
        let last = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        if last.is_empty() {
            return "it wrote nothing".to_owned();
        }
        format!("its last words: {}", last.trim().chars().take(200).collect::<String>())
    }

    /// Ends the watching of this service.
    pub(crate) fn retire(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn adopt(&self, slot: Slot) -> Result<(), Error> {
        let record = self.slot(slot);
        if record.process.is_some() || record.instance.is_empty() {
            return Ok(());
        }
        // The runner was killed between starting a process and recording it, or after ending it.
        match process::find_instance(&record.instance) {
            Some(identity) => self.update(slot, |record| record.process = Some(identity)),
            None => Ok(()),
        }
    }

    /// The port of `slot`: the one it had, or a free one where that is taken.
    fn port(&self, slot: Slot, spec: &ServiceSpec) -> Result<Option<u16>, Error> {
        if !spec.wants_port() {
            return Ok(None);
        }
        let taken = self.slot(slot.other()).port;
        if let Some(port) = self.slot(slot).port
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            return Ok(Some(port));
        }
        loop {
            let listener = TcpListener::bind(("127.0.0.1", 0));
            let address = listener.and_then(|it| it.local_addr());
            let port = address.map_err(Error::io("find a port for", &self.dir))?.port();
            if Some(port) != taken {
                return Ok(Some(port));
            }
        }
    }

    fn variables(
        &self,
        spec: &ServiceSpec,
        slot: Slot,
        instance: &str,
    ) -> BTreeMap<String, String> {
        let mut variables = base_variables();
        let pycache = self.dir.join("pycache").to_string_lossy().into_owned();
        let own = [
            (INSTANCE, instance.to_owned()),
            ("HEALWRIGHT_SERVICE", spec.name.clone()),
            ("HEALWRIGHT_SLOT", slot.as_str().to_owned()),
            ("HEALWRIGHT_DIGEST", self.slot(slot).digest),
            // Compiled files beside the sources would be read unchecked (environment.rs).
            ("PYTHONPYCACHEPREFIX", pycache),
            ("PYTHONNOUSERSITE", "1".to_owned()),
            ("PYTHONUNBUFFERED", "1".to_owned()),
        ];
        variables.extend(own.map(|(key, value)| (key.to_owned(), value)));
        variables.extend(spec.variables.clone());
        variables
    }

    fn cwd(&self, spec: &ServiceSpec, source: &Source) -> PathBuf {
        if !spec.cwd.is_empty() {
            return PathBuf::from(&spec.cwd);
        }
        source.dir.clone().unwrap_or_else(|| self.dir.join("work"))
    }

    fn save_spec(&self) -> Result<(), Error> {
        durable::replace_json(&self.dir.join("service.json"), &self.spec(), &self.steps)
    }

    fn lock(&self, slot: Slot) -> MutexGuard<'_, SlotRecord> {
        let slot = &self.slots[usize::from(slot.number())];
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record of a slot, on disk first.
    fn update(&self, slot: Slot, change: impl FnOnce(&mut SlotRecord)) -> Result<(), Error> {
        let mut record = self.lock(slot);
        let mut changed = record.clone();
        change(&mut changed);
        durable::replace_json(&slot_path(&self.dir, slot), &changed, &self.steps)?;
        *record = changed;
        Ok(())
    }
}

/// The few variables that every process of ours gets: nothing of the runner's own leaks.
pub(crate) fn base_variables() -> BTreeMap<String, String> {
    let own = |key: &str, default: &str| {
        (key.to_owned(), std::env::var(key).unwrap_or_else(|_| default.to_owned()))
    };
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    BTreeMap::from([own("PATH", path), own("HOME", "/"), own("LANG", "C.UTF-8")])
}

pub(crate) fn now() -> Ns {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ns(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn read_slot(dir: &Path, slot: Slot) -> Result<SlotRecord, Error> {
    Ok(durable::read_json(&slot_path(dir, slot))?.unwrap_or_default())
}

fn slot_path(dir: &Path, slot: Slot) -> PathBuf {
    dir.join(format!("{}.json", slot.as_str()))
}
