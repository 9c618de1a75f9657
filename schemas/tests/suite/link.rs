//! The link rule, one refusal after the other (protocol.md §1).

use proptest::prelude::*;
use schemas::batch::HEADER_DOMAIN;
use schemas::signature::{KeyPair, signature_text};
use schemas::{Batch, Event, Hash, Head, Positions, Skip, link};

use crate::chain::{Deployment, Draft, key, tick};

/// A head with an owner, and the key of its epoch.
fn office() -> (Head, KeyPair) {
    (Deployment::new().elected().0, key(11))
}

/// What becomes of a correct successor after `change` and a signature by the epoch's key.
fn after(change: impl FnOnce(&mut Draft)) -> Result<Head, Skip> {
    let (head, key) = office();
    let mut draft = Draft::after(&head).ticks(2);
    change(&mut draft);
    link(&head, &draft.sign(&key))
}

#[test]
fn a_correct_successor_links_and_moves_the_head() {
    let (head, key) = office();
    let mut draft = Draft::after(&head).ticks(3);
    draft.header.positions = Positions { inbox: 4, control: 1, telemetry: 9 };
    let batch = draft.sign(&key);
    let next = link(&head, &batch).unwrap();
    assert_eq!(next.hash, batch.hash());
    assert_eq!(next.next_seq, head.next_seq + 3);
    assert_eq!(next.positions, draft.header.positions);
    assert_eq!((next.epoch, next.epoch_key), (1, Some(key.public())));
}

#[test]
fn a_batch_of_another_deployment_is_foreign() {
    assert_eq!(after(|it| it.header.deployment = "other-00".to_owned()), Err(Skip::Foreign));
}

#[test]
fn a_batch_of_another_partition_is_foreign() {
    assert_eq!(after(|it| it.header.partition = 1), Err(Skip::Foreign));
}

#[test]
fn a_batch_that_does_not_name_the_head_is_skipped() {
    assert_eq!(after(|it| it.header.prev = Hash::of(&[b"another"])), Err(Skip::Prev));
}

#[test]
fn a_batch_that_was_linked_before_is_skipped() {
    let (head, key) = office();
    let batch = Draft::after(&head).ticks(1).sign(&key);
    let next = link(&head, &batch).unwrap();
    assert_eq!(link(&next, &batch), Err(Skip::Prev));
}

#[test]
fn a_batch_with_a_gap_or_a_repeat_in_its_sequence_is_skipped() {
    assert_eq!(after(|it| it.header.first_seq += 1), Err(Skip::Sequence));
    assert_eq!(after(|it| it.header.first_seq -= 1), Err(Skip::Sequence));
}

#[test]
fn a_batch_that_takes_an_input_again_is_skipped() {
    let (head, key) = office();
    let mut draft = Draft::after(&head).ticks(1);
    draft.header.positions = Positions { inbox: 4, control: 2, telemetry: 9 };
    let head = link(&head, &draft.sign(&key)).unwrap();
    for back in [
        Positions { inbox: 3, ..head.positions },
        Positions { control: 1, ..head.positions },
        Positions { telemetry: 8, ..head.positions },
    ] {
        let mut draft = Draft::after(&head).ticks(1);
        draft.header.positions = back;
        assert_eq!(link(&head, &draft.sign(&key)), Err(Skip::Positions), "{back:?}");
    }
}

#[test]
fn a_batch_of_a_later_epoch_without_an_election_is_skipped() {
    assert_eq!(after(|it| it.header.epoch = 2), Err(Skip::Epoch));
}

#[test]
fn nobody_writes_before_the_first_election() {
    let deployment = Deployment::new();
    let genesis = deployment.genesis();
    let batch = Draft::after(&genesis).ticks(1).sign(&key(11));
    assert_eq!(link(&genesis, &batch), Err(Skip::Epoch));
}

#[test]
fn an_election_for_any_epoch_but_the_next_is_skipped() {
    let deployment = Deployment::new();
    let (head, _) = deployment.elected();
    for epoch in [0, 1, 3, u64::MAX] {
        // The certificate is right for that epoch: only the order is wrong.
        let event = deployment.election(epoch & (i64::MAX as u64), &key(12));
        let batch = Draft::after(&head).epoch(epoch).says(&event).sign(&key(12));
        assert_eq!(link(&head, &batch), Err(Skip::Epoch), "{epoch}");
    }
}

#[test]
fn an_election_takes_office_and_the_former_owner_is_out() {
    let deployment = Deployment::new();
    let (head, _) = deployment.elected();
    let second = Draft::after(&head).epoch(2).says(&deployment.election(2, &key(12)));
    let head = link(&head, &second.sign(&key(12))).unwrap();
    assert_eq!((head.epoch, head.epoch_key), (2, Some(key(12).public())));

    let by_new_owner = Draft::after(&head).ticks(1).sign(&key(12));
    assert!(link(&head, &by_new_owner).is_ok());
}

/// Spec 10 §12. The former owner writes on, in its own epoch and in the new one's name.
#[test]
fn old_epoch_writer_is_fenced() {
    let deployment = Deployment::new();
    let (before, _) = deployment.elected();
    let election = Draft::after(&before).epoch(2).says(&deployment.election(2, &key(12)));
    let head = link(&before, &election.sign(&key(12))).unwrap();

    let unaware = Draft::after(&before).ticks(1).sign(&key(11));
    assert_eq!(link(&head, &unaware), Err(Skip::Prev), "it does not know of the election");
    let stale = Draft::after(&head).epoch(1).ticks(1).sign(&key(11));
    assert_eq!(link(&head, &stale), Err(Skip::Epoch), "it knows and writes in its old epoch");
    let usurped = Draft::after(&head).epoch(2).ticks(1).sign(&key(11));
    assert_eq!(link(&head, &usurped), Err(Skip::Signature), "it writes under its old key");
}

/// Two processes are assigned one partition: whichever election links first wins, and the other
/// must read on and try again.
#[test]
fn of_two_elections_on_one_head_the_first_wins() {
    let deployment = Deployment::new();
    let (head, _) = deployment.elected();
    let elect = |seed| {
        let event = deployment.election(2, &key(seed));
        Draft::after(&head).epoch(2).says(&event).sign(&key(seed))
    };
    let (first, second) = (elect(12), elect(13));
    let next = link(&head, &first).unwrap();
    assert_eq!(link(&next, &second), Err(Skip::Prev));
}

#[test]
fn an_election_that_the_root_did_not_certify_is_skipped() {
    let deployment = Deployment::new();
    let (head, _) = deployment.elected();
    let Event::OwnerElected(right) = deployment.election(2, &key(12)) else { unreachable!() };
    let other = Deployment { root: key(3), ..Deployment::new() };
    let Event::OwnerElected(of_other_root) = other.election(2, &key(12)) else { unreachable!() };

    let mut of_other_key = right.clone();
    of_other_key.epoch_key = key(13).public();
    let mut of_other_epoch = right.clone();
    of_other_epoch.epoch = 3;
    let mut without_signature = right.clone();
    without_signature.certificate.epoch_signature = String::new();
    let mut by_other_node = right.clone();
    by_other_node.certificate.node = key(3).public();
    let mut self_made = right;
    let forged = key(12).sign("healwright/node-certificate/v1", b"");
    self_made.certificate.node_signature = signature_text(&forged);

    let forgeries = [
        ("another root", of_other_root),
        ("another epoch key", of_other_key),
        ("another epoch", of_other_epoch),
        ("no signature", without_signature),
        ("another node", by_other_node),
        ("a node signature of its own", self_made),
    ];
    for (what, elected) in forgeries {
        let draft = Draft::after(&head).epoch(2).says(&Event::from(elected));
        assert_eq!(link(&head, &draft.sign(&key(12))), Err(Skip::Certificate), "{what}");
    }
}

#[test]
fn an_election_must_be_signed_by_the_key_that_it_introduces() {
    let deployment = Deployment::new();
    let (head, _) = deployment.elected();
    let draft = Draft::after(&head).epoch(2).says(&deployment.election(2, &key(12)));
    assert_eq!(link(&head, &draft.sign(&key(11))), Err(Skip::Signature));
}

#[test]
fn an_election_that_is_not_the_first_entry_elects_nobody() {
    let deployment = Deployment::new();
    let (head, _) = deployment.elected();
    let draft = Draft::after(&head).epoch(2).ticks(1).says(&deployment.election(2, &key(12)));
    assert_eq!(link(&head, &draft.sign(&key(12))), Err(Skip::Epoch));
}

#[test]
fn a_batch_under_another_key_is_skipped() {
    let (head, _) = office();
    let batch = Draft::after(&head).ticks(1).sign(&key(99));
    assert_eq!(link(&head, &batch), Err(Skip::Signature));
}

/// A signature made for another purpose does not sign a header.
#[test]
fn a_signature_of_another_domain_does_not_verify() {
    let (head, key) = office();
    let mut batch = Draft::after(&head).ticks(1).sign(&key);
    batch.signature = key.sign("healwright/approval/v1", &batch.header_bytes);
    assert_eq!(link(&head, &batch), Err(Skip::Signature));
    batch.signature = key.sign(HEADER_DOMAIN, &batch.header_bytes);
    assert!(link(&head, &batch).is_ok());
}

#[test]
fn entries_that_were_not_signed_are_skipped() {
    let (head, key) = office();
    let two = Draft::after(&head).ticks(2).sign(&key);
    let other = Draft::after(&head).says(&tick(7)).says(&tick(8)).sign(&key);

    let mut swapped = two.clone();
    swapped.entries = other.entries;
    assert_eq!(link(&head, &swapped), Err(Skip::Body));
    let mut reordered = two.clone();
    reordered.entries.reverse();
    assert_eq!(link(&head, &reordered), Err(Skip::Body));
    let mut cut = two.clone();
    cut.entries.pop();
    assert_eq!(link(&head, &cut), Err(Skip::Body));
    let mut repaid = two.clone();
    repaid.entries[1].payload = tick(9).encode().unwrap();
    assert_eq!(link(&head, &repaid), Err(Skip::Body));
    let mut resalted = two;
    resalted.entries[1].salt = [0xee; 32];
    assert_eq!(link(&head, &resalted), Err(Skip::Body));
}

#[test]
fn an_entry_that_claims_another_place_is_skipped() {
    let misplaced = after(|it| {
        let mut envelope = it.entries[1].envelope.clone();
        envelope.seq += 1;
        it.entries[1] = schemas::Entry::new(envelope, [0; 32], it.entries[1].payload.clone());
    });
    assert_eq!(misplaced, Err(Skip::Body));
}

/// Spec 80 §5: entries cannot move between chains.
#[test]
fn genesis_differs_per_chain() {
    let heads = [
        Head::genesis("a-00", 0),
        Head::genesis("a-00", 1),
        Head::genesis("b-00", 0),
        Head::genesis("a-00/0", 0),
    ];
    for (at, one) in heads.iter().enumerate() {
        assert!(heads[..at].iter().all(|other| other.hash != one.hash), "{one:?}");
    }
    let stated = "healwright-genesis:a-00/1";
    assert_eq!(heads[1].hash, Hash::of(&[stated.as_bytes()]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(300, 20_000)))]

    /// Every byte of a record is covered: by the hash that the next batch names, by the
    /// signature, by the body hash or by a commitment.
    #[test]
    fn a_record_with_one_flipped_bit_does_not_link(
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let (head, key) = office();
        let mut bytes = Draft::after(&head).ticks(3).sign(&key).encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        if let Ok(batch) = Batch::decode(&bytes) {
            prop_assert!(link(&head, &batch).is_err(), "byte {} bit {}", at, bit);
        }
    }
}
