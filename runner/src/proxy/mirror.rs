//! Copies of safe requests to the shadow, and the comparison of its answers.
//!
//! The shadow is sent the same bytes and headers as the live slot and nothing that tells it its
//! part, after the user has been answered. It can delay nobody: at most [`N_COPIES_MAX`] copies
//! are under way, and one more is not sent but counted.
//!
//! Bodies are compared byte for byte, so a service whose answers hold the time of day differs
//! from itself; what follows from that is decided where the counts are folded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode, Uri};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::body::Sending;
use super::forward::Pool;
use super::meter::Meter;

/// Copies under way at once.
pub(super) const N_COPIES_MAX: usize = 32;

/// A request that a user was answered, and what the answer was.
pub(super) struct Copy {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) status: StatusCode,
    pub(super) answer: [u8; 32],
}

/// The way to a shadow slot.
pub(super) struct Mirror {
    addr: SocketAddr,
    meter: Arc<Meter>,
    pool: Pool,
    timeout: Duration,
    free: Arc<Semaphore>,
}

impl Mirror {
    /// A mirror to `addr`, counted by `meter`.
    pub(super) fn new(addr: SocketAddr, meter: Arc<Meter>, pool: Pool, timeout: Duration) -> Self {
        Mirror { addr, meter, pool, timeout, free: Arc::new(Semaphore::new(N_COPIES_MAX)) }
    }

    /// A copy cannot be made.
    pub(super) fn skip(&self) {
        self.meter.skip();
    }

    /// Sends the copy on a task of its own, or counts that it was not sent.
    pub(super) fn send(self: Arc<Self>, copy: Copy) {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else { return self.skip() };
        tokio::spawn(async move {
            let start = Instant::now();
            let live = (copy.status, copy.answer);
            let shadow = tokio::time::timeout(self.timeout, self.exchange(copy)).await;
            let shadow = shadow.ok().flatten();
            let failed = shadow.is_none_or(|(status, _)| status.is_server_error());
            self.meter.request(start.elapsed(), failed);
            // Where the live slot itself failed there is nothing to be compared with.
            if !live.0.is_server_error() {
                self.meter.comparison(shadow.is_none_or(|answer| differs(live, answer)));
            }
            drop(permit);
        });
    }

    async fn exchange(&self, copy: Copy) -> Option<(StatusCode, [u8; 32])> {
        let uri = Uri::builder().scheme("http").authority(self.addr.to_string());
        let body = Sending::Whole((!copy.body.is_empty()).then_some(copy.body));
        let mut request = Request::new(body);
        *request.method_mut() = copy.method;
        *request.uri_mut() = uri.path_and_query(copy.path).build().ok()?;
        *request.headers_mut() = copy.headers;
        let response = self.pool.request(request).await.ok()?;
        let status = response.status();
        let mut digest = Sha256::new();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame.ok()?.data_ref() {
                digest.update(data);
            }
        }
        Some((status, digest.finalize().into()))
    }
}

fn differs(live: (StatusCode, [u8; 32]), shadow: (StatusCode, [u8; 32])) -> bool {
    let class = |status: StatusCode| status.as_u16() / 100;
    class(live.0) != class(shadow.0) || live.1 != shadow.1
}
