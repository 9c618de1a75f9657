//! What one process has: its copy of the chain, the state beside it, how far it reads the topic,
//! and what it takes itself for.
//!
//! A crash takes what is memory: the overlay, office, how far was read beyond the copy, and the
//! state since it was last written. Now and then the machine goes with it, and then the end of
//! the copy, too, down to the written state (`state::kafka` says why that is enough).

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::{Batch, Hash, Head, Skip};
use state::kafka::verdict::contradicts;
use state::{Changes, LogError};

use crate::broken::{Break, Rules};
use crate::topic::Record;

/// State with the position that belongs to it.
#[derive(Clone, Default)]
pub(crate) struct Pairs {
    pub(crate) position: u64,
    pub(crate) pairs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Pairs {
    pub(crate) fn apply(&mut self, changes: &Changes) {
        for (key, value) in changes.pairs() {
            match value {
                Some(value) => self.pairs.insert(key.to_vec(), value.to_vec()),
                None => self.pairs.remove(key),
            };
        }
    }
}

/// A batch of the copy: where it stood, and the chain's end with it.
pub(crate) struct Copied {
    pub(crate) offset: usize,
    pub(crate) record: Arc<Record>,
    head: Head,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Down,
    Standby,
    /// Candidate or owner.
    InOffice,
    /// Stepped down for good: only a broken process does.
    Out,
    /// Stopped, with what it told.
    Halted(String),
}

pub(crate) struct Node {
    pub(crate) role: Role,
    /// Whether it takes itself for assigned.
    pub(crate) is_told: bool,
    /// Nothing of it moves before this step.
    pub(crate) paused_until: u64,
    /// It is gone as soon as it notices.
    pub(crate) is_crashing: bool,
    pub(crate) copy: Vec<Copied>,
    genesis: Head,
    pub(crate) state: Pairs,
    written: Pairs,
    /// Offset of the next record to read.
    pub(crate) next_offset: usize,
    pub(crate) claimed: u64,
    /// The copy's last batch has yet to be read again where it stood.
    is_unproven: bool,
    /// Records that it has read were cut off; its client finds out as it reads on.
    pub(crate) is_beyond: bool,
    pub(crate) fault: Option<LogError>,
    /// Seed of its latest epoch key, and what broken processes keep.
    pub(crate) epoch_seed: [u8; 32],
    pub(crate) kept: Option<Arc<Batch>>,
    pub(crate) memory: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Node {
    pub(crate) fn new(deployment: &str) -> Self {
        Node {
            role: Role::Down,
            is_told: false,
            paused_until: 0,
            is_crashing: false,
            copy: Vec::new(),
            genesis: Head::genesis(deployment, 0),
            state: Pairs::default(),
            written: Pairs::default(),
            next_offset: 0,
            claimed: 0,
            is_unproven: false,
            is_beyond: false,
            fault: None,
            epoch_seed: [0; 32],
            kept: None,
            memory: BTreeMap::new(),
        }
    }

    pub(crate) fn head(&self) -> &Head {
        self.copy.last().map_or(&self.genesis, |it| &it.head)
    }

    pub(crate) fn followed(&self) -> Result<Head, LogError> {
        self.fault.clone().map_or_else(|| Ok(self.head().clone()), Err)
    }

    pub(crate) fn is_halted(&self) -> bool {
        matches!(self.role, Role::Halted(_))
    }

    /// Writes what of the state only memory holds.
    pub(crate) fn flush(&mut self) {
        self.written = self.state.clone();
    }

    pub(crate) fn crash(&mut self, power_is_lost: bool) {
        if !self.is_halted() {
            self.role = Role::Down;
        }
        (self.is_told, self.is_crashing, self.paused_until) = (false, false, 0);
        self.kept = None;
        self.memory.clear();
        self.state = self.written.clone();
        if power_is_lost {
            self.copy.retain(|it| it.head.next_seq <= self.state.position);
        }
    }

    /// Follows from where the copy ends.
    pub(crate) fn start(&mut self, end: usize, broken: Break) {
        self.role = Role::Standby;
        let forgets = broken == Break::ForgetsInARestartWhatItRead;
        let last = self.copy.last().map(|it| it.offset);
        self.next_offset = last.unwrap_or(0);
        self.is_unproven = last.is_some();
        if forgets {
            self.next_offset = last.map_or(0, |last| last + 1).min(end);
            self.is_unproven = false;
        }
        self.claimed = self.head().epoch;
        (self.is_beyond, self.fault) = (false, None);
    }

    /// One record, if there is one: linked or skipped, and heeded. Answers whether it read.
    pub(crate) fn read(
        &mut self,
        records: &[Arc<Record>],
        rules: &mut Rules,
    ) -> Result<bool, LogError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let read = self.read_one(records, rules);
        if let Err(fault) = &read {
            self.fault = Some(fault.clone());
        }
        read
    }

    fn read_one(&mut self, records: &[Arc<Record>], rules: &mut Rules) -> Result<bool, LogError> {
        if rules.broken == Break::ReadsOnAfterTruncation {
            self.next_offset = self.next_offset.min(records.len());
            self.is_beyond = false;
        }
        if self.is_beyond || records.len() < self.next_offset {
            return Err(self.diverged("the broker no longer has what was read"));
        }
        let Some(record) = records.get(self.next_offset) else { return Ok(false) };
        self.next_offset += 1;
        if std::mem::take(&mut self.is_unproven) {
            let same = record.hash == self.head().hash;
            let why = "another record stands where its last batch stood";
            return if same { Ok(true) } else { Err(self.diverged(why)) };
        }
        match rules.admits(self.head(), record) {
            Ok(head) => {
                let offset = self.next_offset - 1;
                self.copy.push(Copied { offset, record: record.clone(), head });
            }
            Err(skip) => self.skip(&record.batch, skip)?,
        }
        self.claimed = self.claimed.max(rules.claimed(self.head(), record));
        Ok(true)
    }

    fn skip(&self, batch: &Batch, skip: Skip) -> Result<(), LogError> {
        let at = |seq| {
            let holds = |it: &&Copied| seq < it.head.next_seq;
            Ok(self.copy.iter().find(holds).map_or_else(Hash::default, |it| it.head.hash))
        };
        match contradicts(self.head(), batch, skip, at)? {
            true => Err(self.diverged("an election names a batch that is not in it")),
            false => Ok(()),
        }
    }

    pub(crate) fn read_to_end(
        &mut self,
        records: &[Arc<Record>],
        rules: &mut Rules,
    ) -> Result<(), LogError> {
        while self.read(records, rules)? {}
        if self.is_unproven {
            let fault = self.diverged("the topic ends before its last batch");
            self.fault = Some(fault.clone());
            return Err(fault);
        }
        Ok(())
    }

    pub(crate) fn diverged(&self, why: &str) -> LogError {
        let Head { next_seq, hash, .. } = self.head().clone();
        LogError::Diverged { next_seq, hash, why: why.to_owned() }
    }
}
