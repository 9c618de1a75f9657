//! One request from a user to a slot and back.
//!
//! Nothing here waits for a shadow: the copy is handed over when the answer has left.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use sha2::{Digest as _, Sha256};

use super::body::{Answer, Sending, Upload, Watch};
use super::meter::Meter;
use super::mirror::{Copy, Mirror};
use super::route::{Route, is_canary};

/// Requests with a larger body are not mirrored.
const COPY_BYTES_MAX: usize = 256 * 1024;
/// A client that leaves after it has waited so long has timed out; one that leaves before has
/// said nothing about the service.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pool of connections to upstreams.
pub(super) type Pool = Client<HttpConnector, Sending>;
type Outgoing = Either<Answer, Full<Bytes>>;

/// A slot as requests see it.
pub(super) struct Target {
    /// Where it listens.
    pub(super) addr: SocketAddr,
    /// What counts it.
    pub(super) meter: Arc<Meter>,
}

/// A route, ready for requests. It is replaced whole; a request keeps the one it began with.
pub(super) struct Routing {
    /// As it was set.
    pub(super) route: Route,
    /// The slot that serves.
    pub(super) live: Target,
    /// The slot that serves a share.
    pub(super) canary: Option<Target>,
    /// Where copies go.
    pub(super) mirror: Option<Arc<Mirror>>,
    /// Running number of requests, for the share.
    pub(super) n_requests: AtomicU64,
    /// Connections to upstreams.
    pub(super) pool: Pool,
}

impl Routing {
    fn target(&self) -> &Target {
        let (Some(target), Some(canary)) = (&self.canary, &self.route.canary) else {
            return &self.live;
        };
        let n = self.n_requests.fetch_add(1, Ordering::Relaxed);
        if is_canary(n, canary.pct, self.route.seed) { target } else { &self.live }
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.route.timeout_ms)
    }
}

/// Answers one request.
pub(super) async fn answer(
    routing: Arc<Routing>,
    client: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Outgoing>, Infallible> {
    Ok(match forward(&routing, client, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    })
}

/// Why a request has no answer of an upstream.
enum Refusal {
    /// The request cannot be forwarded.
    Request(&'static str),
    /// The client did not send what it had announced.
    Client,
    /// The upstream was not reached, or broke off.
    Unreached,
    /// The upstream did not answer in time.
    Late,
}

impl Refusal {
    fn into_response(self) -> Response<Outgoing> {
        let (status, text) = match self {
            Refusal::Request(text) => (StatusCode::BAD_REQUEST, text),
            Refusal::Client => (StatusCode::REQUEST_TIMEOUT, "the request did not arrive whole"),
            Refusal::Unreached => (StatusCode::BAD_GATEWAY, "the service was not reached"),
            Refusal::Late => (StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time"),
        };
        let mut response = Response::new(Either::Right(Full::from(format!("{text}\n"))));
        *response.status_mut() = status;
        response
    }
}

async fn forward(
    routing: &Routing,
    client: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Outgoing>, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Request("this proxy opens no tunnels"));
    }
    let target = routing.target();
    let (mut parts, body) = request.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    add_forwarded_for(&mut parts.headers, client);
    let path = parts.uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
    parts.uri = upstream_uri(target.addr, &path)?;

    let mirror = routing.mirror.as_ref();
    let mirror = mirror.filter(|_| routing.route.is_safe(parts.method.as_str(), parts.uri.path()));
    let watch = Watch::new(mirror.map(|_| COPY_BYTES_MAX));
    let exchange = Exchange {
        start: Instant::now(),
        meter: Arc::clone(&target.meter),
        status: None,
        watch: Arc::clone(&watch),
        mirrored: mirror.map(|mirror| Mirrored {
            mirror: Arc::clone(mirror),
            method: parts.method.clone(),
            path,
            headers: parts.headers.clone(),
            answer: Sha256::new(),
        }),
    };
    let mut pending = Pending(Some(exchange));
    let sending = Sending::Stream { body, watch };
    let asked = routing.pool.request(Request::from_parts(parts, sending));
    let response = match tokio::time::timeout(routing.timeout(), asked).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => return Err(pending.fail(Refusal::Unreached)),
        Err(_) => return Err(pending.fail(Refusal::Late)),
    };
    let (mut parts, body) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    let Some(mut exchange) = pending.0.take() else { return Err(Refusal::Unreached) };
    exchange.status = Some(parts.status);
    let body = Answer::new(body, exchange, routing.timeout());
    Ok(Response::from_parts(parts, Either::Left(body)))
}

fn upstream_uri(addr: SocketAddr, path: &str) -> Result<Uri, Refusal> {
    let built = Uri::builder().scheme("http").authority(addr.to_string()).path_and_query(path);
    built.build().map_err(|_| Refusal::Request("the request's target is malformed"))
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The answer is whole.
    Whole,
    /// The upstream broke off, or was never reached.
    Broken,
    /// The client left first.
    Left,
}

/// A request under way: what is counted, and mirrored, when it ends.
pub(super) struct Exchange {
    start: Instant,
    meter: Arc<Meter>,
    status: Option<StatusCode>,
    watch: Arc<Watch>,
    mirrored: Option<Mirrored>,
}

struct Mirrored {
    mirror: Arc<Mirror>,
    method: Method,
    path: String,
    headers: HeaderMap,
    answer: Sha256,
}

impl Exchange {
    /// Some of the answer passed by.
    pub(super) fn answer_bytes(&mut self, bytes: &[u8]) {
        if let Some(mirrored) = &mut self.mirrored {
            mirrored.answer.update(bytes);
        }
    }

    /// Counts the request, and hands its copy to the shadow when the answer was whole.
    pub(super) fn end(self, ending: Ending) {
        let latency = self.start.elapsed();
        let refused = self.status.is_some_and(|status| status.is_server_error());
        match (ending, self.status) {
            (Ending::Whole, _) => self.meter.request(latency, refused),
            (Ending::Broken, _) => self.meter.request(latency, true),
            (Ending::Left, Some(_)) => self.meter.request(latency, refused),
            (Ending::Left, None) if PATIENCE <= latency => self.meter.request(latency, true),
            (Ending::Left, None) => (),
        }
        let (Some(mirrored), Some(status)) = (self.mirrored, self.status) else { return };
        if ending != Ending::Whole {
            return;
        }
        let Some(body) = self.watch.take_copy() else { return mirrored.mirror.skip() };
        mirrored.mirror.send(Copy {
            method: mirrored.method,
            path: mirrored.path,
            headers: mirrored.headers,
            body: Bytes::from(body),
            status,
            answer: mirrored.answer.finalize().into(),
        });
    }
}

/// An exchange without an answer yet: when hyper drops it, the client has left.
struct Pending(Option<Exchange>);

impl Pending {
    /// Ends the exchange without an answer. What the client caused counts for nothing.
    fn fail(&mut self, refusal: Refusal) -> Refusal {
        let Some(exchange) = self.0.take() else { return refusal };
        match exchange.watch.upload() {
            Upload::Upstream => {
                exchange.end(Ending::Broken);
                refusal
            }
            Upload::Gone => Refusal::Client,
            Upload::Client => match refusal {
                Refusal::Late => Refusal::Client,
                Refusal::Unreached | Refusal::Client | Refusal::Request(_) => {
                    exchange.end(Ending::Broken);
                    refusal
                }
            },
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(exchange) = self.0.take() {
            exchange.end(Ending::Left);
        }
    }
}

/// Headers that speak of one connection (RFC 9110 §7.6.1), and those that `connection` names.
///
/// `transfer-encoding` goes too, and with it a `content-length` that stood beside it: hyper
/// frames the body anew, so the two sides cannot disagree about where it ends.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const HOP: [HeaderName; 8] = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
        HeaderName::from_static("keep-alive"),
    ];
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        if !matches!(name, header::CONTENT_LENGTH | header::HOST) {
            headers.remove(name);
        }
    }
    for name in HOP {
        headers.remove(name);
    }
    headers.remove("proxy-connection");
    if headers.remove(header::TRANSFER_ENCODING).is_some() {
        headers.remove(header::CONTENT_LENGTH);
    }
}

fn add_forwarded_for(headers: &mut HeaderMap, client: SocketAddr) {
    const NAME: HeaderName = HeaderName::from_static("x-forwarded-for");
    let before = headers.get(NAME).and_then(|value| value.to_str().ok());
    let chain = match before {
        Some(before) => format!("{before}, {}", client.ip()),
        None => client.ip().to_string(),
    };
    if let Ok(value) = HeaderValue::from_str(&chain) {
        headers.insert(NAME, value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let name = HeaderName::from_static;
        pairs.iter().map(|(key, value)| (name(key), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn headers_of_one_connection_stay_on_it() {
        let mut got = headers(&[
            ("connection", "close, X-Private, host, content-length"),
            ("x-private", "1"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("host", "shop"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut got);
        let kept = [("host", "shop"), ("content-length", "3"), ("accept", "*/*")];
        assert_eq!(got, headers(&kept));
    }

    #[test]
    fn a_length_beside_a_transfer_encoding_is_not_passed_on() {
        let mut got = headers(&[("transfer-encoding", "chunked"), ("content-length", "3")]);
        strip_hop_by_hop(&mut got);
        assert!(got.is_empty());
    }

    #[test]
    fn the_client_is_added_to_the_chain_of_those_before() {
        let mut got = headers(&[("x-forwarded-for", "10.0.0.1")]);
        add_forwarded_for(&mut got, "127.0.0.1:9".parse().unwrap());
        assert_eq!(got["x-forwarded-for"], "10.0.0.1, 127.0.0.1");
    }
}
