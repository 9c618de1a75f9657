//! The length-prefixed, big-endian encoding of the envelope, the batch header and signed
//! statements.
//!
//! Every variable field carries its length, so no two different field lists share their bytes.
//! A reader checks each length against what is left before it allocates.

use crate::Error;

/// Appends fields to a buffer.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// A writer that starts with `magic`.
    pub fn new(magic: &[u8]) -> Self {
        Writer(magic.to_vec())
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Bytes of a length that both sides know.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A four-byte length and the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32);
        self.raw(bytes)
    }

    /// Text as its UTF-8 bytes.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// `0` for none, else `1` and the text.
    pub fn option_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            None => self.u8(0),
            Some(text) => self.u8(1).text(text),
        }
    }
}

/// Takes fields from a slice, in order.
pub struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`; `what` names the thing in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Reader { what, bytes, at: 0 }
    }

    /// Bytes taken so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next `n` bytes.
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(Error::Short { what: self.what, at: self.bytes.len() })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// Refuses anything but `magic`.
    pub fn expect(&mut self, magic: &[u8]) -> Result<(), Error> {
        if self.raw(magic.len())? == magic {
            return Ok(());
        }
        Err(Error::malformed(self.what, "it does not start with its format mark"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// A four-byte length and the bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let n = self.u32()? as usize;
        self.raw(n)
    }

    /// UTF-8 text.
    pub fn text(&mut self) -> Result<&'a str, Error> {
        let what = self.what;
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::malformed(what, "text is no UTF-8"))
    }

    /// `0` for none, else `1` and the text.
    pub fn option_text(&mut self) -> Result<Option<String>, Error> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(self.text()?.to_owned())),
            mark => Err(Error::malformed(self.what, format!("option mark {mark} is not 0 or 1"))),
        }
    }

    /// Refuses bytes that are left over.
    pub fn end(&self) -> Result<(), Error> {
        if self.at == self.bytes.len() {
            return Ok(());
        }
        let left = self.bytes.len() - self.at;
        Err(Error::malformed(self.what, format!("{left} bytes follow its end")))
    }
}
