//! Between a runner and an owner that is another node: the runner's own node passes on what they
//! say to each other.
//!
//! They speak TLS (`channel.rs`). The node believes the owner whose key the chain names, and the
//! owner a node whose key the deployment's root has certified: nobody else holds a conversation in
//! a runner's name or answers one, whoever reaches the port or sits between. What is said is
//! checked where it always is: the runner verifies every proof, and the owner every result.
//! Leases, mode epochs and their confirmations carry no signature of their own; for those, the
//! node is trusted as the Unix socket is.
//!
//! The relay ends when office moves or either side ends it; the runner calls again, and whoever
//! is in office then is asked.

mod channel;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use runner::wire::{FromRunner, Reader, ToRunner, send};
use schemas::signature::{PublicKey, certifies_node};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::conversation::{self, Called, Office};
use crate::engine::Seat;
use crate::http::App;
use crate::http::api::problem;
use crate::keys::Identity;
use crate::node::parts::Part;

/// Where a node takes the conversations of other nodes' runners.
pub const PATH: &str = "/api/v1/runners";
/// What the connection is turned into: TLS, and in it the messages of `runner::wire`. Version 1 was
/// without TLS.
const PROTOCOL: &str = "healwright-runner/2";
/// An owner that does not take the conversation within this time has failed.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// The node's first word.
#[derive(Serialize, Deserialize)]
struct Introduction {
    /// Deployment that it belongs to.
    deployment: String,
    /// Partition whose owner its runner wants to speak with.
    partition: u32,
    /// The root's word for the key that it has shown.
    certificate: String,
}

/// Passes on between a runner that has called here and the owner, until either ends it or office
/// moves.
pub(super) async fn carry(called: Called, part: &Part, own: &Arc<Identity>) -> anyhow::Result<()> {
    let mut seat = part.engine.seat();
    let there = seat.borrow_and_update().clone();
    ensure!(!there.endpoint.is_empty(), "no node holds office on partition {}", part.number);
    let moved =
        async { while seat.changed().await.is_ok() && *seat.borrow_and_update() == there {} };
    tokio::select! {
        // Also while a word waits for a node that takes no more.
        () = moved => Ok(()),
        ended = exchange(called, &there, part.number, own) => ended,
    }
}

async fn exchange(
    mut called: Called,
    there: &Seat,
    partition: u32,
    own: &Arc<Identity>,
) -> anyhow::Result<()> {
    let greeted = tokio::time::timeout(REACHED_WITHIN, greet(there, partition, own));
    let owner = greeted.await.with_context(|| format!("{} does not answer", there.endpoint))?;
    let (from_owner, mut to_owner) = tokio::io::split(owner?);
    let mut from_owner = Reader::new(from_owner);
    send(&mut to_owner, &called.hello).await?;
    metrics::counter!("healwright_relayed_conversations_total").increment(1);
    loop {
        tokio::select! {
            word = called.from.next::<FromRunner>() => {
                let Some(word) = word? else { return Ok(()) };
                send(&mut to_owner, &word).await?;
            }
            word = from_owner.next::<ToRunner>() => {
                let Some(word) = word? else { return Ok(()) };
                send(&mut called.to, &word).await?;
            }
        }
    }
}

/// A conversation with the owner, in which this node has introduced itself.
async fn greet(
    there: &Seat,
    partition: u32,
    own: &Arc<Identity>,
) -> anyhow::Result<TlsStream<TokioIo<Upgraded>>> {
    let owner = there.node.context("the chain does not say whose key is in office")?;
    let reached = reach(&there.endpoint, partition).await?;
    let mut owner = channel::call(reached, own, owner).await?;
    let introduction = Introduction {
        deployment: own.deployment.clone(),
        partition,
        certificate: own.node_certificate().to_owned(),
    };
    send(&mut owner, &introduction).await?;
    Ok(owner)
}

/// A connection to the owner that is no longer HTTP.
async fn reach(endpoint: &str, partition: u32) -> anyhow::Result<TokioIo<Upgraded>> {
    let stream = TcpStream::connect(endpoint).await.with_context(|| format!("to {endpoint}"))?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = shaken.await.context("speaking HTTP")?;
    // Its end is noticed by whoever reads.
    tokio::spawn(connection.with_upgrades());
    let request = hyper::Request::get(format!("{PATH}?partition={partition}"))
        .header(header::HOST, endpoint)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL);
    let request = request.body(Empty::<Bytes>::new()).context("writing the request")?;
    let response = sender.send_request(request).await.context("asking the owner")?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        bail!("{endpoint} answers {} instead of taking the runner", response.status());
    }
    let upgraded = hyper::upgrade::on(response).await.context("taking the connection over")?;
    Ok(TokioIo::new(upgraded))
}

/// Query of `GET /api/v1/runners`.
#[derive(Deserialize)]
pub struct Which {
    #[serde(default)]
    partition: u32,
}

/// `GET /api/v1/runners`: another node passes on what a runner says.
pub async fn take(
    State(app): State<App>,
    Query(which): Query<Which>,
    headers: HeaderMap,
    mut request: Request,
) -> Response {
    let Some((part, own)) = app.0.parts.get(which.partition).zip(app.0.shared.clone()) else {
        let why = "this node shares no such partition with others";
        return problem(StatusCode::NOT_FOUND, "unknown_partition", why);
    };
    if headers.get(header::UPGRADE).is_none_or(|it| it != PROTOCOL) {
        let why = format!("nodes speak {PROTOCOL} here, after an `Upgrade`");
        return problem(StatusCode::UPGRADE_REQUIRED, "upgrade_needed", why);
    }
    if !part.engine.seat().borrow().here {
        let why = "another node is in office; the journal says which";
        return problem(StatusCode::SERVICE_UNAVAILABLE, "not_in_office", why);
    }
    let (part, upgrade) = (part.clone(), hyper::upgrade::on(&mut request));
    tokio::spawn(async move {
        let held = async {
            let upgraded = upgrade.await.context("taking the connection over")?;
            listen(TokioIo::new(upgraded), part, &own).await
        };
        if let Err(error) = held.await {
            tracing::debug!(error = format!("{error:#}"), "a relayed conversation ended");
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn listen<S>(stream: S, part: Part, own: &Arc<Identity>) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let heard = tokio::time::timeout(REACHED_WITHIN, hear(stream, part.number, own));
    let called = heard.await.context("waiting for a node's first words")??;
    let deployment = own.deployment.clone();
    conversation::hold(called, Office { part, deployment }).await
}

/// Hears who calls: a node, and in it a runner.
async fn hear<S>(stream: S, partition: u32, own: &Arc<Identity>) -> anyhow::Result<Called>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (stream, node) = channel::answer(stream, own).await?;
    let (from, to) = tokio::io::split(stream);
    let mut from = Reader::new(from);
    let Some(said) = from.next::<Introduction>().await? else { bail!("it hung up") };
    if !is_of_deployment(&said, own, partition, &node) {
        metrics::counter!("healwright_runners_refused_total").increment(1);
        bail!("{} is no node of this deployment (C12)", node.id());
    }
    conversation::hear(from, to).await
}

/// Whether the root has certified the key that a node has shown, and it means to come here.
fn is_of_deployment(said: &Introduction, own: &Identity, partition: u32, node: &PublicKey) -> bool {
    said.deployment == own.deployment
        && said.partition == partition
        && certifies_node(&own.root, &own.deployment, node, &said.certificate)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use runner::wire::Seen;
    use schemas::signature::KeyPair;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn identity(root: u8, node: u8) -> Arc<Identity> {
        let (root, node) = (KeyPair::from_seed(&[root; 32]), KeyPair::from_seed(&[node; 32]));
        Arc::new(Identity::new("local", "a", &root, node))
    }

    fn introduction(of: &Identity, partition: u32) -> Introduction {
        let certificate = of.node_certificate().to_owned();
        Introduction { deployment: of.deployment.clone(), partition, certificate }
    }

    fn hello() -> FromRunner {
        FromRunner::Hello {
            host: "machine-b".to_owned(),
            key: KeyPair::from_seed(&[7; 32]).public(),
            seen: Seen { size: 0, root: schemas::Hash::default() },
            mode_epoch: 0,
            sandbox: Vec::new(),
            version: String::new(),
        }
    }

    /// Greets whoever is at the other end as the node `own`, and says this.
    async fn speak(
        stream: DuplexStream,
        own: Arc<Identity>,
        expected: PublicKey,
        said: Introduction,
    ) -> anyhow::Result<TlsStream<DuplexStream>> {
        let mut stream = channel::call(stream, &own, expected).await?;
        send(&mut stream, &said).await?;
        send(&mut stream, &hello()).await?;
        Ok(stream)
    }

    /// Partition 3 of `owner` hears `own`, which expects `expected` and says `said`.
    async fn heard(
        owner: &Arc<Identity>,
        own: &Arc<Identity>,
        expected: PublicKey,
        said: Introduction,
    ) -> anyhow::Result<Called> {
        let (here, there) = duplex(64 * 1024);
        let speaker = tokio::spawn(speak(here, own.clone(), expected, said));
        let heard = hear(there, 3, owner).await;
        let spoken = speaker.await.unwrap();
        spoken.and(heard)
    }

    /// C12: who is not certified, or shows another's certificate, is not let in.
    #[tokio::test]
    async fn only_a_certified_node_may_speak_for_a_runner() {
        let (owner, node, stranger) = (identity(1, 2), identity(1, 9), identity(5, 9));
        let key = owner.node.public();
        let mut called = heard(&owner, &node, key, introduction(&node, 3)).await.unwrap();
        assert_eq!(called.host.host, "machine-b");
        let word = called.from.next::<FromRunner>().await.unwrap();
        assert!(word.is_none(), "who hangs up has ended it, and nothing has failed");
        let refused = [
            ("another partition", &node, introduction(&node, 4)),
            ("another deployment", &stranger, introduction(&stranger, 3)),
            ("a certificate of another key", &node, introduction(&owner, 3)),
            ("one that says where it is not from", &stranger, {
                Introduction { deployment: owner.deployment.clone(), ..introduction(&stranger, 3) }
            }),
        ];
        for (what, own, said) in refused {
            let error = heard(&owner, own, key, said).await.err().expect(what);
            assert!(
                format!("{error:#}").contains("no node of this deployment"),
                "{what}: {error:#}"
            );
        }
    }

    /// C12: an answer is a node's that the chain names, though others are certified too.
    #[tokio::test]
    async fn a_runner_is_taken_to_the_owner_that_the_chain_names_and_to_nobody_else() {
        let (owner, other, node) = (identity(1, 2), identity(1, 3), identity(1, 9));
        let expected = owner.node.public();
        let refused = heard(&other, &node, expected, introduction(&node, 3)).await.err();
        let error = format!("{:#}", refused.expect("it is not the owner"));
        assert!(error.contains("greeting node"), "{error}");
    }

    /// C12: whoever sits between two nodes reads nothing, and changes nothing that is believed.
    #[tokio::test]
    async fn between_two_nodes_nothing_is_read_and_nothing_changed() {
        for interferes in [false, true] {
            let (owner, node) = (identity(1, 2), identity(1, 9));
            let (here, mut near) = duplex(64 * 1024);
            let (mut far, there) = duplex(64 * 1024);
            let hears = tokio::spawn(async move { hear(there, 3, &owner).await });
            let expected = identity(1, 2).node.public();
            let calls = channel::call(here, &node, expected);
            let mut between = Box::pin(tokio::io::copy_bidirectional(&mut near, &mut far));
            let mut stream = tokio::select! {
                it = calls => it.unwrap(),
                _ = &mut between => panic!("it ended"),
            };
            drop(between);
            send(&mut stream, &introduction(&node, 3)).await.unwrap();
            send(&mut stream, &hello()).await.unwrap();
            drop(stream);
            let mut seen = Vec::new();
            near.read_to_end(&mut seen).await.unwrap();
            assert!(!seen.windows(9).any(|it| it == b"machine-b"), "a name is read in clear");
            if interferes {
                let last = seen.len() - 1;
                seen[last / 2] ^= 1;
            }
            far.write_all(&seen).await.unwrap();
            far.shutdown().await.unwrap();
            assert_eq!(hears.await.unwrap().is_err(), interferes, "interferes: {interferes}");
        }
    }
}
