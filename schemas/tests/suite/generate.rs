//! Payloads of every kind, generated from the `.avsc` files and not from the Rust types: so what
//! the schema allows is what the types are held against.

// apache-avro's schemas have many forms; ours use a few, and the others panic here.
#![allow(clippy::wildcard_enum_match_arm)]

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::schema::UuidSchema;
use proptest::collection::vec;
use proptest::prelude::*;
use schemas::{Hash, Kind, codec};

/// Texts of these fields are public keys.
const KEY_FIELDS: [&str; 3] = ["epoch_key", "root", "node"];
const TEXTS: [&str; 5] = ["", "checkout", "e\u{301}", "a \"quoted\" line\nand more", "漢字 🙂"];

/// A kind and a payload of it, in the one form that we write.
pub(crate) fn payload() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    payload_with_maps_of(3)
}

/// The same, with at most `entries_max` entries in each map: apache-avro's maps have no order,
/// so only maps of one entry have one form.
pub(crate) fn payload_with_maps_of(entries_max: usize) -> impl Strategy<Value = (Kind, Vec<u8>)> {
    let choices = (proptest::sample::select(Kind::ALL), vec(any::<u8>(), 0..256));
    choices.prop_map(move |(kind, tape)| {
        let datum = datum(codec::schema(kind), &tape, entries_max);
        let mut bytes = vec![0xC3, 0x01];
        bytes.extend_from_slice(&codec::fingerprint(kind));
        bytes.extend_from_slice(&datum);
        (kind, bytes)
    })
}

/// A datum of `schema`; `tape` decides every choice and an empty tape decides for the smallest.
pub(crate) fn datum(schema: &Schema, tape: &[u8], entries_max: usize) -> Vec<u8> {
    let mut generator = Generator { tape, entries_max, names: BTreeMap::new(), out: Vec::new() };
    collect_names(schema, &mut generator.names);
    generator.value(schema, "");
    generator.out
}

/// Named types are declared where they first occur, which a choice may leave out.
fn collect_names<'a>(schema: &'a Schema, names: &mut BTreeMap<String, &'a Schema>) {
    match schema {
        Schema::Ref { .. } => return,
        Schema::Record(record) => {
            record.fields.iter().for_each(|it| collect_names(&it.schema, names));
        }
        Schema::Array(array) => collect_names(&array.items, names),
        Schema::Map(map) => collect_names(&map.types, names),
        Schema::Union(union) => union.variants().iter().for_each(|it| collect_names(it, names)),
        _ => {}
    }
    if let Some(name) = schema.name() {
        names.insert(name.fullname(None), schema);
    }
}

struct Generator<'a> {
    tape: &'a [u8],
    entries_max: usize,
    names: BTreeMap<String, &'a Schema>,
    out: Vec<u8>,
}

impl<'a> Generator<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.tape.split_first() else { return 0 };
        self.tape = rest;
        *first
    }

    fn wide(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn long(&mut self, value: i64) {
        let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
        while zigzag >= 0x80 {
            self.out.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        self.out.push(zigzag as u8);
    }

    fn text(&mut self, text: &str) {
        self.long(text.len() as i64);
        self.out.extend_from_slice(text.as_bytes());
    }

    fn value(&mut self, schema: &'a Schema, field: &str) {
        match schema {
            Schema::Ref { name } => {
                let schema = self.names[&name.fullname(None)];
                self.value(schema, field);
            }
            Schema::Boolean => {
                let value = self.byte() & 1;
                self.out.push(value);
            }
            // The types behind `int` are bytes, behind `long` 32 or 64 unsigned bits.
            Schema::Int => {
                let value = self.byte();
                self.long(i64::from(value));
            }
            Schema::Long => {
                let value = self.wide() as u32;
                self.long(i64::from(value));
            }
            Schema::TimestampNanos => {
                let value = self.wide() >> 1;
                self.long(value as i64);
            }
            Schema::Double => {
                let value = self.wide();
                self.out.extend_from_slice(&value.to_le_bytes());
            }
            Schema::String => {
                let choice = usize::from(self.byte());
                if KEY_FIELDS.contains(&field) {
                    self.text(&Hash::of(&[&[choice as u8]]).to_string());
                } else {
                    self.text(TEXTS[choice % TEXTS.len()]);
                }
            }
            Schema::Uuid(UuidSchema::String) => {
                let seed = [self.byte()];
                self.text(&schemas::Uuid::named("test", &[&seed]).to_string());
            }
            Schema::Enum(symbols) => {
                let index = usize::from(self.byte()) % symbols.symbols.len();
                self.long(index as i64);
            }
            Schema::Union(union) => {
                let index = usize::from(self.byte()) % union.variants().len();
                self.long(index as i64);
                self.value(&union.variants()[index], field);
            }
            Schema::Null => {}
            Schema::Array(array) => {
                let n = usize::from(self.byte()) % 4;
                self.block(n, |generator, _| generator.value(&array.items, field));
            }
            Schema::Map(map) => {
                let n = usize::from(self.byte()) % (self.entries_max + 1);
                self.block(n, |generator, index| {
                    generator.text(["alpha", "beta", "γ"][index]);
                    generator.value(&map.types, field);
                });
            }
            Schema::Record(record) => {
                for field in &record.fields {
                    self.value(&field.schema, &field.name);
                }
            }
            other => panic!("our schemas use no {other:?}"),
        }
    }

    fn block(&mut self, n: usize, mut item: impl FnMut(&mut Self, usize)) {
        if n > 0 {
            self.long(n as i64);
        }
        for index in 0..n {
            item(self, index);
        }
        self.long(0);
    }
}
