//! What the store refuses, what it keeps, and that nothing unverified ever leaves it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use schemas::signature::KeyPair;
use tempfile::TempDir;

use super::*;

struct Fixture {
    dir: TempDir,
    store: Store,
    key: KeyPair,
}

const REFERENCE: &str = "local://releases/shop/1.1.0";

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let key = KeyPair::from_seed(&[7; 32]);
        store.trust([key.public()]);
        Fixture { dir, store, key }
    }

    /// Imports these files as a release.
    fn import(&self, files: &[(&str, &str)]) -> Hash {
        let from = self.dir.path().join("source");
        let _ = fs::remove_dir_all(&from);
        for (path, text) in files {
            let path = from.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        self.import_dir(&from, &self.key).unwrap()
    }

    fn import_dir(&self, dir: &Path, key: &KeyPair) -> Result<Hash, Error> {
        let draft = Draft {
            reference: REFERENCE,
            kind: ArtifactKind::Release,
            name: "shop",
            version: "1.1.0",
            attributes: BTreeMap::new(),
            dir,
        };
        self.store.import(&draft, key)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn materialize(&self, digest: &Hash) -> Result<PathBuf, Error> {
        let into = self.at("out");
        let verified = self.store.verified(digest)?;
        self.store.materialize(&verified, &into, &Steps::default()).map(|()| into)
    }

    /// Replaces the bytes of a file in the store, as an intruder would.
    fn overwrite(path: &Path, bytes: &[u8]) {
        let _ = fs::remove_file(path);
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn what_was_imported_comes_out_with_its_modes_and_a_bill_of_materials() {
    let fixture = Fixture::new();
    let from = fixture.at("from");
    fs::create_dir_all(from.join("bin")).unwrap();
    fs::write(from.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(from.join("bin/run"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(from.join("a b.txt"), "text").unwrap();
    let digest = fixture.import_dir(&from, &fixture.key).unwrap();

    let out = fixture.materialize(&digest).unwrap();
    let mode = |name: &str| fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("bin/run"), mode("a b.txt")), (0o555, 0o444));
    assert_eq!(fs::read_to_string(out.join("a b.txt")).unwrap(), "text");
    assert_eq!(fixture.store.resolve(REFERENCE).unwrap(), digest);
    let listed = fixture.store.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state, ArtifactState::Available);
    let bill = fs::read_to_string(fixture.store.blob_path(&listed[0].sbom.unwrap())).unwrap();
    assert!(bill.contains("CycloneDX") && bill.contains("a b.txt"), "{bill}");
}

#[test]
fn the_same_files_are_the_same_artifact() {
    let fixture = Fixture::new();
    let first = fixture.import(&[("a", "1"), ("b/c", "2")]);
    assert_eq!(fixture.import(&[("b/c", "2"), ("a", "1")]), first);
    assert_ne!(fixture.import(&[("b/c", "2"), ("a", "3")]), first);
}

#[test]
fn unsigned_artifact_blocked() {
    let fixture = Fixture::new();
    let stranger = KeyPair::from_seed(&[8; 32]);
    let digest = fixture.import(&[("a", "1")]);
    let signature = fixture.store.signature_path(&digest);
    let genuine = fs::read(&signature).unwrap();
    let manifest = fs::read(fixture.store.manifest_path(&digest)).unwrap();

    let of_stranger = manifest::sign(&manifest, &stranger);
    let of_another = manifest::sign(b"another manifest", &fixture.key);
    let forged =
        [b"".to_vec(), of_stranger.into(), of_another.into(), genuine[..genuine.len() - 1].into()];
    for line in forged {
        Fixture::overwrite(&signature, &line);
        let error = fixture.materialize(&digest).unwrap_err();
        assert!(matches!(error, Error::Unsigned { .. }), "{error}");
        assert_eq!(fixture.store.state(&digest), ArtifactState::Bad);
    }
    fs::remove_file(&signature).unwrap();
    assert!(matches!(fixture.materialize(&digest), Err(Error::Unsigned { .. })));
    assert!(!fixture.at("out").exists(), "nothing may be written");

    Fixture::overwrite(&signature, &genuine);
    fixture.materialize(&digest).unwrap();
    fixture.store.trust([stranger.public()]);
    assert!(matches!(fixture.materialize(&digest), Err(Error::Unsigned { .. })));
}

#[test]
fn wrong_digest_blocked() {
    let fixture = Fixture::new();
    let digest = fixture.import(&[("a", "one"), ("b", "two")]);
    let blob = fixture.store.blob_path(&Hash::of(&[b"two"]));
    for bytes in [&b"twO"[..], b"tw", b"two and more"] {
        Fixture::overwrite(&blob, bytes);
        let error = fixture.materialize(&digest).unwrap_err();
        assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
        assert!(!fixture.at("out").exists(), "nothing may be left in its place");
        // It is marked, so it stays blocked when the bytes are right again.
        Fixture::overwrite(&blob, b"two");
        assert!(matches!(fixture.materialize(&digest), Err(Error::Marked { .. })));
        assert_eq!(fixture.store.state(&digest), ArtifactState::Bad);
        fixture.store.clear(&digest).unwrap();
    }
    fixture.materialize(&digest).unwrap();
    let manifest = fixture.store.manifest_path(&digest);
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[30] ^= 1;
    Fixture::overwrite(&manifest, &bytes);
    assert!(matches!(fixture.materialize(&digest), Err(Error::WrongDigest { .. })));
}

#[test]
fn a_bill_of_materials_that_says_something_else_blocks() {
    let fixture = Fixture::new();
    let digest = fixture.import(&[("a", "one"), ("b", "two")]);
    let sbom = fixture.store.verified(&digest).unwrap().manifest().sbom;
    let blob = fixture.store.blob_path(&sbom);
    let text = fs::read_to_string(&blob).unwrap();
    Fixture::overwrite(&blob, text.replace("\"b\"", "\"c\"").as_bytes());
    assert!(matches!(fixture.materialize(&digest), Err(Error::WrongDigest { .. })));
    fixture.store.clear(&digest).unwrap();
    fs::remove_file(&blob).unwrap();
    assert!(matches!(fixture.materialize(&digest), Err(Error::Missing { .. })));
}

#[test]
fn a_missing_blob_is_missing_and_not_bad() {
    let fixture = Fixture::new();
    let digest = fixture.import(&[("a", "one"), ("b", "two")]);
    fs::remove_file(fixture.store.blob_path(&Hash::of(&[b"two"]))).unwrap();
    assert_eq!(fixture.store.state(&digest), ArtifactState::Missing);
    let verified = fixture.store.verified(&digest).unwrap();
    assert_eq!(fixture.store.missing(&verified), ["b"]);
    assert!(matches!(fixture.materialize(&digest), Err(Error::Missing { .. })));
    assert_eq!(fixture.store.state(&digest), ArtifactState::Missing);
    fixture.import(&[("a", "one"), ("b", "two")]);
    fixture.materialize(&digest).unwrap();
}

#[test]
fn quarantine_ends_by_a_decision_and_survives_a_restart() {
    let fixture = Fixture::new();
    let digest = fixture.import(&[("a", "one")]);
    fixture.store.mark(&digest, ArtifactState::Quarantined, "suspected\nby a person").unwrap();
    let store = Store::open(&fixture.at("store")).unwrap();
    store.trust([fixture.key.public()]);
    assert_eq!(store.state(&digest), ArtifactState::Quarantined);
    let error = store.verified(&digest).unwrap_err().to_string();
    assert!(error.contains("quarantined: suspected by a person"), "{error}");
    fixture.import(&[("a", "one")]);
    assert_eq!(store.state(&digest), ArtifactState::Quarantined, "an import clears nothing");
    store.clear(&digest).unwrap();
    assert_eq!(store.state(&digest), ArtifactState::Available);
}

#[test]
fn a_reference_names_what_it_pins_or_nothing() {
    let fixture = Fixture::new();
    let digest = fixture.import(&[("a", "one")]);
    let other = Hash::of(&[b"other"]);
    assert_eq!(
        fixture.store.resolve(&format!("{REFERENCE}@{}", digest.to_digest())).unwrap(),
        digest
    );
    let pinned = fixture.store.resolve(&format!("{REFERENCE}@{}", other.to_digest()));
    assert!(matches!(pinned, Err(Error::WrongDigest { .. })));
    let expected = fixture.store.open_reference(REFERENCE, Some(other));
    assert!(matches!(expected, Err(Error::WrongDigest { .. })));
    assert!(matches!(fixture.store.resolve("local://nothing"), Err(Error::Missing { .. })));
    for reference in [
        "releases/x",
        "file:///etc/passwd",
        "local://",
        "local://../x",
        "local://a/../../x",
        "local:///x",
        "local://a//b",
        "local://.hidden",
        "local://a b",
        "local://a\n",
    ] {
        assert!(
            matches!(fixture.store.resolve(reference), Err(Error::Refused { .. })),
            "{reference}"
        );
        assert!(fixture.store.point(reference, &digest).is_err(), "{reference}");
    }
}

#[test]
fn links_and_devices_are_not_imported() {
    let fixture = Fixture::new();
    let from = fixture.at("from");
    fs::create_dir_all(&from).unwrap();
    fs::write(fixture.at("secret"), "secret").unwrap();
    symlink(fixture.at("secret"), from.join("link")).unwrap();
    assert!(matches!(fixture.import_dir(&from, &fixture.key), Err(Error::Refused { .. })));
}

#[test]
fn a_link_in_the_place_of_a_blob_is_not_followed() {
    let fixture = Fixture::new();
    let digest = fixture.import(&[("a", "one")]);
    let blob = fixture.store.blob_path(&Hash::of(&[b"one"]));
    fs::write(fixture.at("elsewhere"), "one").unwrap();
    fs::remove_file(&blob).unwrap();
    symlink(fixture.at("elsewhere"), &blob).unwrap();
    assert!(matches!(fixture.materialize(&digest), Err(Error::Io { .. })));
}

#[test]
fn a_folder_that_was_changed_is_laid_out_again() {
    let fixture = Fixture::new();
    let digest = fixture.import(&[("a", "one"), ("b/c", "two")]);
    let out = fixture.materialize(&digest).unwrap();
    let changes: [fn(&Path); 4] = [
        |out| Fixture::overwrite(&out.join("a"), b"One"),
        |out| fs::write(out.join("more"), "").unwrap(),
        |out| fs::remove_file(out.join("b/c")).unwrap(),
        |out| fs::set_permissions(out.join("a"), fs::Permissions::from_mode(0o555)).unwrap(),
    ];
    for change in changes {
        change(&out);
        let verified = fixture.store.verified(&digest).unwrap();
        assert!(fixture.store.holds(&verified, &out).is_err());
        fixture.materialize(&digest).unwrap();
        fixture.store.holds(&verified, &out).unwrap();
    }
}

#[test]
fn laying_out_stopped_at_any_step_leaves_the_old_folder_or_the_new() {
    let fixture = Fixture::new();
    let digest = fixture.import(&[("a", "one"), ("b", "two")]);
    let verified = fixture.store.verified(&digest).unwrap();
    let out = fixture.at("out");
    for n in 0.. {
        let count = AtomicUsize::new(0);
        let steps = Steps::watched(move |_| count.fetch_add(1, Ordering::Relaxed) < n);
        let result = fixture.store.materialize(&verified, &out, &steps);
        if out.exists() {
            fixture.store.holds(&verified, &out).unwrap();
        }
        if result.is_ok() {
            assert_eq!(n, 5, "every step was stopped at once");
            break;
        }
        let _ = fs::remove_dir_all(&out);
    }
}

/// C01. The bytes of a blob are exchanged as fast as can be while it is laid out; whatever comes
/// out must be what was signed. `HEALWRIGHT_FULL=1` runs the full bar of 10^5.
#[test]
fn c01_no_swap_gets_an_unverified_byte_into_a_release() {
    let fixture = Fixture::new();
    let good = "g".repeat(100_000);
    let evil = "e".repeat(100_000);
    let digest = fixture.import(&[("program", &good)]);
    let blob = fixture.store.blob_path(&Hash::of(&[good.as_bytes()]));
    let aside = fixture.at("aside");
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, blob) = (Arc::clone(&stop), blob);
        std::thread::spawn(move || {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                for text in [&evil, &good] {
                    fs::write(&aside, text).unwrap();
                    fs::rename(&aside, &blob).unwrap();
                    n += 1;
                }
            }
            n
        })
    };
    let full = std::env::var_os("HEALWRIGHT_FULL").is_some();
    let n_installs = if full { 100_000 } else { 1_000 };
    let verified = fixture.store.verified(&digest).unwrap();
    let file = &verified.manifest().files[0];
    let (mut n_laid_out, mut n_refused) = (0, 0);
    for _ in 0..n_installs {
        let mut bytes = Vec::new();
        match fixture.store.copy_blob(file, &mut bytes) {
            Ok(()) => {
                assert_eq!(Hash::of(&[&bytes]), file.sha256, "an unverified byte came through");
                n_laid_out += 1;
            }
            Err(Error::WrongDigest { .. }) => n_refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let n_swaps = swapper.join().unwrap();
    assert!(n_swaps > 0 && n_laid_out + n_refused == n_installs);
}

/// C02. Manifests made of hostile paths: each is refused, or writes within its folder only.
/// `HEALWRIGHT_FULL=1` lays every accepted one out, else the first hundred.
#[test]
fn c02_no_generated_manifest_writes_outside_of_its_folder() {
    let fixture = Fixture::new();
    let parts = ["..", ".", "", "a", "b", "etc", "/", "\\", "a\0b", "\u{202e}x", "C:", "~", "-rf"];
    let hash = Hash::of(&[b"one"]);
    fixture.import(&[("a", "one")]);
    let root = fixture.at("root");
    fs::create_dir_all(&root).unwrap();
    let mut seed = 42u64;
    let mut next = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let full = std::env::var_os("HEALWRIGHT_FULL").is_some();
    let mut n_accepted = 0;
    for _ in 0..5_000 {
        let path: Vec<&str> = (0..=next(4)).map(|_| parts[next(parts.len())]).collect();
        let text = format!(
            "healwright-manifest v1\nkind release\nname x\nversion 1\nsbom {hash}\n\
             file 644 3 {hash} {}\n",
            path.join("/")
        );
        let Ok(manifest) = Manifest::decode(&text) else { continue };
        n_accepted += 1;
        if n_accepted > 100 && !full {
            continue;
        }
        let digest = manifest.digest();
        let signer = fixture.key.public();
        let verified = Verified { manifest, digest, signer };
        fixture.store.build_in(&verified, &root.join("out")).unwrap();
        let outside: Vec<_> = fs::read_dir(&root).unwrap().flatten().collect();
        assert_eq!(outside.len(), 1, "{path:?} wrote {outside:?}");
        fs::remove_dir_all(root.join("out")).unwrap();
    }
    assert!(n_accepted > 100, "the generator must reach the writing, {n_accepted}");
}
