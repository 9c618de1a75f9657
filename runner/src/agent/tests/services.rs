//! A service's command reaches the host only from the chain.
#![allow(clippy::unwrap_used)]

use schemas::event::{ConfigActivated, Mode};
use schemas::signature::{KeyPair, PublicKey};

use super::bed::{Bed, HOST};
use crate::wire::{Base64, FromRunner, ModeEpoch, ToRunner};

fn n_registered(bed: &Bed) -> usize {
    bed.machine.registered.lock().unwrap().len()
}

fn told(bed: &mut Bed, seq: u64) -> Vec<FromRunner> {
    let from = bed.seen().size;
    let evidence = Box::new(bed.plane.evidence(from, &[seq]));
    bed.say(ToRunner::Service { evidence })
}

fn is_refused(said: &[FromRunner]) -> bool {
    matches!(said, [FromRunner::EvidenceRefused { .. }])
}

#[test]
fn a21_a_service_that_is_not_in_the_ledger_is_not_started() {
    let mut bed = Bed::new();
    let seq = bed.plane.append("evil", bed.plane.service("evil", HOST));
    let from = bed.seen().size;
    let mut evidence = bed.plane.evidence(from, &[seq]);
    let mut forged = bed.plane.service("evil", HOST);
    forged.body = Some(r#"{"name":"evil","host":"here","command":["rm","-rf","/"]}"#.into());
    forged.digest = ConfigActivated::digest_of(forged.body.as_deref().unwrap());
    evidence.entries[0].entry = Base64(bed.plane.entry(seq, "evil", &forged.into()).to_bytes());
    let said = bed.say(ToRunner::Service { evidence: Box::new(evidence) });
    assert!(is_refused(&said), "{said:?}");
    assert_eq!(n_registered(&bed), 1);
}

#[test]
fn a_definition_for_another_host_or_that_contradicts_itself_is_refused() {
    let mut bed = Bed::new();
    let elsewhere = bed.plane.service("other", "elsewhere");
    let mut uncovered = bed.plane.service("other", HOST);
    uncovered.digest = ConfigActivated::digest_of("{}");
    let mut misnamed = bed.plane.service("other", HOST);
    misnamed.name = "service/another".into();
    let mut no_service = bed.plane.service("other", HOST);
    no_service.name = "profile".into();
    for config in [elsewhere, uncovered, misnamed, no_service] {
        let seq = bed.plane.append("c", config);
        let said = told(&mut bed, seq);
        assert!(is_refused(&said), "{said:?}");
    }
    assert_eq!(n_registered(&bed), 1);
}

#[test]
fn a_newer_definition_replaces_and_an_older_one_never_comes_back() {
    let mut bed = Bed::new();
    let old = bed.plane.append("c", bed.plane.service("other", HOST));
    let new = bed.plane.append("c", bed.plane.service("other", HOST));
    for restarts in [false, true] {
        if restarts {
            bed.restart();
        }
        let said = told(&mut bed, new);
        assert!(matches!(&said[..], [FromRunner::Registered { error: None, .. }]), "{said:?}");
        assert_eq!(told(&mut bed, old), []);
    }
    assert_eq!(n_registered(&bed), 3);
}

#[test]
fn b10_a_service_told_while_frozen_waits_for_a_mode_that_allows_starts() {
    let mut bed = Bed::new();
    bed.mode = ModeEpoch { epoch: 2, mode: Mode::Frozen };
    let mode = bed.mode;
    bed.say(ToRunner::ModeEpoch(mode));
    let seq = bed.plane.append("c", bed.plane.service("other", HOST));
    assert_eq!(told(&mut bed, seq), []);
    assert_eq!(n_registered(&bed), 1);
    let said = bed.say(ToRunner::ModeEpoch(ModeEpoch { epoch: 3, mode: Mode::Normal }));
    assert!(said.iter().any(|it| matches!(it, FromRunner::Registered { error: None, .. })));
    assert_eq!(n_registered(&bed), 2);
}

fn signers(bed: &Bed, keys: &[PublicKey]) -> ConfigActivated {
    let named: Vec<String> =
        keys.iter().enumerate().map(|(n, key)| format!(r#""s{n}":"{key}""#)).collect();
    let body = format!(r#"{{"keys":{{{}}}}}"#, named.join(","));
    let digest = ConfigActivated::digest_of(&body);
    let service = bed.plane.service("any", HOST);
    ConfigActivated { name: "signers".into(), digest, body: Some(body), ..service }
}

#[test]
fn keys_of_artifacts_come_from_the_chain_and_a_withdrawn_one_never_comes_back() {
    let mut bed = Bed::new();
    let keys = [1, 2].map(|seed| KeyPair::from_seed(&[seed; 32]).public());
    let old = bed.plane.append("c", signers(&bed, &keys));
    let new = bed.plane.append("c", signers(&bed, &keys[..1]));
    bed.say(ToRunner::ModeEpoch(ModeEpoch { epoch: 2, mode: Mode::Frozen }));
    told(&mut bed, new);
    assert_eq!(*bed.machine.trusted.lock().unwrap(), keys[..1]);
    assert_eq!(told(&mut bed, old), []);
    let from = bed.seen().size;
    let mut evidence = bed.plane.evidence(from, &[new]);
    let forged = bed.plane.entry(new, "c", &signers(&bed, &keys).into());
    evidence.entries[0].entry = Base64(forged.to_bytes());
    assert!(is_refused(&bed.say(ToRunner::Service { evidence: Box::new(evidence) })));
    assert_eq!(*bed.machine.trusted.lock().unwrap(), keys[..1]);
}
