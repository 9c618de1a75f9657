//! A real Apache Kafka under a test: `HEALWRIGHT_TEST_KAFKA=HOST:PORT` where a cluster is there
//! already, else a container where a container engine answers, else a broker of the local script.
//! Container and broker end with the test process. A test that kills or pauses brokers has them
//! from the script.
//!
//! What cannot run says so and fails: a test that passes without its broker shows nothing.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// An engine on this machine answers in milliseconds; one that does not is none.
const PING_WITHIN: Duration = Duration::from_secs(2);
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
    let (bootstrap, _) = SHARED.get_or_init(|| {
        let given = std::env::var("HEALWRIGHT_TEST_KAFKA").ok();
        if let Some(bootstrap) = given.or_else(contained) {
            return (bootstrap, None);
        }
        let brokers = Brokers::start(1, &[]);
        (brokers.bootstrap.clone(), Some(brokers))
    });
    bootstrap
}

/// A broker in a container of testcontainers, where an engine answers. One that cannot start it,
/// because it may not fetch the image, is no reason to show nothing: the script is left.
#[allow(clippy::print_stderr, reason = "which Kafka a test ran on belongs to its output")]
fn contained() -> Option<String> {
    if !engine_answers(std::env::var("DOCKER_HOST").ok().as_deref()) {
        return None;
    }
    let program = script().with_file_name("container").join("Cargo.toml");
    // Beside what was built for the tests, and apart from it: it has a lock file of its own.
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap().join("kafka-container");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--locked", "--manifest-path"]).arg(program);
    cargo.arg("--target-dir").arg(target);
    let mut child = cargo.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let heard = BufReader::new(child.stdout.take().unwrap()).read_line(&mut said);
    let bootstrap = said.trim().strip_prefix("BOOTSTRAP=").map(str::to_owned);
    if heard.is_err() || bootstrap.is_none() {
        eprintln!("a container engine answers and starts no Kafka; going on with kafka.sh");
    }
    // The container is removed when the pipe to its keeper closes, with the test process.
    std::mem::forget(child);
    bootstrap
}

/// Whether the engine that `DOCKER_HOST` names, or the one of this machine, answers a ping.
pub(crate) fn engine_answers(named: Option<&str>) -> bool {
    let named = named.filter(|it| !it.is_empty()).unwrap_or("unix:///var/run/docker.sock");
    if let Some(path) = named.strip_prefix("unix://") {
        let stream = UnixStream::connect(path).ok();
        return stream
            .is_some_and(|it| it.set_read_timeout(Some(PING_WITHIN)).is_ok() && answers_ping(it));
    }
    let Some(place) = named.strip_prefix("tcp://") else { return false };
    let address = place.to_socket_addrs().ok().and_then(|mut it| it.next());
    let stream = address.and_then(|it| TcpStream::connect_timeout(&it, PING_WITHIN).ok());
    stream.is_some_and(|it| it.set_read_timeout(Some(PING_WITHIN)).is_ok() && answers_ping(it))
}

fn answers_ping(mut stream: impl Read + Write) -> bool {
    let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\nhost: docker\r\n\r\n");
    let mut status = String::new();
    let heard = BufReader::new(stream).read_line(&mut status);
    asked.is_ok() && heard.is_ok() && status.split(' ').nth(1) == Some("200")
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
