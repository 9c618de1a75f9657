//! What a person does when a file of the system is gone or another one, and what heals again
//! afterwards: keys, the end of the journal, a runner that a killed node left behind.

#![allow(clippy::unwrap_used)]

#[path = "blackbox/home.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod home;

use std::path::Path;

use home::{Home, Node, until};
use rustix::process::{Pid, Signal, kill_process};

const UP: [&str; 5] = ["up", "--config", "hw.toml", "--http", "127.0.0.1:0"];

/// A home with a server under care that nobody here wrote.
fn home() -> Home {
    home_with("")
}

/// The same with further lines for the service.
fn home_with(lines: &str) -> Home {
    let home = Home::new();
    let service = format!(
        "[[service]]\nname = \"shop\"\nprobe_url = \"http://127.0.0.1:{{port}}/\"\n\
         command = [\"python3\", \"-m\", \"http.server\", \"{{port}}\", \"--bind\", \
         \"127.0.0.1\", \"--directory\", {:?}]\n{lines}",
        home.tmp()
    );
    std::fs::write(home.path().join("hw.toml"), service).unwrap();
    home
}

fn up(home: &Home) -> Node {
    home.start(&UP, "ready: http://")
}

/// Processes that have to do with `place` and whose command line holds `word`.
fn pids(place: &Path, word: &str) -> Vec<Pid> {
    let found = home::numbered(place).into_iter().filter(|(_, words)| words.contains(word));
    found.filter_map(|(number, _)| Pid::from_raw(number)).collect()
}

/// The server's process, once it answers probes: detection must know it well before a fault
/// means anything.
fn served(home: &Home) -> Pid {
    let pid = until("the server runs", || pids(&home.tmp(), "http.server").first().copied());
    until("it is seen well", || {
        let status = home.run(&["status", "-o", "json"]).json();
        (status["services"][0]["health"] == "green").then_some(())
    });
    pid
}

/// Whoever kills the server sees another one.
fn heals(home: &Home) {
    let pid = served(home);
    kill_process(pid, Signal::KILL).unwrap();
    until("it is restarted", || pids(&home.tmp(), "http.server").into_iter().find(|it| *it != pid));
}

/// Ends what the node leaves running.
fn clear(home: &Home) {
    for pid in pids(home.path(), "") {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Cuts the newest part of the journal: a disk that was full, a copy that was stopped.
fn cut(home: &Home) {
    let files = std::fs::read_dir(home.data().join("journal")).unwrap().flatten();
    let logs = files.map(|it| it.path()).filter(|it| it.extension().is_some_and(|it| it == "log"));
    let newest = logs.max_by_key(|it| std::fs::metadata(it).unwrap().len()).unwrap();
    let file = std::fs::File::options().write(true).open(newest).unwrap();
    file.set_len(file.metadata().unwrap().len() * 3 / 4).unwrap();
}

#[test]
fn after_the_end_of_the_journal_was_lost_and_accepted_services_are_healed_again() {
    let home = home();
    let node = up(&home);
    served(&home);
    drop(node);
    cut(&home);
    let refused = home.run(&UP).expect(2);
    for word in ["was cut or is gone", "repair journal --from BUNDLE", "repair head --reason"] {
        assert!(refused.err.contains(word), "{word}: {refused:?}");
    }
    let ran = home.run(&["repair", "head", "--reason", "the disk was full"]).expect(0);
    assert!(ran.out.contains("the runner on this machine"), "{ran:?}");
    let node = up(&home);
    heals(&home);
    home.run(&["verify"]).expect(0);
    drop(node);
    home.run(&["replay"]).expect(0);
    clear(&home);
}

#[test]
fn a_system_that_nobody_could_stop_does_not_start() {
    let home = home();
    let key = home.data().join("keys/operator.key");
    drop(up(&home));
    let text = std::fs::read_to_string(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    let refused = home.run(&UP).expect(2);
    assert!(refused.err.contains("operator.key does not exist"), "{refused:?}");
    assert!(refused.err.contains("put the key file back"), "{refused:?}");
    assert!(!key.exists(), "a key that is made now would be nobody's");
    let other = text.replacen(|it: char| it != '0', "0", 1);
    std::fs::write(&key, other).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let refused = home.run(&UP).expect(2);
    assert!(refused.err.contains("is registered"), "{refused:?}");
    std::fs::write(&key, text).unwrap();
    let node = up(&home);
    home.run(&["freeze", "--yes", "--reason", "a drill"]).expect(0);
    drop(node);
    clear(&home);
}

#[test]
fn the_runner_of_a_killed_node_gives_way_to_the_next_one_and_its_service_stays() {
    let home = home();
    let mut node = up(&home);
    let server = served(&home);
    let runner = pids(home.path(), "runner --dir");
    assert_eq!(runner.len(), 1, "{runner:?}");
    let pid = Pid::from_raw(i32::try_from(node.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    node = up(&home);
    until("another runner has taken over", || {
        let now = pids(home.path(), "runner --dir");
        (now.len() == 1 && now != runner).then_some(())
    });
    assert_eq!(served(&home), server, "the service has not noticed");
    drop(node);
    assert_eq!(pids(home.path(), "runner --dir"), [], "and it ends with its node");
    clear(&home);
}

#[test]
fn a_signature_that_is_refused_is_shown_as_refused() {
    let home = home_with("propose_only = true\n");
    let node = up(&home);
    kill_process(served(&home), Signal::KILL).unwrap();
    let plan = until("a person is asked", || {
        let listed = home.run(&["proposals", "list", "-o", "json"]).expect(0).json();
        let plan = listed["proposals"].get(0)?.clone();
        (plan["stands"] == "waits for you").then(|| plan["proposal"].clone())
    });
    let [id, digest] = ["proposal_id", "plan_digest"].map(|it| plan[it].as_str().unwrap());
    home.run(&["freeze", "--yes", "--reason", "a drill"]).expect(0);
    assert!(home.run(&["approve", id, "--yes"]).expect(2).err.contains(digest));
    home.run(&["approve", id, "--yes", "--expect-digest", digest]).expect(1);
    let shown = home.run(&["proposals", "show", id]).expect(0).out;
    assert!(shown.contains("operator signed: approve; refused: the mode is frozen"), "{shown}");
    drop(node);
    clear(&home);
}

/// C12: a machine that cannot show the key that its host is registered under may be anybody's.
#[test]
fn a_runner_that_lost_its_key_is_let_in_again_by_a_persons_word_alone() {
    let home = home();
    let node = up(&home);
    served(&home);
    let words = ["repair", "runner", "--reason", "the disk was old"];
    assert!(home.run(&words).expect(2).err.contains("a node runs here"));
    drop(node);
    assert!(home.run(&words).expect(0).out.contains("nothing was changed"));
    std::fs::remove_file(home.data().join("runner/runner.key")).unwrap();
    let told = home.start(&UP, "healwright repair runner --reason").said.clone();
    assert!(told.contains("it is not let in (C12)"), "{told}");

    let operator = home.data().join("keys/operator.key");
    let text = std::fs::read_to_string(&operator).unwrap();
    std::fs::write(&operator, text.replacen(|it: char| it != '0', "0", 1)).unwrap();
    assert!(home.run(&words).expect(2).err.contains("not the one that is registered"));
    std::fs::write(&operator, text).unwrap();
    let ran = home.run(&[&words[..], &["-o", "json"]].concat()).expect(0).json();
    let (key, former) = (ran["key"].as_str().unwrap(), ran["former"].as_str().unwrap());
    assert!(told.contains(key) && told.contains(former), "{ran}: {told}");
    let node = up(&home);
    heals(&home);
    drop(node);
    let listed = home.run(&["events", "list", "--topic", "config.activated.v1", "-o", "json"]);
    let mut all =
        listed.out.lines().map(|it| serde_json::from_str::<serde_json::Value>(it).unwrap());
    let is_runner =
        |it: &serde_json::Value| it["payload"]["name"].as_str().unwrap().starts_with("runner/");
    let last = all.rfind(is_runner).unwrap();
    assert_eq!(last["place"], ran["place"], "what a person said is in force: {last}");
    assert!(last["payload"]["body"].as_str().unwrap().contains("the disk was old"), "{last}");
    home.run(&["verify"]).expect(0);
    home.run(&["replay"]).expect(0);
    clear(&home);
}
