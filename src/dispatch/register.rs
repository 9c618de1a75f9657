//! Who may hold a conversation: a runner that is registered under the operator's signature.
//!
//! A node that holds the operator's key registers the runners of its own machine as they call.
//! Another one asks for them in the list of nodes, and refuses them until somebody has answered.
//!
//! Invariant: nothing here registers a second key for a host (threat C12). That takes a person,
//! and `healwright node admit KEY --replace`, or `repair runner` where the log is embedded.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use schemas::signature::PublicKey;
use tokio::sync::watch;
use topologies::config::Host;

use super::conversation;
use crate::join::{Candidate, Requests};
use crate::node::Activator;
use crate::node::parts::{Part, Parts};

/// A registration that nobody has journaled after this is tried again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to register a runner that asks.
const TRY_EVERY: Duration = Duration::from_secs(5);

/// What a node does for a runner that calls it.
#[derive(Clone)]
pub struct Registrar {
    /// The way into the journal for what the operator signs, where the key is kept here.
    pub activator: Option<Activator>,
    /// The way to ask others for it, on a cluster.
    pub requests: Option<Requests>,
    /// The key that is not let in, once a person has been told.
    pub told: Arc<OnceLock<PublicKey>>,
}

impl Registrar {
    /// Lets a registered runner in, and sees to it that another one is registered if it may be.
    pub(super) async fn let_in(&self, caller: &Host, part: &Part) -> anyhow::Result<()> {
        let known = conversation::registered(&caller.host, part).await?;
        if known.as_ref() == Some(caller) {
            return Ok(());
        }
        let is_other = known.as_ref().is_some_and(|it| it.key != caller.key);
        if !is_other && let Some(activator) = &self.activator {
            let name = format!("runner/{}", caller.host);
            return activator.activate_in(&part.engine, &name, caller).await;
        }
        self.ask(caller, known.as_ref(), part.number).await;
        if !conversation::is_registered(caller, part).await? {
            bail!("the runner of {} is not registered yet", caller.host);
        }
        Ok(())
    }

    /// Asks, and says once what waits and what a person can do.
    async fn ask(&self, caller: &Host, known: Option<&Host>, partition: u32) {
        let (host, key) = (&caller.host, caller.key.id());
        let Some(requests) = &self.requests else {
            if let Some(it) = known
                && self.told.set(caller.key).is_ok()
            {
                tracing::warn!(
                    "host {host} is registered under the key {}, and this machine's runner has \
                     {key}: it is not let in (C12), and nothing is healed. If its key was lost, \
                     stop the node and say `healwright repair runner --reason TEXT`",
                    it.key.id()
                );
            }
            return;
        };
        match (requests.ask(partition, caller).await, known) {
            (Ok(false), _) => {}
            (Ok(true), None) => tracing::warn!(
                "the runner of {host} for partition {partition} waits to be registered: \
                 `healwright node admit {key}` with the data directory that holds operator.key"
            ),
            (Ok(true), Some(it)) if it.key == caller.key => tracing::info!(
                "the runner of {host} has other sandboxes than it is registered with; \
                 `healwright node admit {key}` takes them over"
            ),
            (Ok(true), Some(it)) => tracing::warn!(
                "host {host} is registered under the key {}, and this machine's runner has {key}: \
                 it is not let in (C12). If two nodes call their host {host}, name one with \
                 `--host NAME`; if the key was lost, `healwright node admit {key} --replace`",
                it.key.id()
            ),
            (Err(error), _) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "the runner of {host} cannot be asked for");
            }
        }
    }
}

/// Registers the runners that nodes ask for, where the operator's key is here and nobody but this
/// machine reaches the cluster. `own` is the host whose runner this node starts itself: its name
/// is given to nobody else.
pub fn attend(
    asked: watch::Receiver<Vec<Candidate>>,
    activator: Activator,
    parts: Parts,
    own: Option<String>,
) {
    tokio::spawn(Attending { activator, parts, own }.follow(asked));
}

struct Attending {
    activator: Activator,
    parts: Parts,
    own: Option<String>,
}

impl Attending {
    /// One after the other: who asks for a host must see what became of those before.
    async fn follow(self, mut asked: watch::Receiver<Vec<Candidate>>) {
        let mut answered: Vec<Candidate> = Vec::new();
        loop {
            let all = asked.borrow_and_update().clone();
            let mut stuck = BTreeSet::new();
            for candidate in &all {
                let (host, key) = (&candidate.runner.host, candidate.runner.key.id());
                if answered.contains(candidate) || stuck.contains(host) {
                    continue;
                }
                let answer = tokio::time::timeout(ANSWER_WITHIN, self.answer(candidate, &all));
                let answer = answer.await.context("nobody has journaled it in time");
                match answer.and_then(|it| it) {
                    Ok(None) => tracing::info!("{host} has the runner {key} now"),
                    Ok(Some(why)) => {
                        tracing::warn!("the runner {key} of {host} is not registered: {why}");
                    }
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::warn!(error, "the runner {key} of {host} is not registered yet");
                        stuck.insert(host.clone());
                        continue;
                    }
                }
                answered.push(candidate.clone());
            }
            if stuck.is_empty() && asked.changed().await.is_err() {
                return;
            }
            if !stuck.is_empty() {
                tokio::time::sleep(TRY_EVERY).await;
            }
        }
    }

    /// Registers a candidate; answers why it is not, where its host's name is another's.
    async fn answer(
        &self,
        candidate: &Candidate,
        all: &[Candidate],
    ) -> anyhow::Result<Option<String>> {
        let Candidate { partition, runner, node, .. } = candidate;
        let host = &runner.host;
        if self.own.as_ref() == Some(host) {
            return Ok(Some("this node has the runner of that host itself (C12)".to_owned()));
        }
        // A host is one machine in all partitions, so what one node has of it no other gets.
        let is_theirs = |number: u32, known: &Host| {
            all.iter().any(|it| {
                it.node == *node
                    && it.partition == number
                    && it.runner.host == *host
                    && it.runner.key == known.key
            })
        };
        for part in self.parts.all() {
            let Some(known) = conversation::registered(host, part).await? else { continue };
            let is_same = part.number == *partition && known.key == runner.key;
            if is_same || (part.number != *partition && is_theirs(part.number, &known)) {
                continue;
            }
            let (key, number) = (known.key.id(), part.number);
            let why = format!("{host} is registered under {key} in partition {number} (C12)");
            return Ok(Some(why));
        }
        let Some(part) = self.parts.get(*partition) else {
            return Ok(Some(format!("there is no partition {partition}")));
        };
        let name = format!("runner/{host}");
        self.activator.activate_in(&part.engine, &name, runner).await.map(|()| None)
    }
}
