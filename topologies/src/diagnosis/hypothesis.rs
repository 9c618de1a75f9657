//! From evidence to one hypothesis: class, pattern, confidence, and the account of it.

use schemas::event::{Health, Impact, Pattern, RcaHypothesis, Severity, Signal};
use schemas::{Ns, Uuid};

use super::evidence::{Evidence, Found, Scene, State};
use super::patterns::{RuledOut, Standing, confidence, weigh};
use crate::config::Service;
use crate::fold::{Folded, View};
use crate::{config, detection, playbooks, rules, said};

/// Services that all have to be lost before a failure is taken for a complete one.
const LOST_MIN: usize = 3;

/// The hypothesis about `service` as things stand; `None` where it is not red now, or where nothing
/// was seen of it for so long that how it is now is unknown. Detection says so in the same tick or
/// a later one: after a time without an owner both are due at once.
pub(super) fn of(view: &View<'_>, entry: &Folded<'_>, service: &str) -> Option<RcaHypothesis> {
    let scene = Scene::look(view, entry.now(), service)?;
    let stale_after = Ns::from_ms(config::profile(view).stale_after_ms);
    let is_stale = entry.now().since(scene.health.seen_at) > stale_after;
    if scene.health.colour != Health::Red || is_stale && rules::are_third(view) {
        return None;
    }
    let (standing, ruled_out) = weigh(scene.found());
    let scores: Vec<f64> = standing.iter().map(|it| it.score).collect();
    let lead = standing.first();
    let (present, required) = lead.map_or((0, 1), |it| it.coverage);
    let confidence = confidence(&scores, present, required);
    let class = class(&scene);
    let told = Account { scene: &scene, lead, confidence, ruled_out: &ruled_out, class };
    let refs = told.refs();
    let name: [&[u8]; 2] = [service.as_bytes(), &said::place(entry)];
    Some(RcaHypothesis {
        hypothesis_id: Uuid::named("healwright/hypothesis/v1", &name),
        anomaly_ids: scene.facts.anomalies.values().map(|it| it.id).collect(),
        failure_class: class.0,
        pattern: lead.map_or(Pattern::Unknown, |it| it.pattern),
        confidence,
        evidence_refs: refs,
        causal_chain: told.chain(),
        counterfactuals: told.counterfactuals(&standing),
        explanation_nl: told.explanation(),
        impact: impact(&scene.services, service, class.0),
        service: Some(service.to_owned()),
    })
}

/// The failure class by first match from 6 down to 1 (spec 30 §2), and the rule that matched.
/// Of class 4 no source of evidence exists yet; it is never guessed.
fn class(scene: &Scene<'_, '_>) -> (u8, &'static str) {
    let has = |kind| scene.found().iter().any(|it| is_present(it, kind));
    let is_red = |signal| scene.health.signal(signal).is_some_and(|it| it.colour == Health::Red);
    let lost = |name: &String| {
        let heartbeat = detection::health(scene.view, name)
            .and_then(|it| it.signal(Signal::Heartbeat).map(|it| it.colour));
        heartbeat == Some(Health::Red)
    };
    if scene.names.len() >= LOST_MIN && scene.names.iter().all(lost) {
        return (6, "every service is lost at once");
    }
    if has(Evidence::EnvironmentDiffers) {
        return (5, "its environment has drifted");
    }
    if is_red(Signal::Heartbeat) {
        return (3, "it does not live");
    }
    let others = scene.health.signals.iter().filter(|it| it.colour == Health::Red);
    match others.clone().count() > 0 && others.clone().all(|it| it.signal == Signal::NetErrors) {
        true => (1, "only the network fails"),
        false => (2, "it answers, and badly"),
    }
}

/// Whether it repeats what an anomaly said with its numbers.
fn is_breach(kind: Evidence) -> bool {
    let breaches = [
        Evidence::ProviderErrors,
        Evidence::LatencyBreach,
        Evidence::ResourceBreach,
        Evidence::NetErrorsBreach,
        Evidence::QueueGrowth,
        Evidence::ProbeFails,
    ];
    breaches.contains(&kind)
}

fn is_present(it: &Found, kind: Evidence) -> bool {
    it.kind == kind && matches!(it.state, State::Present(_))
}

/// Severity, urgency and reach (spec 30 §5).
fn impact(services: &[Service], service: &str, class: u8) -> Impact {
    let dependants = services.iter().filter(|it| it.depends_on.iter().any(|on| on == service));
    let more = u8::from(dependants.count() > 2);
    let (severity, urgency) =
        if class == 6 { (Severity::Emergency, 9) } else { (Severity::Critical, 7) };
    let blast_radius = playbooks::affected_by(services, service);
    Impact { severity, urgency: urgency + more, blast_radius }
}

/// The account of a hypothesis.
struct Account<'s, 'v, 'a> {
    scene: &'s Scene<'v, 'a>,
    lead: Option<&'s Standing>,
    confidence: f64,
    ruled_out: &'s [RuledOut],
    class: (u8, &'static str),
}

impl Account<'_, '_, '_> {
    /// The findings that the leading pattern rests on.
    fn leading(&self) -> Vec<&Found> {
        let set = self.lead.map_or(&[][..], |it| it.set);
        let found = self.scene.found().iter();
        found.filter(|it| set.contains(&it.kind) && is_present(it, it.kind)).collect()
    }

    /// Entries and ranges, each once: the anomalies first, then what the pattern rests on.
    fn refs(&self) -> Vec<String> {
        let anomalies = self.scene.facts.anomalies.values().flat_map(|it| &it.refs);
        let mut refs: Vec<String> = Vec::new();
        for it in anomalies.chain(self.leading().iter().flat_map(|it| &it.refs)) {
            if !it.is_empty() && !refs.contains(it) {
                refs.push(it.clone());
            }
        }
        refs
    }

    /// What happened, in order of time, each step with its reference.
    fn chain(&self) -> Vec<String> {
        let mut steps: Vec<(schemas::Ns, String)> = Vec::new();
        for it in self.leading().iter().filter(|it| !it.refs.is_empty()) {
            steps.push((it.at, format!("{} [{}]", it.sentence, it.refs.join(", "))));
        }
        for it in self.scene.facts.anomalies.values() {
            let sentence = format!("{} turned {}: {}", it.signal, it.colour, it.sentence);
            steps.push((it.at, format!("{sentence} [{}]", it.refs.join(", "))));
        }
        steps.sort_by_key(|(at, _)| *at);
        steps.into_iter().map(|(at, step)| format!("{at} {step}")).collect()
    }

    /// What it would look like otherwise, and what was ruled out.
    fn counterfactuals(&self, standing: &[Standing]) -> Vec<String> {
        let mut said = Vec::new();
        if let Some(lead) = self.lead {
            said.push(without(lead).to_owned());
        }
        for it in self.ruled_out {
            said.push(format!("{} is ruled out: {}", it.pattern, it.because));
        }
        for it in standing.iter().skip(1) {
            let (present, required) = it.coverage;
            let there = format!("{present} of {required} kinds of its evidence are there");
            said.push(format!("{} is possible and weaker: {there}", it.pattern));
        }
        said
    }

    /// One paragraph: facts first, then the hypothesis, marked as such.
    fn explanation(&self) -> String {
        let name = &self.scene.service.name;
        let mut facts: Vec<String> =
            self.scene.facts.anomalies.values().map(|it| it.sentence.clone()).collect();
        for it in self.leading() {
            let is_said = is_breach(it.kind) || facts.contains(&it.sentence);
            if !is_said {
                facts.push(it.sentence.clone());
            }
        }
        let facts = format!("{name}: {}.", facts.join("; "));
        let Some(lead) = self.lead else {
            return format!("{facts} No pattern has its evidence, so the cause is unknown.");
        };
        let belief = format!("Hypothesis ({:.2}): {}.", self.confidence, means(lead));
        let class = format!("Class {}, because {}.", self.class.0, self.class.1);
        let missing: Vec<&str> = lead
            .set
            .iter()
            .filter(|kind| !self.scene.found().iter().any(|it| is_present(it, **kind)))
            .map(|kind| kind.words())
            .collect();
        match missing.is_empty() {
            true => format!("{facts} {belief} {class}"),
            false => format!("{facts} {belief} {class} Not seen: {}.", missing.join(", ")),
        }
    }
}

/// What the leading pattern says, in words.
fn means(lead: &Standing) -> &'static str {
    let has = |kind| lead.set.contains(&kind);
    match lead.pattern {
        Pattern::NetworkIssues => "the network fails",
        Pattern::ResourceExhaustion => "it runs out of a resource",
        Pattern::ServiceOverload => "it gets more requests than it can take",
        Pattern::ConfigurationErrors if has(Evidence::EnvironmentDiffers) => {
            "its environment is broken, so it cannot run"
        }
        Pattern::ConfigurationErrors => "its configuration is wrong",
        Pattern::DataCorruption => "its data is damaged",
        Pattern::DependencyFailures => "what it depends on fails, and it with it",
        Pattern::CodeBugs if has(Evidence::VersionChanged) => "the new version is bad",
        Pattern::CodeBugs if has(Evidence::ProcessExists) => "it hangs",
        Pattern::CodeBugs => "it crashed or was killed",
        Pattern::Unknown => "nothing is known",
    }
}

/// The expected state without the cause.
fn without(lead: &Standing) -> &'static str {
    let has = |kind| lead.set.contains(&kind);
    match lead.pattern {
        Pattern::NetworkIssues => "with a sound network its calls would succeed",
        Pattern::ResourceExhaustion => "with room left it would answer as before",
        Pattern::ServiceOverload => "with the usual requests it would answer in time",
        Pattern::ConfigurationErrors if has(Evidence::EnvironmentDiffers) => {
            "with the desired environment it would start and stay up"
        }
        Pattern::ConfigurationErrors => "with the former configuration it would run as before",
        Pattern::DataCorruption => "with sound data its reads would succeed",
        Pattern::DependencyFailures => "were its dependency well, its answers would be too",
        Pattern::CodeBugs if has(Evidence::VersionChanged) => {
            "with the former version its answers would be as before"
        }
        Pattern::CodeBugs if has(Evidence::ProcessExists) => {
            "a process that does not hang would answer its probe"
        }
        Pattern::CodeBugs => "had it not ended, its process would exist",
        Pattern::Unknown => "nothing can be said of how it would be otherwise",
    }
}
