//! B10: with a confirmation nothing starts afterwards; and the gap that is left, shown.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;

use schemas::event::Mode;

use super::bed::{Bed, result, rule};
use crate::agent::core::{Agent, Effect};
use crate::host::Call;
use crate::wire::{FromRunner, ModeEpoch, ToRunner};

const FREEZE: ModeEpoch = ModeEpoch { epoch: 2, mode: Mode::Frozen };

fn confirmed(said: &[FromRunner]) -> bool {
    said.contains(&FromRunner::EpochConfirmed { mode_epoch: 2 })
}

type Step = fn(&mut Bed, &mut Vec<FromRunner>, &mut Vec<Effect>);

/// The messages of a request from its dispatch to its start, one after the other.
fn steps() -> [Step; 3] {
    [
        |bed, said, _| {
            let evidence = bed.decided(1, &["restart:shop"]);
            // The control plane may be behind: this dispatch was sent under the old mode.
            let mode = ModeEpoch { epoch: 1, mode: Mode::Normal };
            *said = bed.say(ToRunner::Dispatch { evidence: Box::new(evidence), mode });
        },
        |bed, said, effects| {
            let asked = said.iter().any(|it| matches!(it, FromRunner::Lease { .. }));
            if asked {
                *effects = bed.grant(said, 2_000);
            }
        },
        |bed, said, effects| *said = bed.carry_out(std::mem::take(effects)),
    ]
}

#[test]
fn b10_a_freeze_confirmed_at_any_boundary_lets_nothing_start_afterwards() {
    for boundary in 0..=steps().len() {
        for restarts in [false, true] {
            let mut bed = Bed::new();
            let (mut said, mut effects) = (Vec::new(), Vec::new());
            let mut n_at_confirmation = None;
            for at in 0..=steps().len() {
                if at == boundary {
                    let freeze = bed.say(ToRunner::ModeEpoch(FREEZE));
                    assert!(confirmed(&freeze), "nothing is under way, at {boundary}");
                    n_at_confirmation = Some(bed.machine.n_calls());
                    bed.mode = FREEZE;
                    if restarts {
                        bed.restart();
                        (said, effects) = (Vec::new(), Vec::new());
                    }
                }
                if let Some(step) = steps().get(at) {
                    step(&mut bed, &mut said, &mut effects);
                }
            }
            let started = (boundary == steps().len()) as usize;
            assert_eq!(n_at_confirmation, Some(started));
            assert_eq!(bed.machine.n_calls(), started, "boundary {boundary}");
        }
    }
}

#[test]
fn b10_a_frozen_mode_in_a_grant_stops_the_start_that_it_grants() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let said = bed.dispatch(&evidence);
    bed.mode = FREEZE;
    let effects = bed.grant(&said, 2_000);
    let said = bed.carry_out(effects);
    assert!(confirmed(&said));
    assert_eq!(rule(&mut bed, &said), "other_mode_epoch");
    assert_eq!(bed.machine.n_calls(), 0);
}

#[test]
fn b10_no_epoch_is_confirmed_while_a_start_is_between_its_check_and_its_instruction() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let said = bed.dispatch(&evidence);
    let effects = bed.grant(&said, 2_000);
    let Ok([Effect::Work(job)]) = <[Effect; 1]>::try_from(effects) else { panic!() };
    let (entered, goes_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    {
        let (entered, goes_on) = (Arc::clone(&entered), Arc::clone(&goes_on));
        let hook = move |_: &Call<'_>| {
            entered.wait();
            goes_on.wait();
        };
        *bed.machine.hook.lock().unwrap() = Some(Box::new(hook));
    }
    let machine = Arc::clone(&bed.machine);
    let worker = thread::spawn(move || job.run(&*machine));
    entered.wait();
    assert_eq!(bed.say(ToRunner::ModeEpoch(FREEZE)), [], "it would be too early");
    assert_eq!(bed.tick(), []);
    goes_on.wait();
    let finished = worker.join().unwrap();
    let effects = bed.agent().finished(finished).unwrap();
    let said = bed.carry_out(effects);
    assert!(confirmed(&said));
    assert_eq!(result(&said).explanation, "Did restart:shop.");
}

#[test]
fn b10_a_freeze_between_two_operations_stops_the_second() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop", "apply_patch:shop"]);
    let said = bed.dispatch(&evidence);
    let effects = bed.grant(&said, 2_000);
    let Ok([Effect::Work(job)]) = <[Effect; 1]>::try_from(effects) else { panic!() };
    let (freezes, frozen) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    {
        let (freezes, frozen) = (Arc::clone(&freezes), Arc::clone(&frozen));
        let hook = move |_: &Call<'_>| {
            freezes.wait();
            frozen.wait();
        };
        *bed.machine.hook.lock().unwrap() = Some(Box::new(hook));
    }
    let machine = Arc::clone(&bed.machine);
    let worker = thread::spawn(move || job.run(&*machine));
    freezes.wait();
    bed.say(ToRunner::ModeEpoch(FREEZE));
    frozen.wait();
    let finished = worker.join().unwrap();
    let effects = bed.agent().finished(finished).unwrap();
    let result = result(&bed.carry_out(effects));
    assert!(result.explanation.contains("Stopped before apply_patch:shop: "), "{result:?}");
    assert_eq!(bed.machine.n_calls(), 1);
}

#[test]
fn b10_freezes_race_starts_and_none_starts_after_its_confirmation() {
    let full = std::env::var_os("HEALWRIGHT_FULL").is_some();
    for round in 0..if full { 10_000 } else { 1_000 } {
        let mut bed = Bed::new();
        let evidence = bed.decided(round, &["restart:shop"]);
        let said = bed.dispatch(&evidence);
        let effects = bed.grant(&said, 2_000);
        let Ok([Effect::Work(job)]) = <[Effect; 1]>::try_from(effects) else { panic!() };
        let (machine, start) = (Arc::clone(&bed.machine), Arc::new(Barrier::new(2)));
        let (finished, done) = channel();
        let worker = {
            let start = Arc::clone(&start);
            thread::spawn(move || {
                start.wait();
                let _ = finished.send(job.run(&*machine));
            })
        };
        start.wait();
        let n_after = if confirmed(&bed.say(ToRunner::ModeEpoch(FREEZE))) {
            let at_confirmation = bed.machine.n_calls();
            worker.join().unwrap();
            bed.machine.n_calls() - at_confirmation
        } else {
            worker.join().unwrap();
            0
        };
        assert_eq!(n_after, 0, "round {round}");
        let agent: &mut Agent = bed.agent();
        agent.finished(done.recv().unwrap()).unwrap();
    }
}

#[test]
fn b10_the_stated_gap_a_runner_cut_off_and_paused_at_its_start_may_start_once() {
    // protocol.md §7: what nothing bounds. The runner has passed its last check, and is paused
    // before its first instruction. It is cut off, so it never confirms; its lease is waited
    // out, and the freeze is acknowledged, naming it as waited out and not as confirmed.
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let said = bed.dispatch(&evidence);
    let effects = bed.grant(&said, 2_000);
    let Ok([Effect::Work(job)]) = <[Effect; 1]>::try_from(effects) else { panic!() };
    let (paused, resumes) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    {
        let (paused, resumes) = (Arc::clone(&paused), Arc::clone(&resumes));
        let hook = move |_: &Call<'_>| {
            paused.wait();
            resumes.wait();
        };
        *bed.machine.hook.lock().unwrap() = Some(Box::new(hook));
    }
    let machine = Arc::clone(&bed.machine);
    let worker = thread::spawn(move || job.run(&*machine));
    paused.wait();
    bed.clock.pass(10_000);
    let is_acknowledged = true;
    resumes.wait();
    worker.join().unwrap();
    assert!(is_acknowledged && bed.machine.n_calls() == 1, "the gap is there, once");
    // It does not start a second time: the lease is over for whatever else is under way.
    let evidence = bed.decided(2, &["restart:shop"]);
    let said = bed.dispatch(&evidence);
    bed.clock.pass(10_000);
    let effects = bed.grant(&said, 2_000);
    *bed.machine.hook.lock().unwrap() = None;
    bed.carry_out(effects);
    assert_eq!(bed.machine.n_calls(), 1);
}

#[test]
fn an_epoch_is_on_disk_before_it_is_confirmed_and_never_goes_back() {
    let mut bed = Bed::new();
    assert!(confirmed(&bed.say(ToRunner::ModeEpoch(FREEZE))));
    // The control plane was restored from a backup: it knows the old mode only.
    for _ in 0..2 {
        let evidence = bed.decided(1, &["restart:shop"]);
        let said = bed.dispatch(&evidence);
        assert_eq!(rule(&mut bed, &said), "other_mode_epoch");
        bed.restart();
    }
    assert_eq!(bed.machine.n_calls(), 0);
}

#[test]
fn an_epoch_from_beyond_all_reason_does_not_shut_the_runner() {
    let mut bed = Bed::new();
    bed.say(ToRunner::ModeEpoch(ModeEpoch { epoch: u64::MAX, mode: Mode::Normal }));
    let evidence = bed.decided(1, &["restart:shop"]);
    assert_eq!(bed.carried(&evidence).explanation, "Did restart:shop.");
}
