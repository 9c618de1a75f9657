//! What a signal does, whenever it comes.

use std::fs;
use std::io::{PipeReader, Read as _, Write as _};
use std::process::{Child, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};

use crate::home::{HEALWRIGHT, Home, until};

/// A node that was to say that it is ready used to listen for signals only afterwards: whoever
/// stopped it at that moment killed it, with its last head unsigned and its runner left behind.
#[test]
fn who_is_told_that_it_is_ready_may_stop_it_at_once() {
    let home = Home::new();
    drop(home.up());
    let (mut node, heard) = held_at_its_first_word(&home);
    let pid = Pid::from_raw(i32::try_from(node.id()).unwrap()).unwrap();
    until("it is about to say that it is ready", || is_writing(&node).then_some(()));
    let caught = caught(&node);
    for signal in [Signal::TERM, Signal::INT] {
        let bit = 1u64 << (signal.as_raw() - 1);
        assert_ne!(caught & bit, 0, "{signal:?} would kill it: {caught:x}");
    }
    kill_process(pid, Signal::TERM).unwrap();
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        { heard }.read_to_end(&mut said).map(|_| said)
    });
    assert_eq!(node.wait().unwrap().code(), Some(0));
    let said = said.join().unwrap().unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("ready: http://") && said.contains("stopping"), "{said}");
}

/// A node whose standard error takes nothing until it is read.
fn held_at_its_first_word(home: &Home) -> (Child, PipeReader) {
    let (heard, mut full) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&full).unwrap();
    fcntl_setfl(&full, flags | OFlags::NONBLOCK).unwrap();
    while full.write(&[b'.'; 512]).is_ok() {}
    while full.write(b".").is_ok() {}
    fcntl_setfl(&full, flags).unwrap();
    let mut command = home.command(HEALWRIGHT);
    command.args(["up", "--no-runner", "--http", "127.0.0.1:0"]).stdout(Stdio::null());
    (command.stderr(full).spawn().unwrap(), heard)
}

/// Whether one of its threads waits in a call on its standard error.
fn is_writing(node: &Child) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.id())).unwrap().flatten();
    let calls = tasks.map(|it| fs::read_to_string(it.path().join("syscall")).unwrap_or_default());
    // The number of the call, and its arguments in hexadecimal.
    calls.into_iter().any(|it| it.split(' ').nth(1) == Some("0x2"))
}

/// The signals that it catches, a bit each.
fn caught(node: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}
