//! Records of a stream, in one piece.
//!
//! A busy stream carries a hundred thousand records a seal. Each in a vector of its own would be
//! allocated, copied and freed one by one; here they lie end to end, each behind its length, which
//! is also the form in which a seal digests them.

use std::ops::Range;
use std::sync::Arc;

/// Bytes before each record: its length, big-endian.
const FRAME: usize = 4;

/// Records with their positions, which rise. A clone shares what it is a clone of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records(Arc<Block>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    framed: Vec<u8>,
    /// Position of each record, and where it ends in `framed`.
    ends: Vec<(u64, usize)>,
}

impl Block {
    fn push(&mut self, position: u64, record: &[u8]) {
        debug_assert!(self.ends.last().is_none_or(|it| it.0 < position), "positions rise");
        // A record is at most some megabytes, by every log's limit.
        self.framed.extend_from_slice(&(record.len() as u32).to_be_bytes());
        self.framed.extend_from_slice(record);
        self.ends.push((position, self.framed.len()));
    }

    /// Index of the first at or above `position`.
    fn at(&self, position: u64) -> usize {
        self.ends.partition_point(|(at, _)| *at < position)
    }

    /// Where record `index` begins in `framed`.
    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before].1)
    }
}

impl Records {
    /// Adds the record at `position`, which lies above every other.
    pub fn push(&mut self, position: u64, record: &[u8]) {
        Arc::make_mut(&mut self.0).push(position, record);
    }

    /// Makes room for records of as many bytes in all. Memory that is grown into by halves is
    /// touched twice.
    pub(crate) fn reserve(&mut self, n_bytes: usize) {
        if let Some(block) = Arc::get_mut(&mut self.0) {
            let lacking = n_bytes.saturating_sub(block.framed.len());
            block.framed.reserve_exact(lacking);
        }
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// Bytes of all records, without their lengths.
    pub fn n_bytes(&self) -> usize {
        self.0.framed.len() - FRAME * self.len()
    }

    /// Bytes of those from `from` on.
    pub fn n_bytes_from(&self, from: u64) -> usize {
        let first = self.0.at(from);
        self.0.framed.len() - self.0.start(first) - FRAME * (self.len() - first)
    }

    /// Position of the last one.
    pub fn last(&self) -> Option<u64> {
        self.0.ends.last().map(|(position, _)| *position)
    }

    /// Position and bytes of each.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let Block { framed, ends } = &*self.0;
        let starts = std::iter::once(0).chain(ends.iter().map(|(_, end)| *end));
        let ranges = starts.zip(ends);
        ranges.map(|(start, (position, end))| (*position, &framed[start + FRAME..*end]))
    }

    /// Every record behind its length of four bytes, big-endian: what a seal digests.
    pub fn framed(&self) -> &[u8] {
        &self.0.framed
    }

    /// Adds those of `other` in the range of positions; they lie above every one that is here.
    pub fn extend(&mut self, other: &Records, positions: &Range<u64>) {
        let other = &other.0;
        let (first, past) = (other.at(positions.start), other.at(positions.end));
        let start = other.start(first);
        let block = Arc::make_mut(&mut self.0);
        let shift = block.framed.len();
        block.framed.extend_from_slice(&other.framed[start..other.start(past)]);
        let moved = other.ends[first..past].iter().map(|(at, end)| (*at, end - start + shift));
        block.ends.extend(moved);
    }

    /// Those from `from` on: at least one unless there is none, then as many as `bytes_max` takes.
    #[must_use]
    pub fn select(&self, from: u64, bytes_max: usize) -> Records {
        let first = self.0.at(from);
        if first == 0 && self.n_bytes() <= bytes_max {
            return self.clone();
        }
        let start = self.0.start(first);
        let after = self.0.ends[first..].iter().zip(1..);
        let fits = |end: usize, n: usize| n == 1 || end - start - FRAME * n <= bytes_max;
        let last = after.take_while(|((_, end), n)| fits(*end, *n)).last();
        let mut selected = Records::default();
        if let Some(((last, _), _)) = last {
            selected.extend(self, &(from..last + 1));
        }
        selected
    }

    /// Lets those below `before` go.
    pub fn forget(&mut self, before: u64) {
        let n = self.0.at(before);
        if n == 0 {
            return;
        }
        match Arc::get_mut(&mut self.0) {
            Some(block) => {
                let start = block.start(n);
                block.framed.drain(..start);
                block.ends.drain(..n);
                block.ends.iter_mut().for_each(|(_, end)| *end -= start);
            }
            // Somebody still reads them: the rest goes on by itself.
            None => {
                let mut rest = Records::default();
                rest.extend(self, &(before..u64::MAX));
                *self = rest;
            }
        }
    }
}

impl<R: AsRef<[u8]>> FromIterator<(u64, R)> for Records {
    fn from_iter<T: IntoIterator<Item = (u64, R)>>(records: T) -> Self {
        let mut block = Block::default();
        records.into_iter().for_each(|(position, record)| block.push(position, record.as_ref()));
        Records(Arc::new(block))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn three() -> Records {
        [(3, &b"one"[..]), (5, b""), (9, b"three")].into_iter().collect()
    }

    #[test]
    fn what_was_pushed_is_there() {
        let records = three();
        let all: Vec<(u64, &[u8])> = records.iter().collect();
        assert_eq!(all, [(3, &b"one"[..]), (5, b""), (9, b"three")]);
        assert_eq!((records.len(), records.n_bytes(), records.last()), (3, 8, Some(9)));
        assert_eq!(records.framed(), b"\0\0\0\x03one\0\0\0\0\0\0\0\x05three");
    }

    #[test]
    fn a_selection_is_at_least_one_and_then_what_fits() {
        let positions = |from, bytes_max| {
            let selected = three().select(from, bytes_max);
            selected.iter().map(|(at, _)| at).collect::<Vec<_>>()
        };
        assert_eq!(positions(0, 0), [3]);
        assert_eq!(positions(0, 3), [3, 5]);
        assert_eq!(positions(4, 1), [5]);
        assert_eq!(positions(4, usize::MAX), [5, 9]);
        assert_eq!(positions(9, 1), [9]);
        assert!(positions(10, 1).is_empty());
    }

    #[test]
    fn the_rest_is_as_if_the_forgotten_had_never_been() {
        let mut records = three();
        records.forget(5);
        assert_eq!(records, three().select(4, usize::MAX));
        records.push(10, b"four");
        assert_eq!(records.iter().last(), Some((10, &b"four"[..])));
        let read = records.clone();
        records.reserve(1000);
        records.forget(10);
        records.reserve(1000);
        records.push(11, b"five");
        assert_eq!((read.len(), records.len()), (3, 2), "a clone keeps what it was");
        records.forget(u64::MAX);
        assert_eq!(records, Records::default());
    }
}
