//! The schema registry: the schemas of typed topics, agreed before a node takes office.
//!
//! With a registry the values of typed topics are in Confluent's wire format, so that ordinary
//! consumers decode them: a zero byte, the schema's id, the datum. Subjects are TopicRecordName,
//! `TOPIC-RECORD`, because a topic carries two records: its event, and the summary of a payload
//! above the cap. Every form that an entry of the journal may have been written under has its
//! id, for stored bytes are published as they are and never encoded again.
//!
//! A start looks at every subject first, and registers only where none is incompatible. The
//! registry is asked at the start and never again: when it is gone later, publishing goes on.

mod client;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use schemas::codec::{self, Form};
use schemas::{Kind, cap};
use serde_json::json;

use self::client::Client;
use crate::config::SchemaRegistry;

/// All questions of a start together.
const AGREE_WITHIN: Duration = Duration::from_secs(60);
/// The first byte of Confluent's wire format.
const MAGIC: u8 = 0;
/// What a subject that has no rule of its own is given: whoever reads with the newer schema
/// reads what was written under the one before.
const LEVEL: &str = "BACKWARD";
/// Rules that demand at least as much.
const LEVELS: [&str; 4] = [LEVEL, "BACKWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"];

/// Where a registry answers, and as whom it is asked.
#[derive(Clone)]
pub struct Registry {
    url: String,
    /// Secret: never printed.
    authorization: Option<String>,
    ca_file: Option<PathBuf>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Record schemas of one topic under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// `TOPIC-RECORD`, with the topic's full name.
    pub name: String,
    /// The event whose topic it is.
    pub kind: Kind,
    /// Oldest first.
    pub forms: Vec<Form>,
}

/// The ids of everything that is published.
#[derive(Clone, Debug)]
pub struct Registered {
    url: String,
    ids: BTreeMap<(Kind, [u8; 8]), u32>,
}

/// A subject as it was found.
struct Found<'a> {
    subject: &'a Subject,
    /// Whether it is there at all.
    exists: bool,
    /// The id of each form that it holds.
    ids: Vec<Option<u32>>,
}

/// The subjects of `kind` on `topic`: its event, and the summary that may stand in its place.
pub fn subjects(kind: Kind, topic: &str) -> [Subject; 2] {
    [codec::forms(kind), vec![cap::form()]].map(|forms| {
        let record = forms.last().map_or("", |it| it.name.as_str());
        Subject { name: format!("{topic}-{record}"), kind, forms }
    })
}

impl Registry {
    /// The registry that a configuration names.
    ///
    /// # Errors
    /// The password cannot be read.
    pub fn configured(config: &SchemaRegistry) -> anyhow::Result<Option<Self>> {
        let Some(url) = &config.url else { return Ok(None) };
        let authorization = match (&config.username, &config.password_file) {
            (Some(username), Some(path)) => {
                let credentials = format!("{username}:{}", password(path)?);
                let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
                Some(format!("Basic {encoded}"))
            }
            (None, _) | (_, None) => None,
        };
        let url = url.trim_end_matches('/').to_owned();
        Ok(Some(Registry { url, authorization, ca_file: config.ca_file.clone() }))
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Registers what is missing of `subjects`, and learns the ids.
    ///
    /// # Errors
    /// The registry does not answer, or a subject there holds something incompatible; says which
    /// one, by which rule, and what to do. Nothing has been registered then.
    pub fn agree(&self, subjects: &[Subject]) -> anyhow::Result<Registered> {
        let until = Instant::now() + AGREE_WITHIN;
        let (login, ca_file) = (self.authorization.as_deref(), self.ca_file.as_deref());
        let client = Client::new(&self.url, login, ca_file, until)?;
        let found = subjects.iter().map(|it| look(&client, it));
        let found = found.collect::<anyhow::Result<Vec<Found<'_>>>>()?;
        let mut ids = BTreeMap::new();
        for it in &found {
            for (form, id) in it.subject.forms.iter().zip(complete(&client, it)?) {
                ids.insert((it.subject.kind, form.fingerprint), id);
            }
        }
        Ok(Registered { url: self.url.clone(), ids })
    }
}

impl Registered {
    /// A stored payload as the topic of `kind` carries it, and where its schema is.
    ///
    /// # Errors
    /// It was written under a schema that this version does not know.
    pub fn framed(&self, kind: Kind, payload: &[u8]) -> anyhow::Result<(Vec<u8>, String)> {
        let (fingerprint, datum) =
            codec::split(payload).context("a stored payload is not Avro single-object encoded")?;
        let Some(id) = self.ids.get(&(kind, fingerprint)) else {
            let hex: String = fingerprint.iter().map(|it| format!("{it:02x}")).collect();
            bail!(
                "an entry of {} was written under schema {hex}, which this version does not know \
                 and has not registered; start the version that wrote it",
                kind.topic()
            );
        };
        let mut value = Vec::with_capacity(5 + datum.len());
        value.push(MAGIC);
        value.extend_from_slice(&id.to_be_bytes());
        value.extend_from_slice(datum);
        Ok((value, format!("{}/schemas/ids/{id}", self.url)))
    }
}

fn password(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the schema registry's password {}", path.display()))?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        bail!("{} is empty; its first line is the schema registry's password", path.display());
    }
    Ok(password.to_owned())
}

/// What the registry has of a subject; refuses what our schemas cannot follow.
fn look<'a>(client: &Client<'_>, subject: &'a Subject) -> anyhow::Result<Found<'a>> {
    let name = &subject.name;
    let mut found = Found { subject, exists: false, ids: Vec::new() };
    for form in &subject.forms {
        let answer = client.post(&format!("/subjects/{name}"), &schema(form))?;
        found.exists |= answer.is_there() || answer.lacks_schema_only();
        let id = if answer.is_there() { Some(answer.id()?) } else { None };
        found.ids.push(id);
    }
    if found.exists {
        demand_level(client, name)?;
        for (form, _) in subject.forms.iter().zip(&found.ids).filter(|(_, id)| id.is_none()) {
            demand_compatible(client, name, form)?;
        }
    }
    Ok(found)
}

/// The subject's rule is backward or stricter. One without a rule of its own gets it; one that a
/// person gave another rule is that person's.
fn demand_level(client: &Client<'_>, name: &str) -> anyhow::Result<()> {
    let path = format!("/config/{name}");
    let answer = client.get(&path)?;
    if !answer.is_there() {
        return give_level(client, name);
    }
    let level = answer.text("compatibilityLevel")?;
    if LEVELS.contains(&level.as_str()) {
        return Ok(());
    }
    bail!(
        "subject {name} has the rule {level}, under which a later schema may lock readers out; \
         {LEVEL} or stricter is required: curl -X PUT -H 'content-type: application/json' \
         -d '{{\"compatibility\": \"{LEVEL}\"}}' {}{path}",
        client.url()
    )
}

fn give_level(client: &Client<'_>, name: &str) -> anyhow::Result<()> {
    client.put(&format!("/config/{name}"), &json!({ "compatibility": LEVEL }))?.done()
}

fn demand_compatible(client: &Client<'_>, name: &str, form: &Form) -> anyhow::Result<()> {
    let path = format!("/compatibility/subjects/{name}/versions/latest?verbose=true");
    let answer = client.post(&path, &schema(form))?;
    // A subject whose versions are all deleted has no latest one.
    if !answer.is_there() || answer.is_compatible()? {
        return Ok(());
    }
    Err(incompatible(name, form, &answer.reason()))
}

fn incompatible(name: &str, form: &Form, reason: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "subject {name} holds a schema that {} of this version cannot follow (rule {LEVEL}): \
         {reason}; start the version of Healwright that registered it, delete that schema from \
         the subject, or use another `--topic-prefix`",
        form.name
    )
}

/// Registers the forms that are missing, oldest first; the ids of all.
fn complete(client: &Client<'_>, found: &Found<'_>) -> anyhow::Result<Vec<u32>> {
    let name = &found.subject.name;
    let mut has_level = found.exists;
    let mut ids = Vec::with_capacity(found.ids.len());
    for (form, id) in found.subject.forms.iter().zip(&found.ids) {
        let id = match id {
            Some(id) => *id,
            None => {
                let answer = client.post(&format!("/subjects/{name}/versions"), &schema(form))?;
                if answer.is_refused() {
                    return Err(incompatible(name, form, &answer.reason()));
                }
                answer.id()?
            }
        };
        ids.push(id);
        // Some registries know a rule only of a subject that is there.
        if !has_level {
            give_level(client, name)?;
            has_level = true;
        }
    }
    Ok(ids)
}

fn schema(form: &Form) -> serde_json::Value {
    json!({ "schema": form.avsc, "schemaType": "AVRO" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn registered() -> Registered {
        let forms = subjects(Kind::ReleaseRequested, "t.release.requested.v1");
        let forms = forms.iter().flat_map(|it| it.forms.clone());
        let ids =
            forms.zip(0x0102..).map(|(form, id)| ((Kind::ReleaseRequested, form.fingerprint), id));
        Registered { url: "http://r".to_owned(), ids: ids.collect() }
    }

    fn single_object(fingerprint: [u8; 8], datum: &[u8]) -> Vec<u8> {
        [&[0xC3, 0x01], &fingerprint[..], datum].concat()
    }

    #[test]
    fn a_subject_is_named_after_topic_and_record() {
        let [event, summary] = subjects(Kind::ChangeObserved, "shop.change.observed.v1");
        assert_eq!(event.name, "shop.change.observed.v1-org.healwright.v1.ChangeObserved");
        assert_eq!(summary.name, "shop.change.observed.v1-org.healwright.v1.PayloadSummary");
    }

    #[test]
    fn every_form_of_a_payload_is_published_under_its_own_id_with_its_stored_datum() {
        let registered = registered();
        let forms = codec::forms(Kind::ReleaseRequested);
        assert!(forms.len() > 1, "a kind with a former form shows more");
        for (form, id) in forms.iter().zip(0x0102u32..) {
            let payload = single_object(form.fingerprint, b"datum");
            let (value, at) = registered.framed(Kind::ReleaseRequested, &payload).unwrap();
            assert_eq!(value, [&[0], &id.to_be_bytes()[..], b"datum"].concat());
            assert_eq!(at, format!("http://r/schemas/ids/{id}"));
        }
    }

    #[test]
    fn a_payload_of_a_newer_version_is_refused_and_not_published_under_a_wrong_id() {
        let refused = registered().framed(Kind::ReleaseRequested, &single_object([9; 8], b""));
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("release.requested.v1") && why.contains("0909090909090909"), "{why}");
    }
}
