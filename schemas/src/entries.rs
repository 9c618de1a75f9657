//! The entries of a batch, which are checked once.
//!
//! A payload is checked against its commitment by whoever made the entry or read it, and both
//! need the leaves of the tree as well; hashing is most of what a batch costs. So the leaves are
//! kept with the entries, and having them means that the check was made. Whoever gets hold of
//! an entry to change it has unchecked entries again.

use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

use crate::Hash;
use crate::batch::{Damage, Entry};

/// Entries in their order.
#[derive(Clone, Debug)]
pub struct Entries {
    all: Vec<Entry>,
    leaves: OnceLock<Vec<Hash>>,
}

impl Entries {
    /// Entries that [`Entry::new`] made a moment ago, with their leaves.
    pub(crate) fn made(all: Vec<Entry>, leaves: Vec<Hash>) -> Self {
        Entries { all, leaves: OnceLock::from(leaves) }
    }

    /// Entries of which nothing is known.
    pub(crate) fn unchecked(all: Vec<Entry>) -> Self {
        Entries { all, leaves: OnceLock::new() }
    }

    /// The leaves of the tree, once every payload is the one that its envelope commits to.
    ///
    /// # Errors
    /// [`Error::Commitment`](crate::Error::Commitment) at the first entry whose payload is another.
    pub fn leaves(&self) -> Result<&[Hash], Damage> {
        if let Some(leaves) = self.leaves.get() {
            return Ok(leaves);
        }
        let check = |(index, entry): (u32, &Entry)| match entry.check() {
            Ok(()) => Ok(entry.leaf()),
            Err(error) => Err(Damage { entry: Some(index), error }),
        };
        let leaves: Vec<Hash> = (0u32..).zip(&self.all).map(check).collect::<Result<_, _>>()?;
        Ok(self.leaves.get_or_init(|| leaves))
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Entries {}

impl Deref for Entries {
    type Target = Vec<Entry>;

    fn deref(&self) -> &Vec<Entry> {
        &self.all
    }
}

impl DerefMut for Entries {
    fn deref_mut(&mut self) -> &mut Vec<Entry> {
        self.leaves = OnceLock::new();
        &mut self.all
    }
}

impl IntoIterator for Entries {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.into_iter()
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}
