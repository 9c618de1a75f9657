//! Lines of JSON with a cap: the framing of every Unix socket that the runner speaks on.
//!
//! The buffer is pure ([`Lines`]): it is fed bytes and gives lines, so that blocking and async
//! readers share it and a read that is cancelled loses nothing. It knows no message.
//!
//! Invariants:
//! - No more than [`LINE_BYTES_MAX`] bytes and one read are ever held for a peer.
//! - One line is one JSON value; compact JSON holds no line feed.

use std::io::{self, ErrorKind, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A dispatch with its proofs is far below it; a peer that sends more is cut off.
pub const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What one read takes at most.
const READ_BYTES: usize = 64 * 1024;

/// Why a peer's bytes are no message.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The socket is gone.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// A line is longer than the cap.
    #[error("a line is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// The peer closed the socket within a line.
    #[error("the peer closed the socket within a line")]
    Cut,
    /// The line is not the JSON that is expected here.
    #[error("not a message: {0}")]
    Json(#[from] serde_json::Error),
}

/// Bytes in, lines out.
#[derive(Default)]
pub struct Lines {
    bytes: Vec<u8>,
    searched: usize,
}

impl Lines {
    /// Adds what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line, decoded.
    ///
    /// # Errors
    /// A line over the cap, or one that is no `T`.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = &self.bytes[self.searched..];
        let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            let whole = self.bytes.len() <= LINE_BYTES_MAX;
            return if whole { Ok(None) } else { Err(FrameError::TooLong) };
        };
        let end = self.searched + at;
        if LINE_BYTES_MAX < end {
            return Err(FrameError::TooLong);
        }
        let message = serde_json::from_slice(&self.bytes[..end]);
        self.bytes.drain(..=end);
        self.searched = 0;
        Ok(Some(message?))
    }

    fn end<T>(&self) -> Result<Option<T>, FrameError> {
        if self.bytes.is_empty() { Ok(None) } else { Err(FrameError::Cut) }
    }
}

/// A message as the bytes of its line.
///
/// # Errors
/// A value that has no JSON form, or one over the cap.
pub fn line<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = serde_json::to_vec(message)?;
    if LINE_BYTES_MAX < bytes.len() {
        return Err(FrameError::TooLong);
    }
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads messages from a blocking or an async stream; `None` is the end of it.
pub struct Reader<R> {
    stream: R,
    lines: Lines,
}

impl<R> Reader<R> {
    /// A reader that has taken nothing yet.
    pub fn new(stream: R) -> Self {
        Reader { stream, lines: Lines::default() }
    }

    /// The stream, for its settings.
    pub fn stream(&self) -> &R {
        &self.stream
    }
}

impl<R: Read> Reader<R> {
    /// The next message. A time-out of the stream leaves what was read in place.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let mut chunk = [0; 8 * 1024];
        loop {
            if let Some(message) = self.lines.take()? {
                return Ok(Some(message));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.lines.end(),
                Ok(n) => self.lines.feed(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<R: AsyncRead + Send + Unpin + 'static> Reader<R> {
    /// The same reader, whatever it reads from.
    pub fn boxed(self) -> Reader<Box<dyn AsyncRead + Send + Unpin>> {
        Reader { stream: Box::new(self.stream), lines: self.lines }
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// The next message. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`FrameError`].
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let mut chunk = Vec::with_capacity(READ_BYTES.min(8 * 1024));
        loop {
            if let Some(message) = self.lines.take()? {
                return Ok(Some(message));
            }
            chunk.clear();
            let n = match self.stream.read_buf(&mut chunk).await {
                // As TLS tells of somebody who has hung up without a word; a line that is cut by it
                // is noticed all the same.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
                read => read?,
            };
            if n == 0 {
                return self.lines.end();
            }
            self.lines.feed(&chunk);
        }
    }
}

/// Writes one message and flushes it.
///
/// # Errors
/// [`FrameError`].
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    stream.write_all(&line(message)?)?;
    Ok(stream.flush()?)
}

/// Writes one message and flushes it.
///
/// # Errors
/// [`FrameError`].
pub async fn send<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), FrameError> {
    stream.write_all(&line(message)?).await?;
    Ok(stream.flush().await?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_message_cut_anywhere_arrives_whole() {
        let bytes = [line(&"one").unwrap(), line(&"two").unwrap()].concat();
        for cut in 0..=bytes.len() {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                lines.feed(part);
                while let Some(message) = lines.take::<String>().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, ["one", "two"], "cut at {cut}");
        }
    }

    #[test]
    fn a_line_over_the_cap_is_refused_before_it_ends() {
        let mut lines = Lines::default();
        lines.feed(&vec![b' '; LINE_BYTES_MAX]);
        assert!(matches!(lines.take::<String>(), Ok(None)));
        lines.feed(b" ");
        assert!(matches!(lines.take::<String>(), Err(FrameError::TooLong)));
    }

    #[test]
    fn an_end_within_a_line_is_an_error_and_after_it_is_none() {
        let cut = Reader::new(&b"\"on"[..]).read::<String>();
        assert!(matches!(cut, Err(FrameError::Cut)));
        assert!(matches!(Reader::new(&b""[..]).read::<String>(), Ok(None)));
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error_and_no_panic() {
        for bytes in [&b"\xff\xfe\n"[..], b"{\n", b"[1,2\n", b"\n", b"nul\n"] {
            assert!(matches!(Reader::new(bytes).read::<String>(), Err(FrameError::Json(_))));
        }
    }
}
