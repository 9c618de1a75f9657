//! Schemas only grow: every `.avsc` against its released former self.
//!
//! `released/` holds every form that a journal may have been written under. A form is never
//! edited. When a schema grows, its new form is added as `<topic>.<n>.avsc`, and the form before
//! is named in `codec.rs`, so that it can still be read.
//!
//! `upcoming/` holds what the next release will write and this one reads already, so that nodes of
//! both can share a journal.

use std::collections::BTreeMap;
use std::path::Path;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use schemas::{Kind, cap, codec};
use serde_json::{Value, json};

/// Why readers of one form could not live with the other, if so.
fn check(former: &Value, current: &Value) -> Result<(), String> {
    let parse = |schema: &Value| Schema::parse(schema).map_err(|error| error.to_string());
    let (old, new) = (parse(former)?, parse(current)?);
    // Both ways: a new reader has old journals, an old reader has new topics.
    match SchemaCompatibility::mutual_read(&old, &new) {
        Ok(Compatibility::Full) => {}
        Ok(Compatibility::Partial) => return Err("not every value can be read".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    // Avro would let a text become bytes and a long a time: spec 10 §1 does not.
    grown("", former, current)
}

/// Whether `current` is `former` with further fields that have a default.
fn grown(at: &str, former: &Value, current: &Value) -> Result<(), String> {
    match (former, current) {
        (Value::Object(old), Value::Object(new)) => {
            for key in ["type", "name", "namespace", "logicalType", "symbols", "default"] {
                let (old, new) = (old.get(key), new.get(key));
                match (old, new) {
                    (Some(Value::Object(_) | Value::Array(_)), Some(_)) if key == "type" => {
                        grown(&format!("{at}.{key}"), &old.cloned().into(), &new.cloned().into())?;
                    }
                    _ if old == new => {}
                    _ => return Err(format!("{at}: {key} was {old:?}, is {new:?}")),
                }
            }
            for key in ["items", "values"] {
                if let (Some(old), Some(new)) = (old.get(key), new.get(key)) {
                    grown(&format!("{at}.{key}"), old, new)?;
                }
            }
            grown_fields(at, &fields(former), &fields(current))
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            old.iter().zip(new).try_for_each(|(old, new)| grown(at, old, new))
        }
        _ if former == current => Ok(()),
        _ => Err(format!("{at}: was {former}, is {current}")),
    }
}

fn fields(record: &Value) -> BTreeMap<String, Value> {
    let fields = record["fields"].as_array().into_iter().flatten();
    fields.map(|it| (it["name"].as_str().unwrap_or_default().to_owned(), it.clone())).collect()
}

fn grown_fields(
    at: &str,
    former: &BTreeMap<String, Value>,
    current: &BTreeMap<String, Value>,
) -> Result<(), String> {
    for (name, old) in former {
        let Some(new) = current.get(name) else { return Err(format!("{at}.{name} is gone")) };
        grown(&format!("{at}.{name}"), old, new)?;
    }
    for (name, new) in current {
        if !former.contains_key(name) && new.get("default").is_none() {
            return Err(format!("{at}.{name} is new and has no default"));
        }
    }
    Ok(())
}

fn released() -> Vec<(String, Value)> {
    forms_in("released")
}

fn forms_in(folder: &str) -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut forms: Vec<(String, Value)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (stem, serde_json::from_str(&text).unwrap())
        })
        .collect();
    forms.sort_by(|a, b| a.0.cmp(&b.0));
    forms
}

/// The topic that a form belongs to: `tick.v1` of `tick.v1` and of `tick.v1.2`.
fn is_form_of(stem: &str, topic: &str) -> bool {
    stem.strip_prefix(topic)
        .is_some_and(|rest| rest.is_empty() || rest[1..].parse::<u32>().is_ok_and(|n| n > 1))
}

fn current() -> Vec<(String, &'static str)> {
    let kinds = Kind::ALL.iter().map(|kind| (kind.topic(), kind.avsc()));
    kinds.chain([("payload.summary.v1".to_owned(), cap::SUMMARY_AVSC)]).collect()
}

#[test]
fn every_schema_can_be_read_beside_each_of_its_released_forms() {
    let released = released();
    for (topic, text) in current() {
        let current: Value = serde_json::from_str(text).unwrap();
        let forms: Vec<_> = released.iter().filter(|it| is_form_of(&it.0, &topic)).collect();
        assert!(!forms.is_empty(), "{topic} has no released form");
        for (stem, former) in forms {
            check(former, &current).unwrap_or_else(|why| panic!("{stem} and {topic}: {why}"));
        }
    }
    for (stem, _) in &released {
        assert!(current().iter().any(|it| is_form_of(stem, &it.0)), "{stem} belongs to no topic");
    }
}

#[test]
fn every_form_of_a_kind_is_a_record_of_one_name_and_only_upcoming_ones_follow_the_current() {
    let upcoming = forms_in("upcoming");
    for kind in Kind::ALL {
        let forms = codec::forms(*kind);
        let is_current = |it: &codec::Form| it.fingerprint == codec::fingerprint(*kind);
        let current = forms.iter().position(is_current).unwrap();
        let later = forms[current + 1..].iter().map(|it| serde_json::from_str(it.avsc).unwrap());
        let expected = upcoming.iter().filter(|(stem, _)| *stem == kind.topic());
        let expected: Vec<Value> = expected.map(|(_, form)| form.clone()).collect();
        assert_eq!(later.collect::<Vec<Value>>(), expected, "{kind:?}");
        for form in &forms {
            assert_eq!(form.name, forms[0].name, "{kind:?}");
            assert!(codec::reads(*kind, &form.fingerprint), "{kind:?}");
        }
    }
}

#[test]
fn what_the_next_release_writes_is_read_beside_everything_before_it() {
    for (stem, next) in forms_in("upcoming") {
        let kind = Kind::ALL.iter().find(|it| it.topic() == stem).unwrap();
        let current: Value = serde_json::from_str(kind.avsc()).unwrap();
        assert_ne!(current, next, "{stem} is written already: it belongs to released/");
        let released = released().into_iter().filter(|it| is_form_of(&it.0, &stem));
        for (former, form) in released.chain([("the current form".to_owned(), current)]) {
            check(&form, &next).unwrap_or_else(|why| panic!("{former} and {stem}: {why}"));
        }
    }
}

#[test]
fn every_released_form_can_be_decoded() {
    for (stem, form) in released() {
        let Some(kind) = Kind::ALL.iter().find(|it| is_form_of(&stem, &it.topic())) else {
            continue;
        };
        let fingerprint = Schema::parse(&form).unwrap().fingerprint::<Rabin>().bytes;
        let fingerprint = fingerprint.try_into().unwrap();
        assert!(codec::reads(*kind, &fingerprint), "{stem} is not named in codec.rs");
    }
}

#[test]
fn the_current_form_is_a_released_one() {
    for kind in Kind::ALL {
        let current = codec::fingerprint(*kind);
        let known = released().iter().any(|(stem, form)| {
            is_form_of(stem, &kind.topic())
                && Schema::parse(form).unwrap().fingerprint::<Rabin>().bytes == current
        });
        assert!(known, "add the new form of {} to released/", kind.topic());
    }
}

#[test]
fn a_schema_that_would_break_a_reader_is_refused() {
    let former: Value = serde_json::from_str(Kind::ChangeObserved.avsc()).unwrap();
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut current = former.clone();
        change(&mut current);
        check(&former, &current)
    };
    assert_eq!(broken(&|_| {}), Ok(()));
    let optional = json!({"name": "region", "type": ["null", "string"], "default": null});
    let push = |field: Value| {
        move |it: &mut Value| it["fields"].as_array_mut().unwrap().push(field.clone())
    };
    assert_eq!(broken(&push(optional)), Ok(()), "an optional field may be added");

    type Change<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let refused: [Change<'_>; 7] = [
        ("a field without a default", &push(json!({"name": "region", "type": "string"}))),
        ("a field is gone", &|it| drop(it["fields"].as_array_mut().unwrap().remove(1))),
        ("a field is renamed", &|it| it["fields"][1]["name"] = json!("unit")),
        ("a text became bytes", &|it| it["fields"][1]["type"] = json!("bytes")),
        ("a text became a number", &|it| it["fields"][1]["type"] = json!("long")),
        ("a symbol is gone", &|it| {
            drop(it["fields"][2]["type"]["symbols"].as_array_mut().unwrap().pop());
        }),
        ("a symbol is new", &|it| {
            it["fields"][2]["type"]["symbols"].as_array_mut().unwrap().push(json!("secret"));
        }),
    ];
    for (what, change) in refused {
        assert!(broken(change).is_err(), "{what}");
    }
}

#[test]
fn every_schema_names_its_topic_and_says_what_it_is() {
    for (topic, text) in current() {
        let schema: Value = serde_json::from_str(text).unwrap();
        let camel: String = topic
            .trim_end_matches(".v1")
            .split('.')
            .map(|word| word[..1].to_uppercase() + &word[1..])
            .collect();
        assert_eq!(schema["name"], json!(camel));
        assert_eq!(schema["namespace"], json!("org.healwright.v1"), "{topic}");
        documented(&topic, &schema);
    }
}

/// Every record, enum and field carries a sentence.
fn documented(at: &str, schema: &Value) {
    let is_sentence = |it: &Value| {
        it["doc"].as_str().is_some_and(|doc| doc.ends_with('.') && !doc.contains("Rust"))
    };
    if schema["fields"].is_array() || schema["symbols"].is_array() {
        assert!(is_sentence(schema), "{at} is not documented");
    }
    for field in schema["fields"].as_array().into_iter().flatten() {
        let at = format!("{at}.{}", field["name"]);
        assert!(is_sentence(field), "{at} is not documented");
        documented(&at, &field["type"]);
    }
    for key in ["items", "values", "type"] {
        if schema[key].is_object() {
            documented(at, &schema[key]);
        }
    }
    for branch in schema.as_array().into_iter().flatten() {
        documented(at, branch);
    }
}
