//! Typed topics as clients read them that nobody here wrote, with a schema registry and without:
//! each of them gets what `events list` says.
//!
//! The registry is a real one, Apicurio's, which compares schemas itself. kcat and Java are
//! demanded; kafkajs and franz-go read where npm and go are there, and what did not run is said.
//! `HEALWRIGHT_TEST_CLIENTS=all` demands those too.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "registry/clients.rs"]
mod clients;
#[path = "blackbox/home.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod home;
#[path = "registry/server.rs"]
mod server;

use clients::Client;
use home::{HEALWRIGHT, Home, Node, Ran};
use schemas::{Event, Kind, cap, codec};
use serde_json::{Value, json};
use server::Server;

const TOPIC: &str = "change.observed.v1";
const SUBJECT: &str = "change.observed.v1-org.healwright.v1.ChangeObserved";
/// A start that has not been refused within this time never will be.
const START_WITHIN_S: &str = "60";
/// What no version of ours can read: `id` is no text.
const FOREIGN: &str = r#"{"type": "record", "namespace": "org.healwright.v1",
    "name": "ChangeObserved", "fields": [{"name": "id", "type": "long"}]}"#;

/// A system on the cluster, under a prefix of its own.
struct System {
    home: Home,
    log: String,
    prefix: String,
}

impl System {
    fn new() -> Self {
        let log = format!("kafka://{}", bed::shared());
        System { home: Home::new(), log, prefix: bed::prefix() }
    }

    fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [words, &["--log", &self.log, "--topic-prefix", &self.prefix]].concat()
    }

    fn run(&self, words: &[&str]) -> Ran {
        self.home.run(&self.words(words))
    }

    fn up(&self, further: &[&str]) -> Node {
        let words = [&["up", "--http", "127.0.0.1:0", "--no-runner"], further].concat();
        self.home.start(&self.words(&words), "ready: http://")
    }

    /// Says two changes: one as it is, and one above the cap.
    fn say_changes(&self) {
        self.run(&["change", "record", "shop", "1.4.2", "--id", "small"]).expect(0);
        let long = "x".repeat(cap::PAYLOAD_BYTES_MAX);
        self.run(&["change", "record", "cart", "2.0.0", "--id", "large", "--summary", &long])
            .expect(0);
    }

    /// The changes as the journal tells them.
    fn told(&self) -> Vec<Value> {
        let listed = self.run(&["events", "list", "--topic", TOPIC, "-o", "json"]).expect(0);
        let lines = listed.out.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut told: Vec<Value> = lines.collect();
        // Beside a summary the list tells the id under which a client said what it stands for.
        for it in told.iter_mut().filter(|it| it["payload"]["redacted"] == true) {
            assert_eq!(it["payload"].as_object_mut().unwrap().remove("id"), Some(json!("large")));
        }
        told
    }

    /// What a start says that must be refused. One that is not refused would go on for ever.
    fn refused(&self, registry: &str) -> String {
        let mut command = self.home.command("timeout");
        let words = ["up", "--http", "127.0.0.1:0", "--no-runner", "--schema-registry", registry];
        command.args([START_WITHIN_S, HEALWRIGHT]).args(self.words(&words));
        home::run(command).expect(2).err
    }

    fn topic(&self) -> String {
        format!("{}{TOPIC}", self.prefix)
    }

    fn subject(&self) -> String {
        format!("{}{SUBJECT}", self.prefix)
    }
}

#[test]
fn without_a_registry_every_client_reads_single_object_values() {
    let system = System::new();
    let _node = system.up(&[]);
    system.say_changes();
    let told = system.told();
    assert_eq!(told.len(), 2);
    assert_eq!(told[1]["payload"]["redacted"], true, "{told:?}");
    for client in Client::present() {
        let read = client.read(bed::shared(), &system.topic(), told.len(), None);
        for (record, told) in read.iter().zip(&told) {
            assert_eq!(told["place"], record.headers["ce_place"].as_str(), "{client:?}");
            assert_eq!(told["key"], record.key.as_str(), "{client:?}");
            assert_eq!(record.headers.get("ce_dataschema"), None, "{client:?}");
            assert_eq!(told["payload"], single_object(&record.value), "{client:?}");
        }
        assert_eq!(read.len(), told.len(), "{client:?}");
    }
}

/// A value under the fingerprint of the event's schema, or of the summary's.
fn single_object(value: &[u8]) -> Value {
    let (fingerprint, _) = codec::split(value).unwrap();
    if fingerprint == cap::form().fingerprint {
        return serde_json::to_value(cap::Summary::decode(value).unwrap()).unwrap();
    }
    assert_eq!(fingerprint, codec::fingerprint(Kind::ChangeObserved));
    serde_json::to_value(Event::decode(Kind::ChangeObserved, value).unwrap()).unwrap()
}

#[test]
fn with_a_registry_independent_clients_decode_what_the_journal_says() {
    let (system, server) = (System::new(), Server::start());
    let _node = system.up(&["--schema-registry", &server.url]);
    system.say_changes();
    let told = system.told();
    for client in Client::present() {
        let read = client.read(bed::shared(), &system.topic(), told.len(), Some(&server.url));
        for (record, told) in read.iter().zip(&told) {
            assert_eq!(told["place"], record.headers["ce_place"].as_str(), "{client:?}");
            assert_eq!(record.value[0], 0, "{client:?}");
            let id = u32::from_be_bytes(record.value[1..5].try_into().unwrap());
            let at = format!("{}/schemas/ids/{id}", server.url);
            assert_eq!(record.headers["ce_dataschema"], at, "{client:?}");
            if client.decodes() {
                assert_eq!(Some(&told["payload"]), record.decoded.as_ref(), "{client:?}");
            }
        }
        assert_eq!(read.len(), told.len(), "{client:?}");
    }
    let shown = system.run(&["config", "show", "-o", "json"]).expect(0);
    assert_eq!(shown.json()["schema_registry"], server.url.as_str());
}

#[test]
fn a_restart_finds_what_was_registered_and_registers_nothing_again() {
    let (system, server) = (System::new(), Server::start());
    let registered = || {
        let subjects = server.subjects();
        let versions = |it: &String| server.get(&format!("/subjects/{it}/versions")).1;
        subjects.iter().map(|it| (it.clone(), versions(it))).collect::<Vec<_>>()
    };
    drop(system.up(&["--schema-registry", &server.url]));
    let first = registered();
    // A kind that has a released former form has both, the older one first.
    let release = "release.requested.v1-org.healwright.v1.ReleaseRequested";
    let release = format!("{}{release}", system.prefix);
    assert!(first.contains(&(release.clone(), json!([1, 2]))), "{first:?}");
    let level = server.get(&format!("/config/{release}")).1;
    assert_eq!(level["compatibilityLevel"], "BACKWARD");
    drop(system.up(&["--schema-registry", &server.url]));
    assert_eq!(registered(), first);
}

#[test]
fn an_incompatible_subject_refuses_the_start_and_nothing_is_registered() {
    let (system, server) = (System::new(), Server::start());
    server.register(&system.subject(), FOREIGN);
    server.set_level(&system.subject(), "BACKWARD");
    let refused = system.refused(&server.url);
    for word in
        [system.subject().as_str(), "rule BACKWARD", "STRING not compatible with", "--topic-prefix"]
    {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    assert_eq!(server.subjects(), [system.subject()]);
}

#[test]
fn a_subject_whose_rule_locks_readers_out_refuses_the_start_with_the_command_that_mends_it() {
    let (system, server) = (System::new(), Server::start());
    server.register(&system.subject(), Kind::ChangeObserved.avsc());
    server.set_level(&system.subject(), "FORWARD");
    let refused = system.refused(&server.url);
    assert!(refused.contains("has the rule FORWARD"), "{refused}");
    let address = format!("{}/config/{}", server.url, system.subject());
    assert!(refused.contains("curl -X PUT") && refused.contains(&address), "{refused}");
    server.set_level(&system.subject(), "FULL");
    drop(system.up(&["--schema-registry", &server.url]));
    let level = server.get(&format!("/config/{}", system.subject())).1;
    assert_eq!(level["compatibilityLevel"], "FULL", "a stricter rule is left as it is");
}

#[test]
fn a_registry_that_does_not_answer_refuses_the_start() {
    let system = System::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let refused = system.refused(&url);
    for word in [url.as_str(), "does not answer", "schema_registry.url"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
}

#[test]
fn a_registry_without_typed_topics_is_refused() {
    let home = Home::new();
    let refused = home.run(&["up", "--schema-registry", "http://127.0.0.1:8081"]).expect(2);
    assert!(refused.err.contains("--log kafka://"), "{}", refused.err);
    assert!(!home.data().exists(), "nothing was begun");
}
