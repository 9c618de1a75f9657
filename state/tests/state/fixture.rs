//! Chains for tests: an author with real keys who writes real batches.

use schemas::envelope::Redaction;
use schemas::event::OwnerElected;
use schemas::signature::{EpochClaim, KeyPair, PublicKey, certify_node, deployment_id};
use schemas::{
    Actor, Batch, Cause, Entry, Envelope, Event, Hash, Head, Header, Kind, Ns, Positions, link,
};

/// One process that may become owner.
pub(crate) struct Author {
    root: KeyPair,
    node: KeyPair,
    epoch: KeyPair,
    name: u8,
}

/// The deployment that all authors belong to.
pub(crate) fn deployment() -> String {
    deployment_id("test", &KeyPair::from_seed(&[1; 32]).public())
}

impl Author {
    pub(crate) fn new(name: u8) -> Self {
        Author {
            root: KeyPair::from_seed(&[1; 32]),
            node: KeyPair::from_seed(&[2; 32]),
            epoch: KeyPair::from_seed(&[name + 3; 32]),
            name,
        }
    }

    /// The key of every epoch that this author opens.
    pub(crate) fn key(&self) -> PublicKey {
        self.epoch.public()
    }

    /// The batch that makes this author owner.
    pub(crate) fn elect(&self, head: &Head) -> Batch {
        let epoch = head.epoch + 1;
        let deployment = head.deployment.as_str();
        let key = self.epoch.public();
        let claim = EpochClaim { deployment, partition: head.partition, epoch, key };
        let node_signature = certify_node(&self.root, deployment, &self.node.public());
        let elected = Event::from(OwnerElected {
            epoch,
            node: format!("node-{}", self.name),
            endpoint: String::new(),
            epoch_key: key,
            certificate: claim.certify(self.root.public(), &node_signature, &self.node),
        });
        let payload = elected.encode().unwrap();
        self.sign(head, epoch, head.positions, vec![(Kind::OwnerElected, payload)])
    }

    /// A batch of `n` entries with payloads of `bytes` bytes.
    pub(crate) fn batch(&self, head: &Head, n: usize, bytes: usize) -> Batch {
        let payloads = (0..n).map(|index| (Kind::Tick, vec![index as u8; bytes])).collect();
        self.sign(head, head.epoch, head.positions, payloads)
    }

    /// As [`Author::batch`], with payloads that do not compress.
    pub(crate) fn scattered(&self, head: &Head, n: usize, bytes: usize) -> Batch {
        let block =
            |seq: u64, index: usize| Hash::of(&[&seq.to_be_bytes(), &index.to_be_bytes()]).0;
        let payload = |entry: usize| {
            let seq = head.next_seq + entry as u64;
            (0..bytes.div_ceil(32)).flat_map(|index| block(seq, index)).take(bytes).collect()
        };
        let payloads = (0..n).map(|entry| (Kind::Tick, payload(entry))).collect();
        self.sign(head, head.epoch, head.positions, payloads)
    }

    /// A batch of one entry that has taken inputs up to `positions`.
    pub(crate) fn taking(&self, head: &Head, positions: Positions) -> Batch {
        self.sign(head, head.epoch, positions, vec![(Kind::Tick, vec![self.name])])
    }

    fn sign(
        &self,
        head: &Head,
        epoch: u64,
        positions: Positions,
        payloads: Vec<(Kind, Vec<u8>)>,
    ) -> Batch {
        let wall = Ns(head.next_seq);
        let entries = (head.next_seq..).zip(payloads).map(|(seq, (kind, payload))| {
            let cause = Cause::Owner { epoch, n: seq };
            let envelope = Envelope {
                event_id: cause.event_id(&head.hash),
                kind,
                partition: head.partition,
                seq,
                key: format!("key-{seq}"),
                tick: wall,
                wall,
                actor: Actor::system("test"),
                cause,
                correlation: None,
                trace_id: None,
                priority: 5,
                ttl_ms: 0,
                redaction: Redaction::None,
                commitment: Hash::default(),
            };
            Entry::new(envelope, [self.name; 32], payload)
        });
        let header = Header {
            deployment: head.deployment.clone(),
            partition: head.partition,
            epoch,
            prev: head.hash,
            first_seq: head.next_seq,
            count: 0,
            positions,
            wall,
            body: Hash::default(),
        };
        Batch::sign(header, entries.collect(), &self.epoch)
    }
}

/// A chain of an election and `n` batches of two entries, from the empty head.
pub(crate) fn chain(author: &Author, n: usize) -> Vec<Batch> {
    let mut head = Head::genesis(&deployment(), 0);
    let mut batches = vec![author.elect(&head)];
    for _ in 0..n {
        head = link(&head, &batches[batches.len() - 1]).unwrap();
        batches.push(author.batch(&head, 2, 64));
    }
    batches
}
