//! A real registry under a test, and what a person would do with it by hand.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/registry.sh");

/// A registry of a test's own; it ends with it.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    /// Where its API begins.
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bed = dir.path().join("registry");
        let ran = Command::new(SCRIPT)
            .args(["start", "--dir"])
            .arg(&bed)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8(ran.stdout).unwrap();
        let url = said.trim().strip_prefix("REGISTRY=").map(str::to_owned);
        let Some(url) = url.filter(|_| ran.status.success()) else {
            panic!("no registry to test on: {}", String::from_utf8_lossy(&ran.stderr));
        };
        // A test that is killed leaves no registry behind: the pipe closes with its process.
        let after = format!("cat >/dev/null; '{SCRIPT}' stop --dir '{}'", bed.display());
        let guard = Command::new("setsid").args(["sh", "-c", &after]).stdin(Stdio::piped()).spawn();
        std::mem::forget(guard.unwrap().stdin);
        Server { dir, url }
    }

    /// Status and body of a question.
    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let mut answer = agent().get(format!("{}{path}", self.url)).call().unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
    }

    /// Every subject there is, in order.
    pub(crate) fn subjects(&self) -> Vec<String> {
        let (_, body) = self.get("/subjects");
        let mut subjects: Vec<String> = serde_json::from_value(body).unwrap();
        subjects.sort();
        subjects
    }

    /// Registers a schema as somebody else would.
    pub(crate) fn register(&self, subject: &str, schema: &str) {
        let url = format!("{}/subjects/{subject}/versions", self.url);
        let body = json!({ "schema": schema }).to_string();
        let answer = agent().post(url).content_type("application/json").send(body).unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// Gives a subject a rule.
    pub(crate) fn set_level(&self, subject: &str, level: &str) {
        let url = format!("{}/config/{subject}", self.url);
        let body = json!({ "compatibility": level }).to_string();
        let answer = agent().put(url).content_type("application/json").send(body).unwrap();
        assert_eq!(answer.status(), 200);
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

impl Drop for Server {
    fn drop(&mut self) {
        let bed: PathBuf = self.dir.path().join("registry");
        // What is left is removed by the guard.
        let _ = Command::new(SCRIPT).args(["stop", "--dir"]).arg(bed).status();
    }
}
