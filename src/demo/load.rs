//! The demo's users: so many requests a second, whatever the service does.
//!
//! The loop is open: a request is sent when its time has come and not when the one before was
//! answered, so a slow service does not make its users patient. Six of ten are GET, four are
//! orders; which comes when is a function of the running number.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;

/// A user waits so long for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests under way at once; one more fails unsent, as in a browser that ran out of sockets.
const N_UNDER_WAY_MAX: usize = 2_000;
/// Latencies are counted per 1/8 of a power of two of a microsecond.
const N_BUCKETS: usize = 8 * 40;

/// What the users have seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Requests whose time has come.
    pub sent: u64,
    /// Of them answered well.
    pub answered: u64,
    /// Of them not: a status of 4xx or 5xx, no connection, or no answer within two seconds.
    pub failed: u64,
    /// Of 95 in 100 answers the latency was at most this.
    pub p95_ms: f64,
}

#[derive(Debug)]
struct Counts {
    sent: u64,
    answered: u64,
    failed: u64,
    buckets: [u32; N_BUCKETS],
}

/// Users under way; dropping it sends them home.
#[derive(Debug)]
pub struct Load {
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Sends `per_second` requests a second to `addr`, on a thread of its own. `first` is the
    /// number of the first request: which request comes when follows from it.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn start(addr: SocketAddr, per_second: u32, first: u64) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the users' runtime")?;
        let counts = Counts { sent: 0, answered: 0, failed: 0, buckets: [0; N_BUCKETS] };
        let counts = Arc::new(Mutex::new(counts));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            let users = move || runtime.block_on(send_all(addr, per_second, first, counts, stop));
            thread::Builder::new().name("users".to_owned()).spawn(users)
        };
        let thread = Some(thread.context("starting the users")?);
        Ok(Load { counts, stop, thread })
    }

    /// What they have seen until now.
    pub fn seen(&self) -> Seen {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { sent, answered, failed, .. } = *counts;
        Seen { sent, answered, failed, p95_ms: p95_ms(&counts.buckets) }
    }

    /// Sends no more, waits for the answers under way, and says what they saw.
    pub fn stop(mut self) -> Seen {
        self.end();
        self.seen()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

async fn send_all(
    addr: SocketAddr,
    per_second: u32,
    first: u64,
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
) {
    let client: Users =
        Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build_http();
    let under_way = Arc::new(Semaphore::new(N_UNDER_WAY_MAX));
    let mut due = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
    for n in first.. {
        due.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        update(&counts, |it| it.sent += 1);
        let Ok(permit) = Arc::clone(&under_way).try_acquire_owned() else {
            update(&counts, |it| it.failed += 1);
            continue;
        };
        let (client, counts) = (client.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            let start = Instant::now();
            let answered = tokio::time::timeout(PATIENCE, exchange(client, addr, n)).await;
            let latency = start.elapsed();
            update(&counts, |it| match answered {
                Ok(true) => {
                    it.answered += 1;
                    it.buckets[bucket_of(latency)] += 1;
                }
                Ok(false) | Err(_) => it.failed += 1,
            });
            drop(permit);
        });
    }
    // Every request under way ends with its patience at the latest.
    let _ = under_way.acquire_many(N_UNDER_WAY_MAX as u32).await;
}

type Users = Client<HttpConnector, Full<Bytes>>;

async fn exchange(client: Users, addr: SocketAddr, n: u64) -> bool {
    let (method, path, body) = request(n);
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{addr}{path}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body));
    let Ok(request) = request else { return false };
    let Ok(response) = client.request(request).await else { return false };
    let is_well = response.status().is_success();
    response.into_body().collect().await.is_ok() && is_well
}

/// The `n`-th request: six of ten are GET, spread among the orders.
fn request(n: u64) -> (Method, String, String) {
    match n % 5 {
        0 => (Method::GET, "/".to_owned(), String::new()),
        2 => (Method::GET, "/items".to_owned(), String::new()),
        4 => (Method::GET, format!("/items/{}", n / 5 % 20 + 1), String::new()),
        _ => (Method::POST, "/orders".to_owned(), format!("{{\"order\":{n}}}")),
    }
}

fn update(counts: &Mutex<Counts>, change: impl FnOnce(&mut Counts)) {
    change(&mut counts.lock().unwrap_or_else(PoisonError::into_inner));
}

fn bucket_of(latency: Duration) -> usize {
    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = us.ilog2() as usize;
    // The three bits behind the first one.
    let eighth = if power < 3 { 0 } else { (us >> (power - 3)) as usize & 7 };
    (power * 8 + eighth).min(N_BUCKETS - 1)
}

fn p95_ms(buckets: &[u32; N_BUCKETS]) -> f64 {
    let n: u64 = buckets.iter().map(|it| u64::from(*it)).sum();
    let mut left = (n * 95).div_ceil(100);
    for (bucket, count) in buckets.iter().enumerate().filter(|(_, count)| **count != 0) {
        left = left.saturating_sub(u64::from(*count));
        if left == 0 {
            let (power, eighth) = (bucket / 8, bucket % 8);
            let us = (1u64 << power) as f64 * (1.0 + (eighth + 1) as f64 / 8.0);
            return us / 1_000.0;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::pending;

    use super::super::service::{Release, serve_on};
    use super::*;

    fn seen_of(release: Release, n: u64) -> Seen {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(listener).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(serve_on(listener, release, pending()));
        let load = Load::start(addr, 500, 0).unwrap();
        while load.seen().sent < n {
            thread::yield_now();
        }
        load.stop()
    }

    #[test]
    fn four_of_ten_requests_are_orders() {
        let n_orders = (0..1_000).filter(|n| request(*n).0 == Method::POST).count();
        assert_eq!(n_orders, 400);
    }

    #[test]
    fn every_request_is_counted_once_and_a_good_shop_fails_none() {
        let seen = seen_of(Release::Good, 100);
        assert_eq!((seen.answered, seen.failed), (seen.sent, 0), "{seen:?}");
        assert!(0.0 < seen.p95_ms, "{seen:?}");
    }

    #[test]
    fn a_broken_shop_fails_most_orders() {
        let seen = seen_of(Release::Broken, 200);
        let share = seen.failed as f64 / seen.sent as f64;
        assert!((0.25..0.35).contains(&share), "{seen:?}");
        assert_eq!(seen.answered + seen.failed, seen.sent);
    }

    #[test]
    fn a_service_that_is_not_there_fails_all() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let load = Load::start(nobody, 500, 0).unwrap();
        while load.seen().sent < 20 {
            thread::yield_now();
        }
        let seen = load.stop();
        assert_eq!((seen.failed, seen.answered), (seen.sent, 0));
    }

    #[test]
    fn the_p95_is_the_upper_end_of_its_bucket() {
        let mut buckets = [0; N_BUCKETS];
        for (ms, n) in [(1, 94), (300, 6)] {
            buckets[bucket_of(Duration::from_millis(ms))] += n;
        }
        let p95 = p95_ms(&buckets);
        assert!((300.0..340.0).contains(&p95), "{p95}");
        assert_eq!(p95_ms(&[0; N_BUCKETS]), 0.0);
    }
}
