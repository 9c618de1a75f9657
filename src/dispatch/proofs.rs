//! What a runner can check with nothing but the deployment's id: a signed head that extends the
//! last one it saw, and entries under it.

use ledger::entry::EntryProof;
use runner::wire::{Base64, Evidence, Proven};
use schemas::{Entry, Place};

use crate::engine::owner::Owner;
use crate::engine::{EngineError, wall_now};

/// Evidence from the head of size `from` to one that is signed now, with the entries at `seqs`.
///
/// Runs on the owner's thread, because the tree is the owner's.
///
/// # Errors
/// The head cannot be signed, or the log cannot be read.
pub(super) fn evidence(
    owner: &mut Owner,
    from: u64,
    seqs: &[u64],
) -> Result<Evidence, EngineError> {
    owner.sign_head(wall_now(), true)?;
    let (heads, state) = owner.tree();
    let missing = ledger::Error::Range { place: from, size: 0 };
    let (signed, key) = heads.signed().ok_or(missing)?;
    let consistency = heads.extends(state, from)?;
    let mut evidence = Evidence::new(signed.note.encode(), key, from, consistency);
    for seq in seqs {
        let EntryProof { path, .. } = heads.prove(state, *seq)?;
        let entry = Base64(entry(owner, *seq)?.to_bytes());
        evidence.entries.push(Proven { entry, index: *seq, path });
    }
    Ok(evidence)
}

/// The stored entry at `seq`.
///
/// # Errors
/// The log cannot be read there.
pub(super) fn entry(owner: &Owner, seq: u64) -> Result<Entry, EngineError> {
    let batches = owner.log().read(seq, 1)?;
    let found = batches.into_iter().flat_map(|it| it.entries).find(|it| it.envelope.seq == seq);
    let size = owner.head().next_seq;
    found.ok_or(EngineError::Ledger(ledger::Error::Range { place: seq, size }))
}

/// The sequence in `immutable:log:<partition>/<seq>`.
pub(super) fn seq_of(reference: &str) -> Option<u64> {
    reference.parse::<Place>().ok().map(|it| it.seq)
}
