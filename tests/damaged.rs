//! What the disk does to a node, and what the person on call is told: damage that is found at the
//! start or later, a journal that is made anew, a disk that is full.

#![allow(clippy::unwrap_used)]

#[path = "blackbox/home.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod home;
#[path = "blackbox/ask.rs"]
mod http;
#[path = "blackbox/receiver.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod receiver;

use std::path::{Path, PathBuf};

use home::{HEALWRIGHT, Home, Node, until};
use receiver::{Answer, Webhook};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

const UP: [&str; 4] = ["up", "--no-runner", "--http", "127.0.0.1:0"];
/// Changes between two starts, each of some kilobytes: several blocks of a table file.
const CHANGES: usize = 30;

fn ask(node: &Node, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let at = node.http().parse().unwrap();
    let answer = http::ask(at, method, path, &body.to_string()).expect("the node answers");
    let (status, body) = http::parts(&answer).expect("it is HTTP");
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

fn post(node: &Node, id: &str) -> (u16, Value) {
    // Hashes, so that no compression makes one block of all.
    let hashes = (0..60).map(|n| schemas::Hash::of(&[id.as_bytes(), &[n]]).to_string());
    let version: String = hashes.collect();
    let change = json!({ "id": id, "service": "shop", "kind": "deploy", "version": version });
    ask(node, "POST", "/api/v1/changes", &change)
}

fn up(home: &Home) -> Node {
    home.start(&UP, "ready: http://")
}

/// Three starts and stops with acknowledged changes in each; what a start finds in the
/// write-ahead log it writes into table files.
fn lived_in(home: &Home) {
    for start in 0..3 {
        let node = up(home);
        for n in 0..CHANGES {
            assert_eq!(post(&node, &format!("{start}-{n}")).0, 201);
        }
    }
}

fn changes(home: &Home) -> Vec<String> {
    let ran = home.run(&["events", "list", "--topic", "change.observed.v1", "-o", "json"]);
    let read = |line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["payload"]["id"].as_str().unwrap().to_owned()
    };
    ran.expect(0).out.lines().map(read).collect()
}

/// Table files of the database that hold between so many bytes, oldest first.
fn tables(home: &Home, bytes: std::ops::Range<u64>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.data().join("journal")).unwrap().flatten();
    let mut found: Vec<PathBuf> = entries.map(|it| it.path()).collect();
    found.retain(|it| it.extension().is_some_and(|it| it == "sst"));
    found.retain(|it| bytes.contains(&std::fs::metadata(it).unwrap().len()));
    found.sort();
    found
}

/// Each holds one start's changes.
fn journals(home: &Home) -> Vec<PathBuf> {
    tables(home, 60_000..1_000_000)
}

/// Each holds what one start's changes have left.
fn states(home: &Home) -> Vec<PathBuf> {
    tables(home, 6_000..60_000)
}

fn flip(path: &Path, percent: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() * percent / 100;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// A start on damaged data is refused with `words`, or stands still with them at once and
/// acknowledges nothing afterwards: which of the two, the time decides.
fn refuses(home: &Home, words: &[&str]) {
    let mut command = home.command(HEALWRIGHT);
    command.args(UP).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap());
    use std::io::BufRead as _;
    while !words.iter().all(|it| said.contains(it)) {
        let n = lines.read_line(&mut said).unwrap();
        assert!(n > 0, "{words:?}: {said}");
    }
    let address = said.split_once("ready: http://").map(|(_, rest)| rest.to_owned());
    match address {
        None => assert_eq!(child.wait().unwrap().code(), Some(2), "{said}"),
        Some(rest) => {
            let at = rest.split('/').next().unwrap().parse().unwrap();
            let change = json!({ "id": "late", "service": "shop", "kind": "deploy" }).to_string();
            for (method, path) in [("GET", "/readyz"), ("POST", "/api/v1/changes")] {
                let answer = http::ask(at, method, path, &change).unwrap();
                assert_eq!(http::parts(&answer).unwrap().0, 503, "{answer}");
            }
            let status = home.run(&["status"]).expect(2);
            assert!(words.iter().all(|it| status.err.contains(it)), "{status:?}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn damage_to_the_state_is_told_with_its_repair_and_costs_nothing() {
    let home = Home::new();
    lived_in(&home);
    let before = changes(&home);
    let table = states(&home)[0].clone();
    flip(&table, 50);
    refuses(&home, &["state in", &name(&table), "healwright repair state"]);
    home.run(&["repair", "state"]).expect(0);
    drop(up(&home));
    assert_eq!(changes(&home), before);
    home.run(&["replay"]).expect(0);
}

#[test]
fn damage_to_the_journal_is_told_and_an_export_and_what_follows_it_make_it_whole() {
    let home = Home::new();
    lived_in(&home);
    home.run(&["export", "--to", "bundle"]).expect(0);
    let node = up(&home);
    assert_eq!(post(&node, "after-the-export").0, 201);
    drop(node);
    let before = changes(&home);
    let damaged = journals(&home)[0].clone();
    flip(&damaged, 50);
    refuses(&home, &["journal record", &name(&damaged), "healwright repair journal"]);
    let refused = home.run(&["repair", "journal"]).expect(1);
    for word in ["would be lost", &name(&damaged), "--from BUNDLE", "--accept-loss"] {
        assert!(refused.err.contains(word), "{word}: {refused:?}");
    }
    assert!(!home.data().join("journal.damaged").exists(), "nothing was changed");
    let words = ["repair", "journal", "--from", "bundle", "-o", "json"];
    let repaired = home.run(&words).expect(0).json();
    assert!(repaired["lost"].is_null(), "{repaired}");
    assert!(repaired["from_journal"].as_u64() > Some(0), "{repaired}");
    assert_eq!(changes(&home), before, "nothing that was acknowledged is gone");
    let node = up(&home);
    assert_eq!(post(&node, "after-the-repair").0, 201);
    drop(node);
    home.run(&["verify"]).expect(0);
    home.run(&["replay"]).expect(0);
}

#[test]
fn a_damaged_file_does_not_take_along_what_others_hold() {
    let home = Home::new();
    lived_in(&home);
    let (first, second) = (journals(&home)[0].clone(), journals(&home)[1].clone());
    let repair = |home: &Home| home.run(&["repair", "journal"]).expect(1).err;
    let good = std::fs::read(&second).unwrap();
    flip(&second, 1);
    let refused = repair(&home);
    let from = refused.split_once("entries ").unwrap().1.split(' ').next().unwrap();
    let from: usize = from.parse().unwrap();
    assert!(CHANGES < from && from < 2 * CHANGES, "all of the first file: {refused}");
    std::fs::remove_file(&second).unwrap();
    assert!(repair(&home).contains(&format!("entries {from} to ")));
    std::fs::write(&second, good).unwrap();
    flip(&first, 1);
    assert!(repair(&home).contains("entries 0 to "));
}

#[test]
fn a_loss_that_a_person_accepts_is_named_twice_and_journaled() {
    let home = Home::new();
    lived_in(&home);
    let damaged = journals(&home)[0].clone();
    flip(&damaged, 50);
    let words = ["repair", "journal", "--accept-loss", "-o", "json"];
    let repaired = home.run(&words).expect(0).json();
    let (kept, lost) = (repaired["entries"].as_u64().unwrap(), &repaired["lost"]);
    assert!(0 < kept && lost["from"] == kept && lost["why"].is_string(), "{repaired}");
    refuses(&home, &["recorded a signed head", "healwright repair head"]);
    home.run(&["repair", "head", "--reason", "the disk was old"]).expect(0);
    assert_eq!(post(&up(&home), "goes-on").0, 201);
    home.run(&["verify"]).expect(0);
}

#[test]
fn readers_name_the_file_that_cannot_be_opened_and_what_repairs_it() {
    let home = Home::new();
    lived_in(&home);
    let (first, second) = (journals(&home)[0].clone(), journals(&home)[1].clone());
    for damaged in [first, second] {
        let good = std::fs::read(&damaged).unwrap();
        // The end of a table file is its index and what the file says of itself.
        for percent in [93, 95, 99] {
            flip(&damaged, percent);
            for words in [&["events", "list"][..], &["status"], &["verify"]] {
                let ran = home.run(words);
                assert_ne!(ran.code, 0, "{percent} % of {damaged:?}: {ran:?}");
                for word in [name(&damaged).as_str(), "healwright repair journal"] {
                    assert!(ran.err.contains(word), "{word}, {percent} %: {ran:?}");
                }
            }
            std::fs::write(&damaged, &good).unwrap();
        }
    }
    home.run(&["verify"]).expect(0);
}

#[test]
fn a_journal_that_a_process_owns_is_not_made_anew() {
    let home = Home::new();
    let node = up(&home);
    // As of one that has not said yet where it answers.
    std::fs::remove_file(home.data().join("run/node.json")).unwrap();
    let refused = home.run(&["repair", "journal"]).expect(2);
    assert!(refused.err.contains(&format!("(pid {})", node.pid())), "{refused:?}");
    assert!(!home.data().join("journal.damaged").exists());
    assert_eq!(post(&node, "goes-on").0, 201);
}

#[test]
fn a_manifest_that_cannot_be_read_costs_nothing() {
    let home = Home::new();
    lived_in(&home);
    let before = changes(&home);
    let entries = std::fs::read_dir(home.data().join("journal")).unwrap().flatten();
    let manifest = entries.map(|it| it.path()).find(|it| name(it).starts_with("MANIFEST")).unwrap();
    flip(&manifest, 50);
    refuses(&home, &["MANIFEST", "healwright repair journal"]);
    let repaired = home.run(&["repair", "journal", "-o", "json"]).expect(0).json();
    assert!(repaired["lost"].is_null(), "{repaired}");
    assert_eq!(changes(&home), before);
    drop(up(&home));
}

/// A limit on the size of its files has a process fail as a full disk does.
fn fill(node: &Node, room: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(node.pid()).unwrap());
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    prlimit(pid, Resource::Fsize, Rlimit { current: room, maximum }).unwrap();
}

#[test]
fn a_full_disk_stops_the_node_loudly_and_loses_nothing() {
    let home = Home::new();
    let webhook = Webhook::new(Answer::Takes);
    let config = format!("[escalation]\nwebhook = \"http://{}/\"\n", webhook.at);
    std::fs::write(home.path().join("hw.toml"), config).unwrap();
    let node = home.start(&[&UP[..], &["--config", "hw.toml"]].concat(), "ready: http://");
    assert_eq!(post(&node, "before").0, 201);
    fill(&node, Some(1));
    let (status, body) = post(&node, "on-the-full-disk");
    assert_eq!(status, 503, "{body}");
    assert!(body.to_string().contains("cannot append to the journal"), "{body}");
    let (status, body) = post(&node, "after-it");
    assert_eq!((status, &body["error"]["code"]), (503, &json!("not_journaled")), "{body}");
    let told = webhook.hear();
    assert_eq!(told["schema"], "healwright.stopped.v1", "{told}");
    assert!(told["text"].as_str().unwrap().contains("stop the node and start it"), "{told}");
    let frozen = home.run(&["freeze", "--yes", "--reason", "the disk"]).expect(1);
    assert!(frozen.err.contains("nothing is started while it stands still"), "{frozen:?}");
    let status = home.run(&["status"]).expect(1);
    assert!(status.out.contains("stands still and heals nothing"), "{status:?}");
    let doctor = home.run(&["doctor"]).expect(1);
    assert!(doctor.out.contains("stands still"), "{doctor:?}");
    let page = ask(&node, "GET", "/", &Value::Null).1.to_string();
    assert!(page.contains("cannot append to the journal"), "{page}");
    until("its gauges say that it stands still and that nobody decides", || {
        let text = ask(&node, "GET", "/metrics", &Value::Null).1;
        let says = |line| text.as_str().unwrap().lines().any(|it| it == line);
        let stands_still = says("healwright_stopped{partition=\"0\"} 1");
        (stands_still && says("healwright_in_office{partition=\"0\"} 0")).then_some(())
    });
    fill(&node, None);
    drop(node);
    assert_eq!(changes(&home), ["before"]);
    let node = up(&home);
    assert_eq!(post(&node, "on-the-full-disk").0, 201);
    drop(node);
    home.run(&["verify"]).expect(0);
    home.run(&["replay"]).expect(0);
}
