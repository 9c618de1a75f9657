//! Avro binary encoding as a serde format: field by field, in declaration order.
//!
//! The types in [`crate::event`] mirror their `.avsc` files exactly, so no schema is consulted
//! here; a test compares the bytes with apache-avro's for every event. Another writer's version
//! goes through schema resolution in [`crate::codec`] instead.
//!
//! Mapping: struct → record, `Option` → `["null", T]`, unit enum → enum, `Vec` → array,
//! map → map with string keys, `u8`–`u32` and `i32` → int or long (the same varint),
//! `u64` and `i64` → long, `f64` → double, text → string, bytes → bytes.

mod de;
mod ser;

use serde::{Deserialize, Serialize};

/// What serde or the encoding itself objected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AvroError(pub(crate) String);

impl serde::ser::Error for AvroError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        AvroError(message.to_string())
    }
}

impl serde::de::Error for AvroError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        AvroError(message.to_string())
    }
}

/// The Avro datum of `value`.
///
/// # Errors
/// A `u64` above `i64::MAX`, or a shape that Avro has no counterpart for.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, AvroError> {
    let mut bytes = Vec::with_capacity(128);
    append(value, &mut bytes)?;
    Ok(bytes)
}

/// Puts the Avro datum of `value` behind what stands in `out`.
pub(crate) fn append<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), AvroError> {
    value.serialize(&mut ser::Serializer { out })
}

/// The value of an Avro datum; every byte must be used.
///
/// # Errors
/// Bytes that are cut short, left over, or not of this type.
pub fn from_bytes<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, AvroError> {
    let mut deserializer = de::Deserializer::new(bytes);
    let value = T::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Takes one `int` or `long` from the front of `bytes`, for readers that stay in place.
#[inline]
pub(crate) fn take_long(bytes: &mut &[u8]) -> Result<i64, AvroError> {
    de::take_long(bytes)
}
