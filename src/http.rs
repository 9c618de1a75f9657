//! The HTTP face of a running node: the API, health, metrics, the page.
//!
//! What changes anything needs a token where the listener can be reached from elsewhere; on
//! loopback under the profile `local` it does not, but a browser's cross-site request is refused
//! everywhere (`Host` and `Origin` are checked), so no web page can reach a loopback node.

pub mod api;
pub mod gate;
pub mod listen;
pub mod page;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::dispatch;
use crate::keys::Identity;
use crate::node::parts::Parts;
use crate::projection::Projection;

/// Largest request body: a telemetry batch of spec 10 §4.6.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What every handler may use.
#[derive(Clone)]
pub struct App(pub Arc<Inner>);

/// The parts of [`App`].
pub struct Inner {
    /// The partitions, each with the way into its journal.
    pub parts: Parts,
    /// What readers are shown.
    pub projection: Projection,
    /// Who may write.
    pub gate: gate::Gate,
    /// Who this node is to others, where it shares its partitions with any.
    pub shared: Option<Arc<Identity>>,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// What bounds the readers of the page.
    pub bounds: page::Bounds,
}

/// All routes.
pub fn router(app: App) -> Router {
    let writes = Router::new()
        .route("/api/v1/changes", post(api::change))
        .route("/api/v1/telemetry", post(api::telemetry))
        .route("/api/v1/releases", post(api::release))
        .route("/api/v1/approvals", post(api::approval))
        .route("/api/v1/config", post(api::config))
        .route("/api/v1/skip", post(api::skip))
        .route("/api/incidents/freeze", post(api::freeze))
        .route("/api/incidents/unfreeze", post(api::unfreeze))
        .layer(axum::middleware::from_fn_with_state(app.clone(), gate::writes));
    Router::new()
        .merge(writes)
        .merge(page::routes())
        // Nodes ask each other for keys, and for nothing that could be overheard.
        .route(dispatch::relay::PATH, get(dispatch::relay::take))
        .route("/healthz", get(api::healthz))
        .route("/readyz", get(api::readyz))
        .route("/metrics", get(api::metrics))
        .route("/api/v1/health", get(api::healthz))
        .route("/api/v1/status", get(api::status))
        .route("/api/incidents", get(api::incidents))
        .route("/api/v1/incidents/{id}", get(api::incident))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(gate::refusals))
        .layer(axum::middleware::from_fn_with_state(app.clone(), gate::host))
        .layer(axum::middleware::from_fn(gate::unsniffed))
        .with_state(app)
}
