//! From decision to effect: what a runner is served, over a Unix socket that it calls in on
//! (protocol.md §7).
//!
//! Nothing is dispatched that does not stand in the chain under a signed head: the evidence is
//! made of stored bytes and proofs, and the runner checks all of it. A dispatch is repeated by
//! request id until its result is journaled; the runner's receipts make that harmless.

mod conversation;
mod freeze;
mod proofs;
pub mod register;
pub mod relay;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use runner::wire::Reader;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

pub use freeze::command;
pub use register::Registrar;

use crate::keys::Identity;
use crate::node::Layout;
use crate::node::parts::Part;

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

/// Serves the runners of one partition on its socket.
///
/// # Errors
/// The socket cannot be bound.
pub fn listen(
    layout: &Layout,
    part: &Part,
    registrar: Registrar,
    shared: Option<Arc<Identity>>,
    deployment: &str,
) -> anyhow::Result<()> {
    let path = layout.partition(part.number).socket();
    let folder = path.parent().unwrap_or(&layout.0);
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let bound = runner::wire::socket::bind(&path)
        .and_then(|it| it.set_nonblocking(true).map(|()| it))
        .with_context(|| format!("binding {}", path.display()))?;
    let listener =
        UnixListener::from_std(bound).with_context(|| format!("serving {}", path.display()))?;
    let (part, deployment) = (part.clone(), deployment.to_owned());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (part, registrar) = (part.clone(), registrar.clone());
            let (shared, deployment) = (shared.clone(), deployment.clone());
            tokio::spawn(async move {
                let served = serve(stream, part, &registrar, shared.as_ref(), deployment);
                if let Err(error) = served.await {
                    tracing::debug!(error = format!("{error:#}"), "a runner's conversation ended");
                }
            });
        }
    });
    Ok(())
}

/// A runner of this machine: it is registered under the operator's signature, and speaks with
/// the owner, which may be another node.
async fn serve(
    stream: UnixStream,
    part: Part,
    registrar: &Registrar,
    shared: Option<&Arc<Identity>>,
    deployment: String,
) -> anyhow::Result<()> {
    let (from, to) = tokio::io::split(stream);
    let called = conversation::hear(Reader::new(from), to).await?;
    registrar.let_in(&called.host, &part).await?;
    let here = part.engine.seat().borrow().here;
    match shared.filter(|_| !here) {
        Some(own) => relay::carry(called, &part, own).await.inspect_err(|error| {
            metrics::counter!("healwright_relays_failed_total").increment(1);
            let error = format!("{error:#}");
            tracing::warn!(error, "this machine's runner cannot be taken to the node in office");
        }),
        None => conversation::hold(called, conversation::Office { part, deployment }).await,
    }
}
