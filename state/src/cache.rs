//! Committed values kept in memory, bounded in bytes.
//!
//! Two generations: what is touched lives in the young one; when the young one holds half the
//! bound it becomes the old one, and what was left in the old one is dropped. So a key that is
//! read once in every such span stays, at the cost of one hash look-up and no list to maintain.
//! Absence is cached too: folds often ask for what is not there yet.

use std::collections::HashMap;
use std::sync::Arc;

use crate::store::Value;

/// Map slot, two allocations and their rounding, for one entry.
const ENTRY_OVERHEAD: usize = 112;

/// A bounded map from key to committed value or known absence.
pub(crate) struct Cache {
    young: HashMap<Arc<[u8]>, Option<Value>>,
    old: HashMap<Arc<[u8]>, Option<Value>>,
    young_bytes: usize,
    half: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Cache { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, half: bytes_max / 2 }
    }

    /// Shows `look` the value of `key`, or its known absence; answers whether the cache knew.
    pub(crate) fn look(&mut self, key: &[u8], look: &mut dyn FnMut(Option<&[u8]>)) -> bool {
        if let Some(value) = self.young.get(key) {
            look(value.as_deref().map(Vec::as_slice));
            return true;
        }
        let Some((key, value)) = self.old.remove_entry(key) else { return false };
        look(value.as_deref().map(Vec::as_slice));
        self.insert(key, value);
        true
    }

    pub(crate) fn insert(&mut self, key: Arc<[u8]>, value: Option<Value>) {
        let size = size(&key, value.as_ref());
        if self.young_bytes + size > self.half {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        let key_len = key.len();
        self.young_bytes += size;
        if let Some(before) = self.young.insert(key, value) {
            let before = ENTRY_OVERHEAD + key_len + before.map_or(0, |it| it.len());
            self.young_bytes = self.young_bytes.saturating_sub(before);
        }
    }

    /// What the cache knows of `key`, which it knows no more then.
    pub(crate) fn take(&mut self, key: &[u8]) -> Option<Option<Value>> {
        let (young, old) = (self.young.remove_entry(key), self.old.remove(key));
        let Some((key, value)) = young else { return old };
        self.young_bytes = self.young_bytes.saturating_sub(size(&key, value.as_ref()));
        Some(value)
    }

    /// `None`: the cache does not know.
    #[cfg(test)]
    pub(crate) fn get(&mut self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        let mut found = None;
        let known = self.look(key, &mut |value| found = value.map(<[u8]>::to_vec));
        known.then_some(found)
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let all = self.young.iter().chain(&self.old);
        all.map(|(key, value)| size(key, value.as_ref())).sum()
    }
}

fn size(key: &[u8], value: Option<&Value>) -> usize {
    ENTRY_OVERHEAD + key.len() + value.map_or(0, |it| it.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_stays_within_its_bound_and_keeps_what_is_read_often() {
        let mut cache = Cache::new(64 * 1024);
        cache.insert(Arc::from(*b"hot"), Some(Arc::new(vec![1])));
        for n in 0u32..10_000 {
            cache.insert(Arc::from(n.to_be_bytes()), Some(Arc::new(vec![0; 100])));
            assert_eq!(cache.get(b"hot"), Some(Some(vec![1])), "after {n} others");
            assert!(cache.bytes() <= 64 * 1024, "{} bytes", cache.bytes());
        }
        assert_eq!(cache.get(&0u32.to_be_bytes()), None);
    }

    #[test]
    fn an_old_value_never_comes_back_after_a_new_one() {
        let mut cache = Cache::new(1024);
        cache.insert(Arc::from(*b"key"), Some(Arc::new(vec![1])));
        for n in 0u32..3 {
            cache.insert(Arc::from(n.to_be_bytes()), Some(Arc::new(vec![0; 64])));
        }
        cache.insert(Arc::from(*b"key"), None);
        for n in 0u32..2 {
            cache.insert(Arc::from(n.to_be_bytes()), Some(Arc::new(vec![0; 64])));
            assert_ne!(cache.get(b"key"), Some(Some(vec![1])));
        }
    }
}
