//! Which escalations nobody was told of yet, as far as the journal says: a fold over it that is
//! made anew at every start.
//!
//! It lies beside the state and not in it. A key more would give state another digest, and nodes
//! of two versions compare theirs; and no processor decides anything by it.
//!
//! - An escalation waits until its record is *read* in the journal: what was sent may be lost.
//! - A record is an input, [`schemas::event::AnnotationAdded`] by [`AUTHOR`] about the
//!   escalation's place. It is believed as far as whoever may write into the inbox.
//! - An hour is one of the journal's own, and begins anew when somebody takes office: while
//!   nobody is, nobody could have told, and nothing is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use schemas::event::{AnnotationAdded, AnnotationKind};
use schemas::{Actor, ActorKind, Batch, Entry, Event, Kind, Ns, Uuid};

use crate::engine::Input;

/// Who records what became of a message. Persisted: frozen.
pub(super) const AUTHOR: &str = "notify";
/// So long somebody in office tries; then the escalation is given up, which is recorded too.
pub(super) const TRIED_FOR: Ns = Ns::from_s(3600);
/// The pause after the first failure; each one is twice the one before.
const PAUSE_MIN: Ns = Ns::from_s(1);
/// Up to this one: a receiver that comes back is found soon enough, and is not beaten.
const PAUSE_MAX: Ns = Ns::from_s(300);

/// Escalations without a record, by their sequence.
#[derive(Default)]
pub(super) struct Untold {
    waiting: BTreeMap<u64, Waiting>,
    /// Of the newest batch that was read.
    epoch: u64,
    wall: Ns,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Every target took it.
    Told,
    /// One of them did not within [`TRIED_FOR`].
    GivenUp,
}

/// An escalation without a record.
pub(super) struct Waiting {
    pub(super) entry: Entry,
    /// Targets that have taken it.
    pub(super) took: BTreeSet<&'static str>,
    /// The last failure, in words.
    pub(super) failure: String,
    pub(super) outcome: Option<Outcome>,
    since: Ns,
    n_tries: u32,
    due: Ns,
    is_recorded: bool,
}

impl Untold {
    /// Folds the next batch.
    pub(super) fn fold(&mut self, batch: &Batch) {
        let header = &batch.header;
        if self.epoch != header.epoch {
            self.waiting.values_mut().for_each(|it| it.since = header.wall);
        }
        (self.epoch, self.wall) = (header.epoch, header.wall);
        batch.entries.iter().for_each(|entry| self.fold_entry(entry));
    }

    fn fold_entry(&mut self, entry: &Entry) {
        if entry.envelope.kind == Kind::HealEscalated {
            self.waiting.insert(entry.envelope.seq, Waiting::new(entry, self.wall));
        } else if entry.envelope.kind == Kind::AnnotationAdded
            && entry.envelope.actor.id == AUTHOR
            && entry.envelope.actor.kind == ActorKind::System
            && let Ok(Event::AnnotationAdded(it)) = entry.event()
        {
            self.waiting.retain(|_, waiting| waiting.entry.envelope.reference() != it.log_id);
        }
    }

    /// Epoch of the newest batch that was read.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Lets go of what has had its hour. In office it is given up, which is said; elsewhere the
    /// one in office has said so, or has nobody to tell.
    pub(super) fn settle(&mut self, in_office: bool) {
        let wall = self.wall;
        self.waiting.retain(|_, it| {
            let over = TRIED_FOR <= wall.since(it.since);
            let gives_up = over && in_office && it.outcome.is_none();
            if gives_up {
                // Another hour, in which the record must find its way.
                (it.outcome, it.since, it.due) = (Some(Outcome::GivenUp), wall, Ns(0));
            }
            !over || gives_up
        });
    }

    /// What is to be tried now: whoever has waited for fewer tries comes first, so that one
    /// message that is refused again and again holds up none.
    pub(super) fn due(&mut self, now: Ns) -> Option<&mut Waiting> {
        let due = self.waiting.values_mut().filter(|it| !it.is_recorded && it.due <= now);
        due.min_by_key(|it| it.n_tries)
    }

    /// How long until something is due.
    pub(super) fn pause(&self, now: Ns) -> Option<Duration> {
        let open = self.waiting.values().filter(|it| !it.is_recorded);
        open.map(|it| it.due.since(now).as_duration()).min()
    }
}

impl Waiting {
    fn new(entry: &Entry, since: Ns) -> Self {
        Waiting {
            entry: entry.clone(),
            took: BTreeSet::new(),
            failure: String::new(),
            outcome: None,
            since,
            n_tries: 0,
            due: Ns(0),
            is_recorded: false,
        }
    }

    /// Something did not succeed: it is tried again after a pause.
    pub(super) fn try_later(&mut self, now: Ns) {
        let doubled = Ns(PAUSE_MIN.0 << self.n_tries.min(16));
        self.due = now + doubled.min(PAUSE_MAX);
        self.n_tries += 1;
    }

    /// The record is on its way.
    pub(super) fn sent(&mut self) {
        self.is_recorded = true;
    }

    /// What the journal is told.
    pub(super) fn record(&self, outcome: Outcome, now: Ns) -> Input {
        let took: Vec<&str> = self.took.iter().copied().collect();
        let (kind, data) = match outcome {
            Outcome::Told => {
                let data = format!("people were told by {}", took.join(" and "));
                (AnnotationKind::ExplanationNl, data)
            }
            Outcome::GivenUp => {
                let hours = TRIED_FOR.as_s() / 3600.0;
                let data = format!(
                    "given up after {} tries in {hours:.0} h: {}",
                    self.n_tries, self.failure
                );
                (AnnotationKind::Drop, data)
            }
        };
        let log_id = self.entry.envelope.reference();
        let annotation = AnnotationAdded {
            id: Uuid::named("healwright/told/v1", &[log_id.as_bytes(), kind.as_str().as_bytes()]),
            log_id: log_id.clone(),
            kind,
            author: AUTHOR.to_owned(),
            data,
            created_at: now,
        };
        let correlation = self.entry.envelope.correlation.clone();
        Input { correlation, ..Input::new(Actor::system(AUTHOR), log_id, annotation) }
    }
}

#[cfg(test)]
mod tests;
