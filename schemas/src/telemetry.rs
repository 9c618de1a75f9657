//! Telemetry records read in place: the columns of a `telemetry.sample.v1` without building
//! its dictionary.
//!
//! A record of 100 series × 1 point carries 100 dictionary entries. Folding a million such
//! samples a second leaves about a microsecond for each, so the dictionary is kept as slices of
//! the record: the encoded bytes of a series are its identity.
//!
//! It accepts whatever the typed decode accepts, with equal columns. Of the texts it leaves in
//! place it checks the lengths only; [`series`] checks the rest when a series is first seen.

mod dictionary;

use std::cell::Cell;
use std::ops::Range;

use self::dictionary::{Dictionaries, Head};
use crate::event::{Kind, Series};
use crate::{Error, avro, codec};

/// One record, its columns decoded and its dictionary left in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Columns<'s, 'a> {
    /// Encoded [`Series`], one per dictionary entry: equal bytes, equal series.
    pub series: &'s [&'a [u8]],
    /// [`series_hash`] of each.
    pub hashes: &'s [u64],
    /// Where its dictionary begins in [`Samples::entries`]. Records that begin at the same entry
    /// have the same dictionary.
    pub first: usize,
    /// Index into the dictionary, one per sample.
    pub series_idx: &'s [u32],
    /// Event time of each sample, nanoseconds since the epoch.
    pub ts_ns: &'s [u64],
    /// Value of each sample.
    pub value: &'s [f64],
}

/// Decodes the identity of a series.
///
/// # Errors
/// [`Error::Payload`].
pub fn series(bytes: &[u8]) -> Result<Series, Error> {
    avro::from_bytes(bytes).map_err(|error| wrong(error.to_string()))
}

/// What the state knows a series by, from its encoded bytes: a 64-bit hash by folded
/// multiplication, eight bytes a step (after wyhash, public domain). Persisted in state: frozen.
///
/// It is not cryptographic. Who sends telemetry can lie about values anyway; two series that share
/// a hash share a baseline and nothing else.
#[inline]
pub fn series_hash(bytes: &[u8]) -> u64 {
    const A: u64 = 0xa076_1d64_78bd_642f;
    const B: u64 = 0xe703_7ed1_a0b4_28db;
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b);
        (wide as u64) ^ (wide >> 64) as u64
    };
    let mut state = A ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        state = fold(state ^ u64::from_le_bytes(word), B);
    }
    let mut word = [0; 8];
    word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    fold(state ^ u64::from_le_bytes(word), A ^ B)
}

/// The records of a sealed range, their columns laid end to end: where each record is one
/// sample, four columns for each would cost more than the samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples<'a> {
    entries: Entries<'a>,
    series_idx: Vec<u32>,
    ts_ns: Vec<u64>,
    value: Vec<f64>,
    records: Vec<Place>,
    /// The bytes of an index column that was read, and where it stands: records of one sender are
    /// alike. None of a single sample, which is read as fast as it would be copied.
    indices: (&'a [u8], Range<usize>),
    dictionaries: Dictionaries,
}

/// Dictionary entries of all records; a dictionary that comes again stands here once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entries<'a> {
    /// Encoded [`Series`].
    pub series: Vec<&'a [u8]>,
    /// [`series_hash`] of each.
    pub hashes: Vec<u64>,
    /// What whoever folds the range notes of each, zero at first. It comes again with the
    /// dictionary, also in a later range, and may be gone at any time: a hint where to look
    /// first, which decides nothing.
    pub hints: Vec<Cell<u32>>,
}

impl Entries<'_> {
    fn truncate(&mut self, n: usize) {
        self.series.truncate(n);
        self.hashes.truncate(n);
        self.hints.truncate(n);
    }
}

/// Of a record its dictionary among those of all, and where it ends in the columns. A range is
/// some megabytes, and records can be as small as a sample.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    entries: Range<u32>,
    end: u32,
}

impl<'a> Samples<'a> {
    /// Those of one record.
    ///
    /// # Errors
    /// As [`Samples::read`].
    pub fn decode(record: &'a [u8]) -> Result<Self, Error> {
        let mut samples = Samples::default();
        samples.read(record)?;
        Ok(samples)
    }

    /// None, with the memory and the dictionaries of these: for a reader that reads range after
    /// range.
    #[must_use]
    pub fn recycle<'b>(mut self) -> Samples<'b> {
        self.dictionaries.end_range(&self.entries.hints);
        self.entries.truncate(0);
        self.series_idx.clear();
        self.ts_ns.clear();
        self.value.clear();
        self.records.clear();
        let Samples { entries, series_idx, ts_ns, value, records, dictionaries, .. } = self;
        let Entries { series, hashes, hints } = entries;
        // There is none; the vector's memory goes over to another lifetime.
        let series = series.into_iter().map(|_| &[][..]).collect();
        let entries = Entries { series, hashes, hints };
        let indices = Default::default();
        Samples { entries, series_idx, ts_ns, value, records, indices, dictionaries }
    }

    /// Makes room for `times` as many as there are. Memory that is grown into by halves is touched
    /// twice.
    pub fn reserve(&mut self, times: usize) {
        let Entries { series, hashes, hints } = &mut self.entries;
        series.reserve_exact(series.len() * times);
        hashes.reserve_exact(hashes.len() * times);
        hints.reserve_exact(hints.len() * times);
        self.series_idx.reserve_exact(self.series_idx.len() * times);
        self.ts_ns.reserve_exact(self.ts_ns.len() * times);
        self.value.reserve_exact(self.value.len() * times);
        self.records.reserve_exact(self.records.len() * times);
    }

    /// Adds a record as it is stored: the single-object encoding of `telemetry.sample.v1`.
    /// Nothing is added of one that is refused.
    ///
    /// # Errors
    /// [`Error::Payload`]: not this schema, columns of unequal length, or an index outside the
    /// dictionary.
    pub fn read(&mut self, record: &'a [u8]) -> Result<(), Error> {
        let (n_entries, n_samples) = (self.entries.series.len(), self.value.len());
        let added = self.add(record, n_samples);
        if added.is_err() {
            self.entries.truncate(n_entries);
            self.series_idx.truncate(n_samples);
            self.ts_ns.truncate(n_samples);
            self.value.truncate(n_samples);
            self.indices = Default::default();
        }
        added
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// The dictionary entries of all records.
    pub fn entries(&self) -> &Entries<'a> {
        &self.entries
    }

    /// Event time of each sample of all records.
    pub fn ts_ns(&self) -> &[u64] {
        &self.ts_ns
    }

    /// Value of each sample of all records.
    pub fn value(&self) -> &[f64] {
        &self.value
    }

    /// The records, in their order.
    pub fn records(&self) -> impl Iterator<Item = Columns<'_, 'a>> {
        let starts = std::iter::once(0).chain(self.records.iter().map(|it| it.end as usize));
        starts.zip(&self.records).map(|(start, Place { entries, end })| {
            let (entries, rows) =
                (entries.start as usize..entries.end as usize, start..*end as usize);
            Columns {
                first: entries.start,
                series: &self.entries.series[entries.clone()],
                hashes: &self.entries.hashes[entries],
                series_idx: &self.series_idx[rows.clone()],
                ts_ns: &self.ts_ns[rows.clone()],
                value: &self.value[rows],
            }
        })
    }

    fn add(&mut self, record: &'a [u8], n_samples: usize) -> Result<(), Error> {
        let datum = codec::datum(Kind::TelemetrySample, record)?;
        let dictionary = self.columns(datum, n_samples).map_err(wrong)?;
        let first = dictionary.entries.start;
        let entries = first as u32..dictionary.entries.end as u32;
        self.records.push(Place { entries, end: self.value.len() as u32 });
        match dictionary.is {
            Is::Kept(it) => self.dictionaries.came(it, first),
            Is::New(head, bytes) => self.dictionaries.keep(head, bytes, first, &self.entries),
        }
        Ok(())
    }

    fn columns(&mut self, datum: &'a [u8], n_samples: usize) -> Read<Found<'a>> {
        let mut cursor = Cursor { bytes: datum };
        cursor.text()?;
        cursor.skip_text()?;
        let dictionary = self.dictionary(&mut cursor)?;
        self.index_column(&mut cursor)?;
        cursor.block(&mut self.ts_ns, {
            let mut before = (&datum[..0], 0);
            move |cursor| cursor.time(&mut before)
        })?;
        cursor.doubles(&mut self.value)?;
        cursor.skip_option_text()?;
        cursor.end()?;
        let n = self.value.len();
        if self.series_idx.len() != n || self.ts_ns.len() != n {
            return Err("its columns are of unequal length");
        }
        let entries = dictionary.entries.len();
        if self.series_idx[n_samples..].iter().any(|index| *index as usize >= entries) {
            return Err("a sample names a series outside the dictionary");
        }
        Ok(dictionary)
    }

    fn index_column(&mut self, cursor: &mut Cursor<'a>) -> Read<()> {
        let (bytes, stands) = &self.indices;
        if !bytes.is_empty() && cursor.bytes.starts_with(bytes) {
            cursor.bytes = &cursor.bytes[bytes.len()..];
            self.series_idx.extend_from_within(stands.clone());
            return Ok(());
        }
        let (start, from) = (cursor.bytes, self.series_idx.len());
        cursor.block(&mut self.series_idx, Cursor::index)?;
        let stands = from..self.series_idx.len();
        if stands.len() > 1 {
            self.indices = (&start[..start.len() - cursor.bytes.len()], stands);
        }
        Ok(())
    }

    /// One that is kept, or what is read now.
    fn dictionary(&mut self, cursor: &mut Cursor<'a>) -> Read<Found<'a>> {
        let start = cursor.bytes;
        let head = || Cursor { bytes: start }.head();
        if let Some(it) = self.dictionaries.find(start, head)? {
            cursor.bytes = &start[self.dictionaries.n_bytes(it)..];
            let entries = self.dictionaries.place(it, start, &mut self.entries);
            return Ok(Found { is: Is::Kept(it), entries });
        }
        let Entries { series, hashes, hints } = &mut self.entries;
        let first = series.len();
        cursor.block(series, Cursor::series)?;
        hashes.extend(series[first..].iter().map(|it| series_hash(it)));
        hints.resize(series.len(), Cell::default());
        let bytes = &start[..start.len() - cursor.bytes.len()];
        Ok(Found { is: Is::New(head()?, bytes), entries: first..series.len() })
    }
}

/// A record's dictionary.
struct Found<'a> {
    is: Is<'a>,
    /// Its entries among those of all records.
    entries: Range<usize>,
}

enum Is<'a> {
    Kept(usize),
    New(Head, &'a [u8]),
}

/// What was read, or why it cannot be: an error of two words costs nothing where there is none.
type Read<T> = Result<T, &'static str>;

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        if n > self.bytes.len() {
            return Err("it is cut short");
        }
        let (taken, rest) = self.bytes.split_at(n);
        self.bytes = rest;
        Ok(taken)
    }

    fn long(&mut self) -> Read<i64> {
        avro::take_long(&mut self.bytes).map_err(|_| "a varint is cut short or too long")
    }

    fn unsigned(&mut self) -> Read<u64> {
        u64::try_from(self.long()?).map_err(|_| "a negative number")
    }

    /// A time, and its bytes for the next: where a record is one sample of each series, all its
    /// times are the same nine bytes.
    fn time(&mut self, before: &mut (&'a [u8], u64)) -> Read<u64> {
        let (bytes, time) = *before;
        if !bytes.is_empty() && self.bytes.starts_with(bytes) {
            self.bytes = &self.bytes[bytes.len()..];
            return Ok(time);
        }
        let start = self.bytes;
        let time = self.unsigned()?;
        *before = (&start[..start.len() - self.bytes.len()], time);
        Ok(time)
    }

    fn index(&mut self) -> Read<u32> {
        u32::try_from(self.long()?).map_err(|_| "an index outside 32 bits")
    }

    fn text(&mut self) -> Read<&'a str> {
        let n = self.unsigned()? as usize;
        std::str::from_utf8(self.take(n)?).map_err(|_| "text is no UTF-8")
    }

    fn skip_text(&mut self) -> Read<()> {
        let n = self.unsigned()? as usize;
        self.take(n).map(|_| ())
    }

    fn skip_option_text(&mut self) -> Read<()> {
        match self.long()? {
            0 => Ok(()),
            1 => self.skip_text(),
            _ => Err("a union branch is not 0 or 1"),
        }
    }

    /// How a dictionary begins. Nothing of one with a single entry, which is read as fast as it
    /// would be found.
    fn head(mut self) -> Read<Head> {
        let n_bytes = self.bytes.len();
        let count = self.long()?;
        if (0..2).contains(&count) {
            return Ok(Head::default());
        }
        if count < 0 {
            self.long()?;
        }
        let begin = n_bytes - self.bytes.len();
        let first = series_hash(self.series()?);
        Ok(Head { n: count.unsigned_abs() as usize, begin, first })
    }

    /// The bytes of one dictionary entry: service, host, key, labels.
    fn series(&mut self) -> Read<&'a [u8]> {
        let start = self.bytes;
        self.skip_text()?;
        self.skip_text()?;
        self.skip_text()?;
        // A label is two texts; a vector of nothing takes no memory.
        self.block(&mut Vec::new(), |cursor| {
            cursor.skip_text()?;
            cursor.skip_text()
        })?;
        Ok(&start[..start.len() - self.bytes.len()])
    }

    /// Adds the items of an array or map, up to the closing zero.
    fn block<T>(
        &mut self,
        items: &mut Vec<T>,
        mut item: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<()> {
        self.blocks(|cursor, count| {
            items.reserve(count);
            for _ in 0..count {
                items.push(item(cursor)?);
            }
            Ok(())
        })
    }

    /// The same of numbers, eight bytes each.
    fn doubles(&mut self, items: &mut Vec<f64>) -> Read<()> {
        self.blocks(|cursor, count| {
            let (numbers, _) = cursor.take(8 * count)?.as_chunks();
            items.extend(numbers.iter().map(|it| f64::from_le_bytes(*it)));
            Ok(())
        })
    }

    /// Hands the number of items of each block to `block`, which reads them.
    fn blocks(&mut self, mut block: impl FnMut(&mut Self, usize) -> Read<()>) -> Read<()> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // A negative count is followed by the block's size in bytes.
                self.long()?;
            }
            let count = count.unsigned_abs();
            // Every item takes a byte at least, so this bounds what a hostile count reserves.
            if count > self.bytes.len() as u64 {
                return Err("more items than bytes");
            }
            block(self, count as usize)?;
        }
    }

    fn end(&self) -> Read<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err("bytes follow the value")
    }
}

fn wrong(why: impl Into<String>) -> Error {
    Error::Payload { kind: Kind::TelemetrySample.topic(), why: why.into() }
}
