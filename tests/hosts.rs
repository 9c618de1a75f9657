//! Services on a host that did not found the deployment: its own node's runner heals them, and
//! nobody without the operator's key says whose runner that is.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "cluster/fleet.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fleet;
#[path = "adversity/foreign.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod foreign;
#[path = "blackbox/ask.rs"]
mod http;
#[path = "blackbox/web.rs"]
mod web;

use std::path::{Path, PathBuf};

use bed::Brokers;
use fleet::Fleet;
use foreign::Foreign;
use healwright::join::{Candidate, Record};
use healwright::keys::{Identity, KeyDir};
use rustix::process::{Pid, Signal, kill_process};
use schemas::signature::KeyPair;
use serde_json::Value;
use topologies::config::Host;
use web::process_of;

const WEB: &str = "prod-eu/shop/web";

/// A configuration with one service on host `b`, in a scope of its own.
fn config(home: &Path, partitions: u64) -> String {
    format!(
        "profile = \"local\"\n[kafka]\npartitions = {partitions}\n[runner]\nhost = \"a\"\n\
         [[service]]\nname = \"{WEB}\"\nhost = \"b\"\n{}",
        web::lines(home)
    )
}

/// What a test leaves behind: a killed node's runners, and the service, which outlive it.
struct Left(PathBuf);

impl Drop for Left {
    fn drop(&mut self) {
        let runners = (0..3).flat_map(|node| [runner(&self.0, node, 0), runner(&self.0, node, 1)]);
        let runners: Vec<Pid> = runners
            .filter_map(|it| runner::agent::identity::holder(&it).and_then(Pid::from_raw))
            .collect();
        for pid in runners.into_iter().chain(process_of(&self.0)) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The folder of a node's runner.
fn runner(home: &Path, node: usize, partition: usize) -> PathBuf {
    let data = home.join(format!("data-{node}"));
    match partition {
        0 => data.join("runner"),
        n => data.join("partitions").join(n.to_string()).join("runner"),
    }
}

/// The service as a node's status shows it.
fn shown(fleet: &Fleet, node: usize) -> Option<Value> {
    let status = fleet.get(node, "/api/v1/status")?;
    status["services"].as_array()?.iter().find(|it| it["service"] == WEB).cloned()
}

/// Registrations in the journal: host, key and version, in order.
fn registered(fleet: &Fleet) -> Vec<(String, String, u64)> {
    let configs = fleet.events("config.activated.v1");
    let runners = configs.iter().map(|it| &it["payload"]).filter_map(|it| {
        let host = it["name"].as_str()?.strip_prefix("runner/")?.to_owned();
        let body: Value = serde_json::from_str(it["body"].as_str()?).ok()?;
        Some((host, body["key"].as_str()?.to_owned(), it["version"].as_u64()?))
    });
    runners.collect()
}

/// Waits until the service is well, kills it, and waits until it is started again and the repair
/// stands in the journal.
fn kill_and_await(fleet: &Fleet, node: usize, n_repairs: usize) -> Pid {
    let home = fleet.home().to_owned();
    // What was never seen to be well is unknown when it is gone, and the unknown is not healed.
    fleet.eventually("the service is well", || {
        (shown(fleet, node)?["health"] == "green").then_some(())
    });
    let before = process_of(&home).unwrap();
    kill_process(before, Signal::KILL).unwrap();
    let again = fleet.eventually("the service is started again", || {
        process_of(&home).filter(|it| *it != before)
    });
    fleet.eventually("what was done stands in the journal", || {
        (fleet.events("l3.execution.result.v1").len() == n_repairs).then_some(())
    });
    again
}

fn is_in_office(fleet: &Fleet, node: usize) -> Option<()> {
    (fleet.get(node, "/readyz")?["office"] == "here").then_some(())
}

#[test]
fn a_service_is_healed_by_the_runner_of_its_own_host_also_when_the_founder_is_gone() {
    let brokers = Brokers::start(1, &[]);
    let mut fleet = Fleet::start_with_service(&brokers.bootstrap, |home| config(home, 2));
    let home = fleet.home().to_owned();
    let _left = Left(home.clone());
    fleet.eventually("the service waits for its host, neither well nor ill", || {
        let it = shown(&fleet, 0)?;
        let unknown = it["health"] == "unknown" && it["has_runner"] == false;
        (unknown && it["host"] == "b" && it["standing"] == "? no runner yet").then_some(())
    });
    fleet.runs_with(&["--host", "b"]);
    let second = fleet.add();
    let partition = fleet.partition_of(WEB);
    fleet.eventually("the service runs on its host", || process_of(&home));
    kill_and_await(&fleet, 0, 1);
    // Whose doing it was: the journal names b, and only b's runner keeps the service.
    let keeps = |node| runner(&home, node, partition).join("services").join("prod-eu+shop+web");
    assert!(keeps(second).exists() && !keeps(0).exists());
    let hosts = |fleet: &Fleet| -> Vec<String> {
        let results = fleet.events("runner.result.v1");
        results.iter().map(|it| it["payload"]["host"].as_str().unwrap().to_owned()).collect()
    };
    let done = hosts(&fleet);
    assert!(!done.is_empty() && done.iter().all(|it| it == "b"), "{done:?}");
    let mut names: Vec<String> = registered(&fleet).into_iter().map(|it| it.0).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);

    fleet.kill(0);
    fleet.eventually("b takes every office", || is_in_office(&fleet, second));
    kill_and_await(&fleet, second, 2);
    assert!(hosts(&fleet).len() > done.len() && hosts(&fleet).iter().all(|it| it == "b"));
    a_replaced_runner_is_served_no_more(&fleet, second, u32::try_from(partition).unwrap());
    kill_and_await(&fleet, second, 3);
    fleet.verify_export_of(&["--partition", &partition.to_string()]);
    assert!(fleet.stop(second).success());
}

/// A person puts another key into the place of a runner that is at work, and takes that back: with
/// the founder's keys, and no node running where they lie.
fn a_replaced_runner_is_served_no_more(fleet: &Fleet, node: usize, partition: u32) {
    let own = runner(fleet.home(), node, partition as usize);
    let own = runner::agent::identity::public_key(&own).unwrap().id();
    let other = candidate(&admitted(fleet, node), partition, "b", 7);
    let key = other.runner.key.id();
    let record = serde_json::to_vec(&Record::RunnerRequested(other)).unwrap();
    Foreign::new(fleet.bootstrap()).write(&fleet.topic("nodes"), &[record]);
    let admit = |key: &str| {
        let ran = fleet.run(0, &["node", "admit", key, "--replace"]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    admit(&key);
    fleet.await_metric(node, "healwright_runners_refused_total", 0);
    let ran = fleet.run(99, &["node", "list"]);
    let shown = String::from_utf8(ran.stdout).unwrap();
    assert!(shown.contains(&format!("replaced by {key}")), "{shown}");
    admit(&own);
}

/// Who a node is that the founder has admitted.
fn admitted(fleet: &Fleet, node: usize) -> Identity {
    KeyDir::of(&fleet.home().join(format!("data-{node}"))).identity().unwrap()
}

fn candidate(of: &Identity, partition: u32, host: &str, seed: u8) -> Candidate {
    let key = KeyPair::from_seed(&[seed; 32]).public();
    let runner = Host { host: host.to_owned(), key, sandbox: Vec::new() };
    Candidate::signed(of, partition, runner)
}

/// C12: what stands in the topic is anybody's word. Only a node of the deployment is heard, and
/// not even it takes a host's name from another key.
#[test]
fn a_strangers_request_and_a_second_key_for_a_host_register_nothing() {
    let brokers = Brokers::start(1, &[]);
    let mut fleet = Fleet::start_with_service(&brokers.bootstrap, |_| {
        "profile = \"local\"\n[kafka]\npartitions = 2\n[runner]\nhost = \"a\"\n".to_owned()
    });
    let _left = Left(fleet.home().to_owned());
    let [second, third] = [fleet.add(), fleet.add()];
    fleet.eventually("the founder has registered its own", || {
        (registered(&fleet).len() == 1).then_some(())
    });
    let (own, topic) = (admitted(&fleet, second), fleet.topic("nodes"));
    let ask = |it: Candidate| {
        let record = serde_json::to_vec(&Record::RunnerRequested(it)).unwrap();
        Foreign::new(&brokers.bootstrap).write(&topic, &[record]);
    };
    let root = KeyPair::from_seed(&[9; 32]);
    let mut stranger = Identity::new("local", "x", &root, KeyPair::from_seed(&[8; 32]));
    stranger.deployment.clone_from(&own.deployment);
    ask(candidate(&stranger, 0, "c", 1));
    let mut changed = candidate(&own, 0, "c", 2);
    changed.runner.key = KeyPair::from_seed(&[3; 32]).public();
    ask(changed);
    // The founder's own, and one that is nobody's yet: what comes before it was judged before.
    ask(candidate(&own, 0, "a", 4));
    ask(candidate(&own, 0, "z", 5));
    let key = |seed: u8| KeyPair::from_seed(&[seed; 32]).public();
    let of_z = |fleet: &Fleet| -> Vec<String> {
        registered(fleet).into_iter().filter(|it| it.0 == "z").map(|it| it.1).collect()
    };
    fleet.eventually("the good one is registered", || {
        (of_z(&fleet) == [key(5).to_string()]).then_some(())
    });
    ask(candidate(&own, 0, "z", 6));
    // A host is one machine: its own node gets it in the other partition, and another does not.
    ask(candidate(&admitted(&fleet, third), 1, "z", 7));
    ask(candidate(&own, 1, "z", 5));
    fleet.eventually("its own node has it in both partitions", || {
        (of_z(&fleet).len() == 2).then_some(())
    });
    for seed in [6, 7] {
        let refused =
            format!("the runner {} of z is not registered: z is registered", key(seed).id());
        assert!(fleet.said_by(0).contains(&refused), "{}", fleet.said_by(0));
    }
    let mut names: Vec<String> = registered(&fleet).into_iter().map(|it| it.0).collect();
    names.sort();
    assert_eq!(names, ["a", "z", "z"], "{}", fleet.said());

    // A person's word may, where it says so.
    let admit = |words: &[&str]| {
        let ran = fleet.run(0, &[&["node", "admit"], words].concat());
        (ran.status.success(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let second = key(6).id();
    let (done, said) = admit(&[&second]);
    assert!(!done && said.contains(&key(5).id()) && said.contains("--replace"), "{said}");
    let (done, said) = admit(&[&second, "--replace"]);
    assert!(done && of_z(&fleet).contains(&key(6).to_string()), "{said}");
    let (done, said) = admit(&[&key(3).id(), "--replace"]);
    assert!(!done && said.contains("no node or runner with the key"), "{said}");
}

/// Where others could reach the brokers nobody is let in without a person.
#[test]
fn elsewhere_a_person_lets_the_node_and_its_runner_in() {
    let brokers = Brokers::start(1, &[]);
    // The same address in a form that does not read as this machine's.
    let bootstrap = brokers.bootstrap.replace("127.0.0.1", "127.1");
    let mut fleet = Fleet::start_with_service(&bootstrap, |home| config(home, 1));
    let home = fleet.home().to_owned();
    let _left = Left(home.clone());
    // The root key is taken elsewhere after the first start, and is back to certify somebody.
    let root = home.join("data-0/keys/root.key");
    std::fs::rename(&root, home.join("root.key")).unwrap();
    fleet.kill(0);
    fleet.speaks(&["--config".to_owned(), home.join("hw.toml").display().to_string()]);
    fleet.runs_with(&["--no-runner"]);
    fleet.restart(0);
    fleet.forget_words();
    std::fs::rename(home.join("root.key"), &root).unwrap();
    fleet.runs_with(&["--host", "b"]);
    let second = fleet.begin();
    let list = || -> Value {
        let ran = fleet.run(99, &["node", "list", "-o", "json"]);
        serde_json::from_slice(&ran.stdout).unwrap_or_default()
    };
    let waits = |of: &str| {
        let shown = list();
        let it = shown[of].as_array()?.iter().find(|it| it["standing"] == "waits")?;
        Some(it["key"].as_str()?.to_owned())
    };
    let admit = |key: &str| {
        let ran = fleet.run(0, &["node", "admit", key]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    admit(&fleet.eventually("the node waits", || waits("nodes")));
    fleet.await_ready(second);
    let key = fleet.eventually("its runner waits", || waits("runners"));
    let said = fleet.said_by(second);
    assert!(said.contains(&format!("healwright node admit {key}")), "{said}");
    assert_eq!(process_of(&home), None, "nothing is started for a runner that nobody let in");
    let refused = fleet.run(1, &["node", "admit", &key]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("operator.key"), "{why}");
    admit(&key);
    fleet.eventually("the service runs", || process_of(&home));
    assert_eq!(waits("runners"), None);
    kill_and_await(&fleet, second, 1);
    assert!(fleet.stop(second).success());
}

/// Several nodes may run on one machine: a name that nobody gave them is the first one's.
#[test]
fn a_node_without_a_name_leaves_the_machines_to_the_one_that_has_it() {
    let brokers = Brokers::start(1, &[]);
    let mut fleet = Fleet::start_with_service(&brokers.bootstrap, |home| {
        let text = config(home, 1);
        text.replace("[runner]\nhost = \"a\"\n", "").replace("host = \"b\"\n", "")
    });
    let home = fleet.home().to_owned();
    let _left = Left(home.clone());
    let first = fleet.eventually("the service runs", || process_of(&home));
    fleet.runs_with(&[]);
    let second = fleet.add();
    fleet.eventually("the second sees whose the name is", || {
        fleet.said_by(second).contains("are another node's").then_some(())
    });
    assert_eq!(runner::agent::identity::holder(&runner(&home, second, 0)), None);
    assert_eq!(registered(&fleet).len(), 1);
    assert_eq!(process_of(&home), Some(first));
    // Services are the founder's to name, here as elsewhere.
    let file = home.join("own.toml");
    std::fs::write(&file, config(&home, 1)).unwrap();
    let words = ["up", "--http", "127.0.0.1:0", "--config", file.to_str().unwrap()];
    let ran = fleet.run(2, &words);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && said.contains("`host = \"a\"`"), "{said}");
    assert!(fleet.stop(second).success());
    assert!(fleet.stop(0).success());
}
