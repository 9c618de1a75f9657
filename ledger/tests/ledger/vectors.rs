//! Vectors of others: 196 Merkle, 914 CCTV and 151 Wycheproof. `tests/data/README.md` says where
//! they come from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ledger::proof;
use schemas::Hash;
use schemas::ids::unhex;
use schemas::signature::PublicKey;
use serde_json::Value;

fn lines(text: &str) -> impl Iterator<Item = Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

/// A hash of a vector; `None` for an empty one, which our types cannot even hold. Upstream also
/// writes `don't care` there; such texts stay distinct.
fn hash(value: &Value) -> Option<Hash> {
    let bytes = BASE64.decode(value.as_str().unwrap()).unwrap();
    let other = || Hash::of(&[b"not a hash", &bytes]);
    let hash = <[u8; 32]>::try_from(&bytes[..]).map_or_else(|_| other(), Hash);
    (!bytes.is_empty()).then_some(hash)
}

/// Whether our verifier accepts a vector.
fn accepts(it: &Value) -> Option<bool> {
    let number = |name: &str| it[name].as_u64().unwrap();
    let path = it["proof"].as_array().map_or(&[][..], Vec::as_slice);
    let path: Vec<Hash> = path.iter().map(hash).collect::<Option<_>>()?;
    if it["file"].as_str().unwrap().starts_with("inclusion") {
        let (leaf, root) = (hash(&it["leafHash"])?, hash(&it["root"])?);
        let (index, size) = (number("leafIdx"), number("treeSize"));
        return Some(proof::verify_inclusion(&leaf, index, size, &path, &root).is_ok());
    }
    let (old, new) = (hash(&it["root1"])?, hash(&it["root2"])?);
    let (old, new) = ((number("size1"), &old), (number("size2"), &new));
    Some(proof::verify_consistency(old, new, &path).is_ok())
}

#[test]
fn the_196_merkle_vectors_pass() {
    let vectors: Vec<Value> = lines(include_str!("../data/merkle.ndjson")).collect();
    assert_eq!(vectors.len(), 196);
    for it in vectors {
        let accepted = accepts(&it).unwrap_or(false);
        assert_eq!(accepted, !it["wantErr"].as_bool().unwrap(), "{}", it["file"]);
    }
}

/// Numbers of the CCTV vectors that the acceptance rule accepts.
pub(crate) fn cctv_accepted() -> Vec<u64> {
    let vectors = lines(include_str!("../data/cctv-ed25519.ndjson"));
    let accepted = vectors.filter(|it| {
        let key = PublicKey(unhex(it["key"].as_str().unwrap()).unwrap());
        let signature = unhex(it["sig"].as_str().unwrap()).unwrap();
        key.verify_bare(it["msg"].as_str().unwrap().as_bytes(), &signature)
    });
    accepted.map(|it| it["number"].as_u64().unwrap()).collect()
}

/// A12, one of the verifiers: 43 of 914 are accepted, and no low-order point is among them.
#[test]
fn a12_of_the_914_cctv_vectors_43_are_accepted() {
    let vectors: Vec<Value> = lines(include_str!("../data/cctv-ed25519.ndjson")).collect();
    assert_eq!(vectors.len(), 914);
    let accepted = cctv_accepted();
    assert_eq!(accepted.len(), 43);
    let refused = ["low_order_A", "low_order_R", "non_canonical_A", "non_canonical_R"];
    for it in vectors.iter().filter(|it| accepted.contains(&it["number"].as_u64().unwrap())) {
        let flags = it["flags"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(!flags.iter().any(|flag| refused.contains(&flag.as_str().unwrap())), "{it}");
    }
}

#[test]
fn the_wycheproof_ed25519_vectors_pass() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let mut n = 0;
    for group in set.test_groups {
        let key = PublicKey(group.key.pk[..].try_into().unwrap());
        for test in group.tests {
            let signature = <[u8; 64]>::try_from(&test.sig[..]);
            let holds = signature.is_ok_and(|it| key.verify_bare(&test.msg, &it));
            assert_eq!(holds, test.result == wycheproof::TestResult::Valid, "{}", test.tc_id);
            n += 1;
        }
    }
    assert_eq!(n, 151);
}
