//! Keyed state at a committed position: what a fold remembers between batches.
//!
//! Nothing here knows what a key means. A store is not trusted: it is `fold(chain)`, so its loss
//! costs the time of folding again and nothing else.

use std::sync::Arc;

use schemas::Hash;

use crate::LogError;

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

    /// Whether the store itself keeps in memory what is read and what is committed, and puts
    /// [`Parts`] over a value where it lies. A [`crate::State`] then keeps no values beside it,
    /// and only then do changes hold parts.
    fn is_resident(&self) -> bool {
        false
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

/// Equally long pieces that take the place of bytes of a value.
///
/// Where a batch touches a tenth of a value of a quarter of a megabyte, writing the value anew
/// costs more than all else that is done for the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Where each begins in the value.
    places: Vec<u32>,
    /// All of them, end to end.
    bytes: Vec<u8>,
}

impl Parts {
    /// Cuts `bytes` into as many equal pieces as there are `places`; of pieces that overlap the
    /// last wins.
    pub fn new(places: Vec<u32>, bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.len().is_multiple_of(places.len()));
        Parts { places, bytes }
    }

    /// Puts the pieces over `value`. One that does not lie within it changes nothing.
    pub fn apply(&self, value: &mut [u8]) {
        let n = self.bytes.len().checked_div(self.places.len()).unwrap_or(0).max(1);
        if n == LINE {
            let lines = self.places.iter().zip(self.bytes.as_chunks::<LINE>().0);
            lines.for_each(|(place, line)| put(value, *place, line));
        } else {
            let pieces = self.places.iter().zip(self.bytes.chunks_exact(n));
            pieces.for_each(|(place, piece)| put(value, *place, piece));
        }
    }
}

/// A line of a processor's cache. Pieces of this size are put in place without a call for each;
/// there are a hundred thousand in a batch.
const LINE: usize = 64;

#[inline(always)]
fn put(value: &mut [u8], place: u32, piece: &[u8]) {
    let at = place as usize;
    let there = value.get_mut(at..at + piece.len());
    debug_assert!(there.is_some(), "a piece at {at} lies outside its value");
    there.into_iter().for_each(|it| it.copy_from_slice(piece));
}

/// What one batch changes, sorted by key.
///
/// If a read failed while the batch was being folded, the changes carry that fault and every
/// commit and append refuses them: what was folded on a missing value never enters the chain.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pairs: Vec<(Arc<[u8]>, Option<Value>)>,
    /// Keys that are not among the pairs; none but for a store that is resident.
    parts: Vec<(Arc<[u8]>, Arc<Parts>)>,
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
        Changes { pairs, parts: Vec::new(), fault: None }
    }

    pub(crate) fn with_parts(mut self, mut parts: Vec<(Arc<[u8]>, Arc<Parts>)>) -> Self {
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        self.parts = parts;
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

    /// The values of which only parts change, sorted by key.
    pub(crate) fn parts(&self) -> &[(Arc<[u8]>, Arc<Parts>)] {
        &self.parts
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.parts.is_empty()
    }

    /// Refuses changes that were folded on a failed read.
    ///
    /// # Errors
    /// The fault of that read.
    pub fn sound(&self) -> Result<(), LogError> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    /// SHA-256 over the changes, length-prefixed, for comparing two folds of one batch.
    pub fn digest(&self) -> Hash {
        let mut out = schemas::wire::Writer::default();
        for (key, value) in self.pairs() {
            out.bytes(key);
            match value {
                None => out.u8(0),
                Some(value) => out.u8(1).bytes(value),
            };
        }
        for (key, parts) in &self.parts {
            out.bytes(key).u8(2).bytes(&parts.bytes);
            parts.places.iter().for_each(|it| {
                out.u64(u64::from(*it));
            });
        }
        Hash::of(&[b"healwright/changes/v1\0", &out.0])
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
