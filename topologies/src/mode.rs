//! The operating mode, freeze and unfreeze (spec 50 §11–§12).
//!
//! The mode can only reduce what the loop may do. It deliberately decides nothing about services
//! and asks no vote: a freeze needs one registered signature and works at every moment, also
//! before a profile is active.
//!
//! Invariants:
//! - `mode_epoch` grows with each change and never otherwise.
//! - Before the first change there is no mode, and whoever reads that fails closed.
//! - A signed command counts once: its nonce is kept for ever, because signatures never expire.
//! - A freeze never lifts itself; lifting it takes every registered key, not every signature.

use std::collections::{BTreeMap, BTreeSet};

use schemas::event::{
    AnnotationKind, AuditConfirmation, FREEZE_DOMAIN, FreezeCommand, FreezeVerb, Mode, ModeChanged,
};
use schemas::signature::{PublicKey, signature_from_text};
use schemas::{Event, Kind, Ns, Uuid};
use serde::{Deserialize, Serialize};

use crate::config;
use crate::fold::{Folded, Output, Processor, View};
use crate::said;

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "mode",
    reads: &[Kind::ConfigActivated, Kind::FreezeCommand],
    says: &[Kind::ModeChanged, Kind::AnnotationAdded],
    step,
};

/// Scope of the mode before a freeze names one.
const SCOPE: &str = "deployment";
/// State key of [`Current`]. Persisted: frozen.
const CURRENT: &str = "current";

/// The mode as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Current {
    /// What is allowed.
    pub mode: Mode,
    /// Running number of modes; every runner request names it.
    pub epoch: u64,
    /// Scope that the last change named.
    pub scope: String,
    /// Since when.
    pub since: Ns,
    /// Why, as it was said.
    pub cause: String,
    /// Keys that have agreed to lift the freeze.
    agreed: Vec<PublicKey>,
}

/// Mode and epoch; `None` is unknown and allows nothing.
pub fn current(view: &View<'_>) -> Option<(Mode, u64)> {
    standing(view).map(|it| (it.mode, it.epoch))
}

/// The whole of it.
pub fn standing(view: &View<'_>) -> Option<Current> {
    view.peek(PROCESSOR.name, CURRENT)
}

/// The epoch under which a mutating request may be said, or a sentence saying why none may.
///
/// # Errors
/// The rule, and the command that would change it.
pub fn allows_action(view: &View<'_>) -> Result<u64, String> {
    match standing(view) {
        None => Err("the mode is unknown, and unknown allows nothing; \
                     `healwright up` activates a profile and with it a mode"
            .to_owned()),
        Some(it) if it.mode.allows_action() => Ok(it.epoch),
        Some(it) => Err(format!(
            "the mode is {} since {} ({}); `healwright unfreeze` lifts it",
            it.mode, it.since, it.cause
        )),
    }
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Event::FreezeCommand(command) = entry.event {
        let answer = command_of(view, entry, command);
        return vec![answer.unwrap_or_else(|why| said::refusal(entry, PROCESSOR.name, why))];
    }
    first_profile(view, entry).into_iter().collect()
}

/// The first profile starts the deployment. A later one changes numbers, never the mode, and
/// none lifts a freeze.
fn first_profile(view: &mut View<'_>, entry: &Folded<'_>) -> Option<Output> {
    if config::policy_version(view) == 0 || standing(view).is_some() {
        return None;
    }
    let cause = format!("profile {} activated", config::profile(view).name);
    Some(change(view, entry, Mode::Normal, SCOPE, cause))
}

fn command_of(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    command: &FreezeCommand,
) -> Result<Output, String> {
    let key = verified(view, command)?;
    spend_nonce(view, entry, command)?;
    match command.command {
        FreezeVerb::Freeze => freeze(view, entry, command),
        FreezeVerb::UnfreezeSign | FreezeVerb::Unfreeze => unfreeze(view, entry, command, key),
        FreezeVerb::SignerSetChange => Err("signers change with the configuration named \
                                            `signers`, not by a freeze command"
            .to_owned()),
    }
}

/// The registered key under which the command's signature holds.
fn verified(view: &View<'_>, command: &FreezeCommand) -> Result<PublicKey, String> {
    let signers = config::signers(view).keys;
    let Some(key) = signers.get(&command.signer_id) else {
        let names: Vec<&str> = signers.keys().map(String::as_str).collect();
        return Err(format!(
            "{:?} is no registered signer; registered are: {}",
            command.signer_id,
            names.join(", ")
        ));
    };
    let holds = signature_from_text(&command.signature)
        .is_some_and(|it| key.verify(FREEZE_DOMAIN, &command.statement(), &it));
    if !holds {
        return Err(format!(
            "the signature is not {}'s over this command; sign it anew with `healwright {}`",
            command.signer_id,
            verb(command.command)
        ));
    }
    Ok(*key)
}

/// Only a command whose signature holds spends its nonce, so nobody can spend another's.
fn spend_nonce(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    command: &FreezeCommand,
) -> Result<(), String> {
    if command.nonce.is_empty() {
        return Err("the command has no nonce, so that it could be replayed later; \
                    sign it anew with one"
            .to_owned());
    }
    let name = [command.signer_id.as_bytes(), command.nonce.as_bytes()];
    let key = format!("nonce/{}", Uuid::named("healwright/nonce/v1", &name));
    if let Some(place) = view.load::<String>(&key) {
        return Err(format!("this very command was already taken at {place}; sign a new one"));
    }
    view.save(&key, &entry.reference());
    Ok(())
}

fn freeze(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    command: &FreezeCommand,
) -> Result<Output, String> {
    if let Some(it) = standing(view).filter(|it| it.mode == Mode::Frozen) {
        return Err(format!(
            "already frozen since {} ({}); the first one counts",
            it.since, it.cause
        ));
    }
    let alone = if keys(view).len() == 1 { " (SINGLE-SIGNER)" } else { "" };
    let cause = format!("frozen by {}{alone}: {}", command.signer_id, command.reason);
    Ok(change(view, entry, Mode::Frozen, &command.scope, cause))
}

fn unfreeze(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    command: &FreezeCommand,
    key: PublicKey,
) -> Result<Output, String> {
    let Some(mut it) = standing(view).filter(|it| it.mode == Mode::Frozen) else {
        return Err("nothing is frozen".to_owned());
    };
    if it.scope != command.scope {
        return Err(format!("the freeze is of scope {:?}, not of {:?}", it.scope, command.scope));
    }
    if let Some(confirmation) = &command.audit_confirmation {
        backed(confirmation)?;
    }
    let keys = keys(view);
    let minimum = config::profile(view).signers_min as usize;
    if keys.len() < minimum {
        return Err(format!(
            "an unfreeze needs {minimum} signers and {} are registered; \
             register more in the configuration named `signers`",
            keys.len()
        ));
    }
    if !it.agreed.contains(&key) {
        it.agreed.push(key);
    }
    it.agreed.retain(|agreed| keys.contains(agreed));
    let (received, needed) = (it.agreed.len(), keys.len());
    if received < needed {
        view.save(CURRENT, &it);
        let sentence = format!(
            "received {received} of {needed} signatures; the others sign with `healwright unfreeze`"
        );
        return Ok(said::note(entry, PROCESSOR.name, AnnotationKind::HumanFeedback, sentence));
    }
    let by = if needed == 1 { "SINGLE-SIGNER".to_owned() } else { format!("all {needed} signers") };
    let cause = format!("unfrozen by {} ({by}): {}", command.signer_id, command.reason);
    Ok(change(view, entry, Mode::Normal, &command.scope, cause))
}

/// The ratio is recomputed from the confirmation, for it carries only these numbers (§12).
fn backed(confirmation: &AuditConfirmation) -> Result<(), String> {
    let ratio = confirmation.on_chain_balance_usd / confirmation.ledger_cc_outstanding;
    let confirmed = ratio.min(confirmation.coherence_score);
    if confirmed >= 1.0 {
        return Ok(());
    }
    Err(format!("the confirmed backing ratio is {confirmed:.4}, and an unfreeze needs 1.0"))
}

/// Distinct registered keys: a quorum counts keys, never names or signatures.
fn keys(view: &View<'_>) -> BTreeSet<PublicKey> {
    config::signers(view).keys.into_values().collect()
}

fn change(view: &mut View<'_>, entry: &Folded<'_>, to: Mode, scope: &str, cause: String) -> Output {
    let before = standing(view);
    let from = before.as_ref().map_or(Mode::Frozen, |it| it.mode);
    let epoch = before.map_or(0, |it| it.epoch) + 1;
    let scope = if scope.is_empty() { SCOPE } else { scope };
    let current = Current {
        mode: to,
        epoch,
        scope: scope.to_owned(),
        since: entry.now(),
        cause: cause.clone(),
        agreed: Vec::new(),
    };
    view.save(CURRENT, &current);
    let changed = ModeChanged {
        scope: scope.to_owned(),
        from,
        to,
        cause,
        composite: None,
        invariants: BTreeMap::new(),
        incident_id: None,
        mode_epoch: epoch,
    };
    Output::new(scope, changed).with_priority(10)
}

fn verb(verb: FreezeVerb) -> &'static str {
    match verb {
        FreezeVerb::Freeze => "freeze",
        FreezeVerb::UnfreezeSign | FreezeVerb::Unfreeze => "unfreeze",
        FreezeVerb::SignerSetChange => "config",
    }
}
