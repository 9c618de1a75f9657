//! Telemetry through durable append, seal and detection fold, on a running engine: 10,000
//! series, in records of 100 series × 1 point, and beside it 1 series × 100 points.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use schemas::Event;
use schemas::event::{Series, TelemetrySample};
use serde_json::json;

use super::{Folder, Measured, owner};
use crate::engine::{Engine, wall_now};

/// Series under load.
const SERIES: usize = 10_000;
/// Samples in a record.
const POINTS: usize = 100;
/// Records of one send: what a busy ingest has waiting when it comes round.
const SEND: usize = 400;
/// How long either shape is sent.
const FOR: Duration = Duration::from_secs(3);

pub(super) fn run() -> anyhow::Result<Measured> {
    let wide = measure("wide", |n| record(n, n * POINTS..(n + 1) * POINTS, 1))?;
    let long = measure("long", |n| record(n, n..n + 1, POINTS))?;
    let figures = json!({
        "schema": "healwright.bench.telemetry.v1",
        "samples_per_s": wide.0,
        "samples_per_s_long": long.0,
        "cpu_s_per_million": wide.1,
        "cpu_s_per_million_long": long.1,
        "series": SERIES, "points": POINTS,
    });
    let line = |name: &str, (rate, cpu): (f64, f64)| {
        format!("{name}  {:.2} M samples/s, {cpu:.2} CPU-s per million", rate / 1e6)
    };
    let lines = vec![
        format!("{SERIES} series, durable, sealed and folded by detection"),
        line("100 series × 1 point  ", wide),
        line("1 series × 100 points ", long),
    ];
    Ok((figures, lines))
}

/// Samples per second from the first send until the last is sealed and folded, and CPU seconds
/// of the whole process per million.
fn measure(name: &str, make: impl Fn(usize) -> Vec<Vec<u8>>) -> anyhow::Result<(f64, f64)> {
    let folder = Folder::new(name)?;
    let (owner, log) = owner(&folder.path().join("data"))?;
    let engine = Engine::start(owner, log)?;
    let handle = engine.handle();
    let rounds: Vec<Vec<u8>> = (0..SERIES / POINTS).flat_map(make).collect();
    let (began, cpu, mut sent) = (Instant::now(), process_cpu_s(), 0usize);
    let mut at = 0;
    while began.elapsed() < FOR {
        let records: Vec<Vec<u8>> =
            (0..SEND).map(|n| rounds[(at + n) % rounds.len()].clone()).collect();
        at += SEND;
        handle.telemetry(&records)?;
        sent += SEND * POINTS;
    }
    // The last sample counts when it stands under a seal and is folded.
    let end = (at) as u64;
    while handle.ask(|owner| owner.head().positions.telemetry).blocking_recv()? < end {
        handle.wake();
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = process_cpu_s() - cpu;
    Ok((sent as f64 / took, cpu / (sent as f64 / 1e6)))
}

pub(super) fn record(n: usize, series: std::ops::Range<usize>, points: usize) -> Vec<Vec<u8>> {
    let named = |index: usize| Series {
        service: format!("service-{:03}", index % 100),
        host: format!("host-{:02}", index % 17),
        key: format!("metric_{index:05}"),
        labels: BTreeMap::new(),
    };
    let (from, to) = (series.start, series.end);
    let n_series = to - from;
    let columns = (0..n_series * points).map(|at| at % n_series);
    let sample = TelemetrySample {
        source: "bench".to_owned(),
        exporter: String::new(),
        series: series.map(named).collect(),
        series_idx: columns.map(|at| at as u32).collect(),
        ts_ns: (0..n_series * points).map(|at| wall_now().0 + at as u64).collect(),
        value: (0..n_series * points).map(|at| ((at * 7 + n) % 13) as f64).collect(),
        snapshot: None,
    };
    let encoded = Event::from(sample).encode();
    encoded.into_iter().collect()
}

pub(super) fn process_cpu_s() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}
