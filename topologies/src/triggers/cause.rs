//! From a hypothesis to a canonical cause with provenance (spec 40 §3, steps 1–4).
//!
//! Provenance is in the decision and never in the hash alone: two causes of equal text have equal
//! hashes, and only the one that diagnosis itself derived may fire.

use schemas::event::RcaHypothesis;
use schemas::wire::Writer;
use schemas::{Hash, canonical};

use super::Raised;
use crate::fold::Folded;
use crate::said;

/// The processor whose hypotheses may raise a cause.
const RAISED_BY: &str = "diagnosis";

/// The cause of `hypothesis`, or what it would be and why it is refused.
pub(super) fn raised(
    entry: &Folded<'_>,
    hypothesis: &RcaHypothesis,
) -> Result<Raised, (Box<Raised>, String)> {
    let raised = Raised {
        hypothesis_id: hypothesis.hypothesis_id,
        incident_id: entry.envelope.correlation.clone().unwrap_or_default(),
        service: hypothesis.service.clone().unwrap_or_default(),
        pattern: hypothesis.pattern,
        failure_class: hypothesis.failure_class,
        confidence: hypothesis.confidence,
        entry: entry.reference(),
        raised_by: entry.envelope.actor.id.clone(),
        cause_hash: hash(entry, hypothesis),
    };
    match wrong(entry, hypothesis) {
        None => Ok(raised),
        Some(why) => Err((Box::new(raised), why)),
    }
}

fn wrong(entry: &Folded<'_>, hypothesis: &RcaHypothesis) -> Option<String> {
    if !said::by(entry, RAISED_BY) {
        return Some(format!(
            "provenance: {:?} is no registered principal for this cause; only {RAISED_BY} raises \
             it, from telemetry under `healwright watch`",
            entry.envelope.actor.id
        ));
    }
    if hypothesis.evidence_refs.is_empty() {
        return Some("provenance: the hypothesis names no evidence".to_owned());
    }
    let service = hypothesis.service.as_deref().unwrap_or_default();
    match canonical::identifier(service) {
        Ok(name) if name == service => None,
        Ok(_) => Some(format!("provenance: {service:?} is not in its canonical form")),
        Err(error) => Some(format!("provenance: {service:?} names no service: {error}")),
    }
}

/// What fired, on what, on which evidence, raised by whom.
fn hash(entry: &Folded<'_>, hypothesis: &RcaHypothesis) -> String {
    let mut evidence = Writer::default();
    for reference in &hypothesis.evidence_refs {
        evidence.text(reference);
    }
    let service = hypothesis.service.as_deref().unwrap_or_default();
    let evidence = Hash::of(&[&evidence.0]);
    canonical::cause_hash(hypothesis.pattern.as_str(), service, &evidence, &entry.envelope.actor.id)
        .to_string()
}
