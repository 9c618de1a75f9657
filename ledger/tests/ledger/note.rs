//! Signed notes, checkpoints and head records: canonical bytes only, and no verdict that improves.

use expect_test::expect;
use ledger::note::Algorithm;
use ledger::{Attestation, Checkpoint, Error, HeadRecord, Note, NoteKey, SignedHead};
use schemas::Hash;
use schemas::signature::KeyPair;

use super::fixture::{Log, full, witness_pair};

/// The example of <https://c2sp.org/signed-note>.
const EXAMPLE: &str = "This is an example message.\n\n— example.com/foo \
    Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
const EXAMPLE_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
/// The example of golang.org/x/mod/sumdb/note.
const GO: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n\n— PeterNeumann \
    x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const GO_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

#[test]
fn the_examples_of_c2sp_and_go_verify() {
    for (note, key) in [(EXAMPLE, EXAMPLE_KEY), (GO, GO_KEY)] {
        let key = NoteKey::from_text(key).unwrap();
        let parsed = Note::parse(note.as_bytes()).unwrap();
        assert_eq!(parsed.attestation(&key), Ok(Attestation::Signed));
        assert_eq!(parsed.encode(), note.as_bytes());
    }
}

/// The secret key of Go's example is public too, so our bytes can be compared with Go's.
#[test]
fn a_note_that_we_sign_is_the_one_that_go_signs() {
    let secret = base64_of("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz");
    let pair = KeyPair::from_seed(secret[1..].try_into().unwrap());
    let mut note = Note::new(Note::parse(GO.as_bytes()).unwrap().text()).unwrap();
    note.sign("PeterNeumann", &pair).unwrap();
    assert_eq!(String::from_utf8(note.encode()).unwrap(), GO);
}

fn base64_of(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn anything_but_the_canonical_bytes_is_no_note() {
    let bad = [
        "",
        "text\n",
        "text\n\n",
        "text\n— a AAAAAAE=\n",
        "text\n\n— a AAAAAAE=",
        "text\n\n— a AAAAAAE=\n\n",
        "text\r\n\n— a AAAAAAE=\n",
        "text\n\n- a AAAAAAE=\n",
        "text\n\n—  a AAAAAAE=\n",
        "text\n\n— a+b AAAAAAE=\n",
        "text\n\n— a\u{a0}b AAAAAAE=\n",
        "text\n\n— a AAAAAAE= \n",
        "text\n\n— a AAAAAAE\n",
        "text\n\n— a AAAAAAF=\n",
        "text\n\n— a AAAAAA==\n",
        "te\u{7}xt\n\n— a AAAAAAE=\n",
    ];
    for text in bad {
        assert!(Note::parse(text.as_bytes()).is_err(), "{text:?}");
    }
    let many = format!("text\n\n{}", "— a AAAAAAE=\n".repeat(101));
    assert!(Note::parse(many.as_bytes()).is_err());
    assert!(Note::parse("text\n\n— a AAAAAAE=\n".as_bytes()).is_ok());
}

#[test]
fn a_checkpoint_reads_as_a_person_would_write_it() {
    let log = Log::with(1, 2, 3);
    expect![[r#"
        shop-5bcfc12e63deedc1e56ccd3d371f0df5/0
        7
        mgJhuaBeMSyDAovgB0Q9sUG5782YYfyhjhVdn5Sno1c=
    "#]]
    .assert_eq(log.checkpoint(7).text());
}

#[test]
fn anything_but_the_canonical_text_is_no_checkpoint() {
    let root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let good = format!("shop/0\n7\n{root}\n");
    assert_eq!(Checkpoint::parse(&good).unwrap().text(), good);
    let extended = format!("{good}extension\n");
    assert_eq!(Checkpoint::parse(&extended).unwrap().extensions, ["extension"]);
    let bad = [
        "shop/0\n7\n".to_owned(),
        format!("\n7\n{root}\n"),
        format!("shop/0\n07\n{root}\n"),
        format!("shop/0\n+7\n{root}\n"),
        format!("shop/0\n7 \n{root}\n"),
        format!("shop/0\n7\n{root}"),
        format!("shop/0\n7\n{root}\n\n"),
        format!("shop/0\n7\n{root}\n\nextension\n"),
        "shop/0\n7\nAAAA\n".to_owned(),
        format!("shop/0\n18446744073709551616\n{root}\n"),
        format!("shop/0\n7\n{}\n", root.replace("AAA=", "AAB=")),
    ];
    for text in bad {
        assert!(Checkpoint::parse(&text).is_err(), "{text:?}");
    }
}

#[test]
fn several_lines_by_one_key_count_once_and_a_bad_one_spoils_the_note() {
    let pair = witness_pair(1);
    let key = NoteKey::new("w", Algorithm::Cosignature, pair.public()).unwrap();
    let mut note = Note::new("text\n").unwrap();
    note.cosign("w", &pair, 5).unwrap();
    note.cosign("w", &pair, 9).unwrap();
    assert_eq!(note.attestation(&key), Ok(Attestation::Cosigned { time_s: 9 }));
    let mut other = Note::new("other\n").unwrap();
    other.cosign("w", &pair, 5).unwrap();
    note.add_line(&other.lines()[0].encode()).unwrap();
    assert_eq!(note.attestation(&key), Err(Error::Signature("w".to_owned())));
}

/// A11 on a head: every mutation of a signature line, and every subset of the lines. The verdict
/// of the full note is the best there is.
#[test]
fn a11_no_change_of_signature_lines_improves_the_verdict() {
    let log = Log::with(2, 1, 3);
    let key = log.epochs.last().unwrap();
    let bytes = log.checkpoint(4).encode();
    let text = String::from_utf8(bytes.clone()).unwrap();
    let split = text.find("\n\n").unwrap() + 2;
    SignedHead::open(&bytes, key).unwrap();
    for at in split..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(SignedHead::open(&bad, key).is_err(), "byte {at}, bit {bit}");
        }
    }
    // With a byte between the key id and the signature.
    let mut line = Note::parse(&bytes).unwrap().lines()[0].clone();
    line.signature.insert(0, 0);
    let padded = format!("{}{}", &text[..split], line.encode());
    assert_eq!(SignedHead::open(padded.as_bytes(), key), Err(Error::Signature(line.name)));
    // Stripped, and replaced by a line of a key nobody knows under the same name.
    assert!(SignedHead::open(&bytes[..split], key).is_err());
    let mut forged = Note::new(&text[..split - 1]).unwrap();
    let name = format!("{}/0/1", log.deployment);
    forged.sign(&name, &witness_pair(3)).unwrap();
    assert_eq!(SignedHead::open(&forged.encode(), key), Err(Error::Unsigned(name.clone())));
    // The right key, passed off as another algorithm.
    let mut downgraded = Note::new(&text[..split - 1]).unwrap();
    downgraded.cosign(&name, &witness_pair(3), 7).unwrap();
    assert!(SignedHead::open(&downgraded.encode(), key).is_err());
}

#[test]
fn snapshot_unsigned_is_not_trusted() {
    let log = Log::with(3, 1, 3);
    let key = log.epochs.last().unwrap();
    let text = log.checkpoint(4).text().to_owned();
    assert!(SignedHead::open(text.as_bytes(), key).is_err());
    assert!(SignedHead::open(format!("{text}\n").as_bytes(), key).is_err());
    let mut note = Note::new(&text).unwrap();
    note.cosign("witness", &witness_pair(1), 7).unwrap();
    let name = format!("{}/0/1", log.deployment);
    assert_eq!(SignedHead::open(&note.encode(), key), Err(Error::Unsigned(name)));
}

#[test]
fn a_key_text_binds_name_algorithm_and_key() {
    let key = NoteKey::new("a/b", Algorithm::Cosignature, witness_pair(1).public()).unwrap();
    let text = key.to_text();
    assert_eq!(NoteKey::from_text(&text).as_ref(), Ok(&key));
    let n_bits = if full() { 8 } else { 3 };
    for at in 0..text.len() {
        for bit in 0..n_bits {
            let mut bad = text.clone().into_bytes();
            bad[at] ^= 1 << bit;
            let parsed = String::from_utf8(bad).ok().and_then(|it| NoteKey::from_text(&it).ok());
            assert_eq!(parsed, None, "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_head_record_tells_a_restored_backup_from_the_log() {
    let log = Log::with(4, 10, 30);
    let tile = |id| log.tile(id);
    let root_at = |size| log.tree.root_at(size, &tile);
    let record = HeadRecord {
        deployment: log.deployment.clone(),
        partition: 0,
        epoch: 1,
        size: 271,
        root: root_at(271).unwrap(),
        batch: log.head.hash,
    };
    assert_eq!(HeadRecord::decode(&record.encode()), Ok(record.clone()));
    assert_eq!(record.check(301, root_at), Ok(()));
    assert_eq!(record.check(270, root_at), Err(Error::Behind { known: 271, offered: 270 }));
    let forked = HeadRecord { root: Hash::default(), ..record.clone() };
    assert!(matches!(forked.check(301, root_at), Err(Error::Fork { size: 271, .. })));
    let bytes = record.encode();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(HeadRecord::decode(&bad).is_err(), "bit {bit}");
    }
    for end in 0..bytes.len() {
        assert!(HeadRecord::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
}
