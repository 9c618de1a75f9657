//! The model: one struct, folded entry by entry.

use std::collections::{BTreeMap, VecDeque};

use schemas::event::{
    ApprovalGiven, ConfigActivated, DeployPhase, DeployState, GovernanceDecision, Health,
    IncidentChanged, IncidentStatus, L3ExecutionResult, Mode, RemediationProposed, Signal,
};
use schemas::{Cause, Envelope, Event, Kind, Ns, Uuid};
use topologies::config::{Service, Signers};
use topologies::deployment::denial_id;
use topologies::profile::Profile;

use super::sli::Curve;
use crate::words;

/// Anomalies kept to show what an incident was opened for.
const ANOMALIES_KEPT: usize = 64;
/// Resolved incidents kept with their lines; older ones stand in the journal.
const INCIDENTS_MAX: usize = 10_000;

/// Everything that readers are shown.
#[derive(Debug, Default)]
pub struct Model {
    /// Entries folded.
    pub next_seq: u64,
    /// Epoch of the owner.
    pub epoch: u64,
    /// When the first entry was written.
    pub since: Option<Ns>,
    /// Wall time of the last entry.
    pub wall: Ns,
    /// Operating mode; `None` is unknown and fails closed.
    pub mode: Option<(Mode, u64, String)>,
    /// The active profile.
    pub profile: Option<Profile>,
    /// Registered signers.
    pub signers: Signers,
    /// Services by name.
    pub services: BTreeMap<String, ServiceView>,
    /// Incidents by id, oldest first by their first entry.
    pub incidents: BTreeMap<String, IncidentView>,
    /// Proposals by id.
    pub proposals: BTreeMap<Uuid, ProposalView>,
    /// Rollouts by deployment id.
    pub rollouts: BTreeMap<Uuid, RolloutView>,
    /// The deny list, by service and digest.
    pub barred: BTreeMap<(String, String), BarredView>,
    /// What an approval has cleared, until it is known that it did.
    clearing: Option<(u64, BarredView)>,
    /// Trust by component, as it was last said.
    pub trust: BTreeMap<String, TrustView>,
    /// Configurations in force, by name.
    pub configs: BTreeMap<String, ConfigView>,
    /// A configuration that was folded last; the next entry says whether it took effect.
    unsettled: Option<(u64, ConfigActivated)>,
    order: Vec<String>,
    /// The latest anomalies: what an incident that opens was opened for.
    anomalies: VecDeque<(Line, Signal, f64)>,
    requests: BTreeMap<Uuid, Option<String>>,
}

/// Trust in a component.
#[derive(Debug, Clone)]
pub struct TrustView {
    /// 0–1.
    pub trust: f64,
    /// Weight of a playbook: it orders proposals and never passes a gate.
    pub weight: Option<f64>,
    /// Why it last changed.
    pub why: String,
    /// When.
    pub at: Ns,
}

/// A release that may not run until a person clears it.
#[derive(Debug, Clone)]
pub struct BarredView {
    /// Service on which it is barred.
    pub service: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// What it did.
    pub why: String,
    /// Since when.
    pub at: Ns,
}

/// A configuration in force.
#[derive(Debug, Clone)]
pub struct ConfigView {
    /// Running version of its name.
    pub version: u64,
    /// The entry.
    pub seq: u64,
}

/// A service as it stands.
#[derive(Debug, Default, Clone)]
pub struct ServiceView {
    /// What is known of it.
    pub config: Service,
    /// Colour by signal, and when it was last judged.
    pub signals: BTreeMap<Signal, (Health, f64, Ns)>,
    /// Attempts that fired, newest last.
    pub attempts: Vec<Ns>,
    /// Why the last trigger was refused, if it was.
    pub refused: Option<(Ns, String)>,
    /// What was measured of it lately.
    pub curve: Curve,
}

/// An incident and its lines.
#[derive(Debug, Clone)]
pub struct IncidentView {
    /// As it stands.
    pub incident: IncidentChanged,
    /// Sequence of its first entry.
    pub opened: u64,
    /// Every entry that belongs to it, oldest first.
    pub lines: Vec<Line>,
    /// Whether people were told.
    pub escalated: bool,
    /// The signal that it was opened for, and what that was held against.
    pub signal: Option<(Signal, f64)>,
}

/// One entry in a timeline.
#[derive(Debug, Clone)]
pub struct Line {
    /// The entry.
    pub seq: u64,
    /// When, by the sequencer's clock.
    pub at: Ns,
    /// What it is.
    pub kind: Kind,
    /// In one sentence.
    pub text: String,
    /// Who said it.
    pub by: String,
    /// The entry it came from, where it came from one.
    pub from: Option<u64>,
}

/// A proposal and what became of it.
#[derive(Debug, Clone)]
pub struct ProposalView {
    /// The proposal.
    pub proposal: RemediationProposed,
    /// Its entry.
    pub seq: u64,
    /// When it was made.
    pub at: Ns,
    /// What policy said last.
    pub decision: Option<GovernanceDecision>,
    /// Signatures.
    pub approvals: Vec<ApprovalGiven>,
    /// What came of it.
    pub result: Option<L3ExecutionResult>,
    /// Lines of its votes and results.
    pub lines: Vec<Line>,
}

/// A rollout as it stands.
#[derive(Debug, Clone)]
pub struct RolloutView {
    /// Last state.
    pub state: DeployState,
    /// When it began.
    pub began: Ns,
    /// When it last moved.
    pub at: Ns,
    /// Every state it went through.
    pub lines: Vec<Line>,
}

impl ServiceView {
    /// The worst colour of its signals; unknown before the first.
    pub fn health(&self) -> Health {
        self.signals.values().map(|(health, _, _)| *health).max().unwrap_or(Health::Unknown)
    }
}

impl Model {
    /// Incidents, newest first.
    pub fn incidents(&self) -> impl Iterator<Item = &IncidentView> {
        self.order.iter().rev().filter_map(|id| self.incidents.get(id))
    }

    /// The incident of that id, or the only one whose id begins so.
    pub fn incident(&self, id: &str) -> Option<&IncidentView> {
        if let Some(found) = self.incidents.get(id) {
            return Some(found);
        }
        let mut near = self.incidents.iter().filter(|(of, _)| {
            of.starts_with(id) || of.strip_prefix("inc-").is_some_and(|of| of.starts_with(id))
        });
        near.next().filter(|_| near.next().is_none()).map(|(_, found)| found)
    }

    /// The proposal of that id, or the only one whose id begins so.
    pub fn proposal(&self, id: &str) -> Option<&ProposalView> {
        let mut near = self.proposals.iter().filter(|(of, _)| of.to_string().starts_with(id));
        near.next().filter(|_| near.next().is_none()).map(|(_, found)| found)
    }

    /// Incidents that are not over.
    pub fn n_open(&self) -> usize {
        let open = |it: &&IncidentView| it.incident.status != IncidentStatus::Resolved;
        self.incidents.values().filter(open).count()
    }

    /// Proposals that wait for a person, newest first.
    pub fn waiting(&self) -> Vec<&ProposalView> {
        let mut waiting: Vec<_> =
            self.proposals.values().filter(|it| it.waits_for_a_person()).collect();
        waiting.sort_by_key(|it| std::cmp::Reverse(it.seq));
        waiting
    }

    /// Folds one entry.
    pub fn fold(&mut self, envelope: &Envelope, event: &Event) {
        self.settle(Some((envelope, event)));
        self.since.get_or_insert(envelope.wall);
        self.wall = envelope.wall;
        let line = Line {
            seq: envelope.seq,
            at: envelope.wall,
            kind: envelope.kind,
            text: words::sentence(event),
            by: envelope.actor.id.clone(),
            from: match &envelope.cause {
                Cause::Derived { from, .. } => Some(*from),
                Cause::Observed { .. } | Cause::Owner { .. } => None,
            },
        };
        self.fold_incident(envelope, event, &line);
        self.fold_proposal(envelope, event, &line);
        self.fold_service(envelope, event);
        self.fold_denial(envelope, event);
        self.fold_node(event, &line);
    }

    fn fold_node(&mut self, event: &Event, line: &Line) {
        if let Event::ModeChanged(it) = event {
            self.mode = Some((it.to, it.mode_epoch, it.cause.clone()));
        } else if let Event::KpiTrustUpdate(it) = event {
            let weight = it.skill_weights.iter().find(|of| of.name == it.component);
            let view = TrustView {
                trust: it.after,
                weight: weight.map(|it| it.weight),
                why: it.reason.clone(),
                at: line.at,
            };
            self.trust.insert(it.component.clone(), view);
        } else if let Event::DeployState(it) = event {
            let rollout = self.rollouts.entry(it.deployment_id).or_insert_with(|| RolloutView {
                state: it.clone(),
                began: line.at,
                at: line.at,
                lines: Vec::new(),
            });
            rollout.state = it.clone();
            rollout.at = line.at;
            rollout.lines.push(line.clone());
            self.bar(it, line);
        }
    }

    fn bar(&mut self, it: &DeployState, line: &Line) {
        if !topologies::deployment::bars(it) {
            return;
        }
        let digest = it.digest.clone().unwrap_or_default();
        let rollout = &self.rollouts[&it.deployment_id];
        let decided = rollout.lines.iter().rev().nth(1).map(|it| it.text.clone());
        let view = BarredView {
            service: it.service.clone(),
            version: it.version.clone().unwrap_or_default(),
            digest: digest.clone(),
            why: decided.unwrap_or_else(|| line.text.clone()),
            at: line.at,
        };
        self.barred.insert((it.service.clone(), digest), view);
    }

    /// An approval may name a denial. Where a fold refuses it, the denial stands.
    fn fold_denial(&mut self, envelope: &Envelope, event: &Event) {
        if let Event::ApprovalGiven(it) = event {
            let named = |of: &&(String, String)| denial_id(&of.0, &of.1) == it.proposal_id;
            let key = self.barred.keys().find(named).cloned();
            let cleared = key.and_then(|key| self.barred.remove(&key));
            self.clearing = cleared.map(|it| (envelope.seq, it));
        } else if let Event::AnnotationAdded(_) = event
            && let Cause::Derived { from, .. } = &envelope.cause
            && let Some((_, it)) = self.clearing.take_if(|(seq, _)| seq == from)
        {
            self.barred.insert((it.service.clone(), it.digest.clone()), it);
        }
    }

    /// Takes the last configuration over, unless what follows it is its refusal: the fold that
    /// refuses one says so before anything else is said. `None` is the end of a batch.
    pub fn settle(&mut self, next: Option<(&Envelope, &Event)>) {
        let Some((seq, config)) = self.unsettled.take() else { return };
        let is_refusal = |(envelope, event): (&Envelope, &Event)| {
            let by_config = matches!(
                &envelope.cause,
                Cause::Derived { by, from, .. } if by == "config" && *from == seq
            );
            by_config && matches!(event, Event::AnnotationAdded(_))
        };
        if !next.is_some_and(is_refusal) {
            self.configure(seq, &config);
        }
    }

    fn configure(&mut self, seq: u64, config: &ConfigActivated) {
        let body = config.body.as_deref().unwrap_or_default();
        if config.name == "profile" {
            self.profile = serde_json::from_str(body).ok();
        } else if config.name == "signers" {
            self.signers = serde_json::from_str(body).unwrap_or_default();
        } else if let Some(name) = config.name.strip_prefix("service/") {
            let service = self.services.entry(name.to_owned()).or_default();
            service.config = serde_json::from_str(body).unwrap_or_default();
        }
        self.configs.insert(config.name.clone(), ConfigView { version: config.version, seq });
    }

    fn fold_service(&mut self, envelope: &Envelope, event: &Event) {
        if let Event::ConfigActivated(it) = event {
            self.unsettled = Some((envelope.seq, it.clone()));
        } else if let Event::SloAnomalyDetected(it) = event {
            let service = self.services.entry(it.service.clone()).or_default();
            service.signals.insert(it.signal, (it.health_to, it.observed, envelope.wall));
        } else if let Event::HealTriggerEvaluated(it) = event {
            let Some(name) = &it.service else { return };
            let service = self.services.entry(name.clone()).or_default();
            if it.fired {
                service.attempts.push(envelope.tick);
                service.refused = None;
            } else {
                let why = it.reason.clone().unwrap_or_else(|| it.verdict.to_string());
                service.refused = Some((envelope.wall, why));
            }
        } else if let Event::DeployState(it) = event
            && it.state == DeployPhase::Commit
        {
            let service = self.services.entry(it.service.clone()).or_default();
            if let Some(release) = &mut service.config.release {
                release.version = it.version.clone().unwrap_or_default();
                release.digest = it.digest.clone().unwrap_or_default();
            }
        }
    }

    fn fold_incident(&mut self, envelope: &Envelope, event: &Event, line: &Line) {
        let mut of = envelope.correlation.clone();
        if let Event::SloAnomalyDetected(it) = event {
            self.anomalies.push_back((line.clone(), it.signal, it.threshold));
            if self.anomalies.len() > ANOMALIES_KEPT {
                self.anomalies.pop_front();
            }
        }
        if let Event::RunnerRequest(it) = event {
            self.requests.insert(it.id, of.clone());
        } else if let Event::RunnerResult(it) = event {
            of = of.or_else(|| self.requests.remove(&it.id).flatten());
        } else if let Event::IncidentChanged(it) = event {
            of = Some(it.incident_id.clone());
            if !self.incidents.contains_key(&it.incident_id) {
                self.order.push(it.incident_id.clone());
                let cause = self.anomalies.iter().find(|(it, ..)| Some(it.seq) == line.from);
                let view = IncidentView {
                    incident: it.clone(),
                    opened: envelope.seq,
                    lines: cause
                        .map_or_else(|| self.rollout_of(line.from), |(it, ..)| vec![it.clone()]),
                    escalated: false,
                    signal: cause.map(|(_, signal, threshold)| (*signal, *threshold)),
                };
                self.incidents.insert(it.incident_id.clone(), view);
                self.forget_oldest();
            }
        }
        let Some(view) = of.and_then(|id| self.incidents.get_mut(&id)) else { return };
        if let Event::IncidentChanged(it) = event {
            view.incident = it.clone();
        }
        view.escalated |= matches!(event, Event::HealEscalated(_));
        view.lines.push(line.clone());
    }

    /// The steps of the rollout that an incident was opened for.
    fn rollout_of(&self, from: Option<u64>) -> Vec<Line> {
        let is_cause = |it: &&RolloutView| it.lines.last().map(|it| it.seq) == from;
        let found = self.rollouts.values().find(is_cause).filter(|_| from.is_some());
        found.map(|it| it.lines.clone()).unwrap_or_default()
    }

    fn forget_oldest(&mut self) {
        if self.order.len() > INCIDENTS_MAX {
            let oldest = self.order.remove(0);
            self.incidents.remove(&oldest);
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "of all events only these tell it")]
    fn fold_proposal(&mut self, envelope: &Envelope, event: &Event, line: &Line) {
        if let Event::RemediationProposed(it) = event {
            let view = ProposalView {
                proposal: it.clone(),
                seq: envelope.seq,
                at: envelope.wall,
                decision: None,
                approvals: Vec::new(),
                result: None,
                lines: vec![line.clone()],
            };
            self.proposals.insert(it.proposal_id, view);
            return;
        }
        let id = match event {
            Event::VoteCast(it) => it.proposal_id,
            Event::L1ConsensusResult(it) => it.proposal_id,
            Event::L2ConsensusResult(it) => it.proposal_id,
            Event::L3ExecutionResult(it) => it.proposal_id,
            Event::GovernanceDecision(it) => it.proposal_id,
            Event::ApprovalGiven(it) => it.proposal_id,
            Event::SandboxResult(it) => it.proposal_id,
            _ => return,
        };
        let Some(view) = self.proposals.get_mut(&id) else { return };
        if let Event::GovernanceDecision(it) = event {
            view.decision = Some(it.clone());
        } else if let Event::ApprovalGiven(it) = event {
            view.approvals.push(it.clone());
        } else if let Event::L3ExecutionResult(it) = event {
            view.result = Some(it.clone());
        }
        view.lines.push(line.clone());
    }
}

impl ProposalView {
    /// Whether policy wants a person's signature and none has come.
    pub fn waits_for_a_person(&self) -> bool {
        use schemas::event::Decision;
        let reviewed =
            self.decision.as_ref().is_some_and(|it| it.decision == Decision::NeedsReview);
        reviewed && self.result.is_none()
    }

    /// Where it stands, in words.
    pub fn stands(&self) -> &'static str {
        use schemas::event::{Decision, L3Outcome};
        if let Some(result) = &self.result {
            return match result.outcome {
                L3Outcome::Promoted => "done",
                L3Outcome::RolledBack => "rolled back",
                L3Outcome::Quarantined => "quarantined",
                L3Outcome::Rejected => "rejected",
            };
        }
        match self.decision.as_ref().map(|it| it.decision) {
            Some(Decision::Approved) => "running",
            Some(Decision::Rejected) => "rejected by policy",
            Some(Decision::NeedsReview) => "waits for you",
            None if self.proposal.rank > 1 => "alternative",
            None => "being judged",
        }
    }
}
