//! A small deployment with all its keys, whose chain grows batch by batch.

use std::collections::BTreeMap;

use ledger::bundle::{self, Contents};
use ledger::{Checkpoint, EntryProof, EpochKey, Files, TileId, Tree, proof};
use schemas::event::{
    AnnotationAdded, AnnotationKind, ConfigActivated, ConfigKind, InputRefused, OwnerElected,
    TelemetrySealed,
};
use schemas::link::genesis;
use schemas::signature::{EpochClaim, KeyPair, certify_node, deployment_id};
use schemas::{
    Actor, Batch, Cause, Entry, Envelope, Event, Hash, Head, Header, Ns, Positions, Uuid, envelope,
    link,
};

/// Numbers that look random and are the same in every run (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Whether the full bar was asked for.
pub(crate) fn full() -> bool {
    std::env::var_os("HEALWRIGHT_FULL").is_some()
}

/// Which part of a full bar runs here: `HEALWRIGHT_SHARD=3/64` is the part after the third of 64,
/// so that several machines or evenings share what takes one core hours. All of it without.
fn shard() -> (usize, usize) {
    let text = std::env::var("HEALWRIGHT_SHARD").unwrap_or_default();
    let parts = text.split_once('/').map(|(at, of)| (at.parse().unwrap(), of.parse().unwrap()));
    parts.unwrap_or((0, 1))
}

/// Runs `each` on the items of this shard, on every core.
pub(crate) fn in_parallel<T: Sync>(items: &[T], each: impl Fn(&T) + Sync) {
    let (shard, n_shards) = shard();
    let own: Vec<&T> = items.iter().skip(shard).step_by(n_shards).collect();
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = &each;
    std::thread::scope(|scope| {
        for part in own.chunks(own.len().div_ceil(n_threads).max(1)) {
            scope.spawn(move || part.iter().for_each(|item| each(item)));
        }
    });
}

/// A log with its owner's keys.
pub(crate) struct Log {
    pub(crate) deployment: String,
    pub(crate) partition: u32,
    pub(crate) head: Head,
    pub(crate) tree: Tree,
    pub(crate) tiles: BTreeMap<TileId, Vec<u8>>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) epochs: Vec<EpochKey>,
    pub(crate) telemetry: BTreeMap<u64, Vec<u8>>,
    root: KeyPair,
    node: KeyPair,
    epoch: KeyPair,
    seed: u8,
}

impl Log {
    /// A log in which the first epoch has just begun.
    pub(crate) fn new(seed: u8) -> Self {
        Log::of(seed, 0)
    }

    /// A partition of the deployment of `seed`, in which the first epoch has just begun.
    pub(crate) fn of(seed: u8, partition: u32) -> Self {
        let root = KeyPair::from_seed(&[seed; 32]);
        let deployment = deployment_id("shop", &root.public());
        let mut log = Log {
            head: Head::genesis(&deployment, partition),
            deployment,
            partition,
            tree: Tree::new(),
            tiles: BTreeMap::new(),
            batches: Vec::new(),
            epochs: Vec::new(),
            telemetry: BTreeMap::new(),
            root,
            node: KeyPair::from_seed(&[seed ^ 0x55; 32]),
            epoch: KeyPair::from_seed(&[0; 32]),
            seed,
        };
        log.elect();
        log
    }

    /// A log with `batches` batches of `n` entries each after the election.
    pub(crate) fn with(seed: u8, batches: usize, n: usize) -> Self {
        let mut log = Log::new(seed);
        for _ in 0..batches {
            log.append(n);
        }
        log
    }

    /// A new epoch by the same node.
    pub(crate) fn elect(&mut self) {
        let elected = self.election();
        self.epochs.push(EpochKey::elected(&self.deployment, self.partition, &elected));
        let (epoch, entry) = (elected.epoch, self.entry(0, &Event::from(elected)));
        self.commit(epoch, vec![entry]);
    }

    /// Takes the key of the next epoch and introduces it.
    pub(crate) fn election(&mut self) -> OwnerElected {
        let epoch = self.head.epoch + 1;
        self.epoch = epoch_pair(self.seed, epoch);
        let key = self.epoch.public();
        let claim =
            EpochClaim { deployment: &self.deployment, partition: self.partition, epoch, key };
        let node_signature = certify_node(&self.root, &self.deployment, &self.node.public());
        let certificate = claim.certify(self.root.public(), &node_signature, &self.node);
        let (node, endpoint) = ("node-a".to_owned(), "unix:run/api.sock".to_owned());
        OwnerElected { epoch, node, endpoint, epoch_key: key, certificate }
    }

    /// A batch of `n` entries.
    pub(crate) fn append(&mut self, n: usize) {
        let entries = (0..n as u64).map(|at| self.refused(at)).collect();
        self.commit(self.head.epoch, entries);
    }

    /// A batch that seals a range of telemetry.
    pub(crate) fn seal(&mut self) {
        let from = self.head.positions.telemetry;
        let records = [b"\0\0\0\x03abc".to_vec(), vec![0, 0, 0, 1, 7]].concat();
        let sealed = TelemetrySealed {
            from,
            to: from + 2,
            digest: Hash::of(&[&records]).to_digest(),
            n_samples: 2,
        };
        self.telemetry.insert(from, records);
        let entry = self.entry(0, &Event::from(sealed));
        self.head.positions.telemetry += 2;
        let to = self.head.positions;
        self.head.positions.telemetry -= 2;
        let batch = self.sign(self.head.epoch, vec![entry], to);
        self.push(batch);
    }

    /// A batch that registers the runner of host `h<number>`, whose key is that of the witness of
    /// this number.
    pub(crate) fn register(&mut self, number: u8) {
        let key = witness_pair(number).public();
        let body = format!(r#"{{"host":"h{number}","key":"{key}","sandbox":["bwrap"]}}"#);
        let config = ConfigActivated {
            kind: ConfigKind::Policy,
            name: format!("runner/h{number}"),
            version: 1,
            digest: ConfigActivated::digest_of(&body),
            approved_by: "operator".to_owned(),
            audit_log_id: None,
            body: Some(body),
            signature: None,
        };
        let entry = self.entry(0, &Event::from(config));
        self.commit(self.head.epoch, vec![entry]);
    }

    /// A batch that annotates the first entry.
    pub(crate) fn annotate(&mut self) {
        let annotation = AnnotationAdded {
            id: Uuid::default(),
            log_id: envelope::reference(self.partition, 0),
            kind: AnnotationKind::Correction,
            author: "operator".to_owned(),
            data: "it was another node".to_owned(),
            created_at: Ns(1),
        };
        let entry = self.entry(0, &Event::from(annotation));
        self.commit(self.head.epoch, vec![entry]);
    }

    fn refused(&self, at: u64) -> Entry {
        let seq = self.head.next_seq + at;
        let refused = InputRefused {
            stream: "inbox".to_owned(),
            position: seq,
            reason: format!("reason {}", "x".repeat((seq % 23) as usize)),
            digest: Hash::of(&[&seq.to_be_bytes()]).to_digest(),
        };
        self.entry(at, &Event::from(refused))
    }

    /// An entry at `at` places after the head.
    pub(crate) fn entry(&self, at: u64, event: &Event) -> Entry {
        let seq = self.head.next_seq + at;
        let cause = Cause::Owner { epoch: self.head.epoch, n: seq };
        let envelope = Envelope {
            event_id: cause.event_id(&genesis(&self.deployment, self.partition)),
            kind: event.kind(),
            partition: self.partition,
            seq,
            key: format!("key-{}", seq % 7),
            tick: Ns(1_000 * seq),
            wall: Ns(1_700_000_000_000_000_000 + seq),
            actor: Actor::system("engine"),
            cause,
            correlation: seq.is_multiple_of(3).then(|| format!("inc-{seq:08x}")),
            trace_id: None,
            priority: 5,
            ttl_ms: 0,
            redaction: envelope::Redaction::None,
            commitment: Hash::default(),
        };
        let salt = Hash::of(&[&[self.seed], &seq.to_be_bytes()]).0;
        Entry::new(envelope, salt, event.encode().unwrap())
    }

    /// `entries` as the next batch, signed and not yet linked.
    pub(crate) fn sign(&self, epoch: u64, entries: Vec<Entry>, positions: Positions) -> Batch {
        let header = Header {
            deployment: self.deployment.clone(),
            partition: self.partition,
            epoch,
            prev: self.head.hash,
            first_seq: self.head.next_seq,
            count: 0,
            positions,
            wall: Ns(1_700_000_000_000_000_000),
            body: Hash::default(),
        };
        Batch::sign(header, entries, &self.epoch)
    }

    fn commit(&mut self, epoch: u64, entries: Vec<Entry>) {
        let mut positions = self.head.positions;
        positions.inbox += entries.len() as u64;
        let batch = self.sign(epoch, entries, positions);
        self.push(batch);
    }

    fn push(&mut self, batch: Batch) {
        self.head = link(&self.head, &batch).unwrap();
        batch.entries.iter().for_each(|entry| self.tree.push(entry.leaf()));
        self.tiles.extend(self.tree.take_full_tiles());
        self.batches.push(batch);
    }

    pub(crate) fn tile(&self, id: TileId) -> Option<Vec<u8>> {
        self.tiles.get(&id).cloned()
    }

    /// The head at `size`, signed by the epoch that is in office.
    pub(crate) fn checkpoint(&self, size: u64) -> ledger::Note {
        let root = self.tree.root_at(size, &|id| self.tile(id)).unwrap();
        self.sign_head(size, root)
    }

    /// Whatever head somebody wants, signed by the epoch that is in office.
    pub(crate) fn sign_head(&self, size: u64, root: Hash) -> ledger::Note {
        let checkpoint = Checkpoint::new(&self.deployment, self.partition, size, root);
        checkpoint.sign(self.head.epoch, &self.epoch).unwrap()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.batches.iter().flat_map(|batch| &batch.entries)
    }

    /// The entry at `seq` with its proof under the head of the whole log.
    pub(crate) fn prove(&self, seq: u64) -> (Vec<u8>, EntryProof) {
        let size = self.tree.size();
        let path = proof::inclusion(&self.tree, seq, size, &|id| self.tile(id)).unwrap();
        let entry = self.entries().nth(seq as usize).unwrap().to_bytes();
        let checkpoint = self.checkpoint(size).encode();
        let epoch_key = self.epochs.last().unwrap().clone();
        (entry, EntryProof { index: seq, size, path, checkpoint, epoch_key })
    }

    /// The export of the whole log.
    pub(crate) fn bundle(&self) -> Files {
        self.bundle_with(self.checkpoint(self.tree.size()).encode(), None)
    }

    pub(crate) fn bundle_with(&self, checkpoint: Vec<u8>, witnessed: Option<Vec<u8>>) -> Files {
        bundle::build(Contents {
            deployment: &self.deployment,
            partition: self.partition,
            batches: &mut self.batches.iter().map(Batch::encode),
            checkpoint,
            witnessed,
            telemetry: self.telemetry.clone(),
        })
        .unwrap()
    }
}

/// The key pair of an epoch of the log of `seed`.
pub(crate) fn epoch_pair(seed: u8, epoch: u64) -> KeyPair {
    KeyPair::from_seed(&Hash::of(&[b"epoch", &[seed], &epoch.to_be_bytes()]).0)
}

/// A key pair of a witness, by its number.
pub(crate) fn witness_pair(number: u8) -> KeyPair {
    KeyPair::from_seed(&[200 + number; 32])
}
