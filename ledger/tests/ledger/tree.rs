//! The tree against the definition in RFC 6962 §2.1, read off literally, and against ct-merkle.

use std::collections::BTreeMap;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ledger::tree::{empty_root, node};
use ledger::{Error, TileId, Tree, proof};
use schemas::Hash;
use schemas::envelope::leaf;
use sha2::Sha256;

use super::fixture::{Dice, full};

/// RFC 6962 §2.1, word for word.
fn definition(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [one] => *one,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            node(&definition(&leaves[..split]), &definition(&leaves[split..]))
        }
    }
}

fn leaves(n: usize) -> Vec<Hash> {
    (0..n as u64).map(|at| leaf(&at.to_be_bytes())).collect()
}

/// A tree of `leaves` whose full tiles have left it.
fn stored(leaves: &[Hash]) -> (Tree, BTreeMap<TileId, Vec<u8>>) {
    let mut tree = Tree::new();
    let mut tiles = BTreeMap::new();
    for leaf in leaves {
        tree.push(*leaf);
        tiles.extend(tree.take_full_tiles());
    }
    (tree, tiles)
}

#[test]
fn every_root_is_the_one_of_the_definition() {
    let leaves = leaves(1100);
    let mut tree = Tree::new();
    assert_eq!(tree.root(), empty_root());
    for n in 1..=leaves.len() {
        tree.push(leaves[n - 1]);
        assert_eq!(tree.root(), definition(&leaves[..n]), "at size {n}");
    }
    assert_eq!(tree.size(), 1100);
}

#[test]
fn odd_leaf_is_not_duplicated() {
    for n in 1..=300 {
        let mut leaves = leaves(n);
        let (tree, _) = stored(&leaves);
        leaves.push(leaves[n - 1]);
        let (repeated, _) = stored(&leaves);
        assert_ne!(tree.root(), repeated.root(), "{n} leaves, the last one repeated");
    }
}

/// A14: no list of leaves shares its root with a list made from its inner nodes.
#[test]
fn a14_no_ambiguity_between_leaves_and_nodes() {
    let mut seen = BTreeMap::new();
    for n in 1..=if full() { 600 } else { 130 } {
        let leaves = leaves(n);
        // The list itself, its last leaf repeated, and each row of inner nodes as leaves.
        let mut lists = vec![leaves.clone(), [&leaves[..], &leaves[n - 1..]].concat()];
        let mut row = leaves;
        while row.len() > 1 {
            let pairs = row.chunks(2).map(|pair| match pair {
                [left, right] => node(left, right),
                _ => pair[0],
            });
            row = pairs.collect();
            // As data that an attacker would submit, hashed as a leaf each.
            lists.push(row.iter().map(|hash| leaf(&hash.0)).collect());
            lists.push(row.iter().map(|hash| leaf(&[&hash.0[..], &hash.0].concat())).collect());
        }
        for list in lists {
            let root = stored(&list).0.root();
            let same = seen.entry(root).or_insert_with(|| list.clone());
            assert_eq!(*same, list, "two lists share the root {root}");
        }
    }
    assert_ne!(leaf(&[0; 64]), node(&Hash([0; 32]), &Hash([0; 32])));
}

#[test]
fn proofs_of_all_places_and_sizes_agree_with_ct_merkle() {
    let n_max = if full() { 600 } else { 70 };
    let (tree, tiles) = stored(&leaves(n_max));
    let lookup = |id| tiles.get(&id).cloned();
    let mut other = MemoryBackedTree::<Sha256, [u8; 8]>::new();
    let mut roots = vec![empty_root()];
    for size in 1..=n_max as u64 {
        other.push((size - 1).to_be_bytes());
        let root = tree.root_at(size, &lookup).unwrap();
        assert_eq!(root.0[..], other.root().as_bytes()[..]);
        roots.push(root);
        for index in 0..size {
            let path = proof::inclusion(&tree, index, size, &lookup).unwrap();
            let theirs = other.prove_inclusion(index as usize);
            assert_eq!(concat(&path), theirs.as_bytes(), "inclusion of {index} in {size}");
            let leaf = leaf(&index.to_be_bytes());
            proof::verify_inclusion(&leaf, index, size, &path, &root).unwrap();
        }
        for old in 1..=size {
            let path = proof::consistency(&tree, old, size, &lookup).unwrap();
            let theirs = other.prove_consistency((size - old) as usize);
            assert_eq!(concat(&path), theirs.as_bytes(), "consistency of {old} and {size}");
            let old = (old, &roots[old as usize]);
            proof::verify_consistency(old, (size, &root), &path).unwrap();
        }
    }
}

fn concat(path: &[Hash]) -> Vec<u8> {
    path.iter().flat_map(|hash| hash.0).collect()
}

#[test]
fn proofs_across_tile_levels_verify() {
    let n = 256 * 256 + 300;
    let leaves = leaves(n);
    let (tree, tiles) = stored(&leaves);
    let lookup = |id| tiles.get(&id).cloned();
    let mut dice = Dice(7);
    for _ in 0..400 {
        let size = 1 + dice.below(n) as u64;
        let index = dice.below(size as usize) as u64;
        let root = tree.root_at(size, &lookup).unwrap();
        let path = proof::inclusion(&tree, index, size, &lookup).unwrap();
        let leaf = leaves[index as usize];
        proof::verify_inclusion(&leaf, index, size, &path, &root).unwrap();
        if index > 0 {
            let old = (index, &tree.root_at(index, &lookup).unwrap());
            let path = proof::consistency(&tree, index, size, &lookup).unwrap();
            proof::verify_consistency(old, (size, &root), &path).unwrap();
        }
    }
    assert_eq!(tree.root(), definition(&leaves));
}

#[test]
fn a_proof_with_any_hash_changed_added_or_left_out_is_refused() {
    let (tree, tiles) = stored(&leaves(37));
    let lookup = |id| tiles.get(&id).cloned();
    let root = tree.root();
    for index in 0..37u64 {
        let leaf = leaf(&index.to_be_bytes());
        let path = proof::inclusion(&tree, index, 37, &lookup).unwrap();
        for bad in mutations(&path) {
            proof::verify_inclusion(&leaf, index, 37, &bad, &root).unwrap_err();
        }
        for other in (0..37).filter(|other| *other != index) {
            proof::verify_inclusion(&leaf, other, 37, &path, &root).unwrap_err();
        }
        if index > 0 {
            let old = (index, &tree.root_at(index, &lookup).unwrap());
            let path = proof::consistency(&tree, index, 37, &lookup).unwrap();
            for bad in mutations(&path) {
                proof::verify_consistency(old, (37, &root), &bad).unwrap_err();
            }
        }
    }
}

fn mutations(path: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all = vec![[path, &[Hash::default()]].concat(), [&[Hash::default()], path].concat()];
    for at in 0..path.len() {
        let mut changed = path.to_vec();
        changed[at].0[at % 32] ^= 1;
        let mut shorter = path.to_vec();
        shorter.remove(at);
        all.extend([changed, shorter]);
    }
    all
}

#[test]
fn a_restored_tree_is_the_tree() {
    for n in [0, 1, 255, 256, 257, 511, 512, 1000, 65_535, 65_536, 65_537, 70_000] {
        let leaves = leaves(n);
        let (tree, tiles) = stored(&leaves);
        let lookup = |id| tiles.get(&id).cloned();
        let mut restored = Tree::restore(n as u64, &lookup, tree.tail()).unwrap();
        let mut tree = tree;
        assert_eq!(restored.root(), tree.root(), "at size {n}");
        for leaf in self::leaves(600) {
            tree.push(leaf);
            restored.push(leaf);
        }
        assert_eq!(restored.root(), tree.root(), "600 leaves after size {n}");
        assert_eq!(restored.take_full_tiles(), tree.take_full_tiles());
    }
}

#[test]
fn a_tree_proves_before_its_tiles_are_stored() {
    let leaves = leaves(700);
    let mut tree = Tree::new();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    let path = proof::inclusion(&tree, 300, 700, &|_| None).unwrap();
    proof::verify_inclusion(&leaves[300], 300, 700, &path, &tree.root()).unwrap();
}

#[test]
fn a_tree_without_its_tile_says_which() {
    let (tree, mut tiles) = stored(&leaves(600));
    let gone = TileId { level: 0, index: 1 };
    tiles.remove(&gone);
    let missing = Err(Error::Tile("tile/0/001".to_owned()));
    assert_eq!(Tree::restore(600, &|id| tiles.get(&id).cloned(), tree.tail()), missing);
    tiles.insert(gone, vec![0; 8191]);
    assert_eq!(Tree::restore(600, &|id| tiles.get(&id).cloned(), tree.tail()), missing);
    let out = proof::inclusion(&tree, 600, 600, &|_| None);
    assert_eq!(out, Err(Error::Range { place: 600, size: 600 }));
}

/// The crate has no call that changes or removes a leaf: append and read are all there is.
#[test]
fn no_update_no_delete_api() {
    let sources = ["tree", "proof", "chain", "bundle", "witness", "head", "entry", "checkpoint"];
    for source in sources {
        let path = format!("{}/src/{source}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines().filter(|line| line.trim_start().starts_with("pub fn ")) {
            let name = line.split("pub fn ").nth(1).unwrap().split(['(', '<']).next().unwrap();
            let verbs = ["update", "delete", "remove", "set", "insert", "truncate", "pop", "clear"];
            assert!(!verbs.iter().any(|verb| name.starts_with(verb)), "{source}::{name}");
        }
    }
}

#[test]
fn tile_paths_are_those_of_c2sp() {
    let path = |level, index, width| TileId { level, index }.path(width);
    assert_eq!(path(0, 0, 256), "tile/0/000");
    assert_eq!(path(0, 1_234_067, 256), "tile/0/x001/x234/067");
    assert_eq!(path(1, 999, 12), "tile/1/999.p/12");
    assert_eq!(path(0, 273, 112), "tile/0/273.p/112");
}
