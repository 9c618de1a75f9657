//! A node that starts without a copy of the chain, or far behind, begins with the newest
//! checkpoint and folds the rest.
//!
//! Nothing depends on it: without a checkpoint that holds, the chain is folded from where the
//! copy ends, or from zero. What is brought lies beside the copy until it is whole.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use schemas::Hash;
use state::checkpoint;
use state::embedded::Reader;

use super::{Depot, Restored, digest, manifest, places, restore};

/// A copy that lacks more entries than this is replaced: folding them takes longer than bringing
/// a checkpoint (about 150,000 entries are folded in a second).
const BEHIND_MAX: u64 = 1_000_000;

/// A position and the state that belongs there, on the word of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Sequence of the next entry to fold.
    pub position: u64,
    /// Logical state digest.
    pub state: Hash,
    /// The node that says so.
    pub node: String,
}

/// Takes in the newest checkpoint that holds, where `data` has no copy or one far behind. Answers
/// the state that folding has to pass through, where that is known.
///
/// # Errors
/// The data directory cannot be written, is in use, damaged, or holds another history.
pub fn begin(
    depot: &Depot,
    deployment: &str,
    partition: u32,
    data: &Path,
) -> anyhow::Result<Option<Expected>> {
    let staged = data.join("checkpoint.restoring");
    if staged.exists() {
        std::fs::remove_dir_all(&staged)
            .with_context(|| format!("removing {}", staged.display()))?;
    }
    let own = own_next_seq(data)?;
    let newest = match places(depot, deployment, partition) {
        Ok(places) => places.first().copied(),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(
                partition,
                error,
                "no checkpoint can be looked for; the chain is folded instead"
            );
            return Ok(None);
        }
    };
    let Some(newest) = newest else { return Ok(None) };
    if own.is_some_and(|own| newest <= own.saturating_add(BEHIND_MAX)) {
        return Ok(expected(depot, deployment, partition, newest));
    }
    let began = Instant::now();
    let whole =
        |restored: &Restored| Ok(checkpoint::verify_whole(&staged, &restored.signed.checkpoint)?);
    let restored = match restore(depot, deployment, partition, &staged, whole) {
        Ok(Some(restored)) => restored,
        Ok(None) => return Ok(None),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(
                partition,
                error,
                "no checkpoint can be brought; the chain is folded instead"
            );
            return Ok(None);
        }
    };
    checkpoint::install(&staged, data)?;
    let Restored { bytes, files, next_seq, signed } = restored;
    metrics::gauge!("healwright_restored_next_seq", "partition" => partition.to_string())
        .set(next_seq as f64);
    let (node, took) = (signed.node.id(), began.elapsed());
    let state = digest(&signed.checkpoint.state);
    tracing::info!(
        partition,
        next_seq,
        files,
        bytes,
        node,
        state,
        ?took,
        "restored from a checkpoint"
    );
    Ok(None)
}

/// Entries in the copy that is there.
fn own_next_seq(data: &Path) -> anyhow::Result<Option<u64>> {
    if !data.join("journal").exists() {
        return Ok(None);
    }
    Ok(Some(Reader::open(data)?.head()?.next_seq))
}

/// What the checkpoint at `newest` says of the state, if its signature holds.
fn expected(depot: &Depot, deployment: &str, partition: u32, newest: u64) -> Option<Expected> {
    match manifest(depot, deployment, partition, newest) {
        Ok(signed) => {
            let (position, state) = (signed.checkpoint.position, signed.checkpoint.state);
            Some(Expected { position, state, node: signed.node.id() })
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(partition, checkpoint = newest, error, "a checkpoint does not verify");
            None
        }
    }
}
