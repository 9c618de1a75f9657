//! Exploring a model: to the end of its bound, or to the shortest story that breaks a promise.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};

/// Every state of the world is reached, none breaks a promise, and what the world is to contain
/// is there.
pub(crate) fn keeps_its_promises<M>(world: &M)
where
    M: Model + Clone + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let started = Instant::now();
    let finish = HasDiscoveries::AnyFailures;
    let checker = world.clone().checker().threads(2).finish_when(finish).spawn_bfs().join();
    let (n, depth) = (checker.unique_state_count(), checker.max_depth() - 1);
    eprintln!("{n} states, {depth} steps deep, in {:.1?}: {world:?}", started.elapsed());
    for property in world.properties() {
        let found = checker.discovery(property.name);
        if property.expectation.discovery_is_failure() {
            let told = found.clone().map(story).unwrap_or_default();
            assert!(found.is_none(), "not so: {}\n{told}in {world:?}", property.name);
        } else {
            assert!(found.is_some(), "never so: {}\nin {world:?}", property.name);
        }
    }
}

/// The promise is broken, and the shortest story that does it is told.
pub(crate) fn breaks<M>(world: &M, promise: &'static str)
where
    M: Model + Clone + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let started = Instant::now();
    // States of one depth come before those of the next, but are searched in blocks, so that a
    // longer story may come first: look again below its length.
    let mut depth_max = usize::MAX;
    let mut shortest = None;
    loop {
        let finish = HasDiscoveries::AllOf(BTreeSet::from([promise]));
        let checker = world.clone().checker().finish_when(finish).target_max_depth(depth_max);
        let checker = checker.spawn_bfs().join();
        let Some(path) = checker.discovery(promise) else { break };
        let n = checker.unique_state_count();
        depth_max = path.clone().into_actions().len() + 1;
        shortest = Some((n, story(path)));
    }
    let Some((n, told)) = shortest else { panic!("nothing breaks: {promise}\nin {world:?}") };
    let (steps, took) = (depth_max - 1, started.elapsed());
    eprintln!("{steps} steps break, among {n} states in {took:.1?}: {promise}\n{told}in {world:?}");
}

fn story<S, A: Debug>(path: Path<S, A>) -> String {
    let actions = path.into_actions();
    (1..).zip(actions).map(|(n, action)| format!("{n:3}. {action:?}\n")).collect()
}
