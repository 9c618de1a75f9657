//! Schemas change while a journal lives: what an older program recorded is folded by a newer one
//! and comes to the same decisions, an older program reads what a newer one writes where it has
//! the schema, and a form that nobody here knows is kept, named, and never guessed.
//!
//! Here the older writer is played by its released schema and the newer one by a schema that has
//! grown, in one process. Two programs side by side are in `rolling.rs`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use healwright::engine::Input;
use healwright::engine::fold::Place;
use healwright::engine::heads::Heads;
use healwright::engine::owner::{Office, Owner};
use healwright::engine::replay::{Replayed, replay_batch};
use healwright::keys::Identity;
use schemas::event::{
    ChangeKind, ChangeObserved, ConfigActivated, ConfigKind, HeadCosigned, ReleaseRequested,
};
use schemas::signature::KeyPair;
use schemas::{Actor, Batch, Entry, Event, Hash, Kind, Ns, Stream, codec, link, view};
use serde_json::json;
use state::memory::MemoryLog;
use state::{Changes, Log, State};
use topologies::profile::Profile;

const START: Ns = Ns(1_772_445_600_000_000_000);
const CYCLES: u64 = 40;
/// What the first 32 bytes of chance make the epoch's key.
const SEED: [u8; 32] = [7; 32];

/// Kinds of which a former form was released, with its text.
const FORMER: [(Kind, &str); 2] = [
    (Kind::ReleaseRequested, include_str!("../schemas/released/release.requested.v1.avsc")),
    (Kind::HeadCosigned, include_str!("../schemas/released/head.cosigned.v1.avsc")),
];

fn identity() -> Identity {
    Identity::new("test", "node", &KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]))
}

fn office<'a>(log: &Arc<MemoryLog>, identity: &'a Identity, dir: &Path) -> Office<'a> {
    Office {
        log: log.clone(),
        store: log.clone(),
        identity,
        endpoint: "127.0.0.1:1".to_owned(),
        heads: Heads::open(&dir.join("head"), None).unwrap(),
        chance: Box::new(|buffer| buffer.fill(SEED[0])),
    }
}

fn input(key: &str, event: impl Into<Event>) -> Input {
    Input::new(Actor::system("test"), key, event)
}

fn profile() -> Input {
    let body = serde_json::to_string(&Profile::local()).unwrap();
    let profile = ConfigActivated {
        kind: ConfigKind::Policy,
        name: "profile".to_owned(),
        version: 1,
        digest: ConfigActivated::digest_of(&body),
        approved_by: "test".to_owned(),
        audit_log_id: None,
        body: Some(body),
        signature: None,
    };
    input("profile", profile)
}

fn change(n: u64) -> Input {
    let change = ChangeObserved {
        id: format!("change-{n}"),
        service: "api".to_owned(),
        kind: ChangeKind::Deploy,
        version: n.to_string(),
        reference: String::new(),
        author: "ci".to_owned(),
        summary: String::new(),
        at: None,
    };
    input("api", change)
}

fn release(n: u64) -> Input {
    let release = ReleaseRequested {
        service: "api".to_owned(),
        artifact_ref: format!("local://releases/api/{n}"),
        digest: Hash::of(&[&n.to_be_bytes()]).to_digest(),
        requested_by: "test".to_owned(),
        strategy: "blue_green".to_owned(),
        version: Some(n.to_string()),
        signature: None,
        nonce: None,
        reason: None,
    };
    input("api", release)
}

fn cosigned(n: u64) -> Input {
    let (root, witness) = (Hash::of(&[b"root"]).to_string(), "host-1".to_owned());
    let cosignature = "a line".to_owned();
    let signature = String::new();
    input("0", HeadCosigned { size: n, root, witness, cosignature, signature })
}

/// What a program of today records.
fn record(log: &Arc<MemoryLog>, dir: &Path) -> Vec<Batch> {
    let identity = identity();
    let mut owner = Owner::elect(office(log, &identity, dir), START).unwrap();
    let mut inputs = vec![profile()];
    for n in 0..CYCLES {
        inputs.push(match n % 4 {
            0 => release(n),
            1 => cosigned(n),
            _ => change(n),
        });
        let records: Vec<_> = inputs.drain(..).map(|it| it.encode().unwrap()).collect();
        log.send(Stream::Inbox, &records).unwrap();
        while owner.cycle(START + Ns::from_ms(250 * n)).unwrap().more {}
    }
    log.read(0, usize::MAX).unwrap()
}

fn parsed(text: &str) -> Schema {
    Schema::parse_str(text).unwrap()
}

fn datum(bytes: &[u8], writer: &Schema, reader: &Schema) -> Avro {
    let from = GenericDatumReader::builder(writer).reader_schema(reader).build().unwrap();
    let mut rest = &bytes[10..];
    let value = from.read_value(&mut rest).unwrap();
    assert!(rest.is_empty());
    value
}

/// The payload as a program whose schema of its kind is `writer` would have written it.
fn written_under(writer: &Schema, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let value = datum(payload, codec::schema(kind), writer);
    let to = GenericDatumWriter::builder(writer).build().unwrap();
    let mut bytes = vec![0xC3, 0x01];
    bytes.extend_from_slice(&writer.fingerprint::<Rabin>().bytes);
    bytes.extend(to.write_value_to_vec(value).unwrap());
    bytes
}

/// The schema of a kind as a later release may have it: one field more, with a default.
fn grown(kind: Kind) -> Schema {
    let mut schema: serde_json::Value = serde_json::from_str(kind.avsc()).unwrap();
    let field = json!({"name": "region", "type": ["null", "string"], "default": null});
    schema["fields"].as_array_mut().unwrap().push(field);
    Schema::parse(&schema).unwrap()
}

/// The same history, its payloads changed as `writer` says, signed by the same owner.
fn rewritten(batches: &[Batch], writer: impl Fn(&Entry) -> Option<Vec<u8>>) -> Vec<Batch> {
    let key = KeyPair::from_seed(&SEED);
    let mut prev = batches[0].header.prev;
    let again = batches.iter().map(|batch| {
        let entries = batch.entries.iter().map(|entry| {
            let payload = writer(entry).unwrap_or_else(|| entry.payload.clone());
            Entry::new(entry.envelope.clone(), [9; 32], payload)
        });
        let mut header = batch.header.clone();
        header.prev = prev;
        let batch = Batch::sign(header, entries.collect(), &key);
        prev = batch.hash();
        batch
    });
    again.collect()
}

/// The former writer's history, and how many payloads are in a former form.
fn former(batches: &[Batch]) -> (Vec<Batch>, BTreeMap<Kind, usize>) {
    let forms = BTreeMap::from(FORMER.map(|(kind, text)| (kind, parsed(text))));
    let write = |entry: &Entry| {
        let kind = entry.envelope.kind;
        forms.get(&kind).map(|form| written_under(form, kind, &entry.payload))
    };
    let mut counts = BTreeMap::new();
    for entry in batches.iter().flat_map(|it| &it.entries) {
        if write(entry).is_some_and(|it| it != entry.payload) {
            *counts.entry(entry.envelope.kind).or_default() += 1;
        }
    }
    (rewritten(batches, write), counts)
}

/// Puts a recorded chain on a log, as a program finds it: nothing of it is folded.
fn chain(batches: &[Batch]) -> Arc<MemoryLog> {
    let log = MemoryLog::new(&identity().deployment, 0);
    for batch in batches {
        let head = log.head().unwrap();
        link(&head, batch).unwrap();
        log.append(&head, batch, &Changes::default()).unwrap();
    }
    Arc::new(log.beside())
}

/// Folds a chain from nothing: what came of it, and the digest of the state.
fn folded(batches: &[Batch]) -> Result<(Replayed, Hash), String> {
    let log: Arc<dyn Log> = chain(batches);
    let store = Arc::new(MemoryLog::new("a store of its own", 0));
    let mut state = State::new(store.clone()).unwrap();
    let genesis = link::genesis(&identity().deployment, 0);
    let place = Place { genesis, partition: 0, wall: START };
    let mut done = Replayed::default();
    for batch in batches {
        replay_batch::<dyn Log>(&*log, &mut state, &place, batch, &mut done)
            .map_err(|error| error.to_string())?;
        state::Store::commit(&*store, batch.next_seq(), &state.changes()).unwrap();
        state.commit();
    }
    Ok((done, state.digest().unwrap()))
}

#[test]
fn a_new_program_folds_the_history_of_an_older_one_to_the_same_state_and_goes_on() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let today = record(&Arc::new(MemoryLog::new(&identity().deployment, 0)), dirs[0].path());
    let (older, counts) = former(&today);
    assert!(FORMER.iter().all(|(kind, _)| counts.get(kind) > Some(&5)), "{counts:?}");
    let (done, digest) = folded(&older).unwrap();
    assert!(done.identical() && done.compared > 10, "{done:?}");
    assert_eq!(digest, folded(&today).unwrap().1);
    // It takes office there, and a repeat of what the older one took is known.
    let (log, identity) = (chain(&older), identity());
    let mut owner = Owner::elect(office(&log, &identity, dirs[1].path()), START).unwrap();
    // What the older one took stands in the stream; its bytes are not read again.
    let n_taken = usize::try_from(log.head().unwrap().positions.inbox).unwrap();
    log.send(Stream::Inbox, &vec![Vec::new(); n_taken]).unwrap();
    log.send(Stream::Inbox, &[change(2).encode().unwrap(), release(99).encode().unwrap()]).unwrap();
    let cycle = owner.cycle(START + Ns::from_ms(250 * CYCLES)).unwrap();
    let taken: Vec<bool> = cycle.taken.iter().map(|it| it.repeated).collect();
    assert_eq!(taken, [true, false], "{:?}", cycle.taken);
    let all = log.read(0, usize::MAX).unwrap();
    assert!(folded(&all).unwrap().0.identical());
}

#[test]
fn an_older_program_reads_what_a_newer_one_recorded_without_what_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let today = record(&Arc::new(MemoryLog::new(&identity().deployment, 0)), dir.path());
    let mut n = 0;
    for entry in today.iter().flat_map(|it| &it.entries) {
        let kind = entry.envelope.kind;
        // The program of today is the older one of a form that has grown.
        let grown = grown(kind);
        let newer = written_under(&grown, kind, &entry.payload);
        let current = codec::schema(kind);
        let read = datum(&newer, &grown, current);
        assert_eq!(read, datum(&entry.payload, current, current), "{}", entry.envelope.reference());
        // And today's form is the newer one of what was released before.
        for (_, text) in FORMER.iter().filter(|(of, _)| *of == kind) {
            let former = parsed(text);
            let older = written_under(&former, kind, &entry.payload);
            assert_eq!(datum(&entry.payload, current, &former), datum(&older, &former, &former));
            n += 1;
        }
    }
    assert!(n > 10, "{n} payloads have a former form");
}

#[test]
fn a_form_that_nobody_here_knows_is_kept_and_named_and_never_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(MemoryLog::new(&identity().deployment, 0));
    let today = record(&log, dir.path());
    let grown = grown(Kind::ReleaseRequested);
    let is_release = |entry: &Entry| entry.envelope.kind == Kind::ReleaseRequested;
    let first = today.iter().flat_map(|it| &it.entries).find(|it| is_release(it)).unwrap();
    let newer = rewritten(&today, |entry| {
        is_release(entry).then(|| written_under(&grown, Kind::ReleaseRequested, &entry.payload))
    });
    let fingerprint = grown.fingerprint::<Rabin>().bytes;
    let hex: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    // The chain links, for nothing is hashed after it was decoded; folding stops before it.
    let why = folded(&newer).unwrap_err();
    assert!(why.contains("release.requested.v1") && why.contains(&hex), "{why}");
    let error = Owner::elect(office(&chain(&newer), &identity(), dir.path()), START).err();
    let error = error.unwrap().to_string();
    assert!(error.contains(&hex), "nobody takes office over it: {error}");
    // Who only reads is shown the bytes.
    let shown = newer.iter().flat_map(|it| &it.entries).find(|it| is_release(it)).unwrap();
    let seen = view::entry(shown);
    assert!(seen["payload"]["undecodable"].as_str().unwrap().contains(&hex), "{seen}");
    assert_eq!(seen["place"], first.envelope.reference());
    // One that comes by the inbox is refused by name and kept whole.
    let mut record = release(7).encode().unwrap();
    let n = release(7).event.encode().unwrap().len();
    let payload = record.split_off(record.len() - n);
    let payload = written_under(&grown, Kind::ReleaseRequested, &payload);
    let length = record.len() - 4;
    record[length..].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    record.extend(payload);
    log.send(Stream::Inbox, std::slice::from_ref(&record)).unwrap();
    let mut owner = Owner::elect(office(&log, &identity(), dir.path()), START).unwrap();
    let cycle = owner.cycle(START + Ns::from_ms(250 * CYCLES)).unwrap();
    assert!(cycle.taken[0].refused.as_ref().unwrap().contains(&hex), "{:?}", cycle.taken);
    assert!(log.quarantined().contains_key(&Hash::of(&[&record])));
}
