//! The model: one struct, folded entry by entry.

use std::collections::{BTreeMap, VecDeque};

use schemas::event::{
    AnnotationKind, ConfigActivated, DeployPhase, DeployState, IncidentStatus, Signal,
};
use schemas::{Cause, Envelope, Event, Ns, Place, Uuid};
use topologies::config::{Host, Service, Signers};
use topologies::deployment::denial_id;
use topologies::profile::Profile;

use super::parts::{
    BarredView, ConfigView, IncidentView, Line, ModeView, PartitionView, ProposalView, RolloutView,
    RunnerView, ServiceView, TrustView,
};
use crate::words;

/// Anomalies kept to show what an incident was opened for.
const ANOMALIES_KEPT: usize = 64;
/// Resolved incidents kept with their lines; older ones stand in the journal.
const INCIDENTS_MAX: usize = 10_000;

/// Everything that readers are shown.
#[derive(Debug, Default)]
pub struct Model {
    /// What belongs to one partition each, by its number.
    pub partitions: BTreeMap<u32, PartitionView>,
    /// When the first entry was written.
    pub since: Option<Ns>,
    /// Wall time of the last entry.
    pub wall: Ns,
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
    /// Trust by component, as it was last said.
    pub trust: BTreeMap<String, TrustView>,
    /// Registered runners by partition and host: a host has one for each.
    pub runners: BTreeMap<(u32, String), RunnerView>,
    /// Configurations in force, by name.
    pub configs: BTreeMap<String, ConfigView>,
    /// Ids of incidents by when they began.
    order: BTreeMap<(Ns, Place), String>,
    /// The latest anomalies: what an incident that opens was opened for.
    anomalies: VecDeque<(Line, Signal, f64)>,
    requests: BTreeMap<Uuid, Option<String>>,
}

impl Model {
    /// Incidents, newest first.
    pub fn incidents(&self) -> impl Iterator<Item = &IncidentView> {
        self.order.values().rev().filter_map(|id| self.incidents.get(id))
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

    /// The partition of what can be approved: a proposal, or the denial of a release.
    pub fn partition_of(&self, id: Uuid) -> Option<u32> {
        let denied = || self.barred.iter().find(|(of, _)| denial_id(&of.0, &of.1) == id);
        let proposed = self.proposals.get(&id).map(|it| it.place);
        proposed.or_else(|| denied().map(|(_, it)| it.place)).map(|it| it.partition)
    }

    /// The partition of a service that is under care.
    pub fn partition_of_service(&self, service: &str) -> Option<u32> {
        self.configs.get(&format!("service/{service}")).map(|it| it.place.partition)
    }

    /// Whether a service stands on a host whose runner is not registered for its partition, so
    /// that nobody supervises it.
    pub fn lacks_runner(&self, service: &ServiceView) -> bool {
        let Service { name, host, .. } = &service.config;
        self.partition_of_service(name)
            .is_some_and(|it| !host.is_empty() && !self.runners.contains_key(&(it, host.clone())))
    }

    /// Incidents that are not over.
    pub fn n_open(&self) -> usize {
        let open = |it: &&IncidentView| it.incident.status != IncidentStatus::Resolved;
        self.incidents.values().filter(open).count()
    }

    /// What `verify` calls a history whose only witnesses are the runners that there are.
    pub fn witnesses(&self) -> &'static str {
        if self.runners.is_empty() { "UNANCHORED" } else { "SELF-WITNESSED" }
    }

    /// Proposals that wait for a person, newest first.
    pub fn waiting(&self) -> Vec<&ProposalView> {
        let mut waiting: Vec<_> =
            self.proposals.values().filter(|it| it.waits_for_a_person()).collect();
        waiting.sort_by_key(|it| std::cmp::Reverse((it.at, it.place)));
        waiting
    }

    /// Entries folded, of all partitions together.
    pub fn n_entries(&self) -> u64 {
        self.partitions.values().map(|it| it.next_seq).sum()
    }

    /// The mode that all partitions allow: the strictest, and unknown where one is.
    pub fn mode(&self) -> Option<&ModeView> {
        let modes: Option<Vec<&ModeView>> =
            self.partitions.values().map(|it| it.mode.as_ref()).collect();
        modes?.into_iter().max_by_key(|it| (it.mode, it.epoch))
    }

    /// Folds one entry.
    pub fn fold(&mut self, envelope: &Envelope, event: &Event) {
        let place = envelope.place();
        self.settle(place.partition, Some((envelope, event)));
        self.since = Some(self.since.map_or(envelope.wall, |it| it.min(envelope.wall)));
        self.wall = envelope.wall.max(self.wall);
        let line = Line {
            place,
            at: envelope.wall,
            kind: envelope.kind,
            text: words::sentence(event),
            by: envelope.actor.id.clone(),
            from: match &envelope.cause {
                Cause::Derived { from, .. } => Some(Place { seq: *from, ..place }),
                Cause::Observed { .. } | Cause::Owner { .. } => None,
            },
        };
        self.fold_incident(envelope, event, &line);
        self.fold_proposal(envelope, event, &line);
        self.fold_signature(event, &line);
        self.fold_service(envelope, event);
        self.fold_denial(envelope, event);
        self.fold_node(event, &line);
    }

    /// Where a fold refuses a signature on a proposal, it counts for nothing and its line says so.
    fn fold_signature(&mut self, event: &Event, line: &Line) {
        let partition = self.partitions.entry(line.place.partition).or_default();
        if let Event::ApprovalGiven(it) = event {
            partition.signed = Some((line.place, it.proposal_id));
        } else if let Event::AnnotationAdded(it) = event
            && it.kind == AnnotationKind::Correction
            && let Some((place, id)) =
                partition.signed.take_if(|(place, _)| line.from == Some(*place))
            && let Some(view) = self.proposals.get_mut(&id)
            && let Some(signed) = view.lines.iter_mut().rfind(|it| it.place == place)
        {
            signed.text = format!("{}; refused: {}", signed.text, it.data);
            view.approvals.pop();
        }
    }

    fn fold_node(&mut self, event: &Event, line: &Line) {
        if let Event::ModeChanged(it) = event {
            let view = ModeView { mode: it.to, epoch: it.mode_epoch, cause: it.cause.clone() };
            self.partitions.entry(line.place.partition).or_default().mode = Some(view);
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
            place: line.place,
        };
        self.barred.insert((it.service.clone(), digest), view);
    }

    /// An approval may name a denial. Where a fold refuses it, the denial stands.
    fn fold_denial(&mut self, envelope: &Envelope, event: &Event) {
        if let Event::ApprovalGiven(it) = event {
            let named = |of: &&(String, String)| denial_id(&of.0, &of.1) == it.proposal_id;
            let key = self.barred.keys().find(named).cloned();
            let cleared = key.and_then(|key| self.barred.remove(&key));
            let partition = self.partitions.entry(envelope.partition).or_default();
            partition.clearing = cleared.map(|it| (envelope.seq, it));
        } else if let Event::AnnotationAdded(_) = event
            && let Cause::Derived { from, .. } = &envelope.cause
            && let Some(partition) = self.partitions.get_mut(&envelope.partition)
            && let Some((_, it)) = partition.clearing.take_if(|(seq, _)| seq == from)
        {
            self.barred.insert((it.service.clone(), it.digest.clone()), it);
        }
    }

    /// Takes the last configuration over, unless what follows it is its refusal: the fold that
    /// refuses one says so before anything else is said. `None` is the end of a batch.
    pub fn settle(&mut self, partition: u32, next: Option<(&Envelope, &Event)>) {
        let unsettled = self.partitions.entry(partition).or_default().unsettled.take();
        let Some((seq, config)) = unsettled else { return };
        let is_refusal = |(envelope, event): (&Envelope, &Event)| {
            let by_config = matches!(
                &envelope.cause,
                Cause::Derived { by, from, .. } if by == "config" && *from == seq
            );
            by_config && matches!(event, Event::AnnotationAdded(_))
        };
        if !next.is_some_and(is_refusal) {
            self.configure(Place { partition, seq }, &config);
        }
    }

    fn configure(&mut self, place: Place, config: &ConfigActivated) {
        if let Some(host) = config.name.strip_prefix("runner/")
            && let Some(body) = &config.body
            && let Ok(runner) = serde_json::from_str::<Host>(body)
        {
            // Each partition has a runner of its own for a host.
            let key = (place.partition, host.to_owned());
            let before = self.runners.remove(&key);
            let mut former = before.as_ref().map_or_else(Vec::new, |it| it.former.clone());
            former.extend(before.map(|it| it.runner.key));
            former.retain(|it| *it != runner.key);
            let view = RunnerView { runner, version: config.version, former };
            self.runners.insert(key, view);
        }
        // Partitions take what holds everywhere one after the other; the newest is shown.
        if self.configs.get(&config.name).is_some_and(|it| config.version < it.version) {
            return;
        }
        let body = config.body.as_deref().unwrap_or_default();
        if config.name == "profile" {
            self.profile = serde_json::from_str(body).ok();
        } else if config.name == "signers" {
            self.signers = serde_json::from_str(body).unwrap_or_default();
        } else if let Some(name) = config.name.strip_prefix("service/") {
            let service = self.services.entry(name.to_owned()).or_default();
            service.config = serde_json::from_str(body).unwrap_or_default();
        }
        let view = ConfigView { version: config.version, place };
        self.configs.insert(config.name.clone(), view);
    }

    fn fold_service(&mut self, envelope: &Envelope, event: &Event) {
        if let Event::ConfigActivated(it) = event {
            let partition = self.partitions.entry(envelope.partition).or_default();
            partition.unsettled = Some((envelope.seq, it.clone()));
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
                self.order.insert((line.at, line.place), it.incident_id.clone());
                let cause = self.anomalies.iter().find(|(it, ..)| Some(it.place) == line.from);
                let view = IncidentView {
                    incident: it.clone(),
                    opened: line.place,
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
    fn rollout_of(&self, from: Option<Place>) -> Vec<Line> {
        let is_cause = |it: &&RolloutView| it.lines.last().map(|it| it.place) == from;
        let found = self.rollouts.values().find(is_cause).filter(|_| from.is_some());
        found.map(|it| it.lines.clone()).unwrap_or_default()
    }

    /// Forgets the oldest that is over; what is open is shown however old it is.
    fn forget_oldest(&mut self) {
        if self.order.len() <= INCIDENTS_MAX {
            return;
        }
        let is_over = |id: &String| {
            self.incidents.get(id).is_none_or(|it| it.incident.status == IncidentStatus::Resolved)
        };
        let oldest = self.order.iter().find(|(_, id)| is_over(id)).map(|(key, _)| *key);
        if let Some(id) = oldest.and_then(|it| self.order.remove(&it)) {
            self.incidents.remove(&id);
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "of all events only these tell it")]
    fn fold_proposal(&mut self, envelope: &Envelope, event: &Event, line: &Line) {
        if let Event::RemediationProposed(it) = event {
            let view = ProposalView {
                proposal: it.clone(),
                place: line.place,
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
