//! Writing: serde values to Avro binary.

use serde::ser::{self, Serialize};

use super::AvroError;

pub(super) struct Serializer<'a> {
    pub(super) out: &'a mut Vec<u8>,
}

impl Serializer<'_> {
    fn long(&mut self, value: i64) {
        let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
        while zigzag >= 0x80 {
            self.out.push((zigzag as u8) | 0x80);
            zigzag >>= 7;
        }
        self.out.push(zigzag as u8);
    }

    fn length(&mut self, n: usize) {
        self.long(n as i64);
    }
}

fn unsupported<T>(what: &str) -> Result<T, AvroError> {
    Err(AvroError(format!("{what} has no counterpart in our Avro schemas")))
}

impl<'a, 'b> ser::Serializer for &'a mut Serializer<'b> {
    type Ok = ();
    type Error = AvroError;
    type SerializeSeq = Block<'a, 'b>;
    type SerializeTuple = Block<'a, 'b>;
    type SerializeTupleStruct = ser::Impossible<(), AvroError>;
    type SerializeTupleVariant = ser::Impossible<(), AvroError>;
    type SerializeMap = Block<'a, 'b>;
    type SerializeStruct = Fields<'a, 'b>;
    type SerializeStructVariant = ser::Impossible<(), AvroError>;

    fn is_human_readable(&self) -> bool {
        false
    }
    fn serialize_bool(self, value: bool) -> Result<(), AvroError> {
        self.out.push(u8::from(value));
        Ok(())
    }
    fn serialize_i8(self, value: i8) -> Result<(), AvroError> {
        self.serialize_i64(i64::from(value))
    }
    fn serialize_i16(self, value: i16) -> Result<(), AvroError> {
        self.serialize_i64(i64::from(value))
    }
    fn serialize_i32(self, value: i32) -> Result<(), AvroError> {
        self.serialize_i64(i64::from(value))
    }
    fn serialize_i64(self, value: i64) -> Result<(), AvroError> {
        self.long(value);
        Ok(())
    }
    fn serialize_u8(self, value: u8) -> Result<(), AvroError> {
        self.serialize_i64(i64::from(value))
    }
    fn serialize_u16(self, value: u16) -> Result<(), AvroError> {
        self.serialize_i64(i64::from(value))
    }
    fn serialize_u32(self, value: u32) -> Result<(), AvroError> {
        self.serialize_i64(i64::from(value))
    }
    fn serialize_u64(self, value: u64) -> Result<(), AvroError> {
        let value = i64::try_from(value)
            .map_err(|_| AvroError(format!("{value} is above the range of an Avro long")))?;
        self.serialize_i64(value)
    }
    fn serialize_f32(self, value: f32) -> Result<(), AvroError> {
        self.out.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }
    fn serialize_f64(self, value: f64) -> Result<(), AvroError> {
        self.out.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }
    fn serialize_char(self, value: char) -> Result<(), AvroError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, value: &str) -> Result<(), AvroError> {
        self.serialize_bytes(value.as_bytes())
    }
    fn serialize_bytes(self, value: &[u8]) -> Result<(), AvroError> {
        self.length(value.len());
        self.out.extend_from_slice(value);
        Ok(())
    }
    fn serialize_none(self) -> Result<(), AvroError> {
        self.long(0);
        Ok(())
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), AvroError> {
        self.long(1);
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), AvroError> {
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), AvroError> {
        Ok(())
    }
    fn serialize_unit_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
    ) -> Result<(), AvroError> {
        self.serialize_u32(index)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), AvroError> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), AvroError> {
        self.long(i64::from(index));
        value.serialize(self)
    }
    fn serialize_seq(self, n: Option<usize>) -> Result<Block<'a, 'b>, AvroError> {
        Block::open(self, n)
    }
    fn serialize_tuple(self, n: usize) -> Result<Block<'a, 'b>, AvroError> {
        Block::open(self, Some(n))
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, AvroError> {
        unsupported("a tuple struct")
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, AvroError> {
        unsupported("a tuple variant")
    }
    fn serialize_map(self, n: Option<usize>) -> Result<Block<'a, 'b>, AvroError> {
        Block::open(self, n)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'a, 'b>, AvroError> {
        Ok(Fields(self))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, AvroError> {
        unsupported("a struct variant")
    }
}

/// An array or map: one block of known length and the closing zero.
pub(super) struct Block<'a, 'b>(&'a mut Serializer<'b>);

impl<'a, 'b> Block<'a, 'b> {
    fn open(serializer: &'a mut Serializer<'b>, n: Option<usize>) -> Result<Self, AvroError> {
        let n = n.ok_or_else(|| AvroError("a sequence of unknown length".to_owned()))?;
        if n > 0 {
            serializer.length(n);
        }
        Ok(Block(serializer))
    }

    fn close(self) {
        self.0.long(0);
    }
}

impl ser::SerializeSeq for Block<'_, '_> {
    type Ok = ();
    type Error = AvroError;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), AvroError> {
        value.serialize(&mut *self.0)
    }
    fn end(self) -> Result<(), AvroError> {
        self.close();
        Ok(())
    }
}

impl ser::SerializeTuple for Block<'_, '_> {
    type Ok = ();
    type Error = AvroError;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), AvroError> {
        value.serialize(&mut *self.0)
    }
    fn end(self) -> Result<(), AvroError> {
        self.close();
        Ok(())
    }
}

impl ser::SerializeMap for Block<'_, '_> {
    type Ok = ();
    type Error = AvroError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), AvroError> {
        key.serialize(&mut *self.0)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), AvroError> {
        value.serialize(&mut *self.0)
    }
    fn end(self) -> Result<(), AvroError> {
        self.close();
        Ok(())
    }
}

/// A record: its fields one after the other.
pub(super) struct Fields<'a, 'b>(&'a mut Serializer<'b>);

impl ser::SerializeStruct for Fields<'_, '_> {
    type Ok = ();
    type Error = AvroError;
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        _: &'static str,
        value: &T,
    ) -> Result<(), AvroError> {
        value.serialize(&mut *self.0)
    }
    fn end(self) -> Result<(), AvroError> {
        Ok(())
    }
}
