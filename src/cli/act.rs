//! Commands that say something to a running node: each is signed by the operator's key where
//! the loop demands a signature.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, bail};
use schemas::event::{
    APPROVAL_DOMAIN, ApprovalGiven, ApprovalVerdict, ChangeKind, ChangeObserved, FREEZE_DOMAIN,
    FreezeCommand, FreezeVerb, RELEASE_DOMAIN, ReleaseRequested,
};
use schemas::signature::signature_text;
use schemas::{Ns, Uuid};
use serde_json::json;

use super::{Approve, Change, Form, Freeze, Repair, verdict as came_of};
use crate::engine::wall_now;
use crate::http::api::{SKIP_DOMAIN, skip_statement};
use crate::node::OPERATOR;
use crate::out::Out;
use crate::session::Session;

/// An approval is good for this long.
const APPROVAL_FOR: Ns = Ns::from_s(3600);

/// `healwright approve` and `healwright reject`.
///
/// # Errors
/// No such proposal, another digest than expected, no node, no key.
pub fn approve(
    session: &Session,
    out: Out,
    args: &Approve,
    verdict: ApprovalVerdict,
) -> anyhow::Result<bool> {
    let projection = session.projection()?;
    let model = projection.model();
    let view = model.proposal(&args.id).with_context(|| {
        format!("no single proposal is called {:?}; see `healwright proposals list`", args.id)
    })?;
    let digest = view.proposal.plan_digest.clone().unwrap_or_default();
    if args.dry_run && out.form == Form::Json {
        out.json(&super::read::proposal_json(view));
        return Ok(true);
    }
    if out.form == Form::Table {
        super::read::show_proposal(out, view);
    }
    if args.dry_run {
        return Ok(true);
    }
    if args.expect_digest.as_ref().is_some_and(|it| *it != digest) {
        bail!("the plan is {digest} and not the expected one; look again before you sign");
    }
    let unseen = args.yes && args.expect_digest.is_none();
    if unseen && verdict == ApprovalVerdict::Approve {
        bail!(
            "`--yes` signs a plan that nobody has looked at: add `--expect-digest {digest}` if \
             that is the one you mean"
        );
    }
    if !args.yes && !confirm(&format!("sign {verdict} for this plan?"))? {
        out.remark("nothing was signed");
        return Ok(false);
    }
    let answer = sign(session, view.proposal.proposal_id, &digest, verdict, &args.reason)?;
    let refusal = match verdict {
        ApprovalVerdict::Approve => came_of::refusal(session, &answer)?,
        ApprovalVerdict::Reject => came_of::refusal_of_a_no(session, &answer)?,
    };
    if let Some(why) = refusal {
        out.error("refused", &why);
        return Ok(false);
    }
    told(
        out,
        &answer,
        &format!("{verdict} signed; what comes of it: healwright proposals show {}", args.id),
    );
    Ok(true)
}

/// Signs a person's answer to what `id` names and sends it.
///
/// # Errors
/// No node, no key.
pub(super) fn sign(
    session: &Session,
    id: Uuid,
    digest: &str,
    verdict: ApprovalVerdict,
    reason: &str,
) -> anyhow::Result<serde_json::Value> {
    let key = session.keys().existing_operator()?;
    let mut approval = ApprovalGiven {
        proposal_id: id,
        plan_digest: digest.to_owned(),
        approver: OPERATOR.to_owned(),
        scope: "once".to_owned(),
        expires_at: wall_now() + APPROVAL_FOR,
        verdict,
        reason: reason.to_owned(),
        signature: String::new(),
    };
    approval.signature = signature_text(&key.sign(APPROVAL_DOMAIN, &approval.statement()));
    session.say("/api/v1/approvals", &approval)
}

/// `healwright change record`.
///
/// # Errors
/// No node, or a name that is none.
pub fn change(session: &Session, out: Out, command: &Change) -> anyhow::Result<bool> {
    let Change::Record { service, version, kind, id, summary } = command;
    let id = match id {
        Some(id) => id.clone(),
        None => random_id()?,
    };
    let kind: ChangeKind = kind.parse()?;
    let author = std::env::var("USER").unwrap_or_default();
    let body = json!({
        "id": id, "service": service, "kind": kind, "version": version,
        "summary": summary, "author": author,
    });
    // Checked here too, so that the sentence is about what was typed.
    serde_json::from_value::<ChangeObserved>(body.clone()).context("checking the change")?;
    let answer = session.say("/api/v1/changes", &body)?;
    told(out, &answer, "recorded");
    Ok(true)
}

/// Signs and sends what is asked about a release, as a request of its own.
///
/// # Errors
/// No node, no key.
pub fn release(
    session: &Session,
    mut release: ReleaseRequested,
) -> anyhow::Result<serde_json::Value> {
    let key = session.keys().existing_operator()?;
    OPERATOR.clone_into(&mut release.requested_by);
    release.nonce = Some(random_id()?);
    let signature = key.sign(RELEASE_DOMAIN, &release.statement());
    release.signature = Some(signature_text(&signature));
    session.say("/api/v1/releases", &release)
}

/// `healwright freeze` and `healwright unfreeze`.
///
/// # Errors
/// No node, no key, or a refusal.
pub fn freeze(
    session: &Session,
    out: Out,
    args: &Freeze,
    verb: FreezeVerb,
) -> anyhow::Result<bool> {
    if session.only_partition().is_some() {
        bail!("a freeze is of the whole system, and so is its end; take `--partition` out");
    }
    if verb == FreezeVerb::Unfreeze && !args.yes && !confirm("lift the freeze?")? {
        out.remark("still frozen");
        return Ok(false);
    }
    let key = session.keys().existing_operator()?;
    let mut command = FreezeCommand {
        scope: "local".to_owned(),
        command: verb,
        signer_id: OPERATOR.to_owned(),
        reason: args.reason.clone(),
        signature: String::new(),
        audit_confirmation: None,
        signers: vec![OPERATOR.to_owned()],
        nonce: random_id()?,
    };
    command.signature = signature_text(&key.sign(FREEZE_DOMAIN, &command.statement()));
    let path = match verb {
        FreezeVerb::Unfreeze | FreezeVerb::UnfreezeSign => "/api/incidents/unfreeze",
        FreezeVerb::Freeze | FreezeVerb::SignerSetChange => "/api/incidents/freeze",
    };
    let (status, answer) = session.post(path, &command)?;
    if status >= 300 {
        let message = answer["error"]["message"].as_str().unwrap_or("no reason was given");
        out.error("refused", message);
        return Ok(false);
    }
    let word = if verb == FreezeVerb::Freeze { "frozen" } else { "unfrozen" };
    let confirmed = answer["confirmed_by"].as_array().map_or(0, Vec::len);
    let waited = answer["waited_out"].as_array().map_or(0, Vec::len);
    told(out, &answer, &format!("{word}; {confirmed} runner(s) confirmed, {waited} waited out"));
    Ok(true)
}

/// `healwright repair skip`.
///
/// # Errors
/// A place that is none, no node, no key, or a refusal.
pub fn repair_skip(session: &Session, out: Out, command: &Repair) -> anyhow::Result<bool> {
    let Repair::Skip { place, reason } = command else { return Ok(false) };
    let wrong = || format!("{place:?} is no place as the error names it, as in inbox/17");
    let (stream, position) = place.split_once('/').with_context(wrong)?;
    let position: u64 = position.parse().with_context(wrong)?;
    let key = session.keys().existing_operator()?;
    let partition = session.partition_to_mend()?;
    let statement = skip_statement(partition, stream, position, reason);
    let body = json!({
        "partition": partition, "stream": stream, "position": position, "reason": reason,
        "signer_id": OPERATOR,
        "signature": signature_text(&key.sign(SKIP_DOMAIN, &statement)),
    });
    let answer = session.say("/api/v1/skip", &body)?;
    told(out, &answer, "passed over; the refusal stands in the journal");
    Ok(true)
}

pub(super) fn told(out: Out, answer: &serde_json::Value, sentence: &str) {
    match out.form {
        Form::Json => {
            let mut answer = answer.clone();
            answer["schema"] = "healwright.journaled.v1".into();
            out.json(&answer);
        }
        Form::Table => match answer["place"].as_str() {
            Some(place) => out.line(&format!("{sentence} ({place})")),
            None => out.line(sentence),
        },
    }
}

/// Asks on a terminal; without one, `--yes` is required.
pub(super) fn confirm(question: &str) -> anyhow::Result<bool> {
    let answer = ask(&format!("{question} [y/N]"), "--yes")?;
    Ok(matches!(answer.as_str(), "y" | "Y" | "yes"))
}

/// Asks for a reason on a terminal; without one, `--reason` is required.
pub(super) fn ask_why(question: &str) -> anyhow::Result<String> {
    let answer = ask(question, "--reason TEXT")?;
    if answer.is_empty() {
        bail!("no reason was given; nothing was signed");
    }
    Ok(answer)
}

/// The answer to `question`; `instead` is the flag that makes it needless.
fn ask(question: &str, instead: &str) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("{question} There is no terminal to ask on: add {instead}");
    }
    Out { form: Form::Table, quiet: false }.remark(question);
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("reading the answer")?;
    Ok(answer.trim().to_owned())
}

/// An id that nobody else has.
pub fn random_id() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("reading randomness for an id")?;
    Ok(Uuid::named("healwright/client/v1", &[&bytes]).to_string())
}
