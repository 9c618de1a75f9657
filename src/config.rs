//! The configuration file: read once, checked whole before anything happens, then journaled as
//! `config.activated` events. Folds never see this file.

pub(crate) mod check;
pub mod kafka;
mod place;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use topologies::config::Service;
use topologies::profile::Profile;

pub use check::{SPAN_MAX_MS, SPAN_MAX_TEXT};

/// A configuration file. Every key is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `production` or `local`; `local` by default, as one machine and one operator is what
    /// `up` finds on first start.
    #[schemars(extend("enum" = ["local", "production", null]))]
    pub profile: Option<String>,
    /// Numbers that differ from the profile; shown by `status`.
    #[schemars(with = "Profile")]
    pub numbers: toml::Table,
    /// Where the head record lies; outside the data directory by default.
    pub head_record: Option<PathBuf>,
    /// Where a node on a cluster keeps checkpoints.
    pub checkpoints: Checkpoints,
    /// API and page.
    pub http: Http,
    /// The runner of this machine.
    pub runner: Runner,
    /// Who is told when people must act.
    pub escalation: Escalation,
    /// How a cluster is spoken to, for every command with `--log kafka://…`.
    pub kafka: kafka::Kafka,
    /// Where schemas of typed topics are registered; for `--log kafka://…` alone.
    pub schema_registry: SchemaRegistry,
    /// Services under care.
    pub service: Vec<Service>,
}

/// Where a node on a cluster keeps checkpoints; credentials come from the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoints {
    /// `file:///DIR`, `s3://BUCKET/DIR`, `gs://BUCKET/DIR` or `az://CONTAINER/DIR`; the same for
    /// all nodes.
    pub url: Option<String>,
    /// Seconds between two checkpoints, at least; 60 by default.
    pub every_s: Option<u64>,
}

/// API and page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address; 127.0.0.1:8470 by default.
    pub listen: Option<SocketAddr>,
    /// File with the token that writes need; required off loopback.
    pub token_file: Option<PathBuf>,
    /// Further host names under which the node is addressed.
    pub hosts: Vec<String>,
}

/// The runner of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Runner {
    /// Name of its host, as services name it in `host`; the machine's own name by default.
    pub host: Option<String>,
}

/// Who is told when people must act.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Escalation {
    /// `http://…` or `https://…` that each escalation is posted to as JSON.
    pub webhook: Option<String>,
    /// PEM file with the authorities that may vouch for it; those of the machine by default.
    pub ca_file: Option<PathBuf>,
    /// Command as words; the escalation comes on its standard input as JSON.
    pub command: Vec<String>,
}

/// Where schemas of typed topics are registered. Without it their values are in Avro
/// single-object encoding, with it in Confluent's wire format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SchemaRegistry {
    /// `http://HOST:PORT[/PATH]` of an API that speaks as Confluent's does, or the same with
    /// `https`.
    pub url: Option<String>,
    /// PEM file with the authorities that may vouch for it; those of the machine by default.
    pub ca_file: Option<PathBuf>,
    /// Who asks, where the registry wants to know.
    pub username: Option<String>,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
}

/// Seconds between two checkpoints: what a restored node folds in addition is folded in less
/// time than a restore takes, and a flush a minute costs nothing.
pub const CHECKPOINT_EVERY_S: u64 = 60;
/// The default address of API and page.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:8470";

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Line, column, rule and the near name for everything that is wrong with it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "there is no file {}; `--config` names a TOML file, and without one every key \
                 has its default; `healwright config schema` lists them",
                path.display()
            ),
            read => {
                read.with_context(|| format!("reading the configuration {}", path.display()))?
            }
        };
        let name = path.display().to_string();
        match String::from_utf8(bytes) {
            Ok(text) => Config::parse(&name, &text),
            Err(error) => bail!("{}", place::not_text(&name, &error)),
        }
    }

    /// Checks the text of a file called `name`.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let config: Config = match toml::from_str(text) {
            Ok(config) => config,
            Err(error) => bail!("{}", place::explain(name, text, &error)),
        };
        match check::whole(&config) {
            Ok(()) => Ok(config),
            Err(wrong) => bail!("{}", place::point(name, text, &wrong)),
        }
    }

    /// The profile with the file's own numbers in it.
    ///
    /// # Errors
    /// An unknown profile or number.
    pub fn profile(&self) -> anyhow::Result<Profile> {
        let base = self.shipped()?;
        let mut table = toml::Table::try_from(&base).context("writing the profile")?;
        for (key, value) in &self.numbers {
            if !table.contains_key(key) && key != "window_hours" {
                let near = nearest(key, table.keys().map(String::as_str));
                bail!("`numbers.{key}` is no number of a profile{}", did_you_mean(near));
            }
            table.insert(key.clone(), value.clone());
            // One by one, so that the wrong one can be named.
            if let Err(error) = table.clone().try_into::<Profile>() {
                bail!("`numbers.{key}`: {}", error.message().trim());
            }
        }
        let merged: Profile = table.try_into().context("reading `numbers`")?;
        // TOML has no word for nothing: what is left out would be read as `production` has it.
        let hours = match self.numbers.contains_key("window_hours") {
            true => merged.window_hours,
            false => base.window_hours,
        };
        Ok(Profile { window_hours: hours, ..merged })
    }

    /// The profile that the file names, as it ships.
    fn shipped(&self) -> anyhow::Result<Profile> {
        match self.profile.as_deref().unwrap_or("local") {
            "local" => Ok(Profile::local()),
            "production" => Ok(Profile::production()),
            other => bail!("`profile` {other:?} is none of local, production"),
        }
    }

    /// The JSON Schema of a file, derived from this declaration.
    pub fn schema() -> serde_json::Value {
        let mut schema = schemars::schema_for!(Config);
        schema.insert("title".to_owned(), "Healwright configuration file".into());
        schema.to_value()
    }
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// The name that takes the fewest edits, if it is near at all.
pub(crate) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names.map(|name| (edits(given, name), name));
    scored.min().filter(|(n, _)| *n <= 1 + given.len() / 3).map(|(_, name)| name)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Parses `3/10m` into attempts and milliseconds.
///
/// # Errors
/// What is expected instead.
pub fn budget(text: &str) -> anyhow::Result<(u32, u64)> {
    let wrong = || anyhow::anyhow!("budget {text:?} is not N/TIME, as in 3/10m");
    let (attempts, window) = text.split_once('/').ok_or_else(wrong)?;
    let attempts: u32 = attempts.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
    match duration_ms(window) {
        Some(0) => bail!("budget {text:?} has a window of 0, in which nothing can be counted"),
        Some(ms) if ms <= SPAN_MAX_MS => Ok((attempts, ms)),
        None if !is_duration(window) => Err(wrong()),
        // What is longer than a number can say is too long as well.
        _ => bail!("budget {text:?} has a window of more than {SPAN_MAX_TEXT}, the longest one"),
    }
}

/// Parses `90s`, `10m`, `2h`, `1d` into milliseconds.
pub fn duration_ms(text: &str) -> Option<u64> {
    let (digits, unit) = unit_of(text)?;
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Whether it reads as a span, however long.
fn is_duration(text: &str) -> bool {
    unit_of(text).is_some_and(|(it, _)| !it.is_empty() && it.chars().all(|n| n.is_ascii_digit()))
}

/// The digits of a span and the milliseconds of its unit.
fn unit_of(text: &str) -> Option<(&str, u64)> {
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some((digits, unit))
}

/// Splits a command into words: blanks separate, quotes keep together, a backslash keeps the
/// next character. There is no shell: nothing is expanded.
///
/// # Errors
/// An open quote, or no word at all.
pub fn words(text: &str) -> anyhow::Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(it) = chars.next() {
        match (quote, it) {
            (Some(open), _) if it == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(it);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, _) if it.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(it),
        }
    }
    if quote.is_some() {
        bail!("command {text:?} has an open quote");
    }
    words.extend(word);
    if words.is_empty() {
        bail!("the command is empty");
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_unknown_key_names_line_column_and_the_near_name() {
        let error = Config::parse("hw.toml", "profile = \"local\"\n[http]\nlisten_on = \"x\"\n");
        let text = format!("{:#}", error.unwrap_err());
        assert_eq!(
            text,
            "hw.toml:3:1: unknown field `listen_on`, expected one of `listen`, `token_file`, \
             `hosts`; did you mean `listen`?"
        );
    }

    #[test]
    fn every_profile_is_in_force_as_it_ships() {
        for (name, shipped) in [("local", Profile::local()), ("production", Profile::production())]
        {
            let config = Config::parse("hw.toml", &format!("profile = {name:?}\n")).unwrap();
            assert_eq!(config.profile().unwrap(), shipped);
        }
        let text = "profile = \"local\"\n[numbers]\nwindow_hours = [8, 20]\n";
        let own = Config::parse("hw.toml", text).unwrap().profile().unwrap();
        assert_eq!(own, Profile { window_hours: Some((8, 20)), ..Profile::local() });
    }

    #[test]
    fn a_command_is_words_and_never_a_shell() {
        let split = words(r#"python3 -m "http server" --dir='a b' x\ y $HOME"#).unwrap();
        assert_eq!(
            split,
            ["python3", "-m", "http server", "--dir=a b", "x y", "$HOME"].map(str::to_owned)
        );
        assert!(words("a 'b").is_err());
    }

    #[test]
    fn a_budget_is_attempts_in_a_window() {
        assert_eq!(budget("3/10m").unwrap(), (3, 600_000));
        for (text, why) in [
            ("0/10m", "is not N/TIME"),
            ("3", "is not N/TIME"),
            ("3/x", "is not N/TIME"),
            ("3/0m", "has a window of 0"),
            ("3/99999999999h", "more than 365d"),
            ("3/99999999999999999999s", "more than 365d"),
        ] {
            let said = budget(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
        assert_eq!(budget("3/365d").unwrap(), (3, SPAN_MAX_MS));
    }
}
