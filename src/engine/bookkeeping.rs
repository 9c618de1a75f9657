//! The engine's own fold: which clients' ids have been taken, which requests to runners are
//! still open, and when a cosigned head was journaled last.
//!
//! It is a processor like any other, so that repeats are recognised from folded state alone and
//! a new owner knows them too (protocol.md §2, step 1).

use schemas::{Event, Kind, Ns};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use state::State;
use topologies::{Folded, Output, Processor, View};

use super::fold::Keyed;

/// A repeat within this time of the first is not taken again (protocol.md §2).
const REPEAT_WINDOW: Ns = Ns::from_s(24 * 3600);

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "engine",
    reads: &[
        Kind::ConfigActivated,
        Kind::ChangeObserved,
        Kind::ReleaseRequested,
        Kind::ApprovalGiven,
        Kind::FreezeCommand,
        Kind::RunnerRequest,
        Kind::RunnerResult,
        Kind::HeadCosigned,
    ],
    says: &[],
    step,
};

/// Under this key stands the last [`Cosigned`]. Persisted: frozen.
pub const COSIGNED: &str = "cosigned";

/// When a cosigned head was journaled last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cosigned {
    /// Tick time.
    pub at: Ns,
}

/// Where a client's id was taken first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// Sequence of the entry.
    pub seq: u64,
}

/// A configuration in force, and the entry that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// Sequence of the entry.
    pub seq: u64,
    /// Running version of that name.
    pub version: u64,
    /// SHA-256 of the body.
    pub digest: String,
}

/// Version, digest and place of a configuration in force.
pub fn active_config(state: &mut State, name: &str) -> Option<Active> {
    load(state, &format!("config/{name}"))
}

/// The entry that the event with this client id became first.
pub fn first(state: &mut State, client_id: &str) -> Option<First> {
    load(state, client_id)
}

fn load<T: DeserializeOwned>(state: &mut State, key: &str) -> Option<T> {
    let mut store = Keyed(state);
    View::new(&mut store, PROCESSOR.name).load(key)
}

/// The id by which a sender's repeat is recognised, where the payload carries one.
pub fn client_id(event: &Event) -> Option<String> {
    let id = if let Event::ChangeObserved(it) = event {
        it.id.clone()
    } else if let Event::ReleaseRequested(it) = event {
        it.signature.clone()?
    } else if let Event::ApprovalGiven(it) = event {
        it.signature.clone()
    } else if let Event::FreezeCommand(it) = event {
        it.signature.clone()
    } else if let Event::RunnerResult(it) = event {
        it.id.to_string()
    } else if let Event::ConfigActivated(it) = event {
        it.signature.clone()?
    } else {
        return None;
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
    if let Event::RunnerRequest(request) = entry.event {
        view.save(&format!("open/{}", request.id), &First { seq: entry.envelope.seq });
    } else if let Event::RunnerResult(result) = entry.event {
        view.remove(&format!("open/{}", result.id));
    } else if let Event::ConfigActivated(config) = entry.event
        && topologies::config::takes_effect(view, config)
    {
        let (seq, version) = (entry.envelope.seq, config.version);
        let active = Active { seq, version, digest: config.digest.clone() };
        view.save(&format!("config/{}", config.name), &active);
    } else if let Event::HeadCosigned(_) = entry.event {
        view.save(COSIGNED, &Cosigned { at: entry.now() });
    }
    Vec::new()
}
