//! Samples on their way from the host to the control plane.
//!
//! What is measured is put into records every 250 ms and kept until the control plane says that
//! it is durable; what was not confirmed goes out again in the next conversation. While nobody
//! listens the book is bounded: the oldest records go first, and every sample that went is
//! counted, because missing data must be known to be missing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemas::Ns;
use schemas::event::{Event, Series};

use crate::host::{Sample, Sink, to_record};
use crate::proxy::{BOUNDS_MS, Interval, Role};
use crate::wire::{Base64, FromRunner};

/// How often samples become records.
pub const PERIOD: Duration = Duration::from_millis(250);
/// Samples in one record: far below the cap of a line.
const N_RECORD_MAX: usize = 2_000;
/// Samples that wait to be put into a record.
const N_COLLECTED_MAX: usize = 100_000;
/// Bytes of records that are kept.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Records that are sent and not yet confirmed.
const N_UNDER_WAY_MAX: usize = 32;

#[derive(Debug)]
struct Kept {
    n: u64,
    n_samples: u64,
    record: Base64,
}

/// Where threads put samples, and where records come from.
#[derive(Debug, Default)]
pub struct Collector(Mutex<Collected>);

#[derive(Debug, Default)]
struct Collected {
    samples: Vec<Sample>,
    dropped: u64,
}

impl Collector {
    /// The sink for probers and meters.
    pub fn sink(self: &Arc<Self>) -> Sink {
        let collector = Arc::clone(self);
        Arc::new(move |samples| collector.put(samples))
    }

    fn put(&self, samples: Vec<Sample>) {
        let mut collected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = N_COLLECTED_MAX.saturating_sub(collected.samples.len());
        collected.dropped += samples.len().saturating_sub(free) as u64;
        collected.samples.extend(samples.into_iter().take(free));
    }

    fn take(&self) -> Collected {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Records that are not confirmed yet, in order.
#[derive(Debug)]
pub struct Outbox {
    source: String,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    n_under_way: usize,
    next_n: u64,
    dropped: u64,
}

impl Outbox {
    /// An empty outbox of the runner on `host`.
    pub fn new(host: &str) -> Self {
        Outbox {
            source: format!("runner/{host}"),
            kept: VecDeque::new(),
            kept_bytes: 0,
            n_under_way: 0,
            next_n: 1,
            dropped: 0,
        }
    }

    /// Puts what was collected into records.
    pub fn fill(&mut self, collector: &Collector) {
        let collected = collector.take();
        self.dropped += collected.dropped;
        for samples in collected.samples.chunks(N_RECORD_MAX) {
            let n_samples = samples.len() as u64;
            match Event::from(to_record(&self.source, samples)).encode() {
                Ok(record) => self.keep(n_samples, Base64(record)),
                // A time outside the range of an Avro long: the clock is broken, and the
                // samples say nothing.
                Err(_) => self.dropped += n_samples,
            }
        }
    }

    /// What can go out now.
    pub fn messages(&mut self) -> Vec<FromRunner> {
        let end = self.kept.len().min(N_UNDER_WAY_MAX);
        let start = self.n_under_way.min(end);
        self.n_under_way = end.max(start);
        let message = |kept: &Kept| FromRunner::Telemetry {
            n: kept.n,
            record: kept.record.clone(),
            dropped: self.dropped,
        };
        self.kept.range(start..end).map(message).collect()
    }

    /// Records up to and with `n` are durable.
    pub fn stored(&mut self, n: u64) {
        while self.kept.front().is_some_and(|kept| kept.n <= n) {
            self.pop();
        }
    }

    /// The conversation ended: what was not confirmed goes out again.
    pub fn disconnected(&mut self) {
        self.n_under_way = 0;
    }

    fn keep(&mut self, n_samples: u64, record: Base64) {
        self.kept_bytes += record.0.len();
        self.kept.push_back(Kept { n: self.next_n, n_samples, record });
        self.next_n += 1;
        while KEPT_BYTES_MAX < self.kept_bytes {
            self.dropped += self.pop();
        }
    }

    fn pop(&mut self) -> u64 {
        let Some(kept) = self.kept.pop_front() else { return 0 };
        self.kept_bytes -= kept.record.0.len();
        self.n_under_way = self.n_under_way.saturating_sub(1);
        kept.n_samples
    }
}

/// What the proxy counted, as samples: deltas per slot and role.
pub fn samples_of(host: &str, intervals: &[Interval]) -> Vec<Sample> {
    intervals.iter().flat_map(|interval| samples_of_one(host, interval)).collect()
}

fn samples_of_one(host: &str, interval: &Interval) -> Vec<Sample> {
    let labels = |le: Option<String>| {
        let mut labels = BTreeMap::from([
            ("slot".to_owned(), interval.slot.clone()),
            ("role".to_owned(), interval.role.as_str().to_owned()),
        ]);
        labels.extend(le.map(|le| ("le".to_owned(), le)));
        labels
    };
    let sample = |key: &str, labels, value: u64| Sample {
        series: Series {
            service: interval.service.clone(),
            host: host.to_owned(),
            key: key.to_owned(),
            labels,
        },
        ts: Ns(interval.to_ns),
        value: value as f64,
    };
    let counts = &interval.counts;
    let mut samples = vec![
        sample("requests", labels(None), counts.requests),
        sample("errors", labels(None), counts.errors),
    ];
    let bounds = BOUNDS_MS.iter().map(u64::to_string).chain(["inf".to_owned()]);
    for (le, n) in bounds.zip(counts.buckets).filter(|(_, n)| *n != 0) {
        samples.push(sample("latency_bucket", labels(Some(le)), n));
    }
    if interval.role == Role::Shadow {
        let slot = BTreeMap::from([("slot".to_owned(), interval.slot.clone())]);
        samples.push(sample("shadow_compared", slot.clone(), counts.compared));
        samples.push(sample("shadow_differ", slot, counts.differ));
    }
    samples
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use schemas::telemetry::Samples;

    use super::*;
    use crate::proxy::Counts;

    fn sample(n: u64) -> Sample {
        let series = Series {
            service: "shop".into(),
            host: "here".into(),
            key: "probe".into(),
            labels: BTreeMap::new(),
        };
        Sample { series, ts: Ns(n), value: n as f64 }
    }

    fn numbers(messages: &[FromRunner]) -> Vec<u64> {
        let n = |message: &FromRunner| {
            let FromRunner::Telemetry { n, .. } = message else { return None };
            Some(*n)
        };
        messages.iter().filter_map(n).collect()
    }

    #[test]
    fn what_is_not_confirmed_goes_out_again_in_the_next_conversation() {
        let (collector, mut outbox) = (Arc::new(Collector::default()), Outbox::new("here"));
        for n in 1..=3 {
            (collector.sink())(vec![sample(n)]);
            outbox.fill(&collector);
        }
        assert_eq!(numbers(&outbox.messages()), [1, 2, 3]);
        assert_eq!(numbers(&outbox.messages()), [0u64; 0]);
        outbox.stored(2);
        outbox.disconnected();
        assert_eq!(numbers(&outbox.messages()), [3]);
    }

    #[test]
    fn no_more_than_the_window_is_under_way() {
        let (collector, mut outbox) = (Arc::new(Collector::default()), Outbox::new("here"));
        (collector.sink())((0..100_000).map(sample).collect());
        outbox.fill(&collector);
        assert_eq!(outbox.messages().len(), N_UNDER_WAY_MAX);
        outbox.stored(10);
        assert_eq!(numbers(&outbox.messages()), (33..=42).collect::<Vec<_>>());
    }

    #[test]
    fn while_nobody_listens_the_oldest_go_and_are_counted() {
        let (collector, mut outbox) = (Arc::new(Collector::default()), Outbox::new("here"));
        let (n_fills, n_each) = (30, 50_000);
        for _ in 0..n_fills {
            (collector.sink())((0..n_each).map(sample).collect());
            outbox.fill(&collector);
        }
        assert!(outbox.kept_bytes <= KEPT_BYTES_MAX);
        let kept: u64 = outbox.kept.iter().map(|it| it.n_samples).sum();
        assert_eq!(kept + outbox.dropped, n_fills * n_each);
        assert_ne!(outbox.dropped, 0);
        // The newest are still there.
        assert_eq!(outbox.kept.back().unwrap().n + 1, outbox.next_n);
    }

    #[test]
    fn counts_of_the_proxy_become_the_series_that_detection_reads() {
        let mut counts =
            Counts { requests: 3, errors: 1, compared: 3, differ: 2, ..Counts::default() };
        (counts.buckets[0], counts.buckets[13]) = (2, 1);
        let interval = Interval {
            seq: 1,
            from_ns: 1,
            to_ns: 2,
            service: "shop".into(),
            slot: "blue".into(),
            role: Role::Shadow,
            counts,
        };
        let record = to_record("runner/here", &samples_of("here", &[interval]));
        let lines: Vec<String> = (record.series.iter().zip(&record.value))
            .map(|(it, value)| format!("{} {:?} {value}", it.key, it.labels))
            .collect();
        assert_eq!(
            lines,
            [
                r#"requests {"role": "shadow", "slot": "blue"} 3"#,
                r#"errors {"role": "shadow", "slot": "blue"} 1"#,
                r#"latency_bucket {"le": "1", "role": "shadow", "slot": "blue"} 2"#,
                r#"latency_bucket {"le": "inf", "role": "shadow", "slot": "blue"} 1"#,
                r#"shadow_compared {"slot": "blue"} 3"#,
                r#"shadow_differ {"slot": "blue"} 2"#,
            ]
        );
        let bytes = Event::from(record).encode().unwrap();
        assert_eq!(Samples::decode(&bytes).unwrap().len(), 6);
    }
}
