//! Nodes and commands on a broker that wants TLS, a password, or both. What they may not say is
//! looked for in everything that they print.

#![allow(clippy::unwrap_used)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "cluster/fleet.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fleet;
#[path = "blackbox/ask.rs"]
mod http;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use bed::Brokers;
use fleet::Fleet;

/// The broker of all tests here.
fn broker() -> &'static Brokers {
    static BROKER: OnceLock<Brokers> = OnceLock::new();
    BROKER.get_or_init(Brokers::secured)
}

fn sasl(mechanism: &str, password: &Path) -> String {
    let password = password.display();
    format!(
        "[kafka.sasl]\nmechanism = \"{mechanism}\"\nusername = \"node\"\n\
         password_file = \"{password}\"\n"
    )
}

fn tls(authority: &str, own: bool) -> String {
    let at = broker().secrets().display().to_string();
    let mut text = format!("[kafka.tls]\nca_file = \"{at}/{authority}.pem\"\n");
    if own {
        text += &format!(
            "cert_file = \"{at}/client.pem\"\nkey_file = \"{at}/client.key\"\n\
             key_password_file = \"{at}/key-password\"\n"
        );
    }
    text
}

/// A configuration file with `text` in it.
fn config(dir: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("healwright.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// `healwright node list` through a door.
fn list(door: &str, config: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healwright"));
    command.args(["node", "list", "--topic-prefix", "nobodys.", "--log"]);
    command.arg(format!("kafka://{}", broker().doors[door])).env("RUST_LOG", "debug");
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.output().unwrap()
}

fn no_secret(said: &str) {
    for name in ["password", "key-password"] {
        let secret = std::fs::read_to_string(broker().secrets().join(name)).unwrap();
        assert!(!said.contains(secret.trim()), "{name} is printed: {said}");
    }
}

#[test]
fn nodes_share_a_cluster_that_wants_tls_and_a_password_and_commands_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let text = tls("ca", false) + &sasl("SCRAM-SHA-512", &broker().secrets().join("password"));
    let words = ["--config".to_owned(), config(&dir, &text).display().to_string()];
    let mut fleet = Fleet::start_with(&broker().doors["SASL_SSL"], 2, &words);
    fleet.change(0, "one");
    fleet.change(1, "two");
    fleet.await_taken();
    fleet.check();
    fleet.verify_export();
    let shown = fleet.run(0, &["config", "show"]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    no_secret(&(String::from_utf8(shown.stdout).unwrap() + &fleet.said()));
}

#[test]
fn every_door_opens_to_what_it_wants() {
    let dir = tempfile::tempdir().unwrap();
    let password = broker().secrets().join("password");
    for (door, text) in [
        ("SASL_PLAINTEXT", sasl("PLAIN", &password)),
        ("SASL_PLAINTEXT", sasl("SCRAM-SHA-256", &password)),
        ("SASL_SSL", tls("ca", false) + &sasl("PLAIN", &password)),
        ("SSL", tls("ca", true)),
    ] {
        let listed = list(door, Some(&config(&dir, &text)));
        let said = String::from_utf8_lossy(&listed.stderr);
        no_secret(&said);
        // The broker has answered: there is no system with this prefix.
        assert!(said.contains("no deployment") || listed.status.success(), "{door}: {said}");
    }
}

#[test]
fn a_door_that_stays_shut_says_why_and_which_key_to_look_at() {
    let dir = tempfile::tempdir().unwrap();
    let password = broker().secrets().join("password");
    let wrong = broker().secrets().join("key-password");
    for (door, text, word) in [
        ("SASL_SSL", Some(tls("ca", false) + &sasl("SCRAM-SHA-512", &wrong)), "`kafka.sasl`"),
        ("SASL_SSL", Some(tls("stranger", false) + &sasl("PLAIN", &password)), "`kafka.tls`"),
        ("SASL_PLAINTEXT", Some(sasl("PLAIN", &wrong)), "`kafka.sasl`"),
        ("SSL", Some(tls("ca", false)), "`kafka.tls`"),
    ] {
        let path = text.map(|text| config(&dir, &text));
        let listed = list(door, path.as_deref());
        let said = String::from_utf8_lossy(&listed.stderr);
        no_secret(&said);
        assert_eq!(listed.status.code(), Some(2), "{door}: {said}");
        assert!(said.contains(word), "{door} does not speak of {word}: {said}");
    }
}
