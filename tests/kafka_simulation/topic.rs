//! A topic as a broker keeps it: records land late, in another order than they were sent, twice
//! or never, and its end may be cut off.

use std::sync::Arc;

use schemas::{Batch, Hash};

use crate::seed::Seed;

/// A batch as it is read, with its hash.
pub(crate) struct Record {
    pub(crate) hash: Hash,
    pub(crate) batch: Batch,
}

/// A record on its way.
struct Flight {
    record: Arc<Record>,
    /// It does not land before this step of the world.
    due: u64,
}

/// What became of a record.
pub(crate) enum Fate {
    Landed { offset: usize, record: Arc<Record>, will_again: bool },
    Lost(Arc<Record>),
}

#[derive(Default)]
pub(crate) struct Topic {
    pub(crate) records: Vec<Arc<Record>>,
    flights: Vec<Flight>,
}

impl Topic {
    /// Sends what a reader would decode; late by chance.
    pub(crate) fn send(&mut self, batch: &Batch, due: u64) {
        let batch = Batch::decode(&batch.encode()).expect("an author encodes what decodes");
        let record = Record { hash: batch.hash(), batch };
        self.flights.push(Flight { record: Arc::new(record), due });
    }

    pub(crate) fn is_flying(&self, hash: &Hash) -> bool {
        self.flights.iter().any(|it| it.record.hash == *hash)
    }

    pub(crate) fn any_flying(&self) -> bool {
        !self.flights.is_empty()
    }

    pub(crate) fn has(&self, hash: &Hash) -> bool {
        self.records.iter().any(|it| it.hash == *hash)
    }

    /// Any one record that may land by step `now` lands, or is lost.
    pub(crate) fn decide(&mut self, seed: &mut Seed, now: u64, calm: bool) -> Option<Fate> {
        let due = (0..self.flights.len()).filter(|it| calm || self.flights[*it].due <= now);
        let due: Vec<usize> = due.collect();
        let at = if calm { 0 } else { seed.below(due.len().max(1) as u64) as usize };
        let at = *due.get(at)?;
        if !calm && seed.one_in(8) {
            return Some(Fate::Lost(self.flights.remove(at).record));
        }
        let will_again = !calm && seed.one_in(6);
        let record = if will_again {
            self.flights[at].due = now + seed.below(60);
            self.flights[at].record.clone()
        } else {
            self.flights.remove(at).record
        };
        self.records.push(record.clone());
        Some(Fate::Landed { offset: self.records.len() - 1, record, will_again })
    }

    pub(crate) fn cut(&mut self, to: usize) {
        self.records.truncate(to);
    }
}
