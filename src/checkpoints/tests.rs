//! Checkpoints are taken of a real owner's log, changed in every way, and brought back.

#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::sync::Arc;

use object_store::memory::InMemory;
use schemas::signature::KeyPair;
use schemas::{Head, Ns};
use state::embedded::EmbeddedLog;
use state::{Log as _, LogError};

use super::*;
use crate::engine::owner::Owner;
use crate::node::{Layout, take_office};

const KEEP_ALL: Keep = Keep { newest: usize::MAX, grace: Duration::ZERO };

/// An owner in office, and a depot in memory.
struct Bed {
    home: tempfile::TempDir,
    identity: Identity,
    log: Arc<EmbeddedLog>,
    owner: Owner,
    wall: u64,
    depot: Depot,
    _runtime: tokio::runtime::Runtime,
}

fn identity(root: u8, node: u8) -> Identity {
    let [root, node] = [root, node].map(|it| KeyPair::from_seed(&[it; 32]));
    Identity::new("test", "a", &root, node)
}

impl Bed {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let identity = identity(1, 2);
        let data = home.path().join("data");
        let log = Arc::new(EmbeddedLog::open(&data, &identity.deployment, 0).unwrap());
        let record = home.path().join("head");
        let owner = take_office(&Layout(data), log.clone(), &identity, "", &record).unwrap();
        let runtime = crate::up::runtime().unwrap();
        let depot = Depot::of(Arc::new(InMemory::new()), runtime.handle().clone());
        let wall = crate::engine::wall_now().0;
        Bed { home, identity, log, owner, wall, depot, _runtime: runtime }
    }

    /// Appends a batch: a tick.
    fn tick(&mut self) {
        self.wall += Ns::from_s(60).0;
        self.owner.cycle(Ns(self.wall)).unwrap().batch.unwrap();
    }

    fn head(&self) -> Head {
        self.log.head().unwrap()
    }

    fn make(&self, name: &str) -> (std::path::PathBuf, Checkpoint) {
        let dir = self.home.path().join(name);
        let made = checkpoint::create(&self.log, &dir).unwrap();
        (dir, made)
    }

    /// Takes a checkpoint after another batch, and sends it.
    fn take(&mut self, name: &str) -> (Checkpoint, Uploaded) {
        self.tick();
        let (dir, made) = self.make(name);
        let sent = upload(&self.depot, &dir, &made, &self.identity).unwrap();
        (made, sent)
    }

    fn parts<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        [&[self.identity.deployment.as_str(), "0"], rest].concat()
    }

    fn names(&self, folder: &str) -> BTreeSet<String> {
        let listed = self.depot.list(&self.parts(&[folder])).unwrap();
        listed.into_iter().map(|(name, _)| name).collect()
    }

    fn restore(&self) -> Option<Restored> {
        let dir = self.home.path().join("restored");
        if dir.exists() {
            std::fs::remove_dir_all(&dir).unwrap();
        }
        restore(&self.depot, &self.identity.deployment, 0, &dir, |_| Ok(())).unwrap()
    }
}

fn hashes(checkpoint: &Checkpoint) -> BTreeSet<String> {
    checkpoint.files.iter().map(|(.., hash)| hex(&hash.0)).collect()
}

#[test]
fn a_second_checkpoint_sends_only_the_files_that_are_new() {
    let mut bed = Bed::new();
    let (first, sent) = bed.take("first");
    assert_eq!((sent.files, sent.bytes), (hashes(&first).len(), first.bytes()));
    let (second, sent) = bed.take("second");
    let new = hashes(&second).difference(&hashes(&first)).count();
    assert_eq!(sent.files, new);
    assert!(new < hashes(&second).len(), "{second:?}");
    assert_eq!(bed.names(FILES), &hashes(&first) | &hashes(&second));
    let dir = bed.home.path().join("second");
    let again = upload(&bed.depot, &dir, &second, &bed.identity).unwrap();
    assert_eq!(again, Uploaded { files: 0, bytes: 0 });
}

#[test]
fn what_is_restored_is_the_newest_chain_and_state_and_goes_on() {
    let mut bed = Bed::new();
    assert_eq!(bed.restore(), None);
    bed.take("first");
    let (second, _) = bed.take("second");
    let restored = bed.restore().unwrap();
    assert_eq!((restored.next_seq, &restored.signed.checkpoint), (second.next_seq, &second));
    assert_eq!((restored.files, restored.bytes), (second.files.len(), second.bytes()));
    let (staged, data) = (bed.home.path().join("restored"), bed.home.path().join("new"));
    assert_eq!(checkpoint::verify(&staged).unwrap(), second);
    std::fs::create_dir(&data).unwrap();
    checkpoint::install(&staged, &data).unwrap();
    assert!(!staged.exists());
    let log = EmbeddedLog::open(&data, &bed.identity.deployment, 0).unwrap();
    assert_eq!(log.head().unwrap(), bed.head());
}

/// Spoils the newest of two checkpoints; the older one must be taken, and nothing left beside.
fn check_passed_over(spoil: impl Fn(&Bed, &Checkpoint, &Checkpoint)) {
    let mut bed = Bed::new();
    let (first, _) = bed.take("first");
    let (second, _) = bed.take("second");
    spoil(&bed, &first, &second);
    let restored = bed.restore().unwrap();
    assert_eq!(restored.signed.checkpoint, first);
    assert_eq!(checkpoint::verify(&bed.home.path().join("restored")).unwrap(), first);
}

fn place_of<'a>(bed: &'a Bed, name: &'a str) -> Vec<&'a str> {
    bed.parts(&[CHECKPOINTS, name])
}

#[test]
fn a_flipped_bit_anywhere_in_a_manifest_or_signature_is_passed_over() {
    let length = signed::sign(&Bed::new().make("x").1, &identity(1, 2)).len();
    // Every part of the record: mark, root, node, certificate, manifest, signature.
    for at in [0, 4, 36, 80, length / 2, length - 1] {
        check_passed_over(|bed, _, second| {
            let name = place(second.next_seq);
            let mut record = bed.depot.read(&place_of(bed, &name)).unwrap();
            let at = at.min(record.len() - 1);
            record[at] ^= 1;
            bed.depot.write(&place_of(bed, &name), record).unwrap();
        });
    }
}

#[test]
fn a_manifest_that_no_node_of_this_deployment_signed_is_passed_over() {
    // Another root; and a node that no root has certified.
    let stranger = identity(8, 9);
    check_passed_over(|bed, _, second| {
        let record = signed::sign(second, &stranger);
        bed.depot.write(&place_of(bed, &place(second.next_seq)), record).unwrap();
    });
    check_passed_over(|bed, _, second| {
        let mut record = signed::sign(second, &identity(1, 9));
        // The certificate of the node that was admitted, over another node's signature.
        let ours = bed.identity.node_certificate().as_bytes();
        record[72..72 + ours.len()].copy_from_slice(ours);
        bed.depot.write(&place_of(bed, &place(second.next_seq)), record).unwrap();
    });
}

#[test]
fn a_manifest_in_a_newer_ones_place_or_of_another_partition_is_passed_over() {
    check_passed_over(|bed, first, second| {
        let record = signed::sign(first, &bed.identity);
        bed.depot.write(&place_of(bed, &place(second.next_seq)), record).unwrap();
    });
    check_passed_over(|bed, _, second| {
        let other = Checkpoint { partition: 1, ..second.clone() };
        let record = signed::sign(&other, &bed.identity);
        bed.depot.write(&place_of(bed, &place(second.next_seq)), record).unwrap();
    });
}

#[test]
fn a_checkpoint_with_a_damaged_or_a_missing_file_is_passed_over() {
    let new = |first: &Checkpoint, second: &Checkpoint| {
        hashes(second).difference(&hashes(first)).cloned().collect::<Vec<_>>()
    };
    check_passed_over(|bed, first, second| {
        let name = new(first, second).pop().unwrap();
        let mut bytes = bed.depot.read(&bed.parts(&[FILES, &name])).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        bed.depot.write(&bed.parts(&[FILES, &name]), bytes).unwrap();
    });
    check_passed_over(|bed, first, second| {
        let name = new(first, second).pop().unwrap();
        bed.depot.delete(&bed.parts(&[FILES, &name])).unwrap();
    });
}

#[test]
fn what_its_taker_refuses_is_passed_over_too() {
    let mut bed = Bed::new();
    let (first, _) = bed.take("first");
    bed.take("second");
    let dir = bed.home.path().join("restored");
    let older = |it: &Restored| {
        let fits = it.next_seq == first.next_seq;
        if fits { Ok(()) } else { bail!("its state is another") }
    };
    let taken = restore(&bed.depot, &bed.identity.deployment, 0, &dir, older).unwrap();
    assert_eq!(taken.unwrap().next_seq, first.next_seq);
}

#[test]
fn a_full_disk_ends_it_and_counts_against_no_checkpoint() {
    let full = || std::io::Error::from(ErrorKind::StorageFull);
    let by_the_log =
        || LogError::Io { what: "write", path: "here".into(), source: Arc::new(full()) };
    let says: [&dyn Fn() -> anyhow::Error; 2] = [&|| full().into(), &|| by_the_log().into()];
    for error in says {
        let mut bed = Bed::new();
        bed.take("first");
        bed.take("second");
        let dir = bed.home.path().join("restored");
        let n_tried = Cell::new(0);
        let refuse = |_: &Restored| {
            n_tried.set(n_tried.get() + 1);
            Err(error()).context("taking it in")
        };
        let said = restore(&bed.depot, &bed.identity.deployment, 0, &dir, refuse).unwrap_err();
        assert_eq!((n_tried.get(), said.to_string()), (1, "taking it in".to_owned()));
        assert!(!dir.exists(), "what was brought makes room");
    }
}

#[test]
fn older_checkpoints_go_with_the_files_that_nobody_names() {
    let mut bed = Bed::new();
    let taken: Vec<Checkpoint> = ["a", "b", "c", "d"].iter().map(|name| bed.take(name).0).collect();
    let all = bed.names(FILES);
    let id = bed.identity.deployment.clone();
    assert_eq!(prune(&bed.depot, &id, 0, KEEP_ALL).unwrap(), (0, 0));
    // Files are young: another node may be about to name them.
    let patient = Keep { newest: 3, grace: Duration::from_secs(3600) };
    assert_eq!(prune(&bed.depot, &id, 0, patient).unwrap(), (1, 0));
    assert_eq!(bed.names(FILES), all);
    let (gone, _) = prune(&bed.depot, &id, 0, Keep { newest: 2, grace: Duration::ZERO }).unwrap();
    assert_eq!(gone, 1);
    let places = [&taken[2], &taken[3]].map(|it| place(it.next_seq));
    assert_eq!(bed.names(CHECKPOINTS), BTreeSet::from(places));
    assert_eq!(bed.names(FILES), &hashes(&taken[2]) | &hashes(&taken[3]));
    assert_eq!(bed.restore().unwrap().next_seq, taken[3].next_seq);
}

#[test]
fn a_checkpoint_that_does_not_verify_is_not_counted_and_not_deleted() {
    let mut bed = Bed::new();
    let (first, _) = bed.take("first");
    let foreign = place(first.next_seq + 1000);
    bed.depot.write(&place_of(&bed, &foreign), b"whatever".to_vec()).unwrap();
    let keep = Keep { newest: 1, grace: Duration::ZERO };
    assert_eq!(prune(&bed.depot, &bed.identity.deployment, 0, keep).unwrap(), (0, 0));
    assert!(bed.names(CHECKPOINTS).contains(&foreign));
    assert_eq!(bed.restore().unwrap().next_seq, first.next_seq);
}

#[test]
fn a_lost_file_of_a_kept_checkpoint_is_said_and_sent_again() {
    let mut bed = Bed::new();
    let (first, _) = bed.take("first");
    let lost = hashes(&first).pop_first().unwrap();
    bed.depot.delete(&bed.parts(&[FILES, &lost])).unwrap();
    let id = bed.identity.deployment.clone();
    let error = prune(&bed.depot, &id, 0, KEEP_ALL).unwrap_err().to_string();
    assert!(error.contains(&lost), "{error}");
    let dir = bed.home.path().join("first");
    let again = upload(&bed.depot, &dir, &first, &bed.identity).unwrap();
    assert_eq!(again.files, 1);
    prune(&bed.depot, &id, 0, KEEP_ALL).unwrap();
}

#[test]
fn a_directory_takes_files_of_many_pieces_and_gives_them_back() {
    let bed = Bed::new();
    let (dir, mut made) = bed.make("made");
    let large: Vec<u8> = (0..20_000_000u32).map(|it| (it >> 7) as u8).collect();
    std::fs::write(dir.join("journal/large.sst"), &large).unwrap();
    made.files.push(("large.sst".to_owned(), large.len() as u64, Hash::of(&[&large])));
    let place = bed.home.path().join("depot");
    let url = format!("file://{}", place.display());
    let depot = Depot::make(&url, bed._runtime.handle().clone()).unwrap();
    upload(&depot, &dir, &made, &bed.identity).unwrap();
    let target = bed.home.path().join("target");
    let restored = restore(&depot, &bed.identity.deployment, 0, &target, |_| Ok(()));
    let restored = restored.unwrap().unwrap();
    assert_eq!(restored.bytes, made.bytes());
    assert_eq!(std::fs::read(target.join("journal/large.sst")).unwrap(), large);
}
