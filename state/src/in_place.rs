//! Values that the batch in progress changes where they lie, and what takes that back.
//!
//! Where a batch touches a tenth of a value of a quarter of a megabyte, writing the value anew
//! costs more than all else that is done for the batch, and a list of new pieces beside it is
//! written, read and put in place with a second wait for memory. So the lines are changed at
//! once, and what they were is kept until the batch is committed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::LogError;
use crate::store::Value;

/// A line of a processor's cache. A value that is edited in place is made of them.
pub type Line = [u8; 64];

/// Edits the lines of several values, which come in order of their keys. The second function is
/// told of each line before it is changed: the number of its value, its place there, what it is.
pub type Edit<'e> = &'e mut dyn FnMut(&mut [&mut [Line]], &mut dyn FnMut(usize, usize, &Line));

/// A store that keeps in memory what is read and what is committed, and lets the batch in
/// progress edit values there. A [`crate::State`] then keeps no values beside it.
///
/// What [`crate::Store`] shows is committed, whatever is in progress. *Ahead* is what the batch in
/// progress sees, which is the owner's thread.
pub trait Resident {
    /// Has the values of `keys` edited, which are in order, each once; one that is not there has
    /// no lines.
    ///
    /// # Errors
    /// As [`crate::Store::get`]; then nothing has been edited.
    fn edit(&self, keys: &[Vec<u8>], edit: Edit<'_>) -> Result<(), LogError>;

    /// Takes back what was edited since the last commit of changes that were made in place.
    fn take_back(&self);

    /// [`crate::Store::look`] ahead.
    ///
    /// # Errors
    /// As [`crate::Store::get`].
    fn look_ahead(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<(), LogError>;

    /// [`crate::Store::scan`] ahead.
    ///
    /// # Errors
    /// As [`crate::Store::scan`].
    fn scan_ahead(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8]))
    -> Result<(), LogError>;
}

/// The lines of those of `values` that are under `keys`, which are in order.
pub(crate) fn lines_of<'v>(
    values: &'v mut BTreeMap<Arc<[u8]>, Option<Value>>,
    keys: &[Vec<u8>],
) -> Vec<&'v mut [Line]> {
    let Some(first) = keys.first() else { return Vec::new() };
    let from = (Bound::Included(&first[..]), Bound::Unbounded);
    let mut values = values.range_mut::<[u8], _>(from).peekable();
    let mut lines = |key: &Vec<u8>| {
        while values.next_if(|(it, _)| it[..] < key[..]).is_some() {}
        match values.next_if(|(it, _)| it[..] == key[..]) {
            // Nobody else holds it, so nothing is copied.
            Some((_, Some(value))) => Arc::<Vec<u8>>::make_mut(value).as_chunks_mut().0,
            _ => &mut [],
        }
    };
    keys.iter().map(&mut lines).collect()
}

/// What the lines that the batch in progress has changed were before, in the order in which they
/// were changed.
#[derive(Default)]
pub(crate) struct Before {
    lines: Vec<Line>,
    /// Of each its value, by number, and its place there.
    places: Vec<(u32, u32)>,
    /// The keys of the values of each edit, and where its lines begin.
    edits: Vec<(Vec<Vec<u8>>, usize)>,
}

impl Before {
    /// Has the values of `keys` edited, and keeps what their lines were. They are kept before
    /// anything is changed, so an edit that panics can be taken back.
    pub(crate) fn edit(&mut self, keys: &[Vec<u8>], values: &mut [&mut [Line]], edit: Edit<'_>) {
        let Before { lines, places, edits } = self;
        edits.push((keys.to_vec(), lines.len()));
        // A bit for each line of each value: the first change of a line is the one to keep.
        let (mut starts, mut n_words) = (Vec::with_capacity(values.len()), 0);
        for value in values.iter() {
            starts.push(n_words);
            n_words += value.len().div_ceil(64);
        }
        let mut are_kept = vec![0u64; n_words];
        edit(values, &mut |value, at, line| {
            let (word, bit) = (&mut are_kept[starts[value] + at / 64], 1 << (at % 64));
            if *word & bit == 0 {
                *word |= bit;
                places.push((value as u32, at as u32));
                lines.push(*line);
            }
        });
    }

    pub(crate) fn has(&self, key: &[u8]) -> bool {
        let is_it = |it: &Vec<u8>| (**it).cmp(key);
        self.edits.iter().any(|(keys, _)| keys.binary_search_by(is_it).is_ok())
    }

    /// Keys of the values that were edited, in order.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = self.edits.iter().flat_map(|it| it.0.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Makes `values`, which are those of `keys`, what they were before.
    pub(crate) fn put_back(&self, keys: &[Vec<u8>], values: &mut [&mut [Line]]) {
        let mut end = self.lines.len();
        for (of, start) in self.edits.iter().rev() {
            let number: Vec<Option<usize>> =
                of.iter().map(|it| keys.binary_search(it).ok()).collect();
            let kept = self.places[*start..end].iter().zip(&self.lines[*start..end]);
            for ((value, at), line) in kept {
                if let Some(number) = number[*value as usize] {
                    values[number][*at as usize] = *line;
                }
            }
            end = *start;
        }
    }

    /// Forgets it; the memory is kept for the next batch.
    pub(crate) fn clear(&mut self) {
        self.lines.clear();
        self.places.clear();
        self.edits.clear();
    }
}
