//! Taking: a bounded run from `inbox.control`, then `inbox`, then telemetry, and a tick when one
//! is due (protocol.md §2, step 1).
//!
//! Nothing here is durable: positions move with the batch, or not at all.

use schemas::envelope::ENVELOPE_BYTES_MAX;
use schemas::event::{InputRefused, TelemetrySealed, Tick, stream_name};
use schemas::telemetry::Samples;
use schemas::{Cause, Event, Hash, Ns, Positions, Stream, codec};
use state::Records;

use super::{BATCH_BYTES_FULL, Draught, Owner, SEAL_BYTES_MAX, Stop, TICK_ACTIVE, Taken};
use crate::engine::Input;
use crate::engine::bookkeeping::{self, First};
use crate::engine::fold::{self, Incoming};

/// An input above this is refused, and kept in quarantine. Half a record is filled at most before
/// the last input is taken, so this much and its consequences still fit in
/// (docs/decisions/0008).
const INPUT_BYTES_MAX: usize = 256 * 1024;
/// So much of an envelope may be an input's own words; the rest is the sequencer's.
const NAMES_BYTES_MAX: usize = ENVELOPE_BYTES_MAX / 2;

impl Owner {
    pub(super) fn take_tick(&mut self, draught: &mut Draught, wall: Ns) -> Result<(), Stop> {
        let last = fold::last_tick(&self.state);
        let waiting = [Stream::Control, Stream::Inbox, Stream::Telemetry];
        let busy = waiting.iter().any(|stream| {
            let from = self.position(*stream);
            self.log.take(*stream, from, 1).is_ok_and(|records| !records.is_empty())
        });
        let spacing = if busy { last + TICK_ACTIVE } else { self.next_due() };
        let wanted = std::mem::take(&mut self.tick_wanted) && last < wall;
        if last != Ns(0) && wall < spacing && !wanted {
            return Ok(());
        }
        // The wall clock may step back; tick time does not.
        let tick = Tick { partition: self.place.partition, now: wall.max(last) };
        let input = self.own(tick.into(), self.place.partition.to_string());
        self.fold_into(draught, input, &Samples::default(), None)
    }

    fn position(&self, stream: Stream) -> u64 {
        position(&mut self.taken.clone(), stream).to_owned()
    }

    pub(super) fn take_inputs(
        &mut self,
        draught: &mut Draught,
        stream: Stream,
    ) -> Result<(), Stop> {
        let from = *position(&mut draught.positions, stream);
        for (at, record) in self.log.take(stream, from, BATCH_BYTES_FULL)?.iter() {
            if draught.bytes > BATCH_BYTES_FULL {
                draught.more = true;
                break;
            }
            match Input::read(record) {
                Ok((input, written)) => self.take_input(draught, stream, at, input, written)?,
                Err(error) => self.refuse(draught, stream, at, record, &error.to_string())?,
            }
            *position(&mut draught.positions, stream) = at + 1;
        }
        Ok(())
    }

    fn take_input(
        &mut self,
        draught: &mut Draught,
        stream: Stream,
        at: u64,
        input: Input,
        written: &[u8],
    ) -> Result<(), Stop> {
        if let Some(first) = self.first_of(&input.event) {
            let (seq, repeated) = (first.seq, true);
            draught.taken.push(Taken { stream, position: at, seq, repeated, refused: None });
            return Ok(());
        }
        let payload = payload(&input.event, written)?;
        let reason = self.alone.get(&(stream, at)).cloned().or_else(|| too_large(&input, &payload));
        if let Some(reason) = reason {
            return self.refuse(draught, stream, at, &input.encode()?, &reason);
        }
        let seq = self.next_seq(draught);
        let incoming = Incoming {
            payload,
            event: input.event,
            key: input.key,
            actor: input.actor,
            cause: Cause::Observed { stream, position: at },
            correlation: input.correlation,
            priority: input.priority,
            ttl: Ns(0),
        };
        self.fold_into(draught, incoming, &Samples::default(), Some((stream, at)))?;
        draught.taken.push(Taken { stream, position: at, seq, repeated: false, refused: None });
        Ok(())
    }

    /// The entry that an earlier event with the same client id became, from folded state alone.
    fn first_of(&mut self, event: &Event) -> Option<First> {
        let key = bookkeeping::client_id(event)?;
        self.look(bookkeeping::PROCESSOR.name, |view| view.load(&key))
    }

    pub(super) fn take_telemetry(&mut self, draught: &mut Draught) -> Result<(), Stop> {
        let from = draught.positions.telemetry;
        let records = self.log.take(Stream::Telemetry, from, SEAL_BYTES_MAX)?;
        let Some(last) = records.last() else { return Ok(()) };
        let to = last + 1;
        let mut samples = std::mem::take(&mut self.spare).recycle();
        for (n, (at, record)) in records.iter().enumerate() {
            if let Err(error) = samples.read(record) {
                self.refuse(draught, Stream::Telemetry, at, record, &error.to_string())?;
            }
            if n == 0 {
                // Records of one sender are alike.
                samples.reserve(records.n_bytes() / record.len().max(1) * 9 / 8);
            }
        }
        let sealed = TelemetrySealed {
            from,
            to,
            digest: seal_digest(&records),
            n_samples: samples.len() as u64,
        };
        let input = self.own(sealed.into(), self.place.partition.to_string());
        self.fold_into(draught, input, &samples, Some((Stream::Telemetry, from)))?;
        self.spare = samples.recycle();
        draught.positions.telemetry = to;
        Ok(())
    }

    /// An input that cannot be folded is kept in quarantine and stands alone with its reason.
    fn refuse(
        &mut self,
        draught: &mut Draught,
        stream: Stream,
        at: u64,
        record: &[u8],
        reason: &str,
    ) -> Result<(), Stop> {
        let digest = self.log.quarantine(record, reason)?;
        let refused = InputRefused {
            stream: stream_name(stream).to_owned(),
            position: at,
            reason: reason.to_owned(),
            digest: digest.to_digest(),
        };
        let seq = self.next_seq(draught);
        let input = self.own(refused.into(), stream_name(stream).to_owned());
        self.fold_into(draught, input, &Samples::default(), None)?;
        let refused = Some(reason.to_owned());
        draught.taken.push(Taken { stream, position: at, seq, repeated: false, refused });
        Ok(())
    }
}

/// What is journaled of an input. Under the current schema there is one way to write it. Under
/// another one it stays as its sender wrote it: a node of the next release may have said more
/// than this one knows, and whoever knows it reads it there.
fn payload(event: &Event, written: &[u8]) -> Result<Vec<u8>, schemas::Error> {
    match codec::split(written) {
        Some((form, _)) if form != codec::fingerprint(event.kind()) => Ok(written.to_owned()),
        Some(_) | None => event.encode(),
    }
}

/// Why an input cannot stand in a record, if so.
fn too_large(input: &Input, payload: &[u8]) -> Option<String> {
    let names = [Some(&input.key), Some(&input.actor.id), input.correlation.as_ref()];
    let n_names: usize = names.into_iter().flatten().map(String::len).sum();
    let limits = [("payload", payload.len(), INPUT_BYTES_MAX), ("key", n_names, NAMES_BYTES_MAX)];
    let over = limits.into_iter().find(|(_, n, max)| n > max);
    over.map(|(what, n, max)| format!("its {what} has {n} bytes, and at most {max} are taken"))
}

fn position(positions: &mut Positions, stream: Stream) -> &mut u64 {
    match stream {
        Stream::Inbox => &mut positions.inbox,
        Stream::Control => &mut positions.control,
        Stream::Telemetry => &mut positions.telemetry,
    }
}

/// SHA-256 over the length-prefixed records of a sealed range.
pub fn seal_digest(records: &Records) -> String {
    Hash::of(&[records.framed()]).to_digest()
}
