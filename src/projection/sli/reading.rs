//! Reading what was sealed, range after range.

use std::collections::HashMap;
use std::ops::Range;

use schemas::Ns;
use schemas::telemetry::{Columns, Samples, series};
use state::{LogError, Records};

use super::{Counts, READ_BYTES};
use crate::journal::Journal;

/// As in detection: a sample further ahead comes from a clock that is wrong.
const AHEAD_MAX: Ns = Ns::from_s(10);
/// Series that are remembered by their bytes; the telemetry of a busy host has more.
const KNOWN_MAX: usize = 50_000;

/// Telemetry for ranges that rise. It is read in runs: what one read brings beyond its range
/// serves the next, for on a cluster every read asks the broker.
pub(super) struct Runs<'a, J: ?Sized> {
    log: &'a J,
    from: u64,
    records: Records,
}

impl<'a, J: Journal + ?Sized> Runs<'a, J> {
    pub(super) fn of(log: &'a J) -> Self {
        Runs { log, from: 0, records: Records::default() }
    }

    /// A run that holds what there is at `next`; empty where nothing is there or after it.
    fn at(&mut self, next: u64) -> Result<&Records, LogError> {
        let holds = self.records.last().is_some_and(|last| self.from <= next && next <= last);
        if !holds {
            self.records = self.log.telemetry(next, READ_BYTES)?;
            self.from = next;
        }
        Ok(&self.records)
    }
}

/// What the series of a host count, by their bytes.
#[derive(Debug, Default)]
pub(super) struct Dictionary(HashMap<Vec<u8>, Option<(String, Counts)>>);

impl Dictionary {
    fn of(&mut self, bytes: &[u8]) -> Option<&(String, Counts)> {
        if !self.0.contains_key(bytes) {
            if self.0.len() >= KNOWN_MAX {
                self.0.clear();
            }
            let counted = series(bytes).ok().and_then(|it| {
                let is_shadow = it.labels.get("role").is_some_and(|role| role == "shadow");
                let counts = match it.key.as_str() {
                    "requests" => Counts::Requests,
                    "errors" => Counts::Errors,
                    "probe" => Counts::Probe,
                    "latency_bucket" => Counts::Latency(it.labels.get("le")?.clone()),
                    _ => return None,
                };
                // A shadow answers nobody.
                (!is_shadow).then_some((it.service, counts))
            });
            self.0.insert(bytes.to_vec(), counted);
        }
        self.0.get(bytes)?.as_ref()
    }
}

/// Hands over every sample of a sealed range that counts; returns the bytes that were read.
pub(super) fn each<J: Journal + ?Sized>(
    runs: &mut Runs<'_, J>,
    range: Range<u64>,
    wall: Ns,
    dictionary: &mut Dictionary,
    add: &mut impl FnMut(&str, Ns, &Counts, f64),
) -> Result<usize, LogError> {
    let (mut next, mut n_bytes) = (range.start, 0);
    let mut spare = Samples::default();
    while next < range.end {
        let records = runs.at(next)?;
        let Some(last) = records.last() else { break };
        let wanted = next..range.end;
        next = last + 1;
        for (position, record) in records.iter().filter(|(it, _)| wanted.contains(it)) {
            n_bytes += record.len();
            let mut samples = spare.recycle();
            match samples.read(record) {
                Ok(()) => samples.records().for_each(|it| take(&it, wall, dictionary, add)),
                Err(_) => tracing::debug!(position, "a telemetry record does not decode"),
            }
            spare = samples.recycle();
        }
    }
    Ok(n_bytes)
}

fn take(
    columns: &Columns<'_, '_>,
    wall: Ns,
    dictionary: &mut Dictionary,
    add: &mut impl FnMut(&str, Ns, &Counts, f64),
) {
    let known: Vec<Option<(String, Counts)>> =
        columns.series.iter().map(|it| dictionary.of(it).cloned()).collect();
    for ((series, ts_ns), value) in columns.series_idx.iter().zip(columns.ts_ns).zip(columns.value)
    {
        let Some(Some((service, counts))) = known.get(*series as usize) else { continue };
        let at = Ns(*ts_ns);
        let at = if at > wall + AHEAD_MAX { wall } else { at };
        add(service, at, counts, *value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use schemas::event::{Series, TelemetrySample};
    use schemas::{Batch, Event, Head};

    use super::*;

    /// A hundred records of one probe each, which counts how often it is asked.
    #[derive(Default)]
    struct Told(Cell<usize>);

    impl Journal for Told {
        fn head(&self) -> Result<Head, LogError> {
            Ok(Head::genesis("test", 0))
        }
        fn read(&self, _: u64, _: usize) -> Result<Vec<Batch>, LogError> {
            Ok(Vec::new())
        }
        fn telemetry(&self, from: u64, _: usize) -> Result<Records, LogError> {
            self.0.set(self.0.get() + 1);
            let series = Series { service: "web".to_owned(), key: "probe".to_owned(), ..series() };
            let record = TelemetrySample {
                source: String::new(),
                exporter: String::new(),
                series: vec![series],
                series_idx: vec![0],
                ts_ns: vec![1],
                value: vec![1.0],
                snapshot: None,
            };
            let record = Event::from(record).encode().unwrap();
            let mut records = Records::default();
            (from..100).for_each(|position| records.push(position, &record));
            Ok(records)
        }
    }

    fn series() -> Series {
        let (service, host, key) = Default::default();
        Series { service, host, key, labels: Default::default() }
    }

    #[test]
    fn ranges_that_rise_are_read_in_one_run_and_each_sample_is_counted_once() {
        let (told, mut dictionary) = (Told::default(), Dictionary::default());
        let (mut runs, mut n) = (Runs::of(&told), 0);
        for range in [0..10, 10..11, 11..60, 70..90, 95..300] {
            let add = &mut |_: &str, _, _: &Counts, _| n += 1;
            each(&mut runs, range, Ns(1), &mut dictionary, add).unwrap();
        }
        // The last range ends beyond what is there, which has to be asked for.
        assert_eq!((n, told.0.get()), (10 + 1 + 49 + 20 + 5, 2));
    }
}
