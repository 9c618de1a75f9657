//! At most one start per request: repeats, replays, restarts, and a crash at every durable step.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;

use schemas::event::{Decision, RunnerStatus};
use schemas::{Ns, Uuid};

use super::bed::{Bed, lease, result, results, rule, starts};
use crate::agent::answer::is_by;
use crate::agent::core::Effect;
use crate::wire::{FromRunner, ToRunner};

#[test]
fn a04_a_repeat_is_answered_with_the_same_bytes_and_starts_nothing() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let first = bed.carried(&evidence);
    for _ in 0..3 {
        assert_eq!(results(&bed.dispatch(&evidence)), std::slice::from_ref(&first));
        bed.restart();
    }
    // Once its request has expired it is a receipt all the same.
    bed.clock.pass(3_600_000);
    assert_eq!(results(&bed.dispatch(&evidence)), [first]);
    assert_eq!(bed.machine.n_calls(), 1);
}

#[test]
fn a04_every_message_of_a_run_replayed_at_every_position_has_no_second_effect() {
    // The run: two requests with their leases, journaled, a mode epoch between them.
    let record = |bed: &mut Bed| {
        let mut run = Vec::new();
        for n in 0..2 {
            let evidence = Box::new(bed.decided(n, &["restart:shop"]));
            let mode = bed.mode;
            let dispatch = ToRunner::Dispatch { evidence, mode };
            let said = bed.say(dispatch.clone());
            let (request_id, nonce) = lease(&said);
            let grant = ToRunner::LeaseGrant { request_id, nonce, remaining_ms: 2_000, mode };
            bed.say(grant.clone());
            let place = "immutable:log:0/9".to_owned();
            let journaled = ToRunner::ResultJournaled { request_id, place };
            bed.say(journaled.clone());
            run.extend([dispatch, grant, journaled, ToRunner::ModeEpoch(mode)]);
        }
        run
    };
    let run = record(&mut Bed::new());
    for (replayed, restarts) in (0..run.len()).flat_map(|it| [(it, false), (it, true)]) {
        for position in replayed + 1..=run.len() {
            let mut bed = Bed::new();
            for (at, message) in run.iter().enumerate() {
                if at == position {
                    if restarts {
                        bed.restart();
                    }
                    bed.say(run[replayed].clone());
                }
                bed.say(message.clone());
            }
            bed.say(run[replayed].clone());
            let started = starts(&bed.machine);
            assert!(started.values().all(|n| *n <= 1), "{replayed} at {position}: {started:?}");
        }
    }
}

#[test]
fn a_dispatch_that_comes_again_while_it_waits_or_runs_starts_nothing_more() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let said = bed.dispatch(&evidence);
    assert_eq!(bed.dispatch(&evidence), []);
    let effects = bed.grant(&said, 2_000);
    let [Effect::Work(_)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(bed.dispatch(&evidence), []);
    assert!(bed.grant(&said, 2_000).is_empty(), "a grant counts once");
    bed.carry_out(effects);
    assert_eq!(bed.machine.n_calls(), 1);
}

#[test]
fn a_lease_that_is_not_answered_is_asked_for_again_under_a_new_nonce() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let first = bed.dispatch(&evidence);
    assert_eq!(bed.tick(), []);
    bed.clock.pass(1_000);
    let second = bed.tick();
    assert_ne!(lease(&first), lease(&second));
    assert!(bed.grant(&first, 2_000).is_empty(), "the former asking is void");
    // So is the second when the conversation begins anew.
    let third = bed.welcome();
    assert!(bed.grant(&second, 2_000).is_empty());
    let effects = bed.grant(&third, 2_000);
    bed.carry_out(effects);
    assert_eq!(bed.machine.n_calls(), 1);
}

#[test]
fn a_request_that_expires_while_it_waits_is_over() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let said = bed.dispatch(&evidence);
    bed.clock.pass(60_000);
    let over = bed.tick();
    assert_eq!(rule(&mut bed, &over[..1]), "expired");
    assert!(bed.grant(&said, 2_000).is_empty());
    assert_eq!(bed.machine.n_calls(), 0);
}

#[test]
fn a_result_is_sent_until_it_is_journaled() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let first = bed.carried(&evidence);
    assert_eq!(bed.tick(), []);
    bed.clock.pass(2_000);
    assert_eq!(results(&bed.tick()), std::slice::from_ref(&first));
    assert_eq!(results(&bed.restart()), std::slice::from_ref(&first));
    assert_eq!(results(&bed.welcome()), std::slice::from_ref(&first));
    let place = "immutable:log:0/9".to_owned();
    bed.say(ToRunner::ResultJournaled { request_id: first.id, place });
    bed.clock.pass(2_000);
    assert_eq!(bed.tick(), []);
    assert_eq!(results(&bed.restart()), []);
}

#[test]
fn a_start_without_a_finish_is_unknown_and_is_never_run_again() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let said = bed.dispatch(&evidence);
    let effects = bed.grant(&said, 2_000);
    assert!(matches!(&effects[..], [Effect::Work(_)]));
    // The runner ends here: whether the host was called, nobody can tell.
    let answer = result(&bed.restart());
    assert_eq!((answer.status, answer.known), (RunnerStatus::Failed, Some(false)));
    assert_eq!(results(&bed.dispatch(&evidence)), [answer]);
    assert_eq!(bed.machine.n_calls(), 0);
}

/// What is on disk at every durable step of a request, by reading the file after each.
fn steps_of(bed: &mut Bed, n: u64) -> (crate::wire::Evidence, Vec<(Vec<u8>, usize)>) {
    let path = bed.dir.path().join("receipts");
    let evidence = bed.decided(n, &["restart:shop"]);
    let mut steps = Vec::new();
    let mut step = |bed: &Bed| steps.push((fs::read(&path).unwrap(), bed.machine.n_calls()));
    step(bed);
    let said = bed.dispatch(&evidence);
    step(bed);
    let effects = bed.grant(&said, 2_000);
    step(bed);
    let Ok([Effect::Work(job)]) = <[Effect; 1]>::try_from(effects) else { panic!() };
    let finished = job.run(&*bed.machine);
    step(bed);
    let effects = bed.agent().finished(finished).unwrap();
    step(bed);
    let request_id = result(&bed.carry_out(effects)).id;
    bed.say(ToRunner::ResultJournaled { request_id, place: String::new() });
    step(bed);
    (evidence, steps)
}

#[test]
fn a_crash_at_every_step_of_the_receipts_leaves_at_most_one_start() {
    let n_steps = steps_of(&mut Bed::new(), 1).1.len();
    for at in 0..n_steps {
        // A crash in the write that follows: not persisted, torn, persisted but unanswered.
        for form in ["not persisted", "torn", "persisted"] {
            let mut bed = Bed::new();
            let (evidence, steps) = steps_of(&mut bed, 1);
            let (bytes, mut n_before) = steps[at].clone();
            let next = steps.get(at + 1).map_or(&bytes, |(next, _)| next);
            let kept = match form {
                "torn" => &next[..(bytes.len() + next.len()) / 2],
                "persisted" => &next[..],
                _ => &bytes[..],
            };
            fs::write(bed.dir.path().join("receipts"), kept).unwrap();
            // A start that follows a write has not happened when the crash is in that write.
            n_before = n_before.min(1);
            bed.machine.calls.lock().unwrap().truncate(n_before);
            bed.restart();
            let said = bed.dispatch_again(&evidence);
            if said.iter().any(|it| matches!(it, FromRunner::Lease { .. })) {
                let effects = bed.grant(&said, 2_000);
                bed.carry_out(effects);
            }
            assert!(bed.machine.n_calls() <= 1, "step {at}, {form}: {:?}", bed.machine.calls);
            // And there is an answer in every case.
            let answers = results(&bed.dispatch_again(&evidence));
            assert_eq!(answers.len(), 1, "step {at}, {form}");
        }
    }
}

#[test]
fn receipts_written_only_after_the_effect_would_be_found() {
    // The break that the test above must find: the receipt of the start is lost.
    let mut bed = Bed::new();
    let (evidence, steps) = steps_of(&mut bed, 1);
    fs::write(bed.dir.path().join("receipts"), &steps[0].0).unwrap();
    bed.restart();
    let said = bed.dispatch_again(&evidence);
    let effects = bed.grant(&said, 2_000);
    bed.carry_out(effects);
    assert_eq!(bed.machine.n_calls(), 2);
}

#[test]
fn a_clock_set_back_after_receipts_were_pruned_starts_nothing_again() {
    let mut bed = Bed::new();
    let mut all = Vec::new();
    for n in 0..256 {
        let approval = bed.plane.append("p", bed.plane.decision(Decision::Approved));
        let mut request = bed.plane.request(n, &["restart:shop"], approval);
        request.binding.as_mut().unwrap().expires_at = super::bed::NOON + Ns(n + 1);
        let evidence = bed.journaled(request, approval);
        let request_id = bed.carried(&evidence).id;
        bed.say(ToRunner::ResultJournaled { request_id, place: String::new() });
        all.push(evidence);
        // The tree of this bed keeps no tiles, so it begins anew before it would need one.
        if bed.plane.tree.size() > 250 {
            bed.plane.entries.clear();
            bed.plane.tree = ledger::Tree::new();
            fs::remove_file(bed.dir.path().join("heads/0")).unwrap();
            bed.restart();
        }
    }
    let noon = *bed.clock.wall.lock().unwrap();
    bed.clock.pass(60_000);
    bed.tick();
    *bed.clock.wall.lock().unwrap() = noon;
    fs::remove_file(bed.dir.path().join("heads/0")).unwrap();
    bed.restart();
    let before = bed.machine.n_calls();
    let mut evidence = all[0].clone();
    (evidence.from, evidence.consistency) = (0, Vec::new());
    let said = bed.dispatch(&evidence);
    assert_eq!(rule(&mut bed, &said), "expired");
    assert_eq!(bed.machine.n_calls(), before);
}

#[test]
fn c12_an_answer_is_taken_from_the_runner_that_was_asked_and_about_what_it_was_asked() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let FromRunner::Hello { key, .. } = bed.agent().hello(&[]) else { panic!() };
    let answer = bed.carried(&evidence);
    let accepted =
        |it: &schemas::event::RunnerResult| is_by(it, &answer.id, super::bed::HOST, &key);
    assert!(accepted(&answer));
    let full = std::env::var_os("HEALWRIGHT_FULL").is_some();
    let n_forged = if full { 100_000u64 } else { 1_000 };
    for n in 0..n_forged {
        let mut forged = answer.clone();
        let other = Uuid::named("forged", &[&n.to_be_bytes()]);
        match n % 10 {
            0 => forged.id = other,
            1 => forged.status = RunnerStatus::RolledBack,
            2 => forged.metrics = BTreeMap::from([(format!("m{n}"), n as f64)]),
            3 => forged.logs_ref = other.to_string(),
            4 => forged.snapshot = other.to_string(),
            5 => forged.explanation.push_str(&other.to_string()),
            6 => forged.kind = Some(other.to_string()),
            7 => forged.host = Some(other.to_string()),
            8 => forged.known = None,
            _ => {
                let seed = schemas::Hash::of(&[&n.to_be_bytes()]).0;
                let stranger = schemas::signature::KeyPair::from_seed(&seed);
                forged = crate::agent::answer::sign(forged, &stranger);
            }
        }
        assert!(!accepted(&forged), "{n}: {forged:?}");
    }
    // A true answer to another request is none to this one.
    let evidence = bed.decided(2, &["restart:shop"]);
    let other = bed.carried(&evidence);
    assert!(!accepted(&other) && is_by(&other, &other.id, super::bed::HOST, &key));
}
