//! How a service stands, in the words of the page and of `status`: its colour only while there
//! are samples to hold it up.
//!
//! Detection says when a colour changes; between two changes nothing is said. Whether anything is
//! still measured is known from the samples alone, so silence is shown at once and as such.

use schemas::Ns;
use schemas::event::Health;

use super::{Model, ServiceView};
use crate::words;

/// How a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Past the second threshold.
    Red,
    /// No sample came for so long.
    Silent(Ns),
    /// Past the first threshold.
    Amber,
    /// Judged, and not known.
    Unknown,
    /// Measured and not judged yet.
    Learning,
    /// No runner of its host is registered, so nobody supervises it.
    Unattended,
    /// Nothing was ever measured, or not for as long as samples are looked at.
    Unmeasured,
    /// Within objectives.
    Green,
}

impl Standing {
    /// How `service` stands at `now`.
    pub fn of(model: &Model, service: &ServiceView, now: Ns) -> Self {
        let stale_after = model.profile.as_ref().map_or(30_000, |it| it.stale_after_ms);
        let Some(newest) = service.curve.newest() else {
            let attended = !model.lacks_runner(service);
            return if attended { Standing::Unmeasured } else { Standing::Unattended };
        };
        let silence = now.since(newest);
        if silence > Ns::from_ms(stale_after) {
            return Standing::Silent(silence);
        }
        if service.signals.is_empty() {
            return Standing::Learning;
        }
        match service.health() {
            Health::Green => Standing::Green,
            Health::Amber => Standing::Amber,
            Health::Red => Standing::Red,
            Health::Unknown => Standing::Unknown,
        }
    }

    /// Its mark and words: health is never colour alone.
    pub fn words(self) -> String {
        match self {
            Standing::Red => words::mark(Health::Red).to_owned(),
            Standing::Amber => words::mark(Health::Amber).to_owned(),
            Standing::Green => words::mark(Health::Green).to_owned(),
            Standing::Unknown => words::mark(Health::Unknown).to_owned(),
            Standing::Learning => "… learning".to_owned(),
            Standing::Unattended => "? no runner yet".to_owned(),
            Standing::Unmeasured => "? no data yet".to_owned(),
            Standing::Silent(silence) => format!("? no data for {}", words::span(silence.as_s())),
        }
    }

    /// The colour in which it is shown.
    pub fn health(self) -> Health {
        match self {
            Standing::Red => Health::Red,
            Standing::Amber => Health::Amber,
            Standing::Green => Health::Green,
            Standing::Unknown
            | Standing::Learning
            | Standing::Unattended
            | Standing::Unmeasured
            | Standing::Silent(_) => Health::Unknown,
        }
    }
}
