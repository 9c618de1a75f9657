//! The page: Now, Incident, Entry. Server-rendered, live by SSE, one stylesheet, no build step,
//! nothing from outside. It works without its scripts: one reloads what changed, the other checks
//! a proof in the browser.
//!
//! Everything from the journal is escaped where it is shown (A23, D09), and the content policy
//! allows no inline script and no inline style.

mod entry;
mod html;
mod incident;
mod now;
mod svg;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use ledger::entry::EntryProof;
use schemas::{Entry, Event, Place};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;

use super::App;
use super::api::problem;
use crate::engine::wall_now;
use crate::projection::{IncidentView, sli};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/live.js");
const VERIFY: &str = include_str!("page/verify.js");
/// Scripts and styles from here alone; nothing inline, nothing from outside.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src \
                      'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; \
                      form-action 'self'";
/// Pages that are live at once. A page beyond them is told to come again and works without.
const LIVE_MAX: usize = 64;
/// Incidents whose curve is read from disk at once.
const READING_MAX: usize = 2;
/// Entries of an incident that unfold in place.
const FOLDS_MAX: usize = 24;

/// What bounds the page's readers.
pub struct Bounds {
    live: Arc<Semaphore>,
    reading: Semaphore,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { live: Arc::new(Semaphore::new(LIVE_MAX)), reading: Semaphore::new(READING_MAX) }
    }
}

/// The page's routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(now))
        .route("/incidents/{id}", get(incident))
        .route("/entries/{place}", get(entry))
        .route("/entries/{place}/proof", get(proof))
        .route("/entries/{partition}/{seq}", get(entry_of))
        .route("/entries/{partition}/{seq}/proof", get(proof_of))
        .route("/style.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route("/live.js", get(|| asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/verify.js", get(|| asset("text/javascript; charset=utf-8", VERIFY)))
        .route("/api/events", get(events))
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    let kind = (header::CONTENT_TYPE, kind);
    ([kind, (header::CACHE_CONTROL, "max-age=300")], text).into_response()
}

fn page(status: StatusCode, body: String) -> Response {
    let mut response = (status, Html(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // What is shown is true now; a page from a cache would say it of another time.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Query of the first page.
#[derive(Deserialize)]
struct Find {
    #[serde(default)]
    q: String,
}

async fn now(State(app): State<App>, Query(find): Query<Find>) -> Response {
    let (mut n_entries, mut stopped) = (0, None);
    for part in app.0.parts.all() {
        let moved = part.engine.follow().borrow().clone();
        n_entries += moved.next_seq;
        stopped = stopped.or(moved.stopped);
    }
    let model = app.0.projection.model();
    let now = now::Now {
        model: &model,
        n_entries,
        stopped: stopped.as_deref(),
        query: &find.q,
        now: wall_now(),
    };
    page(StatusCode::OK, now.render())
}

async fn incident(State(app): State<App>, Path(id): Path<String>) -> Response {
    let found = {
        let model = app.0.projection.model();
        model.incident(&id).map(|it| (it.clone(), model.profile.clone().unwrap_or_default()))
    };
    let Some((view, profile)) = found else {
        return page(StatusCode::NOT_FOUND, html::missing("incident", &id));
    };
    let now = wall_now();
    let (curve, folds) = read(&app, &view, now).await;
    let incident = incident::Incident {
        view: &view,
        profile: &profile,
        curve: curve.as_ref().map_err(String::as_str),
        folds: &folds,
        now,
    };
    page(StatusCode::OK, incident.render())
}

/// What of an incident lies on disk: its curve, and the entries that unfold.
async fn read(
    app: &App,
    view: &IncidentView,
    now: schemas::Ns,
) -> (Result<sli::Curve, String>, Vec<(Place, Event)>) {
    let around = app.0.projection.around(&view.incident.incident_id, now);
    let lines = incident::shown(view);
    let lines = lines.0.iter().chain(lines.1);
    let places = lines.filter(|it| incident::unfolds(it.kind)).map(|it| it.place);
    let places: Vec<Place> = places.take(FOLDS_MAX).collect();
    // A partition whose engine is not here has no model either.
    let part = app.0.parts.get(view.opened.partition).unwrap_or_else(|| app.0.parts.first());
    let log = part.engine.log();
    // Closed never: the bounds live as long as the listener.
    let _one = app.0.bounds.reading.acquire().await;
    let read = tokio::task::spawn_blocking(move || {
        let curve = match around {
            Some(around) => sli::around(&*log, &around).map_err(|it| it.to_string()),
            None => Err("it is about no single service".to_owned()),
        };
        let folds = places.into_iter().filter_map(|place| {
            let event = at(&*log, place.seq)?.event().ok()?;
            Some((place, event))
        });
        (curve, folds.collect())
    });
    read.await.unwrap_or_else(|error| (Err(error.to_string()), Vec::new()))
}

fn at(log: &dyn state::Log, seq: u64) -> Option<Entry> {
    let batches = log.read(seq, 1).ok()?;
    batches.into_iter().flat_map(|it| it.entries).find(|it| it.envelope.seq == seq)
}

/// An entry and the proof under the latest signed head, if one covers it yet.
async fn proven(app: &App, place: &str) -> Option<(Entry, Option<EntryProof>)> {
    let Place { partition, seq } = place.parse().ok()?;
    let part = app.0.parts.get(partition)?;
    if seq >= part.engine.follow().borrow().next_seq {
        return None;
    }
    let log = part.engine.log();
    let entry = tokio::task::spawn_blocking(move || at(&*log, seq)).await.ok()??;
    let proof = part.engine.ask(move |owner| {
        let (heads, state) = owner.tree();
        heads.prove(state, seq).ok()
    });
    Some((entry, proof.await.ok().flatten()))
}

async fn entry(State(app): State<App>, Path(place): Path<String>) -> Response {
    match proven(&app, &place).await {
        Some((entry, proof)) => page(StatusCode::OK, entry::render(&entry, proof.as_ref())),
        None => page(StatusCode::NOT_FOUND, html::missing("entry", &place)),
    }
}

/// `GET /entries/PLACE/proof`: the stored bytes and what proves them, for a verifier.
async fn proof(State(app): State<App>, Path(place): Path<String>) -> Response {
    match proven(&app, &place).await {
        Some((entry, Some(proof))) => Json(entry::document(&entry, &proof)).into_response(),
        Some((_, None)) => {
            let why = "no signed head covers it yet; ask again in a second";
            problem(StatusCode::SERVICE_UNAVAILABLE, "not_signed", why)
        }
        None => problem(StatusCode::NOT_FOUND, "unknown_entry", format!("no entry {place}")),
    }
}

/// An entry of a further partition.
async fn entry_of(state: State<App>, Path((of, seq)): Path<(String, String)>) -> Response {
    entry(state, Path(format!("{of}/{seq}"))).await
}

async fn proof_of(state: State<App>, Path((of, seq)): Path<(String, String)>) -> Response {
    proof(state, Path(format!("{of}/{seq}"))).await
}

/// `GET /api/events`: a message with the number of entries when the model has grown. Readers
/// beyond [`LIVE_MAX`] are refused, so that no crowd of them holds the node's sockets.
async fn events(State(app): State<App>) -> Response {
    let Ok(place) = app.0.bounds.live.clone().try_acquire_owned() else {
        let why = format!("{LIVE_MAX} pages are live already; this one can be reloaded by hand");
        return problem(StatusCode::SERVICE_UNAVAILABLE, "too_many_live", why);
    };
    let changes = WatchStream::from_changes(app.0.projection.changes());
    let told = changes.map(move |n| {
        // Held as long as the stream: a reader that goes gives its place back.
        let _ = &place;
        Ok::<_, Infallible>(SseEvent::default().event("grown").data(n.to_string()))
    });
    Sse::new(told).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}
