//! Short ways to feed a bench: configuration and telemetry.

use std::collections::BTreeMap;

use schemas::event::{ConfigActivated, Series, TelemetrySample};
use schemas::signature::KeyPair;
use serde::Serialize;

use super::{Bench, Record};

/// Who activates what a bench activates.
pub const OPERATOR: &str = "alice";

/// The key of [`OPERATOR`].
pub fn operator() -> KeyPair {
    KeyPair::from_seed(&[1; 32])
}

/// A series of `service` with `labels`.
pub fn series(service: &str, key: &str, labels: &[(&str, &str)]) -> Series {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Series {
        service: service.to_owned(),
        host: "h1".to_owned(),
        key: key.to_owned(),
        labels: labels.collect::<BTreeMap<_, _>>(),
    }
}

impl Bench {
    /// Activates `body` under `name`, signed by the [`operator`], as its next version.
    pub fn activate(&mut self, name: &str, body: &impl Serialize) -> Vec<Record> {
        let body = serde_json::to_string(body).expect("configuration has a JSON form");
        let version = self.versions.entry(name.to_owned()).or_default();
        *version += 1;
        let activated = ConfigActivated::signed(name, *version, body, OPERATOR, &operator());
        self.input(OPERATOR, name, activated)
    }

    /// Seals one sample for each series, all measured now.
    pub fn feed(&mut self, samples: &[(Series, f64)]) -> Vec<Record> {
        let now = self.now();
        self.samples(&TelemetrySample {
            source: "runner".to_owned(),
            exporter: String::new(),
            series: samples.iter().map(|(series, _)| series.clone()).collect(),
            series_idx: (0..samples.len() as u32).collect(),
            ts_ns: vec![now.0; samples.len()],
            value: samples.iter().map(|(_, value)| *value).collect(),
            snapshot: None,
        })
    }

    /// Every `period_ms` for `for_ms`, feeds plain series of `service`.
    pub fn steady(&mut self, service: &str, values: &[(&str, f64)], period_ms: u64, for_ms: u64) {
        let samples: Vec<(Series, f64)> =
            values.iter().map(|(key, value)| (series(service, key, &[]), *value)).collect();
        for _ in 0..for_ms / period_ms {
            self.advance(period_ms);
            self.feed(&samples);
        }
    }
}
