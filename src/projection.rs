//! What readers are shown: incidents, services, proposals, rollouts, mode. Folded from the
//! journal, rebuildable at any time, and never read by a fold.
//!
//! It is kept in memory: the whole of it is rebuilt from the journal at start, in the
//! background. A reader on another process builds its own from a read-only view of the log.

mod model;
mod parts;
pub mod sli;
mod standing;
mod view;

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use schemas::{Batch, Entry, Event, Head, Ns};
use serde_json::Value;
use state::LogError;
use tokio::sync::watch;

pub use model::Model;
pub use parts::{
    BarredView, ConfigView, IncidentView, Line, ModeView, PartitionView, ProposalView, RolloutView,
    RunnerView, ServiceView, TrustView,
};
pub use standing::Standing;

use crate::engine::Handle;
use crate::journal::Journal;
use crate::node::parts::Parts;

/// Entries are read in runs of about this size.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// A shared, growing model of all partitions.
#[derive(Clone)]
pub struct Projection {
    model: Arc<RwLock<Model>>,
    changed: watch::Sender<u64>,
}

impl Projection {
    /// A model that follows running engines, each on a thread of its own.
    pub fn follow(parts: &Parts) -> Self {
        let projection = Projection::empty();
        // A partition that is not read yet has a mode too, and it is unknown.
        for part in parts.all() {
            projection.writing().partitions.entry(part.number).or_default();
        }
        for part in parts.all() {
            tokio::spawn(projection.clone().keep_up(part.number, part.engine.clone()));
        }
        projection
    }

    async fn keep_up(self, partition: u32, engine: Handle) {
        let mut moved = engine.follow();
        let log = engine.log();
        // Held while reading, so that batches are folded once and in order.
        let recent = Arc::new(Mutex::new(sli::Recent::default()));
        loop {
            let next = moved.borrow_and_update().next_seq;
            let (reader, log, recent) = (self.clone(), log.clone(), recent.clone());
            let read = tokio::task::spawn_blocking(move || {
                let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
                reader.read(&*log, partition, next, &mut recent)
            });
            if let Ok(Err(error)) = read.await {
                // Nobody can be shown what stands there, and nothing may rest on it.
                engine.condemn(&error.to_string());
                return;
            }
            let n_entries = self.model().n_entries();
            self.changed.send_replace(n_entries);
            if moved.changed().await.is_err() {
                return;
            }
        }
    }

    /// A model of everything that `logs` hold now, each the journal of another partition.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn of<'a, J: Journal + ?Sized + 'a>(
        logs: impl IntoIterator<Item = &'a J>,
    ) -> Result<Self, LogError> {
        let projection = Projection::empty();
        for log in logs {
            let Head { partition, next_seq, .. } = log.head()?;
            projection.read(log, partition, next_seq, &mut sli::Recent::default())?;
        }
        Ok(projection)
    }

    fn empty() -> Self {
        Projection { model: Arc::default(), changed: watch::Sender::new(0) }
    }

    fn read<J: Journal + ?Sized>(
        &self,
        log: &J,
        partition: u32,
        next: u64,
        recent: &mut sli::Recent,
    ) -> Result<(), LogError> {
        let mut seq = self.writing().partitions.entry(partition).or_default().next_seq;
        while seq < next {
            for batch in log.read(seq, READ_BYTES)? {
                fold(&mut self.writing(), &batch, recent);
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
    let partition = batch.header.partition;
    let next_seq = model.partitions.get(&partition).map_or(0, |it| it.next_seq);
    for entry in batch.entries.iter().filter(|it| next_seq <= it.envelope.seq) {
        step(model, entry, recent);
    }
    model.settle(partition, None);
    let view = model.partitions.entry(partition).or_default();
    view.next_seq = batch.next_seq().max(view.next_seq);
    view.epoch = batch.header.epoch;
}

fn step(model: &mut Model, entry: &Entry, recent: &mut sli::Recent) {
    // What does not decode is shown as unreadable by `events list`; here it changes nothing.
    if let Ok(event) = entry.event() {
        if let Event::TelemetrySealed(seal) = &event {
            recent.remember(seal, entry.envelope.wall);
        }
        model.fold(&entry.envelope, &event);
    }
}
