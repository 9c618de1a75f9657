//! Dictionaries that come again: a scrape sends the same series each time, so a range that holds
//! many scrapes has few dictionaries. Each is read once, and whoever folds the range looks its
//! series up once.

use std::hash::Hasher as _;
use std::ops::Range;

/// How many are found again, where their beginnings differ.
const SLOTS: usize = 1024;

/// A dictionary of the range: how its encoding begins, all of it, and its entries among those of
/// all records.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dictionary<'a> {
    pub(super) head: &'a [u8],
    pub(super) bytes: &'a [u8],
    pub(super) entries: Range<usize>,
}

/// Those that have been read, by how they begin.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dictionaries<'a> {
    /// Empty until there is one.
    slots: Vec<Dictionary<'a>>,
}

impl<'a> Dictionaries<'a> {
    /// The one with which `bytes` begin, where their beginning is `head`. An encoding ends where
    /// it says, so equal bytes are an equal dictionary whatever follows.
    pub(super) fn find(&self, head: &[u8], bytes: &[u8]) -> Option<&Dictionary<'a>> {
        if head.is_empty() || self.slots.is_empty() {
            return None;
        }
        let found = &self.slots[slot(head)];
        (found.head == head && bytes.starts_with(found.bytes)).then_some(found)
    }

    /// Remembers one that has a head, in the place of another that falls there.
    pub(super) fn insert(&mut self, it: Dictionary<'a>) {
        if !it.head.is_empty() {
            self.slots.resize(SLOTS, Dictionary::default());
            let slot = slot(it.head);
            self.slots[slot] = it;
        }
    }

    /// None, with the memory of these.
    pub(super) fn recycle<'b>(mut self) -> Dictionaries<'b> {
        self.slots.clear();
        Dictionaries { slots: self.slots.into_iter().map(|_| Dictionary::default()).collect() }
    }
}

fn slot(head: &[u8]) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(head);
    hasher.finish() as usize % SLOTS
}
