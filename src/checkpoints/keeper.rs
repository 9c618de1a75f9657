//! Takes checkpoints while this node is in office, beside the owner's cycle.
//!
//! A checkpoint follows a batch, so there is no timer and nothing is sent while nothing happens.
//! The owner does not wait: its files are linked, and hashing, the digest and sending are done on
//! the links by another thread. One that does not succeed is logged, counted, and made up for by
//! the next.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use state::kafka::KafkaLog;

use super::{Depot, Keep, Uploaded, prune, upload};
use crate::engine::Handle;
use crate::keys::Identity;

/// Three: the newest, one for when it is damaged, and one for when both share the damage.
const KEEP: Keep = Keep { newest: 3, grace: Duration::from_secs(3600) };

/// Takes checkpoints of one log.
pub struct Keeper {
    /// Where they go.
    pub depot: Depot,
    /// What they are of.
    pub log: Arc<KafkaLog>,
    /// Who signs.
    pub identity: Arc<Identity>,
    /// The data directory; links are made in it.
    pub data: PathBuf,
    /// At most one in this time.
    pub every: Duration,
}

/// Where links lie while a checkpoint is made of them.
fn taking(data: &Path) -> PathBuf {
    data.join("checkpoint.taking")
}

impl Keeper {
    /// Follows the journal until the engine stops; the first checkpoint is taken with the first
    /// batch in office.
    pub fn follow(self, engine: &Handle) {
        let (mut moved, seat) = (engine.follow(), engine.seat());
        let keeper = Arc::new(self);
        tokio::spawn(async move {
            let mut tried: Option<Instant> = None;
            while moved.changed().await.is_ok() {
                let early = tried.is_some_and(|it| it.elapsed() < keeper.every);
                let office = seat.borrow().clone();
                if early || !office.here {
                    continue;
                }
                tried = Some(Instant::now());
                let taker = keeper.clone();
                let held = seat.clone();
                let still = move || *held.borrow() == office;
                let taken = tokio::task::spawn_blocking(move || taker.take(still)).await;
                let taken = taken.context("taking a checkpoint").and_then(|it| it);
                let outcome = if taken.is_ok() { "taken" } else { "failed" };
                metrics::counter!("healwright_checkpoints_total", "outcome" => outcome)
                    .increment(1);
                if let Err(error) = taken {
                    let error = format!("{error:#}");
                    let data = keeper.data.display();
                    tracing::warn!(
                        %data,
                        error,
                        "no checkpoint was taken; the next one makes up for it"
                    );
                }
            }
        });
    }

    /// Takes one, if office is `still` held once its files are linked: a standby's state lacks
    /// the owner's tiles.
    fn take(&self, still: impl Fn() -> bool) -> anyhow::Result<()> {
        let dir = taking(&self.data);
        let began = Instant::now();
        remove(&dir)?;
        let checkpoint = self.log.checkpoint(&dir)?;
        if !still() {
            return remove(&dir);
        }
        let sent = upload(&self.depot, &dir, &checkpoint, &self.identity);
        remove(&dir)?;
        let Uploaded { files, bytes } = sent?;
        let partition = checkpoint.partition;
        metrics::gauge!("healwright_checkpoint_next_seq", "partition" => partition.to_string())
            .set(checkpoint.next_seq as f64);
        metrics::counter!("healwright_checkpoint_sent_bytes_total").increment(bytes);
        let (total, next_seq) = (checkpoint.files.len(), checkpoint.next_seq);
        let took = began.elapsed();
        tracing::info!(partition, next_seq, files, total, bytes, ?took, "a checkpoint was taken");
        prune(&self.depot, &checkpoint.deployment, checkpoint.partition, KEEP)
            .context("deleting older checkpoints")?;
        Ok(())
    }
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
