//! A world of one host around a real owner on a log in memory: a service that hangs and dies, a
//! runner that answers as the real one would, clients that retry, and a process that crashes.
//!
//! Time and chance come from the seed alone. What a crash takes is the owner with all its
//! memory and every record of the inboxes, as on the embedded log; disk and runner stay.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use healwright::engine::ahead::Ahead;
use healwright::engine::heads::Heads;
use healwright::engine::owner::{Cycle, Office, Owner, Taken};
use healwright::engine::{EngineError, Input};
use healwright::keys::Identity;
use schemas::event::*;
use schemas::signature::{KeyPair, signature_text};
use schemas::{Actor, ActorKind, Event, Ns, Stream, Uuid};
use serde::Serialize;
use state::memory::{Fault, MemoryLog};
use state::{Log, Store};
use topologies::config::{Host, Service, Signers};
use topologies::profile::Profile;
use topologies::rules::Rules;
use topologies::testing::series;

use crate::seed::Seed;

pub(crate) const HOST: &str = "h1";
pub(crate) const OPERATOR: &str = "operator";
pub(crate) const SERVICE: &str = "api";
const START: Ns = Ns(1_772_445_600_000_000_000);

/// What a crash leaves behind (protocol.md §2, the table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Before the append, or in it: nothing was persisted.
    NotPersisted,
    /// In the append: the chain has it, the state does not, nobody was answered.
    Unanswered,
    /// In the append: chain and state have it, nobody was answered.
    Committed,
    /// The append had begun and could not be settled; the disk keeps of it what chance says.
    Unsettled,
    /// After the append, before answers and effects.
    BeforeEffects,
    /// After the head was signed, before answers and effects.
    AfterSigning,
}

pub(crate) const CRASHES: [Crash; 6] = [
    Crash::NotPersisted,
    Crash::Unanswered,
    Crash::Committed,
    Crash::Unsettled,
    Crash::BeforeEffects,
    Crash::AfterSigning,
];

/// How the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Up,
    Hung,
    Dead,
    /// Nobody measures it.
    Silent,
}

/// Deliberate breaks of what stands around the owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Breaks {
    /// Clients are told before the append.
    pub(crate) acknowledges_early: bool,
    /// The runner forgets its receipts when the node crashes.
    pub(crate) forgets_receipts: bool,
    /// Clients are told of a batch that is not settled yet.
    pub(crate) tells_begun: bool,
}

pub(crate) type Disk = (Arc<dyn Log>, Arc<dyn Store>);

pub(crate) struct World {
    pub(crate) memory: Arc<MemoryLog>,
    pub(crate) disk: Disk,
    pub(crate) owner: Option<Owner>,
    pub(crate) now: Ns,
    pub(crate) seed: Seed,
    pub(crate) condition: Condition,
    pub(crate) breaks: Breaks,
    pub(crate) operator: KeyPair,
    pub(crate) runner: KeyPair,
    /// Acknowledged places by client id.
    pub(crate) acknowledged: BTreeMap<String, u64>,
    /// How often the runner really started each request.
    pub(crate) started: BTreeMap<Uuid, u32>,
    /// Whether every restart helps; otherwise one in five does not.
    pub(crate) restarts_help: bool,
    pub(crate) most_open: usize,
    pub(crate) n_crashes: u32,
    pub(crate) n_cycles: u64,
    identity: Identity,
    directory: tempfile::TempDir,
    /// Cycles whose batches are on their way to the disk.
    ahead: Ahead<()>,
    unanswered: BTreeMap<String, Input>,
    in_flight: BTreeMap<(u64, u64), String>,
    receipts: BTreeSet<Uuid>,
    seen: u64,
    probed: Ns,
    n: u64,
    versions: BTreeMap<String, u64>,
}

fn directory() -> tempfile::TempDir {
    // Head records are fsynced; in memory that costs nothing and the order is the same.
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        World::with(seed, |memory| (memory.clone(), memory))
    }

    pub(crate) fn with(seed: u64, disk: impl FnOnce(Arc<MemoryLog>) -> Disk) -> Self {
        let key = |n| KeyPair::from_seed(&[n; 32]);
        let identity = Identity::new("sim", HOST, &key(1), key(2));
        let memory = Arc::new(MemoryLog::new(&identity.deployment, 0));
        let mut world = World {
            disk: disk(memory.clone()),
            memory,
            owner: None,
            now: START,
            seed: Seed(seed),
            condition: Condition::Up,
            breaks: Breaks::default(),
            operator: key(3),
            runner: key(4),
            acknowledged: BTreeMap::new(),
            started: BTreeMap::new(),
            restarts_help: false,
            most_open: 0,
            n_crashes: 0,
            n_cycles: 0,
            identity,
            directory: directory(),
            ahead: Ahead::default(),
            unanswered: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            receipts: BTreeSet::new(),
            seen: 0,
            probed: Ns(0),
            n: 0,
            versions: BTreeMap::new(),
        };
        world.start();
        world.configure();
        world
    }

    fn configure(&mut self) {
        let keys = BTreeMap::from([(OPERATOR.to_owned(), self.operator.public())]);
        self.activate("signers", &Signers { keys });
        self.activate("rules", &Rules::current());
        let sandbox = vec!["bwrap".to_owned()];
        let host = Host { host: HOST.to_owned(), key: self.runner.public(), sandbox };
        self.activate("runner/h1", &host);
        self.activate("profile", &Profile::local());
        self.serve(SERVICE);
        self.cycle();
    }

    /// Takes a service under care.
    pub(crate) fn serve(&mut self, name: &str) {
        let (host, probe_url) = (HOST.to_owned(), "http://127.0.0.1:{port}/".to_owned());
        let command = vec!["serve".to_owned()];
        let name = name.to_owned();
        let key = format!("service/{name}");
        let service = Service { name, host, probe_url, command, ..Service::default() };
        self.activate(&key, &service);
    }

    pub(crate) fn activate(&mut self, name: &str, body: &impl Serialize) {
        let body = serde_json::to_string(body).unwrap();
        let version = self.versions.entry(name.to_owned()).or_default();
        *version += 1;
        let config = ConfigActivated::signed(name, *version, body, OPERATOR, &self.operator);
        self.send(&Input::new(human(), name, config));
    }

    /// The record of the next owner: another node has another.
    fn record(&self) -> PathBuf {
        self.directory.path().join("head")
    }

    pub(crate) fn office(&mut self, disk: Disk, record: &Path) -> Office<'_> {
        let mut seed = Seed(self.seed.next());
        Office {
            log: disk.0,
            store: disk.1,
            identity: &self.identity,
            endpoint: "127.0.0.1:1".to_owned(),
            heads: Heads::open(record, None).unwrap(),
            chance: Box::new(move |buffer| {
                buffer.iter_mut().for_each(|byte| *byte = seed.next() as u8);
            }),
        }
    }

    /// Starts a process on the disk, again if it crashes while it takes office.
    pub(crate) fn start(&mut self) {
        let (disk, record, now) = (self.disk.clone(), self.record(), self.now);
        for _ in 0..8 {
            let office = self.office(disk.clone(), &record);
            match Owner::elect(office, now) {
                Ok(owner) => {
                    self.owner = Some(owner);
                    return;
                }
                Err(EngineError::Log(_)) => self.lose(1),
                Err(error) => panic!("cannot take office: {error}"),
            }
        }
        panic!("eight elections failed");
    }

    /// The disk keeps some of the `n` batches that were on their way, from the first on.
    fn lose(&mut self, n: usize) {
        let n_kept = self.seed.below(n as u64 + 1);
        self.memory.lose_begun(n_kept as usize);
    }

    /// The process is gone, and what it held in memory with it.
    pub(crate) fn crash(&mut self) {
        self.n_crashes += 1;
        self.owner = None;
        self.lose(self.ahead.n_batches());
        self.ahead = Ahead::default();
        self.in_flight.clear();
        for stream in [Stream::Inbox, Stream::Control] {
            self.memory.forget(stream, u64::MAX).unwrap();
        }
        if self.breaks.forgets_receipts {
            self.receipts.clear();
            self.seen = 0;
        }
        self.start();
        // Clients that heard nothing send again under the same id.
        for input in self.unanswered.clone().into_values() {
            self.send(&input);
        }
    }

    /// The chain was taken over by another node with a disk of its own.
    pub(crate) fn move_to(&mut self, memory: MemoryLog) {
        self.memory = Arc::new(memory);
        self.disk = (self.memory.clone(), self.memory.clone());
        self.crash();
    }

    pub(crate) fn send(&mut self, input: &Input) {
        let stream = input.stream();
        let range = self.disk.0.send(stream, &[input.encode().unwrap()]).unwrap();
        let Some(id) = client_id(&input.event) else { return };
        if self.breaks.acknowledges_early {
            let next = self.owner.as_ref().map_or(0, |it| it.head().next_seq);
            self.acknowledged.entry(id).or_insert(next);
            return;
        }
        self.unanswered.insert(id.clone(), input.clone());
        self.in_flight.insert((stream as u64, range.start), id);
    }

    /// A client reports a change; sometimes twice, for it is impatient.
    pub(crate) fn change(&mut self) {
        self.n += 1;
        let id = format!("change-{}", self.n);
        let change = ChangeObserved {
            id,
            service: SERVICE.to_owned(),
            kind: ChangeKind::Flag,
            version: self.n.to_string(),
            reference: String::new(),
            author: String::new(),
            summary: "a flag".to_owned(),
            at: None,
        };
        let input = Input::new(Actor::system("api"), SERVICE, change);
        self.send(&input);
        if self.seed.one_in(4) {
            self.send(&input);
        }
    }

    pub(crate) fn command(&mut self, command: FreezeVerb) {
        self.n += 1;
        let mut command = FreezeCommand {
            scope: "deployment".to_owned(),
            command,
            signer_id: OPERATOR.to_owned(),
            reason: "drill".to_owned(),
            signature: String::new(),
            audit_confirmation: None,
            signers: Vec::new(),
            nonce: format!("nonce-{}", self.n),
        };
        let signed = self.operator.sign(FREEZE_DOMAIN, &command.statement());
        command.signature = signature_text(&signed);
        self.send(&Input::new(human(), "deployment", command));
    }

    /// What the runner measures, every half second.
    pub(crate) fn probe(&mut self) {
        if self.now.since(self.probed) < Ns::from_ms(500) || self.condition == Condition::Silent {
            return;
        }
        self.probed = self.now;
        let up = f64::from(u8::from(self.condition == Condition::Up));
        let exists = f64::from(u8::from(self.condition != Condition::Dead));
        let sample = TelemetrySample {
            source: "runner".to_owned(),
            exporter: String::new(),
            series: ["probe", "process_up"].map(|key| series(SERVICE, key, &[])).to_vec(),
            series_idx: vec![0, 1],
            ts_ns: vec![self.now.0; 2],
            value: vec![up, exists],
            snapshot: None,
        };
        let record = Event::from(sample).encode().unwrap();
        self.disk.0.send(Stream::Telemetry, &[record]).unwrap();
    }

    /// One cycle of the owner that goes well, and everything that follows it.
    pub(crate) fn cycle(&mut self) {
        self.cycle_until(None);
    }

    /// One cycle that ends as `crash` says, and with it what was begun before.
    pub(crate) fn cycle_until(&mut self, crash: Option<Crash>) {
        let fault = crash.and_then(|it| match it {
            Crash::NotPersisted => Some(Fault::NotPersisted),
            Crash::Unanswered => Some(Fault::Unanswered),
            Crash::Committed => Some(Fault::Committed),
            Crash::Unsettled => Some(Fault::Unsettled),
            Crash::BeforeEffects | Crash::AfterSigning => None,
        });
        self.memory.plan(fault.map(Some));
        let Some(cycles) = self.turn(0) else { return self.crash() };
        let (now, owner) = (self.now, self.owner.as_mut().unwrap());
        if crash == Some(Crash::AfterSigning) || self.n_cycles.is_multiple_of(8) {
            owner.sign_head(now, true).unwrap();
        }
        if matches!(crash, Some(Crash::Unsettled | Crash::BeforeEffects | Crash::AfterSigning)) {
            return self.crash();
        }
        self.follow(&cycles);
    }

    /// One cycle, and up to `n` that go on their way while the next one runs, as the engine does
    /// it under load.
    pub(crate) fn cycle_ahead(&mut self, n: usize) {
        match self.turn(n) {
            Some(cycles) => self.follow(&cycles),
            None => self.crash(),
        }
    }

    /// A turn of the engine: what is settled by it; nothing when the process has to end.
    fn turn(&mut self, n: usize) -> Option<Vec<Cycle>> {
        self.n_cycles += 1;
        let (mut cycles, mut begun) = (Vec::new(), Vec::new());
        let tells_begun = self.breaks.tells_begun;
        let may_wait = |cycle: &Cycle| {
            begun.extend(cycle.taken.iter().filter(|_| tells_begun).cloned());
            n
        };
        let (now, owner) = (self.now, self.owner.as_mut().unwrap());
        let turned = self.ahead.turn(owner, now, (), may_wait, |(), cycle| cycles.push(cycle));
        begun.iter().for_each(|taken| self.answer(taken));
        match turned {
            Ok(_) => Some(cycles),
            Err(EngineError::Log(_) | EngineError::Superseded { .. }) => {
                // What was settled before the fault was told.
                cycles.iter().flat_map(|it| &it.taken).for_each(|taken| self.answer(taken));
                None
            }
            Err(error) => panic!("the partition stopped: {error}"),
        }
    }

    /// What follows once batches stand in the chain.
    fn follow(&mut self, cycles: &[Cycle]) {
        let owner = self.owner.as_mut().unwrap();
        let open = owner.look("triggers", topologies::triggers::all_open).len();
        self.most_open = self.most_open.max(open);
        cycles.iter().flat_map(|it| &it.taken).for_each(|taken| self.answer(taken));
        self.run_requests();
    }

    fn answer(&mut self, taken: &Taken) {
        if let Some(id) = self.in_flight.remove(&(taken.stream as u64, taken.position)) {
            self.unanswered.remove(&id);
            self.acknowledged.entry(id).or_insert(taken.seq);
        }
    }

    /// The runner: what is linked and not yet in its receipts is done once and answered.
    fn run_requests(&mut self) {
        let end = self.disk.0.head().unwrap().next_seq;
        let mut requests = Vec::new();
        while self.seen < end {
            for batch in self.disk.0.read(self.seen, 1 << 20).unwrap() {
                self.seen = batch.next_seq();
                requests.extend(batch.entries.iter().filter_map(|it| match it.event() {
                    Ok(Event::RunnerRequest(request)) => Some(request),
                    _ => None,
                }));
            }
        }
        for request in requests {
            self.execute(&request);
        }
    }

    pub(crate) fn execute(&mut self, request: &RunnerRequest) {
        if !self.receipts.insert(request.id) {
            return;
        }
        *self.started.entry(request.id).or_default() += 1;
        let helps = self.restarts_help || !self.seed.one_in(5);
        if helps && self.condition != Condition::Silent {
            self.condition = Condition::Up;
        }
        let mut result = RunnerResult {
            id: request.id,
            status: RunnerStatus::Success,
            metrics: BTreeMap::new(),
            logs_ref: String::new(),
            snapshot: String::new(),
            explanation: "restarted".to_owned(),
            kind: None,
            host: Some(HOST.to_owned()),
            checks: None,
            known: None,
            signature: None,
        };
        let signed = self.runner.sign(RESULT_DOMAIN, &result.statement());
        result.signature = Some(signature_text(&signed));
        let actor = Actor { id: HOST.to_owned(), kind: ActorKind::Agent, key_id: None };
        self.send(&Input::new(actor, HOST, result));
    }

    /// Time passes, and things happen by chance.
    pub(crate) fn step(&mut self, crash: Option<Crash>) {
        self.now = self.now + Ns::from_ms(50 + self.seed.below(250));
        // A batch that is lost on its way is worth most when somebody waits for it.
        if crash == Some(Crash::Unsettled) || self.seed.one_in(6) {
            self.change();
        }
        if self.condition == Condition::Up && self.seed.one_in(40) {
            self.condition = if self.seed.one_in(2) { Condition::Hung } else { Condition::Dead };
        }
        self.probe();
        match crash {
            None => {
                let n = self.seed.below(3) as usize;
                self.cycle_ahead(n);
            }
            Some(_) => self.cycle_until(crash),
        }
    }

    /// A quiet stretch without crashes.
    pub(crate) fn settle(&mut self, steps: u32) {
        for _ in 0..steps {
            self.now = self.now + Ns::from_ms(250);
            self.probe();
            self.cycle();
        }
    }

    /// Inputs that a client sent and has no answer for.
    pub(crate) fn n_unanswered(&self) -> usize {
        self.unanswered.len()
    }
}

pub(crate) fn human() -> Actor {
    Actor { id: OPERATOR.to_owned(), kind: ActorKind::Human, key_id: None }
}

/// The id by which the checker tells inputs apart.
pub(crate) fn client_id(event: &Event) -> Option<String> {
    healwright::engine::bookkeeping::client_id(event)
}
