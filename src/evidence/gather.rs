//! What an export holds beside journal and tree: the newest cosigned head, and the telemetry
//! that the chain's evidence names, as far as it is still kept.
//!
//! Nothing here is trusted because it was found here. A cosigned head is taken when an epoch of
//! the chain signed it, a range when it has the digest of its seal; whoever verifies the export
//! checks both again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::Context as _;
use ledger::{Checkpoint, EpochKey, Note, SignedHead};
use schemas::event::{HeadCosigned, TelemetrySealed};
use schemas::{Entry, Event, Hash, Head, Kind};

use super::READ_BYTES;
use crate::engine::replay::kept_records;
use crate::journal::Journal;
use crate::node::Layout;

/// How evidence names a sealed range: `telemetry:<partition>/<from>-<to>#<digest>`.
const RANGE: &str = "telemetry:";

/// Heads and ranges for an export.
pub(super) struct Gathered {
    /// The newest signed head, with its cosignatures where it has some.
    pub(super) checkpoint: Vec<u8>,
    /// The newest cosigned head, where that is an older one.
    pub(super) witnessed: Option<Vec<u8>>,
    /// Length-prefixed records of ranges that evidence names, by their first position.
    pub(super) telemetry: BTreeMap<u64, Vec<u8>>,
}

/// What one walk over the journal finds.
#[derive(Default)]
struct Found {
    epochs: Vec<EpochKey>,
    cosigned: Option<HeadCosigned>,
    /// End and digest of each sealed range, by its first position.
    seals: BTreeMap<u64, (u64, Hash)>,
    /// First positions and digests of the ranges that evidence names.
    named: BTreeSet<(u64, String)>,
}

/// Gathers from the chain up to `head` and from the notes beside it, which were read before.
///
/// # Errors
/// The journal or its telemetry cannot be read.
pub(super) fn gather<J: Journal + ?Sized>(
    log: &J,
    head: &Head,
    checkpoint: Vec<u8>,
    beside: Option<Vec<u8>>,
) -> anyhow::Result<Gathered> {
    let found = walk(log, head).context("reading the journal")?;
    let journaled = found.cosigned.as_ref().and_then(|it| note_of(head, it));
    let signed = |bytes: &Vec<u8>| {
        let opened = found.epochs.iter().rev().map(|key| SignedHead::open(bytes, key));
        opened.flatten().next().filter(|it| it.checkpoint.size <= head.next_seq)
    };
    // One of a torn file and of a journal that lags a minute is enough.
    let candidates = beside.into_iter().chain(journaled).filter_map(|bytes| signed(&bytes));
    let newest = candidates.max_by_key(|it| it.checkpoint.size);
    let (checkpoint, witnessed) = match newest {
        Some(it) if signed(&checkpoint).is_some_and(|own| own.checkpoint == it.checkpoint) => {
            (it.note.encode(), None)
        }
        Some(it) => (checkpoint, Some(it.note.encode())),
        None => (checkpoint, None),
    };
    let telemetry = ranges(log, &found).context("reading telemetry")?;
    Ok(Gathered { checkpoint, witnessed, telemetry })
}

/// The bytes of the newest cosigned head, where there is one beside the journal.
pub(super) fn beside(layout: &Layout) -> Option<Vec<u8>> {
    fs::read(layout.witnessed()).ok()
}

fn walk<J: Journal + ?Sized>(log: &J, head: &Head) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut seq = 0;
    while seq < head.next_seq {
        for batch in log.read(seq, READ_BYTES)? {
            batch.entries.iter().for_each(|entry| found.take(head, entry));
            seq = batch.next_seq();
        }
    }
    Ok(found)
}

impl Found {
    fn take(&mut self, head: &Head, entry: &Entry) {
        if entry.envelope.kind == Kind::Tick {
            return;
        }
        self.named.extend(named(head.partition, &entry.payload));
        let logs = [Kind::OwnerElected, Kind::TelemetrySealed, Kind::HeadCosigned];
        if !logs.contains(&entry.envelope.kind) {
            return;
        }
        let Ok(event) = entry.event() else { return };
        if let Event::OwnerElected(elected) = &event {
            self.epochs.push(EpochKey::elected(&head.deployment, head.partition, elected));
        } else if let Event::TelemetrySealed(sealed) = &event
            && let Ok(digest) = sealed.digest.parse()
        {
            self.seals.insert(sealed.from, (sealed.to, digest));
        } else if let Event::HeadCosigned(cosigned) = event {
            self.cosigned = Some(cosigned);
        }
    }
}

/// The ranges that the texts of a payload name. Texts stand in Avro as they are, so the bytes
/// are searched, and evidence is found whatever field holds it.
fn named(partition: u32, payload: &[u8]) -> Vec<(u64, String)> {
    let first = RANGE.as_bytes();
    if !payload.windows(first.len()).any(|it| it == first) {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(payload);
    let own = format!("{partition}/");
    let range = |rest: &str| {
        let (from, rest) = rest.strip_prefix(&own)?.split_once('-')?;
        let (_, digest) = rest.split_once('#')?;
        let digest = digest.get(.."sha256:".len() + 64)?;
        Some((from.parse().ok()?, digest.to_owned()))
    };
    text.split(RANGE).skip(1).filter_map(range).collect()
}

/// The records of every named range that is still kept as it was sealed.
fn ranges<J: Journal + ?Sized>(log: &J, found: &Found) -> anyhow::Result<BTreeMap<u64, Vec<u8>>> {
    let mut ranges = BTreeMap::new();
    for (from, digest) in &found.named {
        let Some((to, sealed)) = found.seals.get(from) else { continue };
        if sealed.to_digest() != *digest {
            continue;
        }
        let (from, to, digest) = (*from, *to, digest.clone());
        let seal = TelemetrySealed { from, to, digest, n_samples: 0 };
        let Some(records) = kept_records(log, &seal)? else { continue };
        ranges.insert(from, records.framed().to_vec());
    }
    Ok(ranges)
}

/// The note that a journaled cosignature belongs to.
fn note_of(head: &Head, cosigned: &HeadCosigned) -> Option<Vec<u8>> {
    let root = cosigned.root.parse().ok()?;
    let checkpoint = Checkpoint::new(&head.deployment, head.partition, cosigned.size, root);
    let mut note = Note::new(&checkpoint.text()).ok()?;
    note.add_line(&cosigned.signature).ok()?;
    note.add_line(&cosigned.cosignature).ok()?;
    Some(note.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_in_any_text_and_of_this_partition_only() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let text = format!(
            "\u{1}x telemetry:0/17-19#{digest}\u{2}telemetry:1/3-4#{digest} \
             telemetry:0/x-9#{digest} telemetry:0/5-6#sha256:00 telemetry: telemetry:0/8-9#{digest}"
        );
        let expected = vec![(17, digest.clone()), (8, digest)];
        assert_eq!(named(0, text.as_bytes()), expected);
    }
}
