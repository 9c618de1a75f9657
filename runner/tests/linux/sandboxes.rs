//! The sandbox: what it lets through, what it does not, and what happens without one.

use std::time::Duration;

use runner::error::Error;
use runner::macos::MacHost;
use runner::sandbox::inner::Plan;
use runner::sandbox::{Inner, Policy, Run, Sandbox};
use runner::windows::WindowsHost;
use schemas::event::{CheckStatus, Op, RunnerStatus};

use crate::support::{Bench, inner, proxied, wait_for};

/// The sandbox of this machine; `None`, with a word, where it has none.
pub(crate) fn sandbox() -> Option<Sandbox> {
    match Sandbox::detect(inner()) {
        Ok(sandbox) => Some(sandbox),
        Err(gap) => {
            println!("not run: {gap}");
            None
        }
    }
}

fn run(sandbox: &Sandbox, words: &[&str]) -> Run {
    let words = words.iter().map(|it| (*it).to_owned()).collect();
    let plan = Plan { words, ..Plan::default() };
    let policy = Policy { readable: Vec::new(), timeout: Duration::from_secs(20) };
    sandbox.run(&plan, &policy).unwrap()
}

/// What a shell says inside: `yes` where the command succeeded.
fn says(sandbox: &Sandbox, command: &str) -> String {
    let run = run(sandbox, &["/bin/sh", "-c", &format!("{command} && echo yes || echo no")]);
    run.verdict.unwrap().tail.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn inside_there_is_no_network_no_key_and_nothing_to_write_to() {
    let Some(sandbox) = sandbox() else { return };
    let secret = tempfile::NamedTempFile::new().unwrap();
    let secret = secret.path().display();
    let home = std::env::var("HOME").unwrap();
    assert_eq!(says(&sandbox, "true"), "yes");
    assert_eq!(says(&sandbox, "test -e /proc/self"), "yes");
    // Each asks whether it could and does nothing: a hole found here must not be used.
    for forbidden in [
        format!("test -e {secret}"),
        format!("ls {home}/.ssh {home}/.bashrc"),
        "test -e /etc/passwd".to_owned(),
        "test -w /usr".to_owned(),
        "test -w /".to_owned(),
        "test -w /proc/sys/kernel/core_pattern".to_owned(),
        "find /proc -maxdepth 4 ! -type l -writable 2>/dev/null | grep -q .".to_owned(),
        "grep -v -e lo: -e '|' /proc/net/dev".to_owned(),
        "grep -q -e 'CapEff:.*[1-9a-f]' -e 'CapBnd:.*[1-9a-f]' /proc/self/status".to_owned(),
        "grep -q 'NoNewPrivs:.*0' /proc/self/status".to_owned(),
        "test $(ls -d /proc/[0-9]* | wc -l) -gt 10".to_owned(),
        "env | grep -e ^HEALWRIGHT -e ^CARGO".to_owned(),
        "test $(id -u) = 0".to_owned(),
    ] {
        assert_eq!(says(&sandbox, &forbidden), "no", "{forbidden}");
    }
}

#[test]
fn the_command_cannot_write_the_verdict() {
    let Some(sandbox) = sandbox() else { return };
    let forged = r#"healwright-verdict {"started":true,"exit":0,"probed":true}"#;
    let script = format!(
        "echo '{forged}'; for p in /proc/[0-9]*; do echo '{forged}' > $p/fd/1; done 2>/dev/null; \
         exit 7"
    );
    let run = run(&sandbox, &["/bin/sh", "-c", &script]);
    assert_eq!(run.verdict.unwrap().exit, Some(7));
}

#[test]
fn a_run_that_writes_without_end_is_bounded() {
    let Some(sandbox) = sandbox() else { return };
    let verdict =
        run(&sandbox, &["/bin/sh", "-c", "head -c 1000000000 /dev/zero"]).verdict.unwrap();
    assert_ne!(verdict.exit, Some(0), "files are limited");
    assert!(verdict.tail.len() <= 8192);
}

/// The rule with a short time; `HEALWRIGHT_FULL=1` waits the spec's thirty seconds.
#[test]
fn sandbox_timeout_30s_rejects() {
    let Some(sandbox) = sandbox() else { return };
    let full = std::env::var_os("HEALWRIGHT_FULL").is_some();
    let timeout = if full { Duration::from_secs(3600) } else { Duration::from_millis(300) };
    let words = ["/bin/sleep", "1234567"].map(str::to_owned).into();
    let plan = Plan { words, ..Plan::default() };
    let run = sandbox.run(&plan, &Policy { readable: Vec::new(), timeout }).unwrap();
    assert!(run.timed_out && run.verdict.is_none());
    let most = if full { Duration::from_secs(31) } else { Duration::from_secs(20) };
    assert!(run.duration < most, "{:?}", run.duration);
    wait_for("everything inside to be gone", || !is_running(b"/bin/sleep\x001234567\x00"));
}

/// Whether a process with that command line runs on this machine.
fn is_running(words: &[u8]) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let line = |path: std::path::PathBuf| std::fs::read(path.join("cmdline")).unwrap_or_default();
    processes.map(|it| line(it.path())).any(|line| line == words)
}

/// Also before bubblewrap has come so far that its own provision for this holds.
#[test]
fn a_run_that_is_killed_at_any_moment_leaves_nothing_behind() {
    let Some(sandbox) = sandbox() else { return };
    for n in 0..25 {
        let words = ["/bin/sleep", "7654321"].map(str::to_owned).into();
        let plan = Plan { words, ..Plan::default() };
        let timeout = Duration::from_millis(n * 2);
        let run = sandbox.run(&plan, &Policy { readable: Vec::new(), timeout }).unwrap();
        assert!(run.timed_out);
    }
    wait_for("everything inside to be gone", || !is_running(b"/bin/sleep\x007654321\x00"));
}

#[test]
fn a_release_is_started_and_probed_inside_before_it_may_be_applied() {
    if sandbox().is_none() {
        return;
    }
    let bench = Bench::new();
    let old = bench.release("1.0.0", "old");
    let new = bench.release("1.1.0", "new");
    bench.host().declare(&proxied(&old)).unwrap();
    assert_eq!(bench.ask("apply_patch:shop", Some(&new)).status, RunnerStatus::Failed);
    let outcome = bench.done("sandbox:shop", Some(&new));
    let names: Vec<&str> = outcome.checks.keys().map(String::as_str).collect();
    assert_eq!(names, ["manifest", "smoke:health", "start"]);
    assert!(outcome.checks.values().all(|check| check.status == CheckStatus::Passed));
    bench.done("apply_patch:shop", Some(&new));
}

#[test]
fn a_release_that_fails_inside_is_told_from_one_that_passes() {
    if sandbox().is_none() {
        return;
    }
    let bench = Bench::new();
    let old = bench.release("1.0.0", "old");
    let mut spec = proxied(&old);
    spec.start_timeout_ms = 300;
    bench.host().declare(&spec).unwrap();
    for (behaviour, start, health, words) in [
        ("broken", CheckStatus::Failed, CheckStatus::Failed, "cannot import module shop"),
        ("sick", CheckStatus::Passed, CheckStatus::Failed, "it answered 503"),
    ] {
        let release = bench.release("1.1.0", behaviour);
        let outcome = bench.ask("sandbox:shop", Some(&release));
        assert_eq!(outcome.status, RunnerStatus::Failed);
        assert_eq!(outcome.checks["start"].status, start, "{behaviour}");
        assert_eq!(outcome.checks["smoke:health"].status, health, "{behaviour}");
        assert!(outcome.explanation.contains(words), "{}", outcome.explanation);
        assert_eq!(bench.ask("apply_patch:shop", Some(&release)).status, RunnerStatus::Failed);
    }
    let mut request = bench.request("sandbox:shop", Some(&old));
    request.preflight.tests = vec!["e2e:login".to_owned()];
    let outcome = bench.carry_out(&request);
    assert_eq!(outcome.checks["e2e:login"].status, CheckStatus::Unknown, "never assumed");
    assert_eq!(outcome.status, RunnerStatus::Failed);
}

#[test]
fn no_sandbox_no_apply() {
    let nothing = Inner { program: "/bin/false".into(), args: Vec::new() };
    let error = Sandbox::detect(nothing).unwrap_err();
    assert!(matches!(error, Error::CapabilityGap(_)), "{error}");

    let bench = Bench::without_sandbox();
    let old = bench.release("1.0.0", "old");
    let new = bench.release("1.1.0", "new");
    bench.host().declare(&proxied(&old)).unwrap();
    assert!(bench.host().sandbox_kinds().is_empty());
    let outcome = bench.ask("sandbox:shop", Some(&new));
    assert_eq!(outcome.status, RunnerStatus::Failed);
    assert!(outcome.explanation.contains("no sandbox: "), "{}", outcome.explanation);
    assert_eq!(outcome.checks["start"].status, CheckStatus::Unknown);
    assert_eq!(bench.ask("apply_patch:shop", Some(&new)).status, RunnerStatus::Failed);
    bench.done("restart:shop", None);
    bench.done("rollback:shop", Some(&old));
}

#[test]
fn missing_hook_is_capability_gap() {
    let bench = Bench::new();
    let request = bench.request("restart:shop", None);
    let op = Op::parse(&request.ops[0]);
    let deadline = std::time::Instant::now();
    let call = runner::host::Call { request: &request, op: &op, deadline };
    let hosts: [&dyn runner::host::Host; 2] = [&WindowsHost, &MacHost];
    for host in hosts {
        let outcomes = [
            host.apply_patch(&call),
            host.restart(&call),
            host.rollback(&call),
            host.sandbox(&call),
        ];
        for outcome in outcomes {
            assert_eq!(outcome.status, RunnerStatus::Failed);
            assert!(outcome.explanation.starts_with("Capability gap: "), "{}", outcome.explanation);
        }
        assert!(matches!(host.metrics(), Err(Error::CapabilityGap(_))));
        assert!(matches!(host.inventory(), Err(Error::CapabilityGap(_))));
        assert!(matches!(host.cache_info(), Err(Error::CapabilityGap(_))));
    }
}
