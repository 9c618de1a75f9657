//! Inclusion and consistency proofs (RFC 6962 §2.1, verified as RFC 9162 §2.1.3.2 and §2.1.4.2).
//!
//! Making one needs the tree and its full tiles; checking one needs nothing but its arguments.
//! A proof must use up exactly its hashes: one too many or too few is refused.

use schemas::Hash;

use crate::Error;
use crate::tree::{Lookup, Tree, empty_root, node, split};

/// The hashes that lead from leaf `index` to the root at `size`.
///
/// # Errors
/// [`Error::Range`] for a place outside the tree, [`Error::Tile`] for a missing tile.
pub fn inclusion(
    tree: &Tree,
    index: u64,
    size: u64,
    tiles: Lookup<'_>,
) -> Result<Vec<Hash>, Error> {
    if size > tree.size() || index >= size {
        return Err(Error::Range { place: index, size: size.min(tree.size()) });
    }
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(tree.range(middle, to, tiles)?);
            to = middle;
        } else {
            path.push(tree.range(from, middle, tiles)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The hashes that show that the tree at `new` extends the tree at `old`.
///
/// # Errors
/// [`Error::Range`] for sizes that the tree does not have, [`Error::Tile`] for a missing tile.
pub fn consistency(tree: &Tree, old: u64, new: u64, tiles: Lookup<'_>) -> Result<Vec<Hash>, Error> {
    if new > tree.size() || old > new {
        return Err(Error::Range { place: old, size: new.min(tree.size()) });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut from, mut to) = (0, new);
    let mut path = Vec::new();
    while old != to {
        let middle = from + split(to - from);
        if old <= middle {
            path.push(tree.range(middle, to, tiles)?);
            to = middle;
        } else {
            path.push(tree.range(from, middle, tiles)?);
            from = middle;
        }
    }
    if from > 0 {
        // The old root is not itself a node of the new tree, so its last peak is named.
        path.push(tree.range(from, to, tiles)?);
    }
    path.reverse();
    Ok(path)
}

/// Checks that `leaf` stands at `index` under `root`, the root of `size` leaves.
///
/// # Errors
/// [`Error::Range`] or [`Error::Proof`].
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: &Hash,
) -> Result<(), Error> {
    if index >= size {
        return Err(Error::Range { place: index, size });
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return Err(Error::Proof("inclusion"));
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            climb(&mut at, &mut last);
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    if last == 0 && hash == *root { Ok(()) } else { Err(Error::Proof("inclusion")) }
}

/// Checks that the tree of `new` leaves under `new_root` begins with the `old` leaves under
/// `old_root`. Everything extends the empty tree, so there a proof would show nothing, and one
/// that is offered is refused.
///
/// # Errors
/// [`Error::Behind`] when `new` is less than `old`, [`Error::Fork`] for two roots of one size,
/// else [`Error::Proof`].
pub fn verify_consistency(
    (old, old_root): (u64, &Hash),
    (new, new_root): (u64, &Hash),
    path: &[Hash],
) -> Result<(), Error> {
    let wrong = Error::Proof("consistency");
    if new < old {
        return Err(Error::Behind { known: old, offered: new });
    }
    if old == new && old_root != new_root {
        return Err(Error::Fork { size: old, known: *old_root, offered: *new_root });
    }
    if old == new || old == 0 {
        let same = old == new && (old > 0 || *old_root == empty_root());
        return if same && path.is_empty() { Ok(()) } else { Err(wrong) };
    }
    // An old tree that is a perfect subtree of the new one is not repeated in the path.
    let own = old.is_power_of_two().then_some(old_root);
    let mut path = own.into_iter().chain(path);
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let Some(first) = path.next() else { return Err(wrong) };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return Err(wrong);
        }
        if at & 1 == 1 || at == last {
            old_hash = node(sibling, &old_hash);
            new_hash = node(sibling, &new_hash);
            climb(&mut at, &mut last);
        } else {
            new_hash = node(&new_hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    let holds = last == 0 && old_hash == *old_root && new_hash == *new_root;
    if holds { Ok(()) } else { Err(wrong) }
}

/// Passes the levels at which the node is promoted alone, up to one with a left sibling.
fn climb(at: &mut u64, last: &mut u64) {
    while *at & 1 == 0 && *at != 0 {
        *at >>= 1;
        *last >>= 1;
    }
}
