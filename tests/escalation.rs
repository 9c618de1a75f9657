//! Whoever must act is told: an escalation that stands in the journal reaches its receiver also
//! when the node that wrote it dies before it was heard, on one machine and on a cluster.

#![allow(clippy::unwrap_used)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "cluster/fleet.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fleet;
#[path = "blackbox/home.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod home;
#[path = "blackbox/ask.rs"]
mod http;
#[path = "blackbox/receiver.rs"]
mod receiver;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fleet::Fleet;
use home::{Home, Node};
use receiver::{Answer, Webhook};
use serde_json::{Value, json};

/// Probes of a service that is well, for longer than it takes to know it.
const WELL_FOR: Duration = Duration::from_secs(4);
/// As often as a runner probes under `local`, about.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// A person is called within this time, or never.
const CALLED_WITHIN: Duration = Duration::from_secs(60);
/// A service under care that nobody may repair without a person.
const SERVICE: &str = "[[service]]\nname = \"shop\"\ncommand = [\"sleep\", \"600\"]\n\
                       probe_url = \"http://127.0.0.1:9/\"\npropose_only = true\n";

/// A configuration with `service`, whose escalations go to `webhook`.
fn configuration(webhook: &Webhook, service: &str) -> String {
    format!("[escalation]\nwebhook = \"http://{}/\"\n{service}", webhook.at)
}

/// One probe of the service.
fn probe(at: SocketAddr, passed: bool) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let sample = json!({
        "source": "test", "exporter": "test",
        "series": [{ "service": "shop", "host": "", "key": "probe", "labels": {} }],
        "series_idx": [0], "ts_ns": [u64::try_from(now).unwrap()],
        "value": [if passed { 1.0 } else { 0.0 }],
    });
    let answer = http::ask(at, "POST", "/api/v1/telemetry", &sample.to_string()).unwrap();
    assert_eq!(http::parts(&answer).unwrap().0, 202, "{answer}");
}

/// The service is well for a while and then no more, until somebody is called: what they hear.
fn fail(at: SocketAddr, webhook: &Webhook) -> Value {
    let began = Instant::now();
    while began.elapsed() < CALLED_WITHIN {
        if let Some(message) = webhook.heard() {
            return message;
        }
        probe(at, began.elapsed() < WELL_FOR);
        // Time between two probes is what makes them probes.
        std::thread::park_timeout(PROBE_EVERY);
    }
    panic!("nobody is called within {CALLED_WITHIN:?}");
}

/// What is recorded about an escalation, oldest first.
fn records(events: &[Value], place: &Value) -> Vec<String> {
    let of = events.iter().filter(|it| it["payload"]["log_id"] == *place);
    of.map(|it| format!("{} {}", it["payload"]["kind"], it["payload"]["data"])).collect()
}

fn annotations(home: &Home) -> Vec<Value> {
    let ran = home.run(&["events", "list", "--topic", "annotation.added.v1", "-o", "json"]);
    ran.expect(0).out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn up(home: &Home) -> Node {
    let words = ["up", "--no-runner", "--config", "hw.toml", "--http", "127.0.0.1:0"];
    home.start(&words, "ready: http://")
}

fn kill(node: &Node) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(node.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn an_escalation_that_nobody_took_before_the_node_died_is_told_by_the_next_start() {
    let home = Home::new();
    let webhook = Webhook::new(Answer::Never);
    std::fs::write(home.path().join("hw.toml"), configuration(&webhook, SERVICE)).unwrap();
    let node = up(&home);
    let first = fail(node.http().parse().unwrap(), &webhook);
    kill(&node);
    drop(node);
    assert_eq!(records(&annotations(&home), &first["place"]), Vec::<String>::new());
    webhook.answers(Answer::RefusesOnce);
    let node = up(&home);
    let (refused, taken) = (webhook.hear(), webhook.hear());
    // Its id is the same, so a receiver knows the repeat.
    assert_eq!([&refused, &taken], [&first, &first]);
    let began = Instant::now();
    let recorded = loop {
        let recorded = records(&annotations(&home), &first["place"]);
        if !recorded.is_empty() || began.elapsed() > CALLED_WITHIN {
            break recorded;
        }
    };
    assert_eq!(recorded, [r#""EXPLANATION_NL" "people were told by webhook""#]);
    let timeline = ["incident", "timeline", first["incident_id"].as_str().unwrap()];
    assert!(home.run(&timeline).expect(0).out.contains("people were told by webhook"));
    // Told and recorded: the next start has read the record when it takes a change.
    kill(&node);
    drop(node);
    let node = up(&home);
    home.run(&["change", "record", "shop", "1.1", "--id", "c-1"]).expect(0);
    assert!(webhook.heard().is_none(), "it was told again");
    drop(node);
    home.run(&["replay"]).expect(0);
}

/// Writes a configuration beside the fleet's data and answers the words that name it.
fn words(dir: &Path, name: &str, text: &str) -> Vec<String> {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    vec!["--config".to_owned(), path.to_str().unwrap().to_owned()]
}

#[test]
fn an_escalation_of_an_owner_that_died_is_told_by_the_node_that_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let webhook = Webhook::new(Answer::Never);
    // The founder has the operator's key, so the service stands in its configuration alone.
    let founder = words(dir.path(), "founder.toml", &configuration(&webhook, SERVICE));
    let mut fleet = Fleet::start_with(bed::shared(), 1, &founder);
    fleet.speaks(&words(dir.path(), "other.toml", &configuration(&webhook, "")));
    let other = fleet.add();
    let owner = fleet.owner();
    let first = fail(fleet.address(owner), &webhook);
    fleet.kill(owner);
    webhook.answers(Answer::Takes);
    assert_eq!(webhook.hear(), first);
    let survivor = usize::from(owner != other) * other;
    fleet.change(survivor, "after");
    fleet.eventually("it is recorded that people were told", || {
        let recorded = records(&fleet.events("annotation.added.v1"), &first["place"]);
        let told = r#""EXPLANATION_NL" "people were told by webhook""#;
        (recorded == [told]).then_some(())
    });
    fleet.await_taken();
    fleet.check();
    fleet.verify_export();
}
