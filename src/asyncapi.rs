//! `healwright asyncapi`: the typed topics as an AsyncAPI 3.0 document, from the same
//! declarations that the fan-out publishes by.
//!
//! It says what readers may rely on: addresses, keys, headers and payloads. The topics in which
//! nodes talk among themselves are not in it.

use schemas::{Kind, cap, codec};
use serde_json::{Map, Value, json};

use crate::fanout;
use crate::out::Out;

/// AsyncAPI's name for Avro schemas in JSON.
const AVRO: &str = "application/vnd.apache.avro+json;version=1.9.0";
/// The summary's name among the messages.
const SUMMARY: &str = "payload.summary.v1";

const ABOUT: &str = "\
What Healwright decides and sees, as CloudEvents 1.0 in Kafka's binary content mode: one topic \
for each kind of event, written behind the journal in transactions, so that readers under \
`isolation.level=read_committed` see each event once and none that is not journaled. \
Values are Avro. Without a schema registry they are in single-object encoding: C3 01, the \
CRC-64-AVRO fingerprint of the schema in eight bytes, the datum. With `schema_registry.url` they \
are in Confluent's wire format: 00, the schema's id in four bytes, big-endian, the datum; \
subjects are TopicRecordName, compatibility is BACKWARD, and the header `ce_dataschema` names \
the schema. A payload above 8192 bytes is replaced by its summary, and `ce_redaction` says so.";

/// Prints the document for topics that begin with `prefix`.
///
/// # Errors
/// None at present.
pub fn run(out: Out, prefix: &str) -> anyhow::Result<bool> {
    out.line(&text(prefix));
    Ok(true)
}

/// The document as text, with its keys in one order on every machine.
pub fn text(prefix: &str) -> String {
    let mut document = document(prefix);
    // Another crate of the build may have switched serde_json's maps to insertion order.
    document.sort_all_objects();
    format!("{document:#}")
}

fn document(prefix: &str) -> Value {
    let kinds: Vec<Kind> = fanout::kinds().collect();
    let by_topic = |make: &dyn Fn(Kind) -> Value| -> Map<String, Value> {
        kinds.iter().map(|kind| (kind.topic(), make(*kind))).collect()
    };
    let mut messages = by_topic(&message);
    messages.insert(SUMMARY.to_owned(), summary());
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Healwright: typed topics",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/avro",
        "channels": by_topic(&|kind| channel(kind, prefix)),
        "operations": by_topic(&operation),
        "components": { "messages": messages },
    })
}

fn channel(kind: Kind, prefix: &str) -> Value {
    let topic = kind.topic();
    json!({
        "address": format!("{prefix}{topic}"),
        "description": record_doc(kind),
        "messages": {
            &topic: { "$ref": format!("#/components/messages/{topic}") },
            SUMMARY: { "$ref": format!("#/components/messages/{SUMMARY}") },
        },
    })
}

fn operation(kind: Kind) -> Value {
    let topic = kind.topic();
    json!({
        "action": "send",
        "summary": format!("Publishes {topic}."),
        "channel": { "$ref": format!("#/channels/{topic}") },
        "messages": [
            { "$ref": format!("#/channels/{topic}/messages/{topic}") },
            { "$ref": format!("#/channels/{topic}/messages/{SUMMARY}") },
        ],
    })
}

fn message(kind: Kind) -> Value {
    let topic = kind.topic();
    let ce_type = json!({ "type": "string", "const": topic });
    json!({
        "name": topic,
        "title": codec::forms(kind).last().map(|it| it.name.clone()),
        "summary": record_doc(kind),
        "contentType": "application/avro",
        "correlationId": { "location": "$message.header#/ce_correlationid" },
        "headers": headers(&ce_type, &[]),
        "payload": payload(kind.avsc()),
        "bindings": { "kafka": {
            "key": { "type": "string", "description": key(kind) },
            "bindingVersion": "0.5.0",
        } },
    })
}

fn summary() -> Value {
    let ce_type = json!({
        "type": "string",
        "description": "The topic without its prefix: the event that the summary stands for.",
    });
    let redaction = json!({ "type": "string", "const": "summary" });
    json!({
        "name": SUMMARY,
        "title": cap::form().name,
        "summary": format!(
            "Stands in place of a payload above {} bytes; the whole of it is in the journal.",
            cap::PAYLOAD_BYTES_MAX
        ),
        "contentType": "application/avro",
        "correlationId": { "location": "$message.header#/ce_correlationid" },
        "headers": headers(&ce_type, &[("ce_redaction", redaction)]),
        "payload": payload(cap::SUMMARY_AVSC),
        "bindings": { "kafka": {
            "key": { "type": "string", "description": "The key of the event that it stands for." },
            "bindingVersion": "0.5.0",
        } },
    })
}

/// CloudEvents attributes, with those that a message has besides; all of these are required.
fn headers(ce_type: &Value, besides: &[(&str, Value)]) -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let mut properties = json!({
        "ce_specversion": { "type": "string", "const": "1.0" },
        "ce_id": { "type": "string", "format": "uuid",
                   "description": "The event's id; equal ids are one event." },
        "ce_source": { "type": "string", "format": "uri-reference",
                       "description": "/healwright/DEPLOYMENT/PARTITION" },
        "ce_type": ce_type,
        "ce_time": { "type": "string", "format": "date-time" },
        "ce_place": text("Where it stands in the journal, immutable:log:PARTITION/SEQ."),
        "content-type": { "type": "string", "const": "application/avro" },
    });
    let optional = [
        ("ce_correlationid", text("The incident that it belongs to, where there is one.")),
        (
            "ce_dataschema",
            json!({ "type": "string", "format": "uri",
                    "description": "The schema in the registry, where one is configured." }),
        ),
    ];
    let Some(named) = properties.as_object_mut() else { return properties };
    named.extend(besides.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())));
    let mut required: Vec<String> = named.keys().cloned().collect();
    required.sort();
    named.extend(optional.map(|(name, schema)| (name.to_owned(), schema)));
    json!({ "type": "object", "required": required, "properties": properties })
}

fn payload(avsc: &str) -> Value {
    let schema: Value = serde_json::from_str(avsc).expect("a schema of this program is JSON");
    json!({ "schemaFormat": AVRO, "schema": schema })
}

fn record_doc(kind: Kind) -> Value {
    let schema: Value = serde_json::from_str(kind.avsc()).unwrap_or_default();
    schema["doc"].clone()
}

/// What orders and partitions the records of a topic (spec 10 §3).
fn key(kind: Kind) -> &'static str {
    match kind {
        Kind::OwnerElected | Kind::TelemetrySealed | Kind::InputRefused | Kind::HeadCosigned => {
            "A record of the log itself, which has no typed topic."
        }
        Kind::Tick => "The partition's number.",
        Kind::ConfigActivated => "The configuration's name.",
        Kind::TelemetrySample => "The scope of the samples.",
        Kind::ChangeObserved
        | Kind::ReleaseRequested
        | Kind::SloAnomalyDetected
        | Kind::DeployState => "The service's name.",
        Kind::RcaHypothesis | Kind::HealEscalated | Kind::IncidentChanged => "The incident's id.",
        Kind::HealTriggerEvaluated => "The trigger's type.",
        Kind::RemediationProposed
        | Kind::VoteCast
        | Kind::L1ConsensusResult
        | Kind::L2ConsensusResult
        | Kind::L3ExecutionResult
        | Kind::GovernanceDecision
        | Kind::ApprovalGiven
        | Kind::SandboxResult => "The proposal's id.",
        Kind::RunnerRequest | Kind::RunnerResult => "The host's name.",
        Kind::KpiTrustUpdate => "The component: a playbook, or a playbook on a service.",
        Kind::ModeChanged | Kind::FreezeCommand => "The scope that it holds for.",
        Kind::AnnotationAdded => "The place of the entry that it is about.",
    }
}
