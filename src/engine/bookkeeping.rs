//! The engine's own fold: which clients' ids have been taken, and which requests to runners
//! are still open.
//!
//! It is a processor like any other, so that repeats are recognised from folded state alone and
//! a new owner knows them too (protocol.md §2, step 1).

use schemas::{Event, Kind, Ns};
use serde::{Deserialize, Serialize};
use topologies::{Folded, Output, Processor, View};

/// A repeat within this time of the first is not taken again (protocol.md §2).
const REPEAT_WINDOW: Ns = Ns::from_s(24 * 3600);

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "engine",
    reads: &[
        Kind::ChangeObserved,
        Kind::ReleaseRequested,
        Kind::ApprovalGiven,
        Kind::FreezeCommand,
        Kind::RunnerRequest,
        Kind::RunnerResult,
    ],
    says: &[],
    step,
};

/// Where a client's id was taken first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// Sequence of the entry.
    pub seq: u64,
}

/// The id by which a sender's repeat is recognised, where the payload carries one.
pub fn client_id(event: &Event) -> Option<String> {
    let id = match event {
        Event::ChangeObserved(it) => it.id.clone(),
        Event::ReleaseRequested(it) => it.signature.clone()?,
        Event::ApprovalGiven(it) => it.signature.clone(),
        Event::FreezeCommand(it) => it.signature.clone(),
        Event::RunnerResult(it) => it.id.to_string(),
        _ => return None,
    };
    Some(format!("client/{}/{id}", event.kind().name()))
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(key) = entry.due {
        view.remove(key);
        return Vec::new();
    }
    if let Some(key) = client_id(entry.event) {
        view.save(&key, &First { seq: entry.envelope.seq });
        view.wake(&key, entry.now() + REPEAT_WINDOW);
    }
    match entry.event {
        Event::RunnerRequest(request) => {
            view.save(&format!("open/{}", request.id), &First { seq: entry.envelope.seq });
        }
        Event::RunnerResult(result) => view.remove(&format!("open/{}", result.id)),
        _ => {}
    }
    Vec::new()
}
