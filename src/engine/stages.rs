//! How long the stages of the owner's cycle take, for `/metrics`.
//!
//! The owner says which stage begins and holds no clock; the stopwatch is the thread's. Nothing
//! here is read by a fold or decides anything, and a simulation runs without it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics::histogram;

/// A stage of the cycle, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Inputs are read from the log and decoded.
    Take,
    /// Folds, to rest.
    Fold,
    /// Sealing, signing, writing and reading back.
    Append,
    /// Senders are answered, followers woken, the tree head signed.
    Effects,
}

/// Told at each boundary which stage begins.
pub type Watch = Box<dyn FnMut(Stage) + Send>;

const STAGES: [(Stage, &str); 4] = [
    (Stage::Take, "take"),
    (Stage::Fold, "fold"),
    (Stage::Append, "append"),
    (Stage::Effects, "effects"),
];

/// The thread's stopwatch. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Stopwatch(Arc<Mutex<Laps>>);

#[derive(Default)]
struct Laps {
    running: Option<(Stage, Instant)>,
    spent: [Duration; STAGES.len()],
}

impl Stopwatch {
    /// What an owner is watched with.
    pub(super) fn watch(&self) -> Watch {
        let stopwatch = self.clone();
        Box::new(move |stage| stopwatch.enter(stage))
    }

    /// `stage` begins, and what ran until now ends.
    pub(super) fn enter(&self, stage: Stage) {
        let now = Instant::now();
        let mut laps = self.laps();
        laps.end(now);
        laps.running = Some((stage, now));
    }

    /// The cycle is over. It is recorded where it `counts`: one that had nothing to append would
    /// only say how often the owner looks.
    pub(super) fn finish(&self, counts: bool) {
        let mut laps = self.laps();
        laps.end(Instant::now());
        let spent = std::mem::take(&mut *laps).spent;
        if counts {
            for (idx, (_, name)) in STAGES.iter().enumerate() {
                histogram!("healwright_cycle_seconds", "stage" => *name).record(spent[idx]);
            }
        }
    }

    fn laps(&self) -> std::sync::MutexGuard<'_, Laps> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Laps {
    fn end(&mut self, now: Instant) {
        if let Some((stage, since)) = self.running.take() {
            self.spent[stage as usize] += now - since;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cycle_that_counts_is_recorded_once_for_each_stage_and_another_is_not() {
        let recorder = crate::up::exporter().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let stopwatch = Stopwatch::default();
            let mut watch = stopwatch.watch();
            // A stage may come back within a cycle; it is one figure all the same.
            [Stage::Take, Stage::Fold, Stage::Take, Stage::Append].into_iter().for_each(&mut watch);
            stopwatch.enter(Stage::Effects);
            stopwatch.finish(true);
            watch(Stage::Take);
            stopwatch.finish(false);
        });
        let text = handle.render();
        for (_, name) in STAGES {
            let line = format!("healwright_cycle_seconds_count{{stage=\"{name}\"}} 1\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert!(text.contains("healwright_cycle_seconds_bucket"), "{text}");
    }

    #[test]
    fn each_stage_has_its_place() {
        let idx = STAGES.iter().map(|(stage, _)| *stage as usize);
        assert_eq!(idx.collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
