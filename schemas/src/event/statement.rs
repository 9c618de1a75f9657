//! What a signature in a payload is made over: the payload's fields, length-prefixed, in the
//! order of the schema. The signature field itself is never part of it.

use super::{
    ApprovalGiven, ConfigActivated, ConfigKind, FreezeCommand, ReleaseRequested,
    RemediationProposed, RunnerResult,
};
use crate::signature::{KeyPair, PublicKey, signature_text};
use crate::wire::Writer;
use crate::{Hash, avro};

/// Domain of a person's approval.
pub const APPROVAL_DOMAIN: &str = "healwright/approval/v1";
/// Domain of a freeze or unfreeze.
pub const FREEZE_DOMAIN: &str = "healwright/freeze/v1";
/// Domain of a release request.
pub const RELEASE_DOMAIN: &str = "healwright/release/v1";
/// Domain of a configuration change.
pub const CONFIG_DOMAIN: &str = "healwright/config/v1";
/// Domain of a runner's answer.
pub const RESULT_DOMAIN: &str = "healwright/runner-result/v1";
/// A host's runner is activated under this and the host's name. Persisted: frozen.
pub const RUNNER_PREFIX: &str = "runner/";

impl ApprovalGiven {
    /// What the approver signs.
    pub fn statement(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&self.proposal_id.0).text(&self.plan_digest).text(&self.approver);
        out.text(&self.scope).u64(self.expires_at.0).text(self.verdict.as_str());
        out.text(&self.reason);
        out.0
    }
}

impl FreezeCommand {
    /// What the signer signs.
    pub fn statement(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.text(&self.scope).text(self.command.as_str()).text(&self.signer_id);
        out.text(&self.reason).text(&self.nonce);
        match &self.audit_confirmation {
            None => out.u8(0),
            Some(confirmation) => out
                .u8(1)
                .u64(confirmation.on_chain_balance_usd.to_bits())
                .u64(confirmation.ledger_cc_outstanding.to_bits())
                .u64(confirmation.coherence_score.to_bits()),
        };
        out.u32(self.signers.len() as u32);
        for signer in &self.signers {
            out.text(signer);
        }
        out.0
    }
}

impl ReleaseRequested {
    /// What the operator signs.
    pub fn statement(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.text(&self.service).text(&self.artifact_ref).text(&self.digest);
        out.text(&self.requested_by).text(&self.strategy);
        out.option_text(self.version.as_deref());
        // Requests of the first form had neither, and their signatures still verify.
        if self.nonce.is_some() || self.reason.is_some() {
            out.option_text(self.nonce.as_deref()).option_text(self.reason.as_deref());
        }
        out.0
    }
}

impl ConfigActivated {
    /// What the approver signs; the digest covers the body.
    pub fn statement(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.text(self.kind.as_str()).text(&self.name).u64(self.version).text(&self.digest);
        out.0
    }

    /// A configuration that `by` has signed.
    pub fn signed(name: &str, version: u64, body: String, by: &str, key: &KeyPair) -> Self {
        let mut config = ConfigActivated {
            kind: ConfigKind::Policy,
            name: name.to_owned(),
            version,
            digest: ConfigActivated::digest_of(&body),
            approved_by: by.to_owned(),
            audit_log_id: None,
            body: Some(body),
            signature: None,
        };
        config.signature = Some(signature_text(&key.sign(CONFIG_DOMAIN, &config.statement())));
        config
    }

    /// The digest that belongs to `body`.
    pub fn digest_of(body: &str) -> String {
        Hash::of(&[body.as_bytes()]).to_digest()
    }

    /// The key of a host's runner, where this activates one: it signs results, and as a witness
    /// it cosigns tree heads under the name of the activation.
    pub fn runner_key(&self) -> Option<PublicKey> {
        let body = self.body.as_deref().filter(|body| Self::digest_of(body) == self.digest)?;
        if !self.name.starts_with(RUNNER_PREFIX) {
            return None;
        }
        let body: serde_json::Value = serde_json::from_str(body).ok()?;
        PublicKey::try_from(body.get("key")?.as_str()?.to_owned()).ok()
    }
}

impl RunnerResult {
    /// What the runner signs: the Avro datum without the signature.
    pub fn statement(&self) -> Vec<u8> {
        let unsigned = RunnerResult { signature: None, ..self.clone() };
        avro::to_bytes(&unsigned).expect("a runner result has an Avro form by its type")
    }
}

impl RemediationProposed {
    /// The digest that votes, decisions and approvals are bound to: what would be done, to
    /// what, with which rollback. Rank, confidence and ids of other events are no part of it.
    pub fn plan_digest_of(&self) -> String {
        let mut out = Writer::default();
        out.text("healwright/plan/v1").raw(&self.proposal_id.0);
        out.option_text(self.service.as_deref()).text(self.strategy.as_str());
        out.text(&self.playbook).text(&self.artifact_ref).text(&self.rollback);
        out.u32(self.ops.len() as u32);
        for op in &self.ops {
            out.text(op);
        }
        out.u32(self.blast_radius).text(self.impact.as_str());
        for (name, value) in &self.parameters {
            out.text(name).text(value);
        }
        Hash::of(&[&out.0]).to_digest()
    }
}
