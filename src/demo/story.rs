//! The story as a person sees it: one line for each thing that happens, in plain words, with its
//! measured time. With `-o json` it goes to stderr, and only the result to stdout.

use std::time::Duration;

use super::stage::Stage;
use super::{RATE, heading};
use crate::cli::{self, Form};
use crate::out::Out;

/// Who tells it.
#[derive(Clone, Copy)]
pub(super) struct Story {
    out: Out,
    fast: bool,
    silent: bool,
}

impl Story {
    pub(super) fn new(out: Out, fast: bool) -> Self {
        Story { out, fast, silent: false }
    }

    /// For measurements: nothing is told.
    pub(super) fn silent(out: Out) -> Self {
        Story { out, fast: true, silent: true }
    }

    pub(super) fn heading(&self, n: u32, text: &str) {
        self.raw("");
        self.raw(&heading(self.out, n, text));
    }

    /// One thing that happened.
    pub(super) fn line(&self, text: &str) {
        self.raw(&format!("    {text}"));
    }

    /// One thing that happened, with a figure at its right.
    pub(super) fn figure(&self, text: &str, figure: &str) {
        self.raw(format!("    {text:<44}  {figure}").trim_end());
    }

    pub(super) fn remark(&self, text: &str) {
        self.out.remark(text);
    }

    fn raw(&self, text: &str) {
        if self.silent {
            return;
        }
        match self.out.form {
            Form::Table => self.out.line(text),
            Form::Json => self.out.remark(text),
        }
    }

    /// Time to read.
    pub(super) async fn pause(&self) {
        if !self.fast {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    pub(super) fn opening(&self, stage: &Stage) {
        self.raw("Healwright heals three real faults, refuses a fourth, and proves what it did.");
        self.raw(&format!(
            "A shop and a worker run on this machine; {RATE} requests/s go through the proxy."
        ));
        self.raw(&format!("Watch along: http://{}/", stage.address()));
        for gap in stage.gaps() {
            self.raw(&format!("  ? {gap}"));
        }
    }

    pub(super) fn closing(&self, stage: &Stage, args: &cli::Demo) {
        self.raw("");
        self.raw("Heal a service of your own:");
        self.raw("  healwright watch --http http://127.0.0.1:8000/ \\");
        self.raw("      --start \"python3 -m http.server 8000\" --budget 3/10m");
        self.raw("  healwright incident list");
        self.raw("  healwright verify");
        match &args.keep {
            Some(dir) => {
                let data = dir.join("data");
                self.raw(&format!("The timeline: healwright up --data {}", data.display()));
                self.raw(&format!("  and then http://{}/", crate::config::LISTEN_DEFAULT));
            }
            None => self.raw(&format!(
                "The timeline was at http://{}/ and goes with the demo; --keep DIR keeps it",
                stage.address()
            )),
        }
    }
}
