//! What is recorded of a service, for whoever asks beside its runner or when none is there.
//!
//! Reading changes nothing. Only [`Kept::forget`] does, and no runner may supervise the service
//! while it runs; `agent::local::forget` sees to that.

use std::path::{Path, PathBuf};

use super::{GRACE, Identity, ServiceSpec, Slot, SlotRecord, process, read_slot, slot_path};
use crate::durable;
use crate::error::Error;

/// A service without a proxy, as the records in a runner's folder have it.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
    spec: ServiceSpec,
    slot: SlotRecord,
}

impl Kept {
    /// The service of that name in the runner's folder; `None` where it was never declared there.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn read(runner: &Path, name: &str) -> Result<Option<Self>, Error> {
        let folder = ServiceSpec { name: name.to_owned(), ..ServiceSpec::default() }.folder();
        let dir = runner.join("services").join(folder);
        let Some(spec) = durable::read_json(&dir.join("service.json"))? else { return Ok(None) };
        let slot = read_slot(&dir, Slot::Green)?;
        Ok(Some(Kept { dir, spec, slot }))
    }

    /// How it was declared last.
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// Whether a start of it was ever begun.
    pub fn was_started(&self) -> bool {
        self.slot.started_at.0 != 0
    }

    /// Its process, if it runs.
    pub fn process(&self) -> Option<Identity> {
        let begun = Some(&self.slot.instance).filter(|it| !it.is_empty());
        // A runner that was killed may have started it without recording it.
        let found = || begun.and_then(|it| process::find_instance(it));
        self.slot.process.clone().or_else(found).filter(Identity::is_alive)
    }

    /// Port of its last run, where its command has one.
    pub fn port(&self) -> Option<u16> {
        self.slot.port
    }

    /// Where what it writes goes.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", Slot::Green.as_str()))
    }

    /// Ends its process and forgets that it ever ran: the next definition is started as the first
    /// one was. A crash in between leaves a process that has ended, and the next one is not
    /// started by itself.
    pub(crate) fn forget(self) -> Result<(), Error> {
        if let Some(identity) = self.process() {
            let unkillable = |pid| Error::Unkillable { service: self.spec.name.clone(), pid };
            identity.end(GRACE).map_err(unkillable)?;
        }
        durable::remove(&slot_path(&self.dir, Slot::Green));
        durable::sync_dir(&self.dir)
    }
}
