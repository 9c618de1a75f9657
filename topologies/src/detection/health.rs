//! What is known of a service: its signals, their colours, and the facts behind them.

use std::collections::BTreeMap;

use schemas::Ns;
use schemas::event::{Health, Signal};
use serde::{Deserialize, Serialize};

/// Passed probes that are remembered; more than any validation asks for.
const PASSES_MAX: usize = 16;

/// Whether a service may be judged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not yet seen healthy for long enough: it is watched and not judged.
    Learning,
    /// Judged.
    Ready,
}

/// Something that is or is not so, since when, and when it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Whether it is so.
    pub holds: bool,
    /// Since when.
    pub since: Ns,
    /// When it was last measured.
    pub at: Ns,
}

impl Fact {
    /// The fact after a measurement at `at`.
    pub fn after(before: Option<Fact>, holds: bool, at: Ns) -> Self {
        match before {
            Some(it) if it.holds == holds => Fact { holds, since: it.since, at: it.at.max(at) },
            _ => Fact { holds, since: at, at },
        }
    }
}

/// One signal of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalHealth {
    /// Which one.
    pub signal: Signal,
    /// Its colour now.
    pub colour: Health,
    /// Its last colour other than unknown; unknown before the first.
    pub known: Health,
    /// Since when it has `colour`.
    pub since: Ns,
    /// When its newest sample was measured.
    pub seen_at: Ns,
    /// Whether it is unknown because nothing came, and not because too little did.
    pub is_stale: bool,
    /// What was measured, in the signal's unit.
    pub observed: f64,
    /// What it was held against.
    pub threshold: f64,
    /// Window of the measurement, seconds.
    pub window_s: u32,
    /// Which detector judged.
    pub detector: String,
    /// The colour that was last said.
    pub told: Health,
    /// When each colour was last said.
    pub told_at: BTreeMap<String, Ns>,
}

impl SignalHealth {
    fn new(signal: Signal) -> Self {
        SignalHealth {
            signal,
            colour: Health::Unknown,
            known: Health::Unknown,
            since: Ns(0),
            seen_at: Ns(0),
            is_stale: false,
            observed: 0.0,
            threshold: 0.0,
            window_s: 0,
            detector: String::new(),
            told: Health::Unknown,
            told_at: BTreeMap::new(),
        }
    }

    /// Gives it the colour that was judged at `now`.
    pub(super) fn turn(&mut self, colour: Health, now: Ns) {
        if colour != self.colour {
            self.since = now;
            self.colour = colour;
        }
        if colour != Health::Unknown {
            self.known = colour;
        }
    }
}

/// A level that counts only when it lasts (spec 20 §2: "> 90 % for > 2 min").
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Sustained {
    /// Newest value.
    pub value: f64,
    /// Since when it has been above the first threshold without a break.
    pub amber_since: Option<Ns>,
    /// Since when it has been above the second.
    pub red_since: Option<Ns>,
}

/// How a service is. Others read it; only detection writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceHealth {
    /// Its name.
    pub service: String,
    /// Whether it may be judged yet.
    pub phase: Phase,
    /// The worst of its signals; unknown while it learns.
    pub colour: Health,
    /// Since when it has that colour.
    pub since: Ns,
    /// Its signals, in order.
    pub signals: Vec<SignalHealth>,
    /// When its newest sample was measured.
    pub seen_at: Ns,
    /// Since when nothing spoke against it, while it learns.
    pub healthy_since: Option<Ns>,
    /// When the passed probes since the last failed one were measured; the newest sixteen, oldest
    /// first.
    pub passes: Vec<Ns>,
    /// Failed probes since the last passed one.
    pub misses: u32,
    /// Samples in a row in which its process did not exist.
    pub downs: u32,
    /// Whether probes are sent to it; without them its process stands for them.
    pub is_probed: bool,
    /// Whether its process exists.
    pub process_up: Option<Fact>,
    /// Whether its environment has the desired digest.
    pub env_ok: Option<Fact>,
    /// When it last ended right after its start, until it has stayed up.
    pub start_failed: Option<Ns>,
    /// Last known seconds since its start, by slot.
    pub uptime_s: BTreeMap<String, f64>,
    /// Share of CPU.
    pub cpu: Option<Sustained>,
    /// Share of memory.
    pub memory: Option<Sustained>,
    /// The sealed range that its newest samples lie in.
    pub evidence: String,
    /// When silence is looked for next.
    pub stale_at: Option<Ns>,
}

impl ServiceHealth {
    /// A service of which nothing is known.
    pub fn new(service: &str) -> Self {
        ServiceHealth {
            service: service.to_owned(),
            phase: Phase::Learning,
            colour: Health::Unknown,
            since: Ns(0),
            signals: Vec::new(),
            seen_at: Ns(0),
            healthy_since: None,
            passes: Vec::new(),
            misses: 0,
            downs: 0,
            is_probed: false,
            process_up: None,
            env_ok: None,
            start_failed: None,
            uptime_s: BTreeMap::new(),
            cpu: None,
            memory: None,
            evidence: String::new(),
            stale_at: None,
        }
    }

    /// Whether every signal that counts is known and good.
    pub fn is_green(&self) -> bool {
        self.colour == Health::Green
    }

    /// The signal, if it was ever seen.
    pub fn signal(&self, signal: Signal) -> Option<&SignalHealth> {
        self.signals.iter().find(|it| it.signal == signal)
    }

    /// Probes passed in a row that were measured after `at`.
    pub fn passes_since(&self, at: Ns) -> u32 {
        self.passes.iter().filter(|it| **it > at).count() as u32
    }

    /// Whether its process is known to exist.
    pub fn has_process(&self) -> Option<bool> {
        self.process_up.map(|it| it.holds)
    }

    /// Health score in percent (spec 20 §4): the mean of the ladder sub-scores of §5 over the
    /// signals that are known; `None` where none is.
    pub fn score(&self) -> Option<f64> {
        let known = self.signals.iter().filter(|it| it.colour != Health::Unknown);
        let scores: Vec<f64> = known.map(rung).collect();
        let n = scores.len() as f64;
        (!scores.is_empty()).then(|| 100.0 * scores.iter().sum::<f64>() / n)
    }

    pub(super) fn signal_mut(&mut self, signal: Signal) -> &mut SignalHealth {
        let at = self.signals.partition_point(|it| it.signal < signal);
        if self.signals.get(at).is_none_or(|it| it.signal != signal) {
            self.signals.insert(at, SignalHealth::new(signal));
        }
        &mut self.signals[at]
    }

    pub(super) fn pass(&mut self, at: Ns) {
        self.misses = 0;
        if self.passes.len() == PASSES_MAX {
            self.passes.remove(0);
        }
        self.passes.push(at);
    }

    pub(super) fn miss(&mut self) {
        self.passes.clear();
        self.misses = self.misses.saturating_add(1);
    }
}

/// Sub-score of a signal by the steps of its ladder that are passed (spec 20 §5).
fn rung(it: &SignalHealth) -> f64 {
    let ladder = |steps: [f64; 3]| {
        let passed = steps.iter().filter(|step| it.observed > **step).count();
        [1.0, 0.67, 0.33, 0.0][passed]
    };
    match it.signal {
        Signal::ApiP95Ms => ladder([2_000.0, 5_000.0, 10_000.0]),
        Signal::ErrorRate => ladder([0.05, 0.10, 0.20]),
        Signal::MemPressure | Signal::CpuLoad => ladder([0.80, 0.90, 0.95]),
        Signal::Heartbeat
        | Signal::QueueLag
        | Signal::DlqDepth
        | Signal::DiskIo
        | Signal::NetErrors => match it.colour {
            Health::Green => 1.0,
            Health::Amber => 0.5,
            Health::Red | Health::Unknown => 0.0,
        },
    }
}
