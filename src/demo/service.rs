//! The shop that the demo heals: a small real HTTP service with a good, a slow and a broken
//! release.
//!
//! Every release gives the same bytes to the same request, so that a shadow differs only where
//! a release is really bad. What fails, fails by count and not by chance: two runs see the same.
//! It keeps nothing: an order is answered and forgotten.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use schemas::Hash;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

/// Bytes of an order that are read.
const ORDER_BYTES_MAX: usize = 64 * 1024;
/// What the slow release adds to every list and item.
const SLOWNESS: Duration = Duration::from_millis(300);
/// Number of items in the shop.
const N_ITEMS: u64 = 20;
/// Answers under way when the service is told to end may take so long.
const DRAIN: Duration = Duration::from_secs(1);
/// Connections at once; one more waits.
const N_CONNECTIONS_MAX: u32 = 1_024;

/// A release of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 1.0.0: works.
    Good,
    /// 1.2.0: works, 300 ms late.
    Slow,
    /// 1.1.0: seven of ten orders fail, and one GET in forty.
    Broken,
}

impl Release {
    /// What it calls itself.
    pub fn version(self) -> &'static str {
        match self {
            Release::Good => "1.0.0",
            Release::Slow => "1.2.0",
            Release::Broken => "1.1.0",
        }
    }
}

impl std::str::FromStr for Release {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "good" => Ok(Release::Good),
            "slow" => Ok(Release::Slow),
            "broken" => Ok(Release::Broken),
            _ => anyhow::bail!("release {text:?} is none of good, slow, broken"),
        }
    }
}

/// Serves `release` on `port` of the loopback until a signal ends the process.
///
/// # Errors
/// The port is taken.
pub async fn serve(release: Release, port: u16) -> anyhow::Result<()> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(addr).await.with_context(|| format!("listening on {addr}"))?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
    let stop = async move {
        terminate.recv().await;
    };
    serve_on(listener, release, stop).await;
    Ok(())
}

/// Serves `release` on `listener` until `stop` is done and the answers under way have left.
pub async fn serve_on(listener: TcpListener, release: Release, stop: impl Future<Output = ()>) {
    let shop = Arc::new(Shop { release, n_orders: AtomicU64::new(0), n_gets: AtomicU64::new(0) });
    let free = Arc::new(Semaphore::new(N_CONNECTIONS_MAX as usize));
    let (stopping, stopped) = watch::channel(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.as_mut() => break,
        };
        if let Ok((stream, _)) = accepted {
            let serving = connection(stream, Arc::clone(&shop), stopped.clone());
            tokio::spawn(async move {
                serving.await;
                drop(permit);
            });
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let _ = tokio::time::timeout(DRAIN, free.acquire_many(N_CONNECTIONS_MAX)).await;
}

async fn connection(stream: TcpStream, shop: Arc<Shop>, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| Arc::clone(&shop).answer(request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let is_stopped = tokio::select! {
        _ = serving.as_mut() => false,
        _ = stopped.wait_for(|stop| *stop) => true,
    };
    if is_stopped {
        serving.as_mut().graceful_shutdown();
        let _ = serving.await;
    }
}

struct Shop {
    release: Release,
    n_orders: AtomicU64,
    n_gets: AtomicU64,
}

type Answer = Response<Full<Bytes>>;

impl Shop {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let path = request.uri().path().to_owned();
        Ok(match (request.method().clone(), path.as_str()) {
            (Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
            (Method::GET, "/release") => {
                body(StatusCode::OK, &json!({ "version": self.release.version() }))
            }
            (Method::GET | Method::HEAD, path) => self.page(path).await,
            (Method::POST, "/orders") => self.order(request.into_body()).await,
            (_, "/orders") => text(StatusCode::METHOD_NOT_ALLOWED, "POST an order\n"),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        })
    }

    async fn page(&self, path: &str) -> Answer {
        let n = self.n_gets.fetch_add(1, Ordering::Relaxed);
        if self.release == Release::Broken && n % 40 == 37 {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the shop lost its thread\n");
        }
        if self.release == Release::Slow && path.starts_with("/items") {
            tokio::time::sleep(SLOWNESS).await;
        }
        let number = path.strip_prefix("/items/").and_then(|it| it.parse::<u64>().ok());
        match (path, number) {
            ("/", _) => text(StatusCode::OK, "a small shop\n"),
            ("/items", _) => {
                let items: Vec<_> = (1..=N_ITEMS).map(item).collect();
                body(StatusCode::OK, &json!({ "items": items }))
            }
            (_, Some(number)) if (1..=N_ITEMS).contains(&number) => {
                body(StatusCode::OK, &item(number))
            }
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    async fn order(&self, order: Incoming) -> Answer {
        let Ok(order) = Limited::new(order, ORDER_BYTES_MAX).collect().await else {
            return text(StatusCode::BAD_REQUEST, "the order did not arrive whole\n");
        };
        let n = self.n_orders.fetch_add(1, Ordering::Relaxed);
        if self.release == Release::Broken && n % 10 < 7 {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the till is stuck\n");
        }
        let receipt = Hash::of(&[&order.to_bytes()]).to_string();
        body(StatusCode::CREATED, &json!({ "receipt": receipt[..16] }))
    }
}

fn item(number: u64) -> serde_json::Value {
    json!({ "item": number, "name": format!("thing {number}"), "price_cents": number * 250 })
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    answer(status, "text/plain", Bytes::from_static(text.as_bytes()))
}

fn body(status: StatusCode, value: &serde_json::Value) -> Answer {
    answer(status, "application/json", Bytes::from(format!("{value}\n")))
}

fn answer(status: StatusCode, kind: &'static str, bytes: Bytes) -> Answer {
    let mut answer = Response::new(Full::from(bytes));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::pending;
    use std::io::{Read as _, Write as _};

    use super::*;

    /// Status and body of each request, from a shop of its own.
    fn answers(release: Release, heads: &[&str]) -> Vec<(u16, String)> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(serve_on(listener, release, pending()));
        let ask = |head: &&str| {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            let rest = "host: shop\r\nconnection: close\r\ncontent-length: 5\r\n\r\norder";
            write!(stream, "{head} HTTP/1.1\r\n{rest}").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse().unwrap(), body.to_owned())
        };
        heads.iter().map(ask).collect()
    }

    #[test]
    fn every_release_gives_the_same_bytes_where_it_is_not_bad() {
        let heads = ["GET /", "GET /items", "GET /items/7", "GET /items/21", "GET /healthz"];
        let good = answers(Release::Good, &heads);
        assert_eq!(good.iter().map(|it| it.0).collect::<Vec<_>>(), [200, 200, 200, 404, 200]);
        assert_eq!(answers(Release::Broken, &heads), good);
        assert_eq!(answers(Release::Slow, &heads), good);
        let releases = [Release::Good, Release::Slow, Release::Broken];
        let versions = releases.map(|it| answers(it, &["GET /release"])[0].1.clone());
        assert_eq!(
            versions,
            ["1.0.0", "1.2.0", "1.1.0"].map(|it| format!("{{\"version\":\"{it}\"}}\n"))
        );
    }

    #[test]
    fn the_broken_release_fails_seven_of_ten_orders_and_one_get_in_forty() {
        let n_failed = |release, head| {
            let answers = answers(release, &[head; 80]);
            answers.iter().filter(|(status, _)| *status == 500).count()
        };
        assert_eq!(n_failed(Release::Broken, "POST /orders"), 56);
        assert_eq!(n_failed(Release::Broken, "GET /items"), 2);
        assert_eq!(n_failed(Release::Broken, "GET /healthz"), 0);
        assert_eq!(n_failed(Release::Good, "POST /orders"), 0);
    }
}
