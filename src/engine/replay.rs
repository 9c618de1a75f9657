//! Folding what the chain already holds: at start for the gap between state and chain, and in
//! `healwright replay` for all of it. The folds are the same as live; what they say is compared
//! with what was recorded, byte for byte.
//!
//! Read from the chain, because they are the sequencer's: place, wall clock, salt, signature.
//! Everything else is derived again. Beyond the retention of telemetry the recorded anomalies
//! are inputs, and the answer says `detection: as recorded` (protocol.md §4).

use schemas::event::TelemetrySealed;
use schemas::telemetry::Samples;
use schemas::{Batch, Cause, Entry, Envelope, Event, Head};
use state::{Records, State, Store};

use super::EngineError;
use super::fold::{self, Draft, Incoming, Place};
use super::owner::seal_digest;
use crate::journal::Journal;

/// Batches are read in runs of about this size.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// The first place at which the folds say something else than the chain holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The entry.
    pub place: String,
    /// Processor that says it.
    pub processor: String,
    /// What the chain holds there.
    pub recorded: String,
    /// What the fold says.
    pub derived: String,
}

/// What a replay came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Entries folded or compared.
    pub events: u64,
    /// Entries that were derived anew and compared.
    pub compared: u64,
    /// Whether some sealed range was no longer kept, so that detection is as recorded.
    pub as_recorded: bool,
    /// The first difference.
    pub difference: Option<Difference>,
}

impl Replayed {
    /// Whether every decision came out the same.
    pub fn identical(&self) -> bool {
        self.difference.is_none()
    }
}

/// Folds what the chain holds beyond the state, up to `head` and no further: on a shared log the
/// chain may have grown since, and who asks goes on at `head`.
///
/// # Errors
/// The folds say something else than the chain holds: the partition must not go on.
pub fn catch_up<J: Journal + ?Sized>(
    log: &J,
    store: &dyn Store,
    state: &mut State,
    place: &Place,
    head: &Head,
) -> Result<(), EngineError> {
    let mut done = Replayed::default();
    let mut seq = store.position()?;
    while seq < head.next_seq {
        let read = log.read(seq, READ_BYTES)?;
        for batch in read.iter().filter(|it| it.header.first_seq < head.next_seq) {
            replay_batch(log, state, place, batch, &mut done)?;
            if let Some(Difference { place, processor, recorded, derived }) = done.difference {
                let why = format!("{processor} says {derived}; recorded is {recorded}");
                return Err(EngineError::Diverged { place, why });
            }
            seq = batch.next_seq();
            store.commit(seq, &state.changes())?;
            state.commit();
        }
    }
    Ok(())
}

/// Folds `batch` on `state` and compares. The overlay holds the result; the caller commits.
///
/// # Errors
/// The log cannot be read, or a recorded payload does not decode.
pub fn replay_batch<J: Journal + ?Sized>(
    log: &J,
    state: &mut State,
    place: &Place,
    batch: &Batch,
    done: &mut Replayed,
) -> Result<(), EngineError> {
    let place = Place { wall: batch.header.wall, ..place.clone() };
    let mut at = 0;
    while at < batch.entries.len() && done.difference.is_none() {
        let input = &batch.entries[at];
        let event = input.event()?;
        let records = sealed_records(log, &event, done)?;
        let mut samples = Samples::default();
        for (_, record) in records.iter() {
            // What the owner refused has an entry of its own.
            let _ = samples.read(record);
        }
        let recorded = consequences(&batch.entries[at..]);
        let incoming = incoming(input, event);
        let seq = input.envelope.seq;
        let mut drafts = match fold::fold(state, &place, seq, incoming, &samples) {
            Ok(drafts) => drafts,
            Err(fault) => {
                done.difference = Some(Difference {
                    place: input.envelope.reference(),
                    processor: "engine".to_owned(),
                    recorded: "an input that was folded".to_owned(),
                    derived: format!("{fault:?}"),
                });
                return Ok(());
            }
        };
        done.difference = compare(recorded, &mut drafts);
        done.events += recorded.len() as u64;
        done.compared += recorded.len() as u64 - 1;
        at += recorded.len();
    }
    Ok(())
}

/// The input at the front and everything derived from it.
fn consequences(entries: &[Entry]) -> &[Entry] {
    let derived = |entry: &&Entry| matches!(entry.envelope.cause, Cause::Derived { .. });
    let n = entries.iter().skip(1).take_while(derived).count();
    &entries[..=n]
}

fn incoming(entry: &Entry, event: Event) -> Incoming {
    let Envelope { key, actor, cause, correlation, priority, ttl_ms, .. } = entry.envelope.clone();
    Incoming {
        event,
        payload: entry.payload.clone(),
        key,
        actor,
        cause,
        correlation,
        priority,
        ttl: schemas::Ns::from_ms(ttl_ms),
    }
}

/// The records of a sealed range, where they are still kept and still the ones that were sealed.
fn sealed_records<J: Journal + ?Sized>(
    log: &J,
    event: &Event,
    done: &mut Replayed,
) -> Result<Records, EngineError> {
    let Event::TelemetrySealed(sealed) = event else { return Ok(Records::default()) };
    let kept = kept_records(log, sealed)?;
    done.as_recorded |= kept.is_none();
    Ok(kept.unwrap_or_default())
}

/// The records of a sealed range, unless they are no longer kept as they were sealed.
pub(crate) fn kept_records<J: Journal + ?Sized>(
    log: &J,
    sealed: &TelemetrySealed,
) -> Result<Option<Records>, EngineError> {
    let TelemetrySealed { from, to, digest, .. } = sealed;
    let mut records = Records::default();
    let mut next = *from;
    while next < *to {
        let taken = log.telemetry(next, READ_BYTES)?;
        let Some(last) = taken.last() else { break };
        records.extend(&taken, &(*from..*to));
        next = last + 1;
    }
    let whole = seal_digest(&records) == *digest;
    Ok(whole.then_some(records))
}

/// Compares entry by entry: type, version, key, cause, actor and payload, byte for byte. The
/// commitment is the sequencer's; the drafts take the recorded one, so that the rest compares
/// without a copy.
fn compare(recorded: &[Entry], drafts: &mut [Draft]) -> Option<Difference> {
    for (entry, draft) in recorded.iter().zip(&mut *drafts) {
        draft.envelope.commitment = entry.envelope.commitment;
        if entry.envelope != draft.envelope || entry.payload != draft.payload {
            return Some(Difference {
                place: entry.envelope.reference(),
                processor: processor_of(&entry.envelope),
                recorded: describe(&entry.envelope, entry.event().ok().as_ref()),
                derived: describe(&draft.envelope, Some(&draft.event)),
            });
        }
    }
    let (short, long) = (drafts.len().min(recorded.len()), drafts.len().max(recorded.len()));
    if short == long {
        return None;
    }
    let missing = "nothing".to_owned();
    let entry = recorded.get(short);
    let draft = drafts.get(short);
    let envelope = entry.map(|it| &it.envelope).or_else(|| draft.map(|it| &it.envelope))?;
    Some(Difference {
        place: envelope.reference(),
        processor: processor_of(envelope),
        recorded: entry
            .map_or_else(|| missing.clone(), |it| describe(&it.envelope, it.event().ok().as_ref())),
        derived: draft
            .map_or_else(|| missing.clone(), |it| describe(&it.envelope, Some(&it.event))),
    })
}

fn processor_of(envelope: &Envelope) -> String {
    match &envelope.cause {
        Cause::Derived { by, .. } => by.clone(),
        Cause::Observed { .. } | Cause::Owner { .. } => "owner".to_owned(),
    }
}

fn describe(envelope: &Envelope, event: Option<&Event>) -> String {
    let payload = event.and_then(|event| serde_json::to_string(event).ok()).unwrap_or_default();
    format!("{} key {} {payload}", envelope.kind.topic(), envelope.key)
}
