//! The gate between a verified request and the host: lease and mode epoch, checked once more
//! under one lock with every start (protocol.md §7).
//!
//! A start is counted from its last check until the host says that its first instruction is
//! done, or the call has returned. A mode epoch is confirmed only when it is on disk and no
//! start is so counted: so with a confirmation, nothing starts afterwards.
//!
//! What remains is stated there too: a runner that is cut off, and paused between check and
//! first instruction beyond its lease, never confirms; whoever waited its lease out and
//! acknowledged the freeze may see it start once.
//!
//! On disk: `mode.json`. Trusted; its loss is a runner that knows no mode and refuses all until
//! it is told one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::refusal::Refusal;
use super::{Clock, Error};
use crate::durable::{self, Steps};
use crate::wire::ModeEpoch;

/// An epoch that is ahead by more is not believed: no deployment changes its mode so often, and
/// believing it would shut the runner for ever.
const JUMP_MAX: u64 = 1 << 32;

#[derive(Debug)]
struct State {
    known: Option<ModeEpoch>,
    n_starting: u32,
}

/// One per runner; shared by the loop and the workers.
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
    state: Mutex<State>,
}

/// What a start needs at the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Mode epoch that the request names.
    pub mode_epoch: u64,
    /// When the lease ends, on the runner's monotone clock.
    pub lease_end: Duration,
    /// Whether the request only goes back to what was good before: such a request may start in
    /// a mode that allows nothing else (spec 50 §11), if it was said under that mode's epoch.
    pub is_rollback: bool,
}

impl Gate {
    /// The gate of the runner in `dir`, with the mode epoch of its former life.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn open(dir: &Path) -> Result<Arc<Self>, Error> {
        let path = dir.join("mode.json");
        let known = durable::read_json(&path)?;
        Ok(Arc::new(Gate { path, state: Mutex::new(State { known, n_starting: 0 }) }))
    }

    /// The mode as it is kept; `None` before the first was told.
    pub fn known(&self) -> Option<ModeEpoch> {
        self.lock().known
    }

    /// Keeps a newer mode, on disk before it is in force, and says whether it was newer.
    ///
    /// # Errors
    /// It cannot be kept; then the runner must end.
    pub fn raise(&self, mode: ModeEpoch) -> Result<bool, Error> {
        let mut state = self.lock();
        let epoch = state.known.map_or(0, |known| known.epoch);
        if mode.epoch <= epoch || JUMP_MAX < mode.epoch - epoch {
            return Ok(false);
        }
        durable::replace_json(&self.path, &mode, &Steps::default())?;
        state.known = Some(mode);
        Ok(true)
    }

    /// The epoch that may be confirmed: none while a start is between check and instruction.
    pub fn confirmable(&self) -> Option<u64> {
        let state = self.lock();
        state.known.filter(|_| state.n_starting == 0).map(|known| known.epoch)
    }

    /// The last check. Whoever passes is counted until [`Start`] is dropped.
    ///
    /// # Errors
    /// The rule; then nothing is started.
    pub fn pass(self: &Arc<Self>, ticket: &Ticket, clock: &dyn Clock) -> Result<Start, Refusal> {
        let mut state = self.lock();
        check_mode(state.known, ticket.mode_epoch, ticket.is_rollback)?;
        // Read under the lock: a time that was read before waiting for it would be too early.
        if ticket.lease_end <= clock.monotone() {
            return Err(Refusal::LeaseEnded);
        }
        state.n_starting += 1;
        Ok(Start(Arc::clone(self)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mode rule, at verification and at the gate. An unknown mode allows nothing.
pub(super) fn check_mode(
    known: Option<ModeEpoch>,
    said: u64,
    is_rollback: bool,
) -> Result<(), Refusal> {
    let known = known.ok_or(Refusal::ModeForbids(None))?;
    if said != known.epoch {
        return Err(Refusal::OtherModeEpoch { said, current: known.epoch });
    }
    if known.mode.allows_action() || is_rollback {
        return Ok(());
    }
    Err(Refusal::ModeForbids(Some(known.mode)))
}

/// A start that has passed its last check. Dropping it says that its first instruction is done
/// or will never be.
#[derive(Debug)]
pub struct Start(Arc<Gate>);

impl Drop for Start {
    fn drop(&mut self) {
        self.0.lock().n_starting -= 1;
    }
}
