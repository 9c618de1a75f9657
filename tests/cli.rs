//! The program from outside: exit codes, words, and what it says when something is wrong.
//!
//! Every test runs the real binary in a home of its own. Nothing here looks inside.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "blackbox/ask.rs"]
mod ask;
#[path = "cli/checkpoint.rs"]
mod checkpoint;
#[path = "cli/config.rs"]
mod config;
#[path = "cli/edges.rs"]
mod edges;
#[allow(dead_code)]
#[path = "blackbox/home.rs"]
mod home;
#[path = "cli/signals.rs"]
mod signals;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use home::Home;

/// What is told to a home before it is exported: enough for several kinds of entries.
fn exported() -> (Home, PathBuf) {
    let home = Home::new();
    {
        let _node = home.up();
        home.run(&["change", "record", "shop", "1.1", "--id", "c-1"]).expect(0);
        home.run(&["freeze", "--yes", "--reason", "a look"]).expect(0);
    }
    let bundle = home.path().join("bundle");
    home.run(&["export", "--to", "bundle"]).expect(0);
    (home, bundle)
}

/// Files below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Answers every request on `listener` with 200 until it is told to stop; then nobody listens.
fn answer(listener: TcpListener, stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let mut stream = stream.unwrap();
            // Whoever hangs up early has its answer.
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
}

/// A bundle with a file of each kind: a service that was well and is not has led to evidence, and
/// the runner has cosigned a head, which is journaled; only the newest one needs no own file.
fn witnessed() -> (Home, PathBuf) {
    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    answer(listener, stop.clone());
    let service = format!(
        "[[service]]\nname = \"shop\"\ncommand = [\"sleep\", \"600\"]\nprobe_url = {url:?}\n\
         propose_only = true\n"
    );
    std::fs::write(home.path().join("hw.toml"), service).unwrap();
    {
        let _node =
            home.start(&["up", "--config", "hw.toml", "--http", "127.0.0.1:0"], "ready: http://");
        let anomaly = "slo.anomaly.detected.v1";
        let (green, red) = (r#""health_to":"green""#, r#""health_to":"red""#);
        let waits = [("head.cosigned.v1", ""), (anomaly, green), (anomaly, red)];
        for (topic, word) in waits {
            let words = ["events", "list", "--topic", topic, "-o", "json"];
            let said = |ran: home::Ran| !ran.out.is_empty() && ran.out.contains(word);
            assert!((0..2_000).any(|_| said(home.run(&words).expect(0))), "no {topic} {word}");
            stop.store(word == green, Ordering::SeqCst);
        }
    }
    let bundle = home.path().join("bundle");
    home.run(&["export", "--to", "bundle"]).expect(0);
    (home, bundle)
}

#[test]
fn an_export_is_witnessed_by_the_runner_and_holds_the_telemetry_that_evidence_names() {
    let (home, bundle) = witnessed();
    let report = home.run(&["verify", "bundle", "-o", "json"]).expect(0).json();
    assert_eq!(report["verdict"], "SELF-WITNESSED", "{report}");
    assert!(report["witnesses"][0].as_str().unwrap().starts_with("runner/"), "{report}");
    let ranges = files(&bundle.join("telemetry")).len();
    assert!(ranges >= 1);
    assert_eq!(report["telemetry_ranges"], ranges, "{report}");
    let replayed = home.run(&["replay", "-o", "json"]).expect(0).json();
    assert_eq!(replayed["state_matches"], true, "{replayed}");
    // Without the file beside the journal, the cosigned head of the journal is taken.
    std::fs::remove_file(home.data().join("witnessed")).unwrap();
    home.run(&["export", "--to", "again"]).expect(0);
    let report = home.run(&["verify", "again", "-o", "json"]).expect(0).json();
    assert_eq!(report["verdict"], "SELF-WITNESSED", "{report}");
    let verifier = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verifier/verify.py");
    let mut command = home.command("python3");
    command.args(["-c", "import cryptography"]);
    if home::run(command).code == 0 {
        let mut command = home.command("python3");
        command.arg(verifier).args(["bundle", "again"]);
        let ran = home::run(command).expect(0);
        assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
    }
}

#[test]
fn exit_codes_are_0_done_1_no_2_usage_or_error() {
    let (home, bundle) = exported();
    home.run(&["verify", "bundle"]).expect(0);
    home.run(&["replay"]).expect(0);
    std::fs::remove_file(bundle.join("checkpoint")).unwrap();
    home.run(&["verify", "bundle"]).expect(1);
    home.run(&["verify", "nowhere"]).expect(2);
    home.run(&["--help"]).expect(0);
    home.run(&[]).expect(2);
}

#[test]
fn an_unknown_verb_or_flag_is_answered_with_the_near_one() {
    let home = Home::new();
    let near = |words: &[&str], near: &str| {
        let ran = home.run(words).expect(2);
        assert!(ran.err.contains(near), "{ran:?}");
    };
    near(&["stauts"], "'status'");
    near(&["dmo"], "'demo'");
    assert!(!home.run(&["dmo"]).err.contains("demo-service"), "what help hides is not suggested");
    near(&["incident", "lst"], "'list'");
    near(&["up", "--htpp", "127.0.0.1:0"], "'--http'");
    near(&["demo", "--fats"], "'--fast'");
}

#[test]
fn every_command_explains_itself() {
    let home = Home::new();
    let commands = [
        "up",
        "demo",
        "watch",
        "status",
        "explain",
        "incident list",
        "incident show",
        "incident timeline",
        "proposals list",
        "proposals show",
        "approve",
        "reject",
        "release start",
        "release abort",
        "release clear",
        "release status",
        "release import",
        "change record",
        "events list",
        "events tail",
        "freeze",
        "unfreeze",
        "export",
        "verify",
        "replay",
        "repair skip",
        "repair state",
        "repair telemetry",
        "repair journal",
        "repair head",
        "repair runner",
        "doctor",
        "trust list",
        "trust vouch",
        "config check",
        "config show",
        "config schema",
        "bench",
        "asyncapi",
        "completions",
    ];
    for command in commands {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let ran = home.run(&words).expect(0);
        assert!(ran.out.contains("Usage: healwright"), "{command}: {ran:?}");
    }
}

#[test]
fn a_second_instance_is_refused_by_name_and_pid() {
    let home = Home::new();
    let node = home.up();
    let ran = home.run(&["up", "--http", "127.0.0.1:0"]).expect(2);
    assert!(ran.err.contains(&format!("is in use by healwright (pid {})", node.pid())), "{ran:?}");
}

#[test]
fn a_path_that_is_no_bundle_is_answered_with_a_sentence() {
    let home = Home::new();
    let nowhere = home.run(&["verify", "nowhere"]).expect(2).err;
    assert!(nowhere.contains("nowhere is no bundle: there is nothing there"), "{nowhere}");
    let tmp = home.run(&["verify", "tmp"]).expect(2).err;
    assert!(tmp.contains("tmp is no bundle: it holds neither"), "{tmp}");
    std::fs::write(home.path().join("tmp/manifest"), "a shopping list").unwrap();
    home.run(&["verify", "tmp"]).expect(2);
}

#[test]
fn any_flipped_bit_of_a_bundle_is_found_and_its_place_named() {
    let (home, bundle) = witnessed();
    let files = files(&bundle);
    let newest = std::fs::read_to_string(bundle.join("checkpoint")).unwrap();
    let beside = if newest.matches("\n—").count() > 1 { "checkpoint" } else { "witnessed" };
    for kind in ["checkpoint", "journal/", "manifest", "telemetry/", "tile/", beside] {
        let mut names = files.iter().map(|it| it.strip_prefix(&bundle).unwrap());
        assert!(names.any(|it| it.to_str().unwrap().starts_with(kind)), "{kind}: {files:?}");
    }
    let (seed, mut chance) = (7, 7);
    for n in 0..200 {
        // xorshift64: enough to spread 200 flips, and the same ones on every run.
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let path = &files[n % files.len()];
        let whole = std::fs::read(path).unwrap();
        let mut flipped = whole.clone();
        let bit = usize::try_from(chance % (whole.len() as u64 * 8)).unwrap();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(path, &flipped).unwrap();
        let ran = home.run(&["verify", "bundle"]);
        let name = path.strip_prefix(&bundle).unwrap().display().to_string();
        let placed = ran.out.contains("immutable:log:0/") || ran.out.contains(&name);
        assert!(ran.code == 1 && placed, "seed {seed}, {name}, bit {bit}: {ran:?}");
        std::fs::write(path, &whole).unwrap();
    }
    home.run(&["verify", "bundle"]).expect(0);
}

#[test]
fn with_json_asked_for_errors_are_json_too() {
    let home = Home::new();
    for words in [
        &["verify", "nowhere", "-o", "json"][..],
        &["status", "-o", "json"],
        &["stauts", "-o", "json"],
        &["stauts", "--output=json"],
        &["-ojson", "stauts"],
    ] {
        let ran = home.run(words).expect(2);
        let error: serde_json::Value = serde_json::from_str(&ran.err).expect(&ran.err);
        assert!(error["error"]["message"].is_string(), "{ran:?}");
        assert_eq!(ran.out, "", "{ran:?}");
    }
}

#[test]
fn a_recorded_change_is_in_the_journal_once() {
    let home = Home::new();
    let _node = home.up();
    let record = ["change", "record", "shop", "1.4.2", "--id", "deploy-1142", "-o", "json"];
    let first = home.run(&record).expect(0).json();
    let again = home.run(&record).expect(0).json();
    assert!(first["place"].as_str().unwrap().starts_with("immutable:log:0/"), "{first}");
    assert_eq!(first["place"], again["place"], "a repeat is answered with the first one's place");
    let listed = home.run(&["events", "list", "-o", "json"]).expect(0);
    let changes: Vec<serde_json::Value> = listed
        .out
        .lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .filter(|it: &serde_json::Value| it["type"] == "change.observed")
        .collect();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0]["payload"]["id"], "deploy-1142");
    assert_eq!(changes[0]["place"], first["place"]);
}

#[test]
fn a_frozen_node_refuses_releases_and_says_why() {
    let home = Home::new();
    let _node = home.up();
    home.run(&["freeze", "--yes", "--reason", "maintenance"]).expect(0);
    let ran = home.run(&["freeze", "--yes"]).expect(1);
    assert!(ran.err.contains("frozen already"), "{ran:?}");
    let status = home.run(&["status"]).expect(1);
    assert!(status.out.starts_with("frozen: nothing is changed"), "{status:?}");
    std::fs::create_dir(home.path().join("release")).unwrap();
    std::fs::write(home.path().join("release/app"), "app").unwrap();
    home.run(&["release", "import", "shop", "1.1", "release"]).expect(0);
    home.run(&["release", "start", "shop", "1.1"]);
    let topic = ["events", "list", "--topic", "governance.decision.v1", "-o", "json"];
    let decided = home.run(&topic).expect(0);
    assert!(decided.out.contains("rejected") && decided.out.contains("frozen"), "{decided:?}");
    home.run(&["unfreeze", "--yes"]).expect(0);
    home.run(&["unfreeze", "--yes"]).expect(1);
    let status = home.run(&["status"]).expect(0);
    assert!(status.out.starts_with("Healing"), "{status:?}");
}

/// Flips a bit in the middle of the newest write-ahead log; says where and what it holds now.
fn damage(home: &Home) -> (PathBuf, Vec<u8>) {
    let mut logs = files(&home.data().join("journal"));
    logs.retain(|it| it.extension().is_some_and(|it| it == "log"));
    let log = logs.pop().unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    (log, bytes)
}

#[test]
fn a_damaged_data_directory_names_file_loss_and_repair() {
    let home = Home::new();
    drop(home.up());
    let (log, bytes) = damage(&home);
    let name = log.file_name().unwrap().to_str().unwrap();
    for words in [&["up", "--http", "127.0.0.1:0"][..], &["status"], &["events", "list"]] {
        let ran = home.run(words).expect(2);
        assert!(ran.err.contains(name) && ran.err.contains("at byte"), "{ran:?}");
        assert!(ran.err.contains("nothing was changed"), "{ran:?}");
        assert!(ran.err.contains("`healwright repair"), "{ran:?}");
    }
    assert_eq!(std::fs::read(&log).unwrap(), bytes, "a damaged directory is left as it is");
}

#[test]
fn a_damaged_journal_is_made_anew_from_an_export() {
    let (home, _) = exported();
    let entries = home.run(&["events", "list", "-o", "json"]).expect(0).out;
    damage(&home);
    home.run(&["status"]).expect(2);
    home.run(&["repair", "journal", "--from", "bundle"]).expect(0);
    let again = home.run(&["events", "list", "-o", "json"]).expect(0).out;
    assert!(entries.starts_with(&again), "what the export holds is back");
    home.run(&["replay"]).expect(0);
    drop(home.up());
    home.run(&["verify"]).expect(0);
    assert!(home.data().join("journal.damaged").is_dir(), "nothing was deleted");
}

#[test]
fn a_configured_head_record_is_the_one_that_is_repaired_and_the_journal_says_so() {
    let home = Home::new();
    let record = home.path().join("elsewhere/head");
    let text = format!("head_record = {record:?}\n");
    std::fs::write(home.path().join("hw.toml"), text).unwrap();
    let up = ["up", "--config", "hw.toml", "--no-runner", "--http", "127.0.0.1:0"];
    drop(home.start(&up, "ready: http://"));
    let backup = home.path().join("backup");
    let copy = |from: &Path, to: &Path| {
        let mut command = home.command("cp");
        command.arg("-a").arg(from).arg(to);
        home::run(command).expect(0);
    };
    copy(&home.data(), &backup);
    drop(home.start(&up, "ready: http://"));
    std::fs::remove_dir_all(home.data()).unwrap();
    copy(&backup, &home.data());
    let refused = home.run(&up).expect(2);
    assert!(refused.err.contains("elsewhere/head"), "{refused:?}");
    let before = std::fs::read(&record).unwrap();

    let ran = home.run(&["repair", "head", "--reason", "the disk of Tuesday"]).expect(0);
    assert!(ran.out.contains("immutable:log:0/"), "{ran:?}");
    let aside = home.path().join("elsewhere/head.overridden");
    assert_eq!(std::fs::read(aside).unwrap(), before, "nothing was deleted");
    let listed = home.run(&["events", "list", "--topic", "config.activated.v1", "-o", "json"]);
    let last = listed.out.lines().last().unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["payload"]["name"], "head_record", "{last}");
    assert!(last["payload"]["body"].as_str().unwrap().contains("the disk of Tuesday"), "{last}");
    assert_eq!(last["payload"]["signature"].as_str().unwrap().len(), 128, "{last}");

    drop(home.start(&up, "ready: http://"));
    home.run(&["verify"]).expect(0);
    home.run(&["replay"]).expect(0);
    let again = home.run(&["repair", "head", "--reason", "again"]).expect(0);
    assert!(again.out.contains("immutable:log:0/"), "{again:?}");
}

#[test]
fn a_damaged_head_record_is_set_aside_and_the_default_one_is_found() {
    let home = Home::new();
    drop(home.start(&["up", "--no-runner", "--http", "127.0.0.1:0"], "ready: http://"));
    let folder = home.path().join(".local/state/healwright/heads");
    let mut records = files(&folder);
    records.retain(|it| it.extension().is_none());
    let record = records.pop().unwrap();
    std::fs::write(&record, "no record").unwrap();
    let refused = home.run(&["up", "--no-runner", "--http", "127.0.0.1:0"]).expect(2);
    assert!(refused.err.contains("healwright repair head"), "{refused:?}");
    let ran = home.run(&["repair", "head", "--reason", "a bad disk", "-o", "json"]);
    let ran = ran.expect(0).json();
    assert!(ran["place"].as_str().unwrap().starts_with("immutable:log:0/"), "{ran}");
    drop(home.start(&["up", "--no-runner", "--http", "127.0.0.1:0"], "ready: http://"));
    std::fs::remove_file(&record).unwrap();
    let ran = home.run(&["repair", "head", "--reason", "none"]).expect(2);
    assert!(ran.err.contains("there is no head record at"), "{ran:?}");
}

#[test]
fn completions_know_the_commands() {
    let home = Home::new();
    let ran = home.run(&["completions", "bash"]).expect(0);
    assert!(ran.out.contains("_healwright()") && ran.out.contains("incident"), "{}", ran.err);
}

#[test]
fn nothing_is_coloured_where_nobody_looks_at_a_terminal() {
    let (home, _) = exported();
    for words in [&["status"][..], &["events", "list"], &["verify", "bundle"], &["doctor"]] {
        let ran = home.run(words);
        assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "{ran:?}");
        let mut command = home.command(home::HEALWRIGHT);
        command.args(words).env("NO_COLOR", "1");
        let ran = home::run(command);
        assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "{ran:?}");
    }
}

#[test]
fn the_schema_of_the_configuration_file_has_every_key_with_its_meaning() {
    let home = Home::new();
    let schema = home.run(&["config", "schema"]).expect(0).json();
    assert_eq!(schema["additionalProperties"], false);
    let parts = ["/properties", "/$defs/Profile/properties", "/$defs/Service/properties"];
    for part in parts {
        let keys = schema.pointer(part).and_then(|it| it.as_object()).expect(part);
        for (name, key) in keys {
            assert!(key["description"].is_string(), "{part}/{name}: {key}");
        }
    }
    let config = "[[service]]\nname = \"a\"\ncommand = [\"a\"]\nprobe_url = \"http://h/\"\n";
    std::fs::write(home.path().join("hw.toml"), config).unwrap();
    home.run(&["config", "check", "hw.toml"]).expect(0);
    for key in config.lines().skip(1).map(|it| it.split(' ').next().unwrap()) {
        assert!(schema["$defs"]["Service"]["properties"][key].is_object(), "{key}");
    }
}

#[test]
fn a_person_vouches_for_a_playbook_and_the_word_stands_in_the_journal() {
    let home = Home::new();
    let _node = home.up();
    let because = ["--reason", "the disk is clean", "--yes"];
    let near = home.run(&[&["trust", "vouch", "restart_servic"][..], &because].concat()).expect(2);
    assert!(near.err.contains("did you mean \"restart_service\"?"), "{near:?}");
    let vouch = [&["trust", "vouch", "restart_service"][..], &because].concat();
    home.run(&vouch).expect(0);
    home.run(&vouch).expect(0);
    let list = home.run(&["trust", "list", "-o", "json"]).expect(0).json();
    let of = |name: &str| {
        let components = list["components"].as_array().unwrap();
        components.iter().find(|it| it["component"] == name).unwrap().clone()
    };
    let restart = of("restart_service");
    assert!(restart["why"].as_str().unwrap().contains("the disk is clean"), "{restart}");
    assert_eq!(restart["acts_alone"], true, "{restart}");
    let elsewhere = [&vouch[..], &["--service", "shop"]].concat();
    let ran = home.run(&elsewhere).expect(2);
    assert!(ran.err.contains("\"shop\" is not under care"), "{ran:?}");
}

#[test]
fn where_no_rollout_runs_an_abort_is_refused_with_a_sentence() {
    let home = Home::new();
    let _node = home.up();
    let ran = home.run(&["release", "abort", "shop", "--yes"]).expect(1);
    assert!(ran.err.contains("nothing is being rolled out on shop"), "{ran:?}");
    let ran = home.run(&["release", "abort", "shop", "--yes", "-o", "json"]).expect(1);
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect(&ran.err);
    assert_eq!(error["error"]["code"], "refused");
}
