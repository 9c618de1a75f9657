//! Restricted execution: no network, a read-only view of what is needed, limits, an end.
//!
//! The sandbox measures; it never returns assumed values. Where the machine has none, what
//! needs one is refused with the reason, and there is no run outside it (spec 60 §13).
//!
//! bubblewrap gives the namespaces. Inside runs first this program's own inner part
//! ([`inner::main`]), which sets the limits, runs the command with its output apart, and gives a
//! verdict that the command cannot write. Limits are those of a process (rlimits), not of a
//! control group: memory is bounded per process.

pub mod inner;

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::supervisor::{base_variables, find, kill_with_children};

use inner::{MARK, PLAN, Plan, Verdict};

/// Name of the only kind there is.
pub const BUBBLEWRAP: &str = "bubblewrap";
/// A run is killed after this, and says so (spec 60 §13).
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// The inner part ends by itself so long after it should have been killed, in case that whoever
/// should kill it is gone.
const OVER: Duration = Duration::from_secs(2);
/// Bytes of output that are kept.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// The user inside, whoever runs it outside.
const NOBODY: &str = "65534";

/// How this program is called so that it becomes the inner part.
#[derive(Clone, Debug)]
pub struct Inner {
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments, `sandbox-probe` for one.
    pub args: Vec<String>,
}

/// A sandbox that was tried and works.
#[derive(Clone, Debug)]
pub struct Sandbox {
    bwrap: PathBuf,
    inner: Inner,
}

/// What one run may see and how long it may take.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Files and folders that it may read, at the same path inside.
    pub readable: Vec<PathBuf>,
    /// When it is killed.
    pub timeout: Duration,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// What the inner part measured; `None` where it gave no verdict.
    pub verdict: Option<Verdict>,
    /// Whether it was killed for its time.
    pub timed_out: bool,
    /// How long it took.
    pub duration: Duration,
    /// What the sandbox itself said.
    pub errors: String,
}

impl Sandbox {
    /// Finds bubblewrap and tries it once for real: it may be installed and forbidden.
    ///
    /// # Errors
    /// [`Error::CapabilityGap`] with the reason.
    pub fn detect(inner: Inner) -> Result<Self, Error> {
        let variables = base_variables();
        let path = variables.get("PATH").map_or("", String::as_str);
        Self::detect_at(find("bwrap", Path::new("/"), path).ok(), inner)
    }

    fn detect_at(bwrap: Option<PathBuf>, inner: Inner) -> Result<Self, Error> {
        let gap = |why: &str| Error::CapabilityGap(format!("no sandbox: {why}"));
        let bwrap = bwrap.ok_or_else(|| gap("bubblewrap (bwrap) is not installed"))?;
        let sandbox = Sandbox { bwrap, inner };
        let plan = Plan { words: vec!["/bin/true".to_owned()], ..Plan::default() };
        let policy = Policy { readable: Vec::new(), timeout: Duration::from_secs(5) };
        let run = sandbox.run(&plan, &policy)?;
        match run.verdict {
            Some(verdict) if verdict.exit == Some(0) => Ok(sandbox),
            Some(_) | None if run.timed_out => Err(gap("bwrap did not come to an end")),
            Some(verdict) => Err(gap(&verdict.detail)),
            None if run.errors.is_empty() => Err(gap("bwrap gave no answer")),
            None => Err(gap(&format!("bwrap does not work here: {}", run.errors.trim()))),
        }
    }

    /// Runs `plan` under `policy`. A command that fails is a result, not an error.
    ///
    /// # Errors
    /// [`Error::Io`] where bubblewrap cannot be started.
    pub fn run(&self, plan: &Plan, policy: &Policy) -> Result<Run, Error> {
        let start = Instant::now();
        let mut command = Command::new(&self.bwrap);
        command.args(self.arguments(plan, policy)?).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::io("start", &self.bwrap))?;
        let (output, errors) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let status = wait(&mut child, start + policy.timeout.min(TIMEOUT));
        let join = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
        let (output, errors) = (join(output), join(errors));
        let verdict = output.lines().rev().find_map(|line| line.strip_prefix(MARK));
        Ok(Run {
            verdict: verdict.and_then(|json| serde_json::from_str(json).ok()),
            timed_out: status.is_none(),
            duration: start.elapsed(),
            errors,
        })
    }

    fn arguments(&self, plan: &Plan, policy: &Policy) -> Result<Vec<OsString>, Error> {
        let limit = policy.timeout.min(TIMEOUT) + OVER;
        let plan = Plan { limit_ms: limit.as_millis() as u64, ..plan.clone() };
        let json = serde_json::to_string(&plan)
            .map_err(|why| Error::refused("sandbox plan", why.to_string()))?;
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        add(&["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]);
        add(&["--cap-drop", "ALL", "--uid", NOBODY, "--gid", NOBODY, "--hostname", "sandbox"]);
        add(&["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]);
        add(&["--tmpfs", "/tmp", "--dir", "/etc", "--chdir", "/tmp"]);
        for folder in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            match fs::read_link(folder) {
                Ok(target) => add(&["--symlink", &target.to_string_lossy(), folder]),
                Err(_) => add(&["--ro-bind-try", folder, folder]),
            }
        }
        for file in ["/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime"] {
            add(&["--ro-bind-try", file, file]);
        }
        for (key, value) in base_variables() {
            let value = if key == "HOME" { "/tmp" } else { value.as_str() };
            add(&["--setenv", &key, value]);
        }
        add(&["--setenv", PLAN, &json]);
        for path in policy.readable.iter().chain([&self.inner.program]) {
            args.extend(["--ro-bind".into(), path.into(), path.into()]);
        }
        // Nobody inside is the runner's user outside. Where that is root, files such as
        // /proc/sys/kernel/core_pattern are its own and no capability is asked for: only a
        // read-only mount keeps them. The root is a file system in memory, put up above.
        args.extend(["--remount-ro", "/proc", "--remount-ro", "/", "--"].map(OsString::from));
        args.push(OsString::from(&self.inner.program));
        args.extend(self.inner.args.iter().map(OsString::from));
        Ok(args)
    }
}

/// The files that a program needs besides `/usr`: itself, and the folder tree that it was
/// installed in where that is one (`…/bin/program`).
pub(crate) fn needs_of(program: &Path) -> Vec<PathBuf> {
    let Ok(real) = fs::canonicalize(program) else { return Vec::new() };
    if ["/usr", "/bin", "/lib"].iter().any(|system| real.starts_with(system)) {
        return Vec::new();
    }
    let tree = real.parent().filter(|it| it.ends_with("bin")).and_then(Path::parent);
    vec![tree.map_or_else(|| real.clone(), Path::to_path_buf)]
}

/// Waits for the end, or kills at the deadline. Everything inside dies with its first process.
fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            // The first process inside is a child of bubblewrap's, and --die-with-parent does
            // not hold before it is set up: killing bubblewrap alone could leave it behind.
            kill_with_children(child.id());
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Reads to the end on a thread of its own and keeps the beginning, so a run that writes
/// without end neither blocks nor fills memory.
fn drain(source: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let Some(mut source) = source else { return String::new() };
        let mut kept = Vec::new();
        let _ = source.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut kept);
        let _ = std::io::copy(&mut source, &mut std::io::sink());
        String::from_utf8_lossy(&kept).into_owned()
    })
}
