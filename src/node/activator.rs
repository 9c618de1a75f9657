//! What puts configuration in force: the operator's signature, on the partitions concerned.

use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use schemas::event::{ConfigActivated, ConfigKind};
use schemas::signature::{KeyPair, signature_text};
use schemas::{Actor, ActorKind};
use serde::Serialize;
use topologies::config::Signers;
use topologies::rules::Rules;

use super::parts::Parts;
use super::shared::NO_OPERATOR;
use super::{NodeConfig, OPERATOR};
use crate::engine::{Handle, Input, bookkeeping, fold};

/// Activates configuration under the operator's signature.
#[derive(Clone)]
pub struct Activator {
    parts: Parts,
    operator: Arc<KeyPair>,
}

impl Activator {
    /// With the operator's key, on all partitions of a node.
    pub fn new(parts: Parts, operator: KeyPair) -> Self {
        Activator { parts, operator: Arc::new(operator) }
    }

    /// Everything that a node's configuration says.
    ///
    /// # Errors
    /// As [`Activator::activate`].
    pub(super) async fn activate_all(&self, config: &NodeConfig) -> anyhow::Result<()> {
        self.check_operator().await?;
        let keys = [(OPERATOR.to_owned(), self.operator.public())].into();
        self.activate("signers", &Signers { keys }).await?;
        self.activate("rules", &Rules::current()).await?;
        self.activate("profile", &config.profile).await?;
        for service in &config.services {
            self.activate(&format!("service/{}", service.name), service).await?;
        }
        Ok(())
    }

    /// Whether the key is the one that is registered.
    async fn check_operator(&self) -> anyhow::Result<()> {
        for part in self.parts.all() {
            let registered = part.engine.see(|state| fold::signer(state, OPERATOR));
            let registered = registered.await.context("the engine has stopped")?;
            let own = self.operator.public();
            if let Some(registered) = registered.filter(|it| *it != own) {
                let (own, registered) = (own.id(), registered.id());
                return Err(anyhow!("keys/operator.key is {own}, and {registered} is registered"))
                    .context(NO_OPERATOR);
            }
        }
        Ok(())
    }

    /// Journals a configuration where it belongs, unless it is in force there already.
    ///
    /// # Errors
    /// The engine has stopped.
    pub async fn activate<T: Serialize>(&self, name: &str, body: &T) -> anyhow::Result<()> {
        for part in self.parts.of_config(name) {
            self.activate_in(&part.engine, name, body).await?;
        }
        Ok(())
    }

    /// Journals a configuration in one partition, unless it is in force there already.
    ///
    /// # Errors
    /// The engine has stopped.
    pub async fn activate_in<T: Serialize>(
        &self,
        engine: &Handle,
        name: &str,
        body: &T,
    ) -> anyhow::Result<()> {
        let body = serde_json::to_string(body).context("writing a configuration as JSON")?;
        let digest = ConfigActivated::digest_of(&body);
        let asked = name.to_owned();
        let active = engine.see(move |state| bookkeeping::active_config(state, &asked));
        let active = active.await.context("the engine has stopped")?;
        if active.as_ref().is_some_and(|it| it.digest == digest) {
            return Ok(());
        }
        let version = active.map_or(1, |it| it.version + 1);
        let config = activation(&self.operator, ConfigKind::Policy, name, version, body);
        let sent = engine.submit(&config).await?;
        let answer = sent.answer.await.context("the engine has stopped")?;
        match answer.refused {
            Some(reason) => bail!("{name} is not activated: {reason}"),
            None => Ok(()),
        }
    }
}

/// The activation of `body` as version `version` of `name`, under the operator's signature.
pub(crate) fn activation(
    operator: &KeyPair,
    kind: ConfigKind,
    name: &str,
    version: u64,
    body: String,
) -> Input {
    let mut config = ConfigActivated {
        kind,
        name: name.to_owned(),
        version,
        digest: ConfigActivated::digest_of(&body),
        approved_by: OPERATOR.to_owned(),
        audit_log_id: None,
        body: Some(body),
        signature: None,
    };
    let signature = operator.sign(schemas::event::CONFIG_DOMAIN, &config.statement());
    config.signature = Some(signature_text(&signature));
    let key_id = Some(operator.public().id());
    let actor = Actor { id: OPERATOR.to_owned(), kind: ActorKind::Human, key_id };
    Input::new(actor, name, config)
}
