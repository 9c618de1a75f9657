//! The part of this program that runs inside the sandbox: sets limits, runs the command, probes
//! it over the sandbox's own loopback, and prints one line with what it measured.
//!
//! The command's output goes to a file inside, never to our own output, and this process is not
//! dumpable, so the command cannot write a verdict in its place.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use serde::{Deserialize, Serialize};

use crate::supervisor::Target;

/// Variable that carries the plan, as JSON.
pub const PLAN: &str = "HEALWRIGHT_SANDBOX_PLAN";
/// What stands before the verdict on its line.
pub(crate) const MARK: &str = "healwright-verdict ";
/// Where the command's output goes, inside.
const OUTPUT: &str = "/tmp/.output";
/// Bytes of output that the verdict carries.
const TAIL_BYTES: usize = 2048;
/// Address space, file size, open files and processes; the last also counts threads.
const LIMITS: [(Resource, u64); 6] = [
    (Resource::As, 8 << 30),
    (Resource::Fsize, 256 << 20),
    (Resource::Nofile, 1024),
    (Resource::Nproc, 4096),
    (Resource::Cpu, 60),
    (Resource::Core, 0),
];

/// What is run inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Program and arguments.
    pub words: Vec<String>,
    /// Variables beside the sandbox's own.
    pub variables: Vec<(String, String)>,
    /// Folder in which it runs; empty is `/tmp`.
    pub cwd: String,
    /// URL that must answer 2xx; empty: the command must end with 0.
    pub probe_url: String,
    /// Milliseconds for one probe.
    pub probe_timeout_ms: u64,
    /// Milliseconds in which a probe must have passed.
    pub within_ms: u64,
    /// Milliseconds after which all of it ends, whoever watches; set by the sandbox.
    pub limit_ms: u64,
    /// The command is a worker: to live for `within_ms` is to pass.
    pub must_live: bool,
}

/// What was measured inside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// Whether the command could be started.
    pub started: bool,
    /// Its exit code, where it ended by itself.
    pub exit: Option<i32>,
    /// Whether a probe passed.
    pub probed: bool,
    /// Milliseconds from the start until then.
    pub ready_ms: u64,
    /// What was seen, in a few words.
    pub detail: String,
    /// The last of its output.
    pub tail: String,
}

/// Runs the plan in the variable [`PLAN`] and prints the verdict. It is the whole life of the
/// process `healwright sandbox-probe`.
///
/// # Errors
/// There is no plan, or nothing can be printed.
pub fn main() -> std::io::Result<()> {
    let wrong = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, why);
    let json = std::env::var(PLAN).map_err(|_| wrong(format!("{PLAN} is not set")))?;
    let plan: Plan = serde_json::from_str(&json).map_err(|why| wrong(why.to_string()))?;
    let verdict = confine().map_or_else(
        |error| Verdict { detail: format!("limits cannot be set: {error}"), ..Verdict::default() },
        |()| run(&plan),
    );
    let json = serde_json::to_string(&verdict).map_err(|why| wrong(why.to_string()))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{MARK}{json}")?;
    out.flush()
}

fn confine() -> std::io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    for (resource, limit) in LIMITS {
        let now = rustix::process::getrlimit(resource);
        let limit = now.maximum.map_or(limit, |maximum| maximum.min(limit));
        let both = Rlimit { current: Some(limit), maximum: Some(limit) };
        rustix::process::setrlimit(resource, both)?;
    }
    Ok(())
}

fn run(plan: &Plan) -> Verdict {
    let start = Instant::now();
    let mut verdict = Verdict::default();
    let mut child = match spawn(plan) {
        Ok(child) => child,
        Err(error) => {
            verdict.detail = format!("it cannot be started: {error}");
            return verdict;
        }
    };
    verdict.started = true;
    observe(plan, &mut child, start, &mut verdict);
    let _ = child.kill();
    let _ = child.wait();
    let output = fs::read(OUTPUT).unwrap_or_default();
    let tail = &output[output.len().saturating_sub(TAIL_BYTES)..];
    verdict.tail = String::from_utf8_lossy(tail).into_owned();
    verdict
}

fn spawn(plan: &Plan) -> std::io::Result<Child> {
    let missing = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let (program, args) = plan.words.split_first().ok_or_else(missing)?;
    let output = File::create(OUTPUT)?;
    let errors = output.try_clone()?;
    let cwd = if plan.cwd.is_empty() { Path::new("/tmp") } else { Path::new(&plan.cwd) };
    let mut command = Command::new(program);
    command.args(args).env_remove(PLAN).envs(plan.variables.iter().cloned()).current_dir(cwd);
    command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn()
}

/// Watches until it is decided: the command ended, a probe passed, or its time is over.
fn observe(plan: &Plan, child: &mut Child, start: Instant, verdict: &mut Verdict) {
    let within = Duration::from_millis(plan.within_ms);
    let timeout = Duration::from_millis(plan.probe_timeout_ms.max(1));
    let target = Target::parse(&plan.probe_url).ok();
    let waits_for_end = plan.probe_url.is_empty() && !plan.must_live;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            verdict.exit = status.code();
            verdict.detail = format!("it ended with {status}");
            return;
        }
        if let Some(target) = &target {
            let seen = target.probe(timeout);
            verdict.detail = seen.detail;
            if seen.passed {
                verdict.probed = true;
                verdict.ready_ms = start.elapsed().as_millis() as u64;
                return;
            }
        }
        if start.elapsed() >= Duration::from_millis(plan.limit_ms) {
            verdict.detail = "it did not come to an end".to_owned();
            return;
        }
        if !waits_for_end && start.elapsed() >= within {
            if plan.must_live {
                verdict.detail = format!("it ran for {} ms", plan.within_ms);
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
