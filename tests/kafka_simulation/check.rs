//! What the chain promises, looked for in the topic itself and never in an owner's memory.
//!
//! Where a tail was cut off, what was told before is not held against what is left: that
//! everybody who had read it has halted is. One coincidence is left out: a late copy of a lost
//! record may land at the very offset where it stood.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use healwright::engine::bookkeeping::client_id;
use healwright::evidence::replay_log;
use healwright::journal::Journal;
use ledger::chain::ChainVerifier;
use schemas::link::election;
use schemas::{Batch, Entry, Head, Stream};
use state::{LogError, Records, Store as _};

use crate::clients::short;
use crate::log::Sim;
use crate::node::{Node, Role};
use crate::topic::Record;
use crate::world::{N_NODES, World};

/// Batches that a yielding owner may still have on their way when it is warned.
const N_OVERTAKEN_MAX: usize = 1;

/// The chain as the topic holds it.
struct Chain {
    batches: Vec<Arc<Record>>,
    head: Head,
}

impl Journal for Chain {
    fn head(&self) -> Result<Head, LogError> {
        Ok(self.head.clone())
    }
    fn read(&self, from_seq: u64, _bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        let behind = self.batches.iter().skip_while(|it| it.batch.next_seq() <= from_seq);
        Ok(behind.map(|it| it.batch.clone()).collect())
    }
    fn telemetry(&self, _from: u64, _bytes_max: usize) -> Result<Records, LogError> {
        Ok(Records::default())
    }
}

impl Chain {
    fn of(world: &mut World, deployment: &str) -> Self {
        let mut chain = Chain { batches: Vec::new(), head: Head::genesis(deployment, 0) };
        for record in &world.topic.records {
            if let Ok(head) = world.rules.admits(&chain.head, record) {
                chain.head = head;
                chain.batches.push(record.clone());
            }
        }
        chain
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.batches.iter().flat_map(|it| &it.batch.entries)
    }
}

/// The first promise that is broken, in words.
pub(crate) fn check(sim: &Arc<Sim>) -> Result<(), String> {
    let mut world = sim.world();
    let chain = Chain::of(&mut world, &sim.identities[0].deployment);
    let places = each_stands_once(&chain)?;
    nothing_passed_is_lost(&world, &chain, &places)?;
    if !world.is_cut {
        told_is_true(&world, &places)?;
        dispatched_is_held(&world, &chain)?;
        nobody_starves(&mut world, &sim.identities[0].deployment)?;
    }
    derived_is_folded(&chain)?;
    if world.has_healed_by_chance() {
        return Ok(());
    }
    (0..N_NODES).try_for_each(|it| agrees(it, &world.nodes[it], &chain))?;
    if !world.is_cut {
        nobody_halts_or_waits(&world)?;
    }
    drop(world);
    verifies(sim, &chain)?;
    states_are_the_chains(sim, &chain)
}

fn each_stands_once(chain: &Chain) -> Result<BTreeMap<String, u64>, String> {
    let (mut places, mut events) = (BTreeMap::new(), BTreeSet::new());
    for entry in chain.entries() {
        let seq = entry.envelope.seq;
        let id = entry.event().ok().as_ref().and_then(client_id);
        if let Some(id) = id
            && let Some(first) = places.insert(id.clone(), seq)
        {
            return Err(format!("twice: {} stands at {first} and at {seq}", short(&id)));
        }
        if !events.insert(entry.envelope.event_id) {
            return Err(format!("twice: the event at {seq} stands before it"));
        }
    }
    Ok(places)
}

fn nothing_passed_is_lost(
    world: &World,
    chain: &Chain,
    places: &BTreeMap<String, u64>,
) -> Result<(), String> {
    let (inbox, control) = (chain.head.positions.inbox, chain.head.positions.control);
    for (stream, end) in [(Stream::Inbox, inbox), (Stream::Control, control)] {
        let ids = (0..end).filter_map(|at| world.id_at(stream, at));
        if let Some(id) = ids.into_iter().find(|id| !places.contains_key(id)) {
            return Err(format!("lost: {} was passed and does not stand in the chain", short(&id)));
        }
    }
    Ok(())
}

fn told_is_true(world: &World, places: &BTreeMap<String, u64>) -> Result<(), String> {
    if let Some(why) = &world.clients.contradiction {
        return Err(format!("told: {why}"));
    }
    let mut answered = world.clients.answered.iter();
    match answered.find(|(id, seq)| places.get(*id) != Some(seq)) {
        Some((id, seq)) => {
            let at = places.get(id);
            Err(format!("told: {} was told {seq} and stands at {at:?}", short(id)))
        }
        None => Ok(()),
    }
}

fn dispatched_is_held(world: &World, chain: &Chain) -> Result<(), String> {
    let leaves: BTreeMap<_, _> = chain.entries().map(|it| (it.envelope.seq, it.leaf())).collect();
    match world.dispatched.iter().find(|(seq, leaf)| leaves.get(seq) != Some(leaf)) {
        Some((seq, _)) => {
            Err(format!("dispatched: what was at {seq} then does not stand in the chain"))
        }
        None => Ok(()),
    }
}

/// Once an election with a higher epoch can be read, its author is overtaken no more, except by
/// what was sent before: an owner that reads so far has yielded.
fn nobody_starves(world: &mut World, deployment: &str) -> Result<(), String> {
    let mut head = Head::genesis(deployment, 0);
    let (mut waiting, mut n_overtaken) = (0, 0);
    for record in &world.topic.records {
        let linked = world.rules.admits(&head, record);
        match (linked, election(&record.batch).is_some()) {
            (Ok(next), true) => (head, waiting, n_overtaken) = (next, 0, 0),
            (Ok(next), false) => {
                n_overtaken += usize::from(next.epoch < waiting);
                head = next;
            }
            (Err(_), _) => {
                let claimed = world.rules.claimed(&head, record);
                if head.epoch < claimed {
                    waiting = waiting.max(claimed);
                }
            }
        }
        if N_OVERTAKEN_MAX < n_overtaken {
            return Err(format!("starved: epoch {waiting} was overtaken {n_overtaken} times"));
        }
    }
    Ok(())
}

fn derived_is_folded(chain: &Chain) -> Result<(), String> {
    let replayed = replay_log(chain).map_err(|it| format!("derived: {it}"))?;
    match &replayed.replayed.difference {
        Some(it) => {
            Err(format!("derived: {} holds {}, and is {}", it.place, it.recorded, it.derived))
        }
        None => Ok(()),
    }
}

fn agrees(at: usize, node: &Node, chain: &Chain) -> Result<(), String> {
    let read: Vec<_> = node.copy.iter().map(|it| it.record.hash).collect();
    let held: Vec<_> = chain.batches.iter().map(|it| it.hash).collect();
    if node.is_halted() || read == held {
        return Ok(());
    }
    let same = read.iter().zip(&held).take_while(|(a, b)| a == b).count();
    Err(format!("disagrees: P{at} reads another chain after {same} batches"))
}

fn nobody_halts_or_waits(world: &World) -> Result<(), String> {
    for (at, node) in world.nodes.iter().enumerate() {
        if let Role::Halted(why) = &node.role {
            return Err(format!("halts: P{at} halts and nothing was cut off: {why}"));
        }
    }
    match world.clients.unanswered.keys().next() {
        Some(id) => Err(format!("stuck: {} is never answered", short(id))),
        None => Ok(()),
    }
}

/// The chain verifies as an auditor would verify it.
fn verifies(sim: &Arc<Sim>, chain: &Chain) -> Result<(), String> {
    let mut verifier = ChainVerifier::new(&sim.identities[0].deployment, 0);
    for record in &chain.batches {
        verifier.batch(&record.batch.encode()).map_err(|it| format!("verifies not: {it}"))?;
    }
    Ok(())
}

fn states_are_the_chains(sim: &Arc<Sim>, chain: &Chain) -> Result<(), String> {
    let replayed = replay_log(chain).map_err(|it| it.to_string())?;
    for node in 0..N_NODES {
        if sim.world().nodes[node].is_halted() {
            continue;
        }
        let store = sim.handle(node);
        match replayed.state_matches(&*store).map_err(|it| it.to_string())? {
            Some(true) => {}
            Some(false) => return Err(format!("state: P{node}'s is not what the chain folds to")),
            None => {
                let at = store.position().unwrap_or(0);
                let end = chain.head.next_seq;
                return Err(format!("state: P{node}'s stands at {at} and the chain at {end}"));
            }
        }
    }
    Ok(())
}
