//! Supervision: start, probe, restart, the end of everything, adoption.

use std::fs;
use std::process::{Child, Command, Stdio};

use runner::host::Host as _;
use runner::supervisor::ServiceSpec;
use rustix::process::Signal;
use schemas::event::RunnerStatus;

use crate::support::{Bench, SHOP, command, get, runs, service, signal, wait_for};

/// A process that is none of ours, and is gone when the test is.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        let mut command = Command::new("/bin/sleep");
        command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Stranger(command.spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_declared_service_runs_and_its_probes_pass() {
    let bench = Bench::new();
    bench.host().declare(&service()).unwrap();
    wait_for("a passed probe", || bench.latest("probe") == Some(1.0));
    assert_eq!(bench.latest("process_up"), Some(1.0));
    assert_eq!(bench.latest("start_failed"), Some(0.0));
    let live = bench.live();
    assert_eq!(get(live.port.unwrap()).unwrap(), "good");
    let record = bench.host().metrics().unwrap();
    assert!(record.series.iter().any(|it| it.key == "svc_uptime" && it.service == SHOP));
    assert!(record.series.iter().all(|it| it.labels.is_empty()), "without a proxy, no slots");
}

#[test]
fn a_killed_service_is_reported_and_only_a_restart_brings_it_back() {
    let bench = Bench::new();
    bench.host().declare(&service()).unwrap();
    wait_for("a passed probe", || bench.latest("probe") == Some(1.0));
    let before = bench.live().pid.unwrap();
    signal(before, Signal::KILL);
    wait_for("its death to be seen", || {
        bench.latest("process_up") == Some(0.0) && bench.latest("probe") == Some(0.0)
    });
    bench.host().declare(&service()).unwrap();
    assert_eq!(bench.live().pid, None, "to declare it again starts nothing");

    let outcome = bench.done("restart:shop", None);
    assert_ne!(bench.live().pid, Some(before));
    assert_eq!(outcome.metrics["pid"], f64::from(bench.live().pid.unwrap()));
    wait_for("a passed probe", || bench.latest("probe") == Some(1.0));
    let restarts = || {
        let samples = bench.samples.lock().unwrap();
        let counts = samples.iter().filter(|it| it.series.key == "svc_restarts");
        counts.map(|it| it.value as u32).sum::<u32>()
    };
    wait_for("the restart to be counted", || restarts() > 0);
    assert_eq!(restarts(), 1);
    assert_eq!(bench.latest("start_failed"), Some(0.0), "it was well before it was killed");
}

#[test]
fn a_stopped_service_is_ended_and_restarted_with_everything_it_started() {
    let bench = Bench::new();
    let spec = ServiceSpec { command: command("behaviour=child"), ..service() };
    bench.host().declare(&spec).unwrap();
    wait_for("a passed probe", || bench.latest("probe") == Some(1.0));
    let parent = bench.live().pid.unwrap();
    let child = fs::read_to_string(bench.home().join("work/child")).unwrap().parse().unwrap();
    signal(parent, Signal::STOP);
    wait_for("a failed probe", || bench.latest("probe") == Some(0.0));
    assert_eq!(bench.latest("process_up"), Some(1.0), "it hangs, it is not dead");

    bench.done("restart:shop", None);
    assert!(!runs(parent) && !runs(child), "nothing of the old run is left");
    assert!(runs(bench.live().pid.unwrap()));
}

#[test]
fn a_child_whose_parent_died_is_ended_too() {
    let bench = Bench::new();
    let spec = ServiceSpec { command: command("behaviour=child"), ..service() };
    bench.host().declare(&spec).unwrap();
    wait_for("a passed probe", || bench.latest("probe") == Some(1.0));
    let child = fs::read_to_string(bench.home().join("work/child")).unwrap().parse().unwrap();
    signal(bench.live().pid.unwrap(), Signal::KILL);
    wait_for("its death to be seen", || bench.latest("process_up") == Some(0.0));
    assert!(runs(child));
    bench.done("restart:shop", None);
    assert!(!runs(child));
}

#[test]
fn a_service_outlives_the_runner_and_is_adopted() {
    let mut bench = Bench::new();
    bench.host().declare(&service()).unwrap();
    wait_for("a passed probe", || bench.latest("probe") == Some(1.0));
    let before = bench.live();
    bench.open();
    assert_eq!(bench.live(), before);
    bench.samples.lock().unwrap().clear();
    wait_for("a passed probe", || bench.latest("probe") == Some(1.0));
    bench.done("restart:shop", None);
    assert!(!runs(before.pid.unwrap()));
    assert_eq!(bench.live().port, before.port, "it keeps its port");
}

#[test]
fn a_recorded_pid_that_is_somebody_elses_is_never_signalled() {
    let mut bench = Bench::new();
    bench.host().declare(&service()).unwrap();
    // After the first passed probe nothing more is written to the record.
    wait_for("a passed probe", || bench.latest("probe") == Some(1.0));
    let path = bench.home().join("green.json");
    let real = bench.live().pid.unwrap();
    let stranger = Stranger::new();
    let text = fs::read_to_string(&path).unwrap();
    let forged =
        text.replace(&format!("\"pid\": {real}"), &format!("\"pid\": {}", stranger.0.id()));
    assert_ne!(text, forged);
    fs::write(&path, forged).unwrap();
    bench.open();
    assert_eq!(bench.live().pid, None);
    bench.done("restart:shop", None);
    assert!(runs(stranger.0.id()));
    signal(real, Signal::KILL);
}

#[test]
fn a_restart_stopped_at_any_step_leaves_one_process_at_most_and_can_be_repeated() {
    let mut bench = Bench::new();
    bench.host().declare(&service()).unwrap();
    let mut last_pid = bench.live().pid.unwrap();
    for n in 0.. {
        bench.let_pass(n);
        let outcome = bench.ask("restart:shop", None);
        bench.open();
        let pid = bench.live().pid;
        assert!(pid == Some(last_pid) || !runs(last_pid), "step {n}: two processes run");
        last_pid = bench.done("restart:shop", None).metrics["pid"] as u32;
        assert_eq!(bench.live().pid, Some(last_pid), "step {n}");
        if let Some(pid) = pid {
            assert!(!runs(pid), "step {n}: the process of the stopped restart was lost");
        }
        if outcome.status == RunnerStatus::Success {
            assert!(n > 8, "only {n} steps were stopped at");
            break;
        }
    }
}

#[test]
fn a_service_that_ends_at_once_has_failed_to_start() {
    let bench = Bench::new();
    let spec = ServiceSpec { command: command("behaviour=broken"), ..service() };
    bench.host().declare(&spec).unwrap();
    wait_for("the failed start to be seen", || bench.latest("start_failed") == Some(1.0));
    let outcome = bench.ask("restart:shop", None);
    assert_eq!(outcome.status, RunnerStatus::Failed);
    assert!(outcome.explanation.contains("cannot import module shop"), "{}", outcome.explanation);
}

#[test]
fn a_worker_without_http_is_well_while_its_heartbeat_is_fresh() {
    let bench = Bench::new();
    let spec = ServiceSpec {
        command: ["/bin/sleep", "1000"].map(str::to_owned).into(),
        probe_url: String::new(),
        heartbeat_file: "beat".to_owned(),
        ..service()
    };
    bench.host().declare(&spec).unwrap();
    wait_for("a failed probe", || bench.latest("probe") == Some(0.0));
    wait_for("a fresh heartbeat", || {
        fs::write(bench.home().join("work/beat"), "").unwrap();
        bench.latest("probe") == Some(1.0)
    });
}

#[test]
fn what_cannot_be_run_is_refused_with_its_name() {
    let bench = Bench::new();
    let spec = ServiceSpec { command: vec!["no-such-program".to_owned()], ..service() };
    let error = bench.host().declare(&spec).unwrap_err().to_string();
    assert!(error.contains("no-such-program"), "{error}");
    wait_for("it to be reported as down", || bench.latest("process_up") == Some(0.0));
    let outcome = bench.ask("restart:nobody", None);
    assert_eq!(outcome.explanation, "No service \"nobody\" is declared on this host.");
}

/// C09: the words of an operation are a schema, and nothing else is carried out.
#[test]
fn c09_an_operation_that_is_not_one_of_the_forms_is_refused() {
    let bench = Bench::new();
    bench.host().declare(&service()).unwrap();
    let targets = [
        "route/shop",
        "route/shop/shadow/",
        "route/shop/canary/",
        "route/shop/canary/101",
        "route/shop/canary/0",
        "route/shop/canary/05",
        "route/shop/canary/+5",
        "route/shop/canary/5%",
        "commit/shop/x",
        "env/",
        "",
        "/shop",
        "../shop",
        "shop/../x",
        "ROUTE/shop/shadow",
        "route/shop/shadow\n",
        "-rf",
        "$(reboot)",
    ];
    for target in targets {
        let outcome = bench.ask(&format!("apply_patch:{target}"), None);
        assert_eq!(outcome.status, RunnerStatus::Failed, "{target:?}");
    }
    assert!(bench.routes.0.lock().unwrap().is_empty());
}
