//! What speaks for a pattern and what speaks against it, each with the fact and its reference.
//!
//! A kind that is neither found nor refuted is missing: it lowers coverage, it is named, and it
//! is never invented (spec 30 §12).

use schemas::Ns;
use schemas::event::{ChangeKind, Health, Signal};

use super::facts::{Change, Facts};
use crate::config::{self, Service};
use crate::detection::{self, ServiceHealth};
use crate::fold::View;
use crate::said;

/// Kinds of evidence (spec 30 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Network errors over their limit.
    NetErrorsBreach,
    /// Connection errors in logs.
    ConnectionErrorsInLogs,
    /// Time-outs to two or more peers.
    PeerTimeouts,
    /// CPU or memory over its limit for two minutes.
    ResourceBreach,
    /// A kernel's or runtime's word about a limit.
    RuntimeLimitLog,
    /// It was started again and again.
    RestartLoop,
    /// More requests than usual.
    RequestsAboveBaseline,
    /// A growing queue.
    QueueGrowth,
    /// p95 over its limit.
    LatencyBreach,
    /// Its configuration changed.
    ConfigurationChanged,
    /// A parse or validation error in logs.
    ParseErrorInLogs,
    /// It ends at its start.
    StartFailure,
    /// The digest of its environment is not the desired one.
    EnvironmentDiffers,
    /// The digest of its environment is the desired one.
    EnvironmentAsDesired,
    /// A checksum, schema or chain mismatch.
    ChecksumMismatch,
    /// A failed read or decode in logs.
    DecodeErrorInLogs,
    /// Something it depends on turned red before it.
    DependencyRedFirst,
    /// Its answers fail while it lives.
    ProviderErrors,
    /// Others that depend on the same are red too.
    SharedAcrossCallers,
    /// Everything that it depends on answers.
    DependenciesAnswer,
    /// Its version changed.
    VersionChanged,
    /// An exception that was never seen before.
    NewException,
    /// What is wrong was not wrong before the change.
    BreachAfterChange,
    /// Its liveness probe fails.
    ProbeFails,
    /// Its process exists.
    ProcessExists,
    /// Its process has ended, and nobody asked for that.
    ProcessEnded,
}

impl Evidence {
    /// What stands in the explanation when it is missing.
    pub(super) fn words(self) -> &'static str {
        match self {
            Evidence::NetErrorsBreach => "network errors",
            Evidence::ConnectionErrorsInLogs => "connection errors in logs",
            Evidence::PeerTimeouts => "time-outs to peers",
            Evidence::ResourceBreach => "a resource at its limit",
            Evidence::RuntimeLimitLog => "a limit reported by the kernel or the runtime",
            Evidence::RestartLoop => "repeated starts",
            Evidence::RequestsAboveBaseline => "more requests than usual",
            Evidence::QueueGrowth => "a growing queue",
            Evidence::LatencyBreach => "high latency",
            Evidence::ConfigurationChanged => "a change of configuration",
            Evidence::ParseErrorInLogs => "a parse error in logs",
            Evidence::StartFailure => "a failed start",
            Evidence::EnvironmentDiffers => "a changed environment",
            Evidence::EnvironmentAsDesired => "the digest of its environment",
            Evidence::ChecksumMismatch => "a checksum mismatch",
            Evidence::DecodeErrorInLogs => "a failed read in logs",
            Evidence::DependencyRedFirst => "a dependency that failed first",
            Evidence::ProviderErrors => "failing answers",
            Evidence::SharedAcrossCallers => "other callers that fail",
            Evidence::DependenciesAnswer => "whether its dependencies answer",
            Evidence::VersionChanged => "a change of version",
            Evidence::NewException => "a new exception in logs",
            Evidence::BreachAfterChange => "a breach that began after the change",
            Evidence::ProbeFails => "a failing probe",
            Evidence::ProcessExists => "whether its process exists",
            Evidence::ProcessEnded => "an ended process",
        }
    }

    /// 1 by default; a change is weighed first, because most failures follow one (spec 30 §3).
    pub(super) fn weight(self) -> f64 {
        match self {
            Evidence::VersionChanged
            | Evidence::ConfigurationChanged
            | Evidence::EnvironmentDiffers => 2.0,
            Evidence::NetErrorsBreach
            | Evidence::ConnectionErrorsInLogs
            | Evidence::PeerTimeouts
            | Evidence::ResourceBreach
            | Evidence::RuntimeLimitLog
            | Evidence::RestartLoop
            | Evidence::RequestsAboveBaseline
            | Evidence::QueueGrowth
            | Evidence::LatencyBreach
            | Evidence::ParseErrorInLogs
            | Evidence::StartFailure
            | Evidence::EnvironmentAsDesired
            | Evidence::ChecksumMismatch
            | Evidence::DecodeErrorInLogs
            | Evidence::DependencyRedFirst
            | Evidence::ProviderErrors
            | Evidence::SharedAcrossCallers
            | Evidence::DependenciesAnswer
            | Evidence::NewException
            | Evidence::BreachAfterChange
            | Evidence::ProbeFails
            | Evidence::ProcessExists
            | Evidence::ProcessEnded => 1.0,
        }
    }
}

impl Evidence {
    /// Whether it only describes the circumstances: true of most healthy services too, so that
    /// alone it speaks for nothing.
    pub(super) fn is_circumstance(self) -> bool {
        let circumstances =
            [Evidence::EnvironmentAsDesired, Evidence::DependenciesAnswer, Evidence::ProcessExists];
        circumstances.contains(&self)
    }
}

/// Whether a kind was found or refuted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    /// It is there, so strongly (above 0, at most 1).
    Present(f64),
    /// It is known not to be there.
    Absent,
}

/// A kind of evidence, found or refuted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) kind: Evidence,
    pub(super) state: State,
    /// The fact, as a sentence without its full stop.
    pub(super) sentence: String,
    /// Since when.
    pub(super) at: Ns,
    /// Where it can be seen; empty for a fact about the configuration.
    pub(super) refs: Vec<String>,
}

/// Changes older than this explain nothing any more.
const CHANGE_WINDOW: Ns = Ns::from_s(3600);
/// Starts within the same time that make a loop.
const LOOP_FAILURES: u32 = 3;

/// What is known of one service at one place.
pub(super) struct Scene<'v, 'a> {
    pub(super) view: &'v View<'a>,
    pub(super) now: Ns,
    /// All services: reading them is most of what a hypothesis costs, so it is done once.
    pub(super) services: Vec<Service>,
    /// The names that these are registered under.
    pub(super) names: Vec<String>,
    pub(super) service: Service,
    pub(super) health: ServiceHealth,
    pub(super) facts: Facts,
    found: Vec<Found>,
}

impl<'v, 'a> Scene<'v, 'a> {
    /// Looks at `service`; `None` where nothing was ever seen of it.
    pub(super) fn look(view: &'v View<'a>, now: Ns, service: &str) -> Option<Self> {
        let health = detection::health(view, service)?;
        let facts = super::facts::of(view, service);
        let (names, services) = config::registered(view).into_iter().unzip();
        let service = config::service(view, service)
            .unwrap_or_else(|| Service { name: service.to_owned(), ..Service::default() });
        let found = Vec::new();
        let mut scene = Scene { view, now, services, names, service, health, facts, found };
        scene.process();
        scene.environment();
        scene.dependencies();
        scene.breaches();
        scene.changes();
        Some(scene)
    }

    /// Everything found or refuted.
    pub(super) fn found(&self) -> &[Found] {
        &self.found
    }

    fn add(&mut self, kind: Evidence, state: State, at: Ns, sentence: impl Into<String>) {
        let refs = vec![self.health.evidence.clone()];
        self.add_with(kind, state, at, sentence, refs);
    }

    fn add_with(
        &mut self,
        kind: Evidence,
        state: State,
        at: Ns,
        sentence: impl Into<String>,
        refs: Vec<String>,
    ) {
        self.found.push(Found { kind, state, sentence: sentence.into(), at, refs });
    }

    /// The liveness of the process: exists, ended, failed at its start, hangs.
    fn process(&mut self) {
        let heartbeat = self.health.signal(Signal::Heartbeat);
        let is_red = heartbeat.is_some_and(|it| it.colour == Health::Red);
        let red_since = heartbeat.map_or(self.now, |it| it.since);
        let process = self.health.process_up;
        let (misses, failed) = (self.health.misses, self.health.start_failed);
        match process {
            Some(it) if it.holds => {
                self.add(
                    Evidence::ProcessExists,
                    State::Present(1.0),
                    it.since,
                    "its process runs",
                );
                self.add(Evidence::ProcessEnded, State::Absent, it.since, "its process runs");
            }
            Some(it) => {
                let ended = "it ended without a request";
                self.add(Evidence::ProcessEnded, State::Present(1.0), it.since, ended);
                let gone = "its process does not exist";
                self.add(Evidence::ProcessExists, State::Absent, it.since, gone);
            }
            None => {}
        }
        match (process, failed) {
            (_, Some(at)) => {
                let sentence = "its process ended within 2 s of its start";
                self.add(Evidence::StartFailure, State::Present(1.0), at, sentence);
            }
            (Some(it), None) if it.holds => {
                self.add(Evidence::StartFailure, State::Absent, it.since, "its process runs");
            }
            // Whether it would start is not known; that it does not run is.
            (Some(it), None) => {
                let sentence = "its process does not run";
                self.add(Evidence::StartFailure, State::Present(0.7), it.since, sentence);
            }
            (None, None) => {}
        }
        if is_red && misses > 0 {
            let sentence = format!("{misses} probes in a row failed");
            self.add(Evidence::ProbeFails, State::Present(1.0), red_since, sentence);
        } else if misses == 0 && !self.health.passes.is_empty() {
            let sentence = "its probe is answered";
            self.add(Evidence::ProbeFails, State::Absent, self.health.seen_at, sentence);
        }
        if self.facts.failed_attempts >= LOOP_FAILURES {
            let sentence = format!("it was started {} times in vain", self.facts.failed_attempts);
            self.add(Evidence::RestartLoop, State::Present(1.0), self.now, sentence);
        }
    }

    fn environment(&mut self) {
        match (self.health.env_ok, &self.service.environment) {
            (Some(it), _) if it.holds => {
                let sentence = "its environment has the desired digest";
                self.add(Evidence::EnvironmentAsDesired, State::Present(0.5), it.since, sentence);
                self.add(Evidence::EnvironmentDiffers, State::Absent, it.since, sentence);
            }
            (Some(it), _) => {
                let sentence = "the digest of its environment is not the desired one";
                self.add(Evidence::EnvironmentDiffers, State::Present(1.0), it.since, sentence);
                self.add(Evidence::EnvironmentAsDesired, State::Absent, it.since, sentence);
            }
            (None, None) => {
                let sentence = "it has no environment of its own";
                let kind = Evidence::EnvironmentAsDesired;
                self.add_with(kind, State::Present(0.5), Ns(0), sentence, Vec::new());
                let kind = Evidence::EnvironmentDiffers;
                self.add_with(kind, State::Absent, Ns(0), sentence, Vec::new());
            }
            (None, Some(_)) => {}
        }
    }

    fn dependencies(&mut self) {
        let since = self.red_since();
        let names = self.service.depends_on.clone();
        let all: Vec<(String, Option<ServiceHealth>)> =
            names.into_iter().map(|it| (it.clone(), detection::health(self.view, &it))).collect();
        let red =
            |it: &Option<ServiceHealth>| it.as_ref().filter(|it| it.colour == Health::Red).cloned();
        if let Some((name, health)) = all.iter().find_map(|(name, it)| Some((name, red(it)?))) {
            let sentence = format!("{name}, which it depends on, is red");
            let refs = vec![health.evidence.clone()];
            let kind = Evidence::DependenciesAnswer;
            self.add_with(kind, State::Absent, health.since, sentence, refs.clone());
            let (state, order) = match health.since <= since {
                true => (State::Present(1.0), "before it"),
                false => (State::Absent, "after it"),
            };
            let sentence = format!("{name}, which it depends on, turned red {order}");
            self.add_with(Evidence::DependencyRedFirst, state, health.since, sentence, refs);
            self.shared(name);
        } else if all.is_empty() {
            let kind = Evidence::DependenciesAnswer;
            let sentence = "it depends on no other service";
            self.add_with(kind, State::Present(0.5), Ns(0), sentence, Vec::new());
            let kind = Evidence::DependencyRedFirst;
            self.add_with(kind, State::Absent, Ns(0), sentence, Vec::new());
        } else if all.iter().all(|(_, it)| it.as_ref().is_some_and(ServiceHealth::is_green)) {
            let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
            let sentence = format!("{} answer", names.join(", "));
            self.add(Evidence::DependenciesAnswer, State::Present(1.0), self.now, sentence.clone());
            self.add(Evidence::DependencyRedFirst, State::Absent, self.now, sentence);
        }
    }

    /// Others that depend on `name` and are red.
    fn shared(&mut self, name: &str) {
        let services = &self.services;
        let others = services.iter().filter(|it| it.name != self.service.name);
        let callers = others.filter(|it| it.depends_on.iter().any(|on| on == name));
        let red = callers.filter_map(|it| detection::health(self.view, &it.name));
        let red: Vec<ServiceHealth> = red.filter(|it| it.colour == Health::Red).collect();
        if let Some(first) = red.first() {
            let sentence = format!("{} depends on {name} too and is red", first.service);
            let (kind, refs) = (Evidence::SharedAcrossCallers, vec![first.evidence.clone()]);
            self.add_with(kind, State::Present(1.0), first.since, sentence, refs);
        }
    }

    fn breaches(&mut self) {
        let red = self.health.signals.iter().filter(|it| it.colour == Health::Red);
        let red: Vec<(Signal, Ns)> = red.map(|it| (it.signal, it.since)).collect();
        let is_alive = self.health.has_process() != Some(false);
        for (signal, since) in red {
            let kind = match signal {
                Signal::ErrorRate if is_alive => Evidence::ProviderErrors,
                Signal::ApiP95Ms => Evidence::LatencyBreach,
                Signal::CpuLoad | Signal::MemPressure | Signal::DiskIo => Evidence::ResourceBreach,
                Signal::NetErrors => Evidence::NetErrorsBreach,
                Signal::QueueLag | Signal::DlqDepth => Evidence::QueueGrowth,
                Signal::ErrorRate | Signal::Heartbeat => continue,
            };
            let sentence = format!("its {signal} is red");
            self.add(kind, State::Present(1.0), since, sentence);
        }
    }

    /// The newest change of version and of configuration, weaker the longer ago.
    fn changes(&mut self) {
        let since = self.red_since();
        let recent = |it: &&Change| it.at <= since && since.since(it.at) <= CHANGE_WINDOW;
        let newest = |kinds: &[ChangeKind]| {
            let of_kind = self.facts.changes.iter().filter(|it| kinds.contains(&it.kind));
            of_kind.filter(recent).max_by_key(|it| it.at).cloned()
        };
        let strength = |it: &Change| 1.0 - 0.5 * since.since(it.at).as_s() / CHANGE_WINDOW.as_s();
        let version = newest(&[ChangeKind::Deploy, ChangeKind::Commit]);
        let configuration = newest(&[ChangeKind::Config, ChangeKind::Flag]);
        if let Some(it) = version {
            let ago = said::span(Ns(since.since(it.at).0 / 1_000_000_000 * 1_000_000_000));
            let sentence = format!("{} {ago} before", it.sentence);
            let (state, refs) = (State::Present(strength(&it)), vec![it.reference.clone()]);
            self.add_with(Evidence::VersionChanged, state, it.at, sentence, refs);
            self.breach_after(&it);
        }
        if let Some(it) = configuration {
            let (state, refs) = (State::Present(strength(&it)), vec![it.reference.clone()]);
            self.add_with(Evidence::ConfigurationChanged, state, it.at, it.sentence, refs);
        }
    }

    /// Answers that were good before the change and are bad after it.
    fn breach_after(&mut self, change: &Change) {
        let breach = self.health.signals.iter().find(|it| {
            matches!(it.signal, Signal::ErrorRate | Signal::ApiP95Ms)
                && it.colour == Health::Red
                && it.since >= change.at
                && it.told_at.contains_key(Health::Green.as_str())
        });
        let Some((signal, since)) = breach.map(|it| (it.signal, it.since)) else { return };
        let sentence = format!("its {signal} was good before that and is red since");
        self.add(Evidence::BreachAfterChange, State::Present(1.0), since, sentence);
    }

    /// When its first red signal turned red.
    pub(super) fn red_since(&self) -> Ns {
        let red = self.health.signals.iter().filter(|it| it.colour == Health::Red);
        red.map(|it| it.since).min().unwrap_or(self.now)
    }
}
