//! Telemetry records read in place: the columns of a `telemetry.sample.v1` without building
//! its dictionary.
//!
//! A record of 100 series × 1 point carries 100 dictionary entries. Folding a million such
//! samples a second leaves about a microsecond for each, so the dictionary is kept as slices of
//! the record: the encoded bytes of a series are its identity.
//!
//! It accepts whatever the typed decode accepts, with equal columns. Of the texts it leaves in
//! place it checks the lengths only; [`series`] checks the rest when a series is first seen.

use crate::event::{Kind, Series};
use crate::{Error, avro, codec};

/// One record, its columns decoded and its dictionary left in place.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns<'a> {
    /// Who measured.
    pub source: &'a str,
    /// Encoded [`Series`], one per dictionary entry: equal bytes, equal series.
    pub series: Vec<&'a [u8]>,
    /// Index into the dictionary, one per sample.
    pub series_idx: Vec<u32>,
    /// Event time of each sample, nanoseconds since the epoch.
    pub ts_ns: Vec<u64>,
    /// Value of each sample.
    pub value: Vec<f64>,
}

/// Decodes the identity of a series.
///
/// # Errors
/// [`Error::Payload`].
pub fn series(bytes: &[u8]) -> Result<Series, Error> {
    avro::from_bytes(bytes).map_err(|error| wrong(error.to_string()))
}

impl<'a> Columns<'a> {
    /// Reads a record as it is stored: the single-object encoding of `telemetry.sample.v1`.
    ///
    /// # Errors
    /// [`Error::Payload`]: not this schema, columns of unequal length, or an index outside the
    /// dictionary.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        let datum = codec::datum(Kind::TelemetrySample, bytes)?;
        let mut cursor = Cursor { bytes: datum };
        let source = cursor.text()?;
        cursor.skip_text()?;
        let columns = Columns {
            source,
            series: cursor.block(Cursor::series)?,
            series_idx: cursor.block(Cursor::index)?,
            ts_ns: cursor.block(Cursor::unsigned)?,
            value: cursor.block(Cursor::double)?,
        };
        cursor.skip_option_text()?;
        cursor.end()?;
        columns.check()?;
        Ok(columns)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Whether the record holds no sample.
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    fn check(&self) -> Result<(), Error> {
        let n = self.value.len();
        if self.series_idx.len() != n || self.ts_ns.len() != n {
            return Err(wrong("its columns are of unequal length"));
        }
        if self.series_idx.iter().any(|index| *index as usize >= self.series.len()) {
            return Err(wrong("a sample names a series outside the dictionary"));
        }
        Ok(())
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        if n > self.bytes.len() {
            return Err(wrong("it is cut short"));
        }
        let (taken, rest) = self.bytes.split_at(n);
        self.bytes = rest;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64, Error> {
        avro::take_long(&mut self.bytes).map_err(|error| wrong(error.to_string()))
    }

    fn unsigned(&mut self) -> Result<u64, Error> {
        u64::try_from(self.long()?).map_err(|_| wrong("a negative number"))
    }

    fn index(&mut self) -> Result<u32, Error> {
        u32::try_from(self.long()?).map_err(|_| wrong("an index outside 32 bits"))
    }

    fn double(&mut self) -> Result<f64, Error> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(f64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<&'a str, Error> {
        let n = self.unsigned()? as usize;
        std::str::from_utf8(self.take(n)?).map_err(|_| wrong("text is no UTF-8"))
    }

    fn skip_text(&mut self) -> Result<(), Error> {
        let n = self.unsigned()? as usize;
        self.take(n).map(|_| ())
    }

    fn skip_option_text(&mut self) -> Result<(), Error> {
        match self.long()? {
            0 => Ok(()),
            1 => self.skip_text(),
            branch => Err(wrong(format!("union branch {branch} is not 0 or 1"))),
        }
    }

    /// The bytes of one dictionary entry: service, host, key, labels.
    fn series(&mut self) -> Result<&'a [u8], Error> {
        let start = self.bytes;
        self.skip_text()?;
        self.skip_text()?;
        self.skip_text()?;
        self.block(|cursor| {
            cursor.skip_text()?;
            cursor.skip_text()
        })?;
        Ok(&start[..start.len() - self.bytes.len()])
    }

    /// The items of an array or map, up to the closing zero.
    fn block<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(items);
            }
            if count < 0 {
                // A negative count is followed by the block's size in bytes.
                self.long()?;
            }
            let count = count.unsigned_abs();
            // Every item takes a byte at least, so this bounds what a hostile count reserves.
            if count > self.bytes.len() as u64 {
                return Err(wrong("more items than bytes"));
            }
            items.reserve(count as usize);
            for _ in 0..count {
                items.push(item(self)?);
            }
        }
    }

    fn end(&self) -> Result<(), Error> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(wrong(format!("{} bytes follow the value", self.bytes.len())))
    }
}

fn wrong(why: impl Into<String>) -> Error {
    Error::Payload { kind: Kind::TelemetrySample.topic(), why: why.into() }
}
