//! The registry's HTTP API, as far as it is used: a few questions over kept connections.
//!
//! What a schema means is not known here. Whatever a registry answers is either a typed answer
//! or a sentence that names address and status.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::client;

/// One question.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The media type of the API; registries take no other for certain.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// The subject exists, this schema of it does not.
const SCHEMA_NOT_FOUND: u64 = 40403;
/// Of an answer that is no JSON, this much is told.
const SHOWN_CHARS_MAX: usize = 200;

/// A connection to a registry, for one start.
pub(super) struct Client<'a> {
    url: &'a str,
    authorization: Option<&'a str>,
    agent: ureq::Agent,
    until: Instant,
}

/// What came back.
pub(super) struct Answer {
    asked: String,
    status: u16,
    body: Value,
}

impl<'a> Client<'a> {
    /// Asks nothing yet.
    pub(super) fn new(
        url: &'a str,
        authorization: Option<&'a str>,
        ca_file: Option<&Path>,
        until: Instant,
    ) -> anyhow::Result<Self> {
        let agent = client::agent(ca_file, ANSWER_WITHIN).context("asking the schema registry")?;
        Ok(Client { url, authorization, agent, until })
    }

    /// Where it asks.
    pub(super) fn url(&self) -> &str {
        self.url
    }

    pub(super) fn get(&self, path: &str) -> anyhow::Result<Answer> {
        let request = self.agent.get(format!("{}{path}", self.url));
        self.answer("GET", path, self.signed(request).call())
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let request = self.signed(request).content_type(MEDIA_TYPE);
        self.answer("POST", path, request.send(body.to_string()))
    }

    pub(super) fn put(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let request = self.agent.put(format!("{}{path}", self.url));
        let request = self.signed(request).content_type(MEDIA_TYPE);
        self.answer("PUT", path, request.send(body.to_string()))
    }

    fn signed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        let request = request.header("accept", MEDIA_TYPE);
        match self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    /// An answer that says something about the question; everything else is an error.
    fn answer(
        &self,
        method: &str,
        path: &str,
        sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<Answer> {
        let asked = format!("{method} {}{path}", self.url);
        let mut response = sent.with_context(|| {
            format!(
                "the schema registry does not answer {asked}; check `schema_registry.url`, or \
                 leave it out to publish single-object encoding"
            )
        })?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string();
        let text = text.with_context(|| format!("reading the answer to {asked}"))?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let answer = Answer { asked, status, body };
        match status {
            200..300 | 404 | 409 | 422 => {}
            401 | 403 => bail!(
                "{}; set `schema_registry.username` and `schema_registry.password_file` to a \
                 user that may read and write its subjects",
                answer.shown()
            ),
            _ => bail!("{}", answer.shown()),
        }
        if self.until < Instant::now() {
            bail!("the schema registry {} is too slow to start with; see its own log", self.url);
        }
        Ok(answer)
    }
}

impl Answer {
    /// Whether what was asked for exists.
    pub(super) fn is_there(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the registry will not have what it was given.
    pub(super) fn is_refused(&self) -> bool {
        self.status == 409
    }

    /// Whether the subject exists and the schema is not in it.
    pub(super) fn lacks_schema_only(&self) -> bool {
        self.status == 404 && self.body["error_code"].as_u64() == Some(SCHEMA_NOT_FOUND)
    }

    /// Its `id`.
    pub(super) fn id(&self) -> anyhow::Result<u32> {
        let id = self.body["id"].as_u64().filter(|_| self.is_there());
        let id = id.and_then(|it| u32::try_from(it).ok());
        id.with_context(|| format!("{}, where the id of a schema is expected", self.shown()))
    }

    /// A field.
    pub(super) fn text(&self, name: &str) -> anyhow::Result<String> {
        let text = self.body[name].as_str().filter(|_| self.is_there());
        text.map(str::to_owned)
            .with_context(|| format!("{}, where `{name}` is expected", self.shown()))
    }

    /// Its `is_compatible`.
    pub(super) fn is_compatible(&self) -> anyhow::Result<bool> {
        let said = self.body["is_compatible"].as_bool();
        said.with_context(|| format!("{}, where `is_compatible` is expected", self.shown()))
    }

    /// An answer that has nothing more to say.
    pub(super) fn done(&self) -> anyhow::Result<()> {
        if self.is_there() {
            return Ok(());
        }
        bail!("{}", self.shown())
    }

    /// Why not, in the registry's words: each of them has a field of its own for it.
    pub(super) fn reason(&self) -> String {
        let list = self.body["messages"].as_array().map(|messages| {
            let messages: Vec<&str> = messages.iter().filter_map(Value::as_str).collect();
            messages.join("; ")
        });
        let texts = ["reason", "message"].map(|name| self.body[name].as_str().map(str::to_owned));
        let said = list.into_iter().chain(texts.into_iter().flatten()).find(|it| !it.is_empty());
        said.unwrap_or_else(|| "the registry gives no reason".to_owned())
    }

    fn shown(&self) -> String {
        let body: String = self.body.to_string().chars().take(SHOWN_CHARS_MAX).collect();
        format!("the schema registry answers {} to {}: {body}", self.status, self.asked)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// What a registry that says `answer` is asked, and what comes of it.
    fn ask(answer: &'static str) -> (String, Result<Answer, String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                asked.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        let until = Instant::now() + Duration::from_secs(60);
        let client = Client::new(&url, Some("Basic aHc6cGFzcw=="), None, until).unwrap();
        let answer = client.get("/config/s").map_err(|error| format!("{error:#}"));
        (served.join().unwrap(), answer)
    }

    #[test]
    fn a_login_is_sent_and_one_that_is_refused_says_what_to_set() {
        let (asked, answer) = ask("HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\n{}");
        assert!(asked.starts_with("GET /config/s HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("authorization: Basic aHc6cGFzcw==\r\n"), "{asked}");
        let why = answer.err().unwrap();
        assert!(why.contains("answers 401") && why.contains("password_file"), "{why}");
        assert!(!why.contains("aHc6"), "{why}");
    }

    #[test]
    fn what_is_no_registry_is_told_with_its_words() {
        let (_, answer) = ask("HTTP/1.1 502 Bad\r\ncontent-length: 5\r\n\r\nnginx");
        let why = answer.err().unwrap();
        assert!(why.contains("answers 502 to GET http://") && why.contains("nginx"), "{why}");
        let (_, answer) = ask("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
        let why = answer.unwrap().text("compatibilityLevel").unwrap_err().to_string();
        assert!(why.contains("where `compatibilityLevel` is expected"), "{why}");
    }

    #[test]
    fn every_registry_s_words_for_why_not_are_found() {
        for body in [r#"{"messages":["a","b"]}"#, r#"{"reason":"a; b"}"#, r#"{"message":"a; b"}"#] {
            let body = serde_json::from_str(body).unwrap();
            let answer = Answer { asked: String::new(), status: 409, body };
            assert_eq!(answer.reason(), "a; b");
        }
    }
}
