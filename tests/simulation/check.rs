//! The invariants of protocol.md, looked for in the chain itself and never in the owner's memory.

use std::collections::{BTreeMap, BTreeSet};

use healwright::evidence::replay_log;
use ledger::chain::ChainVerifier;
use schemas::event::Mode;
use schemas::{Entry, Event};
use state::Log;
use topologies::profile::Profile;

use crate::world::{World, client_id};

/// Every entry of the chain, verified batch by batch.
pub(crate) fn entries(log: &dyn Log) -> Result<Vec<Entry>, String> {
    let head = log.head().map_err(|it| it.to_string())?;
    let mut verifier = ChainVerifier::new(&head.deployment, head.partition);
    let (mut seq, mut entries) = (0, Vec::new());
    while seq < head.next_seq {
        for batch in log.read(seq, 1 << 22).map_err(|it| it.to_string())? {
            verifier.batch(&batch.encode()).map_err(|it| format!("does not verify: {it}"))?;
            seq = batch.next_seq();
            entries.extend(batch.entries);
        }
    }
    Ok(entries)
}

/// All invariants; the first one that is broken, in words.
pub(crate) fn check(world: &World) -> Result<(), String> {
    let log = &*world.memory as &dyn Log;
    let entries = entries(log)?;
    acknowledged_once(world, &entries)?;
    let ids: BTreeSet<_> = entries.iter().map(|it| it.envelope.event_id).collect();
    if ids.len() != entries.len() {
        return Err("an event id stands twice in the chain".to_owned());
    }
    started_once(world, &entries)?;
    nothing_while_frozen(&entries)?;
    let ceiling = Profile::local().ceiling_global as usize;
    if world.most_open > ceiling {
        return Err(format!("{} attempts are open, {ceiling} may be", world.most_open));
    }
    let replayed = replay_log(log).map_err(|it| it.to_string())?;
    if let Some(it) = &replayed.replayed.difference {
        return Err(format!("replay differs at {}: {} / {}", it.place, it.recorded, it.derived));
    }
    match replayed.state_matches(&*world.disk.1).map_err(|it| it.to_string())? {
        Some(true) => Ok(()),
        Some(false) => Err("the state is not what the chain folds to".to_owned()),
        None => Err("the state stands at another place than the chain".to_owned()),
    }
}

fn acknowledged_once(world: &World, entries: &[Entry]) -> Result<(), String> {
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries {
        let Some(id) = entry.event().ok().as_ref().and_then(client_id) else { continue };
        if let Some(first) = places.insert(id.clone(), entry.envelope.seq) {
            return Err(format!("{id} stands at {first} and at {}", entry.envelope.seq));
        }
    }
    for (id, seq) in &world.acknowledged {
        match places.get(id) {
            None => return Err(format!("{id} was acknowledged and is lost")),
            Some(at) if at != seq => {
                return Err(format!("{id} was acknowledged at {seq} and stands at {at}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn started_once(world: &World, entries: &[Entry]) -> Result<(), String> {
    let said: BTreeSet<_> = entries.iter().filter_map(request_of).collect();
    for (id, n) in &world.started {
        if *n > 1 {
            return Err(format!("request {id} was started {n} times"));
        }
        if !said.contains(id) {
            return Err(format!("request {id} was started and is not in the chain"));
        }
    }
    Ok(())
}

fn request_of(entry: &Entry) -> Option<schemas::Uuid> {
    match entry.event() {
        Ok(Event::RunnerRequest(request)) => Some(request.id),
        _ => None,
    }
}

/// B10 in its journaled order: between a freeze and its end no request is said.
pub(crate) fn nothing_while_frozen(entries: &[Entry]) -> Result<(), String> {
    let mut mode = Mode::Normal;
    for entry in entries {
        match entry.event() {
            Ok(Event::ModeChanged(changed)) => mode = changed.to,
            Ok(Event::RunnerRequest(request)) if !mode.allows_action() => {
                let place = entry.envelope.reference();
                return Err(format!("{place}: request {} is said while {mode}", request.id));
            }
            _ => {}
        }
    }
    Ok(())
}
