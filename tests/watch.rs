//! `watch` as a person uses it: what it refuses, what it says of a service that does not come up,
//! and what a second `watch` under the same name does.
//!
//! The services are `sleep` and `false`; what answers for them is a listener of the test.

#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "blackbox/home.rs"]
mod home;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Child;

use home::{HEALWRIGHT, Home, until};
use rustix::process::{Pid, Signal, kill_process};

/// A URL at which every request is answered with 200, until the test ends.
fn answering() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Whoever hangs up early has its answer.
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    url
}

/// A `watch` that runs, with what it says in two files.
struct Watching {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Watching {
    fn start(home: &Home, run: &str, words: &[&str]) -> Self {
        let file = |name: &str| home.path().join(format!("{run}.{name}"));
        let (out, err) = (file("out"), file("err"));
        let mut command = home.command(HEALWRIGHT);
        command.arg("watch").args(words);
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let watching = Watching { child: command.spawn().unwrap(), out, err };
        until("it watches", || watching.err().contains("watching ").then_some(()));
        watching
    }

    fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    fn err(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    /// Ends it as Ctrl-C does; everything that it said on standard error.
    fn stop(mut self) -> String {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.err());
        self.err()
    }
}

/// The process that the runner has recorded, once it has one other than `former`.
fn process_of(home: &Home, name: &str, former: Option<i32>) -> i32 {
    let record = home.data().join("runner/services").join(name).join("green.json");
    until("a process other than the former is recorded", || {
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&record).ok()?).ok()?;
        let pid = i32::try_from(record["process"]["pid"].as_i64()?).ok()?;
        (Some(pid) != former).then_some(pid)
    })
}

/// Whether that process runs this command.
fn runs(pid: i32, command: &str) -> bool {
    let words = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline"));
    let words = String::from_utf8_lossy(&words.unwrap_or_default()).replace('\0', " ");
    words.trim().ends_with(command)
}

#[test]
fn what_could_not_be_started_named_or_braked_is_refused_at_once() {
    let home = Home::new();
    let url = "http://127.0.0.1:1/";
    for (words, said) in [
        (["--start", "nonexistent-cmd x", "--name", "shop"], "no program nonexistent-cmd in PATH"),
        (["--start", "./serve", "--name", "shop"], "no program ./serve"),
        (["--start", "/etc/passwd", "--name", "shop"], "/etc/passwd is not executable"),
        (["--start", "sleep 1", "--name", "../../x"], "not made of plain words"),
        (["--start", "sleep 1", "--budget", "3/0m"], "a window of 0"),
        (["--start", "sleep 1", "--budget", "3/99999999999h"], "more than 365d, the longest"),
        (["--start", "sleep 1", "--budget", "100000/1s"], "this brake can never trip: 100000"),
    ] {
        let words: Vec<&str> = ["watch", "--http", url].into_iter().chain(words).collect();
        let ran = home.run(&words).expect(2);
        assert!(ran.err.contains(said), "{ran:?}");
    }
    assert!(!home.data().exists(), "a refused watch starts nothing");
}

#[test]
fn a_service_that_does_not_run_is_not_said_to_and_whoever_has_its_port_is_suspected() {
    let home = Home::new();
    let url = answering();
    let words = ["--http", &url, "--start", "false", "--name", "shop"];
    let watching = Watching::start(&home, "first", &words);
    let told =
        until("it is told", || Some(watching.out()).filter(|it| it.contains("shop does not run")));
    assert!(told.contains("somebody else has its port"), "{told}");
    assert!(told.contains("shop/green.log"), "{told}");
    let said = watching.stop();
    assert!(said.contains("stopped watching; shop does not run; what it wrote is in"), "{said}");
}

#[test]
fn a_service_that_gives_no_good_answer_is_told_with_what_was_seen() {
    let home = Home::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let words = ["--http", &url, "--start", "sleep 602", "--name", "shop", "--propose-only"];
    let watching = Watching::start(&home, "first", &words);
    let told = until("it is told", || {
        Some(watching.out()).filter(|it| it.contains("no good answer within"))
    });
    assert!(told.contains("shop runs, and http://127.0.0.1:"), "{told}");
    let pid = process_of(&home, "shop", None);
    watching.stop();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_second_watch_starts_the_new_command_and_tells_what_is_new() {
    let home = Home::new();
    let url = answering();
    let start = |run: &str, command: &str| {
        Watching::start(&home, run, &["--http", &url, "--start", command, "--name", "shop"])
    };
    let first = start("first", "sleep 600");
    let old = process_of(&home, "shop", None);
    let story =
        until("it is well", || Some(first.out()).filter(|it| it.contains("shop probe is well")));
    let said = first.stop();
    assert!(said.contains(&format!("shop goes on running (pid {old})")), "{said}");
    assert!(runs(old, "sleep 600"));

    let same = start("same", "sleep 600");
    assert!(!same.err().contains("is ended"), "{}", same.err());
    same.stop();
    assert!(runs(old, "sleep 600"), "the same command goes on");

    let second = start("second", "sleep 601");
    let new = process_of(&home, "shop", Some(old));
    assert!(second.err().contains(&format!("its process {old} is ended")), "{}", second.err());
    assert!(!runs(old, "sleep 600"));
    assert!(runs(new, "sleep 601"));
    for line in story.lines() {
        assert!(!second.out().contains(line), "told again: {line}");
    }
    let said = second.stop();
    assert!(said.contains(&format!("shop goes on running (pid {new})")), "{said}");
    kill_process(Pid::from_raw(new).unwrap(), Signal::KILL).unwrap();
}
