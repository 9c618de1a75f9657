//! A secret stays where it was put: keys, the token and the webhook's address are searched for in
//! everything that a node, its runner and its readers leave behind or say.

#![allow(clippy::unwrap_used)]

#[path = "blackbox/home.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod home;
#[path = "blackbox/web.rs"]
mod web;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use home::{HEALWRIGHT, Home, Node, until};
use rustix::process::{Signal, kill_process};

const TOKEN: &str = "planted-token-8d1f03";
const HOOK: &str = "planted-hook-77ab31";

/// A file that only its owner reads.
fn private(path: &Path, text: &str) {
    let mut options = fs::File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.unwrap().write_all(text.as_bytes()).unwrap();
}

/// A configuration with a token, a webhook that nobody answers, and a service that nobody may
/// repair without a person.
fn configure(home: &Path) {
    private(&home.join("token"), TOKEN);
    let config = format!(
        "profile = \"local\"\n[http]\ntoken_file = \"token\"\n\
         [escalation]\nwebhook = \"http://127.0.0.1:9/{HOOK}\"\n\
         [[service]]\nname = \"shop\"\npropose_only = true\n{}",
        web::lines(home)
    );
    fs::write(home.join("hw.toml"), config).unwrap();
}

/// A node that says all it can.
fn up(home: &Home) -> (Node, String) {
    let said = home.path().join("said");
    let mut command = home.command(HEALWRIGHT);
    command.args(["up", "--config", "hw.toml", "--http", "127.0.0.1:0"]);
    command.env("RUST_LOG", "trace").stdout(Stdio::null());
    let child = command.stderr(fs::File::create(&said).unwrap()).spawn().unwrap();
    let node = Node::of(child, String::new());
    let at = until("the node is ready", || {
        let said = fs::read_to_string(&said).unwrap();
        let (_, rest) = said.split_once("ready: http://")?;
        rest.split_once('/').map(|it| it.0.to_owned())
    });
    (node, at)
}

/// What the node answers to a request under `token`.
fn ask(at: &str, request: &str, token: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// All files below `folder`.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap() {
            it if it.is_dir() => files(&path, found),
            it if it.is_file() => found.push(path),
            _ => {}
        }
    }
}

/// Where `secret` stands in `said`.
fn holds(said: &[u8], secret: &[u8]) -> bool {
    said.windows(secret.len()).any(|it| it == secret)
}

/// The seeds in key files, as they stand there and as bytes.
fn seeds(keys: &[PathBuf]) -> Vec<(String, Vec<u8>)> {
    let texts = keys.iter().map(|it| (it, fs::read_to_string(it).unwrap()));
    let seeds = texts.flat_map(|(path, text)| {
        let (name, hex) = (path.display().to_string(), text.trim().to_owned());
        let seed = schemas::ids::unhex::<32>(&hex).unwrap().to_vec();
        [(name.clone(), hex.into_bytes()), (name, seed)]
    });
    seeds.collect()
}

#[test]
fn no_secret_in_any_event() {
    let home = Home::new();
    configure(home.path());
    let (node, at) = up(&home);
    let change = r#"{"id":"c-1","service":"shop","kind":"deploy","version":"1"}"#;
    let wrong = ask(&at, "POST /api/v1/changes", &format!("{TOKEN}x"), change);
    assert!(wrong.starts_with("HTTP/1.1 401"), "{wrong}");
    let right = ask(&at, "POST /api/v1/changes", TOKEN, change);
    assert!(right.starts_with("HTTP/1.1 201"), "{right}");
    until("the service is seen to be well", || {
        ask(&at, "GET /api/v1/status", TOKEN, "").contains("\"green\"").then_some(())
    });
    kill_process(web::process_of(home.path()).unwrap(), Signal::KILL).unwrap();
    until("the webhook was tried and did not answer", || {
        let said = fs::read_to_string(home.path().join("said")).unwrap();
        said.contains("people could not be told").then_some(())
    });

    let mut said: Vec<(String, Vec<u8>)> = Vec::new();
    for path in ["/", "/api/v1/status", "/metrics", "/readyz", "/healthz"] {
        let answer = ask(&at, &format!("GET {path}"), TOKEN, "");
        said.push((path.to_owned(), answer.into_bytes()));
    }
    drop(node);
    for words in [
        &["export", "--to", "bundle"][..],
        &["events", "list", "-o", "json"],
        &["config", "show"],
        &["doctor"],
    ] {
        let ran = home.run(words);
        said.push((words.join(" "), [ran.out, ran.err].concat().into_bytes()));
    }
    let mut found = Vec::new();
    files(home.path(), &mut found);
    let is_key = |it: &PathBuf| it.extension().is_some_and(|it| it == "key");
    let (keys, others): (Vec<PathBuf>, Vec<PathBuf>) = found.into_iter().partition(is_key);
    assert_eq!(keys.len(), 4, "root, node, operator, runner: {keys:?}");
    let put = [home.path().join("token"), home.path().join("hw.toml")];
    let others = others.into_iter().filter(|it| !put.contains(it));
    said.extend(others.map(|it| (it.display().to_string(), fs::read(it).unwrap())));
    assert!(said.iter().any(|it| holds(&it.1, b"config.activated")), "nothing was searched");

    let mut secrets = seeds(&keys);
    secrets.extend([TOKEN, HOOK].map(|it| (it.to_owned(), it.as_bytes().to_vec())));
    for (place, said) in &said {
        for (name, secret) in &secrets {
            assert!(!holds(said, secret), "{name} stands in {place}");
        }
    }
}
