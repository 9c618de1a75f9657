//! A bench for processors: the owner's fold to rest (protocol.md §2) over a map, with journaled
//! time and a transcript that reads as a story.
//!
//! It signs nothing, stores nothing and seals every record of telemetry at once. What it does
//! share with the engine is what a fold can see: the order of entries, causes, due wakes, the
//! kinds a processor may read and say, and that everything said survives its own encoding.

mod describe;
mod feed;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use schemas::event::{TelemetrySample, TelemetrySealed, Tick};
use schemas::telemetry::Samples;
use schemas::{Actor, ActorKind, Cause, Envelope, Event, Hash, Kind, Ns, Stream, Uuid};

use crate::fold::{Edit, Folded, Line, Output, Processor, SAID_BYTES_MAX, Store, View};
use crate::{config, rules};

pub use describe::describe;
pub use feed::{OPERATOR, operator, series};

/// Where the story begins: a Monday at ten, inside the working hours of `production`.
pub const START: &str = "2026-03-02T10:00:00Z";
/// Steps from an input after which a derivation is a loop (protocol.md §2).
const DEPTH_MAX: u32 = 32;
/// Milliseconds between two ticks while active (protocol.md §3).
const TICK_MS: u64 = 250;

/// A state in memory.
#[derive(Default)]
pub struct MapStore {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    due_at: BTreeMap<(&'static str, String), Ns>,
    order: BTreeSet<(Ns, &'static str, String)>,
}

impl MapStore {
    /// Takes the wakes that are due at `now`, in order of (at, processor, key).
    fn due(&mut self, now: Ns) -> Vec<(Ns, &'static str, String)> {
        let due = self.order.iter().take_while(|(at, ..)| *at <= now);
        let due: Vec<_> = due.cloned().collect();
        due.iter().for_each(|(_, processor, key)| self.unwake(processor, key));
        due
    }

    /// Number of keys, so that a test can show that state is bounded.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

impl Store for MapStore {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.pairs.get(key).cloned()
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.pairs.insert(key.to_vec(), value);
    }

    fn edit(&mut self, keys: &[Vec<u8>], edit: Edit<'_>) {
        let mut taken: Vec<_> = keys.iter().map(|it| self.pairs.remove(it)).collect();
        let mut lines: Vec<&mut [Line]> = Vec::new();
        for value in &mut taken {
            lines.push(value.as_mut().map_or(&mut [], |it| it.as_chunks_mut().0));
        }
        edit(&mut lines, &mut |_, _, _| {});
        let back = keys.iter().cloned().zip(taken);
        self.pairs.extend(back.filter_map(|(key, value)| Some((key, value?))));
    }

    fn delete(&mut self, key: &[u8]) {
        self.pairs.remove(key);
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let from = self.pairs.range(prefix.to_vec()..);
        let within = from.take_while(|(key, _)| key.starts_with(prefix));
        within.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn wake(&mut self, processor: &'static str, key: &str, at: Ns) {
        self.unwake(processor, key);
        self.due_at.insert((processor, key.to_owned()), at);
        self.order.insert((at, processor, key.to_owned()));
    }

    fn unwake(&mut self, processor: &'static str, key: &str) {
        if let Some(at) = self.due_at.remove(&(processor, key.to_owned())) {
            self.order.remove(&(at, processor, key.to_owned()));
        }
    }
}

/// An entry of the bench's journal.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who, when, from what.
    pub envelope: Envelope,
    /// What.
    pub event: Event,
}

/// Processors, their state and what was said so far.
pub struct Bench {
    processors: Vec<Processor>,
    store: MapStore,
    start: Ns,
    now: Ns,
    seq: u64,
    inbox: u64,
    telemetry: u64,
    records: Vec<Record>,
    quiet: Vec<Kind>,
    /// Versions of configurations that were activated here.
    versions: BTreeMap<String, u64>,
}

impl Bench {
    /// A bench at [`START`] with these processors in this order, under the current rules.
    pub fn new(processors: &[Processor]) -> Self {
        Bench::under_rules(processors, rules::CURRENT)
    }

    /// The same under the rules of another program.
    pub fn under_rules(processors: &[Processor], version: u32) -> Self {
        let mut bench = Bench::bare(processors);
        bench.view(config::PROCESSOR.name).save(rules::KEY, &version);
        bench
    }

    fn bare(processors: &[Processor]) -> Self {
        let start: Ns = START.parse().expect("START is RFC 3339");
        Bench {
            processors: processors.to_vec(),
            store: MapStore::default(),
            start,
            now: start,
            seq: 0,
            inbox: 0,
            telemetry: 0,
            records: Vec::new(),
            quiet: vec![Kind::Tick, Kind::TelemetrySealed],
            versions: BTreeMap::new(),
        }
    }

    /// Leaves further kinds out of the transcript; ticks and seals always are.
    pub fn quiet(mut self, kinds: &[Kind]) -> Self {
        self.quiet.extend_from_slice(kinds);
        self
    }

    /// The time of the last tick.
    pub fn now(&self) -> Ns {
        self.now
    }

    /// Lets time pass until `ms` milliseconds after the start, tick by tick.
    pub fn at(&mut self, ms: u64) {
        let until = self.start + Ns::from_ms(ms);
        while self.now + Ns::from_ms(TICK_MS) <= until {
            self.tick();
        }
    }

    /// Lets `ms` milliseconds pass, tick by tick.
    pub fn advance(&mut self, ms: u64) {
        let passed = self.now.since(self.start).as_ms();
        self.at(passed + ms);
    }

    /// Lets `ms` milliseconds pass in one tick, as when the owner was away.
    pub fn leap(&mut self, ms: u64) {
        self.tick_after(ms);
    }

    fn tick(&mut self) {
        self.tick_after(TICK_MS);
    }

    fn tick_after(&mut self, ms: u64) {
        self.now = self.now + Ns::from_ms(ms);
        let due = self.store.due(self.now);
        if due.is_empty() {
            return;
        }
        let now = self.now;
        let cause = Cause::Owner { epoch: 1, n: self.seq };
        let event = Event::Tick(Tick { partition: 0, now });
        let tick = self.journal(Actor::system("owner"), "0", cause, None, 5, event);
        let mut said = Said::default();
        for (_, name, key) in due {
            let processor = self.processors.iter().find(|it| it.name == name).copied();
            let processor = processor.expect("only a listed processor can have set a wake");
            self.step(&processor, &tick, &Samples::default(), Some(&key), &mut said);
        }
        self.rest(said.queue, 1);
    }

    /// Takes an input of `actor` and folds to rest; what was said, in order, without the input.
    pub fn input(&mut self, actor: &str, key: &str, event: impl Into<Event>) -> Vec<Record> {
        let cause = Cause::Observed { stream: Stream::Inbox, position: self.inbox };
        self.inbox += 1;
        let kind = match actor.split_once(':').map(|(sort, _)| sort) {
            Some("runner") => ActorKind::Agent,
            _ => ActorKind::Human,
        };
        let actor = Actor { id: actor.to_owned(), kind, key_id: None };
        let entry = self.journal(actor, key, cause, None, 5, event.into());
        self.fold(&entry, &Samples::default())
    }

    /// Takes an input that names its incident, as a runner's result does.
    pub fn input_of(
        &mut self,
        actor: &str,
        key: &str,
        correlation: &str,
        event: impl Into<Event>,
    ) -> Vec<Record> {
        let cause = Cause::Observed { stream: Stream::Inbox, position: self.inbox };
        self.inbox += 1;
        let actor = Actor { id: actor.to_owned(), kind: ActorKind::Agent, key_id: None };
        let correlation = Some(correlation.to_owned());
        let entry = self.journal(actor, key, cause, correlation, 5, event.into());
        self.fold(&entry, &Samples::default())
    }

    /// Lets `processor` say something that a test does not want to lead it to; an empty
    /// `correlation` is none.
    pub fn said_by(
        &mut self,
        processor: &'static str,
        key: &str,
        correlation: &str,
        event: impl Into<Event>,
    ) -> Vec<Record> {
        let cause = Cause::Derived { by: processor.to_owned(), from: self.seq, ordinal: 0 };
        let correlation = (!correlation.is_empty()).then(|| correlation.to_owned());
        let actor = Actor::system(processor);
        let entry = self.journal(actor, key, cause, correlation, 5, event.into());
        self.fold(&entry, &Samples::default())
    }

    /// Seals one record of telemetry and folds to rest.
    pub fn samples(&mut self, sample: &TelemetrySample) -> Vec<Record> {
        let bytes = Event::from(sample.clone()).encode().expect("samples encode");
        self.sealed(&[bytes])
    }

    /// Seals encoded records of telemetry as one range and folds to rest.
    pub fn sealed(&mut self, encoded: &[Vec<u8>]) -> Vec<Record> {
        let mut samples = Samples::default();
        encoded.iter().for_each(|it| samples.read(it).expect("records decode"));
        let from = self.telemetry;
        self.telemetry += encoded.len() as u64;
        let parts: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
        let seal = TelemetrySealed {
            from,
            to: self.telemetry,
            digest: Hash::of(&parts).to_digest(),
            n_samples: samples.len() as u64,
        };
        let cause = Cause::Owner { epoch: 1, n: self.seq };
        let entry = self.journal(Actor::system("owner"), "0", cause, None, 5, seal.into());
        self.fold(&entry, &samples)
    }

    /// The state as `processor` sees it.
    pub fn view(&mut self, processor: &'static str) -> View<'_> {
        View::new(&mut self.store, processor)
    }

    /// The state itself.
    pub fn store(&self) -> &MapStore {
        &self.store
    }

    /// Everything journaled so far but ticks and seals.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Everything of one kind so far.
    pub fn of_kind(&self, kind: Kind) -> Vec<&Record> {
        self.records.iter().filter(|it| it.envelope.kind == kind).collect()
    }

    /// One line per event: seconds since the start, type, key, and what it says; empty where
    /// nothing happened. The heading keeps expect-test from taking the alignment of the first
    /// column for indentation.
    pub fn transcript(&self) -> String {
        let told = self.records.iter().filter(|it| !self.quiet.contains(&it.envelope.kind));
        let lines: String = told.map(|it| self.line(it)).collect();
        match lines.is_empty() {
            true => lines,
            false => format!("{:<9} {:<22} {:<12} what\n{lines}", "seconds", "event", "key"),
        }
    }

    fn line(&self, record: &Record) -> String {
        let Envelope { tick, kind, key, .. } = &record.envelope;
        let passed = tick.since(self.start).as_ms();
        let (s, ms) = (passed / 1000, passed % 1000);
        let what = describe(&record.event);
        let line = format!("{s:>5}.{ms:03} {:<22} {key:<12} {what}", kind.name());
        format!("{}\n", line.trim_end())
    }

    fn journal(
        &mut self,
        actor: Actor,
        key: &str,
        cause: Cause,
        correlation: Option<String>,
        priority: u8,
        event: Event,
    ) -> Record {
        let envelope = Envelope {
            event_id: cause.event_id(&Hash::default()),
            kind: event.kind(),
            partition: 0,
            seq: self.seq,
            key: key.to_owned(),
            tick: self.now,
            wall: self.now,
            actor,
            cause,
            correlation,
            trace_id: None,
            priority,
            ttl_ms: 0,
            redaction: schemas::envelope::Redaction::None,
            commitment: Hash::default(),
        };
        self.seq += 1;
        let record = Record { envelope, event };
        if !matches!(record.event.kind(), Kind::Tick | Kind::TelemetrySealed) {
            self.records.push(record.clone());
        }
        record
    }

    fn fold(&mut self, entry: &Record, samples: &Samples<'_>) -> Vec<Record> {
        let mut said = Said::default();
        self.step_all(entry, samples, &mut said);
        self.rest(said.queue, 1)
    }

    /// Folds what was said, and what that leads to, until nothing more is said.
    fn rest(&mut self, first: VecDeque<Saying>, depth: u32) -> Vec<Record> {
        let mut queue: VecDeque<(Saying, u32)> = first.into_iter().map(|it| (it, depth)).collect();
        let mut all = Vec::new();
        while let Some((saying, depth)) = queue.pop_front() {
            assert!(depth <= DEPTH_MAX, "a loop: {:?}", describe(&saying.output.event));
            let entry = self.derived(saying);
            let mut said = Said::default();
            self.step_all(&entry, &Samples::default(), &mut said);
            queue.extend(said.queue.into_iter().map(|it| (it, depth + 1)));
            all.push(entry);
        }
        all
    }

    fn derived(&mut self, saying: Saying) -> Record {
        let Saying { by, from, ordinal, output } = saying;
        let payload = output.event.encode().expect("what is said encodes");
        let read = Event::decode(output.event.kind(), &payload).expect("what is said decodes");
        assert_eq!(read, output.event, "{by} says what does not survive its encoding");
        let actor = output.actor.unwrap_or_else(|| Actor::system(by));
        let cause = Cause::Derived { by: by.to_owned(), from, ordinal };
        let Output { key, correlation, priority, event, .. } = output;
        self.journal(actor, &key, cause, correlation, priority, event)
    }

    fn step_all(&mut self, entry: &Record, samples: &Samples<'_>, said: &mut Said) {
        for processor in self.processors.clone() {
            if processor.reads.contains(&entry.envelope.kind) {
                self.step(&processor, entry, samples, None, said);
            }
        }
    }

    fn step(
        &mut self,
        processor: &Processor,
        entry: &Record,
        samples: &Samples<'_>,
        due: Option<&str>,
        said: &mut Said,
    ) {
        let folded = Folded { envelope: &entry.envelope, event: &entry.event, samples, due };
        let mut view = View::new(&mut self.store, processor.name);
        let outputs = (processor.step)(&mut view, &folded);
        let mut bytes = 0;
        for output in outputs {
            let kind = output.event.kind();
            assert!(processor.says.contains(&kind), "{} says {kind:?}", processor.name);
            bytes += output.event.encode().map_or(0, |it| it.len());
            let (by, from) = (processor.name, entry.envelope.seq);
            let ordinal = said.queue.len() as u32;
            said.queue.push_back(Saying { by, from, ordinal, output });
        }
        assert!(bytes <= SAID_BYTES_MAX, "{} says {bytes} bytes for one entry", processor.name);
    }
}

struct Saying {
    by: &'static str,
    from: u64,
    ordinal: u32,
    output: Output,
}

#[derive(Default)]
struct Said {
    queue: VecDeque<Saying>,
}

/// The id that tests use for `name`.
pub fn id(name: &str) -> Uuid {
    Uuid::named("healwright/test/v1", &[name.as_bytes()])
}
