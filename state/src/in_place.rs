//! Values that the batch in progress changes where they lie, and what takes that back.
//!
//! Where a batch touches a tenth of a value of a quarter of a megabyte, writing the value anew
//! costs more than all else that is done for the batch, and a list of new pieces beside it is
//! written, read and put in place with a second wait for memory. So the lines are changed at
//! once, and what they were is kept until the batch is committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::LogError;

/// A line of a processor's cache. A value that is changed in place is made of them.
pub type Line = [u8; 64];

/// A store that keeps in memory what is read and what is committed, and lets the batch in
/// progress change values there. A [`crate::State`] then keeps no values beside it.
///
/// What [`crate::Store`] shows is committed, whatever is in progress. *Ahead* is what the batch in
/// progress sees, which is the owner's thread.
pub trait Resident {
    /// Hands the line at each of `places` of the value of `key` to `change`, with its number in
    /// `places`, in their order. There is a value, and they lie in it.
    ///
    /// # Errors
    /// As [`crate::Store::get`].
    fn change(
        &self,
        key: &[u8],
        places: &[u32],
        change: &mut dyn FnMut(usize, &mut Line),
    ) -> Result<(), LogError>;

    /// Takes back what was changed since the last commit whose changes were made in place.
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

/// Hands the line at each of `places` of `value` to `change`; `before` is shown every line that
/// is about to change for the first time, with its place.
pub(crate) fn change_lines(
    value: &mut [u8],
    places: &[u32],
    mut before: impl FnMut(u32, &Line),
    change: &mut dyn FnMut(usize, &mut Line),
) {
    let (lines, _) = value.as_chunks_mut();
    let mut is_kept = vec![0u64; lines.len().div_ceil(64)];
    for (n, place) in places.iter().enumerate() {
        let at = *place as usize;
        let line = lines.get_mut(at);
        debug_assert!(line.is_some(), "line {at} lies outside its value");
        let Some(line) = line else { continue };
        let (word, bit) = (&mut is_kept[at / 64], 1 << (at % 64));
        if *word & bit == 0 {
            *word |= bit;
            before(*place, line);
        }
        change(n, line);
    }
}

/// What the lines that the batch in progress has changed were before, in the order in which they
/// were changed.
#[derive(Default)]
pub(crate) struct Before {
    lines: Vec<Line>,
    places: Vec<u32>,
    /// Whose they are, and where each one's begin. A key may come more than once.
    values: Vec<(Arc<[u8]>, usize)>,
}

impl Before {
    /// Has lines of `value` changed, and keeps what they were. They are kept before anything is
    /// changed, so a change that panics can be taken back.
    pub(crate) fn change(
        &mut self,
        key: &Arc<[u8]>,
        value: &mut [u8],
        places: &[u32],
        change: &mut dyn FnMut(usize, &mut Line),
    ) {
        let Before { lines, places: kept, values } = self;
        values.push((key.clone(), lines.len()));
        let before = |place, line: &Line| {
            kept.push(place);
            lines.push(*line);
        };
        change_lines(value, places, before, change);
    }

    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.values.iter().any(|(it, _)| **it == *key)
    }

    /// Keys with changed lines, each once.
    pub(crate) fn keys(&self) -> BTreeSet<&Arc<[u8]>> {
        self.values.iter().map(|(key, _)| key).collect()
    }

    /// Makes `value`, which is that of `key`, what it was before.
    pub(crate) fn put_back(&self, key: &[u8], value: &mut [u8]) {
        let (there, _) = value.as_chunks_mut();
        let mut end = self.lines.len();
        for (of, start) in self.values.iter().rev() {
            if **of == *key {
                let kept = self.places[*start..end].iter().zip(&self.lines[*start..end]);
                kept.for_each(|(place, line)| there[*place as usize] = *line);
            }
            end = *start;
        }
    }

    /// Forgets it; the memory is kept for the next batch.
    pub(crate) fn clear(&mut self) {
        self.lines.clear();
        self.places.clear();
        self.values.clear();
    }
}
