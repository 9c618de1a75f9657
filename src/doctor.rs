//! `healwright doctor`: what this machine has and lacks, and what that means.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::cli::Form;
use crate::out::Out;
use crate::session::Session;

/// One thing that was looked at.
struct Finding {
    name: &'static str,
    ok: bool,
    what: String,
    /// What is not possible without it, and what to do.
    without: &'static str,
}

/// Looks at everything that some part of the program may need.
///
/// # Errors
/// None at present; a missing part is an answer.
pub fn run(session: &Session, out: Out) -> anyhow::Result<bool> {
    let findings = [
        data_directory(session.data()),
        disk(session.data()),
        node(session),
        sandbox(),
        python(),
        clock(),
        head_record(session),
    ];
    let ok = findings.iter().all(|it| it.ok);
    if out.form == Form::Json {
        let all: Vec<_> = findings
            .iter()
            .map(|it| {
                json!({ "name": it.name, "ok": it.ok, "what": it.what,
                              "without": (!it.ok).then_some(it.without) })
            })
            .collect();
        out.json(&json!({ "schema": "healwright.doctor.v1", "ok": ok, "findings": all }));
        return Ok(ok);
    }
    for it in &findings {
        let mark = if it.ok { "● ok     " } else { "▲ not ok " };
        out.line(&format!("{mark}  {:<14} {}", it.name, it.what));
        if !it.ok {
            out.line(&format!("           {:<14} {}", "", it.without));
        }
    }
    Ok(ok)
}

fn data_directory(data: &Path) -> Finding {
    let exists = data.is_dir();
    let what = if exists { "is there" } else { "is made on first start" };
    Finding {
        name: "data directory",
        ok: true,
        what: format!("{} {what}", data.display()),
        without: "",
    }
}

/// The journal's write-ahead log alone may take this much before it is written into tables.
const DISK_BYTES_MIN: u64 = 256 * 1024 * 1024;

fn disk(data: &Path) -> Finding {
    // Before the first start, where it will be made.
    let there = data.ancestors().find(|it| it.exists()).unwrap_or(data);
    let free = rustix::fs::statvfs(there).map(|it| it.f_bavail.saturating_mul(it.f_frsize));
    let (ok, what) = match free {
        Ok(free) => (free >= DISK_BYTES_MIN, format!("{} MiB free for it", free / 1024 / 1024)),
        Err(error) => (false, format!("its free space cannot be told ({error})")),
    };
    Finding {
        name: "disk",
        ok,
        what,
        without: "a node that cannot write stands still and heals nothing. Make room",
    }
}

fn node(session: &Session) -> Finding {
    let running = session.running();
    let still = running.as_ref().and_then(|it| session.standing_still(it));
    let what = match (&running, &still) {
        (None, _) => "none runs here".to_owned(),
        (Some(it), None) => format!("runs as pid {} at http://{}/", it.pid, it.http),
        (Some(it), Some(why)) => format!("runs as pid {} and stands still: {why}", it.pid),
    };
    Finding {
        name: "node",
        ok: still.is_none(),
        what,
        without: "nothing is healed and no change is journaled while it stands still",
    }
}

fn sandbox() -> Finding {
    let ran = Command::new("bwrap")
        .args(["--unshare-all", "--ro-bind", "/", "/", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let (ok, what) = match ran {
        Ok(status) if status.success() => (true, "bubblewrap runs".to_owned()),
        Ok(status) => (false, format!("bubblewrap is installed and may not run ({status})")),
        Err(_) => (false, "bubblewrap is not installed".to_owned()),
    };
    Finding {
        name: "sandbox",
        ok,
        what,
        without: "releases and environments are refused; restart and rollback go on. Install \
                  bubblewrap, and allow user namespaces",
    }
}

fn python() -> Finding {
    let ran =
        Command::new("python3").args(["-I", "-c", "import venv"]).stderr(Stdio::null()).status();
    Finding {
        name: "python3",
        ok: ran.is_ok_and(|it| it.success()),
        what: "with its module venv".to_owned(),
        without: "environments cannot be rebuilt. Install python3 and python3-venv",
    }
}

fn clock() -> Finding {
    let year_2020 = schemas::Ns::from_s(1_577_836_800);
    let now = crate::engine::wall_now();
    Finding {
        name: "clock",
        ok: now > year_2020,
        what: crate::out::local_time(now),
        without: "times in the audit would be wrong. Set the clock",
    }
}

fn head_record(session: &Session) -> Finding {
    let deployment = std::fs::read_to_string(session.layout().deployment()).unwrap_or_default();
    let path =
        crate::node::head_record_of(session.data(), deployment.trim()).unwrap_or_else(|_| {
            crate::node::head_record_default(deployment.trim(), crate::node::PARTITION)
        });
    let outside = !path.starts_with(session.data());
    let what = match deployment.trim() {
        "" => format!("is made on first start in {}", path.with_file_name("").display()),
        _ => path.display().to_string(),
    };
    Finding {
        name: "head record",
        ok: outside,
        what,
        without: "it lies inside the data directory, so a restored backup would go unnoticed",
    }
}
