//! What the way from decision to effect promises, as properties of every state of its model.

use stateright::{Model as _, Property};

use crate::effect::{Acknowledged, Action, Effect, State};

pub(crate) const ONCE: &str = "a request starts once at most";
pub(crate) const FROZEN: &str = "nothing starts after an acknowledged freeze but the stated gap";
pub(crate) const GOES_ON: &str = "a request without result goes on, unless it expired unbegun";
pub(crate) const GAP: &str = "the stated gap is real";
pub(crate) const DONE: &str = "a request is carried out, and a freeze acknowledged";

pub(crate) fn all() -> Vec<Property<Effect>> {
    vec![
        Property::always(ONCE, |_, it: &State| it.n_starts <= 1),
        Property::always(FROZEN, |_, it: &State| it.late_start != Some(false)),
        Property::always(GOES_ON, goes_on),
        Property::sometimes(GAP, |_, it: &State| it.late_start == Some(true)),
        Property::sometimes(DONE, |_, it: &State| {
            it.n_starts == 1 && it.acknowledged == Some(Acknowledged::ByConfirmation)
        }),
    ]
}

/// A request has its result, or has expired before it was begun, or something is still to come.
fn goes_on(model: &Effect, state: &State) -> bool {
    let is_void = state.n_starts == 0 && model.expires <= state.now;
    let mut actions = Vec::new();
    model.actions(state, &mut actions);
    let brings_it_on = |it: &Action| {
        matches!(it, Action::Dispatches | Action::TakesDispatch | Action::Steps(_))
            || *it == Action::JournalsResult
    };
    state.result.is_some() || is_void || actions.iter().any(brings_it_on)
}
