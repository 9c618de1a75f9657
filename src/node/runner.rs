//! The runner of this machine, in a process of its own.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;

use super::Layout;

/// The same program as a runner, in a process of its own.
pub(super) fn start(layout: &Layout, deployment: &str) -> anyhow::Result<tokio::process::Child> {
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
