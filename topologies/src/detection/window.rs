//! Requests, errors and latencies of the recent past, and what latency usually is.

use schemas::Ns;
use schemas::event::Health;
use serde::{Deserialize, Serialize};

use crate::profile::Profile;
use crate::stats::{Histogram, Share};

/// Parts of a window; its oldest part leaves it at once.
const PARTS: u64 = 20;
/// Hours of the latency baseline (spec 20 §3).
const BASELINE_HOURS: u64 = 24;
const HOUR: Ns = Ns::from_s(3600);

/// One part of the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    at: Ns,
    requests: u64,
    errors: u64,
    latency: Histogram,
}

/// An hour of healthy latencies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Hour {
    hour: u64,
    latency: Histogram,
}

/// The recent past of one service's answers to its users.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Window {
    parts: Vec<Part>,
    /// Times before this are not its present any more: the process was started anew.
    reset_at: Ns,
    baseline: Vec<Hour>,
}

impl Window {
    /// The part that `at` falls in; `None` when it lies before the last restart.
    pub(super) fn part(&mut self, at: Ns, profile: &Profile) -> Option<&mut Part> {
        if at < self.reset_at {
            return None;
        }
        let span = span(profile);
        let start = Ns(at.0 / span.0 * span.0);
        let place = self.parts.partition_point(|it| it.at < start);
        if self.parts.get(place).is_none_or(|it| it.at != start) {
            self.parts.insert(place, Part { at: start, ..Part::default() });
        }
        Some(&mut self.parts[place])
    }

    /// Forgets what was before a start of the process: it says nothing of the new one.
    pub(super) fn reset(&mut self, at: Ns) {
        self.reset_at = self.reset_at.max(at);
        self.parts.clear();
    }

    /// Drops the parts that have left the window at `now`; those seen while the service was green
    /// join the baseline, so that no incident hides the next.
    pub(super) fn roll(&mut self, now: Ns, colour: Health, profile: &Profile) {
        let begin = now.since(Ns::from_ms(profile.error_window_ms));
        let gone = self.parts.partition_point(|it| it.at < begin);
        for part in self.parts.drain(..gone) {
            if colour == Health::Green {
                learn(&mut self.baseline, &part);
            }
        }
        let newest = now.0 / HOUR.0;
        self.baseline.retain(|it| it.hour + BASELINE_HOURS > newest);
    }

    /// Failed answers among all.
    pub(super) fn errors(&self) -> Share {
        let sum = |of: fn(&Part) -> u64| self.parts.iter().map(of).sum::<u64>();
        let n = sum(|it| it.requests);
        Share { k: sum(|it| it.errors).min(n), n }
    }

    /// Latencies of all.
    pub(super) fn latency(&self) -> Histogram {
        merged(self.parts.iter().map(|it| &it.latency))
    }

    /// Latencies of the last 24 healthy hours.
    pub(super) fn baseline(&self) -> Histogram {
        merged(self.baseline.iter().map(|it| &it.latency))
    }
}

impl Part {
    pub(super) fn requests(&mut self, n: u64) {
        self.requests = self.requests.saturating_add(n);
    }

    pub(super) fn errors(&mut self, n: u64) {
        self.errors = self.errors.saturating_add(n);
    }

    pub(super) fn latency(&mut self, le: &str, n: u64) {
        self.latency.add(le, n);
    }
}

fn span(profile: &Profile) -> Ns {
    Ns(Ns::from_ms(profile.error_window_ms).0.div_ceil(PARTS).max(1))
}

fn learn(baseline: &mut Vec<Hour>, part: &Part) {
    let hour = part.at.0 / HOUR.0;
    let place = baseline.partition_point(|it| it.hour < hour);
    if baseline.get(place).is_none_or(|it| it.hour != hour) {
        baseline.insert(place, Hour { hour, latency: Histogram::default() });
    }
    baseline[place].latency.merge(&part.latency);
}

fn merged<'a>(all: impl Iterator<Item = &'a Histogram>) -> Histogram {
    all.fold(Histogram::default(), |mut sum, it| {
        sum.merge(it);
        sum
    })
}
