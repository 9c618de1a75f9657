//! An empty home for the real binary: its own HOME, TMPDIR and working folder, gone afterwards.
//!
//! It runs the program as a person does and judges nothing; what the answers must be is said in
//! the tests.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) const HEALWRIGHT: &str = env!("CARGO_BIN_EXE_healwright");

/// An empty home.
pub(crate) struct Home(TempDir);

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; -1 where a signal ended it.
    pub(crate) code: i32,
    /// Its standard output.
    pub(crate) out: String,
    /// Its standard error.
    pub(crate) err: String,
}

impl Ran {
    /// The standard output as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same, of a command that must have this exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

impl Home {
    /// A new one, with a folder for temporary files.
    pub(crate) fn new() -> Self {
        let home = Home(tempfile::tempdir().unwrap());
        std::fs::create_dir(home.tmp()).unwrap();
        home
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where temporary files go.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.path().join("tmp")
    }

    /// The data directory that commands use when none is named.
    pub(crate) fn data(&self) -> PathBuf {
        self.path().join(".local/share/healwright")
    }

    /// `program` in this home.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_remove("HEALWRIGHT_DATA")
            .env_remove("HEALWRIGHT_TOKEN")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_STATE_HOME")
            .env_remove("RUST_LOG")
            .env("HOME", self.path())
            .env("TMPDIR", self.tmp())
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs Healwright to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let mut command = self.command(HEALWRIGHT);
        command.args(words);
        run(command)
    }

    /// Starts a command that ends only when it is told to; returns once a line of its standard
    /// error holds `ready`.
    pub(crate) fn start(&self, words: &[&str], ready: &str) -> Node {
        let mut command = self.command(HEALWRIGHT);
        command.args(words).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains(ready) {
            let n = lines.read_line(&mut said).unwrap();
            assert!(n > 0, "{words:?} ended early: {said}");
        }
        // Drained, so that the program never waits for a reader.
        std::thread::spawn(move || lines.read_to_string(&mut String::new()));
        Node::of(child, said)
    }

    /// A node on the default data directory.
    pub(crate) fn up(&self) -> Node {
        self.start(&["up", "--http", "127.0.0.1:0"], "ready: http://")
    }
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> Ran {
    let ran = command.output().unwrap();
    Ran {
        code: ran.status.code().unwrap_or(-1),
        out: String::from_utf8(ran.stdout).unwrap(),
        err: String::from_utf8(ran.stderr).unwrap(),
    }
}

/// A running command; dropping it ends it as Ctrl-C does, and waits.
pub(crate) struct Node {
    child: Child,
    /// What it said on standard error until it was ready.
    pub(crate) said: String,
}

impl Node {
    /// A command that was started otherwise, and what it has said.
    pub(crate) fn of(child: Child, said: String) -> Self {
        Node { child, said }
    }

    /// Where it answers, as `host:port`.
    pub(crate) fn http(&self) -> &str {
        let (_, rest) = self.said.split_once("ready: http://").expect("it said where it answers");
        rest.split(|it: char| it.is_whitespace() || it == '/').next().unwrap_or_default()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// Command lines of processes that have to do with `place`.
pub(crate) fn processes_of(place: &Path) -> Vec<String> {
    numbered(place).into_iter().map(|(_, words)| words).collect()
}

/// The same, each with its process id.
pub(crate) fn numbered(place: &Path) -> Vec<(i32, String)> {
    let place = place.display().to_string();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        // A process that ends while it is looked at is no process any more.
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let number = process.file_name().to_string_lossy().parse();
        if let (Ok(number), true) = (number, words.contains(&place)) {
            found.push((number, words));
        }
    }
    found
}

/// How long something that a test waits for may take.
const WITHIN: Duration = Duration::from_secs(60);

/// The first answer that is one; `what` says what is waited for.
pub(crate) fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(began.elapsed() < WITHIN, "not within {WITHIN:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
