//! Why a request is not carried out: one name per rule, in the order in which they are checked.

use ledger::Error as LedgerError;
use schemas::event::Mode;
use thiserror::Error;

/// The rule that a request breaks. The text is the explanation of the signed result, and so
/// stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The bytes are no evidence at all.
    #[error("the evidence is malformed: {0}")]
    Malformed(LedgerError),
    /// The head is not one of this deployment's.
    #[error("the head is not signed for this deployment: {0}")]
    UnsignedHead(LedgerError),
    /// The head does not extend the one that this runner keeps.
    #[error("the history was rewritten: {0}")]
    RewrittenHistory(LedgerError),
    /// The request does not stand under the head.
    #[error("the request is not in the ledger: {0}")]
    RequestUnproven(LedgerError),
    /// The entry is no request.
    #[error("the entry is no runner.request but {0}")]
    NotARequest(String),
    /// The entry defines no service.
    #[error("the entry defines no service but is {0}")]
    NotAService(String),
    /// The request rests on nothing.
    #[error("the request has no binding, so nothing says that it was decided")]
    Unbound,
    /// An approval that the binding names was not shown, or not under the head.
    #[error("approval {reference} is not proven: {why}")]
    ApprovalUnproven {
        /// As the binding names it.
        reference: String,
        /// What is missing.
        why: String,
    },
    /// An entry that the binding names approves nothing.
    #[error("entry {reference} does not approve: {why}")]
    NotApproved {
        /// As the binding names it.
        reference: String,
        /// What it says instead.
        why: String,
    },
    /// An approval is about another plan.
    #[error("approval {reference} is about another plan")]
    OtherPlan {
        /// As the binding names it.
        reference: String,
    },
    /// No governance decision is named, and the request changes something.
    #[error("no governance decision approves the request")]
    Undecided,
    /// Its time is over.
    #[error("the request has expired")]
    Expired,
    /// The runner's policy forbids the operation.
    #[error("this runner's policy does not allow {0}")]
    Forbidden(String),
    /// It is for another host.
    #[error("the request is for host {0}")]
    OtherHost(String),
    /// It was said under another mode epoch than the current one.
    #[error("the request was said under mode epoch {said}, and the current one is {current}")]
    OtherModeEpoch {
        /// The epoch that the request names.
        said: u64,
        /// The runner's.
        current: u64,
    },
    /// The mode allows no action.
    #[error("the mode is {}", .0.map_or("unknown", Mode::as_str))]
    ModeForbids(Option<Mode>),
    /// The owner grants no lease.
    #[error("the start lease was denied: {0}")]
    LeaseDenied(String),
    /// The lease was over before the start.
    #[error("the start lease had ended")]
    LeaseEnded,
}

impl Refusal {
    /// The rule's stable name, for counters and tests.
    pub fn rule(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::UnsignedHead(_) => "unsigned_head",
            Refusal::RewrittenHistory(_) => "rewritten_history",
            Refusal::RequestUnproven(_) => "request_unproven",
            Refusal::NotARequest(_) => "not_a_request",
            Refusal::NotAService(_) => "not_a_service",
            Refusal::Unbound => "unbound",
            Refusal::ApprovalUnproven { .. } => "approval_unproven",
            Refusal::NotApproved { .. } => "not_approved",
            Refusal::OtherPlan { .. } => "other_plan",
            Refusal::Undecided => "undecided",
            Refusal::Expired => "expired",
            Refusal::Forbidden(_) => "forbidden",
            Refusal::OtherHost(_) => "other_host",
            Refusal::OtherModeEpoch { .. } => "other_mode_epoch",
            Refusal::ModeForbids(_) => "mode_forbids",
            Refusal::LeaseDenied(_) => "lease_denied",
            Refusal::LeaseEnded => "lease_ended",
        }
    }

    /// Whether the refusal answers the request for good. It does not where it is only about what
    /// was shown with it, or told, so far: then a forger could shut out a request whose true
    /// evidence is still to come.
    pub fn is_final(&self) -> bool {
        match self {
            Refusal::Malformed(_)
            | Refusal::UnsignedHead(_)
            | Refusal::RewrittenHistory(_)
            | Refusal::RequestUnproven(_)
            | Refusal::NotARequest(_)
            | Refusal::NotAService(_)
            | Refusal::ApprovalUnproven { .. } => false,
            Refusal::OtherModeEpoch { said, current } => said < current,
            Refusal::Unbound
            | Refusal::NotApproved { .. }
            | Refusal::OtherPlan { .. }
            | Refusal::Undecided
            | Refusal::Expired
            | Refusal::Forbidden(_)
            | Refusal::OtherHost(_)
            | Refusal::ModeForbids(_)
            | Refusal::LeaseDenied(_)
            | Refusal::LeaseEnded => true,
        }
    }
}
