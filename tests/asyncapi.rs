//! `docs/asyncapi.json` is what the program says about its topics now, and it hangs together.
//!
//! The official schema of AsyncAPI is larger than the document; what it demands of the parts
//! that are used is asked here.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "blackbox/home.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod home;

use std::collections::BTreeSet;

use healwright::{asyncapi, fanout};
use home::Home;
use schemas::Kind;
use serde_json::{Value, json};

const PREFIX: &str = "healwright.";

fn document() -> Value {
    serde_json::from_str(&asyncapi::text(PREFIX)).unwrap()
}

#[test]
fn the_document_in_docs_is_what_the_program_says() {
    let kept = include_str!("../docs/asyncapi.json");
    let said = Home::new().run(&["asyncapi"]).expect(0).out;
    assert!(kept == said, "run `healwright asyncapi > docs/asyncapi.json` and read the difference");
}

#[test]
fn the_prefix_of_topics_is_the_one_that_is_given() {
    let said = Home::new().run(&["asyncapi", "--topic-prefix", "shop."]).expect(0).json();
    assert_eq!(said["channels"]["tick.v1"]["address"], "shop.tick.v1");
}

#[test]
fn every_typed_topic_is_a_channel_with_its_schema_and_no_other() {
    let document = document();
    let channels: Vec<&String> = document["channels"].as_object().unwrap().keys().collect();
    let mut topics = fanout::topics();
    topics.sort();
    assert_eq!(channels, topics.iter().collect::<Vec<_>>());
    for kind in Kind::ALL.iter().filter(|kind| topics.contains(&kind.topic())) {
        let topic = kind.topic();
        assert_eq!(document["channels"][&topic]["address"], format!("{PREFIX}{topic}"));
        let payload = &document["components"]["messages"][&topic]["payload"];
        let schema: Value = serde_json::from_str(kind.avsc()).unwrap();
        assert_eq!(payload["schema"], schema, "{topic}");
    }
}

#[test]
fn the_document_hangs_together() {
    assert_eq!(complaints(&document()), Vec::<String>::new());
}

#[test]
fn a_broken_document_is_found_out() {
    let broken = |break_it: &dyn Fn(&mut Value)| {
        let mut document = document();
        break_it(&mut document);
        complaints(&document)
    };
    let gone = broken(&|it| {
        it["components"]["messages"].as_object_mut().unwrap().remove("tick.v1");
    });
    assert_eq!(gone, ["#/components/messages/tick.v1 leads nowhere"]);
    let lost = broken(&|it| it["operations"]["tick.v1"]["channel"]["$ref"] = "#/info".into());
    assert!(lost.contains(&"operation tick.v1 has no channel of its own".to_owned()), "{lost:?}");
    let wrong = broken(&|it| it["operations"]["tick.v1"]["action"] = "publish".into());
    assert_eq!(wrong, ["operation tick.v1 neither sends nor receives"]);
    let bare = broken(&|it| it["info"]["version"] = Value::Null);
    assert_eq!(bare, ["/info/version is no text"]);
    let typo = broken(&|it| it["channels"]["tick.v1"]["adress"] = "x".into());
    assert_eq!(typo, ["channel tick.v1 has an unknown field adress"]);
    let cut = broken(&|it| {
        it["components"]["messages"]["tick.v1"]["payload"]["schema"]["fields"] = json!(7);
    });
    assert_eq!(cut, ["message tick.v1 has no payload that is Avro"]);
}

/// What is wrong with a document, by the rules of AsyncAPI 3.0 that concern it.
fn complaints(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if document["asyncapi"] != "3.0.0" {
        found.push("it is no AsyncAPI 3.0.0".to_owned());
    }
    for at in ["/info/title", "/info/version"] {
        if !document.pointer(at).is_some_and(Value::is_string) {
            found.push(format!("{at} is no text"));
        }
    }
    let mut references = BTreeSet::new();
    collect(document, &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        if document.pointer(pointer).is_none() {
            found.push(format!("{reference} leads nowhere"));
        }
    }
    found.extend(channels(document));
    found.extend(operations(document));
    found.extend(messages(document));
    found
}

/// Every `$ref` of a value; schemas of payloads have none.
fn collect(value: &Value, into: &mut BTreeSet<String>) {
    if let Some(reference) = value["$ref"].as_str() {
        into.insert(reference.to_owned());
    }
    let children = value.as_object().into_iter().flat_map(|it| it.values());
    for child in children.chain(value.as_array().into_iter().flatten()) {
        collect(child, into);
    }
}

fn channels(document: &Value) -> Vec<String> {
    let known = ["address", "bindings", "description", "messages", "servers", "summary", "title"];
    let mut found = Vec::new();
    for (name, channel) in document["channels"].as_object().unwrap() {
        let fields = channel.as_object().unwrap().keys();
        for field in fields.filter(|it| !known.contains(&it.as_str())) {
            found.push(format!("channel {name} has an unknown field {field}"));
        }
        if !channel["address"].is_string() || channel["messages"].as_object().is_none() {
            found.push(format!("channel {name} has no address or no messages"));
        }
    }
    found
}

fn operations(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, operation) in document["operations"].as_object().unwrap() {
        if !matches!(operation["action"].as_str(), Some("send" | "receive")) {
            found.push(format!("operation {name} neither sends nor receives"));
        }
        let channel = operation["channel"]["$ref"].as_str().unwrap_or_default();
        if channel != format!("#/channels/{name}") {
            found.push(format!("operation {name} has no channel of its own"));
        }
        // Messages of an operation are the channel's, and not those of the components.
        for message in operation["messages"].as_array().unwrap() {
            let reference = message["$ref"].as_str().unwrap_or_default();
            if !reference.starts_with(&format!("{channel}/messages/")) {
                found.push(format!("operation {name} has a message that its channel has not"));
            }
        }
    }
    found
}

fn messages(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        let payload = &message["payload"];
        let format = payload["schemaFormat"].as_str().unwrap_or_default();
        let schema = &payload["schema"];
        let is_record = schema["type"] == "record" && schema["fields"].is_array();
        if format != "application/vnd.apache.avro+json;version=1.9.0" || !is_record {
            found.push(format!("message {name} has no payload that is Avro"));
        }
        let headers = &message["headers"];
        let properties = headers["properties"].as_object().unwrap();
        for required in headers["required"].as_array().unwrap() {
            if !properties.contains_key(required.as_str().unwrap()) {
                found.push(format!("message {name} requires the header {required} in vain"));
            }
        }
        if !message["bindings"]["kafka"]["key"]["description"].is_string() {
            found.push(format!("message {name} does not say what its key is"));
        }
    }
    found
}
