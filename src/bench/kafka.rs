//! Telemetry that lies on a cluster, through seal, detection and the journal: what a node does
//! with it, one owner for each partition, over a topic that somebody has filled.
//!
//! The topic is `PREFIXtelemetry`, so the prefix says which. `benches/peers/run.sh` fills it and
//! runs others over the same.

mod decided;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use schemas::avro;
use schemas::event::Series;
use schemas::{Batch, Positions};
use serde_json::json;
use state::Store as _;
use state::checkpoint::Checkpoint;
use state::embedded::EmbeddedLog;
use state::kafka::watch::Onlooker;
use state::kafka::{Cluster, KafkaLog};
use topologies::detection;

use super::{Folder, Measured, identity};
use crate::checkpoints::{self, Depot, start};
use crate::cli;
use crate::engine::heads::Heads;
use crate::engine::owner::{Office, Owner};
use crate::engine::stages::Stage;
use crate::engine::{EngineError, wall_now};
use crate::keys::Identity;
use crate::node::os_chance;
use crate::parallel;

pub(super) fn run(cluster: &Cluster, args: &cli::Bench) -> anyhow::Result<Measured> {
    let folder = Folder::new("kafka")?;
    cluster.prepare(Some(args.partitions), &[])?;
    let brokers = Processes::parse(&args.broker_pids)?;
    let mut lanes = Vec::new();
    for partition in 0..args.partitions {
        let dir = folder.path().join(partition.to_string());
        lanes.push(Lane::open(cluster, &dir, partition)?);
    }
    let warm = args.warmup / u64::from(args.partitions.max(1));
    drain(&mut lanes, warm)?;
    lanes.iter_mut().for_each(|it| it.appends.clear());
    let (began, cpu) = (Instant::now(), super::telemetry::process_cpu_s());
    let brokers_cpu = brokers.cpu_s()?;
    let samples = drain(&mut lanes, u64::MAX)?;
    anyhow::ensure!(
        samples > 0,
        "nothing is left to measure: the topic holds {} samples or fewer",
        args.warmup
    );
    let wall_s = began.elapsed().as_secs_f64();
    let cpu_s = super::telemetry::process_cpu_s() - cpu;
    let broker_cpu_s = brokers.cpu_s()? - brokers_cpu;
    let peak_rss_mb = super::memory_mb("/proc/self/status", "VmHWM:")?;
    let mut appends: Vec<Duration> = lanes.iter().flat_map(|it| it.appends.clone()).collect();
    let batches = appends.len();
    let state = digest(&mut lanes, args.series);
    let restored = restore(lanes, folder.path())?;
    let decided_in = folder.path().join("decided");
    let mut decided = decided::measure(&cluster.beside("decided."), &decided_in)?;
    let millions = samples as f64 / 1e6;
    let [decided_p50_ms, decided_p99_ms] = [0.5, 0.99].map(|it| quantile_ms(&mut decided, it));
    let figures = json!({
        "schema": "healwright.bench.kafka.v1",
        "contender": "healwright",
        "samples": samples, "partitions": args.partitions, "batches": batches,
        "wall_s": wall_s, "cpu_s": cpu_s, "samples_per_s": samples as f64 / wall_s,
        "cpu_s_per_million": cpu_s / millions,
        "broker_cpu_s": broker_cpu_s, "broker_cpu_s_per_million": broker_cpu_s / millions,
        "peak_rss_mb": peak_rss_mb,
        "commit_p50_ms": quantile_ms(&mut appends, 0.5),
        "commit_p99_ms": quantile_ms(&mut appends, 0.99),
        "decided_p50_ms": decided_p50_ms, "decided_p99_ms": decided_p99_ms,
        "restore_s": restored.s, "restore_mb": restored.mb,
        "restore_mb_per_s": restored.mb / restored.s,
        "state": format!("{state:016x}"),
    });
    let lines = vec![
        format!(
            "{samples} samples on {} partitions, sealed, folded and journaled in {batches} batches",
            args.partitions
        ),
        format!(
            "{:.2} M samples/s, {:.3} CPU-s per million, {:.3} of the brokers, {peak_rss_mb:.0} MB",
            samples as f64 / wall_s / 1e6,
            cpu_s / millions,
            broker_cpu_s / millions
        ),
        format!(
            "{:.1} MB of checkpoints brought back at {:.0} MB/s",
            restored.mb,
            restored.mb / restored.s
        ),
        format!(
            "from a failure's sample to the request for its repair: p50 {decided_p50_ms:.1} ms, p99 \
             {decided_p99_ms:.1} ms"
        ),
    ];
    Ok((figures, lines))
}

/// An owner in office, whose newest head stands in a file of that name.
fn elect(log: &Arc<KafkaLog>, identity: &Identity, head: &Path) -> Result<Owner, EngineError> {
    let office = Office {
        log: log.clone(),
        store: log.clone(),
        identity,
        endpoint: String::new(),
        heads: Heads::open(head, None)?,
        chance: os_chance(),
    };
    Owner::elect(office, wall_now())
}

/// One partition and its owner.
struct Lane {
    partition: u32,
    log: Arc<KafkaLog>,
    owner: Owner,
    /// When the append of the cycle in hand began.
    appending: Arc<Mutex<Option<Instant>>>,
    /// From signing to read back linked, of each batch.
    appends: Vec<Duration>,
    end: u64,
}

impl Lane {
    fn open(cluster: &Cluster, dir: &Path, partition: u32) -> anyhow::Result<Self> {
        let identity = identity();
        let unheard = Arc::new(|| {});
        let log = KafkaLog::open(cluster, dir, &identity.deployment, partition, unheard)?;
        let (log, appending) = (Arc::new(log), Arc::new(Mutex::default()));
        let end = Onlooker::of(cluster)?.lag(partition, Positions::default())?.telemetry;
        let mut owner = elect(&log, &identity, &dir.join("head"))?;
        let began: Arc<Mutex<Option<Instant>>> = appending.clone();
        owner.watched(Box::new(move |stage| {
            if stage == Stage::Append {
                *lock(&began) = Some(Instant::now());
            }
        }));
        Ok(Lane { partition, log, owner, appending, appends: Vec::new(), end })
    }

    /// Takes telemetry until the end, or until it has taken `enough` samples; answers how many
    /// that were.
    fn drain(&mut self, enough: u64) -> anyhow::Result<u64> {
        let mut samples = 0;
        while self.owner.head().positions.telemetry < self.end && samples < enough {
            let cycle = self.owner.cycle(wall_now())?;
            self.appends.extend(lock(&self.appending).take().map(|it| it.elapsed()));
            samples += cycle.batch.iter().map(|it| sealed(it)).sum::<u64>();
            self.owner.sign_head(wall_now(), false)?;
        }
        self.owner.sign_head(wall_now(), true)?;
        Ok(samples)
    }
}

/// All lanes at once, each on a thread of its own.
fn drain(lanes: &mut [Lane], enough: u64) -> anyhow::Result<u64> {
    let runs: Vec<anyhow::Result<u64>> = std::thread::scope(|scope| {
        let running: Vec<_> =
            lanes.iter_mut().map(|it| scope.spawn(move || it.drain(enough))).collect();
        running.into_iter().map(|it| it.join().expect("a lane does not panic")).collect()
    });
    runs.into_iter().sum()
}

/// What bringing checkpoints back came to.
struct BroughtBack {
    mb: f64,
    s: f64,
}

/// Sends a checkpoint of each lane to a directory, deletes what the lanes had, and brings the
/// checkpoints back as a node does when it starts: fsynced, every file and the whole state compared
/// with what was signed, and opened.
fn restore(lanes: Vec<Lane>, folder: &Path) -> anyhow::Result<BroughtBack> {
    let runtime = tokio::runtime::Runtime::new().context("starting threads for the depot")?;
    let depot = folder.join("depot");
    let url = format!("file://{}", depot.display());
    let depot = Depot::make(&url, runtime.handle().clone())?;
    let (identity, mut dirs, mut sent) = (identity(), Vec::new(), Vec::new());
    for lane in lanes {
        let dir = folder.join(lane.partition.to_string());
        let taken = folder.join("taken");
        let checkpoint = lane.log.checkpoint(&taken)?;
        checkpoints::upload(&depot, &taken, &checkpoint, &identity)?;
        drop(lane);
        for gone in [&taken, &dir] {
            std::fs::remove_dir_all(gone)
                .with_context(|| format!("removing {}", gone.display()))?;
        }
        dirs.push((checkpoint.partition, dir));
        sent.push(checkpoint);
    }
    let began = Instant::now();
    let opened = parallel::each(&dirs, |(partition, dir)| {
        start::begin(&depot, &identity.deployment, *partition, dir)?;
        Ok(EmbeddedLog::open(dir, &identity.deployment, *partition)?)
    })?;
    let s = began.elapsed().as_secs_f64();
    for (log, sent) in opened.iter().zip(&sent) {
        let (position, partition) = (log.position()?, sent.partition);
        anyhow::ensure!(
            position == sent.position,
            "partition {partition} came back at {position} and was at {}",
            sent.position
        );
    }
    Ok(BroughtBack { mb: sent.iter().map(Checkpoint::bytes).sum::<u64>() as f64 / 1e6, s })
}

fn sealed(batch: &Batch) -> u64 {
    let events = batch.entries.iter().filter_map(|it| it.event().ok());
    events
        .map(|it| if let schemas::Event::TelemetrySealed(it) = it { it.n_samples } else { 0 })
        .sum()
}

/// A word that depends on every bit of what is kept of each series, as `Series.java` and
/// `Filler.java` come to it.
fn digest(lanes: &mut [Lane], series: u64) -> u64 {
    let n = lanes.len() as u64;
    let mut digest = 0u64;
    for lane in lanes {
        let kept: BTreeMap<u64, detection::SeriesState> =
            lane.owner.look(detection::PROCESSOR.name, detection::all_series);
        for s in (u64::from(lane.partition)..series).step_by(n as usize) {
            let identity = Series {
                service: "bench".to_owned(),
                host: "host".to_owned(),
                key: format!("series.{s}"),
                labels: BTreeMap::new(),
            };
            let bytes = avro::to_bytes(&identity).expect("a series has an Avro form");
            let state =
                kept.get(&schemas::telemetry::series_hash(&bytes)).copied().unwrap_or_default();
            let baseline = state.baseline;
            let bits = mix(mix(baseline.mean.to_bits()) ^ baseline.variance.to_bits());
            let one = mix(bits ^ mix(u64::from(baseline.n) * 256 + u64::from(state.run())));
            digest = digest.wrapping_add(mix(one ^ s));
        }
    }
    digest
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(it: u64) -> u64 {
    let z = it.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn quantile_ms(all: &mut [Duration], share: f64) -> f64 {
    all.sort_unstable();
    let at = (share * all.len() as f64) as usize;
    all.get(at.min(all.len().saturating_sub(1))).map_or(0.0, |it| it.as_secs_f64() * 1e3)
}

/// Other processes whose CPU time counts.
struct Processes(Vec<u32>);

impl Processes {
    fn parse(pids: &str) -> anyhow::Result<Self> {
        let pids = pids.split(',').filter(|it| !it.is_empty());
        let pids: Result<Vec<u32>, _> = pids.map(str::parse).collect();
        Ok(Processes(pids.context("--broker-pids takes process ids with commas between them")?))
    }

    /// Seconds; Linux counts in hundredths.
    fn cpu_s(&self) -> anyhow::Result<f64> {
        let ticks = self.0.iter().map(|pid| super::cpu_ticks(*pid));
        Ok(ticks.sum::<anyhow::Result<u64>>()? as f64 / 100.0)
    }
}

/// One word lies under this lock, whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
