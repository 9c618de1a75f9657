//! A deployment in miniature: keys from fixed seeds, and the batches that link or do not.

use schemas::envelope::Redaction;
use schemas::event::{OwnerElected, Tick};
use schemas::signature::{EpochClaim, KeyPair, certify_node, deployment_id};
use schemas::{Actor, Batch, Cause, Entry, Envelope, Event, Hash, Head, Header, Ns, Uuid, link};

pub(crate) const PARTITION: u32 = 0;

/// The keys of one deployment.
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) root: KeyPair,
    pub(crate) node: KeyPair,
}

/// A key pair of a fixed seed.
pub(crate) fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

impl Deployment {
    pub(crate) fn new() -> Self {
        let root = key(1);
        Deployment { id: deployment_id("test", &root.public()), root, node: key(2) }
    }

    pub(crate) fn genesis(&self) -> Head {
        Head::genesis(&self.id, PARTITION)
    }

    /// The entry that introduces `epoch_key` for `epoch`.
    pub(crate) fn election(&self, epoch: u64, epoch_key: &KeyPair) -> Event {
        let node_signature = certify_node(&self.root, &self.id, &self.node.public());
        let claim = EpochClaim {
            deployment: &self.id,
            partition: PARTITION,
            epoch,
            key: epoch_key.public(),
        };
        Event::from(OwnerElected {
            epoch,
            node: "node-a".to_owned(),
            endpoint: String::new(),
            epoch_key: epoch_key.public(),
            certificate: claim.certify(self.root.public(), &node_signature, &self.node),
        })
    }

    /// A chain with an owner: genesis, and the batch that elected epoch 1 under `key(11)`.
    pub(crate) fn elected(&self) -> (Head, Batch) {
        let draft = Draft::after(&self.genesis()).epoch(1).says(&self.election(1, &key(11)));
        let batch = draft.sign(&key(11));
        (link(&self.genesis(), &batch).unwrap(), batch)
    }
}

/// A batch that is about to be signed, correct until a test makes it not so.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) header: Header,
    pub(crate) entries: Vec<Entry>,
}

impl Draft {
    /// A correct successor of `head`, still without entries.
    pub(crate) fn after(head: &Head) -> Self {
        let header = Header {
            deployment: head.deployment.clone(),
            partition: head.partition,
            epoch: head.epoch,
            prev: head.hash,
            first_seq: head.next_seq,
            count: 0,
            positions: head.positions,
            wall: Ns::from_s(1_700_000_000),
            body: Hash::default(),
        };
        Draft { header, entries: Vec::new() }
    }

    pub(crate) fn epoch(mut self, epoch: u64) -> Self {
        self.header.epoch = epoch;
        self
    }

    pub(crate) fn says(mut self, event: &Event) -> Self {
        let seq = self.header.first_seq + self.entries.len() as u64;
        let mut envelope = envelope(event, seq);
        envelope.partition = self.header.partition;
        self.entries.push(Entry::new(envelope, [seq as u8; 32], event.encode().unwrap()));
        self
    }

    pub(crate) fn ticks(self, n: u64) -> Self {
        (0..n).fold(self, |draft, n| draft.says(&tick(n)))
    }

    pub(crate) fn sign(&self, key: &KeyPair) -> Batch {
        Batch::sign(self.header.clone(), self.entries.clone(), key)
    }
}

pub(crate) fn tick(n: u64) -> Event {
    Event::from(Tick { partition: PARTITION, now: Ns::from_ms(250 * n) })
}

/// An ordinary envelope around `event`.
pub(crate) fn envelope(event: &Event, seq: u64) -> Envelope {
    Envelope {
        event_id: Uuid::named("test", &[&seq.to_be_bytes()]),
        kind: event.kind(),
        partition: PARTITION,
        seq,
        key: "0".to_owned(),
        tick: Ns::from_s(1),
        wall: Ns(1_772_366_400_000_000_001),
        actor: Actor::system("owner"),
        cause: Cause::Owner { epoch: 1, n: seq },
        correlation: None,
        trace_id: None,
        priority: 5,
        ttl_ms: 0,
        redaction: Redaction::None,
        commitment: Hash::default(),
    }
}
