//! Who waits for what became of an input.
//!
//! On a shared log an input may be journaled before its sender is known to wait, by another
//! process even; so answers are kept for a while, too.

use std::collections::{BTreeMap, VecDeque};

use schemas::{Batch, Cause, Event, Positions, Stream};
use state::State;
use tokio::sync::oneshot;

use super::{Answer, bookkeeping};

/// Answers kept for senders that are not known yet.
const KEPT: usize = 8192;

type Key = (Stream, u64);

struct Waiter {
    sender: oneshot::Sender<Answer>,
    client_id: Option<String>,
}

/// Waiting senders, and on a shared log the answers that nobody waited for yet.
pub(in crate::engine) struct Answers {
    waiters: BTreeMap<Key, Waiter>,
    /// Why nobody is answered any more, if so.
    closed: Option<String>,
    keeps: bool,
    kept: BTreeMap<Key, Answer>,
    order: VecDeque<Key>,
}

impl Answers {
    pub(super) fn new(keeps: bool) -> Self {
        Answers {
            waiters: BTreeMap::new(),
            closed: None,
            keeps,
            kept: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Nothing is journaled from here on: who waits is told so now, and who comes later at once.
    pub(super) fn close(&mut self, why: &str) {
        self.closed.get_or_insert_with(|| why.to_owned());
        self.waiters.clear();
    }

    /// Why nobody is answered any more, if so.
    pub(super) fn closed(&self) -> Option<String> {
        self.closed.clone()
    }

    /// Waits for the input at `key`.
    pub(super) fn wait(
        &mut self,
        key: Key,
        client_id: Option<String>,
    ) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        match self.kept.remove(&key) {
            // The receiver is still here.
            Some(answer) => drop(sender.send(answer)),
            None => drop(self.waiters.insert(key, Waiter { sender, client_id })),
        }
        receiver
    }

    /// Tells the sender of an input what became of it.
    pub(in crate::engine) fn give(&mut self, answer: Answer) {
        let key = (answer.stream, answer.position);
        if let Some(waiter) = self.waiters.remove(&key) {
            // A sender that has hung up learns the place by sending again.
            let _ = waiter.sender.send(answer);
            return;
        }
        if !self.keeps {
            return;
        }
        self.kept.insert(key, answer);
        self.order.push_back(key);
        while self.order.len() > KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.kept.remove(&oldest);
            }
        }
    }

    /// Answers everybody whose input stands in `batch`, whoever wrote it.
    pub(in crate::engine) fn read(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            let seq = entry.envelope.seq;
            let found = match (&entry.envelope.cause, entry.envelope.kind) {
                (Cause::Observed { stream, position }, _) => Some((*stream, *position, None)),
                (Cause::Owner { .. }, schemas::Kind::InputRefused) => refusal(entry),
                (Cause::Owner { .. } | Cause::Derived { .. }, _) => None,
            };
            if let Some((stream, position, refused)) = found {
                self.give(Answer { stream, position, seq, repeated: false, refused });
            }
        }
    }

    /// Answers those whose inputs the chain has passed and not taken: repeats. `state` is folded
    /// up to `positions`.
    pub(in crate::engine) fn passed(&mut self, positions: &Positions, state: &mut State) {
        let end = |stream| match stream {
            Stream::Inbox => positions.inbox,
            Stream::Control => positions.control,
            Stream::Telemetry => positions.telemetry,
        };
        let passed = self.waiters.keys().filter(|(stream, at)| *at < end(*stream));
        let passed: Vec<Key> = passed.copied().collect();
        for key in passed {
            let id = self.waiters.get(&key).and_then(|it| it.client_id.as_deref());
            if let Some(first) = id.and_then(|id| bookkeeping::first(state, id)) {
                let (stream, position) = key;
                let seq = first.seq;
                self.give(Answer { stream, position, seq, repeated: true, refused: None });
            }
        }
    }
}

fn refusal(entry: &schemas::Entry) -> Option<(Stream, u64, Option<String>)> {
    let Ok(Event::InputRefused(refused)) = entry.event() else { return None };
    let stream = match refused.stream.as_str() {
        "inbox" => Stream::Inbox,
        "control" => Stream::Control,
        _ => return None,
    };
    Some((stream, refused.position, Some(refused.reason)))
}
