//! The breaks of protocol.md §2 that concern the log: each is one rule left out of the simulated
//! part. The owner and the rules of `schemas::link` and `state::kafka::verdict` stay what they
//! are in production; a broken world goes around them.

use std::collections::HashMap;

use schemas::link::{claim, election};
use schemas::signature::KeyPair;
use schemas::{Batch, Entry, Hash, Head, Positions, Skip, link};

use crate::topic::Record;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    Nothing,
    /// An append is answered when the broker has it, before it is read back.
    AcknowledgesOnTheBrokersWord,
    /// What a lost batch would have changed stays in the store.
    KeepsTheOverlayAfterLost,
    /// Repeats are recognised from what the process remembers having sent.
    RemembersRepeatsOutsideTheState,
    /// A repeat is answered when its batch is sent.
    AnswersARepeatWhoseFirstIsUnlinked,
    /// Readers link whatever is signed under the current epoch or opens the next.
    ChecksNeitherPrevNorPositions,
    /// A candidate does not read to the end, and readers take its election all the same.
    ElectsOnAnOldHead,
    /// A batch that was lost is signed again for the new head.
    RetriesWithoutTakingAgain,
    /// Whoever has yielded never contests again.
    StepsDownForGood,
    /// Claims of others are not heeded.
    NeverYields,
    /// Effects start when the batch is sent.
    DispatchesBeforeReadBack,
    /// A reader beyond the end of the topic goes on where the topic ends now.
    ReadsOnAfterTruncation,
    /// A process that starts does not look whether its last batch is still there.
    ForgetsInARestartWhatItRead,
}

/// The rules of reading, each asked once for the same record at the same head: verifying a
/// signature is what a simulated reader spends its time on.
pub(crate) struct Rules {
    pub(crate) broken: Break,
    admitted: HashMap<(Hash, u64, u64, Hash), Result<Head, Skip>>,
    claims: HashMap<Hash, u64>,
}

impl Rules {
    pub(crate) fn new(broken: Break) -> Self {
        Rules { broken, admitted: HashMap::new(), claims: HashMap::new() }
    }

    /// The link rule, or what is left of it.
    pub(crate) fn admits(&mut self, head: &Head, record: &Record) -> Result<Head, Skip> {
        let broken = self.broken;
        let key = (head.hash, head.next_seq, head.epoch, record.hash);
        self.admitted.entry(key).or_insert_with(|| broken.admits(head, &record.batch)).clone()
    }

    /// The epoch that a record claims office with, linked or not; 0 is none.
    pub(crate) fn claimed(&mut self, head: &Head, record: &Record) -> u64 {
        let claimed = || claim(&head.deployment, head.partition, &record.batch).unwrap_or(0);
        *self.claims.entry(record.hash).or_insert_with(claimed)
    }
}

impl Break {
    fn admits(self, head: &Head, batch: &Batch) -> Result<Head, Skip> {
        let linked = link(head, batch);
        let elects = self == Break::ElectsOnAnOldHead && election(batch).is_some();
        let excused = elects || self == Break::ChecksNeitherPrevNorPositions;
        if linked.is_ok() || !excused {
            return linked;
        }
        let header = &batch.header;
        let (hash, next_seq, positions) = (header.prev, header.first_seq, header.positions);
        link(&Head { hash, next_seq, positions, ..head.clone() }, batch)
    }
}

/// The entries of `lost`, signed again for the place of `batch`.
pub(crate) fn signed_again(lost: &Batch, batch: &Batch, key: &KeyPair) -> Batch {
    let mut header = batch.header.clone();
    let (old, new) = (lost.header.positions, header.positions);
    header.positions = Positions {
        inbox: old.inbox.max(new.inbox),
        control: old.control.max(new.control),
        telemetry: old.telemetry.max(new.telemetry),
    };
    let entries = (header.first_seq..).zip(&lost.entries).map(|(seq, entry)| {
        let mut envelope = entry.envelope.clone();
        envelope.seq = seq;
        Entry::new(envelope, entry.salt, entry.payload.clone())
    });
    let entries = entries.collect();
    Batch::sign(header, entries, key)
}
