//! Who may write, and which requests no browser may be tricked into.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::App;
use super::api::problem;
use crate::node::parts::Part;

/// The router's own refusals are a sentence.
const SAID_BYTES_MAX: usize = 4096;

/// The rule for writes.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Address the node listens on.
    pub listen: SocketAddr,
    /// Token that writes need; `None` only on loopback.
    pub token: Option<String>,
    /// Further host names under which the node may be addressed.
    pub hosts: Vec<String>,
}

/// Gives what the router refuses by itself (no such path, another method, a query that it cannot
/// read, a body that is too large) the form that every refusal of the API has.
pub async fn refusals(uri: Uri, request: Request, next: Next) -> Response {
    let answer = next.run(request).await;
    let status = answer.status();
    // The API answers in JSON and the page in HTML; neither is the router's.
    let kind = answer.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is_ours = kind.starts_with(b"application/json") || kind.starts_with(b"text/html");
    if is_ours || !status.is_client_error() {
        return answer;
    }
    let code = match status {
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        _ => "malformed",
    };
    let (head, body) = answer.into_parts();
    let said = axum::body::to_bytes(body, SAID_BYTES_MAX).await.unwrap_or_default();
    let message = match String::from_utf8_lossy(&said).into_owned() {
        nothing if nothing.is_empty() => format!("{}: {status}", uri.path()),
        said => said,
    };
    let mut told = problem(status, code, message);
    if let Some(allowed) = head.headers.get(header::ALLOW) {
        told.headers_mut().insert(header::ALLOW, allowed.clone());
    }
    told
}

/// Has no browser take an answer for something else than it says.
pub async fn unsniffed(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    answer
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Refuses a `Host` that is not this node's, so that a rebound DNS name cannot reach it.
pub async fn host(State(app): State<App>, request: Request, next: Next) -> Response {
    if is_embedded(request.headers()) {
        let why = "a page of another origin may link here and not load from here; open the address \
                   itself";
        return problem(StatusCode::FORBIDDEN, "cross_site", why).into_response();
    }
    let host = request.headers().get(header::HOST);
    let gate = &app.0.gate;
    let known = match host.map(|it| it.to_str().unwrap_or_default()) {
        // HTTP/1.0 clients and health checkers send none; a browser always does.
        None => true,
        Some(host) => {
            let name = name_of(host);
            let is_literal = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
            let is_own = |it: &String| it.eq_ignore_ascii_case(name);
            is_literal || name.eq_ignore_ascii_case("localhost") || gate.hosts.iter().any(is_own)
        }
    };
    if known {
        return next.run(request).await;
    }
    problem(
        StatusCode::MISDIRECTED_REQUEST,
        "unknown_host",
        "this node is not known under that host name; add it to `http.hosts`",
    )
    .into_response()
}

/// Refuses writes without the token, and writes that another origin's page sent.
pub async fn writes(State(app): State<App>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if is_cross_site(headers) {
        let why = "this request comes from a page of another origin; use the `healwright` command, \
                   or a client that sends no `Origin`";
        return problem(StatusCode::FORBIDDEN, "cross_site", why).into_response();
    }
    if !may_write(&app.0.gate, headers) {
        let why = "a token is needed: send `Authorization: Bearer …` (see `http.token_file`)";
        return problem(StatusCode::UNAUTHORIZED, "token_needed", why).into_response();
    }
    next.run(request).await
}

/// Sends on what only the owner of the partition can answer; without one, says so.
///
/// # Errors
/// The answer that says where to ask.
#[expect(clippy::result_large_err, reason = "the refusal is the answer")]
pub fn in_office(part: &Part, uri: &Uri) -> Result<(), Response> {
    let seat = part.engine.seat().borrow().clone();
    if seat.here {
        return Ok(());
    }
    if seat.endpoint.is_empty() {
        let why = "no node holds office now; try again in some seconds";
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "no_owner", why));
    }
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    let to = format!("http://{}{path}", seat.endpoint);
    Err((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response())
}

/// A host without its port. An IPv6 address in brackets holds colons of its own.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether another origin's page fetches or embeds something, rather than linking to it: it
/// could hold streams open and learn from what loads. Browsers say so, others send no such header.
fn is_embedded(headers: &HeaderMap) -> bool {
    let said = |name: &str, value: &str| headers.get(name).is_some_and(|it| it == value);
    said("sec-fetch-site", "cross-site") && !said("sec-fetch-mode", "navigate")
}

fn is_cross_site(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN).and_then(|it| it.to_str().ok()) else {
        let own = |it: &HeaderValue| it == "same-origin" || it == "none";
        return headers.get("sec-fetch-site").is_some_and(|it| !own(it));
    };
    let host = headers.get(header::HOST).and_then(|it| it.to_str().ok()).unwrap_or_default();
    origin.split_once("://").is_none_or(|(_, of)| of != host)
}

fn may_write(gate: &Gate, headers: &HeaderMap) -> bool {
    let Some(token) = &gate.token else { return gate.listen.ip().is_loopback() };
    let given = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
    given.and_then(|it| it.strip_prefix("Bearer ")).is_some_and(|it| same(it, token))
}

/// Compares without telling by its time how much was right.
fn same(given: &str, token: &str) -> bool {
    let digest = |text: &str| schemas::Hash::of(&[b"healwright/token/v1\0", text.as_bytes()]);
    digest(given) == digest(token)
}
