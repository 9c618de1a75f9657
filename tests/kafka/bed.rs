//! A real Apache Kafka under a test: `HEALWRIGHT_TEST_KAFKA=HOST:PORT` where a cluster is there
//! already, else brokers of the local script, which end with the test process.
//!
//! What cannot run says so and fails: a test that passes without its broker shows nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kafka/kafka.sh");
const SCRIPT_AT_ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/kafka.sh");

/// Brokers of a test's own; they end with it.
pub(crate) struct Brokers {
    dir: tempfile::TempDir,
    /// `HOST:PORT[,HOST:PORT…]`.
    pub(crate) bootstrap: String,
    /// The same for each door that wants TLS or a password, by its protocol.
    pub(crate) doors: BTreeMap<String, String>,
}

impl Brokers {
    /// `n` brokers, 1 or 3, with further settings `KEY=VALUE`.
    pub(crate) fn start(n: u32, settings: &[&str]) -> Self {
        let settings = settings.iter().flat_map(|it| ["-o", it]);
        Brokers::run(n, &settings.collect::<Vec<_>>())
    }

    /// One broker with further doors; see `kafka.sh start --secure`.
    pub(crate) fn secured() -> Self {
        Brokers::run(1, &["--secure"])
    }

    fn run(n: u32, words: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bed = dir.path().join("bed");
        let mut command = Command::new(script());
        command.args(["start", "--brokers", &n.to_string(), "--dir"]).arg(&bed).args(words);
        let ran = command.stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(ran.stdout).unwrap();
        let named = said.lines().filter_map(|line| line.split_once('='));
        let mut doors: BTreeMap<String, String> =
            named.map(|(door, at)| (door.to_owned(), at.to_owned())).collect();
        let bootstrap = doors.remove("BOOTSTRAP");
        let Some(bootstrap) = bootstrap.filter(|_| ran.status.success()) else {
            panic!("no Kafka to test on: {}", String::from_utf8_lossy(&ran.stderr));
        };
        // A test that is killed leaves no broker behind: the pipe closes with its process.
        let after =
            format!("cat >/dev/null; '{}' stop --dir '{}'", script().display(), bed.display());
        let guard = Command::new("setsid").args(["sh", "-c", &after]).stdin(Stdio::piped()).spawn();
        std::mem::forget(guard.unwrap().stdin);
        Brokers { dir, bootstrap, doors }
    }

    /// `kafka.sh VERB N`: kill, end, restart, pause or resume a broker.
    pub(crate) fn tell(&self, verb: &str, n: u32) {
        let bed = self.dir.path().join("bed");
        let told =
            Command::new(script()).args([verb, &n.to_string(), "--dir"]).arg(bed).status().unwrap();
        assert!(told.success(), "kafka.sh {verb} {n}");
    }

    /// Certificates and passwords of a secured broker's clients.
    pub(crate) fn secrets(&self) -> PathBuf {
        self.dir.path().join("bed").join("secrets")
    }

    /// The folder in which broker `n` keeps the partition `topic-0`, for a test that loses it.
    pub(crate) fn folder(&self, n: u32, topic: &str) -> PathBuf {
        self.dir.path().join("bed").join(n.to_string()).join("data").join(format!("{topic}-0"))
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        let bed = self.dir.path().join("bed");
        // What is left is removed by the guard.
        let _ = Command::new(script()).args(["stop", "--dir"]).arg(bed).status();
    }
}

/// One broker for all tests of this process.
pub(crate) fn shared() -> &'static str {
    static SHARED: OnceLock<(String, Option<Brokers>)> = OnceLock::new();
    let (bootstrap, _) = SHARED.get_or_init(|| match std::env::var("HEALWRIGHT_TEST_KAFKA") {
        Ok(bootstrap) => (bootstrap, None),
        Err(_) => {
            let brokers = Brokers::start(1, &[]);
            (brokers.bootstrap.clone(), Some(brokers))
        }
    });
    bootstrap
}

/// A prefix of topics that nobody else uses.
pub(crate) fn prefix() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{n}.", std::process::id())
}

/// The script that starts brokers and runs Kafka's own tools.
pub(crate) fn script() -> PathBuf {
    let at_root = PathBuf::from(SCRIPT_AT_ROOT);
    if at_root.exists() { at_root } else { SCRIPT.into() }
}
