//! Finds the damaged record in a write-ahead log that RocksDB has refused to replay.
//!
//! RocksDB says "checksum mismatch" and neither file nor place. This walks its files of blocks
//! of 32 KiB and checks each fragment itself; it is used for nothing but that sentence.

use std::fs;
use std::path::{Path, PathBuf};

/// Format of RocksDB's log files: fragments never span a block.
const BLOCK_BYTES: usize = 32 * 1024;
/// Checksum, length, type.
const HEADER_BYTES: usize = 7;
/// What RocksDB adds to a checksum, so that a checksum of checksums stays useful.
const MASK_DELTA: u32 = 0xa282_ead8;
/// Castagnoli's polynomial, reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The first fragment that is not what was written: file name and offset.
pub(crate) fn damaged(journal: &Path) -> Option<(String, u64)> {
    let entries = fs::read_dir(journal).ok()?;
    let mut logs: Vec<PathBuf> = entries.filter_map(|it| Some(it.ok()?.path())).collect();
    logs.retain(|path| path.extension().is_some_and(|it| it == "log"));
    logs.sort();
    let table = table();
    logs.iter().find_map(|path| {
        let offset = damaged_fragment(&fs::read(path).ok()?, &table)?;
        Some((path.file_name()?.to_string_lossy().into_owned(), offset as u64))
    })
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
    !bytes.iter().fold(!0, |crc, byte| table[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
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
