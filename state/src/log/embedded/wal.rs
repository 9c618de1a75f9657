//! RocksDB's log files (write-ahead logs and manifests) checked by ourselves, for two things that
//! it does not tell.
//!
//! *Where.* It says "checksum mismatch" and neither file nor place: [`damaged`] finds both.
//!
//! *Whether an end is torn or cut.* A record that reaches beyond the end of its file looks to it
//! like one that a crash has torn, and is dropped without a word: rightly, for nothing was
//! answered for it. But a flipped bit in a record's length looks the same, and then everything
//! behind it is lost; in a manifest, whole table files. [`cut`] tells them apart: if the record's
//! checksum holds for a shorter length, the record is there and its length is what changed.
//!
//! Files are sequences of blocks of 32 KiB; fragments of records never span two.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Format of RocksDB's log files: fragments never span a block.
const BLOCK_BYTES: usize = 32 * 1024;
/// Checksum, length, type.
const HEADER_BYTES: usize = 7;
/// What RocksDB adds to a checksum, so that a checksum of checksums stays useful.
const MASK_DELTA: u32 = 0xa282_ead8;
/// Castagnoli's polynomial, reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The fragment whose length has changed so that the rest of its file seems to be torn off.
pub(crate) fn cut(journal: &Path) -> Option<(String, u64)> {
    let table = table();
    logs(journal, &["log", "MANIFEST"]).iter().find_map(|path| {
        let (start, block) = last_block(path)?;
        let offset = cut_fragment(&block, &table)?;
        Some((path.file_name()?.to_string_lossy().into_owned(), start + offset as u64))
    })
}

/// The first fragment of a write-ahead log that is not what was written: file name and offset.
pub(crate) fn damaged(journal: &Path) -> Option<(String, u64)> {
    let table = table();
    logs(journal, &["log"]).iter().find_map(|path| {
        let offset = damaged_fragment(&fs::read(path).ok()?, &table)?;
        Some((path.file_name()?.to_string_lossy().into_owned(), offset as u64))
    })
}

/// Files that are called `NUMBER.kind` or `kind-NUMBER`, in order.
fn logs(journal: &Path, kinds: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(journal).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|it| Some(it.ok()?.path())).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        kinds.iter().any(|kind| {
            let after = name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-'));
            after || name.strip_suffix(kind).is_some_and(|rest| rest.ends_with('.'))
        })
    });
    paths.sort();
    paths
}

/// The last block of a file, and where it starts.
fn last_block(path: &Path) -> Option<(u64, Vec<u8>)> {
    let mut file = fs::File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    let start = len.saturating_sub(1) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut block = Vec::new();
    file.take(BLOCK_BYTES as u64).read_to_end(&mut block).ok()?;
    Some((start, block))
}

fn cut_fragment(block: &[u8], table: &[u32; 256]) -> Option<usize> {
    let mut at = 0;
    while let Some(header) = block.get(at..at + HEADER_BYTES) {
        let checksum = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let len = usize::from(u16::from_le_bytes([header[4], header[5]]));
        if at + HEADER_BYTES + len > block.len() {
            let mut crc = !0;
            let holds = block[at + 6..].iter().any(|byte| {
                crc = step(crc, *byte, table);
                masked(!crc) == checksum
            });
            return holds.then_some(at);
        }
        at += HEADER_BYTES + len;
    }
    None
}

fn damaged_fragment(bytes: &[u8], table: &[u32; 256]) -> Option<usize> {
    let mut block_start = 0;
    for block in bytes.chunks(BLOCK_BYTES) {
        let mut at = 0;
        while let Some(header) = block.get(at..at + HEADER_BYTES) {
            let checksum = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let len = usize::from(u16::from_le_bytes([header[4], header[5]]));
            if header == [0; HEADER_BYTES] {
                // Space that was allocated ahead and never written.
                break;
            }
            let end = at + HEADER_BYTES + len;
            let covered = block.get(at + 6..end);
            if covered.is_none_or(|it| masked(crc32c(it, table)) != checksum) {
                return Some(block_start + at);
            }
            at = end;
        }
        block_start += BLOCK_BYTES;
    }
    None
}

fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(MASK_DELTA)
}

fn crc32c(bytes: &[u8], table: &[u32; 256]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| step(crc, *byte, table))
}

fn step(crc: u32, byte: u8, table: &[u32; 256]) -> u32 {
    table[usize::from(crc as u8 ^ byte)] ^ (crc >> 8)
}

fn table() -> [u32; 256] {
    std::array::from_fn(|index| {
        (0..8).fold(index as u32, |crc, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789", &table()), 0xe306_9283);
    }
}
