//! The thread that watches one service: probes it at its period and hands on what it saw.
//!
//! It measures and reports; it starts, ends and repairs nothing.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use schemas::event::Series;

use super::{Identity, Service, Slot, now};
use crate::host::{Sample, Sink};

/// A log that grows over this while its process runs is cut to nothing.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Which requests reach a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Users'.
    Live,
    /// Copies, or none yet.
    Shadow,
}

/// What the thread asks about the service each time; the answers change with deployments.
pub(crate) trait Standing: Send + Sync {
    /// The slots to probe, the serving one first.
    fn slots(&self, service: &Service) -> Vec<(Slot, Role)>;

    /// Whether the environment is as desired; `None` where the service has none.
    fn environment_ok(&self, service: &Service) -> Option<bool>;
}

/// Watches `service` until it is retired. The thread ends within one period and a probe.
pub(crate) fn watch(
    service: Arc<Service>,
    standing: Arc<dyn Standing>,
    host: String,
    sink: Sink,
) -> std::io::Result<JoinHandle<()>> {
    let name = format!("probe {}", service.spec().name);
    let n_restarts_seen = service.n_restarts.load(Ordering::Relaxed);
    thread::Builder::new().name(name).spawn(move || {
        let mut prober = Prober { service, standing, host, n_restarts_seen };
        while !prober.service.ended.load(Ordering::Acquire) {
            let start = Instant::now();
            sink(prober.measure());
            let period = prober.service.spec().probe_every();
            thread::park_timeout(
                period.saturating_sub(start.elapsed()).max(Duration::from_millis(1)),
            );
        }
    })
}

struct Prober {
    service: Arc<Service>,
    standing: Arc<dyn Standing>,
    host: String,
    n_restarts_seen: u64,
}

impl Prober {
    fn measure(&mut self) -> Vec<Sample> {
        let mut samples = Vec::new();
        let n_restarts = self.service.n_restarts.load(Ordering::Relaxed);
        let restarts = n_restarts - self.n_restarts_seen;
        self.n_restarts_seen = n_restarts;
        let spec = self.service.spec();
        for (slot, role) in self.standing.slots(&self.service) {
            let labels = if spec.is_proxied() { labels(slot, role) } else { BTreeMap::new() };
            let mut say = |key: &str, value: f64| {
                let series = Series {
                    service: spec.name.clone(),
                    host: self.host.clone(),
                    key: key.to_owned(),
                    labels: labels.clone(),
                };
                samples.push(Sample { series, ts: now(), value });
            };
            let record = self.service.slot(slot);
            let alive = record.process.as_ref().is_some_and(Identity::is_alive);
            say("process_up", number(alive));
            say("start_failed", number(!alive && self.service.note_end(slot)));
            if alive {
                say("svc_uptime", now().since(record.started_at).as_s());
            }
            if role == Role::Live {
                say("svc_restarts", restarts as f64);
            }
            if spec.is_probed() {
                let seen = self.service.look(slot, &spec);
                if alive && seen.passed {
                    self.service.note_well(slot);
                }
                say("probe", number(seen.passed));
                say("probe_ms", seen.ms);
            }
            if role == Role::Live
                && let Some(ok) = self.standing.environment_ok(&self.service)
            {
                say("env_ok", number(ok));
            }
            self.bound_log(slot);
        }
        samples
    }

    /// A service that never stops writing must not fill the disk. The file is open for
    /// appending, so its writer goes on at the new end.
    fn bound_log(&self, slot: Slot) {
        let path = self.service.log(slot);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            let cut = fs::OpenOptions::new().write(true).open(&path);
            if let Err(error) = cut.and_then(|file| file.set_len(0)) {
                tracing::warn!(%error, path = %path.display(), "cannot cut a log");
            }
        }
    }
}

fn labels(slot: Slot, role: Role) -> BTreeMap<String, String> {
    let role = match role {
        Role::Live => "live",
        Role::Shadow => "shadow",
    };
    [("slot", slot.as_str()), ("role", role)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn number(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}
