//! Environments: built offline from signed wheels, tried, flipped, watched, taken back.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use runner::store::{ArtifactKind, ArtifactState, Draft};
use runner::supervisor::{EnvironmentSpec, ServiceSpec};
use schemas::Hash;
use schemas::event::{CheckStatus, RunnerStatus};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::support::{Bench, Release, SHOP, runs, service, wait_for};

/// A wheel made here. Every part of it can be spoilt.
#[derive(Clone)]
struct Wheel {
    files: Vec<(String, Vec<u8>)>,
    record: Option<String>,
    link: Option<&'static str>,
}

impl Wheel {
    /// A package `greeting` that says `text`.
    fn saying(text: &str) -> Self {
        let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec());
        Wheel {
            files: vec![
                file("greeting/__init__.py", &format!("TEXT = {text:?}\n")),
                file("greeting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greeting\n"),
                file("greeting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n"),
            ],
            record: None,
            link: None,
        }
    }

    fn with(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.as_bytes().to_vec()));
        self
    }

    fn true_record(&self) -> String {
        let line = |(path, bytes): &(String, Vec<u8>)| {
            let hash = URL_SAFE_NO_PAD.encode(Hash::of(&[bytes]).0);
            format!("{path},sha256={hash},{}\n", bytes.len())
        };
        let lines: String = self.files.iter().map(line).collect();
        format!("{lines}greeting-1.0.dist-info/RECORD,,\n")
    }

    fn bytes(&self) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default();
        for (path, bytes) in &self.files {
            zip.start_file(path.as_str(), options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        if let Some(target) = self.link {
            zip.add_symlink("greeting/link", target, options).unwrap();
        }
        let record = self.record.clone().unwrap_or_else(|| self.true_record());
        zip.start_file("greeting-1.0.dist-info/RECORD", SimpleFileOptions::default()).unwrap();
        zip.write_all(record.as_bytes()).unwrap();
        zip.finish().unwrap().into_inner()
    }
}

/// Imports an environment of one wheel.
fn environment(bench: &Bench, name: &str, wheel: &[u8]) -> Release {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join(name), wheel).unwrap();
    let reference = format!("local://environments/{SHOP}/1");
    let draft = Draft {
        reference: &reference,
        kind: ArtifactKind::Environment,
        name: SHOP,
        version: "1",
        attributes: BTreeMap::from([("smoke-import".to_owned(), "greeting".to_owned())]),
        dir: from.path(),
    };
    let digest = bench.host().store().import(&draft, &bench.key).unwrap();
    Release { reference, digest }
}

const NAME: &str = "greeting-1.0-py3-none-any.whl";

/// A worker that imports the package and then says so again and again.
fn worker(environment: &Release) -> ServiceSpec {
    let program = "import greeting, pathlib, time\n\
                   while True:\n    pathlib.Path('beat').write_text(greeting.TEXT)\n    \
                   time.sleep(0.02)\n";
    ServiceSpec {
        command: ["{venv}/bin/python", "-c", program].map(str::to_owned).into(),
        probe_url: String::new(),
        heartbeat_file: "beat".to_owned(),
        environment: Some(EnvironmentSpec {
            kind: "venv".to_owned(),
            artifact_ref: environment.reference.clone(),
            digest: environment.digest.to_digest(),
        }),
        ..service()
    }
}

/// A host with a running worker; `None`, with a word, where this machine has no python3 or no
/// sandbox.
fn working() -> Option<(Bench, Release)> {
    let bench = Bench::new();
    if let Some(gap) = bench.host().gaps().first() {
        println!("not run: {gap}");
        return None;
    }
    let artifact = environment(&bench, NAME, &Wheel::saying("hello").bytes());
    bench.host().declare(&worker(&artifact)).unwrap();
    wait_for("the worker's heartbeat", || bench.latest("probe") == Some(1.0));
    wait_for("an intact environment", || bench.latest("env_ok") == Some(1.0));
    Some((bench, artifact))
}

fn current(bench: &Bench) -> PathBuf {
    fs::read_link(bench.home().join("venv_current")).unwrap()
}

/// The module in the environment that is in use.
fn module(bench: &Bench) -> PathBuf {
    let packages = bench.home().join("venv_current/lib");
    let python = fs::read_dir(packages).unwrap().next().unwrap().unwrap();
    python.path().join("site-packages/greeting/__init__.py")
}

#[test]
fn python_offline_flip() {
    let Some((bench, artifact)) = working() else { return };
    let (before, pid) = (current(&bench), bench.live().pid.unwrap());
    fs::write(module(&bench), "raise ImportError('a bad wheel')\n").unwrap();
    wait_for("the drift to be seen", || bench.latest("env_ok") == Some(0.0));
    bench.ask("restart:shop", None);
    wait_for("the failed start to be seen", || bench.latest("start_failed") == Some(1.0));

    let outcome = bench.done("sandbox:env/shop", Some(&artifact));
    assert_eq!(outcome.checks["smoke:import"].status, CheckStatus::Passed);
    assert_eq!(current(&bench), before, "to try it changes nothing");
    bench.done("apply_patch:env/shop", Some(&artifact));
    assert_ne!(current(&bench), before);
    assert!(bench.home().join(before).exists(), "the old environment stays");
    assert!(!runs(pid));
    wait_for("the worker's heartbeat", || bench.latest("probe") == Some(1.0));
    wait_for("an intact environment", || bench.latest("env_ok") == Some(1.0));
    assert_eq!(fs::read_to_string(module(&bench)).unwrap(), "TEXT = \"hello\"\n");
}

#[test]
fn a_request_that_also_restarts_does_so_once() {
    let Some((bench, artifact)) = working() else { return };
    bench.done("sandbox:env/shop", Some(&artifact));
    let pid = bench.live().pid;
    let mut request = bench.request("apply_patch:env/shop", Some(&artifact));
    request.ops.push("restart:shop".to_owned());
    let outcome = bench.carry_out(&request);
    assert_eq!(outcome.status, RunnerStatus::Success, "{}", outcome.explanation);
    assert_eq!(bench.live().pid, pid, "the restart is the next operation");
}

#[test]
fn lockfile_missing_artifact_deferred() {
    let Some((bench, _)) = working() else { return };
    let wheel = Wheel::saying("newer").bytes();
    let newer = environment(&bench, NAME, &wheel);
    bench.host().declare(&worker(&newer)).unwrap();
    let hex = Hash::of(&[&wheel]).to_string();
    let blob = bench.dir.path().join("runner/store/blobs").join(&hex[..2]).join(&hex);
    fs::remove_file(blob).unwrap();
    let before = current(&bench);
    let n_before = fs::read_dir(bench.home().join("env")).unwrap().count();
    for op in ["sandbox:env/shop", "apply_patch:env/shop"] {
        let outcome = bench.ask(op, Some(&newer));
        assert_eq!(outcome.status, RunnerStatus::Failed);
        let text = outcome.explanation;
        assert!(text.starts_with("Deferred, and nothing was installed: greeting-1.0"), "{text}");
        assert!(text.ends_with("promote it from the local mirror first."), "{text}");
    }
    assert_eq!(current(&bench), before);
    assert_eq!(fs::read_dir(bench.home().join("env")).unwrap().count(), n_before);
    assert_eq!(bench.host().store().state(&newer.digest), ArtifactState::Missing);
}

#[test]
fn a_module_that_does_not_import_in_the_sandbox_is_not_applied() {
    let Some((bench, _)) = working() else { return };
    let mut wheel = Wheel::saying("x");
    wheel.files[0].1 = b"import socket, no_such_module\n".to_vec();
    let broken = environment(&bench, NAME, &wheel.bytes());
    bench.host().declare(&worker(&broken)).unwrap();
    let before = current(&bench);
    let outcome = bench.ask("sandbox:env/shop", Some(&broken));
    assert!(outcome.explanation.contains("no_such_module"), "{}", outcome.explanation);
    let outcome = bench.ask("apply_patch:env/shop", Some(&broken));
    assert!(outcome.explanation.contains("has not passed the sandbox"), "{}", outcome.explanation);
    assert_eq!(current(&bench), before);
}

/// C02 for archives, and `partial_install_marks_bad`: signed by a registered key and still not
/// what a wheel may be.
#[test]
fn partial_install_marks_bad() {
    let Some((bench, _)) = working() else { return };
    let good = Wheel::saying("x");
    let record = good.true_record();
    let spoilt = |change: fn(&mut Wheel)| {
        let mut wheel = good.clone();
        change(&mut wheel);
        wheel
    };
    let wheels = [
        ("zip-slip", good.clone().with("../../../../escaped", "x")),
        ("absolute", good.clone().with("/tmp/escaped-by-a-wheel", "x")),
        ("backslash", good.clone().with("..\\escaped", "x")),
        ("scripts", good.clone().with("greeting-1.0.data/scripts/run", "x")),
        ("two homes", good.clone().with("greeting-1.0.data/purelib/greeting/__init__.py", "x")),
        ("link", spoilt(|it| it.link = Some("/etc"))),
        (
            "altered",
            spoilt(|it| {
                it.record = Some(it.true_record());
                it.files[0].1[0] ^= 1;
            }),
        ),
        (
            "longer",
            spoilt(|it| {
                it.record = Some(it.true_record());
                it.files[0].1.push(b'\n');
            }),
        ),
        ("unlisted", Wheel { record: Some(record), ..good.clone().with("more.py", "") }),
        (
            "absent",
            spoilt(|it| {
                it.record = Some(it.true_record());
                it.files.remove(0);
            }),
        ),
        ("no hashes", Wheel { record: Some("greeting/__init__.py,,\n".into()), ..good.clone() }),
    ];
    let before = current(&bench);
    let folders = |bench: &Bench| {
        let mut names: Vec<_> = fs::read_dir(bench.dir.path()).unwrap().flatten().collect();
        names.retain(|it| it.file_name() != "runner");
        names.len()
    };
    for (what, wheel) in wheels {
        let artifact = environment(&bench, NAME, &wheel.bytes());
        bench.host().declare(&worker(&artifact)).unwrap();
        let outcome = bench.ask("sandbox:env/shop", Some(&artifact));
        assert_eq!(outcome.status, RunnerStatus::Failed, "{what}");
        let state = bench.host().store().state(&artifact.digest);
        assert_eq!(state, ArtifactState::Bad, "{what}: {}", outcome.explanation);
        assert_eq!(current(&bench), before, "{what}");
        assert_eq!(folders(&bench), 0, "{what} wrote outside");
        assert!(!PathBuf::from("/tmp/escaped-by-a-wheel").exists());
        // It stays blocked, whatever is asked.
        let again = bench.ask("sandbox:env/shop", Some(&artifact));
        assert!(again.explanation.contains("a person must clear it"), "{}", again.explanation);
    }
    let foreign = environment(&bench, "greeting-1.0-cp27-cp27m-win32.whl", &good.bytes());
    bench.host().declare(&worker(&foreign)).unwrap();
    let outcome = bench.ask("sandbox:env/shop", Some(&foreign));
    assert!(outcome.explanation.contains("is not for Python"), "{}", outcome.explanation);
}

#[test]
fn a_rebuild_killed_at_any_step_leaves_a_whole_environment_in_use() {
    let Some((mut bench, _)) = working() else { return };
    let artifact = environment(&bench, NAME, &Wheel::saying("newer").bytes());
    bench.host().declare(&worker(&artifact)).unwrap();
    bench.done("sandbox:env/shop", Some(&artifact));
    let mut was_new = false;
    for n in 0.. {
        bench.let_pass(n);
        let outcome = bench.ask("apply_patch:env/shop", Some(&artifact));
        bench.open();
        let text = fs::read_to_string(module(&bench)).unwrap();
        assert!(
            text == "TEXT = \"newer\"\n" || (!was_new && text == "TEXT = \"hello\"\n"),
            "{text}"
        );
        was_new |= text.contains("newer");
        if outcome.status == RunnerStatus::Success {
            assert!(n > 8, "only {n} steps were stopped at");
            break;
        }
    }
    wait_for("an intact environment", || bench.latest("env_ok") == Some(1.0));
}
