//! What witnesses say of the owner's heads, and its way into the chain (protocol.md §5, §6).
//!
//! A runner that has verified a head, and has it on disk, answers with a cosignature. It counts
//! only under the key that the chain registers for that host. One cosigned head a minute is
//! journaled, and none is ever the reason for a batch: else each would make the next one due.

use ledger::note::{Algorithm, NoteKey};
use schemas::event::{HeadCosigned, RUNNER_PREFIX};
use schemas::telemetry::Samples;
use schemas::{Kind, Ns};

use super::{Draught, Owner, Stop};
use crate::engine::bookkeeping::{self, COSIGNED, Cosigned};
use crate::engine::{EngineError, fold};

/// Cosigned heads in the journal are at least this far apart (protocol.md §5).
const JOURNALED_EVERY: Ns = Ns::from_s(60);

impl Owner {
    /// Takes the cosignature by the runner of `host` of the head at `size`.
    ///
    /// # Errors
    /// The host has no registered key, or the line is not by it or is about another head.
    pub fn cosigned(&mut self, host: &str, size: u64, line: &str) -> Result<(), EngineError> {
        let name = format!("{RUNNER_PREFIX}{host}");
        let known = self.look("config", |view| topologies::config::host(view, host));
        let known = known.ok_or_else(|| ledger::Error::Unsigned(name.clone()))?;
        let key = NoteKey::new(&name, Algorithm::Cosignature, known.key)?;
        let Some(head) = self.heads.cosigned(size, line, &key)? else { return Ok(()) };
        let own = head.note.lines().first().map(ledger::note::SignatureLine::encode);
        self.cosigned = Some(HeadCosigned {
            size,
            root: head.checkpoint.root.to_string(),
            witness: name,
            cosignature: line.trim_end().to_owned(),
            signature: own.unwrap_or_default().trim_end().to_owned(),
        });
        Ok(())
    }

    /// Adds the newest cosigned head to a batch that is made because something happened.
    pub(super) fn take_cosigned(&mut self, draught: &mut Draught) -> Result<(), Stop> {
        let happens = |kind: Kind| !matches!(kind, Kind::Tick | Kind::HeadCosigned);
        if self.cosigned.is_none() || !draught.drafts.iter().any(|it| happens(it.envelope.kind)) {
            return Ok(());
        }
        let last = self.look(bookkeeping::PROCESSOR.name, |view| view.load::<Cosigned>(COSIGNED));
        let now = fold::last_tick(&self.state);
        if last.is_some_and(|last| now < last.at + JOURNALED_EVERY) {
            return Ok(());
        }
        let Some(cosigned) = self.cosigned.take() else { return Ok(()) };
        let input = self.own(cosigned.into(), self.place.partition.to_string());
        self.fold_into(draught, input, &Samples::default(), None)
    }
}
