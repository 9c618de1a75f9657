//! How a cluster is spoken to: `[kafka.tls]` and `[kafka.sasl]`.
//!
//! A secret stands in a file of its own that nobody else can read, and never in the
//! configuration, in a log or in the journal: what this module hands on is the client's settings,
//! which are not printed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a cluster is spoken to. Without either table, in clear and without a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// Partitions of the system that a first start founds; of one that is there, how many it
    /// must have. Fixed for its life.
    pub partitions: Option<u32>,
    /// Connections are encrypted, and the brokers prove who they are.
    pub tls: Option<Tls>,
    /// This process says who it is.
    pub sasl: Option<Sasl>,
}

/// Certificates. An empty table takes the authorities of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the authorities that may vouch for brokers.
    pub ca_file: Option<PathBuf>,
    /// PEM file with this process's own certificate, where brokers ask for one.
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key, readable by you alone.
    pub key_file: Option<PathBuf>,
    /// File with the key's password, readable by you alone.
    pub key_password_file: Option<PathBuf>,
}

/// Name and password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is proven.
    pub mechanism: Mechanism,
    /// The name.
    pub username: String,
    /// File with the password, readable by you alone.
    pub password_file: PathBuf,
}

/// How a password is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// It is sent.
    #[serde(rename = "PLAIN")]
    Plain,
    /// By challenge, with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// By challenge, with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Kafka {
    /// What is wrong with the tables, without opening a file.
    ///
    /// # Errors
    /// A certificate without its key or the other way round, or a name that is empty.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some(tls) = &self.tls {
            if tls.cert_file.is_some() != tls.key_file.is_some() {
                bail!("`kafka.tls.cert_file` and `kafka.tls.key_file` belong together: name both");
            }
            if tls.key_password_file.is_some() && tls.key_file.is_none() {
                bail!("`kafka.tls.key_password_file` opens no key: name `kafka.tls.key_file` too");
            }
        }
        if self.sasl.as_ref().is_some_and(|sasl| sasl.username.is_empty()) {
            bail!("`kafka.sasl.username` is empty");
        }
        Ok(())
    }

    /// The client's settings, with the secrets in them. `is_local`: all brokers are on loopback.
    ///
    /// # Errors
    /// A file that is missing, a secret that others can read, or a password that would travel in
    /// clear.
    pub fn settings(&self, is_local: bool) -> anyhow::Result<BTreeMap<String, String>> {
        let mut settings = BTreeMap::new();
        let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value);
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => return Ok(BTreeMap::new()),
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        };
        set("security.protocol", protocol.to_owned());
        if let Some(tls) = &self.tls {
            let public = [
                ("ssl.ca.location", "kafka.tls.ca_file", &tls.ca_file),
                ("ssl.certificate.location", "kafka.tls.cert_file", &tls.cert_file),
            ];
            for (key, name, path) in public {
                if let Some(path) = path {
                    fs::File::open(path).with_context(|| reading(name, path))?;
                    set(key, path.display().to_string());
                }
            }
            if let Some(path) = &tls.key_file {
                private("kafka.tls.key_file", path)?;
                set("ssl.key.location", path.display().to_string());
            }
            if let Some(path) = &tls.key_password_file {
                set("ssl.key.password", secret("kafka.tls.key_password_file", path)?);
            }
        }
        if let Some(sasl) = &self.sasl {
            if sasl.mechanism == Mechanism::Plain && self.tls.is_none() && !is_local {
                bail!(
                    "`kafka.sasl.mechanism` PLAIN sends the password in clear: add `[kafka.tls]`, \
                     or use SCRAM-SHA-512"
                );
            }
            set("sasl.mechanisms", sasl.mechanism.name().to_owned());
            set("sasl.username", sasl.username.clone());
            set("sasl.password", secret("kafka.sasl.password_file", &sasl.password_file)?);
        }
        Ok(settings)
    }
}

fn reading(name: &str, path: &Path) -> String {
    format!("reading `{name}` {}", path.display())
}

/// Refuses a file that others can read.
fn private(name: &str, path: &Path) -> anyhow::Result<()> {
    let mode = fs::metadata(path).with_context(|| reading(name, path))?.permissions().mode();
    if mode & 0o077 != 0 {
        let mode = mode & 0o777;
        bail!(
            "`{name}` {0} can be read by others (mode {mode:o}); run `chmod 600 {0}`",
            path.display()
        );
    }
    Ok(())
}

/// The one line of a file that nobody else can read.
fn secret(name: &str, path: &Path) -> anyhow::Result<String> {
    private(name, path)?;
    let text = fs::read_to_string(path).with_context(|| reading(name, path))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.contains(['\n', '\r', '\0']) {
        bail!("`{name}` {} holds no secret: one line is expected", path.display());
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;

    /// The table of `text`, in which `DIR` stands for a folder with a secret `pw` of `mode`.
    fn read(text: &str, mode: u32) -> (tempfile::TempDir, anyhow::Result<Kafka>) {
        let dir = tempfile::tempdir().unwrap();
        let pw = dir.path().join("pw");
        fs::write(&pw, "hunter2 with blanks \n").unwrap();
        fs::set_permissions(&pw, fs::Permissions::from_mode(mode)).unwrap();
        let text = text.replace("DIR", &dir.path().display().to_string());
        (dir, Config::parse("hw.toml", &text).map(|it| it.kafka))
    }

    fn said<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    const SCRAM: &str = "[kafka.sasl]\nmechanism = \"SCRAM-SHA-512\"\nusername = \"node\"\n\
                         password_file = \"DIR/pw\"\n";

    #[test]
    fn the_tables_become_the_clients_settings() {
        let (_dir, kafka) = read(&format!("[kafka.tls]\n{SCRAM}"), 0o600);
        let settings = kafka.unwrap().settings(false).unwrap();
        let expected = [
            ("sasl.mechanisms", "SCRAM-SHA-512"),
            ("sasl.password", "hunter2 with blanks "),
            ("sasl.username", "node"),
            ("security.protocol", "SASL_SSL"),
        ];
        let found = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        assert_eq!(found.collect::<Vec<_>>(), expected);
        assert_eq!(Kafka::default().settings(false).unwrap(), BTreeMap::new());
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_and_never_printed() {
        for mode in [0o644, 0o640, 0o604] {
            let (_dir, kafka) = read(SCRAM, mode);
            let kafka = kafka.unwrap();
            let why = said(kafka.settings(true));
            assert!(why.contains("can be read by others") && why.contains("chmod 600"), "{why}");
            assert!(!why.contains("hunter2") && !format!("{kafka:?}").contains("hunter2"));
        }
    }

    #[test]
    fn plain_travels_over_tls_or_stays_on_this_machine() {
        let plain = SCRAM.replace("SCRAM-SHA-512", "PLAIN");
        let (_dir, kafka) = read(&plain, 0o600);
        let kafka = kafka.unwrap();
        assert!(said(kafka.settings(false)).contains("in clear"));
        assert_eq!(kafka.settings(true).unwrap()["security.protocol"], "SASL_PLAINTEXT");
    }

    #[test]
    fn what_does_not_belong_together_is_refused_with_the_key_that_is_missing() {
        for (text, word) in [
            ("[kafka.tls]\ncert_file = \"a\"\n", "key_file"),
            ("[kafka.tls]\nkey_file = \"a\"\n", "cert_file"),
            ("[kafka.tls]\nkey_password_file = \"a\"\n", "`kafka.tls.key_file`"),
            ("[kafka.sasl]\nmechanism = \"GSSAPI\"\n", "SCRAM-SHA-256"),
            ("[kafka.sasl]\nmechanism = \"PLAIN\"\nusername = \"a\"\n", "password_file"),
            ("[kafka]\npassword = \"hunter2\"\n", "unknown field `password`"),
        ] {
            let why = said(read(text, 0o600).1);
            assert!(why.contains(word), "{text}: {why}");
        }
    }
}
