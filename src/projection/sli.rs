//! What users got, slot by slot: the service level indicator as the page draws it.
//!
//! Everything here comes from sealed telemetry and is read again when it is wanted; nothing of it
//! is stored, and no fold reads it. It judges nothing: colours are detection's.
//!
//! Invariants:
//! - A slot in which nothing was measured has no value. It is never drawn as good.
//! - A curve has at most [`SLOTS`] slots, however long the time is that it covers.
//! - Times are those of the samples; one that lies ahead of its seal is dated with the seal, as
//!   detection does it.

mod reading;

use std::collections::VecDeque;

use schemas::event::{Signal, TelemetrySealed};
use schemas::{Batch, Event, Ns, Place};
use state::LogError;
use topologies::profile::Profile;
use topologies::stats::Histogram;

use self::reading::{Dictionary, Runs, each};
use super::model::Model;
use crate::journal::{Journal, first_where};

/// Slots of a curve.
pub const SLOTS: usize = 60;
/// A slot of the curve that every service has.
pub const RECENT_SLOT: Ns = Ns::from_s(5);
/// The time that it covers.
pub const RECENT: Ns = Ns(RECENT_SLOT.0 * SLOTS as u64);
/// The shortest slot of an incident's curve: four reports of the proxy.
const SLOT_MIN: Ns = Ns::from_s(1);
/// Slots shown before an incident was detected, and after it was over.
const BEFORE: u64 = 15;
const AFTER: u64 = 8;
/// The longest time that an incident's curve covers from its beginning.
const LONGEST: Ns = Ns::from_s(30 * 60);
/// One page reads no more than this of journal and telemetry; what lies behind it is a gap.
const PAGE_BYTES: usize = 24 * 1024 * 1024;
/// Records are read in runs of about this size.
const READ_BYTES: usize = 1024 * 1024;
/// At most so many samples are read to catch up; a busy node's curves then begin later.
const SAMPLES_MAX: u64 = 2_000_000;

/// What is drawn of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indicator {
    /// Share of requests that were answered well.
    Answers,
    /// 95th percentile of latency, milliseconds.
    Latency,
    /// Share of probes that passed.
    Probes,
}

/// What was measured of a service in one slot.
#[derive(Clone, Debug, Default, PartialEq)]
struct Slot {
    requests: u64,
    errors: u64,
    passed: u64,
    failed: u64,
    latency: Option<Histogram>,
}

/// What one series counts.
#[derive(Clone, Debug, PartialEq)]
enum Counts {
    Requests,
    Errors,
    Latency(String),
    Probe,
}

/// The narrowest slot that no healthy service leaves empty: it holds two probes, wherever they
/// fall.
pub fn slot_min(profile: &Profile, probe_every_ms: u64) -> Ns {
    let every = if probe_every_ms > 0 { probe_every_ms } else { profile.probe_period_ms };
    Ns::from_ms(every.saturating_mul(2)).max(SLOT_MIN)
}

/// Slots of equal width, the oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    from: Ns,
    width: Ns,
    slots: VecDeque<Slot>,
    newest: Option<Ns>,
    /// Where its telemetry could not be read to the end, from when on.
    cut: Option<Ns>,
}

impl Indicator {
    /// The indicator that shows this signal.
    pub fn of(signal: Signal) -> Option<Self> {
        match signal {
            Signal::ErrorRate => Some(Indicator::Answers),
            Signal::ApiP95Ms => Some(Indicator::Latency),
            Signal::Heartbeat => Some(Indicator::Probes),
            Signal::QueueLag
            | Signal::DlqDepth
            | Signal::CpuLoad
            | Signal::MemPressure
            | Signal::DiskIo
            | Signal::NetErrors => None,
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Indicator::Answers => "good answers",
            Indicator::Latency => "p95 latency",
            Indicator::Probes => "passed probes",
        }
    }

    /// The value that it must keep: where amber begins.
    pub fn objective(self, profile: &Profile) -> f64 {
        match self {
            Indicator::Answers => 1.0 - profile.error_rate_amber,
            Indicator::Latency => profile.p95_amber_ms,
            Indicator::Probes => 1.0,
        }
    }

    /// Whether `value` keeps `objective`.
    pub fn keeps(self, value: f64, objective: f64) -> bool {
        match self {
            Indicator::Answers | Indicator::Probes => value >= objective,
            Indicator::Latency => value <= objective,
        }
    }

    /// A value with its unit.
    pub fn measure(self, value: f64) -> String {
        match self {
            // Rounded down: what is not all of them is never shown as all of them.
            Indicator::Answers | Indicator::Probes => {
                format!("{}\u{a0}%", (value * 1000.0).floor() / 10.0)
            }
            Indicator::Latency => format!("{value:.0} ms"),
        }
    }

    /// What its objective asks for.
    pub fn asks(self, objective: f64) -> String {
        match self {
            Indicator::Answers => {
                format!("at least {}\u{a0}%", (objective * 1000.0).round() / 10.0)
            }
            Indicator::Latency => format!("at most {objective:.0} ms"),
            Indicator::Probes => "every probe passes".to_owned(),
        }
    }
}

impl Slot {
    fn add(&mut self, counts: &Counts, value: f64) {
        let n = value.clamp(0.0, 1e9) as u64;
        match counts {
            Counts::Requests => self.requests += n,
            Counts::Errors => self.errors += n,
            Counts::Latency(le) => self.latency.get_or_insert_default().add(le, n),
            Counts::Probe if value >= 0.5 => self.passed += 1,
            Counts::Probe => self.failed += 1,
        }
    }

    fn merge(&mut self, other: &Slot) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.passed += other.passed;
        self.failed += other.failed;
        if let Some(latency) = &other.latency {
            self.latency.get_or_insert_default().merge(latency);
        }
    }

    fn value(&self, of: Indicator) -> Option<f64> {
        let share = |good: u64, all: u64| (all > 0).then(|| good as f64 / all as f64);
        match of {
            Indicator::Answers => share(self.requests.saturating_sub(self.errors), self.requests),
            Indicator::Latency => self.latency.as_ref().and_then(|it| it.quantile(0.95, 1)),
            Indicator::Probes => share(self.passed, self.passed + self.failed),
        }
    }
}

impl Curve {
    /// A curve of `from` to `to`.
    fn between(from: Ns, to: Ns, slot_min: Ns) -> Self {
        let width = Ns(to.since(from).0.div_ceil(SLOTS as u64)).max(slot_min);
        let n = to.since(from).0.div_ceil(width.0).max(1) as usize;
        let slots = std::iter::repeat_n(Slot::default(), n.min(SLOTS)).collect();
        Curve { from, width, slots, ..Curve::default() }
    }

    /// When it begins.
    pub fn from(&self) -> Ns {
        self.from
    }

    /// When it ends.
    pub fn to(&self) -> Ns {
        self.from + Ns(self.width.0 * self.slots.len() as u64)
    }

    /// The width of a slot.
    pub fn width(&self) -> Ns {
        self.width
    }

    /// When the newest sample was measured.
    pub fn newest(&self) -> Option<Ns> {
        self.newest
    }

    /// From when on it is not drawn, because one page does not read so much.
    pub fn cut(&self) -> Option<Ns> {
        self.cut
    }

    /// A value for each slot; `None` where nothing was measured.
    pub fn values(&self, of: Indicator) -> Vec<Option<f64>> {
        self.slots.iter().map(|it| it.value(of)).collect()
    }

    /// The values of the last [`RECENT`] before `now` in slots of at least `slot_min`, the newest
    /// last.
    pub fn recent(&self, of: Indicator, now: Ns, slot_min: Ns) -> Vec<Option<f64>> {
        let last = now.0 / RECENT_SLOT.0;
        let first = (last + 1).saturating_sub(SLOTS as u64);
        let at = |n: u64| {
            let place = n.checked_sub(self.from.0 / RECENT_SLOT.0)?;
            self.slots.get(usize::try_from(place).ok()?)
        };
        let slots: Vec<Option<&Slot>> = (first..=last).map(at).collect();
        let n_each = (slot_min.0.div_ceil(RECENT_SLOT.0) as usize).clamp(1, SLOTS);
        let merged = slots.rchunks(n_each).map(|each| {
            let mut sum = Slot::default();
            each.iter().flatten().for_each(|it| sum.merge(it));
            sum.value(of)
        });
        let mut values: Vec<Option<f64>> = merged.collect();
        values.reverse();
        values
    }

    /// What there is to draw of a service: what its users got, where it has users that are
    /// counted.
    pub fn indicator(&self) -> Option<Indicator> {
        let seen = |of| self.slots.iter().any(|it| it.value(of).is_some());
        [Indicator::Answers, Indicator::Probes].into_iter().find(|of| seen(*of))
    }

    fn add(&mut self, at: Ns, counts: &Counts, value: f64) {
        self.newest = self.newest.max(Some(at));
        let Some(after) = at.0.checked_sub(self.from.0) else { return };
        let place = (after / self.width.0.max(1)) as usize;
        if let Some(slot) = self.slots.get_mut(place) {
            slot.add(counts, value);
        }
    }

    /// As [`Curve::add`], with the oldest slots making room.
    fn add_recent(&mut self, at: Ns, counts: &Counts, value: f64) {
        let start = Ns(at.0 / RECENT_SLOT.0 * RECENT_SLOT.0);
        let is_far = start.since(self.to()) > RECENT;
        if self.slots.is_empty() || is_far {
            self.slots.clear();
            (self.from, self.width) = (start, RECENT_SLOT);
        }
        while self.to() <= start {
            self.slots.push_back(Slot::default());
            if self.slots.len() > SLOTS {
                self.slots.pop_front();
                self.from = self.from + RECENT_SLOT;
            }
        }
        self.add(at, counts, value);
    }
}

/// Seals that are still to be read into the curves of the services.
#[derive(Debug, Default)]
pub(super) struct Recent {
    seals: VecDeque<(Ns, TelemetrySealed)>,
    n_samples: u64,
    dictionary: Dictionary,
}

impl Recent {
    /// Remembers a seal, and forgets those that have left the time that is drawn.
    pub(super) fn remember(&mut self, seal: &TelemetrySealed, wall: Ns) {
        self.n_samples += seal.n_samples;
        self.seals.push_back((wall, seal.clone()));
        while self.seals.len() > 1
            && self
                .seals
                .front()
                .is_some_and(|(at, _)| wall.since(*at) > RECENT || self.n_samples > SAMPLES_MAX)
        {
            self.forget();
        }
    }

    fn forget(&mut self) -> Option<(Ns, TelemetrySealed)> {
        let seal = self.seals.pop_front();
        self.n_samples -= seal.as_ref().map_or(0, |(_, it)| it.n_samples);
        seal
    }

    /// Reads what was remembered.
    pub(super) fn read<J: Journal + ?Sized>(
        &mut self,
        log: &J,
        mut add: impl FnMut(&str, Ns, &Counted<'_>),
    ) -> Result<(), LogError> {
        let mut runs = Runs::of(log);
        while let Some((wall, seal)) = self.forget() {
            each(
                &mut runs,
                seal.from..seal.to,
                wall,
                &mut self.dictionary,
                &mut |service, at, counts, value| {
                    add(service, at, &Counted { counts, value });
                },
            )?;
        }
        Ok(())
    }
}

/// One sample that counts.
pub(super) struct Counted<'a> {
    counts: &'a Counts,
    value: f64,
}

impl Model {
    /// Takes one sample into the curve of its service, if it is under care.
    pub(super) fn measure(&mut self, service: &str, at: Ns, counted: &Counted<'_>) {
        if let Some(it) = self.services.get_mut(service) {
            it.curve.add_recent(at, counted.counts, counted.value);
        }
    }
}

/// The time around an incident.
#[derive(Clone, Debug, PartialEq)]
pub struct Around {
    /// Service concerned.
    pub service: String,
    /// When it was detected.
    pub detected_at: Ns,
    /// When it was over, or now.
    pub until: Ns,
    /// An entry at or after its beginning.
    pub opened: Place,
    /// The narrowest slot of its curve.
    pub slot_min: Ns,
}

/// The curve of a service around an incident, read from the journal's seals.
///
/// # Errors
/// The log is damaged. Telemetry that is no longer kept is a gap.
pub fn around<J: Journal + ?Sized>(log: &J, it: &Around) -> Result<Curve, LogError> {
    let slots = |n: u64| Ns(it.slot_min.0.saturating_mul(n));
    let from = it.detected_at.since(slots(BEFORE));
    let to = (it.until + slots(AFTER)).min(it.detected_at + LONGEST);
    let mut curve = Curve::between(from, to, it.slot_min);
    let mut dictionary = Dictionary::default();
    let (mut seq, end) = (first_after(log, from, it.opened.seq)?, log.head()?.next_seq);
    let (mut n_bytes, mut runs) = (0, Runs::of(log));
    // A seal may lie up to a second behind the samples that it holds.
    let last = to + Ns::from_s(1);
    while seq < end {
        for batch in log.read(seq, READ_BYTES)? {
            seq = batch.next_seq();
            for entry in &batch.entries {
                n_bytes += entry.size();
                let Ok(Event::TelemetrySealed(seal)) = entry.event() else { continue };
                let wall = entry.envelope.wall;
                if wall > last {
                    return Ok(curve);
                }
                if n_bytes > PAGE_BYTES {
                    curve.cut = Some(wall);
                    return Ok(curve);
                }
                let add = &mut |service: &str, at, counts: &Counts, value| {
                    if service == it.service {
                        curve.add(at, counts, value);
                    }
                };
                n_bytes += each(&mut runs, seal.from..seal.to, wall, &mut dictionary, add)?;
            }
        }
    }
    Ok(curve)
}

/// The first entry at or after `at`, or `opened`: wall times rise along the chain.
fn first_after<J: Journal + ?Sized>(log: &J, at: Ns, opened: u64) -> Result<u64, LogError> {
    let is_before = |batch: &Batch| batch.header.wall < at;
    first_where(opened, |seq| Ok(!log.read(seq, 1)?.first().is_some_and(is_before)))
}
