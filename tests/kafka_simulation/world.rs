//! The cluster and everything on it, from one seed: a journal topic, streams, processes, a group
//! that changes its mind, clients that retry, and what was told to whom.
//!
//! Nothing here runs by itself. While a process waits for its append, the others go on inside
//! that wait (`log.rs`), so several are in the middle of their cycles at once without a thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use healwright::engine::Input;
use healwright::engine::bookkeeping::client_id;
use schemas::link::election;
use schemas::{Batch, Cause, Hash, Ns, Stream};
use state::LogError;

use crate::broken::{Break, Rules};
use crate::clients::Clients;
use crate::node::{Node, Role};
use crate::seed::Seed;
use crate::topic::{Fate, Record, Topic};

pub(crate) const N_NODES: usize = 3;
const START: Ns = Ns(1_772_445_600_000_000_000);

/// How bad the weather was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) appended: u32,
    pub(crate) elections: u32,
    pub(crate) crashes: u32,
    pub(crate) lost: u32,
    pub(crate) late: u32,
    pub(crate) doubled: u32,
    pub(crate) skipped: u32,
    pub(crate) yields: u32,
    pub(crate) superseded: u32,
    pub(crate) rotations: u32,
    pub(crate) pauses: u32,
    pub(crate) cuts: u32,
    pub(crate) cuts_found: u32,
}

impl Weather {
    pub(crate) fn add(&mut self, other: &Weather) {
        self.appended += other.appended;
        self.elections += other.elections;
        self.crashes += other.crashes;
        self.lost += other.lost;
        self.late += other.late;
        self.doubled += other.doubled;
        self.skipped += other.skipped;
        self.yields += other.yields;
        self.superseded += other.superseded;
        self.rotations += other.rotations;
        self.pauses += other.pauses;
        self.cuts += other.cuts;
        self.cuts_found += other.cuts_found;
    }
}

pub(crate) struct World {
    pub(crate) seed: Seed,
    pub(crate) rules: Rules,
    /// How often something was left to fate: the world's only clock …
    pub(crate) step: u64,
    /// … and the one on the wall, which each process reads with an error of its own.
    pub(crate) now: Ns,
    pub(crate) topic: Topic,
    pub(crate) streams: BTreeMap<Stream, Vec<Vec<u8>>>,
    pub(crate) nodes: Vec<Node>,
    /// Whom the group has assigned the partition.
    pub(crate) assigned: usize,
    pub(crate) clients: Clients,
    /// Effects that started: the entry's place and its leaf.
    pub(crate) dispatched: Vec<(u64, Hash)>,
    /// Nothing goes wrong any more.
    pub(crate) is_calm: bool,
    /// Former owners hear late that they are not assigned any more, have always more to do, and
    /// candidates come late and stop: what yielding is for.
    is_contested: bool,
    /// A tail is cut off at about this step, if at all.
    cut_at: Option<u64>,
    pub(crate) is_cut: bool,
    /// What was cut off, and where it stood.
    cut_off: Vec<(usize, Hash)>,
    pub(crate) weather: Weather,
    pub(crate) history: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, broken: Break, deployment: &str) -> Self {
        let mut seed = Seed(seed);
        let truncates =
            matches!(broken, Break::ReadsOnAfterTruncation | Break::ForgetsInARestartWhatItRead);
        let is_contested = broken == Break::NeverYields || seed.one_in(4);
        let cut_at = (truncates || seed.one_in(6)).then(|| 60 + seed.below(200));
        World {
            rules: Rules::new(broken),
            step: 0,
            now: START,
            topic: Topic::default(),
            streams: BTreeMap::new(),
            nodes: (0..N_NODES).map(|_| Node::new(deployment)).collect(),
            assigned: seed.below(N_NODES as u64) as usize,
            clients: Clients::default(),
            dispatched: Vec::new(),
            is_calm: false,
            is_contested,
            cut_at,
            is_cut: false,
            cut_off: Vec::new(),
            weather: Weather::default(),
            history: Vec::new(),
            seed,
        }
    }

    pub(crate) fn tell(&mut self, what: impl std::fmt::Display) {
        self.history.push(format!("{:5}  {what}", self.step));
    }

    pub(crate) fn breaks(&self, rule: Break) -> bool {
        self.rules.broken == rule
    }

    /// By chance, while the weather is bad.
    pub(crate) fn mishap(&mut self, one_in: u64) -> bool {
        !self.is_calm && self.seed.one_in(one_in)
    }

    /// One thing that nobody decides: a record lands, the group changes its mind, a process
    /// hears of it, a tail is cut off.
    pub(crate) fn fate(&mut self) {
        self.step += 1;
        self.now = self.now + Ns::from_ms(5 + self.seed.below(40));
        let (now, calm) = (self.step, self.is_calm);
        match self.topic.decide(&mut self.seed, now, calm) {
            Some(Fate::Landed { offset, record, will_again }) => {
                self.weather.doubled += u32::from(will_again);
                let again = if will_again { ", and will again" } else { "" };
                self.tell(format_args!("lands at {offset}: {}{again}", named(&record.batch)));
            }
            Some(Fate::Lost(record)) => {
                self.weather.lost += 1;
                self.tell(format_args!("is lost: {}", named(&record.batch)));
            }
            None => {}
        }
        if self.mishap(60) {
            let node = self.seed.below(N_NODES as u64) as usize;
            self.assigned = node;
            self.weather.rotations += 1;
            self.tell(format_args!("the group assigns P{node}"));
        }
        if self.mishap(if self.is_contested { 4 } else { 12 }) {
            self.new_input();
        }
        self.hears();
        if self.cut_at.is_some_and(|at| at <= self.step) && !self.is_calm {
            self.cut();
        }
    }

    /// One process hears what the group says; that it has lost the partition, later than others
    /// that they have it.
    fn hears(&mut self) {
        let hears = self.seed.below(N_NODES as u64) as usize;
        let slow = match (self.nodes[hears].is_told, self.is_contested) {
            (true, true) => 200,
            (true, false) => 20,
            (false, _) => 3,
        };
        let is_up = self.nodes[hears].role != Role::Down;
        if self.is_calm || self.seed.one_in(slow) {
            self.nodes[hears].is_told = is_up && self.assigned == hears;
        }
    }

    fn cut(&mut self) {
        let n = self.topic.records.len();
        self.cut_at = None;
        if n < 4 {
            return;
        }
        let to = n - 1 - self.seed.below(n.min(8) as u64 - 1) as usize;
        self.cut_off = (to..).zip(self.records()[to..].iter().map(|it| it.hash)).collect();
        self.topic.cut(to);
        (self.is_cut, self.weather.cuts) = (true, 1);
        for it in &mut self.nodes {
            it.is_beyond |= to < it.next_offset;
        }
        self.tell(format_args!("the topic is cut from {n} records to {to}"));
    }

    pub(crate) fn pause(&mut self, node: usize) {
        self.nodes[node].paused_until = self.step + 10 + self.seed.below(60);
        self.weather.pauses += 1;
        self.tell(format_args!("P{node} is paused"));
    }

    /// Sends a batch, late by chance.
    pub(crate) fn send(&mut self, node: usize, batch: &Batch) {
        let contests = self.is_contested && election(batch).is_some() && self.mishap(2);
        let is_late = contests || self.mishap(5);
        let delay = if contests { 10 + self.seed.below(20) } else { 20 + self.seed.below(200) };
        let due = if is_late { self.step + delay } else { 0 };
        self.weather.late += u32::from(is_late);
        if contests {
            self.pause(node);
            self.nodes[node].paused_until += 40;
        }
        let late = if is_late { ", late" } else { "" };
        self.tell(format_args!("P{node} sends {}{late}", named(batch)));
        self.topic.send(batch, due);
    }

    /// Whether the process follows the journal now.
    pub(crate) fn may_read(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        let is_up = it.role != Role::Down && !it.is_halted();
        is_up && (self.is_calm || it.paused_until <= self.step)
    }

    /// The process reads a record of the journal, if there is one.
    pub(crate) fn read(&mut self, node: usize) -> bool {
        let it = &mut self.nodes[node];
        let before = it.copy.len();
        let read = it.read(&self.topic.records, &mut self.rules);
        let (linked, at) = (before < it.copy.len(), it.next_offset.saturating_sub(1));
        let read = read.unwrap_or(false);
        if read {
            self.weather.skipped += u32::from(!linked);
            let what = if linked { "links" } else { "skips" };
            self.tell(format_args!("P{node} reads {at} and {what} it"));
        }
        read
    }

    /// The journal is followed beside whatever a process does: by chance it grows meanwhile.
    pub(crate) fn follow(&mut self, node: usize) {
        if self.mishap(6) {
            self.fate();
            while self.may_read(node) && self.read(node) {}
        }
    }

    pub(crate) fn read_to_end(&mut self, node: usize) -> Result<(), LogError> {
        self.nodes[node].read_to_end(&self.topic.records, &mut self.rules)
    }

    /// The client's id of the input at a position.
    pub(crate) fn id_at(&self, stream: Stream, position: u64) -> Option<String> {
        let record = self.streams.get(&stream)?.get(usize::try_from(position).ok()?)?;
        client_id(&Input::decode(record).ok()?.event)
    }

    /// What follows an append: effects of what was derived.
    pub(crate) fn dispatch(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            if matches!(entry.envelope.cause, Cause::Derived { .. }) {
                self.dispatched.push((entry.envelope.seq, entry.leaf()));
            }
        }
    }

    pub(crate) fn crash(&mut self, node: usize) {
        let power_is_lost = !self.is_cut && self.seed.one_in(4);
        self.nodes[node].crash(power_is_lost);
        self.weather.crashes += 1;
        self.tell(format_args!(
            "P{node} crashes{}",
            if power_is_lost { " with its host" } else { "" }
        ));
    }

    pub(crate) fn halt(&mut self, node: usize, why: String) {
        self.weather.cuts_found += u32::from(self.is_cut);
        self.tell(format_args!("P{node} halts: {why}"));
        self.nodes[node].role = Role::Halted(why);
    }

    /// Whether a batch with that hash stands in the topic or is on its way.
    pub(crate) fn is_on_its_way(&self, hash: &Hash) -> bool {
        self.topic.is_flying(hash) || self.topic.has(hash)
    }

    /// Whether a late copy of a record that was cut off stands at its old offset: then a process
    /// that was away cannot tell by its last batch, which is there.
    pub(crate) fn has_healed_by_chance(&self) -> bool {
        let stands = |at: usize| self.records().get(at).map(|it| it.hash);
        self.cut_off.iter().any(|(at, hash)| stands(*at) == Some(*hash))
    }

    pub(crate) fn records(&self) -> &[Arc<Record>] {
        &self.topic.records
    }
}

/// A batch as a history names it.
pub(crate) fn named(batch: &Batch) -> String {
    let header = &batch.header;
    let short = |hash: &Hash| hash.to_digest()[7..13].to_owned();
    let kinds: Vec<&str> = batch.entries.iter().map(|it| it.envelope.kind.name()).collect();
    format!(
        "{} (epoch {}, after {}, entries {}..{}: {})",
        short(&batch.hash()),
        header.epoch,
        short(&header.prev),
        header.first_seq,
        batch.next_seq(),
        kinds.join(" ")
    )
}
