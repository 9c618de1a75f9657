//! Real processes that share one system on a cluster, and what they have acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http;

#[path = "depot.rs"]
mod depot;

pub(crate) use depot::describe;

/// A node that is not ready within this time never will be.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// A decision that does not come within this time never will.
const DECIDE_WITHIN: Duration = Duration::from_secs(60);

/// Nodes of one system; they end with it.
pub(crate) struct Fleet {
    home: tempfile::TempDir,
    log: String,
    prefix: String,
    /// What every command runs.
    program: PathBuf,
    /// Further words of every command.
    words: Vec<String>,
    /// The further environment of every command.
    env: Vec<(String, String)>,
    /// What the next node is told about its runner.
    runner: Vec<String>,
    nodes: Vec<Node>,
    acknowledged: BTreeSet<String>,
}

struct Node {
    at: SocketAddr,
    child: Child,
}

impl Fleet {
    /// `n` nodes with empty data directories, ready to take changes.
    pub(crate) fn start(bootstrap: &str, n: usize) -> Self {
        Fleet::start_with(bootstrap, n, &[])
    }

    /// The same, with further words for every command.
    pub(crate) fn start_with(bootstrap: &str, n: usize, words: &[String]) -> Self {
        let mut fleet = Fleet::empty(bootstrap);
        fleet.words = words.to_vec();
        for n in 0..n {
            let node = fleet.spawn(n);
            fleet.nodes.push(node);
        }
        (0..n).for_each(|n| fleet.await_ready(n));
        fleet
    }

    /// The same, of a system with several partitions.
    pub(crate) fn start_partitioned(bootstrap: &str, n: usize, partitions: u64) -> Self {
        let mut fleet = Fleet::empty(bootstrap);
        let file = fleet.home.path().join("hw.toml");
        std::fs::write(&file, format!("[kafka]\npartitions = {partitions}\n")).unwrap();
        fleet.words = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
        for _ in 0..n {
            fleet.add();
        }
        fleet
    }

    /// One node with a runner, under the configuration that `config` makes for its home. Nodes
    /// that are added have neither.
    pub(crate) fn start_with_service(bootstrap: &str, config: impl Fn(&Path) -> String) -> Self {
        let mut fleet = Fleet::empty(bootstrap);
        let file = fleet.home.path().join("hw.toml");
        std::fs::write(&file, config(fleet.home.path())).unwrap();
        fleet.words = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
        fleet.runs_with(&[]);
        fleet.add();
        fleet.runs_with(&["--no-runner"]);
        fleet.forget_words();
        fleet
    }

    /// The folder that everything of it lies in.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The partition that a service's changes are journaled in.
    pub(crate) fn partition_of(&mut self, service: &str) -> usize {
        let place = self.place_of(0, "where", service).unwrap();
        let (partition, _) = place.strip_prefix("immutable:log:").unwrap().split_once('/').unwrap();
        partition.parse().unwrap()
    }

    /// From now on commands and nodes get no further words.
    pub(crate) fn forget_words(&mut self) {
        self.words.clear();
    }

    fn empty(bootstrap: &str) -> Self {
        Fleet {
            home: tempfile::tempdir().unwrap(),
            log: format!("kafka://{bootstrap}"),
            prefix: crate::bed::prefix(),
            program: env!("CARGO_BIN_EXE_healwright").into(),
            words: Vec::new(),
            env: Vec::new(),
            runner: vec!["--no-runner".to_owned()],
            nodes: Vec::new(),
            acknowledged: BTreeSet::new(),
        }
    }

    /// From now on, commands and new nodes take these further words.
    pub(crate) fn speaks(&mut self, words: &[String]) {
        self.words = words.to_vec();
    }

    /// From now on, commands and nodes are those of this program.
    pub(crate) fn runs(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    /// From now on, nodes are started with these words about their runner.
    pub(crate) fn runs_with(&mut self, words: &[&str]) {
        self.runner = words.iter().map(|it| (*it).to_owned()).collect();
    }

    /// Another node, with an empty data directory; answers its number.
    pub(crate) fn add(&mut self) -> usize {
        let n = self.begin();
        self.await_ready(n);
        n
    }

    /// The same, without waiting until it is ready.
    pub(crate) fn begin(&mut self) -> usize {
        let node = self.spawn(self.nodes.len());
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A number that a node shows at `/metrics`.
    pub(crate) fn metric(&self, node: usize, name: &str) -> Option<u64> {
        let answer = http::ask(self.nodes[node].at, "GET", "/metrics", "")?;
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(value.trim().parse().unwrap())
    }

    /// Waits until a node shows a number above `bound`.
    pub(crate) fn await_metric(&self, node: usize, name: &str, bound: u64) -> u64 {
        self.until(DECIDE_WITHIN, &format!("{name} is above {bound}"), || {
            self.metric(node, name).filter(|it| bound < *it)
        })
    }

    /// What a command answers on the cluster and the depot.
    pub(crate) fn answer(&self, words: &[&str]) -> String {
        let ran = self.run(99, words);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    fn command(&self, node: usize) -> Command {
        let mut command = Command::new(&self.program);
        let home = self.home.path();
        command.env("HOME", home).env("XDG_STATE_HOME", home.join("state"));
        command.arg("--data").arg(home.join(format!("data-{node}")));
        command.args(["--log", &self.log, "--topic-prefix", &self.prefix]).args(&self.words);
        describe(&mut command, &self.env);
        command
    }

    /// Runs a command that needs no node.
    pub(crate) fn run(&self, node: usize, words: &[&str]) -> Output {
        self.command(node).args(words).output().unwrap()
    }

    fn spawn(&self, node: usize) -> Node {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.path().join(format!("log-{node}")))
            .unwrap();
        let mut command = self.command(node);
        command.args(["up", "-q", "--http", &at.to_string()]);
        command.args(&self.runner);
        command.env("RUST_LOG", "info,librdkafka=warn");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Node { at, child }
    }

    pub(crate) fn await_ready(&self, node: usize) {
        self.until(READY_WITHIN, "a node becomes ready", || {
            self.ask(node, "GET", "/readyz", "").filter(|(status, _)| *status == 200)
        });
    }

    /// Tries until there is an answer; says what the nodes said when there is none.
    fn until<T>(&self, within: Duration, what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = answer() {
                return answer;
            }
            if began.elapsed() > within {
                panic!("not within {within:?}: {what}\n{}", self.said());
            }
            // The nodes need the processor more than the question does.
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Everything that the nodes have written to their logs.
    pub(crate) fn said(&self) -> String {
        let logs = (0..self.nodes.len()).map(|n| format!("--- node {n}\n{}", self.said_by(n)));
        logs.collect()
    }

    /// What one of them has written.
    pub(crate) fn said_by(&self, node: usize) -> String {
        let path = self.home.path().join(format!("log-{node}"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Status and body of one request; `None` when the node is not there, or goes away.
    pub(crate) fn ask(
        &self,
        node: usize,
        method: &str,
        path: &str,
        body: &str,
    ) -> Option<(u16, Value)> {
        let answer = http::ask(self.nodes[node].at, method, path, body)?;
        let (status, body) = http::parts(&answer)?;
        Some((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
    }

    /// The brokers that all of it speaks to.
    pub(crate) fn bootstrap(&self) -> &str {
        self.log.strip_prefix("kafka://").unwrap()
    }

    /// The whole name of a topic.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Notes changes that were acknowledged by other ways than [`Fleet::change`].
    pub(crate) fn acknowledged(&mut self, ids: impl IntoIterator<Item = String>) {
        self.acknowledged.extend(ids);
    }

    /// Whether a node acknowledges a change at this one try.
    pub(crate) fn acknowledges(&mut self, node: usize, id: &str) -> bool {
        let answer = self.post(node, id, "");
        let acknowledged = answer.is_some_and(|(status, _)| (200..300).contains(&status));
        if acknowledged {
            self.acknowledged.insert(id.to_owned());
        }
        acknowledged
    }

    /// Where a node answers.
    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].at
    }

    /// Status of a freeze that nobody signed, and where the node sends its sender.
    pub(crate) fn freeze_unsigned(&self, node: usize) -> (u16, Option<String>) {
        let body = r#"{"scope":"deployment","command":"freeze","signer_id":"nobody",
                       "reason":"a test","signature":"00","signers":[]}"#;
        let answer = http::ask(self.nodes[node].at, "POST", "/api/incidents/freeze", body).unwrap();
        let to = answer.lines().find_map(|line| line.strip_prefix("location: "));
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), to.map(str::to_owned))
    }

    /// Where a node that is not in office sends a freeze.
    pub(crate) fn redirected(&self, node: usize) -> String {
        self.until(DECIDE_WITHIN, "a node says who is in office", || {
            let (status, to) = self.freeze_unsigned(node);
            assert!(status == 307 || status == 503, "{status}");
            to
        })
    }

    /// What a node answers to a question.
    pub(crate) fn get(&self, node: usize, path: &str) -> Option<Value> {
        self.ask(node, "GET", path, "").map(|(_, body)| body)
    }

    fn post(&self, node: usize, id: &str, query: &str) -> Option<(u16, Value)> {
        self.post_of(node, id, "api", query)
    }

    fn post_of(&self, node: usize, id: &str, of: &str, query: &str) -> Option<(u16, Value)> {
        // A program without regions takes no notice of one.
        let body = format!(
            r#"{{"id":"{id}","service":"{of}","kind":"deploy","version":"1","region":"north"}}"#
        );
        self.ask(node, "POST", &format!("/api/v1/changes{query}"), &body)
    }

    /// Posts a change until `node` acknowledges it.
    pub(crate) fn change(&mut self, node: usize, id: &str) {
        self.change_of(node, id, "api");
    }

    /// The same of a named service.
    pub(crate) fn change_of(&mut self, node: usize, id: &str, service: &str) {
        self.until(DECIDE_WITHIN, &format!("{id} is acknowledged"), || {
            self.post_of(node, id, service, "").filter(|(status, _)| (200..300).contains(status))
        });
        self.acknowledged.insert(id.to_owned());
    }

    /// The place of a change, as `node` tells it.
    pub(crate) fn place(&mut self, node: usize, id: &str) -> Option<String> {
        self.place_of(node, id, "api")
    }

    /// The same of a named service.
    pub(crate) fn place_of(&mut self, node: usize, id: &str, service: &str) -> Option<String> {
        let (_, body) = self.until(DECIDE_WITHIN, &format!("{id} is journaled"), || {
            let answer = self.post_of(node, id, service, "?wait=journaled");
            answer.filter(|(status, _)| *status == 200 || *status == 201)
        });
        self.acknowledged.insert(id.to_owned());
        body["place"].as_str().map(str::to_owned)
    }

    /// Waits until a change that `node` is told stands in the journal.
    pub(crate) fn await_decision(&mut self, node: usize, id: &str) {
        self.place(node, id);
    }

    /// The node in office.
    pub(crate) fn owner(&self) -> usize {
        self.until(DECIDE_WITHIN, "somebody takes office", || {
            (0..self.nodes.len()).find(|node| {
                let answer = self.ask(*node, "GET", "/readyz", "");
                answer.is_some_and(|(_, body)| body["office"] == "here")
            })
        })
    }

    /// Kills a node as a power cut does.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].child.kill().unwrap();
        self.nodes[node].child.wait().unwrap();
    }

    /// Starts a killed node again on its data directory.
    pub(crate) fn restart(&mut self, node: usize) {
        self.nodes[node] = self.spawn(node);
        self.await_ready(node);
    }

    /// Sends a signal to a node.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.nodes[node].child), signal).unwrap();
    }

    /// Waits until everything that was acknowledged stands in the journal.
    pub(crate) fn await_taken(&self) {
        self.until(DECIDE_WITHIN, "everything acknowledged is journaled", || {
            let listed = self.listed();
            let found: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
            self.acknowledged.iter().all(|id| found.contains(id.as_str())).then_some(())
        });
    }

    /// All changes in the journal, read from the cluster alone.
    pub(crate) fn changes(&self) -> Vec<Value> {
        self.events("change.observed.v1")
    }

    /// All events of a type in the journal, read from the cluster alone.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        let ran = self.run(99, &["events", "list", "--topic", kind, "-o", "json"]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let lines = String::from_utf8(ran.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ids of all changes in the journal, in its order.
    pub(crate) fn listed(&self) -> Vec<String> {
        let ids = self.changes();
        ids.iter().map(|it| it["payload"]["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Every acknowledged change stands in the journal, and no change stands there twice.
    pub(crate) fn check(&self) {
        let mut counts = BTreeMap::<String, usize>::new();
        self.listed().into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
        for (id, n) in &counts {
            assert_eq!(*n, 1, "{id} stands {n} times\n{}", self.said());
        }
        for id in &self.acknowledged {
            assert!(counts.contains_key(id), "{id} was acknowledged\n{}", self.said());
        }
    }

    /// What `healwright groups` says, which asks the brokers and no node.
    pub(crate) fn groups(&self) -> Value {
        let ran = self.run(99, &["groups", "-o", "json"]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        serde_json::from_slice(&ran.stdout).unwrap()
    }

    /// The metrics of a node, as text.
    pub(crate) fn metrics(&self, node: usize) -> String {
        let answer = http::ask(self.nodes[node].at, "GET", "/metrics", "").unwrap();
        http::parts(&answer).unwrap().1
    }

    /// Asks a node to stop, and waits for its end.
    pub(crate) fn stop(&mut self, node: usize) -> std::process::ExitStatus {
        self.signal(node, Signal::TERM);
        self.nodes[node].child.wait().unwrap()
    }

    /// Tries until `answer` answers, as long as a decision may take.
    pub(crate) fn eventually<T>(&self, what: &str, answer: impl FnMut() -> Option<T>) -> T {
        self.until(DECIDE_WITHIN, what, answer)
    }

    /// Kafka's own console consumer gets every change that is journaled, once, under
    /// `read_committed`.
    pub(crate) fn check_typed_topic(&self) {
        let changes = self.changes();
        let places = changes.iter().map(|it| it["place"].as_str().unwrap().to_owned());
        let mut journaled: Vec<String> = places.collect();
        journaled.sort();
        self.until(DECIDE_WITHIN, "every change is on its topic", || {
            let mut published = self.consumed("change.observed.v1");
            published.sort();
            assert!(published.is_sorted_by(|a, b| a < b), "twice on the topic: {published:?}");
            (published == journaled).then_some(())
        });
    }

    /// Places of all events of a topic, as the console consumer prints them.
    fn consumed(&self, topic: &str) -> Vec<String> {
        let bootstrap = self.bootstrap();
        let topic = format!("{}{topic}", self.prefix);
        let ran = Command::new(crate::bed::script())
            .args(["tool", "org.apache.kafka.tools.consumer.ConsoleConsumer"])
            .args(["--bootstrap-server", bootstrap, "--topic", &topic, "--from-beginning"])
            .args(["--isolation-level", "read_committed", "--timeout-ms", "4000"])
            .args(["--property", "print.headers=true"])
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&ran.stdout);
        let places = printed.split("ce_place:").skip(1);
        places.map(|it| it.split(',').next().unwrap_or_default().to_owned()).collect()
    }

    /// An export of the journal verifies, and every decision in it derives again.
    pub(crate) fn verify_export(&self) {
        self.verify_export_of(&[]);
    }

    /// The same of the partition that `which` names.
    pub(crate) fn verify_export_of(&self, which: &[&str]) {
        // An export never overwrites another one.
        let mut places = (0..).map(|n| self.home.path().join(format!("bundle-{n}")));
        let bundle = places.find(|it| !it.exists()).unwrap();
        let bundle = bundle.to_str().unwrap();
        let exported = self.run(99, &[&["export", "--to", bundle], which].concat());
        assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
        let verified = self.run(99, &["verify", bundle]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        let replayed = self.run(99, &[&["replay", "-o", "json"], which].concat());
        assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stdout));
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // A node that was killed by the test has ended already.
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
    }
}
