//! Records that could not be decoded, kept as they came.

use rocksdb::IteratorMode;
use schemas::Hash;
use schemas::wire::{Reader, Writer};

use super::damage::Place;
use super::options::{META, QUARANTINE};
use super::tables::{KEY_COUNT, Tables};
use crate::LogError;

/// The format mark of a quarantined record. Persisted: frozen.
const QUARANTINE_MAGIC: &[u8; 4] = b"HWQ\x01";

/// A record that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// SHA-256 of the record.
    pub hash: Hash,
    /// Why it could not be decoded.
    pub reason: String,
    /// The record as it came.
    pub record: Vec<u8>,
}

impl Tables {
    /// How many records have been quarantined.
    pub(crate) fn n_quarantined(&self) -> Result<u64, LogError> {
        Ok(self.number(META, KEY_COUNT)?.unwrap_or(0))
    }

    /// Every quarantined record, in order of its hash.
    pub(crate) fn quarantined(&self) -> Result<Vec<Quarantined>, LogError> {
        let place = Place::family(QUARANTINE);
        let all = self.db.iterator_cf(self.family(QUARANTINE), IteratorMode::Start);
        let ours = |pair: &Result<(Box<[u8]>, _), _>| {
            pair.as_ref().map_or(true, |(key, _)| key[..] != *KEY_COUNT)
        };
        all.filter(ours)
            .map(|pair| {
                let (key, value) = pair.map_err(|error| place.unreadable(&self.db, &error))?;
                let place = Place { family: QUARANTINE, key: Some(&key) };
                decode_quarantined(&value)
                    .filter(|it| it.hash.0[..] == key[..])
                    .ok_or_else(|| place.damaged(&self.db, "it is not what stands under its hash"))
            })
            .collect()
    }
}

pub(crate) fn encode_quarantined(record: &[u8], reason: &str) -> Vec<u8> {
    let mut out = Writer::new(QUARANTINE_MAGIC);
    out.text(reason).bytes(record);
    out.0
}

/// The same where a record may have `bytes_max`. What a stranger wrote may be larger than what
/// we write; then its beginning is kept, and the reason says so. A record that could not be put
/// aside would stop every owner for good.
pub(crate) fn encode_quarantined_within(record: &[u8], reason: &str, bytes_max: usize) -> Vec<u8> {
    let whole = encode_quarantined(record, reason);
    if whole.len() <= bytes_max {
        return whole;
    }
    // The reason grows by less than this.
    let room = bytes_max.saturating_sub(whole.len() - record.len() + 128);
    let kept = &record[..room.min(record.len())];
    let (n_kept, n) = (kept.len(), record.len());
    encode_quarantined(kept, &format!("{reason}; these are the first {n_kept} of its {n} bytes"))
}

fn decode_quarantined(value: &[u8]) -> Option<Quarantined> {
    let mut reader = Reader::new("quarantined record", value);
    reader.expect(QUARANTINE_MAGIC).ok()?;
    let reason = reader.text().ok()?.to_owned();
    let record = reader.bytes().ok()?.to_vec();
    reader.end().ok()?;
    Some(Quarantined { hash: Hash::of(&[&record]), reason, record })
}
