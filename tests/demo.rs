//! The demo, asserted: what `make demo` shows is what its JSON says, and nothing is left behind.
//!
//! It runs the real binary in an empty home, once as a person does and once in a network
//! namespace that has nothing but `lo`. Times are asserted only where the promise is one.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

#[allow(dead_code)]
#[path = "blackbox/home.rs"]
mod home;

use std::sync::{Mutex, PoisonError};

use home::{HEALWRIGHT, Home, Ran, processes_of, run};
use serde_json::Value;

/// Two demos at once on two cores would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const DEMO: [&str; 6] = ["demo", "--fast", "--seed", "7", "-o", "json"];

#[test]
fn the_demo_heals_refuses_proves_and_leaves_nothing_behind() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let home = Home::new();
    check(&home, &home.run(&DEMO));
}

#[test]
fn the_demo_needs_nothing_but_loopback() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let home = Home::new();
    let alone = |script: &str, words: &[&str]| {
        let mut command = home.command("unshare");
        command.args(["-rn", "sh", "-c", script, HEALWRIGHT]).args(words);
        command
    };
    let up = format!("{LOOPBACK_UP} && exec \"$0\" \"$@\"");
    let possible = alone(LOOPBACK_UP, &[]).output().is_ok_and(|it| it.status.success());
    if !possible {
        eprintln!("not shown here: this machine gives no network namespace with a loopback");
        return;
    }
    check(&home, &run(alone(&up, &DEMO)));
}

/// A new network namespace has a loopback that is down; `ip` is not everywhere.
const LOOPBACK_UP: &str = "ip link set lo up 2>/dev/null || python3 -c 'import fcntl, socket, \
    struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack(\"16sh\", b\"lo\", 1) + bytes(14))'";

#[track_caller]
fn check(home: &Home, ran: &Ran) {
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
    nothing_is_left(home);
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

fn nothing_is_left(home: &Home) {
    assert_eq!(processes_of(home.path()), Vec::<String>::new());
    let left: Vec<_> = walk(home.path());
    assert_eq!(left, Vec::<String>::new());
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
