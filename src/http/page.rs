//! The page: Now, Incident, Entry. Server-rendered, live by SSE, one stylesheet, no build step,
//! nothing from outside. It works without its script; the script only reloads what changed.
//!
//! Everything from the journal is escaped where it is shown (A23, D09), and the content policy
//! allows no inline script.

mod html;

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio_stream::Stream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;

use super::App;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/live.js");
/// Scripts and styles from here alone; nothing inline, nothing from outside.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src \
                      'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; \
                      form-action 'none'";

/// The page's routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(now))
        .route("/incidents/{id}", get(incident))
        .route("/entries/{seq}", get(entry))
        .route("/style.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route("/live.js", get(|| asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/api/events", get(events))
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")], text).into_response()
}

fn page(status: StatusCode, body: String) -> Response {
    let mut response = (status, Html(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn now(State(app): State<App>) -> Response {
    let stopped = app.0.engine.follow().borrow().stopped.clone();
    page(StatusCode::OK, html::now(&app.0.projection.model(), stopped.as_deref()))
}

async fn incident(State(app): State<App>, Path(id): Path<String>) -> Response {
    let model = app.0.projection.model();
    match model.incident(&id) {
        Some(view) => page(StatusCode::OK, html::incident(view)),
        None => page(StatusCode::NOT_FOUND, html::missing("incident", &id)),
    }
}

async fn entry(State(app): State<App>, Path(seq): Path<u64>) -> Response {
    let log = app.0.engine.log();
    let read = tokio::task::spawn_blocking(move || log.read(seq, 1)).await;
    let found = read.ok().and_then(Result::ok).and_then(|batches| {
        batches.into_iter().flat_map(|it| it.entries).find(|it| it.envelope.seq == seq)
    });
    let Some(found) = found else {
        return page(StatusCode::NOT_FOUND, html::missing("entry", &seq.to_string()));
    };
    let asked = app.0.engine.ask(move |owner| {
        let (heads, state) = owner.tree();
        heads.prove(state, seq).ok()
    });
    page(StatusCode::OK, html::entry(&found, asked.await.ok().flatten().as_ref()))
}

/// `GET /api/events`: a message with the number of entries each time the model has grown.
async fn events(State(app): State<App>) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let changes = WatchStream::from_changes(app.0.projection.changes());
    let paced = changes.map(|n| Ok(SseEvent::default().event("grown").data(n.to_string())));
    Sse::new(paced).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}
