//! A host in a folder of its own, a router that remembers, and a service to look after.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runner::durable::Steps;
use runner::error::Error;
use runner::host::{Call, Host as _, Installed, Outcome, Sample};
use runner::linux::{LinuxConfig, LinuxHost};
use runner::proxy::{self, Route, Router, Stats};
use runner::sandbox::Inner;
use runner::store::{ArtifactKind, Draft};
use runner::supervisor::ServiceSpec;
use schemas::event::{Op, Preflight, Rollback, RunnerRequest, RunnerStatus, Sign};
use schemas::signature::KeyPair;
use schemas::{Hash, Uuid};
use tempfile::TempDir;

/// Name of the service under test.
pub(crate) const SHOP: &str = "shop";

/// Keeps every route that was set.
#[derive(Default)]
pub(crate) struct Routes(pub(crate) Mutex<Vec<Route>>);

impl Router for Routes {
    fn set_route(&self, route: &Route) -> Result<Route, proxy::Error> {
        self.0.lock().unwrap().push(route.clone());
        Ok(route.clone())
    }

    fn stats(&self, _: &str, _: u64) -> Result<Stats, proxy::Error> {
        Err(proxy::Error::Refused("the test counts nothing".to_owned()))
    }
}

/// A host and what a test needs around it.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) routes: Arc<Routes>,
    pub(crate) samples: Arc<Mutex<Vec<Sample>>>,
    pub(crate) key: KeyPair,
    fuse: Arc<AtomicUsize>,
    inner: Inner,
    host: Option<LinuxHost>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_inner(inner())
    }

    /// A host on a machine where no sandbox works.
    pub(crate) fn without_sandbox() -> Self {
        Self::with_inner(Inner { program: "/bin/false".into(), args: Vec::new() })
    }

    fn with_inner(inner: Inner) -> Self {
        let mut bench = Bench {
            dir: tempfile::tempdir().unwrap(),
            routes: Arc::default(),
            samples: Arc::default(),
            key: KeyPair::from_seed(&[7; 32]),
            fuse: Arc::new(AtomicUsize::new(usize::MAX)),
            inner,
            host: None,
        };
        bench.open();
        bench
    }

    /// Opens the host; one that was open before is gone, as after a kill of the runner.
    pub(crate) fn open(&mut self) {
        self.host = None;
        self.let_pass(usize::MAX);
        let fuse = Arc::clone(&self.fuse);
        let steps = Steps::watched(move |_| {
            let burn =
                |left: usize| if left == usize::MAX { Some(left) } else { left.checked_sub(1) };
            fuse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, burn).is_ok()
        });
        let samples = Arc::clone(&self.samples);
        let config = LinuxConfig {
            dir: self.dir.path().join("runner"),
            host: "here".to_owned(),
            inner: self.inner.clone(),
            steps,
        };
        let sink = Arc::new(move |new: Vec<Sample>| samples.lock().unwrap().extend(new));
        let host = LinuxHost::open(config, Arc::clone(&self.routes) as Arc<dyn Router>, sink);
        let host = host.unwrap();
        host.store().trust([self.key.public()]);
        self.host = Some(host);
    }

    /// Lets `n` more steps pass; at the next one the work stops and stays stopped.
    pub(crate) fn let_pass(&self, n: usize) {
        self.fuse.store(n, Ordering::Relaxed);
    }

    pub(crate) fn host(&self) -> &LinuxHost {
        self.host.as_ref().unwrap()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("runner/services").join(SHOP)
    }

    /// Imports a release whose file `behaviour` says how the service behaves.
    pub(crate) fn release(&self, version: &str, behaviour: &str) -> Release {
        let from = tempfile::tempdir().unwrap();
        std::fs::write(from.path().join("behaviour"), behaviour).unwrap();
        let reference = format!("local://releases/{SHOP}/{version}");
        let draft = Draft {
            reference: &reference,
            kind: ArtifactKind::Release,
            name: SHOP,
            version,
            attributes: BTreeMap::new(),
            dir: from.path(),
        };
        let digest = self.host().store().import(&draft, &self.key).unwrap();
        Release { reference, digest }
    }

    /// A request with one operation.
    pub(crate) fn request(&self, op: &str, release: Option<&Release>) -> RunnerRequest {
        let reference = release.map(|it| it.reference.clone()).unwrap_or_default();
        RunnerRequest {
            id: Uuid::named("test", &[op.as_bytes()]),
            artifact_ref: reference.clone(),
            ops: vec![op.to_owned()],
            preflight: Preflight { sandbox: false, tests: Vec::new() },
            rollback: Rollback { artifact: reference },
            sign: Sign {
                algo: "ed25519-manifest".to_owned(),
                digest: release.map(|it| it.digest.to_digest()).unwrap_or_default(),
            },
            binding: None,
        }
    }

    /// Does one operation.
    pub(crate) fn ask(&self, op: &str, release: Option<&Release>) -> Outcome {
        self.carry_out(&self.request(op, release))
    }

    pub(crate) fn carry_out(&self, request: &RunnerRequest) -> Outcome {
        let op = Op::parse(&request.ops[0]);
        let deadline = Instant::now() + Duration::from_secs(20);
        let call = Call { request, op: &op, deadline };
        let host = self.host();
        match op.method {
            "apply_patch" => host.apply_patch(&call),
            "restart" => host.restart(&call),
            "rollback" => host.rollback(&call),
            "sandbox" => host.sandbox(&call),
            other => panic!("no operation {other}"),
        }
    }

    /// Does one operation and demands that it is done.
    pub(crate) fn done(&self, op: &str, release: Option<&Release>) -> Outcome {
        let outcome = self.ask(op, release);
        assert_eq!(outcome.status, RunnerStatus::Success, "{op}: {}", outcome.explanation);
        outcome
    }

    /// Writes that `release` passed the sandbox, for tests that are about what comes after.
    pub(crate) fn pretend_passed(&self, releases: &[&Release]) {
        let digests: Vec<String> = releases.iter().map(|it| it.digest.to_digest()).collect();
        let json = serde_json::to_string(&digests).unwrap();
        std::fs::write(self.home().join("preflight.json"), json).unwrap();
    }

    pub(crate) fn installed(&self, slot: &str) -> Installed {
        let all = self.host().inventory().unwrap();
        all.into_iter().find(|it| it.slot == slot).unwrap()
    }

    pub(crate) fn live(&self) -> Installed {
        let all = self.host().inventory().unwrap();
        all.into_iter().find(|it| it.live).unwrap()
    }

    pub(crate) fn route(&self) -> Route {
        self.routes.0.lock().unwrap().last().unwrap().clone()
    }

    /// The newest value of a series of the service.
    pub(crate) fn latest(&self, key: &str) -> Option<f64> {
        let samples = self.samples.lock().unwrap();
        samples.iter().rev().find(|it| it.series.key == key).map(|it| it.value)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.host.is_some() {
            self.open();
        }
        for name in self.host.iter().flat_map(LinuxHost::services).collect::<Vec<_>>() {
            let _ = self.host().retire(&name);
        }
    }
}

/// A release in the store.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) reference: String,
    pub(crate) digest: Hash,
}

/// This program, called so that it serves HTTP on `{port}`.
pub(crate) fn command(behaviour: &str) -> Vec<String> {
    let program = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let name = "support::as_a_service";
    [&program, "--exact", name, "--nocapture", "--test-threads=1", "port={port}", behaviour]
        .map(str::to_owned)
        .into()
}

/// A service that users reach directly.
pub(crate) fn service() -> ServiceSpec {
    ServiceSpec {
        name: SHOP.to_owned(),
        command: command("behaviour=good"),
        probe_url: "http://127.0.0.1:{port}/health".to_owned(),
        probe_every_ms: 20,
        probe_timeout_ms: 1_000,
        ..ServiceSpec::default()
    }
}

/// A service behind the proxy, with a release to begin with.
pub(crate) fn proxied(release: &Release) -> ServiceSpec {
    ServiceSpec {
        proxy: "127.0.0.1:1".to_owned(),
        command: command("file={dir}/behaviour"),
        release: Some(runner::supervisor::ReleaseSpec {
            version: "1".to_owned(),
            digest: release.digest.to_digest(),
            artifact_ref: release.reference.clone(),
        }),
        ..service()
    }
}

/// How this program becomes the inner part of a sandbox.
pub(crate) fn inner() -> Inner {
    let args = ["--exact", "support::as_the_inner_part", "--nocapture", "--test-threads=1"];
    Inner { program: std::env::current_exe().unwrap(), args: args.map(str::to_owned).into() }
}

/// Waits until `condition` holds. A machine under load may take its time; a test that never
/// comes true fails after a minute.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The body that the service on `port` answers with.
pub(crate) fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
}

/// Whether a process with that pid runs, zombies apart.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// As a test it does nothing. Called with `port=…` among the filters it is the service.
#[test]
fn as_a_service() -> Result<(), Error> {
    let argument =
        |name: &str| std::env::args().find_map(|it| it.strip_prefix(name).map(str::to_owned));
    let Some(port) = argument("port=") else { return Ok(()) };
    let behaviour = match argument("file=") {
        Some(path) => std::fs::read_to_string(Path::new(&path)).unwrap(),
        None => argument("behaviour=").unwrap_or_default(),
    };
    let words: Vec<&str> = behaviour.split_whitespace().collect();
    if words.contains(&"broken") {
        eprintln!("cannot import module shop");
        std::process::exit(3);
    }
    if words.contains(&"child") {
        // A child that outlives its parent unless the whole session is ended.
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        std::fs::write("child", child.id().to_string()).unwrap();
        std::thread::spawn(move || child.wait());
    }
    let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut asked = [0; 1024];
        let _ = stream.read(&mut asked);
        let status = if words.contains(&"sick") { 503 } else { 200 };
        let _ = write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n{behaviour}");
    }
    Ok(())
}

/// As a test it does nothing. With a plan in its environment it is the inner part.
#[test]
fn as_the_inner_part() {
    if std::env::var_os(runner::sandbox::inner::PLAN).is_some() {
        runner::sandbox::inner::main().unwrap();
    }
}
