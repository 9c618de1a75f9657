//! Folding one input to rest: every processor, in declared order, folds every entry, inputs and
//! outputs alike, until nothing more is said. Live folding and replay both run this.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use schemas::envelope::Redaction;
use schemas::signature::PublicKey;
use schemas::telemetry::Samples;
use schemas::{Actor, Cause, Envelope, Event, Hash, Ns};
use state::{State, Wake};
use topologies::{Folded, Output, Processor, Store, View};

use super::bookkeeping;

/// A derivation more than this many steps from its input is a loop (protocol.md §2, "Depth").
pub const DEPTH_MAX: u32 = 32;
/// Wakes that one tick reaches; the rest are due with the next.
const WAKES_PER_TICK: usize = 4096;
/// Under this key the last tick stands in the state.
const TICK_KEY: &[u8] = b"engine/tick";

/// An entry before the sequencer has given it salt and commitment.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Everything but the commitment, which is zero here, live and in replay alike.
    pub envelope: Envelope,
    /// The typed payload.
    pub event: Event,
    /// Its stored bytes.
    pub payload: Vec<u8>,
}

/// What all entries of a batch share.
#[derive(Clone, Debug)]
pub struct Place {
    /// Genesis value of the partition.
    pub genesis: Hash,
    /// Partition of the journal.
    pub partition: u32,
    /// The sequencer's wall clock.
    pub wall: Ns,
}

/// An input on its way into the chain.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What is said.
    pub event: Event,
    /// Its stored bytes, as they came.
    pub payload: Vec<u8>,
    /// Key of its typed topic.
    pub key: String,
    /// Who says it.
    pub actor: Actor,
    /// Where it comes from.
    pub cause: Cause,
    /// Incident id, where there is one.
    pub correlation: Option<String>,
    /// 1–10.
    pub priority: u8,
    /// After this it is history only; zero is never.
    pub ttl: Ns,
}

/// Why an input cannot be folded.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Its derivations do not come to rest.
    Loop,
    /// A fold panicked.
    Panic {
        /// Processor that panicked.
        processor: &'static str,
        /// Entry it was folding.
        seq: u64,
        /// The panic's message.
        message: String,
    },
    /// A fold said what it may not, or what has no bytes.
    Said {
        /// Processor that said it.
        processor: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// All processors of the engine, in order: its own bookkeeping, then the loop.
pub fn processors() -> impl Iterator<Item = &'static Processor> {
    std::iter::once(&bookkeeping::PROCESSOR).chain(topologies::PROCESSORS)
}

/// The last tick folded; zero before the first.
pub fn last_tick(state: &State) -> Ns {
    let mut tick = 0;
    state.look(TICK_KEY, &mut |bytes| tick = bytes.try_into().map_or(0, u64::from_be_bytes));
    Ns(tick)
}

/// Folds `input` to rest on `state`, giving its entries sequences from `first_seq`.
///
/// # Errors
/// [`Fault`]; the overlay then holds half of it and must be discarded.
pub fn fold(
    state: &mut State,
    place: &Place,
    first_seq: u64,
    input: Incoming,
    samples: &Samples<'_>,
) -> Result<Vec<Draft>, Fault> {
    let mut tick = last_tick(state);
    let mut due = Vec::new();
    if let Event::Tick(it) = &input.event {
        tick = tick.max(it.now);
        state.put(TICK_KEY, tick.0.to_be_bytes().to_vec());
        due = state.due(tick.0, WAKES_PER_TICK);
        for wake in &due {
            state.unwake(&wake.processor, &wake.key);
        }
    }
    let none = Samples::default();
    let mut entries: Vec<Draft> = Vec::new();
    let mut queue = VecDeque::from([(input, 0u32)]);
    while let Some((incoming, depth)) = queue.pop_front() {
        if depth > DEPTH_MAX {
            return Err(Fault::Loop);
        }
        let seq = first_seq + entries.len() as u64;
        let draft = draft(place, seq, tick, incoming);
        let samples = if depth == 0 { samples } else { &none };
        let said = step_all(state, &draft, samples, &due)?;
        due.clear();
        for (ordinal, (processor, output)) in (0u32..).zip(said) {
            queue.push_back((derived(processor, seq, ordinal, output)?, depth + 1));
        }
        entries.push(draft);
    }
    Ok(entries)
}

/// Steps every processor that reads `draft`, in order.
fn step_all(
    state: &mut State,
    draft: &Draft,
    samples: &Samples<'_>,
    due: &[Wake],
) -> Result<Vec<(&'static Processor, Output)>, Fault> {
    let mut said = Vec::new();
    for wake in due {
        let Some(processor) = processors().find(|it| it.name == wake.processor) else { continue };
        let outputs = step(state, processor, draft, samples, Some(&wake.key))?;
        said.extend(outputs.into_iter().map(|output| (processor, output)));
    }
    for processor in processors().filter(|it| it.reads.contains(&draft.envelope.kind)) {
        let outputs = step(state, processor, draft, samples, None)?;
        said.extend(outputs.into_iter().map(|output| (processor, output)));
    }
    Ok(said)
}

fn step(
    state: &mut State,
    processor: &'static Processor,
    draft: &Draft,
    samples: &Samples<'_>,
    due: Option<&str>,
) -> Result<Vec<Output>, Fault> {
    let folded = Folded { envelope: &draft.envelope, event: &draft.event, samples, due };
    let mut keyed = Keyed(state);
    let mut view = View::new(&mut keyed, processor.name);
    // A fold is infallible; if it panics all the same, the partition stops at this entry
    // instead of taking the process and its freeze switch down with it.
    catch_unwind(AssertUnwindSafe(|| (processor.step)(&mut view, &folded))).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Fault::Panic {
            processor: processor.name,
            seq: draft.envelope.seq,
            message: message.unwrap_or_else(|| "no message".to_owned()),
        }
    })
}

fn derived(
    processor: &'static Processor,
    from: u64,
    ordinal: u32,
    output: Output,
) -> Result<Incoming, Fault> {
    let wrong = |why: String| Fault::Said { processor: processor.name, why };
    let kind = output.event.kind();
    if !processor.says.contains(&kind) {
        return Err(wrong(format!("{} is not among what it may say", kind.topic())));
    }
    let payload = output.event.encode().map_err(|error| wrong(error.to_string()))?;
    if payload.len() > topologies::fold::SAID_BYTES_MAX {
        return Err(wrong(format!("{} of {} bytes", kind.topic(), payload.len())));
    }
    Ok(Incoming {
        event: output.event,
        payload,
        key: output.key,
        actor: output.actor.unwrap_or_else(|| Actor::system(processor.name)),
        cause: Cause::Derived { by: processor.name.to_owned(), from, ordinal },
        correlation: output.correlation,
        priority: output.priority,
        ttl: output.ttl,
    })
}

fn draft(place: &Place, seq: u64, tick: Ns, incoming: Incoming) -> Draft {
    let trace_id = incoming.correlation.as_deref().map(trace_id);
    let envelope = Envelope {
        event_id: incoming.cause.event_id(&place.genesis),
        kind: incoming.event.kind(),
        partition: place.partition,
        seq,
        key: incoming.key,
        tick,
        wall: place.wall,
        actor: incoming.actor,
        cause: incoming.cause,
        correlation: incoming.correlation,
        trace_id,
        priority: incoming.priority,
        ttl_ms: incoming.ttl.as_ms(),
        redaction: Redaction::None,
        commitment: Hash::default(),
    };
    Draft { envelope, event: incoming.event, payload: incoming.payload }
}

/// One incident is one trace: its id is derived from the incident's (spec 90 §14).
fn trace_id(incident: &str) -> String {
    schemas::ids::hex(&Hash::of(&[b"healwright/trace/v1\0", incident.as_bytes()]).0[..16])
}

/// The state as processors see it.
pub(super) struct Keyed<'a>(pub(super) &'a mut State);

impl Store for Keyed<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }
    fn look(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) {
        self.0.look(key, look);
    }
    fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.0.put(key, value);
    }
    fn edit(&mut self, keys: &[Vec<u8>], edit: state::Edit<'_>) {
        self.0.edit(keys, edit);
    }
    fn delete(&mut self, key: &[u8]) {
        self.0.delete(key);
    }
    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0.scan(prefix)
    }
    fn wake(&mut self, processor: &'static str, key: &str, at: Ns) {
        self.0.wake(processor, key, at.0);
    }
    fn unwake(&mut self, processor: &'static str, key: &str) {
        self.0.unwake(processor, key);
    }
}
/// Reads folded state through the eyes of `processor`.
pub fn look<T>(state: &mut State, processor: &'static str, look: impl FnOnce(&View<'_>) -> T) -> T {
    let mut store = Keyed(state);
    look(&View::new(&mut store, processor))
}

/// The registered key of a signer.
pub fn signer(state: &mut State, name: &str) -> Option<PublicKey> {
    let signers = look(state, "config", topologies::config::signers);
    signers.keys.get(name).copied()
}
