//! A runner asks to be registered, by the node of its machine, where that node does not hold the
//! operator's key.
//!
//! A request is a node's word and not authority: whoever holds the operator's key reads it and
//! decides. It names host, runner key and partition, because a host has a runner for each
//! partition that it has services in, each with a key of its own.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use schemas::signature::{PublicKey, certifies_node, signature_from_text, signature_text};
use serde::{Deserialize, Serialize};
use state::kafka::Cluster;
use topologies::config::Host;

use super::{List, Record};
use crate::config::check::check_host;
use crate::keys::Identity;

/// Domain of a node's signature over its request for a runner. Persisted: frozen.
const DOMAIN: &str = "healwright/runner-request/v1";

/// A runner that wants to be registered. Persisted as JSON: names are frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The deployment's id.
    pub deployment: String,
    /// The partition whose chain it follows.
    pub partition: u32,
    /// Its host, its key, its sandbox kinds.
    pub runner: Host,
    /// Key of the node on its machine.
    pub node: PublicKey,
    /// The root's word for that node.
    pub certificate: String,
    /// The node's signature over all of this.
    pub signature: String,
}

impl Candidate {
    /// The request of the node `identity` for a runner of its machine.
    pub fn signed(identity: &Identity, partition: u32, runner: Host) -> Self {
        let mut request = Candidate {
            deployment: identity.deployment.clone(),
            partition,
            runner,
            node: identity.node.public(),
            certificate: identity.node_certificate().to_owned(),
            signature: String::new(),
        };
        let signature = identity.node.sign(DOMAIN, &request.statement());
        request.signature = signature_text(&signature);
        request
    }

    /// Whether a node that `root` has certified for `deployment` has signed all of it, and its
    /// host is called by a name.
    pub(super) fn holds(&self, deployment: &str, root: &PublicKey) -> bool {
        let signature = signature_from_text(&self.signature);
        self.deployment == deployment
            && check_host(&self.runner.host).is_ok()
            && certifies_node(root, deployment, &self.node, &self.certificate)
            && signature.is_some_and(|it| self.node.verify(DOMAIN, &self.statement(), &it))
    }

    /// Whether both are about one runner, whatever else they say of it.
    pub(super) fn is_of_same_runner(&self, other: &Candidate) -> bool {
        let of = |it: &Candidate| (it.partition, it.runner.key, it.runner.host.clone());
        of(self) == of(other)
    }

    fn statement(&self) -> Vec<u8> {
        let Host { host, key, sandbox } = &self.runner;
        let mut out = schemas::wire::Writer::default();
        out.text(&self.deployment).u32(self.partition).text(host).raw(&key.0);
        out.u32(u32::try_from(sandbox.len()).unwrap_or(u32::MAX));
        for kind in sandbox {
            out.text(kind);
        }
        out.0
    }
}

/// The way in which this node asks for the runners of its machine.
#[derive(Clone)]
pub struct Requests(Arc<Asking>);

struct Asking {
    cluster: Cluster,
    identity: Arc<Identity>,
    /// What this process has asked for.
    asked: Mutex<Vec<(u32, Host)>>,
}

impl Requests {
    /// Of the node `identity` on `cluster`.
    pub fn new(cluster: Cluster, identity: Arc<Identity>) -> Self {
        Requests(Arc::new(Asking { cluster, identity, asked: Mutex::default() }))
    }

    /// Asks for a runner, unless the list holds the same request. Answers whether this process
    /// has asked for it the first time.
    ///
    /// # Errors
    /// The cluster does not answer, or the host's name is none that anybody could decide by.
    pub async fn ask(&self, partition: u32, runner: &Host) -> anyhow::Result<bool> {
        check_host(&runner.host)
            .context("name this machine's host with `healwright up --host NAME`")?;
        let asked = (partition, runner.clone());
        {
            let mut known = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if known.contains(&asked) {
                return Ok(false);
            }
            known.push(asked.clone());
        }
        let request = Candidate::signed(&self.0.identity, partition, runner.clone());
        let cluster = self.0.cluster.clone();
        let sent = tokio::task::spawn_blocking(move || add(&cluster, request));
        let sent = sent.await.context("asking for a runner").and_then(|it| it);
        if sent.is_err() {
            let mut known = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|it| *it != asked);
        }
        sent.map(|()| true)
    }
}

fn add(cluster: &Cluster, request: Candidate) -> anyhow::Result<()> {
    let mut list = List::open(cluster)?;
    if !list.members.runners.contains(&request) {
        list.add(&Record::RunnerRequested(request))?;
    }
    Ok(())
}
