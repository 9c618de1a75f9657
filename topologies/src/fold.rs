//! The shape of every processor, and the view it folds on.

use schemas::telemetry::Samples;
use schemas::{Actor, Envelope, Event, Kind, Ns, avro};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that a processor may say for one entry; with more it sets a wake and goes on there
/// (protocol.md §2, "Size").
pub const SAID_BYTES_MAX: usize = 64 * 1024;

/// A processor: a name, what it reads, and its step.
#[derive(Clone, Copy)]
pub struct Processor {
    /// Persisted in causes and state keys: frozen.
    pub name: &'static str,
    /// Kinds that reach [`Processor::step`]. Ticks reach it only through wakes.
    pub reads: &'static [Kind],
    /// Kinds that it may say; the engine refuses any other.
    pub says: &'static [Kind],
    /// The fold.
    pub step: fn(&mut View<'_>, &Folded<'_>) -> Vec<Output>,
}

/// An entry as a fold sees it.
pub struct Folded<'a> {
    /// Who, when, from what.
    pub envelope: &'a Envelope,
    /// The typed payload.
    pub event: &'a Event,
    /// The records of a sealed range; empty for every other entry.
    pub samples: &'a Samples<'a>,
    /// The key of the wake that is due, when the entry is a tick.
    pub due: Option<&'a str>,
}

impl Folded<'_> {
    /// The only time there is.
    pub fn now(&self) -> Ns {
        self.envelope.tick
    }

    /// `immutable:log:<partition>/<seq>` of this entry.
    pub fn reference(&self) -> String {
        self.envelope.reference()
    }
}

/// Something a processor says. The engine adds cause, place, time and salt.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// What is said.
    pub event: Event,
    /// Key of its typed topic (spec 10 §3).
    pub key: String,
    /// Incident id, where there is one.
    pub correlation: Option<String>,
    /// 1–10.
    pub priority: u8,
    /// After this it is history only; zero is never.
    pub ttl: Ns,
    /// Who says it, where it is not the processor itself.
    pub actor: Option<Actor>,
}

impl Output {
    /// `event` under `key`, of normal priority, without an incident.
    pub fn new(key: impl Into<String>, event: impl Into<Event>) -> Self {
        Output {
            event: event.into(),
            key: key.into(),
            correlation: None,
            priority: 5,
            ttl: Ns(0),
            actor: None,
        }
    }

    /// The same, as part of an incident.
    pub fn of_incident(mut self, incident: impl Into<Option<String>>) -> Self {
        self.correlation = incident.into();
        self
    }

    /// The same, with another priority (1–10).
    pub fn with_priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }
}

/// A line of a processor's cache: what is changed of a value that is too large to be written anew.
pub type Line = [u8; 64];

/// Edits the lines of several values, which come in order of their keys. The second function is
/// told of each line before it is changed: the number of its value, its place there, what it is.
pub type Edit<'e> = &'e mut dyn FnMut(&mut [&mut [Line]], &mut dyn FnMut(usize, usize, &Line));

/// The lines of several values, of which none changes that is not kept first.
pub struct Lines<'a, 'v> {
    values: &'a mut [&'v mut [Line]],
    keep: &'a mut (dyn FnMut(usize, usize, &Line) + 'a),
}

impl Lines<'_, '_> {
    /// Those of the value with this number.
    #[inline]
    pub fn of(&self, value: usize) -> &[Line] {
        self.values[value]
    }

    /// A line to be changed.
    #[inline]
    pub fn line_mut(&mut self, value: usize, at: usize) -> &mut Line {
        let line = &mut self.values[value][at];
        (self.keep)(value, at, line);
        line
    }
}

/// The state at one place of the chain, as bytes. The engine implements it over `state`'s
/// overlay; tests implement it over a map.
///
/// Keys are compared bytewise. Reads see the writes of the same batch.
pub trait Store {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;
    /// Shows `look` the value under `key` where there is one: a read that copies nothing.
    fn look(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) {
        self.get(key).as_deref().into_iter().for_each(look);
    }
    /// Sets the value under `key`.
    fn put(&mut self, key: &[u8], value: Vec<u8>);
    /// Has the values under `keys` edited, which are in order, each once; one that is not there
    /// has no lines.
    fn edit(&mut self, keys: &[Vec<u8>], edit: Edit<'_>);
    /// Removes `key`.
    fn delete(&mut self, key: &[u8]);
    /// All pairs whose key starts with `prefix`, in order of key.
    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)>;
    /// Sets the one wake of `processor` under `key`; an earlier one is replaced.
    fn wake(&mut self, processor: &'static str, key: &str, at: Ns);
    /// Removes that wake.
    fn unwake(&mut self, processor: &'static str, key: &str);
}

/// What a processor sees of the state: it writes under its own name only and may read what
/// others have written.
pub struct View<'a> {
    store: &'a mut dyn Store,
    processor: &'static str,
}

impl<'a> View<'a> {
    /// The view of `processor` on `store`.
    pub fn new(store: &'a mut dyn Store, processor: &'static str) -> Self {
        View { store, processor }
    }

    /// This processor's value under `key`.
    pub fn load<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.peek(self.processor, key)
    }

    /// Another processor's value under `key`.
    pub fn peek<T: DeserializeOwned>(&self, processor: &str, key: &str) -> Option<T> {
        let mut found = None;
        let decode = &mut |value: &[u8]| found = decode(value);
        self.store.look(&full_key(processor, key.as_bytes()), decode);
        found
    }

    /// Keeps `value` under `key`.
    pub fn save<T: Serialize>(&mut self, key: &str, value: &T) {
        let mut bytes = avro::to_bytes(value).expect("state types have an Avro form by their type");
        // Most values are a few bytes and stay for long.
        bytes.shrink_to_fit();
        self.store.put(&full_key(self.processor, key.as_bytes()), bytes);
    }

    /// Forgets what is under `key`.
    pub fn remove(&mut self, key: &str) {
        self.store.delete(&full_key(self.processor, key.as_bytes()));
    }

    /// This processor's values under keys with `prefix`, in order of key; keys come whole,
    /// without the processor's name.
    pub fn list<T: DeserializeOwned>(&self, prefix: &str) -> Vec<(String, T)> {
        self.peek_list(self.processor, prefix)
    }

    /// Another processor's values under keys with `prefix`, in order of key.
    pub fn peek_list<T: DeserializeOwned>(
        &self,
        processor: &str,
        prefix: &str,
    ) -> Vec<(String, T)> {
        let skip = processor.len() + 1;
        let pairs = self.store.scan(&full_key(processor, prefix.as_bytes())).into_iter();
        pairs
            .filter_map(|(key, value)| {
                Some((String::from_utf8(key[skip..].to_vec()).ok()?, decode(&value)?))
            })
            .collect()
    }

    /// Raw bytes under a raw key, for state that is too hot to decode.
    pub fn load_raw(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.store.get(&full_key(self.processor, key))
    }

    /// Another processor's raw bytes under a raw key.
    pub fn peek_raw(&self, processor: &str, key: &[u8]) -> Option<Vec<u8>> {
        self.store.get(&full_key(processor, key))
    }

    /// Shows `look` the raw bytes under a raw key where there are some: a read that copies nothing.
    pub fn look_raw(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) {
        self.store.look(&full_key(self.processor, key), look);
    }

    /// Edits lines of the raw bytes under raw keys where they lie: see [`Store::edit`].
    pub fn edit_raw(&mut self, keys: &[&[u8]], edit: &mut dyn FnMut(&mut Lines<'_, '_>)) {
        let keys: Vec<Vec<u8>> = keys.iter().map(|it| full_key(self.processor, it)).collect();
        self.store.edit(&keys, &mut |values, keep| edit(&mut Lines { values, keep }));
    }

    /// Keeps raw bytes under a raw key.
    pub fn save_raw(&mut self, key: &[u8], value: Vec<u8>) {
        self.store.put(&full_key(self.processor, key), value);
    }

    /// Asks to be stepped with the first tick at or after `at`, with `due` set to `key`.
    /// One wake per key: a later call replaces an earlier one.
    pub fn wake(&mut self, key: &str, at: Ns) {
        self.store.wake(self.processor, key, at);
    }

    /// Takes the wake under `key` back.
    pub fn unwake(&mut self, key: &str) {
        self.store.unwake(self.processor, key);
    }
}

/// `<processor>/<key>`: the layout of processor state. Persisted: frozen.
pub fn full_key(processor: &str, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(processor.len() + 1 + key.len());
    full.extend_from_slice(processor.as_bytes());
    full.push(b'/');
    full.extend_from_slice(key);
    full
}

/// State of another version than this one's types is no state: a change of a state type comes
/// with a new state version, at which everything is folded anew.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    avro::from_bytes(bytes).ok()
}
