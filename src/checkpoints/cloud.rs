//! A bucket as the environment describes it, and what its refusals mean in words.
//!
//! Credentials and endpoints come from the environment alone, by the names that each cloud's own
//! tools know. No secret is repeated: of an endpoint its scheme and host are shown, of an answer
//! its status and code. What is sent without TLS leaves this machine only where that was chosen.

use std::env::var;
use std::error::Error as _;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as S3Key};
use object_store::azure::{AzureConfigKey as AzureKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey as GoogleKey};
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};

/// How a status is told by the client of the store.
const STATUS: &str = "Server returned non-2xx status code: ";

/// Which cloud's protocol a place speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cloud {
    S3,
    Google,
    Azure,
}

impl Cloud {
    /// What names who asks.
    fn credentials(self) -> &'static str {
        match self {
            Cloud::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            Cloud::Google => "GOOGLE_SERVICE_ACCOUNT",
            Cloud::Azure => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        }
    }

    /// What names a server that is not the cloud's own.
    fn endpoint(self) -> &'static str {
        match self {
            Cloud::S3 => "AWS_ENDPOINT_URL",
            Cloud::Google => "GOOGLE_BASE_URL, or `gcs_base_url` of the service account's file,",
            Cloud::Azure => "AZURE_STORAGE_ENDPOINT",
        }
    }

    /// What permits a server elsewhere to be spoken to without TLS.
    fn allow(self) -> &'static str {
        match self {
            Cloud::S3 => "AWS_ALLOW_HTTP",
            Cloud::Google => "GOOGLE_ALLOW_HTTP",
            Cloud::Azure => "AZURE_ALLOW_HTTP",
        }
    }

    fn container(self) -> &'static str {
        match self {
            Cloud::S3 | Cloud::Google => "bucket",
            Cloud::Azure => "container",
        }
    }

    /// Connects `url`, a bucket without a folder, as the environment says; also answers the
    /// endpoint, where it is not the cloud's own. Nothing is asked yet.
    ///
    /// # Errors
    /// Credentials that are none, or an endpoint elsewhere without TLS.
    pub(super) fn connect(
        self,
        url: &str,
        retry: RetryConfig,
    ) -> anyhow::Result<(Arc<dyn ObjectStore>, Option<String>)> {
        match self {
            Cloud::S3 => {
                let mut builder = AmazonS3Builder::from_env().with_url(url).with_retry(retry);
                let named = builder.get_config_value(&S3Key::S3Endpoint);
                let named = named.or_else(|| builder.get_config_value(&S3Key::Endpoint));
                if self.speaks_plainly(named.as_deref())? {
                    builder = builder.with_allow_http(true);
                }
                Ok((
                    Arc::new(builder.build().map_err(|it| self.unfit(&it))?),
                    named.as_deref().map(shown),
                ))
            }
            Cloud::Google => {
                let builder = GoogleCloudStorageBuilder::from_env().with_url(url);
                let named = google_endpoint(&builder)?;
                let plain = self.speaks_plainly(named.as_deref())?.to_string();
                let allow_http = GoogleKey::Client(ClientConfigKey::AllowHttp);
                let built = builder.with_config(allow_http, plain).with_retry(retry).build();
                Ok((Arc::new(built.map_err(|it| self.unfit(&it))?), named.as_deref().map(shown)))
            }
            Cloud::Azure => {
                let mut builder = MicrosoftAzureBuilder::from_env().with_url(url).with_retry(retry);
                let emulated = builder.get_config_value(&AzureKey::UseEmulator);
                let named = if emulated.is_some_and(|it| is_true(&it)) {
                    var("AZURITE_BLOB_STORAGE_URL").ok()
                } else {
                    builder.get_config_value(&AzureKey::Endpoint)
                };
                if self.speaks_plainly(named.as_deref())? {
                    builder = builder.with_allow_http(true);
                }
                Ok((
                    Arc::new(builder.build().map_err(|it| self.unfit(&it))?),
                    named.as_deref().map(shown),
                ))
            }
        }
    }

    /// Why a bucket cannot be opened with what the environment says, and where to look.
    fn unfit(self, error: &object_store::Error) -> anyhow::Error {
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        anyhow::anyhow!("{cause}; check {} in the environment", self.credentials())
    }

    fn speaks_plainly(self, endpoint: Option<&str>) -> anyhow::Result<bool> {
        let allowed = var(self.allow()).is_ok_and(|it| is_true(&it));
        endpoint.map_or(Ok(false), |it| self.is_plain(it, allowed))
    }

    /// Whether requests go out without TLS: freely to this machine, elsewhere when `allowed`.
    fn is_plain(self, endpoint: &str, allowed: bool) -> anyhow::Result<bool> {
        let (scheme, host) = scheme_and_host(endpoint);
        match scheme {
            "https" => Ok(false),
            "http" if allowed || is_this_machine(host) => Ok(true),
            "http" => bail!(
                "{} is {}, which is another machine without TLS: checkpoints and what signs for \
                 them could be read on the way; use https://, or set {}=true",
                self.endpoint(),
                shown(endpoint),
                self.allow()
            ),
            _ => bail!("{} has to begin with https:// or http://", self.endpoint()),
        }
    }

    /// What an error of the store means here, and what to do; `bucket` is its name.
    fn explain(self, error: &object_store::Error, bucket: &str) -> String {
        let cause = innermost(error);
        let Some(answer) = cause.strip_prefix(STATUS) else {
            let hint = if cause.contains("region") { "AWS_REGION" } else { self.endpoint() };
            let cause: String =
                cause.lines().next().unwrap_or_default().chars().take(200).collect();
            return format!("no answer ({cause}); check {hint} and the way there");
        };
        let (status, body) = answer.split_once(": ").unwrap_or((answer, ""));
        let code = between(body, "<Code>", "</Code>").unwrap_or_default();
        let answered = format!("{status} {code}");
        let answered = answered.trim();
        match status.get(..3) {
            Some("401" | "403") => format!(
                "the credentials are refused ({answered}); check {}: listing, reading, writing and \
                 deleting have to be permitted there",
                self.credentials()
            ),
            Some("404") if code.contains("Bucket") || code.contains("Container") => format!(
                "there is no {container} `{bucket}` ({answered}); make it, or correct the URL",
                container = self.container()
            ),
            Some("404") => format!("it is not there ({answered})"),
            _ => format!("the answer is {answered}"),
        }
    }
}

/// The server that is named instead of Google's own.
fn google_endpoint(builder: &GoogleCloudStorageBuilder) -> anyhow::Result<Option<String>> {
    if let Some(named) = builder.get_config_value(&GoogleKey::BaseUrl) {
        return Ok(Some(named));
    }
    let path = builder.get_config_value(&GoogleKey::ServiceAccount);
    let key = builder.get_config_value(&GoogleKey::ServiceAccountKey);
    let (text, source) = match (path, key) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(&path);
            let text = text.with_context(|| format!("reading the service account in {path}"))?;
            (text, path)
        }
        (None, Some(key)) => (key, "GOOGLE_SERVICE_ACCOUNT_KEY".to_owned()),
        (None, None) => return Ok(None),
    };
    // What cannot be read is not repeated: it may be a key.
    let account: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)
        .map_err(|_| anyhow::anyhow!("{source} is no JSON of a service account"))?;
    Ok(account.get("gcs_base_url").and_then(|it| it.as_str()).map(str::to_owned))
}

fn is_true(text: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&text.to_ascii_lowercase().as_str())
}

fn scheme_and_host(endpoint: &str) -> (&str, &str) {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (scheme, authority.rsplit('@').next().unwrap_or_default())
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|it| it.split_once(']')) {
        Some((name, _)) => name,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
}

/// An endpoint without what may be secret in it.
fn shown(endpoint: &str) -> String {
    let (scheme, host) = scheme_and_host(endpoint);
    format!("{scheme}://{host}")
}

/// The cause at the bottom: the store repeats it in the words of everything above.
fn innermost(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// A place, as it is named to people.
#[derive(Clone, Debug)]
pub(super) struct Name {
    /// The URL without the folder, or what else tells it.
    pub(super) url: String,
    /// Whose protocol it speaks; none is a directory.
    pub(super) cloud: Option<Cloud>,
    /// The server, where it is not the cloud's own.
    pub(super) endpoint: Option<String>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)?;
        self.endpoint.as_ref().map_or(Ok(()), |it| write!(f, " at {it}"))
    }
}

/// What a place has refused, in words that a person can act on.
#[derive(Debug)]
pub(super) struct Refusal {
    words: String,
    is_gone: bool,
}

impl Refusal {
    pub(super) fn new(error: &object_store::Error, place: &Name) -> Self {
        let bucket = place.url.rsplit('/').next().unwrap_or_default();
        let words =
            place.cloud.map_or_else(|| innermost(error), |cloud| cloud.explain(error, bucket));
        let is_gone = matches!(error, object_store::Error::NotFound { .. });
        Refusal { words, is_gone }
    }

    /// Whether the object is not there.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_without_tls_unless_that_is_chosen() {
        let here = ["127.0.0.1:9000", "localhost", "[::1]:80/x", "me:secret@127.0.0.1/?a=b"];
        for host in here {
            assert!(Cloud::S3.is_plain(&format!("http://{host}"), false).unwrap(), "{host}");
        }
        let elsewhere = ["store:9000", "10.0.0.1", "127.0.0.1.example.org", "127.0.0.1@store/x"];
        for host in elsewhere {
            for (cloud, word) in [(Cloud::S3, "AWS"), (Cloud::Google, "GOOGLE")] {
                let endpoint = format!("http://{host}");
                let error = cloud.is_plain(&endpoint, false).unwrap_err().to_string();
                assert!(error.contains(&format!("{word}_ALLOW_HTTP=true")), "{error}");
                assert!(cloud.is_plain(&endpoint, true).unwrap(), "{host}");
            }
            assert!(!Cloud::Azure.is_plain(&format!("https://{host}"), false).unwrap());
        }
        let error = Cloud::Azure.is_plain("key=secret", true).unwrap_err().to_string();
        assert!(error.contains("AZURE_STORAGE_ENDPOINT") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn an_endpoint_is_shown_without_what_may_be_secret() {
        let endpoint = "https://me:secret@store.example:9000/account?sig=secret";
        assert_eq!(shown(endpoint), "https://store.example:9000");
    }

    fn told(cloud: Option<Cloud>, cause: &str) -> String {
        let source = std::io::Error::other(cause.to_owned()).into();
        let error = object_store::Error::Generic { store: "X", source };
        let place = Name { url: "x://pail".to_owned(), cloud, endpoint: None };
        Refusal::new(&error, &place).to_string()
    }

    #[test]
    fn an_answer_is_told_once_with_its_code_and_what_to_do() {
        let answer = |status: &str, code: &str| {
            format!("{STATUS}{status}: <Error><Code>{code}</Code><Key>long</Key></Error>")
        };
        let said = told(Some(Cloud::Azure), &answer("404 Not Found", "ContainerNotFound"));
        let expected = "there is no container `pail` (404 Not Found ContainerNotFound); \
                        make it, or correct the URL";
        assert_eq!(said, expected);
        let said = told(Some(Cloud::S3), &answer("403 Forbidden", "SignatureDoesNotMatch"));
        assert!(said.contains("AWS_SECRET_ACCESS_KEY") && !said.contains("long"), "{said}");
        let said = told(Some(Cloud::Google), &format!("{STATUS}503 Service Unavailable"));
        assert_eq!(said, "the answer is 503 Service Unavailable");
        let said = told(Some(Cloud::S3), "refused\nand more");
        assert_eq!(said, "no answer (refused); check AWS_ENDPOINT_URL and the way there");
        assert_eq!(told(None, "no space left on device"), "no space left on device");
    }
}
