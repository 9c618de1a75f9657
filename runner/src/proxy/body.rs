//! Bodies on their way through: never held, watched for who is late, copied up to a cap where a
//! shadow wants a copy.
//!
//! Three parties can be late or gone: the client that sends, the upstream that answers, the
//! client that reads. Only the second is an error of the service, so each wrapper knows whom it
//! waits for.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::forward::{Ending, Exchange};

/// Error of a body wrapper, as hyper wants it.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Whom the sending of a request's body waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Upload {
    /// For the client to send more.
    Client = 0,
    /// For the upstream to take what there is, or to answer.
    Upstream = 1,
    /// For nobody: the client is gone.
    Gone = 2,
}

/// The watch on an upload, and the copy that a mirror sends later.
#[derive(Debug)]
pub(super) struct Watch {
    upload: AtomicU8,
    copy: Mutex<Option<Vec<u8>>>,
    copy_bytes_max: usize,
}

impl Watch {
    /// A watch that keeps a copy of at most `copy_bytes_max` bytes, or none.
    pub(super) fn new(copy_bytes_max: Option<usize>) -> Arc<Self> {
        Arc::new(Watch {
            upload: AtomicU8::new(Upload::Upstream as u8),
            copy: Mutex::new(copy_bytes_max.map(|_| Vec::new())),
            copy_bytes_max: copy_bytes_max.unwrap_or(0),
        })
    }

    /// Whom the upload waits for.
    pub(super) fn upload(&self) -> Upload {
        match self.upload.load(Ordering::Relaxed) {
            0 => Upload::Client,
            1 => Upload::Upstream,
            _ => Upload::Gone,
        }
    }

    /// The whole body, unless it was over the cap.
    pub(super) fn take_copy(&self) -> Option<Vec<u8>> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, upload: Upload) {
        self.upload.store(upload as u8, Ordering::Relaxed);
    }

    fn keep(&self, bytes: &[u8]) {
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        match copy.as_mut() {
            None => (),
            Some(kept) if kept.len() + bytes.len() <= self.copy_bytes_max => {
                kept.extend_from_slice(bytes);
            }
            Some(_) => *copy = None,
        }
    }
}

/// A request's body on its way to the upstream, or a mirror's copy of one.
pub(super) enum Sending {
    /// As it comes from the client.
    Stream {
        /// What the client sends.
        body: Incoming,
        /// Who looks on.
        watch: Arc<Watch>,
    },
    /// All of it.
    Whole(Option<Bytes>),
}

impl Body for Sending {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Sending::Whole(bytes) => Poll::Ready(bytes.take().map(|it| Ok(Frame::data(it)))),
            Sending::Stream { body, watch } => {
                let polled = Pin::new(body).poll_frame(context);
                match &polled {
                    Poll::Pending => watch.set(Upload::Client),
                    Poll::Ready(Some(Err(_))) => watch.set(Upload::Gone),
                    Poll::Ready(Some(Ok(frame))) => {
                        watch.set(Upload::Upstream);
                        if let Some(data) = frame.data_ref() {
                            watch.keep(data);
                        }
                    }
                    Poll::Ready(None) => watch.set(Upload::Upstream),
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Sending::Whole(bytes) => bytes.is_none(),
            Sending::Stream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Sending::Whole(None) => SizeHint::with_exact(0),
            Sending::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Sending::Stream { body, .. } => body.size_hint(),
        }
    }
}

/// An upstream's answer on its way to the client.
///
/// Its end, of whichever kind, ends the [`Exchange`]: hyper drops a body of known length without
/// asking for its end, so the end is noticed in [`Drop`] too.
pub(super) struct Answer {
    body: Incoming,
    exchange: Option<Exchange>,
    idle: Pin<Box<Sleep>>,
    idle_max: Duration,
}

impl Answer {
    /// The answer of `exchange`; the upstream is late when it sends nothing for `idle_max`.
    pub(super) fn new(body: Incoming, exchange: Exchange, idle_max: Duration) -> Self {
        let idle = Box::pin(tokio::time::sleep(idle_max));
        Answer { body, exchange: Some(exchange), idle, idle_max }
    }

    fn end(&mut self, ending: Ending) {
        if let Some(exchange) = self.exchange.take() {
            exchange.end(ending);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(exchange), Some(data)) = (&mut this.exchange, frame.data_ref()) {
                    exchange.answer_bytes(data);
                }
                this.idle.as_mut().reset(Instant::now() + this.idle_max);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.end(Ending::Broken);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.end(Ending::Whole);
                Poll::Ready(None)
            }
            Poll::Pending => {
                if this.idle.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                this.end(Ending::Broken);
                Poll::Ready(Some(Err("the upstream stopped within its answer".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let ending = if self.body.is_end_stream() { Ending::Whole } else { Ending::Left };
        self.end(ending);
    }
}
