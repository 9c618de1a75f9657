//! What the proxy and the prober saw of one service, taken out of sealed telemetry.
//!
//! Deliberately absent: judgement. Hostile numbers (negative, infinite, more errors than
//! requests) are cut to what can be true and never trusted further.

use schemas::telemetry::{Samples, series};

use crate::stats::Histogram;

/// Counts of one slot in one role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) latency: Histogram,
}

/// One service in one sealed range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// What users were served by the new slot.
    pub(super) new: Traffic,
    /// What they were served by any other.
    pub(super) old: Traffic,
    /// Answers to mirrored requests, seen by nobody.
    pub(super) shadow: Traffic,
    /// Mirrored answers that were compared.
    pub(super) compared: u64,
    /// Of these, how many differ.
    pub(super) differ: u64,
    /// The slot that answered them: only a new version is ever mirrored to.
    pub(super) shadow_slot: Option<String>,
    /// Probes of what serves, by outcome.
    pub(super) probes_passed: u64,
    /// See above.
    pub(super) probes_failed: u64,
}

/// What `samples` say of `service` while `slot` holds its new version.
pub(super) fn measure(samples: &Samples<'_>, service: &str, slot: &str) -> Measured {
    let mut measured = Measured::default();
    for columns in samples.records() {
        let read: Vec<Option<Reading>> =
            columns.series.iter().map(|bytes| reading(bytes, service, slot)).collect();
        let mirrored = read.iter().flatten().find_map(|it| {
            let Reading::Compared(slot) = it else { return None };
            (!slot.is_empty()).then(|| slot.clone())
        });
        measured.shadow_slot = mirrored.or(measured.shadow_slot);
        for (idx, value) in columns.series_idx.iter().zip(columns.value) {
            if let Some(Some(reading)) = read.get(*idx as usize) {
                measured.add(reading, *value);
            }
        }
    }
    measured.compared = measured.compared.max(measured.differ);
    for traffic in [&mut measured.new, &mut measured.old, &mut measured.shadow] {
        traffic.requests = traffic.requests.max(traffic.errors);
    }
    measured
}

#[derive(Clone, Copy)]
enum Side {
    New,
    Old,
    Shadow,
}

enum Reading {
    Requests(Side),
    Errors(Side),
    Latency(Side, String),
    Compared(String),
    Differ,
    Probe,
}

/// What a series measures here. The service's name is compared before anything is decoded:
/// while one service of a thousand is rolled out, the others' series cost nine bytes each.
fn reading(bytes: &[u8], service: &str, slot: &str) -> Option<Reading> {
    if !speaks_of(bytes, service) {
        return None;
    }
    let series = series(bytes).ok()?;
    let label = |name: &str| series.labels.get(name).map_or("", String::as_str);
    let side = match (label("role"), label("slot")) {
        ("shadow", _) => Side::Shadow,
        (_, "") => return (series.key == "probe").then_some(Reading::Probe),
        (_, it) if it == slot => Side::New,
        _ => Side::Old,
    };
    match series.key.as_str() {
        "requests" => Some(Reading::Requests(side)),
        "errors" => Some(Reading::Errors(side)),
        "latency_bucket" => Some(Reading::Latency(side, label("le").to_owned())),
        "shadow_compared" => Some(Reading::Compared(label("slot").to_owned())),
        "shadow_differ" => Some(Reading::Differ),
        "probe" if matches!(side, Side::New) => Some(Reading::Probe),
        _ => None,
    }
}

/// Whether the first field of an encoded series, its service, is `service`.
fn speaks_of(bytes: &[u8], service: &str) -> bool {
    // Avro writes a length as a zigzag varint: one byte below 64, two below 8,192.
    let zigzag = service.len() << 1;
    let (length, rest) = match zigzag {
        0..0x80 => (1, zigzag == bytes.first().map_or(0, |it| usize::from(*it))),
        _ => {
            let low = usize::from(bytes.first().copied().unwrap_or(0) & 0x7f);
            let high = usize::from(bytes.get(1).copied().unwrap_or(0));
            (2, zigzag == low | (high << 7))
        }
    };
    rest && bytes.get(length..).is_some_and(|it| it.starts_with(service.as_bytes()))
}

impl Measured {
    fn add(&mut self, reading: &Reading, value: f64) {
        let n = count(value);
        match reading {
            Reading::Requests(side) => self.side(*side).requests += n,
            Reading::Errors(side) => self.side(*side).errors += n,
            Reading::Latency(side, le) => self.side(*side).latency.add(le, n),
            Reading::Compared(_) => self.compared += n,
            Reading::Differ => self.differ += n,
            Reading::Probe if value >= 1.0 => self.probes_passed += 1,
            Reading::Probe => self.probes_failed += 1,
        }
    }

    fn side(&mut self, side: Side) -> &mut Traffic {
        match side {
            Side::New => &mut self.new,
            Side::Old => &mut self.old,
            Side::Shadow => &mut self.shadow,
        }
    }
}

/// A count as the proxy may have sent it: at most a million per interval, never negative.
fn count(value: f64) -> u64 {
    if value.is_finite() { value.clamp(0.0, 1e6) as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use schemas::Event;
    use schemas::event::{Series, TelemetrySample};

    fn sample(rows: &[(&str, &str, &str, &str, f64)]) -> Vec<u8> {
        let series = rows.iter().map(|(service, key, slot, role, _)| {
            let labels = [("slot", slot), ("role", role)].into_iter();
            let labels = labels.filter(|(_, it)| !it.is_empty());
            Series {
                service: (*service).to_owned(),
                host: "h".to_owned(),
                key: (*key).to_owned(),
                labels: labels.map(|(a, b)| (a.to_owned(), (*b).to_owned())).collect(),
            }
        });
        let sample = TelemetrySample {
            source: "proxy".to_owned(),
            exporter: String::new(),
            series: series.collect(),
            series_idx: (0..rows.len() as u32).collect(),
            ts_ns: vec![1; rows.len()],
            value: rows.iter().map(|it| it.4).collect(),
            snapshot: None,
        };
        Event::from(sample).encode().unwrap()
    }

    fn measured(rows: &[(&str, &str, &str, &str, f64)]) -> Measured {
        let bytes = sample(rows);
        measure(&Samples::decode(&bytes).unwrap(), "shop", "blue")
    }

    #[test]
    fn each_side_gets_its_own() {
        let it = measured(&[
            ("shop", "requests", "green", "live", 45.0),
            ("shop", "errors", "green", "live", 1.0),
            ("shop", "requests", "blue", "live", 5.0),
            ("shop", "errors", "blue", "live", 2.0),
            ("shop", "requests", "blue", "shadow", 7.0),
            ("shop", "shadow_compared", "blue", "shadow", 6.0),
            ("shop", "shadow_differ", "blue", "shadow", 3.0),
            ("shop", "probe", "", "", 1.0),
            ("shop", "probe", "blue", "live", 0.0),
            ("shop", "probe", "green", "live", 0.0),
            ("shopping", "requests", "blue", "live", 500.0),
            ("sho", "requests", "blue", "live", 500.0),
        ]);
        assert_eq!((it.old.requests, it.old.errors), (45, 1));
        assert_eq!((it.new.requests, it.new.errors), (5, 2));
        assert_eq!((it.shadow.requests, it.compared, it.differ), (7, 6, 3));
        assert_eq!(it.shadow_slot.as_deref(), Some("blue"));
        assert_eq!((it.probes_passed, it.probes_failed), (1, 1));
    }

    #[test]
    fn hostile_numbers_are_cut_to_what_can_be_true() {
        let it = measured(&[
            ("shop", "requests", "blue", "live", -5.0),
            ("shop", "errors", "blue", "live", 3.0),
            ("shop", "requests", "green", "live", f64::INFINITY),
            ("shop", "errors", "green", "live", f64::NAN),
            ("shop", "shadow_differ", "blue", "shadow", 1e300),
        ]);
        assert_eq!((it.new.requests, it.new.errors), (3, 3));
        assert_eq!((it.old.requests, it.old.errors), (0, 0));
        assert_eq!((it.compared, it.differ), (1_000_000, 1_000_000));
    }

    #[test]
    fn a_long_service_name_is_still_found() {
        let long = "s".repeat(200);
        let bytes = sample(&[(&long, "requests", "blue", "live", 5.0)]);
        let columns = Samples::decode(&bytes).unwrap();
        assert_eq!(measure(&columns, &long, "blue").new.requests, 5);
        assert_eq!(measure(&columns, &long[1..], "blue").new.requests, 0);
    }
}
