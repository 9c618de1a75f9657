//! The series of one shard as they are kept: records in order of hash, read and written in place.
//! A record is one line of the processor's cache, so a sample costs one miss.

use std::cmp::Ordering;

use schemas::Ns;

use super::generic::SeriesState;

pub(super) const SHARDS: usize = 256;
/// Steps from where a series should stand to where it does, before it is searched for.
const STEPS_MAX: usize = 32;
/// Series of a shard; about a million in all, 64 MiB of state. Further ones are not kept.
const SHARD_MAX: usize = 4096;
/// A full shard forgets series that have been silent for so long.
const IDLE: Ns = Ns::from_s(24 * 3600);
/// Bytes of one series' state. Persisted: frozen.
pub(super) const RECORD: usize = 64;

/// Where a shard stands in the state. Persisted: frozen.
pub(super) fn shard_key(index: usize) -> [u8; 7] {
    let mut key = *b"series/";
    key[6] = index as u8;
    key
}

/// The shard of a series.
pub(super) fn shard_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// The records of one shard.
#[derive(Clone, Copy, Default)]
pub(super) struct Shard<B>(pub(super) B);

impl<B: AsRef<[u8]>> Shard<B> {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().len() / RECORD
    }

    pub(super) fn record(&self, at: usize) -> &[u8] {
        &self.0.as_ref()[at * RECORD..(at + 1) * RECORD]
    }

    pub(super) fn hash(&self, at: usize) -> u64 {
        let mut hash = [0; 8];
        hash.copy_from_slice(&self.record(at)[..8]);
        u64::from_le_bytes(hash)
    }

    pub(super) fn state(&self, at: usize) -> SeriesState {
        SeriesState::read(self.record(at))
    }

    /// `at`, if `hash` stands there.
    #[inline]
    pub(super) fn stands_at(&self, at: usize, hash: u64) -> Option<usize> {
        (at < self.len() && self.hash(at) == hash).then_some(at)
    }

    /// Where `hash` stands, or where it would. Hashes are spread evenly, so it is near the share
    /// of the range that it lies at: a step or two from there instead of a search by halves,
    /// which is the way out for names chosen to lie in a heap.
    #[inline]
    pub(super) fn find(&self, hash: u64) -> Result<usize, usize> {
        let n = self.len();
        let mut at = self.near(hash);
        for _ in 0..STEPS_MAX {
            let here = (at < n).then(|| self.hash(at));
            match here {
                Some(here) if here == hash => return Ok(at),
                Some(here) if here < hash => at += 1,
                _ if at > 0 && self.hash(at - 1) >= hash => at -= 1,
                _ => return Err(at),
            }
        }
        self.search(hash)
    }

    /// Where `hash` should stand, or next to it.
    #[inline]
    fn near(&self, hash: u64) -> usize {
        // The first byte is the shard's, the same for all.
        let share = u128::from(hash << 8) * self.len() as u128;
        (share >> 64) as usize
    }

    /// The hashes of all, into `column`.
    pub(super) fn column(&self, column: &mut Vec<u64>) {
        column.clear();
        column.resize(self.len(), 0);
        // In four places at once: memory is fetched ahead in each, and that is a fifth faster.
        let n = self.len() / 4;
        let (first, rest) = column.split_at_mut(n);
        let (second, rest) = rest.split_at_mut(n);
        let (third, fourth) = rest.split_at_mut(n);
        for at in 0..n {
            first[at] = self.hash(at);
            second[at] = self.hash(n + at);
            third[at] = self.hash(2 * n + at);
            fourth[at] = self.hash(3 * n + at);
        }
        for (at, hash) in fourth.iter_mut().enumerate().skip(n) {
            *hash = self.hash(3 * n + at);
        }
    }

    fn search(&self, hash: u64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.hash(middle).cmp(&hash) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }
}

impl Shard<Vec<u8>> {
    pub(super) fn set(&mut self, at: usize, state: &SeriesState) {
        state.write(&mut self.0[at * RECORD..(at + 1) * RECORD]);
    }

    /// Adds a series; where it stands, or `None` when the shard is full of live ones.
    pub(super) fn insert(&mut self, hash: u64, at: Ns) -> Option<usize> {
        if self.len() >= SHARD_MAX {
            let live = |it: &[u8]| at.since(SeriesState::read(it).at) < IDLE;
            self.0 = self.0.chunks_exact(RECORD).filter(|it| live(it)).flatten().copied().collect();
        }
        if self.len() >= SHARD_MAX {
            return None;
        }
        let (Ok(slot) | Err(slot)) = self.find(hash);
        let at = slot * RECORD;
        self.0.splice(at..at, fresh(hash));
        Some(slot)
    }

    /// Adds series that are not there, in order of their hashes, if there is room for all of them.
    pub(super) fn merge(&mut self, hashes: impl ExactSizeIterator<Item = u64>) -> bool {
        let n = self.len() + hashes.len();
        if n > SHARD_MAX {
            return false;
        }
        let mut merged = Vec::with_capacity(n * RECORD);
        let mut from = 0;
        for hash in hashes {
            let (Ok(to) | Err(to)) = self.find(hash);
            merged.extend_from_slice(&self.0[from * RECORD..to * RECORD]);
            merged.extend_from_slice(&fresh(hash));
            from = to;
        }
        merged.extend_from_slice(&self.0[from * RECORD..]);
        self.0 = merged;
        true
    }
}

/// The record of a series of which nothing is known yet.
fn fresh(hash: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&hash.to_le_bytes());
    SeriesState::default().write(&mut record);
    record
}
