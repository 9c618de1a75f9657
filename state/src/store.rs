//! Keyed state at a committed position: what a fold remembers between batches.
//!
//! Nothing here knows what a key means. A store is not trusted: it is `fold(chain)`, so its loss
//! costs the time of folding again and nothing else.

use std::sync::Arc;

use schemas::Hash;

use crate::{LogError, Resident};

/// Domain of the logical state digest. Persisted: frozen.
const DIGEST_DOMAIN: &[u8] = b"healwright/state/v1\0";

/// Keyed state as it was after the last batch committed to it.
///
/// *Position.* [`Store::position`] is the sequence of the next entry to fold: everything before
/// it is folded in, nothing after. A store may lag its chain and never leads it; on start the
/// owner folds the gap.
///
/// *Atomicity.* Changes and position become visible and durable together or not at all.
///
/// *Order.* [`Store::scan`] goes in the order of the keys' bytes.
///
/// *Who may call.* Any thread may read. Only the partition's owner commits, from one thread.
pub trait Store: Send + Sync {
    /// The value of `key` at the committed position.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when the stored value cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError>;

    /// Hands every pair whose key begins with `prefix` to `each`, in order of the keys.
    ///
    /// # Errors
    /// [`LogError::Corrupt`]; what has been handed out until then must not be used.
    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError>;

    /// Shows `look` the value of `key` where there is one; it must not come back to this store.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn look(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<(), LogError> {
        self.get(key)?.as_deref().into_iter().for_each(look);
        Ok(())
    }

    /// The same store, where it keeps in memory what is read and what is committed.
    fn resident(&self) -> Option<&dyn Resident> {
        None
    }

    /// Sequence of the next entry to fold.
    ///
    /// # Errors
    /// [`LogError::Corrupt`].
    fn position(&self) -> Result<u64, LogError>;

    /// Puts `changes` and `next_seq` in place of what was there, in one durable write.
    ///
    /// This is for folding a gap; [`crate::Log::append`] commits what it appends itself.
    ///
    /// # Errors
    /// The fault that `changes` carry, or [`LogError::Fatal`].
    fn commit(&self, next_seq: u64, changes: &Changes) -> Result<(), LogError>;
}

impl dyn Store + '_ {
    /// The logical state digest at the committed position: what [`crate::State::digest`]
    /// answers when nothing is pending.
    ///
    /// # Errors
    /// [`LogError::Corrupt`].
    pub fn digest(&self) -> Result<Hash, LogError> {
        let mut digest = Digest::default();
        self.scan(&[], &mut |key, value| digest.add(key, Some(value)))?;
        Ok(digest.hash())
    }
}

/// A value as it is handed from the overlay to the cache and to the store: shared, not copied.
pub(crate) type Value = Arc<Vec<u8>>;

/// What one batch changes, sorted by key.
///
/// If a read failed while the batch was being folded, the changes carry that fault and every
/// commit and append refuses them: what was folded on a missing value never enters the chain.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pairs: Vec<(Arc<[u8]>, Option<Value>)>,
    /// Whether the batch has also changed values where they lie ([`Resident::edit`]).
    are_in_place: bool,
    fault: Option<LogError>,
}

impl Changes {
    /// Changes from pairs in any order; of equal keys the last wins. `None` deletes.
    pub fn new(pairs: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Self {
        let shared = |(key, value): (Vec<u8>, Option<Vec<u8>>)| (key.into(), value.map(Arc::new));
        Changes::shared(pairs.into_iter().map(shared).collect())
    }

    pub(crate) fn shared(mut pairs: Vec<(Arc<[u8]>, Option<Value>)>) -> Self {
        // The sort is stable: of equal keys the last in the list stays last in its run.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1.take();
            }
            same
        });
        Changes { pairs, are_in_place: false, fault: None }
    }

    pub(crate) fn with_in_place(mut self, are_in_place: bool) -> Self {
        self.are_in_place = are_in_place;
        self
    }

    pub(crate) fn with_fault(mut self, fault: Option<LogError>) -> Self {
        self.fault = fault;
        self
    }

    /// The pairs, sorted by key, each key once. `None` deletes.
    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.pairs.iter().map(|(key, value)| (&**key, value.as_deref().map(Vec::as_slice)))
    }

    /// What `key` becomes; `None` where it stays what it is.
    pub(crate) fn value(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let at = self.pairs.binary_search_by(|(it, _)| (**it).cmp(key)).ok()?;
        Some(self.pairs[at].1.as_deref().map(Vec::as_slice))
    }

    pub(crate) fn values(&self) -> &[(Arc<[u8]>, Option<Value>)] {
        &self.pairs
    }

    pub(crate) fn are_in_place(&self) -> bool {
        self.are_in_place
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && !self.are_in_place
    }

    /// Refuses changes that were folded on a failed read.
    ///
    /// # Errors
    /// The fault of that read.
    pub fn sound(&self) -> Result<(), LogError> {
        self.fault.clone().map_or(Ok(()), Err)
    }
}

/// SHA-256 of the domain and of SHA-256(len32 key ‖ len32 value) of each pair, in order.
#[derive(Default)]
pub(crate) struct Digest(Vec<u8>);

impl Digest {
    pub(crate) fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(value) = value else { return };
        let len = |it: &[u8]| (it.len() as u32).to_be_bytes();
        self.0.extend(Hash::of(&[&len(key), key, &len(value), value]).0);
    }

    pub(crate) fn hash(&self) -> Hash {
        Hash::of(&[DIGEST_DOMAIN, &self.0])
    }
}
