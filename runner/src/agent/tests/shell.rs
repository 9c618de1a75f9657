//! The whole runner on a real socket: conversations that break off, and begin anew.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use schemas::event::{Decision, Mode, Series};
use schemas::{Ns, telemetry::Samples};
use tempfile::TempDir;

use super::bed::{Counting, HOST, Plane, lease, result};
use crate::agent::telemetry::Collector;
use crate::agent::{Error, Identity, Machine, run};
use crate::host::Sample;
use crate::wire::{FromRunner, ModeEpoch, Reader, ToRunner, Welcome, socket, write};

const NORMAL: ModeEpoch = ModeEpoch { epoch: 1, mode: Mode::Normal };

/// A runner on a thread, and the control plane's end of its socket.
struct Running {
    _dir: TempDir,
    listener: UnixListener,
    machine: Arc<Counting>,
    collector: Arc<Collector>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Running {
    fn new(plane: &Plane) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = socket::bind(&path).unwrap();
        let folder = dir.path().join("runner");
        let identity = Identity::open(&folder, HOST, &plane.deployment).unwrap();
        let machine = Arc::new(Counting::default());
        let (collector, stop) = (Arc::new(Collector::default()), Arc::new(AtomicBool::new(false)));
        let thread = {
            let machine: Arc<dyn Machine> = Arc::clone(&machine) as _;
            let (collector, stop) = (Arc::clone(&collector), Arc::clone(&stop));
            thread::spawn(move || run(identity, &path, &machine, &collector, &stop))
        };
        Running { _dir: dir, listener, machine, collector, stop, thread: Some(thread) }
    }

    fn accept(&self) -> Conversation {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut conversation =
            Conversation { reader: Reader::new(stream.try_clone().unwrap()), stream };
        assert!(matches!(conversation.next(), FromRunner::Hello { .. }));
        conversation
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

struct Conversation {
    stream: UnixStream,
    reader: Reader<UnixStream>,
}

impl Conversation {
    fn say(&mut self, message: &ToRunner) {
        write(&mut self.stream, message).unwrap();
    }

    fn next(&mut self) -> FromRunner {
        self.reader.read().unwrap().unwrap()
    }

    /// The first message for which `wanted` holds; those before it are passed over.
    fn until(&mut self, wanted: impl Fn(&FromRunner) -> bool) -> FromRunner {
        loop {
            let message = self.next();
            if wanted(&message) {
                return message;
            }
        }
    }

    fn welcome(&mut self, plane: &Plane) {
        let deployment = plane.deployment.clone();
        let welcome = Welcome { deployment, partition: 0, mode: Some(NORMAL) };
        self.say(&ToRunner::Welcome(welcome));
        self.until(|it| matches!(it, FromRunner::EpochConfirmed { mode_epoch: 1 }));
    }
}

#[test]
fn a_request_is_carried_out_over_conversations_that_break_off() {
    let mut plane = Plane::new(1);
    let service = plane.append("shop", plane.service("shop", HOST));
    let approval = plane.append("p", plane.decision(Decision::Approved));
    let mut request = plane.request(1, &["restart:shop"], approval);
    request.binding.as_mut().unwrap().expires_at = Ns(u64::MAX / 4);
    let request = plane.append(HOST, request);
    let running = Running::new(&plane);

    let mut first = running.accept();
    first.welcome(&plane);
    first.say(&ToRunner::Service { evidence: Box::new(plane.evidence(0, &[service])) });
    first.until(|it| matches!(it, FromRunner::Registered { error: None, .. }));
    let size = plane.tree.size();
    let evidence = Box::new(plane.evidence(size, &[request, approval]));
    first.say(&ToRunner::Dispatch { evidence, mode: NORMAL });
    first.until(|it| matches!(it, FromRunner::Lease { .. }));
    drop(first);

    // The lease is asked for again, and the answer is lost on the way.
    let mut second = running.accept();
    second.welcome(&plane);
    let asked = second.until(|it| matches!(it, FromRunner::Lease { .. }));
    let (request_id, nonce) = lease(&[asked]);
    let remaining_ms = 2_000;
    second.say(&ToRunner::LeaseGrant { request_id, nonce, remaining_ms, mode: NORMAL });
    let lost = second.until(|it| matches!(it, FromRunner::Result { .. }));
    drop(second);

    let mut third = running.accept();
    third.welcome(&plane);
    let said = third.until(|it| matches!(it, FromRunner::Result { .. }));
    assert_eq!(said, lost);
    assert_eq!(result(&[said]).explanation, "Did restart:shop.");
    third.say(&ToRunner::ResultJournaled { request_id, place: String::new() });
    assert_eq!(running.machine.n_calls(), 1);
}

#[test]
fn telemetry_that_was_not_confirmed_comes_again() {
    let plane = Plane::new(1);
    let running = Running::new(&plane);
    let sample = |value: f64| Sample {
        series: Series {
            service: "shop".into(),
            host: HOST.into(),
            key: "probe".into(),
            labels: BTreeMap::new(),
        },
        ts: Ns(1),
        value,
    };
    (running.collector.sink())(vec![sample(1.0)]);
    let is_telemetry = |it: &FromRunner| matches!(it, FromRunner::Telemetry { .. });
    let mut first = running.accept();
    first.welcome(&plane);
    let record = first.until(is_telemetry);
    drop(first);
    let mut second = running.accept();
    second.welcome(&plane);
    assert_eq!(second.until(is_telemetry), record);
    second.say(&ToRunner::TelemetryStored { n: 1 });
    (running.collector.sink())(vec![sample(0.0)]);
    let FromRunner::Telemetry { n, record, dropped } = second.until(is_telemetry) else { panic!() };
    assert_eq!((n, dropped), (2, 0));
    let samples = Samples::decode(&record.0).unwrap();
    assert_eq!(samples.records().next().unwrap().value, [0.0]);
}

#[test]
fn another_deployment_is_told_nothing_and_the_runner_calls_on() {
    let plane = Plane::new(1);
    let running = Running::new(&plane);
    let mut first = running.accept();
    let deployment = Plane::new(2).deployment;
    first.say(&ToRunner::Welcome(Welcome { deployment, partition: 0, mode: Some(NORMAL) }));
    assert!(!matches!(first.reader.read::<FromRunner>(), Ok(Some(_))));
    running.accept().welcome(&plane);
}

#[test]
fn a_control_plane_that_speaks_nonsense_is_left_and_called_again() {
    let plane = Plane::new(1);
    let running = Running::new(&plane);
    let mut first = running.accept();
    write(&mut first.stream, &"nonsense").unwrap();
    assert!(!matches!(first.reader.read::<FromRunner>(), Ok(Some(_))));
    running.accept().welcome(&plane);
}
