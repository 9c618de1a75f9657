//! The demo, asserted: what `make demo` shows is what its JSON says, and nothing is left behind.
//!
//! It runs the real binary in an empty home, once as a person does and once in a network
//! namespace that has nothing but `lo`. Times are asserted only where the promise is one.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

#[allow(dead_code)]
#[path = "blackbox/home.rs"]
mod home;

use std::sync::{Mutex, OnceLock, PoisonError};

use home::{HEALWRIGHT, Home, Ran, processes_of, run};
use serde_json::Value;

/// Two demos at once on two cores would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const DEMO: [&str; 6] = ["demo", "--fast", "--seed", "7", "-o", "json"];

/// What a run of the demo came to.
struct Shown {
    ran: Ran,
    /// Processes and files that it left behind.
    left: Vec<String>,
}

impl Shown {
    fn of(home: &Home, ran: Ran) -> Self {
        Shown { ran, left: [processes_of(home.path()), walk(home.path())].concat() }
    }
}

/// The demo as a person runs it, once for every test that looks at it.
fn demo() -> &'static Shown {
    static SHOWN: OnceLock<Shown> = OnceLock::new();
    SHOWN.get_or_init(|| {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let home = Home::new();
        Shown::of(&home, home.run(&DEMO))
    })
}

/// The same where there is no network but a loopback, and what that network counted behind its
/// standard error; `None` where this machine gives none.
fn offline() -> Option<&'static Shown> {
    static SHOWN: OnceLock<Option<Shown>> = OnceLock::new();
    let shown = SHOWN.get_or_init(|| {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let home = Home::new();
        let alone = |script: &str, words: &[&str]| {
            let mut command = home.command("unshare");
            command.args(["-rn", "sh", "-c", script, HEALWRIGHT]).args(words);
            command
        };
        let possible = alone(LOOPBACK_UP, &[]).output().is_ok_and(|it| it.status.success());
        let counted = "code=$?; cat /proc/net/snmp /proc/net/snmp6 >&2; exit $code";
        let up = format!("{LOOPBACK_UP} && \"$0\" \"$@\"; {counted}");
        possible.then(|| Shown::of(&home, run(alone(&up, &DEMO))))
    });
    if shown.is_none() {
        eprintln!("not shown here: this machine gives no network namespace with a loopback");
    }
    shown.as_ref()
}

#[test]
fn the_demo_heals_refuses_proves_and_leaves_nothing_behind() {
    check(demo());
}

/// From the injection of each fault to green, as the demo measures it.
#[test]
fn injected_failure_healthy_within_60s() {
    let told = demo().ran.json();
    for fault in told["faults"].as_array().unwrap() {
        healed(fault);
        assert!(fault["seconds"].as_f64().unwrap() < 60.0, "{fault}");
    }
}

/// The demo needs nothing but a loopback.
#[test]
fn loop_end_to_end_offline() {
    if let Some(shown) = offline() {
        check(shown);
    }
}

/// Where only a loopback is, nothing even tries to leave.
#[test]
fn zero_outbound_during_remediation() {
    if let Some(shown) = offline() {
        assert_eq!(n_without_route(&shown.ran.err), 0, "{:?}", shown.ran);
    }
}

/// How often somebody wanted to send where no way leads, by the kernel's count.
fn n_without_route(counters: &str) -> u64 {
    // The names of the fields stand in the line before their values.
    let mut lines = counters.lines().filter_map(|it| it.strip_prefix("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = names.split(' ').zip(values.split(' '));
    let v4 = fields.find(|it| it.0 == "OutNoRoutes").unwrap().1;
    let v6 = counters.lines().find_map(|it| it.strip_prefix("Ip6OutNoRoutes"));
    let n = |it: &str| it.trim().parse::<u64>().unwrap();
    n(v4) + v6.map_or(0, n)
}

/// A new network namespace has a loopback that is down; `ip` is not everywhere.
const LOOPBACK_UP: &str = "ip link set lo up 2>/dev/null || python3 -c 'import fcntl, socket, \
    struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack(\"16sh\", b\"lo\", 1) + bytes(14))'";

#[track_caller]
fn check(shown: &Shown) {
    let ran = &shown.ran;
    assert_eq!(ran.code, 0, "{ran:?}");
    let told = ran.json();
    let names: Vec<&str> =
        told["faults"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["bad-release", "hung-process", "broken-venv"]);
    told["faults"].as_array().unwrap().iter().for_each(healed);
    let release = &told["faults"][0];
    if release["healed"] == Value::Bool(true) {
        let seconds = release["seconds"].as_f64().unwrap();
        assert!(seconds < 60.0, "a bad release was served for {seconds} s");
    }
    assert_eq!(told["faults"][1]["healed"], true, "a restart needs nothing of the machine");
    assert_eq!(told["budget"]["refused"], true);
    assert!(told["budget"]["reason"].as_str().unwrap().contains("budget"), "{told}");
    for proof in ["ok", "flipped_byte_located", "truncation_detected"] {
        assert_eq!(told["verify"][proof], true, "{proof}: {told}");
    }
    assert!(told["replay"]["events"].as_u64().unwrap() > 100, "{told}");
    assert_eq!(told["replay"]["identical"], true);
    assert_eq!(shown.left, Vec::<String>::new());
}

fn healed(fault: &Value) {
    let seconds = fault["seconds"].as_f64().unwrap();
    assert!(fault["failed_requests"].is_u64(), "{fault}");
    if fault["healed"].is_null() {
        assert!(!fault["reason"].as_str().unwrap().is_empty(), "{fault}");
    } else {
        assert_eq!(fault["healed"], true, "{fault}");
        assert!(seconds > 0.0, "{fault}");
    }
}

/// Files below `dir`, wherever they lie.
fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}
