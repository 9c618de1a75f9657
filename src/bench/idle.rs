//! What a node costs while nothing happens: memory and CPU time of `up` with its runner, and how
//! long a start takes until the node says that it is ready.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{Folder, Measured};
use crate::words;

/// Starts on the same data directory; the first one founds the deployment.
const STARTS: usize = 5;
/// How long the last one is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// Linux counts CPU time in hundredths of a second.
const TICKS_PER_S: f64 = 100.0;

pub(super) fn run() -> anyhow::Result<Measured> {
    let folder = Folder::new("bench-idle")?;
    let mut ready = Vec::new();
    for _ in 1..STARTS {
        ready.push(Node::start(folder.path())?.ready_s);
    }
    let node = Node::start(folder.path())?;
    ready.push(node.ready_s);
    ready.sort_by(f64::total_cmp);
    let pids = [node.pid(), node.runner(folder.path())?];
    let before = cpu_s(&pids)?;
    std::thread::sleep(WATCHED);
    let core = (cpu_s(&pids)? - before) / WATCHED.as_secs_f64();
    let rss_mb = pids.iter().map(|pid| rss_mb(*pid)).sum::<anyhow::Result<f64>>()?;
    let (p50, max) = (ready[ready.len() / 2], ready[ready.len() - 1]);
    let figures = json!({
        "schema": "healwright.bench.idle.v1",
        "rss_mb": rss_mb, "core": core, "ready_p50_s": p50, "ready_max_s": max, "starts": STARTS,
    });
    let lines = vec![
        format!("{rss_mb:.0} MB in memory, `up` and its runner together"),
        format!("{:.2} % of a core while nothing happens", core * 100.0),
        format!(
            "ready {} after the start (median of {STARTS}, at most {})",
            words::span(p50),
            words::span(max)
        ),
    ];
    Ok((figures, lines))
}

/// A node with its runner; it ends when this is dropped.
struct Node {
    child: Child,
    ready_s: f64,
}

impl Node {
    fn start(home: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let began = Instant::now();
        let mut command = Command::new(program);
        // A home of its own: neither data nor head record of whoever measures is touched.
        command.env("HOME", home).env_remove("XDG_STATE_HOME").env_remove("HEALWRIGHT_DATA");
        command.arg("up").arg("--data").arg(home.join("data")).args(["--http", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting a node")?;
        let stderr = child.stderr.take().context("a node says something")?;
        let mut node = Node { child, ready_s: 0.0 };
        let mut lines = BufReader::new(stderr).lines();
        loop {
            match lines.next() {
                Some(line) if line.as_ref().is_ok_and(|it| it.contains("ready: ")) => break,
                Some(_) => {}
                None => bail!("the node ended before it was ready"),
            }
        }
        node.ready_s = began.elapsed().as_secs_f64();
        // Whatever it says later is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(node)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process of its runner, once it holds its folder.
    fn runner(&self, home: &Path) -> anyhow::Result<u32> {
        let dir = home.join("data").join("runner");
        let began = Instant::now();
        while began.elapsed() < WATCHED {
            if let Some(pid) = runner::agent::identity::holder(&dir) {
                return u32::try_from(pid).context("reading the runner's process");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("no runner holds {}", dir.display())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // It may have ended by itself.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.child.wait();
    }
}

fn cpu_s(pids: &[u32]) -> anyhow::Result<f64> {
    let ticks = pids.iter().map(|pid| super::cpu_ticks(*pid)).sum::<anyhow::Result<u64>>()?;
    Ok(ticks as f64 / TICKS_PER_S)
}

fn rss_mb(pid: u32) -> anyhow::Result<f64> {
    super::memory_mb(&format!("/proc/{pid}/status"), "VmRSS:")
}
