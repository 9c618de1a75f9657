//! How long detection takes for a sample: ten thousand series, in the two shapes that telemetry
//! comes in. It measures processor time of the fold over decoded records, on a state in memory,
//! so that a busy machine does not spoil the figure (Linux; elsewhere the clock on the wall).
//!
//!     cargo run --release -p topologies --example fold_rate
#![allow(clippy::print_stdout)] // its purpose

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Instant;

use schemas::envelope::Redaction;
use schemas::event::{Series, TelemetrySample, TelemetrySealed};
use schemas::telemetry::Columns;
use schemas::{Actor, Cause, Envelope, Event, Hash, Kind, Ns};
use topologies::testing::MapStore;
use topologies::{Folded, View, detection};

/// Nanoseconds of processor time so far.
fn spent() -> f64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let on_cpu = stat.split_whitespace().next().and_then(|it| it.parse().ok());
    on_cpu.unwrap_or_else(|| BEGIN.elapsed().as_nanos() as f64)
}

const SERIES: usize = 10_000;
const ROUNDS: u64 = 50;

fn main() {
    for (series, points) in [(100, 1), (1, 100)] {
        let records = records(series, points);
        let n: usize = records.len() * series * points;
        let columns = decode(&records);
        let mut store = MapStore::default();
        fold(&mut store, &columns, 0);
        let begin = spent();
        for round in 1..=ROUNDS {
            fold(&mut store, &columns, round);
        }
        let ns = (spent() - begin) / (n as f64 * ROUNDS as f64);
        let begin = spent();
        for _ in 0..ROUNDS {
            assert_eq!(decode(&records).iter().map(Columns::len).sum::<usize>(), n);
        }
        let decode_ns = (spent() - begin) / (n as f64 * ROUNDS as f64);
        println!(
            "{series} series × {points} points: {n} samples a seal, fold {ns:.0} ns a sample, \
             decoding {decode_ns:.0} ns"
        );
    }
}

/// One seal: every series once, in records of `series` × `points`.
fn records(series: usize, points: usize) -> Vec<Vec<u8>> {
    let all: Vec<Series> = (0..SERIES).map(one).collect();
    let chunks = all.chunks(series);
    chunks
        .map(|chunk| {
            let n = chunk.len() * points;
            let sample = TelemetrySample {
                source: "bench".to_owned(),
                exporter: String::new(),
                series: chunk.to_vec(),
                series_idx: (0..n).map(|it| (it % chunk.len()) as u32).collect(),
                ts_ns: vec![1_700_000_000_000_000_000; n],
                value: (0..n).map(|it| (it % 7) as f64).collect(),
                snapshot: None,
            };
            Event::from(sample).encode().expect("samples encode")
        })
        .collect()
}

fn one(at: usize) -> Series {
    Series {
        service: format!("service-{:03}", at % 200),
        host: format!("host-{:02}", at % 40),
        key: ["cpu_load", "mem_used", "queue_lag", "heap_bytes"][at % 4].to_owned(),
        labels: BTreeMap::from([("pod".to_owned(), format!("pod-{at:05}"))]),
    }
}

fn decode(records: &[Vec<u8>]) -> Vec<Columns<'_>> {
    records.iter().map(|it| Columns::decode(it).expect("records decode")).collect()
}

fn fold(store: &mut MapStore, columns: &[Columns<'_>], seq: u64) {
    let seal = TelemetrySealed { from: 0, to: 1, digest: String::new(), n_samples: 1 };
    let cause = Cause::Owner { epoch: 1, n: seq };
    let envelope = Envelope {
        event_id: cause.event_id(&Hash::default()),
        kind: Kind::TelemetrySealed,
        partition: 0,
        seq,
        key: "0".to_owned(),
        tick: Ns(1_700_000_000_000_000_000),
        wall: Ns(0),
        actor: Actor::system("owner"),
        cause,
        correlation: None,
        trace_id: None,
        priority: 5,
        ttl_ms: 0,
        redaction: Redaction::None,
        commitment: Hash::default(),
    };
    let event = Event::from(seal);
    let folded = Folded { envelope: &envelope, event: &event, samples: columns, due: None };
    let mut view = View::new(store, detection::PROCESSOR.name);
    let said = (detection::PROCESSOR.step)(&mut view, &folded);
    assert!(said.is_empty());
}
