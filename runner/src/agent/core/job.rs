//! Work for a thread: the last check under the gate's lock, then the host.
//!
//! A request's operations are carried out in order until one fails. Each passes the gate by
//! itself, so a freeze that comes between two of them stops the second.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::event::{Op, RunnerStatus};
use schemas::{Ns, Uuid};

use super::super::Clock;
use super::super::gate::{Gate, Ticket};
use super::super::refusal::Refusal;
use super::super::session::Machine;
use super::super::verify::Verified;
use super::Registration;
use crate::host::{Call, Host, Outcome};

/// Work that has not passed the gate yet.
pub struct Job {
    task: Task,
    ticket: Ticket,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
}

enum Task {
    Request(Box<Verified>),
    Registration(Registration),
}

/// What came of a job.
#[derive(Debug)]
pub struct Finished {
    /// The work, done or not.
    pub work: Work,
}

/// Work with what came of it.
#[derive(Debug)]
pub enum Work {
    /// A request.
    Request {
        /// Which one.
        id: Uuid,
        /// After it the request is void.
        expires_at: Ns,
        /// Outcomes in order of the operations; `None` when the host's code panicked and nobody
        /// knows what it did; the rule of the gate that kept it from starting.
        outcome: Result<Option<Vec<Outcome>>, Refusal>,
    },
    /// A service that is to be supervised.
    Registration {
        /// Which one.
        registration: Registration,
        /// Why the host did not take it; the rule of the gate that kept it from starting.
        outcome: Result<Result<(), String>, Refusal>,
    },
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.task {
            Task::Request(it) => write!(f, "Job({} {:?})", it.request.id, it.request.ops),
            Task::Registration(it) => write!(f, "Job({})", it.name),
        }
    }
}

impl Job {
    pub(super) fn request(
        verified: Verified,
        ticket: Ticket,
        gate: Arc<Gate>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Job { task: Task::Request(Box::new(verified)), ticket, gate, clock }
    }

    pub(super) fn registration(
        registration: Registration,
        ticket: Ticket,
        gate: Arc<Gate>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Job { task: Task::Registration(registration), ticket, gate, clock }
    }

    /// Passes the gate and does it. It blocks for as long as the host takes.
    pub fn run(self, machine: &dyn Machine) -> Finished {
        let Job { task, ticket, gate, clock } = self;
        let pass = Pass { ticket, gate, clock };
        let work = match task {
            Task::Request(verified) => {
                let Verified { request, binding } = *verified;
                let deadline = pass.deadline(binding.expires_at);
                let calls = AssertUnwindSafe(|| {
                    pass.operations(&request.ops, |op| {
                        call(machine.host(), &Call { request: &request, op, deadline })
                    })
                });
                let outcome = match catch_unwind(calls) {
                    Ok(outcome) => outcome.map(Some),
                    Err(_) => Ok(None),
                };
                Work::Request { id: request.id, expires_at: binding.expires_at, outcome }
            }
            Task::Registration(registration) => {
                let register = AssertUnwindSafe(|| {
                    let _start = pass.gate.pass(&pass.ticket, &*pass.clock)?;
                    Ok(machine.register(&registration.body))
                });
                let panicked = |_| Ok(Err("the host's code panicked".to_owned()));
                let outcome = catch_unwind(register).unwrap_or_else(panicked);
                Work::Registration { registration, outcome }
            }
        };
        Finished { work }
    }
}

struct Pass {
    ticket: Ticket,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
}

impl Pass {
    /// When a call must have ended: with the request's own expiry.
    fn deadline(&self, expires_at: Ns) -> Instant {
        let now = Instant::now();
        let left = expires_at.since(self.clock.wall()).as_duration();
        now.checked_add(left).unwrap_or(now)
    }

    fn operations(
        &self,
        ops: &[String],
        mut call: impl FnMut(&Op<'_>) -> Outcome,
    ) -> Result<Vec<Outcome>, Refusal> {
        let mut outcomes: Vec<Outcome> = Vec::new();
        for op in ops {
            // The lease is for the start. Later operations follow the mode alone.
            let mut ticket = self.ticket.clone();
            if !outcomes.is_empty() {
                ticket.lease_end = Duration::MAX;
            }
            let outcome = match self.gate.pass(&ticket, &*self.clock) {
                Ok(start) => {
                    let op = Op::parse(op);
                    // A measurement changes nothing, so no confirmation has to wait for it.
                    let _start = op.is_mutating().then_some(start);
                    call(&op)
                }
                Err(refusal) if outcomes.is_empty() => return Err(refusal),
                Err(refusal) => Outcome::failed(format!("Stopped before {op}: {refusal}.")),
            };
            let goes_on = outcome.status == RunnerStatus::Success;
            outcomes.push(outcome);
            if !goes_on {
                break;
            }
        }
        Ok(outcomes)
    }
}

fn call(host: &dyn Host, call: &Call<'_>) -> Outcome {
    match call.op.method {
        "apply_patch" => host.apply_patch(call),
        "restart" => host.restart(call),
        "rollback" => host.rollback(call),
        "sandbox" => host.sandbox(call),
        "metrics" => listed(host.metrics().map(|it| vec![format!("{} samples", it.value.len())])),
        "inventory" => listed(host.inventory().map(|all| {
            let line =
                |it: crate::host::Installed| format!("{} {} {}", it.service, it.slot, it.digest);
            all.into_iter().map(line).collect()
        })),
        "cache_info" => listed(
            host.cache_info().map(|all| all.into_iter().map(|it| format!("{it:?}")).collect()),
        ),
        other => Outcome::failed(format!("No host has a method {other}.")),
    }
}

fn listed(lines: Result<Vec<String>, crate::error::Error>) -> Outcome {
    match lines {
        Ok(lines) => {
            let n = lines.len() as f64;
            Outcome::success(lines.join("; ")).with("n", n)
        }
        Err(error) => error.into(),
    }
}
