//! The partitions of a system, as a node has them, and which of them an input belongs to.
//!
//! A scope is one failure domain: what is in it is detected, diagnosed and healed together, by
//! one owner. A service's name says its scope: `prod-eu/shop/checkout` is in `prod-eu/shop`, and
//! names without a `/` share the scope without a name. Scopes are hashed onto partitions, so
//! nothing needs to be configured for a service to be found again, and what is in one scope never
//! comes apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::Hash;
use schemas::event::{Series, TelemetrySample};

use crate::dispatch::Confirmations;
use crate::engine::Handle;

/// Domain of the hash that spreads scopes. Persisted: frozen, for where a service's history lies
/// follows from it.
const SCOPE_DOMAIN: &[u8] = b"healwright/scope/v1\0";

/// The scope of a service.
pub fn scope_of(service: &str) -> &str {
    service.rsplit_once('/').map_or("", |(scope, _)| scope)
}

/// The partition of a service in a system of `n_partitions`. The scope without a name lies in the
/// first, so a system can be started without names and keeps its history when others get some.
pub fn partition_of(service: &str, n_partitions: u32) -> u32 {
    let scope = scope_of(service);
    if scope.is_empty() || n_partitions < 2 {
        return 0;
    }
    let Hash(hash) = Hash::of(&[SCOPE_DOMAIN, scope.as_bytes()]);
    let first = hash.iter().take(8).fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    u32::try_from(first % u64::from(n_partitions)).unwrap_or(0)
}

/// One partition.
#[derive(Clone)]
pub struct Part {
    /// Its number.
    pub number: u32,
    /// The way into its journal.
    pub engine: Handle,
    /// Confirmations of its mode epochs by runners, for the freeze acknowledgement.
    pub confirmations: Confirmations,
}

/// All partitions, in order; there is at least one.
#[derive(Clone)]
pub struct Parts(Arc<[Part]>);

impl Parts {
    /// The partitions that begin with the first.
    pub fn new(parts: Vec<Part>) -> Self {
        Parts(parts.into())
    }

    /// All of them.
    pub fn all(&self) -> &[Part] {
        &self.0
    }

    /// The first.
    pub fn first(&self) -> &Part {
        &self.0[0]
    }

    /// Why one of them stands still, if any does.
    pub fn stopped(&self) -> Option<String> {
        self.0.iter().find_map(|part| part.engine.stopped())
    }

    /// The partition with this number.
    pub fn get(&self, number: u32) -> Option<&Part> {
        self.0.get(number as usize)
    }

    /// The partition that a service belongs to.
    pub fn of_service(&self, service: &str) -> &Part {
        let n_partitions = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        &self.0[partition_of(service, n_partitions) as usize]
    }

    /// A record of telemetry, as the records of the partitions that its services belong to. What
    /// belongs together is not touched.
    pub fn split(&self, sample: TelemetrySample) -> Vec<(&Part, TelemetrySample)> {
        let of = |series: &Series| self.of_service(&series.service).number as usize;
        let mut numbers: Vec<usize> = sample.series.iter().map(of).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if let [] | [_] = numbers.as_slice() {
            return vec![(&self.0[numbers.first().copied().unwrap_or(0)], sample)];
        }
        numbers.into_iter().map(|it| (&self.0[it], self.only(it, &sample))).collect()
    }

    /// What of a record belongs to one partition. A snapshot is of the whole source and goes
    /// along everywhere.
    fn only(&self, number: usize, all: &TelemetrySample) -> TelemetrySample {
        let mut kept = TelemetrySample {
            series: Vec::new(),
            series_idx: Vec::new(),
            ts_ns: Vec::new(),
            value: Vec::new(),
            ..all.clone()
        };
        let mut moved = BTreeMap::new();
        for (old, series) in (0u32..).zip(&all.series) {
            if self.of_service(&series.service).number as usize == number {
                moved.insert(old, u32::try_from(kept.series.len()).unwrap_or(u32::MAX));
                kept.series.push(series.clone());
            }
        }
        for ((idx, ts), value) in all.series_idx.iter().zip(&all.ts_ns).zip(&all.value) {
            if let Some(new) = moved.get(idx) {
                kept.series_idx.push(*new);
                kept.ts_ns.push(*ts);
                kept.value.push(*value);
            }
        }
        kept
    }

    /// The partitions that a configuration belongs to: a service's is its own partition's, and
    /// everything else holds everywhere.
    pub fn of_config(&self, name: &str) -> &[Part] {
        match name.strip_prefix("service/") {
            Some(service) => std::slice::from_ref(self.of_service(service)),
            None => self.all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_one_scope_lies_in_one_partition_and_scopes_spread() {
        assert_eq!(partition_of("shop", 16), 0);
        let scope = |n: u32| format!("prod-{n}/shop");
        for n in 0..64 {
            let [one, two] = ["cart", "checkout"].map(|it| format!("{}/{it}", scope(n)));
            assert_eq!(partition_of(&one, 16), partition_of(&two, 16));
            assert_eq!(partition_of(&one, 1), 0);
        }
        let hit: std::collections::BTreeSet<u32> =
            (0..64).map(|n| partition_of(&format!("{}/a", scope(n)), 4)).collect();
        assert_eq!(hit.len(), 4);
    }

    #[test]
    fn where_a_service_lies_never_changes() {
        // Of this build; another answer would cut every history in two.
        let lies = ["a/x", "b/x", "prod-eu/shop/checkout", "prod-us/shop/checkout"];
        assert_eq!(lies.map(|it| partition_of(it, 16)), [3, 1, 4, 2]);
    }
}
