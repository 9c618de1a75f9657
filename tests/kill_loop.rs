//! The real binary with real RocksDB, killed again and again: nothing acknowledged is lost,
//! nothing stands twice (A20), and a directory put back from a backup is refused (A06).

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "blackbox/ask.rs"]
mod http;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Kills in continuous integration; `HEALWRIGHT_FULL=1` runs ten times as many.
const KILLS: u32 = 200;
/// A node that is not ready within this time never will be.
const READY_WITHIN: Duration = Duration::from_secs(20);

fn healwright(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healwright"));
    command.env("HOME", home).env("XDG_STATE_HOME", home.join("state"));
    command.args(["--data"]).arg(home.join("data"));
    command
}

fn run(home: &Path, args: &[&str]) -> Output {
    healwright(home).args(args).output().unwrap()
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn up(home: &Path, at: SocketAddr) -> Child {
    let mut command = healwright(home);
    command.args(["up", "--no-runner", "-q", "--http", &at.to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn ask(at: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    http::parts(&http::ask(at, method, path, body)?)
}

fn wait_until_ready(at: SocketAddr) -> Duration {
    let began = Instant::now();
    while ask(at, "GET", "/readyz", "").is_none_or(|(status, _)| status != 200) {
        assert!(began.elapsed() < READY_WITHIN, "the node does not become ready");
        std::thread::yield_now();
    }
    began.elapsed()
}

fn change(at: SocketAddr, id: &str) -> Option<String> {
    let body = format!(r#"{{"id":"{id}","service":"api","kind":"deploy","version":"{id}"}}"#);
    let (status, body) = ask(at, "POST", "/api/v1/changes", &body)?;
    let body: serde_json::Value = serde_json::from_str(&body).ok()?;
    (status == 200 || status == 201).then(|| body["place"].as_str().unwrap().to_owned())
}

#[test]
fn a20_what_was_acknowledged_survives_every_kill_and_stands_once() {
    let home = tempfile::tempdir().unwrap();
    let kills = if std::env::var_os("HEALWRIGHT_FULL").is_some() { 10 * KILLS } else { KILLS };
    let (mut acknowledged, mut ready) = (BTreeMap::new(), Vec::new());
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    for kill in 0..kills {
        let at = free_port();
        let mut node = up(home.path(), at);
        ready.push(wait_until_ready(at));
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(kill.into());
        let n_before = chance >> 62;
        for n in 0..n_before {
            let id = format!("before-{kill}-{n}");
            acknowledged.insert(id.clone(), change(at, &id).unwrap());
        }
        // One more is under way while the process is killed: it may be in the chain or not, and
        // counts only when it was answered.
        let id = format!("during-{kill}");
        let sent = std::thread::spawn({
            let id = id.clone();
            move || change(at, &id)
        });
        for _ in 0..(chance >> 40) % 4096 {
            std::thread::yield_now();
        }
        node.kill().unwrap();
        node.wait().unwrap();
        if let Some(place) = sent.join().unwrap() {
            acknowledged.insert(id, place);
        }
    }
    let at = free_port();
    let mut node = up(home.path(), at);
    wait_until_ready(at);
    for (id, place) in acknowledged.iter().take(50) {
        assert_eq!(change(at, id).as_ref(), Some(place), "a repeat is answered with the first");
    }
    check(home.path(), &acknowledged);
    node.kill().unwrap();
    node.wait().unwrap();
    assert!(run(home.path(), &["verify"]).status.success());
    let replay = run(home.path(), &["replay", "-o", "json"]);
    assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stdout));
    ready.sort();
    eprintln!("{kills} kills; ready p50 {:?}, max {:?}", ready[ready.len() / 2], ready.last());
}

/// Every acknowledged change stands once, at its place, beside the running node.
fn check(home: &Path, acknowledged: &BTreeMap<String, String>) {
    let listed = run(home, &["events", "list", "-o", "json", "--topic", "change.observed.v1"]);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8(listed.stdout).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = event["payload"]["id"].as_str().unwrap().to_owned();
        found.entry(id).or_default().push(event["place"].as_str().unwrap().to_owned());
    }
    assert!(found.values().all(|places| places.len() == 1), "a change stands twice");
    for (id, place) in acknowledged {
        assert_eq!(found.get(id), Some(&vec![place.clone()]), "{id} was acknowledged");
    }
}

#[test]
fn a06_a_directory_put_back_from_a_backup_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (data, backup) = (home.path().join("data"), home.path().join("backup"));
    let start = |n: usize| {
        let at = free_port();
        let mut node = up(home.path(), at);
        wait_until_ready(at);
        change(at, &format!("change-{n}")).unwrap();
        let pid = rustix::process::Pid::from_child(&node);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(node.wait().unwrap().success());
    };
    start(1);
    copy(&data, &backup);
    start(2);
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    let refused = run(home.path(), &["up", "--no-runner", "--http", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("older copy") && said.contains("healwright repair head"), "{said}");
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
