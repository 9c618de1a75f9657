//! The HTTP side from outside, as a browser and as an attacker see it, and the proof as a
//! verifier in another language sees it.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

#[allow(dead_code)]
#[path = "blackbox/home.rs"]
mod home;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use home::{Home, Node};
use serde_json::{Value, json};

/// A request, as the bytes that a client writes; `\n` ends its lines.
fn asked(node: &Node, request: &str) -> (u16, String) {
    asked_with(node, request, b"")
}

fn asked_with(node: &Node, request: &str, body: &[u8]) -> (u16, String) {
    let mut stream = opened(node, request, body);
    let mut answer = Vec::new();
    // A refusal before the body was read ends in a reset; what came before it counts.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap_or_default().parse();
    (status.unwrap_or_else(|_| panic!("{request}: {answer}")), answer)
}

fn opened(node: &Node, request: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(node.http()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let host = match request.to_lowercase().contains("\nhost:") {
        true => String::new(),
        false => format!("\nhost: {}", node.http()),
    };
    let length = body.len();
    let head = format!("{request}{host}\nconnection: close\ncontent-length: {length}\n\n");
    stream.write_all(head.replace('\n', "\r\n").as_bytes()).unwrap();
    let _ = stream.write_all(body);
    stream
}

fn post(node: &Node, path: &str, headers: &str, body: &Value) -> (u16, String) {
    let request = format!("POST {path} HTTP/1.1\ncontent-type: application/json{headers}");
    asked_with(node, &request, body.to_string().as_bytes())
}

fn change(id: &str) -> Value {
    json!({ "id": id, "service": "shop", "kind": "deploy", "version": "1.1" })
}

/// Paths and bodies that the page shows under a heading `### POST path`.
fn shown_on_the_page_of_the_api() -> Vec<(String, Value)> {
    let page = include_str!("../docs/api.md");
    let parts = page.split("\n### POST ").skip(1);
    let shown = parts.filter_map(|part| {
        let path = part.split_whitespace().next()?.trim_end_matches(',').to_owned();
        let body = part.split("```json").nth(1)?.split("```").next()?;
        Some((path, serde_json::from_str(body).unwrap()))
    });
    shown.collect()
}

#[test]
fn what_the_page_of_the_api_shows_is_taken() {
    let home = Home::new();
    let node = home.up();
    let shown = shown_on_the_page_of_the_api();
    assert_eq!(shown.len(), 2, "{shown:?}");
    for (path, body) in shown {
        let (status, answer) = post(&node, &path, "", &body);
        assert!(matches!(status, 201 | 202), "{path}: {answer}");
    }
}

#[test]
fn a_service_is_not_registered_under_another_name_than_it_says() {
    let home = Home::new();
    let node = home.up();
    for (body, said) in [(json!({ "name": "other" }), "other"), (json!({}), "")] {
        let config = json!({
            "kind": "policy", "name": "service/shop", "version": 1, "digest": "",
            "approved_by": "operator", "body": body.to_string(),
        });
        let (status, answer) = post(&node, "/api/v1/config", "", &config);
        assert_eq!(status, 400, "{answer}");
        let why = format!("body.name is \\\"{said}\\\" and must be \\\"shop\\\"");
        assert!(answer.contains(&why), "{answer}");
    }
}

#[test]
fn every_answer_says_what_it_is_also_where_nothing_is() {
    let home = Home::new();
    let node = home.up();
    for path in ["/", "/healthz", "/readyz", "/metrics", "/style.css", "/nowhere", "/api/nowhere"] {
        let (status, answer) = asked(&node, &format!("GET {path} HTTP/1.1"));
        assert!(answer.to_lowercase().contains("x-content-type-options: nosniff"), "{answer}");
        let is_there = !path.contains("nowhere");
        assert_eq!(status, if is_there { 200 } else { 404 }, "{answer}");
        assert!(is_there || answer.contains("\"not_found\""), "{answer}");
    }
}

#[test]
fn a_page_of_another_origin_can_neither_write_nor_load() {
    let home = Home::new();
    let node = home.up();
    for headers in [
        "\norigin: http://evil.example",
        "\norigin: null",
        "\norigin: http://localhost:3000",
        "\nsec-fetch-site: cross-site",
        "\nsec-fetch-site: same-site",
        "\norigin: http://evil.example\nsec-fetch-site: same-origin",
    ] {
        let (status, answer) = post(&node, "/api/v1/changes", headers, &change("evil"));
        assert_eq!(status, 403, "{headers}: {answer}");
    }
    let embedded = "\nsec-fetch-site: cross-site\nsec-fetch-mode: no-cors";
    for path in ["/api/events", "/", "/incidents/x", "/api/v1/status"] {
        let (status, answer) = asked(&node, &format!("GET {path} HTTP/1.1{embedded}"));
        assert_eq!(status, 403, "{path}: {answer}");
    }
    let linked = "\nsec-fetch-site: cross-site\nsec-fetch-mode: navigate";
    assert_eq!(asked(&node, &format!("GET / HTTP/1.1{linked}")).0, 200, "a link may lead here");
    let own = format!("\norigin: http://{}\nsec-fetch-site: same-origin", node.http());
    assert_eq!(post(&node, "/api/v1/changes", &own, &change("own")).0, 201);
    let listed = home.run(&["events", "list", "-o", "json"]).expect(0).out;
    assert!(listed.contains("\"own\"") && !listed.contains("\"evil\""), "{listed}");
}

#[test]
fn a_host_name_that_is_not_the_nodes_reaches_nothing() {
    let home = Home::new();
    let node = home.up();
    for host in ["evil.example", "evil.example:8470", "127.0.0.1.evil.example", "", "[::1"] {
        let (status, answer) = asked(&node, &format!("GET /healthz HTTP/1.1\nhost: {host}"));
        assert_eq!(status, 421, "{host}: {answer}");
        assert!(answer.contains("http.hosts"), "{answer}");
    }
    for host in ["localhost", "LocalHost:1", "127.0.0.1", "[::1]", "[::1]:8470"] {
        assert_eq!(asked(&node, &format!("GET /healthz HTTP/1.1\nhost: {host}")).0, 200, "{host}");
    }
}

#[test]
fn a_path_that_leads_elsewhere_finds_nothing() {
    let home = Home::new();
    let node = home.up();
    for path in [
        "/entries/../../../../etc/passwd",
        "/entries/..%2f..%2fetc%2fpasswd",
        "/entries/%00",
        "/entries/-1",
        "/entries/18446744073709551615",
        "/entries/99999999999999999999",
        "/entries/0/../../keys",
        "/entries/18446744073709551615/proof",
        "/incidents/..%2f..%2fkeys",
        "/incidents/%3Cscript%3E",
        "/style.css/../keys",
    ] {
        let (status, answer) = asked(&node, &format!("GET {path} HTTP/1.1"));
        assert_eq!(status, 404, "{path}: {answer}");
        assert!(!answer.contains("root:") && !answer.contains("<script>"), "{path}: {answer}");
    }
    assert_eq!(asked(&node, "GET /entries/0 HTTP/1.1").0, 200);
}

#[test]
fn what_a_stranger_writes_is_text_on_the_page_and_in_the_terminal() {
    let home = Home::new();
    let node = home.up();
    let hostile = "\"><script>alert(1)</script><img src=x onerror=alert(1)>";
    let mut body = change("a-change");
    for field in ["version", "author", "summary", "ref"] {
        body[field] = json!(hostile);
    }
    let (status, answer) = post(&node, "/api/v1/changes", "", &body);
    assert_eq!(status, 201, "{answer}");
    let place = answer.split("immutable:log:0/").nth(1).unwrap();
    let seq: String = place.chars().take_while(char::is_ascii_digit).collect();
    // A signed reason is taken as it is: what it holds must do no harm where it is shown.
    let reason = format!("{hostile}\u{1b}[31m\u{202e}");
    home.run(&["freeze", "--yes", "--reason", &reason]).expect(0);
    for path in [format!("/entries/{seq}"), "/".to_owned(), "/?q=%3Cscript%3E".to_owned()] {
        let (_, page) = asked(&node, &format!("GET {path} HTTP/1.1"));
        assert_eq!(page.matches("<script").count(), 2, "{path}: {page}");
        let is_harmless = |it: &str| !it.contains(['\u{1b}', '\u{202e}']);
        assert!(!page.contains("<img") && is_harmless(&page), "{path}: {page}");
        assert!(page.contains("script-src 'self'") && page.contains("default-src 'none'"));
    }
    let listed = home.run(&["events", "list"]).expect(0).out;
    assert!(listed.contains("\\u{1b}[31m"), "it is shown as what it is: {listed:?}");
    assert!(!listed.contains(['\u{1b}', '\u{202e}']), "{listed:?}");
}

/// A01: what hides, disguises or starts another line is refused where it comes in, and so is a
/// name in other bytes than those that it is compared by.
#[test]
fn a01_text_that_hides_or_disguises_is_refused_with_its_field() {
    let home = Home::new();
    let node = home.up();
    let texts = ["1.1\u{1b}[31m", "1.1\u{202e}", "1.1\nroot approved", "cafe\u{301}"];
    for field in ["id", "service", "version", "author", "summary", "ref"] {
        for text in texts {
            let mut body = change("a-change");
            body[field] = json!(text);
            let (status, answer) = post(&node, "/api/v1/changes", "", &body);
            assert_eq!(status, 400, "{field} {text:?}: {answer}");
            assert!(answer.contains(&format!("`{field}`")), "{text:?}: {answer}");
        }
    }
    let mut body = change("caf\u{e9}");
    body["author"] = json!("Zo\u{eb} <zoe@example.org>");
    body["summary"] = json!("long ".repeat(4_000));
    assert_eq!(post(&node, "/api/v1/changes", "", &body).0, 201);
}

#[test]
fn a_body_that_is_too_large_or_no_json_is_refused_and_the_node_goes_on() {
    let home = Home::new();
    let node = home.up();
    let huge = vec![b'a'; 3 * 1024 * 1024];
    for path in ["/api/v1/changes", "/api/v1/telemetry", "/api/incidents/freeze"] {
        let (status, answer) = asked_with(&node, &format!("POST {path} HTTP/1.1"), &huge);
        assert_eq!(status, 413, "{path}: {answer}");
    }
    let deep = "[".repeat(500_000);
    for body in ["", "{", "null", "{\"id\":1}", "\u{0}", &deep] {
        let request = "POST /api/v1/changes HTTP/1.1";
        let (status, answer) = asked_with(&node, request, body.as_bytes());
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains("\"malformed\""), "{answer}");
    }
    assert_eq!(asked(&node, "GET /readyz HTTP/1.1").0, 200);
}

#[test]
fn every_refusal_of_the_api_has_one_form() {
    let home = Home::new();
    let node = home.up();
    let large = vec![b' '; 2 * 1024 * 1024];
    for (request, body, status, code) in [
        ("GET /api/v1/nothing HTTP/1.1", &b""[..], 404, "not_found"),
        ("PUT /api/v1/status HTTP/1.1", b"", 405, "method_not_allowed"),
        ("GET /api/incidents?limit=many HTTP/1.1", b"", 400, "malformed"),
        ("POST /api/v1/changes HTTP/1.1", &large, 413, "too_large"),
    ] {
        let (answered, text) = asked_with(&node, request, body);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(answered, status, "{text}");
        assert!(head.to_lowercase().contains("application/json"), "{head}");
        assert!(status != 405 || head.to_lowercase().contains("allow: get"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], code, "{body}");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty(), "{body}");
    }
}

#[test]
fn a_crowd_of_live_pages_leaves_the_node_answering() {
    let home = Home::new();
    let node = home.up();
    let live = |node: &Node| {
        let mut reader = BufReader::new(opened(node, "GET /api/events HTTP/1.1", b""));
        let mut status = String::new();
        reader.read_line(&mut status).unwrap();
        (status.contains(" 200 "), reader)
    };
    let crowd: Vec<_> = (0..80).map(|_| live(&node)).collect();
    let n_live = crowd.iter().filter(|(is_live, _)| *is_live).count();
    assert_eq!(n_live, 64, "the rest is refused");
    assert_eq!(asked(&node, "GET / HTTP/1.1").0, 200);
    assert_eq!(post(&node, "/api/v1/changes", "", &change("c-1")).0, 201);
    drop(crowd);
    // Places come back when the node next writes to those who left; each change makes it write.
    let is_live = (0..200).any(|n| {
        assert_eq!(post(&node, "/api/v1/changes", "", &change(&format!("d-{n}"))).0, 201);
        live(&node).0
    });
    assert!(is_live, "who leaves makes room");
}

/// Runs the page's own verifier over a proof, outside a browser; `None` where there is no Node.js.
fn verified_by_script(home: &Home, proof: &Value) -> Option<Vec<(String, Option<bool>)>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/page/verify.js");
    std::fs::write(home.path().join("proof.json"), proof.to_string()).unwrap();
    let program = format!(
        "const {{ check }} = require({script:?});
         const proof = JSON.parse(require('fs').readFileSync('proof.json', 'utf8'));
         check(proof).then((it) => console.log(JSON.stringify(it)),
                           (it) => console.log(JSON.stringify([[it.message, false]])));"
    );
    let ran = Command::new("node").arg("-e").arg(program).current_dir(home.path()).output();
    let Ok(ran) = ran else { return None };
    let text = String::from_utf8(ran.stdout).unwrap();
    let error = String::from_utf8_lossy(&ran.stderr).into_owned();
    Some(serde_json::from_str(&text).unwrap_or_else(|it| panic!("{it}: {text} {error}")))
}

#[test]
fn the_browsers_verifier_takes_a_true_proof_and_no_changed_one() {
    let home = Home::new();
    let node = home.up();
    home.run(&["change", "record", "shop", "1.1", "--id", "c-1"]).expect(0);
    // The head that covers the first entries was signed long before the node said it was ready.
    let (status, answer) = asked(&node, "GET /entries/1/proof HTTP/1.1");
    assert_eq!(status, 200, "{answer}");
    let proof: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let Some(checks) = verified_by_script(&home, &proof) else {
        eprintln!("not run: the verifier of the page needs Node.js outside a browser");
        return;
    };
    assert_eq!(checks.len(), 8, "{checks:?}");
    assert!(checks.iter().all(|(_, holds)| *holds == Some(true)), "{checks:?}");
    let mut changed = Vec::new();
    for (field, value) in proof.as_object().unwrap() {
        let mut copy = proof.clone();
        copy[field] = match value {
            Value::String(text) if field == "note" => json!(text.replacen("\n1", "\n2", 1)),
            Value::String(text) => json!(flipped(text)),
            Value::Array(path) if path.is_empty() => continue,
            Value::Array(path) => json!(path[1..]),
            Value::Number(n) => json!(n.as_u64().unwrap() + 1),
            Value::Null | Value::Bool(_) | Value::Object(_) => continue,
        };
        if field != "schema" && copy != proof {
            changed.push((field.clone(), copy));
        }
    }
    assert!(changed.len() >= 13, "{changed:?}");
    for (field, copy) in changed {
        let checks = verified_by_script(&home, &copy).unwrap();
        assert!(checks.iter().any(|(_, it)| *it == Some(false)), "{field} changed: {checks:?}");
    }
}

/// A text with one digit or letter exchanged, so that it is still of its form.
fn flipped(text: &str) -> String {
    let last = text.chars().last().unwrap_or_default();
    let other = if last == '1' { '2' } else { '1' };
    let mut changed = text.to_owned();
    changed.pop();
    changed.push(other);
    changed
}
