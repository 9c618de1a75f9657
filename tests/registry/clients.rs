//! Clients that nobody here wrote, as programs that read a topic.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

const CONSUME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/clients/consume.sh");
/// A client that has not read everything within this time never will.
const READ_WITHIN_S: &str = "90";

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// On librdkafka; Debian's build knows no registry.
    Kcat,
    /// Apache's own client, with Apache's Avro.
    Java,
    /// JavaScript from the socket up, with its own registry client and avsc.
    Kafkajs,
    /// Go from the socket up, with its own registry client and hamba/avro.
    FranzGo,
}

/// One record as a client tells it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) value: Vec<u8>,
    /// The value, decoded by the registry.
    pub(crate) decoded: Option<Value>,
}

#[derive(Deserialize)]
struct Line {
    key: String,
    headers: BTreeMap<String, String>,
    value_base64: String,
    value: Option<Value>,
}

impl Client {
    /// Those that can run here. kcat and Java are small enough to be demanded everywhere; Go and
    /// Node are not, so their absence is told, and a failure in CI and where all are
    /// asked for.
    pub(crate) fn present() -> Vec<Client> {
        let all = std::env::var("HEALWRIGHT_TEST_CLIENTS").is_ok_and(|it| it == "all");
        let demanded = all || std::env::var_os("CI").is_some();
        let rows = [
            (Client::Kcat, "kcat", "apt-get install kcat", true),
            (Client::Java, "javac", "apt-get install default-jdk-headless", true),
            (Client::Kafkajs, "npm", "install Node.js", demanded),
            (Client::FranzGo, "go", "install Go 1.24 or later", demanded),
        ];
        let mut present = Vec::new();
        for (client, program, install, demanded) in rows {
            if is_there(program) {
                present.push(client);
                continue;
            }
            assert!(!demanded, "{client:?} cannot read: {program} is missing; {install}");
            // Not by a macro: a test that passes would keep it to itself.
            let _ = writeln!(
                std::io::stderr(),
                "NOT TESTED: {client:?} does not read the typed topics here, for {program} is \
                 missing; {install}, or demand it with HEALWRIGHT_TEST_CLIENTS=all"
            );
        }
        present
    }

    /// Whether it decodes by a registry.
    pub(crate) fn decodes(self) -> bool {
        self != Client::Kcat
    }

    /// The first `n` committed records of a topic.
    pub(crate) fn read(
        self,
        bootstrap: &str,
        topic: &str,
        n: usize,
        registry: Option<&str>,
    ) -> Vec<Record> {
        let name = match self {
            Client::Kcat => return kcat(bootstrap, topic, n),
            Client::Java => "java",
            Client::Kafkajs => "kafkajs",
            Client::FranzGo => "franz-go",
        };
        let count = n.to_string();
        let mut command = Command::new(CONSUME);
        command.args([name, "--bootstrap", bootstrap, "--topic", topic, "--count", &count]);
        command.args(["--seconds", READ_WITHIN_S]);
        if let Some(registry) = registry {
            command.args(["--registry", registry]);
        }
        let printed = String::from_utf8(output(self, &mut command)).unwrap();
        printed.lines().map(|line| serde_json::from_str::<Line>(line).unwrap().record()).collect()
    }
}

impl Line {
    fn record(self) -> Record {
        use base64::Engine as _;
        let value = base64::engine::general_purpose::STANDARD.decode(self.value_base64).unwrap();
        Record { key: self.key, headers: self.headers, value, decoded: self.value }
    }
}

/// kcat prints the value as it is, so its length goes before it.
fn kcat(bootstrap: &str, topic: &str, n: usize) -> Vec<Record> {
    let mut command = Command::new("timeout");
    command.args([READ_WITHIN_S, "kcat", "-C", "-b", bootstrap, "-t", topic, "-o", "beginning"]);
    command.args(["-q", "-c", &n.to_string(), "-X", "isolation.level=read_committed"]);
    command.args(["-f", "%S\n%k\n%h\n%s"]);
    let printed = output(Client::Kcat, &mut command);
    let mut rest = &printed[..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let [length, key, headers] = [(); 3].map(|()| line(&mut rest));
        let (value, after) = rest.split_at(length.parse().unwrap());
        rest = after;
        let headers = headers.split(',').map(|it| it.split_once('=').unwrap());
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        records.push(Record { key, headers, value: value.to_vec(), decoded: None });
    }
    records
}

fn line(rest: &mut &[u8]) -> String {
    let end = rest.iter().position(|it| *it == b'\n').unwrap();
    let line = String::from_utf8(rest[..end].to_vec()).unwrap();
    *rest = &rest[end + 1..];
    line
}

fn output(client: Client, command: &mut Command) -> Vec<u8> {
    let ran = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{client:?} has not read everything: {said}");
    ran.stdout
}

fn is_there(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|it| it.status.success())
}
