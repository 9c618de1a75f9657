//! Gauges that are looked up at intervals: who is in office, whether the partition stands still,
//! and on a cluster how far the chain is behind what was sent.
//!
//! The thread holds on to neither log nor engine while it waits for a broker, so a node that
//! stops does not wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use metrics::{counter, gauge};
use state::LogError;
use state::kafka::watch::{Lag, Onlooker};
use state::kafka::{Cluster, KafkaLog};
use tokio::sync::watch;

use crate::engine::{Moved, Seat};
use crate::node::parts::Part;

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A log on a cluster, and how far its events have been published.
pub struct Shared {
    /// The cluster.
    pub cluster: Cluster,
    /// This process's log there.
    pub log: Arc<KafkaLog>,
    /// The position of the fan-out; counts only in office.
    pub published: Arc<AtomicU64>,
}

/// Where the figures come from.
struct Sources {
    partition: u32,
    moved: watch::Receiver<Moved>,
    seat: watch::Receiver<Seat>,
    shared: Option<(Cluster, Weak<KafkaLog>, Arc<AtomicU64>)>,
}

/// Keeps the gauges for as long as the engine runs.
///
/// # Errors
/// The thread cannot be started.
pub fn follow(part: &Part, shared: Option<Shared>) -> std::io::Result<()> {
    let engine = &part.engine;
    let sources = Sources {
        partition: part.number,
        moved: engine.follow(),
        seat: engine.seat(),
        shared: shared.map(|it| (it.cluster, Arc::downgrade(&it.log), it.published)),
    };
    let run = move || {
        let mut onlooker = None;
        while sources.moved.has_changed().is_ok() {
            sources.set_standing();
            if let Err(error) = sources.set_lag(&mut onlooker) {
                tracing::debug!(%error, "how far the chain is behind is not known now");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    };
    std::thread::Builder::new().name("gauges".to_owned()).spawn(run).map(|_| ())
}

impl Sources {
    fn label(&self) -> [(&'static str, String); 1] {
        [("partition", self.partition.to_string())]
    }

    fn set_standing(&self) {
        let seat = self.seat.borrow().clone();
        let (next_seq, stopped) = {
            let moved = self.moved.borrow();
            (moved.next_seq, moved.stopped.is_some())
        };
        let of = self.label();
        // Who stands still holds the office and decides nothing.
        gauge!("healwright_in_office", &of).set(f64::from(u8::from(seat.here && !stopped)));
        gauge!("healwright_epoch", &of).set(seat.epoch as f64);
        gauge!("healwright_entries", &of).set(next_seq as f64);
        gauge!("healwright_stopped", &of).set(f64::from(u8::from(stopped)));
        if let Some((_, _, published)) = &self.shared {
            // Only who is in office publishes, and knows how far.
            let published = published.load(Ordering::Relaxed);
            let behind = if seat.here { next_seq.saturating_sub(published) } else { 0 };
            gauge!("healwright_fanout_lag", &of).set(behind as f64);
        }
    }

    fn set_lag(&self, onlooker: &mut Option<Onlooker>) -> Result<(), LogError> {
        let Some((cluster, log, _)) = &self.shared else { return Ok(()) };
        let Some(log) = log.upgrade() else { return Ok(()) };
        let of = self.label();
        counter!("healwright_unlinked_total", &of).absolute(log.n_skipped());
        let taken = log.followed()?.positions;
        drop(log);
        let looking = match onlooker.take() {
            Some(it) => it,
            None => Onlooker::of(cluster)?,
        };
        let Lag { inbox, control, telemetry } =
            onlooker.insert(looking).lag(self.partition, taken)?;
        for (stream, n) in [("inbox", inbox), ("control", control), ("telemetry", telemetry)] {
            let partition = self.partition.to_string();
            gauge!("healwright_consumer_lag", "partition" => partition, "stream" => stream)
                .set(n as f64);
        }
        Ok(())
    }
}
