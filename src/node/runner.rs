//! The runners of this machine, each in a process of its own: one for each partition that has
//! services here, so that every runner follows one chain.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use runner::agent;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use topologies::config::Service;

use super::Layout;
use super::parts::Parts;

/// A runner may take this long to end.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Starts the runners that `services` need; the first partition's is always there.
pub(super) fn start_all(
    layout: &Layout,
    parts: &Parts,
    services: &[Service],
    deployment: &str,
) -> anyhow::Result<Vec<Child>> {
    let mut numbers = BTreeSet::from([super::PARTITION]);
    numbers.extend(services.iter().map(|it| parts.of_service(&it.name).number));
    // What a former configuration put under care is under care until the journal says otherwise.
    let had_runner = |it: &u32| layout.partition(*it).runner().exists();
    numbers.extend(parts.all().iter().map(|it| it.number).filter(had_runner));
    numbers.into_iter().map(|number| start(&layout.partition(number), deployment)).collect()
}

/// Ends the runner in `dir` that a node has left behind; what it supervises goes on, and the next
/// one adopts it. Its program may be an older one, and nobody else would ever end it.
///
/// # Errors
/// It does not end.
pub(crate) fn end_former(dir: &Path) -> anyhow::Result<()> {
    let since = Instant::now();
    while let Some(pid) = agent::identity::holder(dir).and_then(Pid::from_raw) {
        let signal = if since.elapsed() < STOP_WITHIN { Signal::TERM } else { Signal::KILL };
        if 2 * STOP_WITHIN < since.elapsed() {
            bail!("another runner holds {} and does not end: pid {pid:?}", dir.display());
        }
        // It may have ended by itself; then there is nothing to stop.
        let _ = kill_process(pid, signal);
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Ends them all and waits for it.
pub(super) async fn stop_all(runners: &mut [Child]) {
    for runner in &*runners {
        if let Some(pid) = runner.id().and_then(|id| i32::try_from(id).ok())
            && let Some(pid) = Pid::from_raw(pid)
        {
            // It may have ended by itself; then there is nothing to stop.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    for runner in runners {
        if tokio::time::timeout(STOP_WITHIN, runner.wait()).await.is_err() {
            // What it leaves is adopted by the next one.
            let _ = runner.kill().await;
        }
    }
}

/// The same program as a runner, in a process of its own.
fn start(layout: &Layout, deployment: &str) -> anyhow::Result<Child> {
    end_former(&layout.runner())?;
    let program = std::env::current_exe().context("finding this program")?;
    let log = runner_log(&layout.0)?;
    tokio::process::Command::new(program)
        .arg("runner")
        .arg("--dir")
        .arg(layout.runner())
        .arg("--socket")
        .arg(layout.socket())
        .args(["--deployment", deployment])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("starting the runner")
}

fn runner_log(data: &Path) -> anyhow::Result<std::fs::File> {
    let path = data.join("run").join("runner.log");
    std::fs::File::create(&path).with_context(|| format!("creating {}", path.display()))
}
