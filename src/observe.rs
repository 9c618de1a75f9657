//! Metrics and spans of the loop, from the journal: what is counted has happened, and is counted
//! once. Names are fixed (spec 90 §13, §14).

mod spans;

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{counter, gauge, histogram};
use schemas::Event;
use schemas::event::{L3Outcome, Outcome};

use crate::engine::Handle;
use crate::follow::Follower;
use crate::node::parts::Parts;

pub use spans::{SPANS, Spans};

/// Counts the whole journal, so that a restart loses no count; spans are told from now on.
pub fn follow(parts: &Parts) {
    let votes = Arc::new(Mutex::new(Votes::default()));
    parts.all().iter().for_each(|part| follow_one(&part.engine, votes.clone()));
}

fn follow_one(engine: &Handle, votes: Arc<Mutex<Votes>>) {
    let mut follower = Follower::from_zero(engine);
    let told_from = engine.follow().borrow().next_seq;
    tokio::spawn(async move {
        let mut spans = Spans::default();
        while let Some(batches) = follower.next().await {
            for batch in &batches {
                for entry in &batch.entries {
                    let Ok(event) = entry.event() else { continue };
                    if told_from <= entry.envelope.seq {
                        spans.tell(&entry.envelope, &event);
                    }
                    let mut votes = votes.lock().unwrap_or_else(PoisonError::into_inner);
                    count(entry.envelope.partition, &event, &mut votes);
                }
                spans.rest();
            }
        }
    });
}

/// First-layer results so far.
#[derive(Default)]
struct Votes {
    n: u32,
    n_accepted: u32,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "of all events only these are counted")]
fn count(partition: u32, event: &Event, votes: &mut Votes) {
    match event {
        Event::SloAnomalyDetected(it) => counter!(
            "avn_anomalies_total",
            "service" => it.service.clone(),
            "signal" => it.signal.as_str(),
            "severity" => it.severity.as_str()
        )
        .increment(1),
        Event::RcaHypothesis(it) => {
            histogram!("rca_confidence", "pattern" => it.pattern.as_str()).record(it.confidence);
        }
        Event::L1ConsensusResult(it) => {
            votes.n += 1;
            votes.n_accepted += u32::from(it.outcome == Outcome::Accept);
            gauge!("l1_accept_ratio").set(f64::from(votes.n_accepted) / f64::from(votes.n));
        }
        Event::L3ExecutionResult(it) => {
            let service = it.service.clone().unwrap_or_default();
            match it.outcome {
                L3Outcome::Promoted => {
                    counter!("deploy_promotions_total", "service" => service).increment(1);
                }
                L3Outcome::RolledBack => {
                    counter!("deploy_rollbacks_total", "service" => service).increment(1);
                }
                L3Outcome::Quarantined | L3Outcome::Rejected => {}
            }
        }
        Event::KpiTrustUpdate(it) => {
            let partition = partition.to_string();
            gauge!("trust_score", "partition" => partition, "component" => it.component.clone())
                .set(it.after);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
