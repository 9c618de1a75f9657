//! Durable appends of 512-byte payloads, chained and in the tree, against what the same disk
//! fdatasyncs in writes of the same 1,024 × 512 bytes. Rounds of both alternate, so that a disk
//! whose speed drifts drifts for both.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use schemas::batch::Header;
use schemas::envelope::Redaction;
use schemas::signature::{EpochClaim, KeyPair};
use schemas::{Actor, Batch, Cause, Entry, Envelope, Event, Hash, Head, Kind, Ns, Uuid};
use serde_json::json;
use state::embedded::EmbeddedLog;
use state::{Append, Log as _, State};

use super::{Folder, Measured, identity};
use crate::engine::heads::Heads;
use crate::engine::{AHEAD, wall_now};
use crate::node::PARTITION;
use crate::words;

/// Records in a batch.
const BATCH: u64 = 1024;
/// Bytes of a record's payload.
const PAYLOAD: usize = 512;
/// One round of either.
const ROUND: Duration = Duration::from_millis(1500);
/// Rounds of each.
const ROUNDS: usize = 5;

pub(super) fn run() -> anyhow::Result<Measured> {
    let folder = Folder::new("bench-journal")?;
    let mut journal = Journal::open(&folder)?;
    let mut file = File::create(folder.path().join("ceiling")).context("creating a file")?;
    let (mut ours, mut ceiling, mut latencies) = (0.0, 0.0, Vec::new());
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let disk = fdatasync_rate(&mut file)?;
        let rate = journal.round(&mut latencies)?;
        (ours, ceiling) = (ours + rate, ceiling + disk);
        ratios.push(rate / disk);
    }
    ratios.sort_by(f64::total_cmp);
    latencies.sort_by(f64::total_cmp);
    let (ours, ceiling) = (ours / ROUNDS as f64, ceiling / ROUNDS as f64);
    let ratio = ratios[ROUNDS / 2];
    let p99 = latencies[latencies.len() * 99 / 100];
    let figures = json!({
        "schema": "healwright.bench.journal.v1",
        "ratio": ratio,
        "ratios": ratios,
        "records_per_s": ours,
        "ceiling_records_per_s": ceiling,
        "batch": BATCH, "payload_bytes": PAYLOAD, "append_p99_s": p99,
    });
    let lines = vec![
        format!("{ours:.0} records/s durable, chained, signed and in the tree"),
        format!("{ceiling:.0} records/s are fdatasynced bare, in the same batches"),
        format!("ratio {ratio:.2} (median of {ROUNDS} pairs); append p99 {}", words::span(p99)),
    ];
    Ok((figures, lines))
}

fn fdatasync_rate(file: &mut File) -> anyhow::Result<f64> {
    let block = vec![0x5a; PAYLOAD * BATCH as usize];
    let (began, mut n) = (Instant::now(), 0);
    while began.elapsed() < ROUND {
        file.write_all(&block).context("writing")?;
        file.sync_data().context("syncing")?;
        n += BATCH;
    }
    Ok(n as f64 / began.elapsed().as_secs_f64())
}

struct Journal {
    log: std::sync::Arc<EmbeddedLog>,
    state: State,
    heads: Heads,
    head: Head,
    key: KeyPair,
    payload: Vec<u8>,
}

impl Journal {
    fn open(folder: &Folder) -> anyhow::Result<Self> {
        let identity = identity();
        let dir = folder.path().join("data");
        let log = EmbeddedLog::open(&dir, &identity.deployment, PARTITION)?;
        let log = std::sync::Arc::new(log);
        let (state, key) = (State::new(log.clone())?, KeyPair::from_seed(&[3; 32]));
        let heads = Heads::open(&folder.path().join("head"), None)?;
        let payload = (0..PAYLOAD).map(|at| at as u8).collect();
        let head = log.head()?;
        let mut journal = Journal { log, state, heads, head, key, payload };
        let deployment = journal.head.deployment.clone();
        let (partition, epoch) = (PARTITION, 1);
        let claim =
            EpochClaim { deployment: &deployment, partition, epoch, key: journal.key.public() };
        let elected = schemas::event::OwnerElected {
            epoch,
            node: "bench".to_owned(),
            endpoint: String::new(),
            epoch_key: claim.key,
            certificate: identity.certify(&claim),
        };
        let epoch_key = ledger::EpochKey::elected(&deployment, PARTITION, &elected);
        let payload = Event::from(elected).encode()?;
        let entry = entry(Kind::OwnerElected, 0, payload);
        journal.begin(vec![entry])?;
        journal.heads.epoch(epoch_key);
        Ok(journal)
    }

    /// Records per second over one round; what each batch took from its beginning until it was
    /// durable and read back goes to `latencies`.
    fn round(&mut self, latencies: &mut Vec<f64>) -> anyhow::Result<f64> {
        let (began, mut n) = (Instant::now(), 0);
        let mut begun = VecDeque::new();
        while began.elapsed() < ROUND || !begun.is_empty() {
            let more = began.elapsed() < ROUND;
            if more {
                let first = self.head.next_seq;
                let entries = (first..first + BATCH)
                    .map(|seq| entry(Kind::AnnotationAdded, seq, self.payload.clone()))
                    .collect();
                begun.push_back((Instant::now(), first + BATCH));
                self.begin(entries)?;
                n += BATCH;
            }
            // As the engine does while more is waiting; a round ends when all is durable.
            while (if more { AHEAD } else { 0 }) < begun.len() {
                let Some((start, next_seq)) = begun.pop_front() else { break };
                self.log.settle(next_seq)?;
                latencies.push(start.elapsed().as_secs_f64());
            }
            self.heads.sign(&*self.log, &self.head, &self.key, wall_now(), false)?;
        }
        Ok(n as f64 / began.elapsed().as_secs_f64())
    }

    fn begin(&mut self, entries: Vec<Entry>) -> anyhow::Result<()> {
        let header = Header {
            deployment: self.head.deployment.clone(),
            partition: PARTITION,
            epoch: 1,
            prev: self.head.hash,
            first_seq: self.head.next_seq,
            count: 0,
            positions: self.head.positions,
            wall: wall_now(),
            body: Hash::default(),
        };
        let leaves: Vec<Hash> = entries.iter().map(Entry::leaf).collect();
        self.heads.grow(&leaves, &mut self.state);
        let batch = Batch::sign_leaves(header, entries, leaves, &self.key);
        match self.log.begin(&self.head, &batch, &self.state.changes())? {
            Append::Appended(head) => self.head = head,
            Append::Lost(_) => bail!("somebody else appends to the bench's log"),
        }
        self.state.commit();
        Ok(())
    }
}

fn entry(kind: Kind, seq: u64, payload: Vec<u8>) -> Entry {
    let envelope = Envelope {
        event_id: Uuid::default(),
        kind,
        partition: PARTITION,
        seq,
        key: "bench".to_owned(),
        tick: Ns(1),
        wall: Ns(1),
        actor: Actor::system("bench"),
        cause: Cause::Owner { epoch: 1, n: seq },
        correlation: None,
        trace_id: None,
        priority: 5,
        ttl_ms: 0,
        redaction: Redaction::None,
        commitment: Hash::default(),
    };
    Entry::new(envelope, [7; 32], payload)
}
