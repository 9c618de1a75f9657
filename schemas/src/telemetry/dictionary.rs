//! Dictionaries that come again: a scrape sends the same series each time. Each is read once and
//! kept from range to range, with what was found out about its entries: comparing its bytes costs
//! less than reading them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;

use super::{Entries, Read};

/// When they take more than this, all are forgotten, and those in use are read again: a million
/// series, as many as detection keeps, take 50 MiB.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A dictionary that was read.
#[derive(Clone, Debug, Default, PartialEq)]
struct Dictionary {
    bytes: Box<[u8]>,
    /// Where its first entry begins in `bytes`.
    begin: usize,
    entries: Box<[Entry]>,
    /// Where its entries stand among those of the range at hand, once it has come there.
    first: Option<usize>,
}

impl Dictionary {
    /// Bytes that it takes, about.
    fn size(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.entries)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    hash: u64,
    /// Where it ends in the dictionary, and the next begins.
    end: u32,
    hint: Cell<u32>,
}

/// Those that have been read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dictionaries {
    kept: Vec<Dictionary>,
    /// By the hash of their first entry.
    by_first: BTreeMap<u64, usize>,
    /// Those of the range at hand, in the order in which they came.
    of_range: Vec<(usize, usize)>,
    /// The one after the last that came: senders go round.
    next: usize,
    n_bytes: usize,
}

/// How a dictionary begins.
#[derive(Clone, Copy, Default)]
pub(super) struct Head {
    /// Entries of its first block.
    pub(super) n: usize,
    /// Where the first of them begins.
    pub(super) begin: usize,
    /// Hash of that one.
    pub(super) first: u64,
}

impl Dictionaries {
    /// The one with which `bytes` begin, where `head` says how. An encoding ends where it says, so
    /// equal bytes are an equal dictionary whatever follows.
    pub(super) fn find(
        &self,
        bytes: &[u8],
        head: impl FnOnce() -> Read<Head>,
    ) -> Read<Option<usize>> {
        let is_it = |it: &Dictionary| bytes.starts_with(&it.bytes);
        if self.kept.get(self.next).is_some_and(is_it) {
            return Ok(Some(self.next));
        }
        if self.kept.is_empty() {
            return Ok(None);
        }
        let head = head()?;
        let found = if head.n < 2 { None } else { self.by_first.get(&head.first).copied() };
        Ok(found.filter(|it| is_it(&self.kept[*it])))
    }

    /// Bytes of the dictionary `it`.
    pub(super) fn n_bytes(&self, it: usize) -> usize {
        self.kept[it].bytes.len()
    }

    /// Where the entries of dictionary `it` stand among `entries`. They are added, from its
    /// encoding with which `bytes` begin, where the range has not had it.
    pub(super) fn place<'a>(
        &self,
        it: usize,
        bytes: &'a [u8],
        entries: &mut Entries<'a>,
    ) -> Range<usize> {
        let it = &self.kept[it];
        let first = it.first.unwrap_or_else(|| {
            let mut begin = it.begin;
            entries.series.extend(it.entries.iter().map(|entry| {
                let end = entry.end as usize;
                &bytes[std::mem::replace(&mut begin, end)..end]
            }));
            entries.hashes.extend(it.entries.iter().map(|entry| entry.hash));
            entries.hints.extend(it.entries.iter().map(|entry| entry.hint.clone()));
            entries.series.len() - it.entries.len()
        });
        first..first + it.entries.len()
    }

    /// The record that brought dictionary `it` is part of the range.
    pub(super) fn came(&mut self, it: usize, first: usize) {
        self.next = it + 1;
        if self.kept[it].first.is_none() {
            self.kept[it].first = Some(first);
            self.of_range.push((it, first));
        }
    }

    /// Keeps one that was read as `bytes` and stands at `first` of `entries`, in the place of
    /// another that begins like it. One in several blocks is not kept, nor one with a single entry,
    /// which is read as fast as it would be found.
    pub(super) fn keep(&mut self, head: Head, bytes: &[u8], first: usize, entries: &Entries<'_>) {
        let series = &entries.series[first..];
        if series.len() < 2 || series.len() != head.n {
            return;
        }
        let mut end = head.begin;
        let kept = series.iter().zip(&entries.hashes[first..]).map(|(series, hash)| {
            end += series.len();
            // A record is at most a megabyte, by every log's limit.
            Entry { hash: *hash, end: end as u32, hint: Cell::default() }
        });
        let kept = Dictionary {
            bytes: bytes.into(),
            begin: head.begin,
            entries: kept.collect(),
            first: None,
        };
        self.n_bytes += kept.size();
        let it = *self.by_first.entry(head.first).or_insert(self.kept.len());
        if it == self.kept.len() {
            self.kept.push(Dictionary::default());
        }
        self.n_bytes -= self.kept[it].size();
        self.kept[it] = kept;
        self.came(it, first);
    }

    /// The range ends: `hints` are those of its entries.
    pub(super) fn end_range(&mut self, hints: &[Cell<u32>]) {
        for (it, first) in self.of_range.drain(..) {
            let kept = &mut self.kept[it];
            // Another may have taken its place.
            if kept.first == Some(first) {
                kept.first = None;
                for (entry, hint) in kept.entries.iter().zip(&hints[first..]) {
                    entry.hint.set(hint.get());
                }
            }
        }
        if KEPT_BYTES_MAX < self.n_bytes {
            *self = Dictionaries::default();
        }
    }
}
