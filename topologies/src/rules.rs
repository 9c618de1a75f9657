//! Which rules fold an entry: the version of the processors that was in force at its place.
//!
//! A journal says for ever what it said when it was written. So a processor that learns to
//! decide differently does so from a definite place on: the `config.activated` named `rules`,
//! which a node signs when it starts on a journal of older rules. Entries before it are folded
//! as they were, and replay to the byte.
//!
//! Deliberately absent: any other switch. What an operator may choose is a number of the
//! profile; a version of the rules is nobody's choice and never goes back.

use serde::{Deserialize, Serialize};

use crate::config;
use crate::fold::View;

/// What folds a journal that names no rules.
pub const FIRST: u32 = 1;

/// What this program's processors do in full.
///
/// - 2: every configuration is checked for signature and version where it is folded; trust
///   speaks in policy and no longer in the first layer; a person can vouch; the permission for
///   a rollout lasts as long as the rollout may.
/// - 3: what was seen too long ago explains nothing, and a time without an owner does not count
///   against a repair.
pub const CURRENT: u32 = 3;

/// State key under `config`. Persisted: frozen.
pub(crate) const KEY: &str = "rules";

/// Body of `config.activated.v1` named `rules`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Their version.
    pub version: u32,
}

impl Rules {
    /// Those of this program.
    pub const fn current() -> Self {
        Rules { version: CURRENT }
    }
}

/// The rules in force.
pub fn of(view: &View<'_>) -> u32 {
    view.peek(config::PROCESSOR.name, KEY).unwrap_or(FIRST)
}

/// Whether the second rules are in force.
pub(crate) fn are_second(view: &View<'_>) -> bool {
    of(view) >= 2
}

/// Whether the third rules are in force.
pub(crate) fn are_third(view: &View<'_>) -> bool {
    of(view) >= 3
}
