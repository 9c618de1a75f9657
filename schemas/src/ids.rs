//! Identifiers: event ids, hashes and the UUIDs that payloads carry.
//!
//! Every identifier here is derived from content (UUIDv8 of a hash), never from chance, so that
//! replay gives the same ones.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A SHA-256 digest; 64 lower-case hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// SHA-256 over the concatenation of `parts`.
    ///
    /// The caller separates domains and lengths; this adds nothing.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut sha = Sha256::new();
        for part in parts {
            sha.update(part);
        }
        Hash(sha.finalize().into())
    }

    /// The hash as `sha256:<hex>`, the form in which payloads name artifacts.
    pub fn to_digest(&self) -> String {
        format!("sha256:{self}")
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Hash {
    type Err = crate::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        unhex(text).map(Hash).ok_or_else(|| crate::Error::malformed("hash", "not 64 hex digits"))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A UUIDv8 (RFC 9562 §5.8) derived from a hash; the usual hyphenated form in text and in Avro.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

/// The id of an event, `UUIDv8(SHA-256(genesis ‖ cause))`, protocol.md §8.
pub type EventId = Uuid;

impl Uuid {
    /// The first 16 bytes of `hash` with version 8 and the RFC variant set.
    pub fn from_hash(hash: &Hash) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.0[..16]);
        bytes[6] = (bytes[6] & 0x0f) | 0x80;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Uuid(bytes)
    }

    /// A UUID for `name` within `domain`; the same arguments always give the same id.
    pub fn named(domain: &str, name: &[&[u8]]) -> Self {
        let mut sha = Sha256::new();
        sha.update((domain.len() as u32).to_be_bytes());
        sha.update(domain.as_bytes());
        for part in name {
            sha.update((part.len() as u32).to_be_bytes());
            sha.update(part);
        }
        Uuid::from_hash(&Hash(sha.finalize().into()))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Uuid {
    type Err = crate::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || crate::Error::malformed("uuid", format!("{text:?} is not a UUID"));
        let hyphens = text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte != b'-',
        });
        if text.len() != 36 || !hyphens {
            return Err(wrong());
        }
        unhex(&text.replace('-', "")).map(Uuid).ok_or_else(wrong)
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Exactly `N` bytes from `2 N` lower- or upper-case hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(bytes)
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
