//! The protocol itself as a model that people can read: protocol.md, explored state by state.
//!
//! Two worlds. `model/chain.rs` and `model/owner.rs`: who may write the chain, and what its
//! readers make of it. `model/effect.rs`: how a decision reaches a host once, and never after a
//! freeze. Each says at its head what it leaves out; the files beside them say what is promised.
//! Every rule is a switch. With all rules in force every state of the bound is reached and no
//! promise is broken; with any one left out the search finds the shortest story that breaks the
//! promise named for it in the tables below.
//!
//! `HEALWRIGHT_FULL=1` explores larger bounds of the chain. `-- --nocapture` prints
//! the number of states, and each story.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

#[path = "model/chain.rs"]
mod chain;
#[path = "model/chain_promises.rs"]
mod chain_promises;
#[path = "model/effect.rs"]
mod effect;
#[path = "model/effect_promises.rs"]
mod effect_promises;
#[path = "model/explore.rs"]
mod explore;
#[path = "model/owner.rs"]
mod owner;

use chain::{Break, Chain};
use effect::{Break as EffectBreak, Effect};
use explore::{breaks, keeps_its_promises};

fn full() -> bool {
    std::env::var_os("HEALWRIGHT_FULL").is_some()
}

/// Two processes; of three inputs the second repeats the first one's client id.
const CHAIN: Chain = Chain {
    broken: Break::None,
    inbox: &[1, 1, 0],
    n_processes: 2,
    faults: chain::Faults { any: 0, rotations: 2, cuts: 0 },
};

const EFFECT: Effect = Effect {
    broken: EffectBreak::None,
    ticks: 3,
    expires: 2,
    faults: effect::Faults { crashes: 0, any: 0 },
};

fn chain_with(any: u8, rotations: u8, cuts: u8, inbox: &'static [u8]) -> Chain {
    Chain { faults: chain::Faults { any, rotations, cuts }, inbox, ..CHAIN }
}

fn effect_with(ticks: u8, expires: u8, faults: u8) -> Effect {
    Effect { ticks, expires, faults: effect::Faults { crashes: faults, any: faults }, ..EFFECT }
}

#[test]
fn the_chain_keeps_its_promises_in_every_state_of_the_bound() {
    let mut worlds = vec![
        CHAIN,
        chain_with(1, 1, 0, &[1, 1, 0]),
        chain_with(0, 1, 0, &[1, 1, 0, 2, 2]),
        Chain { n_processes: 3, ..chain_with(1, 1, 0, &[1]) },
        // The tail is cut off once.
        chain_with(0, 1, 1, &[1, 0]),
    ];
    if full() {
        worlds.extend([
            chain_with(2, 1, 0, &[1, 1]),
            chain_with(1, 2, 0, &[1]),
            Chain { n_processes: 3, ..chain_with(0, 2, 0, &[1]) },
            chain_with(1, 1, 1, &[1]),
        ]);
    }
    worlds.iter().for_each(keeps_its_promises);
}

#[test]
fn the_effect_keeps_its_promises_in_every_state_of_the_bound() {
    [EFFECT, effect_with(2, 2, 1)].iter().for_each(keeps_its_promises);
}

#[test]
fn each_break_of_the_chain_is_found() {
    use chain_promises::{
        AGREE, ANSWERED, DERIVED, DISPATCHED, KEPT, NOT_STARVED, NOT_STUCK, ONCE,
    };
    for (broken, promise) in [
        (Break::AcknowledgesOnTheBrokersWord, ANSWERED),
        (Break::KeepsTheOverlayAfterLost, KEPT),
        (Break::KeepsTheOverlayAfterLost, DERIVED),
        (Break::KeepsTheOverlayAfterLost, AGREE),
        (Break::RemembersRepeatsOutsideTheState, KEPT),
        (Break::RemembersRepeatsOutsideTheState, ONCE),
        (Break::AnswersARepeatWhoseFirstIsUnlinked, ANSWERED),
        (Break::ChecksNeitherPrevNorPositions, ONCE),
        (Break::ElectsOnAnOldHead, ONCE),
        (Break::RetriesWithoutTakingAgain, ONCE),
        (Break::RetriesWithoutTakingAgain, DERIVED),
        (Break::StepsDownForGood, NOT_STUCK),
        (Break::NeverYields, NOT_STARVED),
        (Break::DispatchesBeforeReadBack, DISPATCHED),
    ] {
        breaks(&Chain { broken, ..CHAIN }, promise);
    }
    let cut = chain_with(1, 1, 1, &[1]);
    for broken in [Break::ReadsOnAfterTruncation, Break::ForgetsInARestartWhatItRead] {
        breaks(&Chain { broken, ..cut }, AGREE);
    }
}

#[test]
fn each_break_of_the_effect_is_found() {
    use effect_promises::{FROZEN, GOES_ON, ONCE};
    let receipts = effect_with(1, 1, 1);
    for (broken, promise) in [
        (EffectBreak::KeepsNoReceipts, ONCE),
        (EffectBreak::KeepsReceiptsAfterTheEffect, ONCE),
        (EffectBreak::PrunesReceiptsOnceJournaled, ONCE),
        (EffectBreak::LooksUpThenWrites, ONCE),
        (EffectBreak::ChecksExpiryBeforeItInserts, ONCE),
        (EffectBreak::PrunesAtExpiryUnjournaled, GOES_ON),
        (EffectBreak::DispatchesOnce, GOES_ON),
    ] {
        breaks(&Effect { broken, ..receipts }, promise);
    }
    for broken in [
        EffectBreak::AcknowledgesBeforeLeasesHaveEnded,
        EffectBreak::CountsLeasesFromTheGrantsArrival,
        EffectBreak::RenewsLeasesAsFormerOwner,
        EffectBreak::GrantsWithoutTheModeEpoch,
        EffectBreak::ConfirmsDuringAStart,
    ] {
        breaks(&Effect { broken, ..EFFECT }, FROZEN);
    }
}
