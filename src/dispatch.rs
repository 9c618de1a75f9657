//! From decision to effect: what a runner is served, over a Unix socket that it calls in on
//! (protocol.md §7).
//!
//! Nothing is dispatched that does not stand in the chain under a signed head: the evidence is
//! made of stored bytes and proofs, and the runner checks all of it. A dispatch is repeated by
//! request id until its result is journaled; the runner's receipts make that harmless.

mod conversation;
mod freeze;
mod proofs;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio::sync::watch;

pub use freeze::command;

use crate::engine::Handle;
use crate::node::{Activator, Layout};

/// The newest mode epoch that each runner has confirmed.
#[derive(Clone, Default)]
pub struct Confirmations(Arc<Confirmed>);

#[derive(Default)]
struct Confirmed {
    epochs: Mutex<BTreeMap<String, u64>>,
    changed: watch::Sender<u64>,
}

impl Confirmations {
    /// A runner has confirmed `epoch`.
    pub(crate) fn confirm(&self, host: &str, epoch: u64) {
        let mut epochs = self.0.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = epochs.entry(host.to_owned()).or_default();
        *known = epoch.max(*known);
        drop(epochs);
        self.0.changed.send_modify(|n| *n += 1);
    }

    /// Whether the runner of `host` has confirmed `epoch` or a later one.
    pub(crate) fn has(&self, host: &str, epoch: u64) -> bool {
        let epochs = self.0.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        epochs.get(host).is_some_and(|it| epoch <= *it)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

/// Serves runners on the data directory's socket.
///
/// # Errors
/// The socket cannot be bound.
pub fn listen(
    layout: &Layout,
    engine: Handle,
    activator: Activator,
    deployment: &str,
) -> anyhow::Result<Confirmations> {
    let path = layout.socket();
    let bound = runner::wire::socket::bind(&path)
        .and_then(|it| it.set_nonblocking(true).map(|()| it))
        .with_context(|| format!("binding {}", path.display()))?;
    let listener =
        UnixListener::from_std(bound).with_context(|| format!("serving {}", path.display()))?;
    let confirmations = Confirmations::default();
    let (confirmed, deployment) = (confirmations.clone(), deployment.to_owned());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let office = conversation::Office {
                engine: engine.clone(),
                activator: activator.clone(),
                deployment: deployment.clone(),
                confirmations: confirmed.clone(),
            };
            tokio::spawn(async move {
                if let Err(error) = conversation::hold(stream, office).await {
                    tracing::debug!(error = format!("{error:#}"), "a runner's conversation ended");
                }
            });
        }
    });
    Ok(confirmations)
}
