//! What the journal says about a batch that waits and about a record that was skipped: the rules
//! of protocol.md §2, "Yield", "Retry" and "Truncation", without a broker.
//!
//! No thread, no clock and no topic, so that the simulation of the Kafka log decides with the
//! code that runs in production.

use schemas::link::{claim, election};
use schemas::{Batch, Hash, Head, Skip, link};

use crate::log::RECORD_BYTES_MAX;
use crate::{Append, LogError};

/// What is known before `batch`, a record of so many bytes, is sent: an answer if the chain has
/// moved already, and nothing if it may be sent after `head`.
///
/// # Errors
/// [`LogError::Unlinked`] and [`LogError::TooLarge`]: nobody could link or store it.
pub fn offered(
    head: &Head,
    expected: &Head,
    batch: &Batch,
    bytes: usize,
) -> Result<Option<Append>, LogError> {
    if head.hash == batch.hash() {
        return Ok(Some(Append::Appended(head.clone())));
    }
    if head != expected {
        return Ok(Some(Append::Lost(head.clone())));
    }
    let first_seq = batch.header.first_seq;
    link(head, batch).map_err(|skip| LogError::Unlinked { first_seq, skip })?;
    if bytes > RECORD_BYTES_MAX {
        return Err(LogError::TooLarge { bytes, bytes_max: RECORD_BYTES_MAX });
    }
    Ok(None)
}

/// A batch that was sent and is waited for.
pub struct Waiting {
    hash: Hash,
    prev: Hash,
    epoch: u64,
    /// Whether it takes office for granted. An election contests; everything else yields.
    standing: bool,
}

impl Waiting {
    /// The one that waits for `batch`.
    pub fn of(batch: &Batch) -> Self {
        Waiting {
            hash: batch.hash(),
            prev: batch.header.prev,
            epoch: batch.header.epoch,
            standing: election(batch).is_none(),
        }
    }

    /// What became of it, where the chain is read up to `head` and the highest epoch that was
    /// claimed, linked or not, is `claimed`. As long as that is nothing, the same bytes may be
    /// sent again: a second copy does not link.
    pub fn outcome(&self, head: &Head, claimed: u64) -> Option<Result<Append, LogError>> {
        if head.hash == self.hash {
            return Some(Ok(Append::Appended(head.clone())));
        }
        if head.hash != self.prev {
            return Some(Ok(Append::Lost(head.clone())));
        }
        let yields = self.standing && self.epoch < claimed;
        yields.then_some(Err(LogError::Yielded { epoch: claimed }))
    }
}

/// Whether `batch`, skipped for `skip`, is a certified election that names a batch outside the
/// chain that ends at `head`: somebody follows another history. Its author had read what stands
/// before it in the journal, and so has who asks; so a place beyond `head` is none of this chain,
/// either. `hash_at` answers the hash of the batch that holds a sequence.
///
/// # Errors
/// What `hash_at` answers.
pub fn contradicts(
    head: &Head,
    batch: &Batch,
    skip: Skip,
    hash_at: impl FnOnce(u64) -> Result<Hash, LogError>,
) -> Result<bool, LogError> {
    let certified = claim(&head.deployment, head.partition, batch).is_some();
    if !certified || skip != Skip::Prev {
        return Ok(false);
    }
    if head.next_seq < batch.header.first_seq {
        return Ok(true);
    }
    let named = match batch.header.first_seq.checked_sub(1) {
        None => schemas::link::genesis(&head.deployment, head.partition),
        Some(seq) => hash_at(seq)?,
    };
    Ok(named != batch.header.prev)
}
