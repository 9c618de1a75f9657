//! Records that no honest process writes, between good ones.

use healwright::engine::Input;
use schemas::envelope::Redaction;
use schemas::event::{
    ChangeKind, ChangeObserved, FreezeCommand, FreezeVerb, OwnerElected, Series, TelemetrySample,
    Tick,
};
use schemas::signature::{EpochClaim, KeyPair, certify_node};
use schemas::{Actor, Batch, Cause, Entry, Envelope, Event, Hash, Head, Header, Kind, Ns};

use crate::foreign::Chain;

/// A broker takes at most 1,048,588 bytes at once unless it is told otherwise.
const NEARLY_TOO_LARGE: usize = 1_048_400;

/// A change as the API writes it into the inbox.
pub(crate) fn change(id: &str, summary: String) -> Vec<u8> {
    let change = ChangeObserved {
        id: id.to_owned(),
        service: "api".to_owned(),
        kind: ChangeKind::Deploy,
        version: "1".to_owned(),
        reference: String::new(),
        author: String::new(),
        summary,
        at: None,
    };
    Input::new(Actor::system("stranger"), "api", change).encode().unwrap()
}

/// A freeze that has the right form and nobody's signature.
pub(crate) fn freeze(nonce: &str) -> Vec<u8> {
    let freeze = FreezeCommand {
        scope: "deployment".to_owned(),
        command: FreezeVerb::Freeze,
        signer_id: "nobody".to_owned(),
        reason: "a test".to_owned(),
        signature: "00".repeat(64),
        audit_confirmation: None,
        signers: Vec::new(),
        nonce: nonce.to_owned(),
    };
    Input::new(Actor::system("stranger"), "deployment", freeze).encode().unwrap()
}

/// One sample.
pub(crate) fn sample(n: u64) -> Vec<u8> {
    let key = "p95_ms".to_owned();
    let (service, host) = ("api".to_owned(), "host-1".to_owned());
    let sample = TelemetrySample {
        source: "stranger".to_owned(),
        exporter: String::new(),
        series: vec![Series { service, host, key, labels: Default::default() }],
        series_idx: vec![0],
        ts_ns: vec![1_800_000_000_000_000_000 + n],
        value: vec![42.0],
        snapshot: None,
    };
    Event::from(sample).encode().unwrap()
}

/// Ways in which a record of a stream may be wrong, where `good` is a right one.
pub(crate) fn wrong(good: &[u8]) -> Vec<Vec<u8>> {
    let garbage = b"\x00\xff\xfe no record of ours \x00".to_vec();
    let longer = [good, b"!"].concat();
    let mut unknown = good.to_vec();
    // Behind the format mark: the first byte of a name, or of a fingerprint.
    unknown[8] ^= 1;
    let shorter = good[..good.len() / 2].to_vec();
    vec![garbage.clone(), Vec::new(), shorter, longer, unknown, garbage, noise(NEARLY_TOO_LARGE)]
}

/// Bytes that no compression makes fewer.
fn noise(n: usize) -> Vec<u8> {
    let block = |it: usize| Hash::of(&[b"noise", &it.to_be_bytes()]).0;
    (0..n.div_ceil(32)).flat_map(block).take(n).collect()
}

/// Records for the journal's topic that are not in its chain.
pub(crate) fn forgeries(chain: &Chain) -> Vec<Vec<u8>> {
    let last = chain.batches.last().unwrap().encode();
    let mut flipped = last.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut records = wrong(&last);
    let tick = Event::from(Tick { partition: 0, now: Ns(1) }).encode().unwrap();
    let successor = forge(&chain.head, chain.head.epoch, Kind::Tick, tick);
    let elected = election(chain, &stranger());
    let usurper = forge(&chain.head, chain.head.epoch + 1, Kind::OwnerElected, elected);
    records.extend([last, flipped, successor.encode(), usurper.encode()]);
    records
}

fn stranger() -> KeyPair {
    KeyPair::from_seed(&[9; 32])
}

/// A certified election that names a batch which nobody else has read: somebody follows another
/// history.
pub(crate) fn contradiction(chain: &Chain, root: &KeyPair) -> Vec<u8> {
    let elsewhere = Hash::of(&[b"another history"]);
    let next_seq = chain.head.next_seq + 1000;
    let head = Head { hash: elsewhere, next_seq, ..chain.head.clone() };
    let elected = election(chain, root);
    forge(&head, head.epoch + 1, Kind::OwnerElected, elected).encode()
}

/// An election of a stranger's node under `root`.
fn election(chain: &Chain, root: &KeyPair) -> Vec<u8> {
    let (deployment, epoch) = (&chain.head.deployment, chain.head.epoch + 1);
    let key = stranger().public();
    let claim = EpochClaim { deployment, partition: chain.head.partition, epoch, key };
    let node_signature = certify_node(root, deployment, &key);
    let certificate = claim.certify(root.public(), &node_signature, &stranger());
    let (node, endpoint) = ("usurper".to_owned(), "http://127.0.0.1:1".to_owned());
    let elected = OwnerElected { epoch, node, endpoint, epoch_key: key, certificate };
    Event::from(elected).encode().unwrap()
}

/// A batch that continues the chain at `head` in everything but who signed it.
fn forge(head: &Head, epoch: u64, kind: Kind, payload: Vec<u8>) -> Batch {
    let cause = Cause::Owner { epoch, n: 0 };
    let envelope = Envelope {
        event_id: cause.event_id(&head.hash),
        kind,
        partition: head.partition,
        seq: head.next_seq,
        key: "0".to_owned(),
        tick: Ns(1),
        wall: Ns(1),
        actor: Actor::system("owner"),
        cause,
        correlation: None,
        trace_id: None,
        priority: 5,
        ttl_ms: 0,
        redaction: Redaction::None,
        commitment: Hash::default(),
    };
    let header = Header {
        deployment: head.deployment.clone(),
        partition: head.partition,
        epoch,
        prev: head.hash,
        first_seq: head.next_seq,
        count: 0,
        positions: head.positions,
        wall: Ns(1),
        body: Hash::default(),
    };
    Batch::sign(header, vec![Entry::new(envelope, [0; 32], payload)], &stranger())
}
