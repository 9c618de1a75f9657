//! Preflight: a release or an environment is tried in the sandbox before it is applied, and
//! what was measured there is the answer.
//!
//! `preflight.json` remembers which digests passed on this host. It is no proof to others, only
//! a second lock: without an entry nothing new is applied here, whatever a request says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use schemas::event::{Check, CheckStatus};

use super::managed::Managed;
use super::{LinuxHost, signed_digest};
use crate::durable::{self, Steps};
use crate::environment;
use crate::error::Error;
use crate::host::{Call, Outcome, sentence};
use crate::sandbox::inner::{Plan, Verdict};
use crate::sandbox::{Policy, Run, TIMEOUT, needs_of};
use crate::store::{ArtifactKind, Verified};
use crate::supervisor::{ServiceSpec, Slot, Words, base_variables, find};

/// Where a candidate listens inside the sandbox, which has a loopback of its own.
const PORT_INSIDE: u16 = 8080;
/// A candidate without a probe passes when it has lived so long.
const LIVES_MS: u64 = 1_000;
/// Left of the deadline for what comes after the run.
const RESERVE: Duration = Duration::from_millis(500);

impl LinuxHost {
    /// `sandbox:<service>`: the release is started inside and probed there.
    pub(super) fn preflight_release(
        &self,
        managed: &Managed,
        call: &Call<'_>,
    ) -> Result<Outcome, Error> {
        let service = managed.service();
        let _operation = service.operate();
        let spec = service.spec();
        let expected = signed_digest(call)?;
        let verified = self.store.open_reference(&call.request.artifact_ref, Some(expected))?;
        if verified.manifest().kind != ArtifactKind::Release {
            return Err(Error::refused("artifact", "it is no release"));
        }
        let digest = expected.to_digest();
        let dir = managed.release_dir(&digest);
        durable::private_dir(&service.dir().join("releases"))?;
        self.store.materialize(&verified, &dir, service.steps())?;
        let mut checks = BTreeMap::from([("manifest".to_owned(), manifest_check(&verified))]);
        let sandbox = match self.sandbox_here() {
            Ok(sandbox) => sandbox,
            Err(gap) => return Ok(without_sandbox(checks, &gap)),
        };
        let venv = environment::current(service.dir())?.map(|it| it.dir);
        let (plan, mut policy) = plan_of(&spec, &dir, venv.as_deref())?;
        policy.timeout = time_left(call);
        let run = sandbox.run(&plan, &policy)?;
        checks.insert("start".to_owned(), start_check(&run));
        checks.insert("smoke:health".to_owned(), health_check(&run, &plan));
        for test in &call.request.preflight.tests {
            checks.entry(test.clone()).or_insert_with(|| unknown_test(test));
        }
        conclude(service.dir(), &digest, checks, &run, service.steps())
    }

    /// `sandbox:env/<service>`: the environment is built beside the one in use, and its modules
    /// are imported inside.
    pub(super) fn preflight_environment(
        &self,
        managed: &Managed,
        call: &Call<'_>,
    ) -> Result<Outcome, Error> {
        let service = managed.service();
        let _operation = service.operate();
        let sandbox = match self.sandbox_here() {
            Ok(sandbox) => sandbox,
            Err(gap) => return Ok(without_sandbox(BTreeMap::new(), &gap)),
        };
        let (verified, generation) = match self.staged_environment(managed, call) {
            Ok(staged) => staged,
            Err(error @ Error::Missing { .. }) => return Ok(deferred(&error)),
            Err(error) => return Err(error),
        };
        let mut checks = BTreeMap::from([("manifest".to_owned(), manifest_check(&verified))]);
        let python = generation.dir.join("bin/python");
        let mut readable = needs_of(&python);
        readable.push(generation.dir);
        let modules = modules_of(&verified)?;
        let imports = if modules.is_empty() { "sys".to_owned() } else { modules.join(", ") };
        let words = ["-I", "-c", &format!("import {imports}")].map(str::to_owned);
        let words = [python.to_string_lossy().into_owned()].into_iter().chain(words).collect();
        let plan = Plan { words, ..Plan::default() };
        let run = sandbox.run(&plan, &Policy { readable, timeout: time_left(call) })?;
        checks.insert("smoke:import".to_owned(), import_check(&run, &imports));
        conclude(service.dir(), &verified.digest().to_digest(), checks, &run, service.steps())
    }
}

/// Refuses a digest that no sandbox run on this host has passed (`no_sandbox_no_apply`).
pub(super) fn must_have_passed(home: &Path, digest: &str) -> Result<(), Error> {
    if passed(home)?.contains(digest) {
        return Ok(());
    }
    let why = "it has not passed the sandbox on this host; nothing is applied without";
    Err(Error::refused(format!("artifact {digest}"), why))
}

/// What a request for something that is not in the store is answered with.
pub(super) fn deferred(error: &Error) -> Outcome {
    Outcome::failed(format!("Deferred, and nothing was installed: {error}."))
}

fn passed(home: &Path) -> Result<BTreeSet<String>, Error> {
    Ok(durable::read_json(&home.join("preflight.json"))?.unwrap_or_default())
}

fn conclude(
    home: &Path,
    digest: &str,
    checks: BTreeMap<String, Check>,
    run: &Run,
    steps: &Steps,
) -> Result<Outcome, Error> {
    let red: Vec<String> = checks
        .iter()
        .filter(|(_, check)| !check.is_green())
        .map(|(name, check)| format!("{name}: {}", check.detail))
        .collect();
    let mut known = passed(home)?;
    let changed =
        if red.is_empty() { known.insert(digest.to_owned()) } else { known.remove(digest) };
    if changed {
        durable::replace_json(&home.join("preflight.json"), &known, steps)?;
    }
    let took = run.duration.as_secs_f64() * 1e3;
    let mut outcome = if red.is_empty() {
        Outcome::success(format!("The sandbox run passed in {took:.0} ms."))
    } else {
        Outcome::failed(sentence(&format!("the sandbox run failed: {}", red.join("; "))))
    };
    outcome.checks = checks;
    Ok(outcome.with("duration_ms", took))
}

fn without_sandbox(mut checks: BTreeMap<String, Check>, gap: &Error) -> Outcome {
    checks.insert("start".to_owned(), check(CheckStatus::Unknown, &gap.to_string(), 0));
    let text = format!("{gap}; what needs a sandbox is refused, restart and rollback go on");
    Outcome { checks, ..Outcome::failed(sentence(&text)) }
}

/// What runs inside, and what it may read.
fn plan_of(spec: &ServiceSpec, dir: &Path, venv: Option<&Path>) -> Result<(Plan, Policy), Error> {
    let port = spec.wants_port().then_some(PORT_INSIDE);
    let words = spec.words(Slot::Blue, &Words { port, dir: Some(dir), venv })?;
    let variables = base_variables();
    let path = variables.get("PATH").map_or("", String::as_str);
    let cwd = if spec.cwd.is_empty() { dir } else { Path::new(&spec.cwd) };
    let program = find(&words[0], cwd, path)?;
    let mut readable: Vec<PathBuf> = needs_of(&program);
    readable.extend(venv.into_iter().flat_map(|venv| needs_of(&venv.join("bin/python"))));
    readable.extend([dir, cwd].into_iter().chain(venv).map(Path::to_path_buf));
    // A word that names a file is a file that the operator lets it use.
    let named = words.iter().map(PathBuf::from).filter(|it| it.is_absolute() && it.is_file());
    readable.extend(named);
    readable.sort();
    readable.dedup();
    let probed = !spec.probe_url.is_empty();
    let within = if probed { spec.start_timeout().as_millis() as u64 } else { LIVES_MS };
    let own = [
        ("HEALWRIGHT_SERVICE".to_owned(), spec.name.clone()),
        ("HEALWRIGHT_SLOT".to_owned(), Slot::Blue.as_str().to_owned()),
    ];
    let plan = Plan {
        words,
        variables: own.into_iter().chain(spec.variables.clone()).collect(),
        cwd: cwd.to_string_lossy().into_owned(),
        probe_url: spec.probe_url.replace("{port}", &PORT_INSIDE.to_string()),
        probe_timeout_ms: spec.probe_timeout().as_millis() as u64,
        within_ms: within,
        must_live: !probed,
        ..Plan::default()
    };
    Ok((plan, Policy { readable, timeout: TIMEOUT }))
}

/// Modules that must import; names only, so that no code comes in through a manifest.
fn modules_of(verified: &Verified) -> Result<Vec<String>, Error> {
    let names = verified.manifest().attributes.get(environment::SMOKE_IMPORT);
    let names = names.map(String::as_str).unwrap_or_default();
    let is_name = |name: &str| {
        let word = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '.';
        !name.is_empty() && name.chars().all(word)
    };
    let modules: Vec<String> =
        names.split(',').map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()).collect();
    match modules.iter().find(|name| !is_name(name)) {
        Some(name) => Err(Error::refused(format!("module {name:?}"), "it is not a plain name")),
        None => Ok(modules),
    }
}

fn manifest_check(verified: &Verified) -> Check {
    let n = verified.manifest().files.len();
    Check::passed(&format!(
        "signature, bill of materials and {n} files verified, signed by {}",
        verified.signer().id()
    ))
}

fn start_check(run: &Run) -> Check {
    match &run.verdict {
        Some(verdict) if verdict.started && verdict.exit.is_none() => {
            check(CheckStatus::Passed, "it started and kept running", verdict.ready_ms)
        }
        Some(verdict) => check(CheckStatus::Failed, &words(verdict), 0),
        None => check(CheckStatus::Failed, &no_verdict(run), 0),
    }
}

fn health_check(run: &Run, plan: &Plan) -> Check {
    match &run.verdict {
        Some(verdict) if verdict.probed => {
            check(CheckStatus::Passed, &verdict.detail, verdict.ready_ms)
        }
        Some(_) if plan.probe_url.is_empty() => {
            Check::not_applicable("the service has no health URL")
        }
        Some(verdict) => check(CheckStatus::Failed, &words(verdict), 0),
        None => check(CheckStatus::Failed, &no_verdict(run), 0),
    }
}

fn import_check(run: &Run, imports: &str) -> Check {
    match &run.verdict {
        Some(verdict) if verdict.exit == Some(0) => {
            let ms = run.duration.as_millis() as u64;
            check(CheckStatus::Passed, &format!("it imports {imports}"), ms)
        }
        Some(verdict) => check(CheckStatus::Failed, &words(verdict), 0),
        None => check(CheckStatus::Failed, &no_verdict(run), 0),
    }
}

fn unknown_test(test: &str) -> Check {
    check(CheckStatus::Unknown, &format!("no test {test} is known on this host"), 0)
}

fn check(status: CheckStatus, detail: &str, duration_ms: u64) -> Check {
    Check { status, detail: detail.to_owned(), duration_ms }
}

fn no_verdict(run: &Run) -> String {
    if run.timed_out {
        return format!("it was killed after {} ms", run.duration.as_millis());
    }
    format!("the sandbox gave no verdict: {}", run.errors.trim())
}

fn words(verdict: &Verdict) -> String {
    let last = verdict.tail.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(
        || verdict.detail.clone(),
        |line| {
            format!("{} ({})", verdict.detail, line.trim().chars().take(200).collect::<String>())
        },
    )
}

fn time_left(call: &Call<'_>) -> Duration {
    call.deadline.saturating_duration_since(Instant::now()).saturating_sub(RESERVE).min(TIMEOUT)
}
