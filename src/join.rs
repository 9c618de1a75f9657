//! How a process becomes a node of a deployment whose log is a cluster.
//!
//! The topic `nodes` has one partition, so its order settles who founded: the first founding
//! that verifies is the deployment, and its root key certifies everybody else. A newcomer asks
//! with a signature of its node key; who holds the root key answers with a certificate. No
//! secret travels.
//!
//! The runner of a node that holds no operator's key asks there as well, by its node: with the
//! node's certificate, and signed with the node's key ([`Candidate`]). To be in the list
//! registers nobody; that is an entry of the journal under the operator's signature.
//!
//! Admission is a person's decision (`healwright node admit`), except where nobody else can
//! reach the cluster: with brokers on loopback a founder admits by itself, so that several
//! processes on one machine find together without a word.

mod request;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use schemas::signature::{
    KeyPair, PublicKey, certify_node, deployment_id, signature_from_text, signature_text,
};
use serde::{Deserialize, Serialize};
use state::kafka::{Cluster, Roster};
use tokio::sync::watch;

pub use self::request::{Candidate, Requests};
use crate::keys::{Identity, KeyDir};

/// Domain of a newcomer's signature over its request. Persisted: frozen.
const REQUEST_DOMAIN: &str = "healwright/node-request/v1";
/// Between two looks at the list.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A newcomer waits this long for its certificate.
const ADMIT_WITHIN: Duration = Duration::from_secs(60);

/// A record of the list. Persisted as JSON: names are frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// A deployment begins.
    Founded {
        /// Its id, which binds the root key.
        deployment: String,
        /// The root key.
        root: PublicKey,
    },
    /// A node wants to belong to it.
    Requested {
        /// The deployment's id.
        deployment: String,
        /// The newcomer's key.
        node: PublicKey,
        /// What it calls itself.
        name: String,
        /// Its signature over all of this.
        signature: String,
    },
    /// The root's word that it does.
    Admitted {
        /// The newcomer's key.
        node: PublicKey,
        /// The root's signature over deployment and key.
        certificate: String,
    },
    /// A node wants a runner of its machine to be registered.
    RunnerRequested(Candidate),
}

/// The list as far as it verifies.
#[derive(Debug, Default)]
pub struct Members {
    /// Id and root key of the deployment.
    pub founded: Option<(String, PublicKey)>,
    /// Names and keys that asked, in order.
    pub requested: Vec<(String, PublicKey)>,
    /// Keys that were admitted, with their certificates.
    pub admitted: Vec<(PublicKey, String)>,
    /// Runners that certified nodes have asked for, the last word about each.
    pub runners: Vec<Candidate>,
}

impl Members {
    /// Takes in one record; one that does not verify changes nothing.
    fn take(&mut self, record: Record) {
        match record {
            Record::Founded { deployment, root } => {
                let name = deployment.rsplit_once('-').map_or("", |(name, _)| name);
                if self.founded.is_none() && deployment_id(name, &root) == deployment {
                    self.founded = Some((deployment, root));
                }
            }
            Record::Requested { deployment, node, name, signature } => {
                let ours = self.founded.as_ref().is_some_and(|(id, _)| *id == deployment);
                let known = self.requested.iter().any(|(_, key)| *key == node);
                let signed = signature_from_text(&signature).is_some_and(|signature| {
                    node.verify(REQUEST_DOMAIN, &request(&deployment, &node, &name), &signature)
                });
                if ours && signed && !known {
                    self.requested.push((name, node));
                }
            }
            // Whether it holds is asked where it is used: under the root of the founding.
            Record::Admitted { node, certificate } => self.admitted.push((node, certificate)),
            Record::RunnerRequested(request) => {
                let founded = self.founded.as_ref();
                if founded.is_some_and(|(id, root)| request.holds(id, root)) {
                    self.runners.retain(|it| !it.is_of_same_runner(&request));
                    self.runners.push(request);
                }
            }
        }
    }

    /// Those that asked and were not admitted.
    pub fn waiting(&self) -> impl Iterator<Item = &(String, PublicKey)> {
        let admitted = |key: &PublicKey| self.admitted.iter().any(|(it, _)| it == key);
        self.requested.iter().filter(move |(_, key)| !admitted(key))
    }
}

fn request(deployment: &str, node: &PublicKey, name: &str) -> Vec<u8> {
    let mut out = schemas::wire::Writer::default();
    out.text(deployment).raw(&node.0).text(name);
    out.0
}

/// The list and what has been read of it.
pub struct List {
    roster: Roster,
    members: Members,
}

impl List {
    /// Opens the list for a command, which makes no topics.
    ///
    /// # Errors
    /// The cluster does not answer, or nobody has founded a deployment there.
    pub fn of_founded(cluster: &Cluster) -> anyhow::Result<Self> {
        if !cluster.holds_system()? {
            bail!(
                "no deployment has been founded on {cluster:?}; `healwright up --log … \
                 --topic-prefix …` founds one"
            );
        }
        List::open(cluster)
    }

    /// Opens the list of `cluster`, whose topics are there.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn open(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut list = List { roster: Roster::open(cluster)?, members: Members::default() };
        list.read()?;
        Ok(list)
    }

    /// Everything that stands in it now.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn read(&mut self) -> anyhow::Result<&Members> {
        for record in self.roster.read()? {
            match serde_json::from_slice(&record) {
                Ok(record) => self.members.take(record),
                Err(error) => tracing::warn!(%error, "a record of the list of nodes is skipped"),
            }
        }
        Ok(&self.members)
    }

    fn add(&mut self, record: &Record) -> anyhow::Result<&Members> {
        let record = serde_json::to_vec(record).context("writing a record as JSON")?;
        self.roster.add(record)?;
        self.read()
    }

    /// Admits `node` with the root key.
    ///
    /// # Errors
    /// There is no deployment yet, or the root key is another one's.
    pub fn admit(&mut self, root: &KeyPair, node: PublicKey) -> anyhow::Result<()> {
        let Some((deployment, founder)) = &self.members.founded else {
            bail!("no deployment has been founded on this cluster yet");
        };
        if *founder != root.public() {
            bail!("this root key is not the one that founded {deployment}");
        }
        let certificate = certify_node(root, deployment, &node);
        self.add(&Record::Admitted { node, certificate })?;
        Ok(())
    }
}

/// The identity of this node on `cluster`: what `keys` holds, a founding, or an admission.
///
/// # Errors
/// The data directory belongs to another deployment, or nobody admits this node in time.
pub fn identity(cluster: &Cluster, keys: &KeyDir, data: &Path) -> anyhow::Result<Identity> {
    let mut list = List::open(cluster)?;
    if keys.is_fresh() && list.members.founded.is_some() {
        return newcomer(&mut list, keys);
    }
    let fresh = keys.is_fresh();
    if !fresh && !keys.is_certified() {
        return newcomer(&mut list, keys);
    }
    let identity = keys.identity()?;
    if list.members.founded.is_none() {
        let deployment = identity.deployment.clone();
        list.add(&Record::Founded { deployment, root: identity.root })?;
    }
    match &list.members.founded {
        Some((deployment, _)) if *deployment == identity.deployment => Ok(identity),
        // Another node was faster; what was made here a moment ago has signed nothing.
        Some(_) if fresh => {
            keys.give_up_root()?;
            newcomer(&mut list, keys)
        }
        Some((deployment, _)) => bail!(
            "the topics there belong to deployment {deployment}, {} to {}; use another \
             `--topic-prefix` or another data directory",
            data.display(),
            identity.deployment
        ),
        None => bail!("the founding was written and is not there; start again"),
    }
}

fn newcomer(list: &mut List, keys: &KeyDir) -> anyhow::Result<Identity> {
    let Some((deployment, root)) = list.members.founded.clone() else {
        bail!("no deployment has been founded on this cluster yet");
    };
    let (node, name) = (keys.node()?, crate::keys::host_name());
    let key = node.public();
    let signature = node.sign(REQUEST_DOMAIN, &request(&deployment, &key, &name));
    let signature = signature_text(&signature);
    list.add(&Record::Requested { deployment: deployment.clone(), node: key, name, signature })?;
    tracing::info!(node = key.id(), "waiting to be admitted");
    let until = Instant::now() + ADMIT_WITHIN;
    loop {
        let certificates = list.members.admitted.iter().filter(|(it, _)| *it == key);
        for (_, certificate) in certificates {
            if let Some(identity) = keys.admitted(&deployment, root, certificate)? {
                return Ok(identity);
            }
        }
        if until < Instant::now() {
            bail!(
                "nobody has admitted this node to {deployment}; run `healwright node admit {}` \
                 with the data directory that holds root.key, then start this node again",
                key.id()
            );
        }
        std::thread::sleep(LOOK_EVERY);
        list.read()?;
    }
}

/// Whether the cluster can be reached from this machine only.
pub fn is_local(cluster: &Cluster) -> bool {
    cluster.brokers().split(',').all(|broker| {
        let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|it| it.is_loopback())
    })
}

/// Attends to the list until the process ends: admits every node that asks where `root` is here,
/// and tells which runners ask. Only for a cluster that is local.
pub fn attend(cluster: Cluster, root: Option<KeyPair>) -> watch::Receiver<Vec<Candidate>> {
    let (told, asked) = watch::channel(Vec::new());
    let attending = move || -> anyhow::Result<()> {
        let mut list = List::open(&cluster)?;
        loop {
            let waiting: Vec<PublicKey> = list.members.waiting().map(|(_, key)| *key).collect();
            if let Some(root) = &root {
                for key in waiting {
                    list.admit(root, key)?;
                }
            }
            told.send_if_modified(|it| {
                let is_news = *it != list.members.runners;
                it.clone_from(&list.members.runners);
                is_news
            });
            std::thread::sleep(LOOK_EVERY);
            list.read()?;
        }
    };
    std::thread::spawn(move || {
        loop {
            // The broker may be away for a while; newcomers wait that long.
            if let Err(error) = attending() {
                tracing::warn!(error = format!("{error:#}"), "nobody can be admitted now");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    });
    asked
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use topologies::config::Host;

    use super::*;

    fn founded(seed: u8) -> (Record, KeyPair) {
        let root = KeyPair::from_seed(&[seed; 32]);
        let deployment = deployment_id("local", &root.public());
        (Record::Founded { deployment, root: root.public() }, root)
    }

    fn requested(deployment: &str, node: &KeyPair, name: &str) -> Record {
        let key = node.public();
        let signature = node.sign(REQUEST_DOMAIN, &request(deployment, &key, name));
        Record::Requested {
            deployment: deployment.to_owned(),
            node: key,
            name: name.to_owned(),
            signature: signature_text(&signature),
        }
    }

    #[test]
    fn the_first_founding_that_verifies_is_the_deployment() {
        let mut members = Members::default();
        let (_, stranger) = founded(9);
        let forged = Record::Founded { deployment: "local-00".into(), root: stranger.public() };
        members.take(forged);
        assert_eq!(members.founded, None);
        let (first, root) = founded(1);
        members.take(first);
        members.take(founded(2).0);
        assert_eq!(members.founded.unwrap().1, root.public());
    }

    #[test]
    fn a_request_under_another_key_or_for_another_deployment_is_nobodys() {
        let mut members = Members::default();
        let (first, root) = founded(1);
        let deployment = deployment_id("local", &root.public());
        members.take(first);
        let node = KeyPair::from_seed(&[3; 32]);
        members.take(requested("local-other", &node, "a"));
        let Record::Requested { deployment: id, name, signature, .. } =
            requested(&deployment, &node, "a")
        else {
            unreachable!()
        };
        let other = KeyPair::from_seed(&[4; 32]).public();
        members.take(Record::Requested { deployment: id, node: other, name, signature });
        assert_eq!(members.requested, []);
        members.take(requested(&deployment, &node, "a"));
        members.take(requested(&deployment, &node, "again"));
        assert_eq!(members.requested, [("a".to_owned(), node.public())]);
    }

    fn runner(seed: u8, host: &str) -> Host {
        let key = KeyPair::from_seed(&[seed; 32]).public();
        Host { host: host.to_owned(), key, sandbox: Vec::new() }
    }

    /// C12: what a runner's request says is the word of a node of this deployment, or nothing.
    #[test]
    fn a_runner_is_asked_for_by_a_certified_node_that_signs_all_of_it() {
        let mut members = Members::default();
        let (first, root) = founded(1);
        members.take(first);
        let node = |root: &KeyPair| Identity::new("local", "b", root, KeyPair::from_seed(&[3; 32]));
        let own = node(&root);
        let good = Candidate::signed(&own, 2, runner(7, "b"));

        let mut stranger = node(&KeyPair::from_seed(&[9; 32]));
        stranger.deployment.clone_from(&own.deployment);
        let changed = |change: fn(&mut Candidate)| {
            let mut it = good.clone();
            change(&mut it);
            it
        };
        for (forged, why) in [
            (Candidate::signed(&stranger, 2, runner(7, "b")), "no node of this deployment"),
            (changed(|it| it.runner.key = runner(8, "b").key), "another key than was signed"),
            (changed(|it| it.runner.host = "c".to_owned()), "another host"),
            (changed(|it| it.partition = 0), "another partition"),
            (changed(|it| it.runner.sandbox.push("bwrap".to_owned())), "more sandboxes"),
            (changed(|it| it.deployment = "local-00".to_owned()), "another deployment"),
            (changed(|it| it.node = runner(4, "").key), "another node's key"),
            (Candidate::signed(&own, 2, runner(7, "b\u{1b}[2K")), "no name of a host"),
        ] {
            members.take(Record::RunnerRequested(forged));
            assert_eq!(members.runners, [], "{why}");
        }
        members.take(Record::RunnerRequested(good.clone()));
        assert_eq!(members.runners, [good]);
    }

    #[test]
    fn the_last_word_about_a_runner_counts_and_each_key_is_one_of_its_own() {
        let mut members = Members::default();
        let (first, root) = founded(1);
        members.take(first);
        let own = Identity::new("local", "b", &root, KeyPair::from_seed(&[3; 32]));
        let ask = |partition, it| Candidate::signed(&own, partition, it);
        let sandboxed = Host { sandbox: vec!["bwrap".to_owned()], ..runner(7, "b") };
        let told = [
            ask(0, runner(7, "b")),
            ask(1, runner(7, "b")),
            ask(0, runner(8, "b")),
            ask(0, sandboxed),
        ];
        for it in told.clone() {
            members.take(Record::RunnerRequested(it));
        }
        assert_eq!(members.runners, told[1..]);
    }

    /// Nodes of two versions share the list: what is persisted keeps its names.
    #[test]
    fn a_request_for_a_runner_reads_as_it_was_written() {
        let (_, root) = founded(1);
        let own = Identity::new("local", "b", &root, KeyPair::from_seed(&[3; 32]));
        let record = Record::RunnerRequested(Candidate::signed(&own, 2, runner(7, "b")));
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["type"], "runner_requested");
        let names: Vec<&String> = value.as_object().unwrap().keys().collect();
        let known =
            ["certificate", "deployment", "node", "partition", "runner", "signature", "type"];
        assert_eq!(names, known);
    }
}
