//! What readers are shown: incidents, services, proposals, rollouts, mode. Folded from the
//! journal, rebuildable at any time, and never read by a fold.
//!
//! It is kept in memory: the whole of it is rebuilt from the journal at start, in the
//! background. A reader on another process builds its own from a read-only view of the log.

mod model;
pub mod sli;
mod standing;
mod view;

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use schemas::{Batch, Entry, Event, Ns};
use serde_json::Value;
use state::LogError;
use tokio::sync::watch;

pub use model::{
    BarredView, ConfigView, IncidentView, Line, Model, ProposalView, RolloutView, ServiceView,
    TrustView,
};
pub use standing::Standing;

use crate::engine::Handle;
use crate::journal::Journal;

/// Entries are read in runs of about this size.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// A shared, growing model.
#[derive(Clone)]
pub struct Projection {
    model: Arc<RwLock<Model>>,
    /// Held while reading, so that batches are folded once and in order.
    recent: Arc<Mutex<sli::Recent>>,
    changed: watch::Sender<u64>,
}

impl Projection {
    /// A model that follows a running engine on a thread of its own.
    pub fn follow(engine: Handle) -> Self {
        let projection = Projection::empty();
        let following = projection.clone();
        tokio::spawn(async move {
            let mut moved = engine.follow();
            let log = engine.log();
            loop {
                let next = moved.borrow_and_update().next_seq;
                let (reader, log) = (following.clone(), log.clone());
                let read = tokio::task::spawn_blocking(move || reader.read(&*log, next));
                if let Ok(Err(error)) = read.await {
                    tracing::error!(%error, "the projection cannot read the journal");
                    return;
                }
                following.changed.send_replace(next);
                if moved.changed().await.is_err() {
                    return;
                }
            }
        });
        projection
    }

    /// A model of everything that `log` holds now.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn of<J: Journal + ?Sized>(log: &J) -> Result<Self, LogError> {
        let projection = Projection::empty();
        projection.read(log, log.head()?.next_seq)?;
        Ok(projection)
    }

    fn empty() -> Self {
        Projection { model: Arc::default(), recent: Arc::default(), changed: watch::Sender::new(0) }
    }

    fn read<J: Journal + ?Sized>(&self, log: &J, next: u64) -> Result<(), LogError> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seq = self.model().next_seq;
        while seq < next {
            for batch in log.read(seq, READ_BYTES)? {
                fold(&mut self.writing(), &batch, &mut recent);
                seq = batch.next_seq();
            }
        }
        // Curves come last: a model without them is already of use, and so is one whose
        // telemetry is gone or damaged. What could not be read is a gap.
        let measure = |service: &str, at, counted: &sli::Counted<'_>| {
            self.writing().measure(service, at, counted);
        };
        if let Err(error) = recent.read(log, measure) {
            tracing::warn!(%error, "the curves have a gap: telemetry cannot be read");
        }
        Ok(())
    }

    fn writing(&self) -> RwLockWriteGuard<'_, Model> {
        self.model.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model as it stands.
    pub fn model(&self) -> RwLockReadGuard<'_, Model> {
        self.model.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when the model has changed; the value is the number of entries folded.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// `GET /api/v1/status` and `healthwright status -o json`.
    pub fn status(&self) -> Value {
        view::status(&self.model())
    }

    /// Where to look for the curve of an incident; `None` where there is no such incident, or it
    /// is about no service.
    pub fn around(&self, id: &str, now: Ns) -> Option<sli::Around> {
        let model = self.model();
        let view = model.incident(id)?;
        let it = &view.incident;
        let service = it.service.clone()?;
        let probe_every_ms = model.services.get(&service).map_or(0, |it| it.config.probe_every_ms);
        let profile = model.profile.clone().unwrap_or_default();
        Some(sli::Around {
            service,
            detected_at: it.detected_at,
            until: it.resolved_at.unwrap_or(now),
            opened: view.opened,
            slot_min: sli::slot_min(&profile, probe_every_ms),
        })
    }

    /// `GET /api/incidents` (spec 80 §19).
    pub fn incidents_json(&self, status: &str, limit: usize, offset: usize) -> Value {
        view::incidents(&self.model(), status, limit, offset)
    }

    /// One incident with its timeline.
    pub fn incident_json(&self, id: &str) -> Option<Value> {
        let model = self.model();
        model.incident(id).map(view::incident)
    }
}

fn fold(model: &mut Model, batch: &Batch, recent: &mut sli::Recent) {
    for entry in &batch.entries {
        if model.next_seq <= entry.envelope.seq {
            step(model, entry, recent);
        }
    }
    model.settle(None);
    model.epoch = batch.header.epoch;
}

fn step(model: &mut Model, entry: &Entry, recent: &mut sli::Recent) {
    // What does not decode is shown as unreadable by `events list`; here it changes nothing.
    if let Ok(event) = entry.event() {
        if let Event::TelemetrySealed(seal) = &event {
            recent.remember(seal, entry.envelope.wall);
        }
        model.fold(&entry.envelope, &event);
    }
    model.next_seq = entry.envelope.seq + 1;
}
