//! Reading: Avro binary to serde values. Lengths are checked against what is left before
//! anything is allocated, and depth is bounded by the types themselves.

use serde::de::{self, DeserializeSeed, Visitor};

use super::AvroError;

/// 64 bits in groups of seven; the tenth byte holds one bit.
const VARINT_BYTES_MAX: usize = 10;

/// Takes a zigzag varint from the front of `bytes`: the one reader of Avro's `int` and `long`.
#[inline]
pub(super) fn take_long(bytes: &mut &[u8]) -> Result<i64, AvroError> {
    match **bytes {
        // Lengths, counts and branches: nearly all there are.
        [byte, ..] if byte < 0x80 => {
            *bytes = &bytes[1..];
            Ok(unfold(u64::from(byte)))
        }
        _ => take_long_one(bytes),
    }
}

fn unfold(zigzag: u64) -> i64 {
    (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
}

fn take_long_one(bytes: &mut &[u8]) -> Result<i64, AvroError> {
    let mut zigzag = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(VARINT_BYTES_MAX) {
        if index + 1 == VARINT_BYTES_MAX && *byte > 1 {
            return Err(AvroError("a varint is longer than 64 bits".to_owned()));
        }
        zigzag |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Ok(unfold(zigzag));
        }
    }
    Err(AvroError("a varint is cut short".to_owned()))
}

pub(super) struct Deserializer<'de> {
    bytes: &'de [u8],
}

impl<'de> Deserializer<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Deserializer { bytes }
    }

    pub(super) fn end(&self) -> Result<(), AvroError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(AvroError(format!("{} bytes follow the value", self.bytes.len())))
    }

    fn take(&mut self, n: usize) -> Result<&'de [u8], AvroError> {
        if n > self.bytes.len() {
            return Err(AvroError(format!("{n} bytes wanted, {} left", self.bytes.len())));
        }
        let (taken, rest) = self.bytes.split_at(n);
        self.bytes = rest;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64, AvroError> {
        take_long(&mut self.bytes)
    }

    fn length(&mut self) -> Result<usize, AvroError> {
        let n = self.long()?;
        usize::try_from(n).map_err(|_| AvroError(format!("length {n} is negative")))
    }

    fn text(&mut self) -> Result<&'de str, AvroError> {
        let n = self.length()?;
        std::str::from_utf8(self.take(n)?).map_err(|_| AvroError("text is no UTF-8".to_owned()))
    }

    fn double(&mut self) -> Result<f64, AvroError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(f64::from_le_bytes(bytes))
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
            visitor.visit_i64(self.long()?)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Deserializer<'de> {
    type Error = AvroError;

    fn is_human_readable(&self) -> bool {
        false
    }
    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, AvroError> {
        Err(AvroError("Avro binary does not describe itself".to_owned()))
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        self.deserialize_any(visitor)
    }
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        match self.take(1)?[0] {
            0 => visitor.visit_bool(false),
            1 => visitor.visit_bool(true),
            byte => Err(AvroError(format!("boolean {byte} is not 0 or 1"))),
        }
    }
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        visitor.visit_f32(f32::from_le_bytes(bytes))
    }
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        visitor.visit_f64(self.double()?)
    }
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        self.deserialize_str(visitor)
    }
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        visitor.visit_borrowed_str(self.text()?)
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        self.deserialize_str(visitor)
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        let n = self.length()?;
        visitor.visit_borrowed_bytes(self.take(n)?)
    }
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        self.deserialize_bytes(visitor)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        match self.long()? {
            0 => visitor.visit_none(),
            1 => visitor.visit_some(self),
            branch => Err(AvroError(format!("union branch {branch} is not 0 or 1"))),
        }
    }
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        visitor.visit_unit()
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, AvroError> {
        visitor.visit_unit()
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, AvroError> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        let mut blocks = Blocks { deserializer: self, left: 0, done: false };
        let value = visitor.visit_seq(&mut blocks)?;
        blocks.finish()?;
        Ok(value)
    }
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, AvroError> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, AvroError> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        let mut blocks = Blocks { deserializer: self, left: 0, done: false };
        let value = visitor.visit_map(&mut blocks)?;
        blocks.finish()?;
        Ok(value)
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, AvroError> {
        visitor.visit_seq(Fields { deserializer: self, left: fields.len() })
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, AvroError> {
        let index = self.long()?;
        let index = u32::try_from(index).map_err(|_| AvroError(format!("enum index {index}")))?;
        visitor.visit_enum(Variant { deserializer: self, index })
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AvroError> {
        self.deserialize_str(visitor)
    }
}

/// The fields of a record, by count.
struct Fields<'a, 'de> {
    deserializer: &'a mut Deserializer<'de>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Fields<'_, 'de> {
    type Error = AvroError;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, AvroError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.deserializer).map(Some)
    }
}

/// The blocks of an array or map, up to the closing zero.
struct Blocks<'a, 'de> {
    deserializer: &'a mut Deserializer<'de>,
    left: usize,
    done: bool,
}

impl Blocks<'_, '_> {
    /// Whether an item follows; opens the next block where one has ended.
    fn more(&mut self) -> Result<bool, AvroError> {
        if self.left == 0 && !self.done {
            let count = self.deserializer.long()?;
            if count < 0 {
                // A negative count is followed by the block's size in bytes.
                self.deserializer.long()?;
            }
            let count = count.unsigned_abs() as usize;
            if count > self.deserializer.bytes.len() {
                return Err(AvroError(format!("{count} items in fewer bytes")));
            }
            self.left = count;
            self.done = count == 0;
        }
        Ok(self.left > 0)
    }

    fn finish(&mut self) -> Result<(), AvroError> {
        if self.more()? {
            return Err(AvroError(format!("{} items more than expected", self.left)));
        }
        Ok(())
    }
}

impl<'de> de::SeqAccess<'de> for &mut Blocks<'_, 'de> {
    type Error = AvroError;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, AvroError> {
        if !self.more()? {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.deserializer).map(Some)
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> de::MapAccess<'de> for &mut Blocks<'_, 'de> {
    type Error = AvroError;
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, AvroError> {
        if !self.more()? {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.deserializer).map(Some)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, AvroError> {
        seed.deserialize(&mut *self.deserializer)
    }
}

/// A unit variant by its index, or a union branch with its value.
struct Variant<'a, 'de> {
    deserializer: &'a mut Deserializer<'de>,
    index: u32,
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = AvroError;
    type Variant = Self;
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), AvroError> {
        let index = de::value::U32Deserializer::<AvroError>::new(self.index);
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = AvroError;
    fn unit_variant(self) -> Result<(), AvroError> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, AvroError> {
        seed.deserialize(self.deserializer)
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, AvroError> {
        Err(AvroError("a tuple variant".to_owned()))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, AvroError> {
        Err(AvroError("a struct variant".to_owned()))
    }
}
