//! What the chain promises, as properties of every state of its model.

use stateright::Property;

use crate::chain::{Batch, Chain, Folded, Process, Role, State, Told, places};

/// Batches that a yielding owner may still have on their way when it is warned.
const N_OVERTAKEN_MAX: usize = 1;

pub(crate) const AGREE: &str = "every reader agrees on the chain, or halts";
pub(crate) const KEPT: &str = "no input is lost";
pub(crate) const ONCE: &str = "no input and no client id stands in the chain twice";
pub(crate) const DERIVED: &str = "what was derived is what a fold of the chain says";
pub(crate) const ANSWERED: &str = "what was acknowledged stands where it was said to stand";
pub(crate) const DISPATCHED: &str = "nothing was dispatched that the chain does not hold";
pub(crate) const NOT_STARVED: &str = "a candidate is overtaken once at most";
pub(crate) const NOT_STUCK: &str = "at rest the assigned process is owner and has taken all";
pub(crate) const CALM: &str = "nobody halts unless a tail was cut off";

pub(crate) fn all() -> Vec<Property<Chain>> {
    vec![
        Property::always(AGREE, readers_agree),
        Property::always(KEPT, no_input_is_lost),
        Property::always(ONCE, nothing_stands_twice),
        Property::always(DERIVED, derived_is_folded),
        Property::always(ANSWERED, |model, it| stands(model, it, &it.answered)),
        Property::always(DISPATCHED, |model, it| stands(model, it, &it.dispatched)),
        Property::always(NOT_STARVED, no_candidate_starves),
        Property::always(NOT_STUCK, nobody_is_stuck),
        Property::always(CALM, |_, it: &State| it.is_cut || it.processes.iter().all(is_running)),
    ]
}

fn is_running(it: &Process) -> bool {
    it.role != Role::Halted
}

/// Whether it holds for every batch of the chain and what a reader knew before it.
fn all_linked(model: &Chain, state: &State, holds: impl Fn(&Folded, &Batch) -> bool) -> bool {
    let mut folded = Folded::GENESIS;
    state.log.iter().all(|batch| {
        let before = folded;
        !folded.read(batch, model.broken) || holds(&before, batch)
    })
}

fn readers_agree(model: &Chain, state: &State) -> bool {
    let mut readers = state.processes.iter().filter(|it| is_running(it) && !it.is_beyond);
    readers.all(|it| it.folded == model.folded(&state.log[..it.folded.n_read]))
}

fn no_input_is_lost(model: &Chain, state: &State) -> bool {
    all_linked(model, state, |before, batch| {
        let known = before.inputs | batch.inputs;
        (before.position..batch.position).all(|at| model.first(at, known).is_some())
    })
}

fn nothing_stands_twice(model: &Chain, state: &State) -> bool {
    all_linked(model, state, |before, batch| {
        let mut known = before.inputs;
        places(batch.inputs).all(|at| {
            let is_new = model.first(at, known).is_none();
            known |= 1 << at;
            is_new
        })
    })
}

fn derived_is_folded(model: &Chain, state: &State) -> bool {
    all_linked(model, state, |before, batch| batch.derived == before.counted)
}

/// An input that nobody has taken yet may still come to stand where it was said to. At rest
/// all are taken.
fn stands(model: &Chain, state: &State, told: &Told) -> bool {
    if state.is_cut || told.is_empty() {
        return true;
    }
    told.iter().all(|(at, id)| {
        let is_held = |it: &Batch| model.first(*at, it.inputs).is_some();
        all_linked(model, state, |_, it| !is_held(it) || it.id == *id)
    })
}

/// Once an election with a higher epoch can be read, its author is overtaken no more, except by
/// what was sent before: an owner that reads so far has yielded.
fn no_candidate_starves(model: &Chain, state: &State) -> bool {
    let mut folded = Folded::GENESIS;
    // The epoch of the highest skipped election, and how many batches below it linked since.
    let (mut waiting, mut n_overtaken) = (0, 0);
    state.log.iter().all(|batch| {
        let is_linked = folded.read(batch, model.broken);
        match (is_linked, batch.elects) {
            (true, true) => (waiting, n_overtaken) = (0, 0),
            (true, false) if batch.epoch < waiting => n_overtaken += 1,
            (false, true) if folded.epoch < batch.epoch => waiting = waiting.max(batch.epoch),
            (true | false, _) => {}
        }
        state.is_cut || n_overtaken <= N_OVERTAKEN_MAX
    })
}

fn nobody_is_stuck(model: &Chain, state: &State) -> bool {
    let assigned = &state.processes[state.assigned];
    let is_served = assigned.role == Role::Owner(None)
        && usize::from(assigned.folded.position) == model.inbox.len();
    if state.is_cut || is_served {
        return true;
    }
    let mut progress = Vec::new();
    model.progress(state, &mut progress);
    !progress.is_empty()
}
