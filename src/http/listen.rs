//! The listener: a bounded number of connections, none of which may sit still for long.
//!
//! Sockets and the journal's files share one limit of open files. A crowd of silent connections
//! must not take what the journal needs, or anybody who can connect could stop the healing.
//!
//! A connection is closed when it was sent nothing for [`Patience::answer`]: a request that never
//! ends, one that dribbles in, and a reader that takes nothing all look the same here. A live
//! page is sent a sign of life more often than that.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// How much is borne.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Connections at once; the next one waits to be accepted.
    pub connections_max: usize,
    /// Longest time without anything sent to a client. It is longer than any answer takes, and
    /// three times a live page's sign of life.
    pub answer: Duration,
}

/// What a node bears. Most systems allow 1,024 open files, of which the journal needs the rest.
pub const PATIENCE: Patience = Patience { connections_max: 512, answer: Duration::from_secs(45) };

/// A listener that keeps to a [`Patience`].
pub struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    patience: Patience,
}

impl Bounded {
    /// Bounds `listener`.
    pub fn new(listener: TcpListener, patience: Patience) -> Self {
        let places = Arc::new(Semaphore::new(patience.connections_max));
        Bounded { listener, places, patience }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Never closed, so there is always a place in the end.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        let Patience { answer, .. } = self.patience;
        let until = Box::pin(tokio::time::sleep(answer));
        (Connection { stream, until, answer, _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing was sent on it for too long.
pub struct Connection {
    stream: TcpStream,
    until: Pin<Box<Sleep>>,
    answer: Duration,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// An error once patience is at its end; otherwise what `polled` says.
    fn bear<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            ready!(self.until.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.bear(context, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(polled, Poll::Ready(Ok(n)) if n > 0) {
            let until = Instant::now() + self.answer;
            self.until.as_mut().reset(until);
        }
        self.bear(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bear(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bear(context, polled)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn serve(patience: Patience) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "here" }));
        let bounded = Bounded::new(listener, patience);
        tokio::spawn(async move { axum::serve(bounded, router).await });
        address
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_crowd_of_silent_and_slow_connections_is_outlasted() {
        let answer = Duration::from_millis(200);
        let address = serve(Patience { connections_max: 4, answer }).await;
        let mut silent = Vec::new();
        for n in 0..8 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if n % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
            }
            silent.push(stream);
        }
        assert!(ask(address).await.ends_with("here"), "those who ask are answered in the end");
        // Each of the silent ones was hung up on; none is waited for any longer.
        for mut stream in silent {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
    }
}
