//! Releases: blue beside green, shares, commit, rollback, and a kill at every step.

use runner::host::Host as _;
use schemas::event::RunnerStatus;

use crate::support::{Bench, Release, get, proxied, runs, wait_for};

/// A host that serves release 1.0.0, with 1.1.0 in its store and past the sandbox.
fn two_releases() -> (Bench, Release, Release) {
    let bench = Bench::new();
    let old = bench.release("1.0.0", "old");
    let new = bench.release("1.1.0", "new");
    bench.host().declare(&proxied(&old)).unwrap();
    bench.pretend_passed(&[&new]);
    wait_for("a passed probe", || bench.latest("probe") == Some(1.0));
    (bench, old, new)
}

fn body(bench: &Bench, slot: &str) -> String {
    get(bench.installed(slot).port.unwrap()).unwrap()
}

#[test]
fn a_release_goes_from_the_idle_slot_to_serving_alone() {
    let (bench, old, new) = two_releases();
    let first = bench.live().pid.unwrap();
    let applied = bench.done("apply_patch:shop", Some(&new));
    assert!((applied.metrics["slot"] - 1.0).abs() < f64::EPSILON);
    assert_eq!(bench.host().store().resolve(&applied.snapshot).unwrap(), old.digest);
    assert_eq!((body(&bench, "green").as_str(), body(&bench, "blue").as_str()), ("old", "new"));
    let route = bench.route();
    assert_eq!((route.live.slot.as_str(), &route.shadow, &route.canary), ("green", &None, &None));

    bench.done("apply_patch:route/shop/shadow", None);
    assert_eq!(bench.route().shadow.unwrap().slot, "blue");
    bench.done("apply_patch:route/shop/canary/25", None);
    let route = bench.route();
    assert_eq!((route.shadow, route.canary.unwrap().pct), (None, 25));
    bench.done("apply_patch:route/shop/canary/100", None);
    assert!(runs(first), "until the commit the old release is there to go back to");

    bench.done("apply_patch:commit/shop", None);
    let route = bench.route();
    assert_eq!((route.live.slot.as_str(), route.canary), ("blue", None));
    let live = bench.live();
    assert_eq!((live.slot, live.digest), ("blue", new.digest.to_digest()));
    assert!(!runs(first));
    assert_eq!(bench.ask("apply_patch:commit/shop", None).status, RunnerStatus::Failed);
}

#[test]
fn the_probes_of_a_release_carry_its_slot_and_role() {
    let (bench, _, new) = two_releases();
    bench.done("apply_patch:shop", Some(&new));
    let seen = |slot: &str, role: &str| {
        let samples = bench.samples.lock().unwrap();
        samples.iter().rev().any(|it| {
            let label = |name: &str| it.series.labels.get(name).map(String::as_str);
            it.series.key == "probe" && label("slot") == Some(slot) && label("role") == Some(role)
        })
    };
    wait_for("green live, blue shadow", || seen("green", "live") && seen("blue", "shadow"));
    assert!(!seen("blue", "live"));
    bench.done("apply_patch:route/shop/canary/5", None);
    wait_for("blue live", || seen("blue", "live"));
}

#[test]
fn a_rollback_restores_the_recorded_digest_and_proves_it() {
    let (bench, old, new) = two_releases();
    bench.done("apply_patch:shop", Some(&new));
    bench.done("apply_patch:route/shop/canary/50", None);
    let candidate = bench.installed("blue").pid.unwrap();
    let outcome = bench.done("rollback:shop", Some(&old));
    assert!(!runs(candidate));
    assert_eq!(outcome.metrics["digest_equal"].to_bits(), 1f64.to_bits());
    assert_eq!(outcome.metrics["probe"].to_bits(), 1f64.to_bits());
    let route = bench.route();
    assert_eq!((route.live.slot.as_str(), route.canary), ("green", None));
    assert_eq!(body(&bench, "green"), "old");
    // And the same release may be tried again later.
    bench.done("apply_patch:shop", Some(&new));
}

#[test]
fn a_committed_release_is_rolled_back_without_a_gap() {
    let (bench, old, new) = two_releases();
    bench.done("apply_patch:shop", Some(&new));
    bench.done("apply_patch:route/shop/canary/100", None);
    bench.done("apply_patch:commit/shop", None);
    // As the playbook says it: applied is the former one, and the undoing is the serving one.
    let mut request = bench.request("rollback:shop", Some(&old));
    request.rollback.artifact = new.reference;
    let outcome = bench.carry_out(&request);
    assert_eq!(outcome.status, RunnerStatus::Success, "{}", outcome.explanation);
    assert_eq!(outcome.metrics["digest_equal"].to_bits(), 1f64.to_bits());
    assert_eq!(bench.live().digest, old.digest.to_digest());
    assert_eq!(get(bench.live().port.unwrap()).unwrap(), "old");
}

#[test]
fn a_release_that_does_not_start_is_ended_and_nothing_serves_from_it() {
    let (bench, _, _) = two_releases();
    let broken = bench.release("1.2.0", "broken");
    let sick = bench.release("1.3.0", "sick");
    bench.pretend_passed(&[&broken, &sick]);
    let outcome = bench.ask("apply_patch:shop", Some(&broken));
    assert_eq!(outcome.status, RunnerStatus::Failed);
    assert!(outcome.explanation.contains("cannot import module shop"), "{}", outcome.explanation);

    let mut spec = proxied(&bench.release("1.0.0", "old"));
    spec.start_timeout_ms = 300;
    bench.host().declare(&spec).unwrap();
    let outcome = bench.ask("apply_patch:shop", Some(&sick));
    assert!(outcome.explanation.contains("it answered 503"), "{}", outcome.explanation);
    assert_eq!(bench.installed("blue").pid, None);
    assert_eq!(bench.ask("apply_patch:route/shop/shadow", None).status, RunnerStatus::Failed);
    assert!(bench.route().shadow.is_none());
}

#[test]
fn what_is_not_signed_or_has_not_passed_the_sandbox_is_not_applied() {
    let (bench, old, new) = two_releases();
    let untried = bench.release("2.0.0", "untried");
    let outcome = bench.ask("apply_patch:shop", Some(&untried));
    assert!(outcome.explanation.contains("has not passed the sandbox"), "{}", outcome.explanation);

    let swapped = Release { digest: old.digest, ..new.clone() };
    let outcome = bench.ask("apply_patch:shop", Some(&swapped));
    assert!(outcome.explanation.contains("wrong digest"), "{}", outcome.explanation);

    let mut request = bench.request("apply_patch:shop", Some(&new));
    request.sign.algo = "none".to_owned();
    let outcome = bench.carry_out(&request);
    assert!(outcome.explanation.contains("unsigned"), "{}", outcome.explanation);
    assert_eq!(bench.host().inventory().unwrap().len(), 1, "nothing came into the other slot");
}

#[test]
fn two_releases_of_one_service_never_run_at_the_same_time() {
    let (bench, _, new) = two_releases();
    bench.done("apply_patch:shop", Some(&new));
    let outcome = bench.ask("apply_patch:shop", Some(&new));
    assert!(outcome.explanation.contains("another one is under way"), "{}", outcome.explanation);
}

#[test]
fn a_changed_release_folder_is_put_right_before_it_runs_again() {
    let (bench, old, _) = two_releases();
    let file = bench.home().join("releases").join(old.digest.to_string()).join("behaviour");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "tampered").unwrap();
    bench.done("restart:shop", None);
    assert_eq!(body(&bench, "green"), "old");
}

/// `atomic_apply_and_rollback_on_three_adapters`, the Linux one: the runner is killed at every
/// step of every operation; what serves is the old release or the new, whole, and a rollback
/// then leads back to the recorded one.
#[test]
fn killed_at_any_step_the_old_release_serves_or_the_new_and_the_way_back_is_open() {
    let (mut bench, old, new) = two_releases();
    let story = [
        "apply_patch:shop",
        "apply_patch:route/shop/shadow",
        "apply_patch:route/shop/canary/25",
        "apply_patch:commit/shop",
    ];
    let mut n_stopped = 0;
    for n in 0.. {
        bench.let_pass(n);
        let is_done = story.iter().all(|op| {
            let release = op.ends_with(":shop").then_some(&new);
            bench.ask(op, release).status == RunnerStatus::Success
        });
        bench.open();
        let live = bench.live();
        let expected = match get(live.port.unwrap()).unwrap().as_str() {
            "old" => &old,
            "new" => &new,
            other => panic!("step {n}: {other:?} serves"),
        };
        assert_eq!(live.digest, expected.digest.to_digest(), "step {n}");
        assert_eq!(bench.route().live.slot, live.slot, "step {n}: the route is another one");
        let outcome = bench.done("rollback:shop", Some(&old));
        assert_eq!(outcome.metrics["digest_equal"].to_bits(), 1f64.to_bits(), "step {n}");
        let slots = bench.host().inventory().unwrap();
        assert_eq!(slots.iter().filter(|it| it.pid.is_some()).count(), 1, "step {n}");
        if is_done {
            break;
        }
        n_stopped += 1;
    }
    assert!(n_stopped > 30, "only {n_stopped} steps were stopped at");
}

#[test]
fn a_rollback_killed_at_any_step_can_be_repeated() {
    let (mut bench, old, new) = two_releases();
    for n in 0.. {
        bench.done("apply_patch:shop", Some(&new));
        bench.done("apply_patch:commit/shop", None);
        bench.let_pass(n);
        let outcome = bench.ask("rollback:shop", Some(&old));
        bench.open();
        assert!(["old", "new"].contains(&get(bench.live().port.unwrap()).unwrap().as_str()));
        bench.done("rollback:shop", Some(&old));
        assert_eq!(bench.live().digest, old.digest.to_digest());
        if outcome.status == RunnerStatus::Success {
            assert!(n > 15, "only {n} steps were stopped at");
            break;
        }
    }
}
