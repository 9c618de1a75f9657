//! Processes by identity: started in a session of their own, found again after a restart of the
//! runner, ended with everything they started.
//!
//! A pid alone names nobody: the kernel hands it out again. The identity is boot, pid and start
//! time, and no signal is sent before all three hold.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Path of the program that makes a session of its own before it executes the command.
const SETSID: &str = "/usr/bin/setsid";
/// Variable that marks a process as started by us, so that one is found whose start was not
/// recorded any more.
pub(crate) const INSTANCE: &str = "HEALWRIGHT_INSTANCE";
/// How often a condition on processes is looked at while waiting for it.
pub(crate) const LOOK: Duration = Duration::from_millis(2);
/// After SIGKILL only a process in an uninterruptible call is still there.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its pid, which is also its session and process group.
    pub pid: u32,
    /// Start time in clock ticks after boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
    /// The boot in which both hold.
    pub boot_id: String,
}

/// What is started.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// Program and arguments.
    pub(crate) words: &'a [String],
    /// Folder in which it runs.
    pub(crate) cwd: &'a Path,
    /// All of its environment.
    pub(crate) variables: &'a BTreeMap<String, String>,
    /// Where its output goes.
    pub(crate) log: &'a Path,
}

struct Stat {
    state: char,
    parent: u32,
    session: u32,
    start_ticks: u64,
}

impl Identity {
    /// The process `pid`, if it is there now and no zombie.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = stat(pid).filter(Stat::runs)?;
        Some(Identity { pid, start_ticks: stat.start_ticks, boot_id: boot_id() })
    }

    /// Whether this very process still runs. Reaps it where it is a child of ours that ended.
    pub fn is_alive(&self) -> bool {
        self.reap();
        self.stat().is_some_and(|stat| stat.runs())
    }

    /// Whether it is stopped by a signal, so that a polite request cannot be heard.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stat().is_some_and(|stat| stat.state == 'T')
    }

    /// Ends the process and everything in its session: SIGTERM, then SIGKILL after `grace`.
    ///
    /// Returns the pid of a process that is still there, which only a process in an
    /// uninterruptible call can be.
    pub(crate) fn end(&self, grace: Duration) -> Result<(), u32> {
        if !self.is_stopped() {
            self.signal(Signal::TERM);
            if self.wait_gone(grace).is_ok() {
                return Ok(());
            }
        }
        self.signal(Signal::KILL);
        self.wait_gone(KILL_PATIENCE)
    }

    fn wait_gone(&self, patience: Duration) -> Result<(), u32> {
        let start = Instant::now();
        loop {
            self.reap();
            let Some(first) = self.members().first().copied() else { return Ok(()) };
            if start.elapsed() >= patience {
                return Err(first);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Signals every process of the session. The session id cannot be given to anybody else
    /// while one of them is there.
    fn signal(&self, signal: Signal) {
        for member in self.members() {
            if let Some(pid) = pid_of(member) {
                // One that ended in between is what is wanted.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    /// Every process that runs in its session, itself included.
    fn members(&self) -> Vec<u32> {
        if boot_id() != self.boot_id {
            return Vec::new();
        }
        // Another process with its pid: the session is over and its number given away.
        if stat(self.pid).is_some_and(|stat| stat.start_ticks != self.start_ticks) {
            return Vec::new();
        }
        let is_member = |pid: &u32| {
            stat(*pid).is_some_and(|stat| {
                let ours = stat.session == self.pid && stat.start_ticks >= self.start_ticks;
                stat.runs() && (ours || *pid == self.pid)
            })
        };
        pids().filter(is_member).collect()
    }

    fn stat(&self) -> Option<Stat> {
        let stat = stat(self.pid)?;
        (stat.start_ticks == self.start_ticks && boot_id() == self.boot_id).then_some(stat)
    }

    fn reap(&self) {
        // Not a child of ours: whoever adopted it reaps it, and until then it shows as a zombie.
        let _ = rustix::process::waitpid(pid_of(self.pid), WaitOptions::NOHANG);
    }
}

impl Stat {
    fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// Starts a process in a session of its own. Its end is taken by [`Identity::is_alive`].
pub(crate) fn spawn(launch: &Launch<'_>) -> Result<Identity, Error> {
    let path = launch.variables.get("PATH").map_or("", String::as_str);
    let program = find(&launch.words[0], launch.cwd, path)?;
    let log = rotated(launch.log)?;
    let errors = log.try_clone().map_err(Error::io("open", launch.log))?;
    let mut command = if Path::new(SETSID).is_file() {
        let mut command = Command::new(SETSID);
        command.arg("--").arg(&program);
        command
    } else {
        let mut command = Command::new(&program);
        command.process_group(0);
        command
    };
    command.args(&launch.words[1..]).env_clear().envs(launch.variables).current_dir(launch.cwd);
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    let child = command.spawn().map_err(Error::io("start", &program))?;
    let pid = child.id();
    let start_ticks = stat(pid).map_or(0, |stat| stat.start_ticks);
    Ok(Identity { pid, start_ticks, boot_id: boot_id() })
}

/// The session leader whose environment carries `instance`, where one runs.
pub(crate) fn find_instance(instance: &str) -> Option<Identity> {
    let mark = format!("{INSTANCE}={instance}");
    let carries = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|it| *it == 0).any(|it| it == mark.as_bytes())
    };
    let leads = |pid: &u32| stat(*pid).is_some_and(|stat| stat.session == *pid && stat.runs());
    pids().filter(leads).find(carries).and_then(Identity::of)
}

/// Kills `pid`, a child of ours that is not reaped yet, and its children with it. It is stopped
/// first, so that it cannot have another one after they were listed.
pub(crate) fn kill_with_children(pid: u32) {
    let send = |pid: u32, signal: Signal| {
        // One that ended in between is what is wanted.
        let _ = pid_of(pid).map(|pid| rustix::process::kill_process(pid, signal));
    };
    send(pid, Signal::STOP);
    let start = Instant::now();
    while stat(pid).is_some_and(|it| it.runs() && it.state != 'T')
        && start.elapsed() < KILL_PATIENCE
    {
        std::thread::sleep(LOOK);
    }
    for child in pids().filter(|child| stat(*child).is_some_and(|it| it.parent == pid)) {
        send(child, Signal::KILL);
    }
    send(pid, Signal::KILL);
}

/// The file of a program, found as a shell would find it.
pub(crate) fn find(program: &str, cwd: &Path, path: &str) -> Result<PathBuf, Error> {
    let is_program = |candidate: &PathBuf| {
        candidate.is_file() && rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok()
    };
    let found = if program.contains('/') {
        Some(cwd.join(program)).filter(is_program)
    } else {
        path.split(':').map(|folder| Path::new(folder).join(program)).find(is_program)
    };
    found
        .ok_or_else(|| Error::refused(format!("program {program:?}"), "it cannot be executed here"))
}

/// The log of a new run; the run before is kept beside it.
fn rotated(path: &Path) -> Result<File, Error> {
    if path.exists() {
        let old = path.with_extension("log.1");
        fs::rename(path, &old).map_err(Error::io("rotate", path))?;
    }
    File::options().create(true).append(true).open(path).map_err(Error::io("open", path))
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything, so fields count from the last one.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

fn boot_id() -> String {
    static BOOT_ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    BOOT_ID.get_or_init(|| read().trim_end().to_owned()).clone()
}
