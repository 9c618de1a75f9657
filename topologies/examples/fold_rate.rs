//! How long detection takes for a sample: ten thousand series, in the two shapes that telemetry
//! comes in, and the samples of two hundred registered services. It measures processor time of
//! the fold over decoded records on a state in memory, so that a busy machine does not spoil the
//! figures. Linux only.
//!
//!     cargo run --release -p topologies --example fold_rate
#![allow(clippy::print_stdout)] // its purpose

use std::collections::BTreeMap;

use schemas::envelope::Redaction;
use schemas::event::{Series, TelemetrySample, TelemetrySealed};
use schemas::telemetry::Samples;
use schemas::{Actor, Cause, Envelope, Event, Hash, Kind, Ns};
use topologies::config::Service;
use topologies::testing::MapStore;
use topologies::{Folded, View, detection};

/// Nanoseconds of processor time so far.
fn spent() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux says what it spent");
    stat.split_whitespace().next().and_then(|it| it.parse().ok()).expect("the first is a number")
}

const SERIES: usize = 10_000;
const ROUNDS: u64 = 50;

fn main() {
    for (series, points) in [(100, 1), (1, 100)] {
        let all: Vec<Series> = (0..SERIES).map(one).collect();
        measure(&format!("{series} series × {points} points"), &records(&all, series, points), &[]);
    }
    let services: Vec<String> = (0..200).map(|it| format!("service-{it:03}")).collect();
    let all: Vec<Series> = services.iter().flat_map(|it| of_service(it)).collect();
    let n = all.len() / services.len();
    measure(&format!("services with {n} series each"), &records(&all, n, 1), &services);
}

fn measure(what: &str, records: &[Vec<u8>], services: &[String]) {
    let samples = decode(records);
    let n = samples.len();
    let per_sample = |spent: f64| spent / (n as f64 * ROUNDS as f64);
    let mut store = MapStore::default();
    for service in services {
        register(&mut store, service);
    }
    fold(&mut store, &samples, 0);
    let begin = spent();
    for round in 1..=ROUNDS {
        fold(&mut store, &samples, round);
    }
    let fold_ns = per_sample(spent() - begin);
    let begin = spent();
    for _ in 0..ROUNDS {
        assert_eq!(decode(records).len(), n);
    }
    let decode_ns = per_sample(spent() - begin);
    println!("{what}: {n} samples a seal, fold {fold_ns:.0} ns, decoding {decode_ns:.0} ns each");
}

/// What the runner and the proxy send for a service each interval.
fn of_service(name: &str) -> Vec<Series> {
    let series = |key: &str, labels: &[(&str, &str)]| Series {
        service: name.to_owned(),
        host: "host-00".to_owned(),
        key: key.to_owned(),
        labels: labels.iter().map(|(key, it)| ((*key).to_owned(), (*it).to_owned())).collect(),
    };
    let plain = ["probe", "probe_ms", "process_up", "svc_uptime", "env_ok"];
    let mut all: Vec<Series> = plain.iter().map(|it| series(it, &[])).collect();
    let live = [("slot", "green"), ("role", "live")];
    all.push(series("requests", &live));
    all.push(series("errors", &live));
    for le in ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "inf"] {
        all.push(series("latency_bucket", &[live[0], live[1], ("le", le)]));
    }
    all
}

fn register(store: &mut MapStore, name: &str) {
    let service = Service { name: name.to_owned(), ..Service::default() };
    View::new(store, "config").save(&format!("service/{name}"), &service);
}

/// One seal: each of `all` once, in records of `series` × `points`.
fn records(all: &[Series], series: usize, points: usize) -> Vec<Vec<u8>> {
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

fn decode(records: &[Vec<u8>]) -> Samples<'_> {
    let mut samples = Samples::default();
    records.iter().for_each(|it| samples.read(it).expect("records decode"));
    samples
}

fn fold(store: &mut MapStore, samples: &Samples<'_>, seq: u64) {
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
    let folded = Folded { envelope: &envelope, event: &event, samples, due: None };
    let mut view = View::new(store, detection::PROCESSOR.name);
    (detection::PROCESSOR.step)(&mut view, &folded);
}
