//! Between a runner and an owner that is another node: the runner's own node passes on what they
//! say to each other.
//!
//! The owner gives a challenge, and the node signs it with its key, which the deployment's root
//! has certified: nobody else holds a conversation in a runner's name, whoever reaches the port.
//! What is said is checked where it always is: the runner verifies every proof, and the owner
//! every result. Leases, mode epochs and their confirmations carry no signature of their own;
//! for those, node and network between the two are trusted as the Unix socket is.
//!
//! The relay ends when office moves or either side ends it; the runner calls again, and whoever
//! is in office then is asked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use runner::wire::{FromRunner, Reader, ToRunner, send};
use schemas::ids::{hex, unhex};
use schemas::signature::{PublicKey, certifies_node, signature_from_text, signature_text};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::conversation::{self, Called, Office};
use crate::http::App;
use crate::http::api::problem;
use crate::keys::Identity;
use crate::node::parts::Part;

/// Where a node takes the conversations of other nodes' runners.
pub const PATH: &str = "/api/v1/runners";
/// What the connection is turned into. Version 1 of the messages of `runner::wire`.
const PROTOCOL: &str = "healwright-runner/1";
/// Domain of a node's signature over a challenge. Persisted nowhere; frozen all the same, for
/// nodes of two versions speak with each other.
const DOMAIN: &str = "healwright/relay/v1";
/// An owner that does not take the conversation within this time has failed.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// What a node needs to be believed by others, and to believe them.
#[derive(Clone)]
pub struct Link {
    /// Who this node is.
    pub identity: Arc<Identity>,
    /// The token that nodes of this deployment ask for.
    pub token: Option<String>,
}

/// What the owner asks to be signed.
#[derive(Serialize, Deserialize)]
struct Challenge {
    /// 32 bytes of chance, as hex digits.
    nonce: String,
}

/// The node's answer.
#[derive(Serialize, Deserialize)]
struct Answer {
    node: PublicKey,
    /// The root's word for that key.
    certificate: String,
    signature: String,
}

fn statement(deployment: &str, partition: u32, nonce: &str) -> Vec<u8> {
    let mut out = schemas::wire::Writer::default();
    out.text(deployment).u32(partition).text(nonce);
    out.0
}

/// Passes on between a runner that has called here and the owner, until either ends it or office
/// moves.
pub(super) async fn carry(called: Called, part: &Part, link: &Link) -> anyhow::Result<()> {
    let mut seat = part.engine.seat();
    let there = seat.borrow_and_update().clone();
    ensure!(!there.endpoint.is_empty(), "no node holds office on partition {}", part.number);
    let moved =
        async { while seat.changed().await.is_ok() && *seat.borrow_and_update() == there {} };
    tokio::select! {
        // Also while a word waits for a node that takes no more.
        () = moved => Ok(()),
        ended = exchange(called, &there.endpoint, part.number, link) => ended,
    }
}

async fn exchange(
    mut called: Called,
    endpoint: &str,
    partition: u32,
    link: &Link,
) -> anyhow::Result<()> {
    let reached = tokio::time::timeout(REACHED_WITHIN, reach(endpoint, partition, link));
    let owner = reached.await.with_context(|| format!("{endpoint} does not answer"))?;
    let (from_owner, mut to_owner) = tokio::io::split(owner?);
    let mut from_owner = Reader::new(from_owner);
    answer_challenge(&mut from_owner, &mut to_owner, partition, link).await?;
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

/// A connection to the owner that has been turned into a conversation.
async fn reach(
    endpoint: &str,
    partition: u32,
    link: &Link,
) -> anyhow::Result<TokioIo<hyper::upgrade::Upgraded>> {
    let stream = TcpStream::connect(endpoint).await.with_context(|| format!("to {endpoint}"))?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = shaken.await.context("speaking HTTP")?;
    // Its end is noticed by whoever reads.
    tokio::spawn(connection.with_upgrades());
    let mut request = hyper::Request::get(format!("{PATH}?partition={partition}"))
        .header(header::HOST, endpoint)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL);
    if let Some(token) = &link.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).context("writing the request")?;
    let response = sender.send_request(request).await.context("asking the owner")?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        bail!("{endpoint} answers {} instead of taking the runner", response.status());
    }
    let upgraded = hyper::upgrade::on(response).await.context("taking the connection over")?;
    Ok(TokioIo::new(upgraded))
}

async fn answer_challenge<R, W>(
    from: &mut Reader<R>,
    to: &mut W,
    partition: u32,
    link: &Link,
) -> anyhow::Result<()>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let asked = tokio::time::timeout(REACHED_WITHIN, from.next::<Challenge>());
    let Some(Challenge { nonce }) = asked.await.context("waiting for the challenge")?? else {
        bail!("the owner gives no challenge");
    };
    let Identity { deployment, node, .. } = &*link.identity;
    let signature = node.sign(DOMAIN, &statement(deployment, partition, &nonce));
    let answer = Answer {
        node: node.public(),
        certificate: link.identity.node_certificate().to_owned(),
        signature: signature_text(&signature),
    };
    Ok(send(to, &answer).await?)
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
    let Some((part, link)) = app.0.parts.get(which.partition).zip(app.0.link.clone()) else {
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
            listen(TokioIo::new(upgraded), part, &link.identity).await
        };
        if let Err(error) = held.await {
            tracing::debug!(error = format!("{error:#}"), "a relayed conversation ended");
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn listen<S>(stream: S, part: Part, own: &Identity) -> anyhow::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (from, mut to) = tokio::io::split(stream);
    let mut from = Reader::new(from);
    let mut chance = [0; 32];
    getrandom::fill(&mut chance).context("reading randomness for a challenge")?;
    let nonce = hex(&chance);
    send(&mut to, &Challenge { nonce: nonce.clone() }).await?;
    let answered = tokio::time::timeout(REACHED_WITHIN, from.next::<Answer>());
    let Some(answer) = answered.await.context("waiting for the answer")?? else {
        bail!("it hung up");
    };
    if !is_of_deployment(&answer, own, part.number, &nonce) {
        metrics::counter!("healwright_runners_refused_total").increment(1);
        bail!("{} is no node of this deployment (C12)", answer.node.id());
    }
    let heard = tokio::time::timeout(REACHED_WITHIN, conversation::hear(from, to));
    let called = heard.await.context("waiting for the runner's first word")??;
    let deployment = own.deployment.clone();
    conversation::hold(called, Office { part, deployment }).await
}

/// Whether a node that the root has certified has signed this very challenge.
fn is_of_deployment(answer: &Answer, own: &Identity, partition: u32, nonce: &str) -> bool {
    let said = statement(&own.deployment, partition, nonce);
    let signature = signature_from_text(&answer.signature);
    unhex::<32>(nonce).is_some()
        && certifies_node(&own.root, &own.deployment, &answer.node, &answer.certificate)
        && signature.is_some_and(|it| answer.node.verify(DOMAIN, &said, &it))
}

#[cfg(test)]
mod tests {
    use schemas::signature::KeyPair;

    use super::*;

    fn identity(root: u8, node: u8) -> Identity {
        let (root, node) = (KeyPair::from_seed(&[root; 32]), KeyPair::from_seed(&[node; 32]));
        Identity::new("local", "a", &root, node)
    }

    fn answer(of: &Identity, partition: u32, nonce: &str) -> Answer {
        let signature = of.node.sign(DOMAIN, &statement(&of.deployment, partition, nonce));
        let certificate = of.node_certificate().to_owned();
        Answer { node: of.node.public(), certificate, signature: signature_text(&signature) }
    }

    /// C12: who is not certified, or repeats what was signed for another occasion, is not let in.
    #[test]
    fn only_a_certified_node_that_signs_this_challenge_may_speak_for_a_runner() {
        let own = identity(1, 2);
        let [nonce, other] = [hex(&[7; 32]), hex(&[8; 32])];
        let told = |it: &Answer| is_of_deployment(it, &own, 3, &nonce);
        assert!(told(&answer(&identity(1, 9), 3, &nonce)));
        assert!(!told(&answer(&identity(1, 9), 3, &other)), "an answer to another challenge");
        assert!(!told(&answer(&identity(1, 9), 4, &nonce)), "an answer for another partition");
        assert!(!told(&answer(&identity(5, 9), 3, &nonce)), "a node of another deployment");
        let mut borrowed = answer(&identity(1, 9), 3, &nonce);
        borrowed.certificate = own.node_certificate().to_owned();
        assert!(!told(&borrowed), "a certificate of another key");
    }
}
