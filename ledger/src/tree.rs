//! The RFC 6962 SHA-256 tree, appended to leaf by leaf.
//!
//! In memory it keeps only the partial tile of each level, at most 255 hashes each; full tiles
//! leave through [`Tree::take_full_tiles`] and come back through a lookup where a proof needs
//! them (C2SP tlog-tiles: 256 hashes, 8192 bytes). It deliberately has no call that changes or
//! removes a leaf. The odd leaf is promoted and never duplicated.

use std::fmt;

use schemas::Hash;

use crate::Error;

/// Hashes in a full tile. Persisted: frozen by C2SP tlog-tiles.
pub const TILE_HASHES: usize = 256;
/// Bytes of a full tile.
pub const TILE_BYTES: usize = TILE_HASHES * 32;
/// Levels of the tree that one level of tiles spans.
const TILE_HEIGHT: u32 = 8;

/// Finds a full tile that has left the tree.
pub type Lookup<'a> = &'a dyn Fn(TileId) -> Option<Vec<u8>>;

/// Which tile: hash `n` of a tile at level `l` covers 256^l leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// 0 holds leaf hashes, 1 holds the roots of full tiles of level 0, and so on.
    pub level: u8,
    /// Position within the level.
    pub index: u64,
}

impl TileId {
    /// The C2SP path, `tile/<level>/x001/234` and `.p/<width>` for a tile that is not full.
    pub fn path(&self, width: usize) -> String {
        let mut name = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            name = format!("x{:03}/{name}", rest % 1000);
            rest /= 1000;
        }
        let partial = if width < TILE_HASHES { format!(".p/{width}") } else { String::new() };
        format!("tile/{}/{name}{partial}", self.level)
    }
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path(TILE_HASHES))
    }
}

/// The hash of an inner node.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(&left.0);
    bytes[33..].copy_from_slice(&right.0);
    Hash::of(&[&bytes])
}

/// The root of the tree without leaves.
pub fn empty_root() -> Hash {
    Hash::of(&[])
}

/// An appendable tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// The partial tile of each level, lowest first; each holds fewer than 256 hashes.
    partial: Vec<Vec<Hash>>,
    /// Full tiles that nobody has taken yet.
    full: Vec<(TileId, Vec<u8>)>,
}

impl Tree {
    /// The tree without leaves.
    pub fn new() -> Self {
        Tree::default()
    }

    /// The tree of `size` leaves, from its full tiles and the leaves after the last of them.
    ///
    /// # Errors
    /// [`Error::Tile`] for a tile that is not there, [`Error::Range`] when `tail` is not the
    /// `size % 256` leaves that no full tile holds.
    pub fn restore(size: u64, tiles: Lookup<'_>, tail: &[Hash]) -> Result<Self, Error> {
        if tail.len() as u64 != size % TILE_HASHES as u64 {
            return Err(Error::Range { place: tail.len() as u64, size });
        }
        let mut partial = vec![tail.to_vec()];
        let mut n_full = size >> TILE_HEIGHT;
        for level in 0.. {
            if n_full == 0 {
                break;
            }
            let first = n_full - n_full % TILE_HASHES as u64;
            let roots = (first..n_full).map(|index| {
                let id = TileId { level, index };
                tile_hashes(id, tiles(id)).map(|hashes| perfect_root(&hashes))
            });
            partial.push(roots.collect::<Result<_, _>>()?);
            n_full >>= TILE_HEIGHT;
        }
        Ok(Tree { size, partial, full: Vec::new() })
    }

    /// Appends a leaf, given by its leaf hash ([`schemas::Entry::leaf`]).
    pub fn push(&mut self, leaf: Hash) {
        let mut carry = leaf;
        for level in 0.. {
            if self.partial.len() == level {
                self.partial.push(Vec::with_capacity(TILE_HASHES));
            }
            let tile = &mut self.partial[level];
            tile.push(carry);
            if tile.len() < TILE_HASHES {
                break;
            }
            let index = self.size >> (TILE_HEIGHT * (level as u32 + 1));
            let bytes: Vec<u8> = tile.iter().flat_map(|hash| hash.0).collect();
            self.full.push((TileId { level: level as u8, index }, bytes));
            carry = perfect_root(tile);
            tile.clear();
        }
        self.size += 1;
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of all leaves.
    pub fn root(&self) -> Hash {
        let peaks = self.partial.iter().rev().flat_map(|tile| peaks(tile));
        let peaks: Vec<Hash> = peaks.collect();
        let mut right_to_left = peaks.iter().rev();
        let Some(last) = right_to_left.next() else { return empty_root() };
        right_to_left.fold(*last, |right, left| node(left, &right))
    }

    /// The root that the tree had at an earlier size.
    ///
    /// # Errors
    /// [`Error::Range`] for a size that was never reached, [`Error::Tile`] for a missing tile.
    pub fn root_at(&self, size: u64, tiles: Lookup<'_>) -> Result<Hash, Error> {
        if size == 0 {
            return Ok(empty_root());
        }
        if size > self.size {
            return Err(Error::Range { place: size, size: self.size });
        }
        self.range(0, size, tiles)
    }

    /// The full tiles since the last call. Whoever takes them stores them.
    pub fn take_full_tiles(&mut self) -> Vec<(TileId, Vec<u8>)> {
        std::mem::take(&mut self.full)
    }

    /// The leaves that no full tile holds; [`Tree::restore`] takes them back.
    pub fn tail(&self) -> &[Hash] {
        self.partial.first().map_or(&[], Vec::as_slice)
    }

    /// The root over the leaves `from..to`, where `from` is aligned as RFC 6962 splits a tree.
    pub(crate) fn range(&self, from: u64, to: u64, tiles: Lookup<'_>) -> Result<Hash, Error> {
        let width = to - from;
        if width.is_power_of_two() {
            return self.perfect(width.trailing_zeros(), from / width, tiles);
        }
        let middle = from + split(width);
        Ok(node(&self.range(from, middle, tiles)?, &self.range(middle, to, tiles)?))
    }

    /// The root of the perfect subtree `index` of those of 2^`height` leaves.
    fn perfect(&self, height: u32, index: u64, tiles: Lookup<'_>) -> Result<Hash, Error> {
        let level = height / TILE_HEIGHT;
        let width = 1usize << (height % TILE_HEIGHT);
        let first = index << (height % TILE_HEIGHT);
        let id = TileId { level: level as u8, index: first >> TILE_HEIGHT };
        let offset = (first % TILE_HASHES as u64) as usize;
        let n_full = self.size.checked_shr(TILE_HEIGHT * (level + 1)).unwrap_or(0);
        if id.index >= n_full {
            let tile = self.partial.get(level as usize).map_or(&[][..], Vec::as_slice);
            let slice = tile.get(offset..offset + width);
            return slice.map(perfect_root).ok_or_else(|| Error::Tile(id.to_string()));
        }
        let waiting = self.full.iter().find(|(waiting, _)| *waiting == id);
        let bytes = waiting.map(|(_, bytes)| bytes.clone()).or_else(|| tiles(id));
        Ok(perfect_root(&tile_hashes(id, bytes)?[offset..offset + width]))
    }
}

/// The largest power of two below `width`, where RFC 6962 splits a tree; `width` is at least 2.
pub(crate) fn split(width: u64) -> u64 {
    1 << (u64::BITS - 1 - (width - 1).leading_zeros())
}

/// The root over 2^k hashes.
fn perfect_root(hashes: &[Hash]) -> Hash {
    debug_assert!(hashes.len().is_power_of_two());
    let mut row = [Hash::default(); TILE_HASHES];
    row[..hashes.len()].copy_from_slice(hashes);
    let mut width = hashes.len();
    while width > 1 {
        width /= 2;
        for at in 0..width {
            row[at] = node(&row[2 * at], &row[2 * at + 1]);
        }
    }
    row[0]
}

/// The roots of the perfect subtrees that a partial tile falls into, left to right.
fn peaks(tile: &[Hash]) -> Vec<Hash> {
    let mut peaks = Vec::new();
    let mut rest = tile;
    while !rest.is_empty() {
        let (left, right) = rest.split_at(1 << rest.len().ilog2());
        peaks.push(perfect_root(left));
        rest = right;
    }
    peaks
}

fn tile_hashes(id: TileId, bytes: Option<Vec<u8>>) -> Result<Vec<Hash>, Error> {
    let bytes = bytes.filter(|bytes| bytes.len() == TILE_BYTES);
    let bytes = bytes.ok_or_else(|| Error::Tile(id.to_string()))?;
    Ok(hashes(&bytes))
}

/// The hashes that lie one after another in `bytes`; a rest of less than 32 bytes is left out.
pub(crate) fn hashes(bytes: &[u8]) -> Vec<Hash> {
    bytes.as_chunks::<32>().0.iter().map(|chunk| Hash(*chunk)).collect()
}
