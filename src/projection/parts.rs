//! The parts of the model, each as it stands now.

use std::collections::BTreeMap;

use schemas::event::{
    ApprovalGiven, ConfigActivated, DeployState, GovernanceDecision, Health, IncidentChanged,
    L3ExecutionResult, Mode, RemediationProposed, Signal,
};
use schemas::signature::PublicKey;
use schemas::{Kind, Ns, Place, Uuid};
use topologies::config::{Host, Service};

use super::sli::Curve;

/// One partition: how far it is folded, and what its next entry decides.
#[derive(Debug, Default)]
pub struct PartitionView {
    /// Entries folded.
    pub next_seq: u64,
    /// Epoch of the owner.
    pub epoch: u64,
    /// Operating mode; `None` is unknown and fails closed.
    pub mode: Option<ModeView>,
    /// What an approval has cleared, until it is known that it did.
    pub(super) clearing: Option<(u64, BarredView)>,
    /// A signature on a proposal that was folded last; what follows says whether it counts.
    pub(super) signed: Option<(Place, Uuid)>,
    /// A configuration that was folded last; the next entry says whether it took effect.
    pub(super) unsettled: Option<(u64, ConfigActivated)>,
}

/// An operating mode.
#[derive(Debug, Clone)]
pub struct ModeView {
    /// The mode.
    pub mode: Mode,
    /// Its running number in the partition.
    pub epoch: u64,
    /// What brought it about.
    pub cause: String,
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
    /// The entry that barred it.
    pub place: Place,
}

/// A configuration in force.
#[derive(Debug, Clone)]
pub struct ConfigView {
    /// Running version of its name.
    pub version: u64,
    /// The entry; of several partitions that hold it, in the last one that took it.
    pub place: Place,
}

/// A registered runner of one partition.
#[derive(Debug, Clone)]
pub struct RunnerView {
    /// Its host, its key, its sandbox kinds.
    pub runner: Host,
    /// Running version of its registration in the partition.
    pub version: u64,
    /// Keys that its host was registered under before.
    pub former: Vec<PublicKey>,
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
    /// Its first entry.
    pub opened: Place,
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
    pub place: Place,
    /// When, by the sequencer's clock.
    pub at: Ns,
    /// What it is.
    pub kind: Kind,
    /// In one sentence.
    pub text: String,
    /// Who said it.
    pub by: String,
    /// The entry it came from, where it came from one.
    pub from: Option<Place>,
}

/// A proposal and what became of it.
#[derive(Debug, Clone)]
pub struct ProposalView {
    /// The proposal.
    pub proposal: RemediationProposed,
    /// Its entry.
    pub place: Place,
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
