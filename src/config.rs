//! The configuration file: read once, checked whole before anything happens, then journaled as
//! `config.activated` events. Folds never see this file.

pub mod kafka;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use topologies::config::Service;
use topologies::profile::Profile;

use crate::checkpoints::depot::check_url;
use crate::client;

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
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the configuration {}", path.display()))?;
        Config::parse(&path.display().to_string(), &text)
    }

    /// Checks the text of a file called `name`.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let config: Config = match toml::from_str(text) {
            Ok(config) => config,
            Err(error) => bail!("{}", explain(name, text, &error)),
        };
        config.check().with_context(|| format!("checking {name}"))?;
        Ok(config)
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
            other => bail!("profile {other:?} is none of local, production"),
        }
    }

    /// The JSON Schema of a file, derived from this declaration.
    pub fn schema() -> serde_json::Value {
        let mut schema = schemars::schema_for!(Config);
        schema.insert("title".to_owned(), "Healwright configuration file".into());
        schema.to_value()
    }

    fn check(&self) -> anyhow::Result<()> {
        let profile = self.profile()?;
        check_profile(&profile, &self.shipped()?)?;
        self.kafka.check()?;
        for service in &self.service {
            check_service(service)?;
        }
        let listen = self.http.listen;
        if listen.is_some_and(|it| !it.ip().is_loopback()) && self.http.token_file.is_none() {
            bail!(
                "`http.listen` can be reached from elsewhere, so `http.token_file` is required: \
                 a file with one line, readable by you alone"
            );
        }
        self.check_checkpoints()?;
        self.escalation.check()?;
        self.schema_registry.check()
    }
}

impl Escalation {
    fn check(&self) -> anyhow::Result<()> {
        if let Some(why) = self.webhook.as_deref().and_then(client::refused) {
            // Its path may be a secret, so it is not shown.
            bail!("`escalation.webhook` {why}; use a command for others");
        }
        if self.ca_file.is_some() && self.webhook.is_none() {
            bail!("`escalation.ca_file` is given and `escalation.webhook` is not");
        }
        Ok(())
    }
}

impl SchemaRegistry {
    /// Refuses an address that cannot be asked, and half of a login.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.username.is_some() != self.password_file.is_some() {
            bail!("`schema_registry.username` and `schema_registry.password_file` go together");
        }
        let Some(url) = &self.url else {
            for (key, is_given) in
                [("username", self.username.is_some()), ("ca_file", self.ca_file.is_some())]
            {
                if is_given {
                    bail!("`schema_registry.{key}` is given and `schema_registry.url` is not");
                }
            }
            return Ok(());
        };
        if url.split('/').nth(2).unwrap_or_default().contains('@') {
            bail!(
                "`schema_registry.url` holds a login; use `schema_registry.username` and \
                 `schema_registry.password_file`"
            );
        }
        if client::refused(url).is_some() || url.contains(['?', '#']) {
            bail!("`schema_registry.url` {url:?} is no http://HOST:PORT[/PATH], nor with https");
        }
        Ok(())
    }
}

impl Config {
    fn check_checkpoints(&self) -> anyhow::Result<()> {
        let Checkpoints { url, every_s } = &self.checkpoints;
        if let Some(url) = url {
            check_url(url)?;
        } else if every_s.is_some() {
            bail!("`checkpoints.every_s` without `checkpoints.url`: there is no place to put them");
        }
        if *every_s == Some(0) {
            bail!("`checkpoints.every_s` is 0; give the seconds between two checkpoints");
        }
        Ok(())
    }
}

/// Refuses brakes that can never trip, and shares that are none.
///
/// The shipped numbers are the specification's: under `production` the debounce of a trigger is
/// the brake of a single fault, and the attempts are that of a service with several.
fn check_profile(profile: &Profile, shipped: &Profile) -> anyhow::Result<()> {
    let brake = |it: &Profile| (it.debounce_ms, it.attempts_max, it.attempts_window_ms);
    let burst = profile.debounce_ms.saturating_mul(u64::from(profile.attempts_max));
    if profile.attempts_window_ms <= burst && brake(profile) != brake(shipped) {
        bail!(
            "this brake can never trip: {} attempts, {} ms apart, take longer than its window of \
             {} ms; raise `attempts_window_ms` above {burst} or lower `attempts_max`",
            profile.attempts_max,
            profile.debounce_ms,
            profile.attempts_window_ms
        );
    }
    if profile.attempts_max == 0 {
        bail!("`attempts_max` is 0, so nothing would ever be repaired; use `auto_apply = false`");
    }
    let rings = &profile.rings;
    let rising = rings.windows(2).all(|pair| pair[0] < pair[1]);
    if rings.is_empty() || !rising || rings.last() != Some(&100) {
        bail!("`rings` must rise and end at 100, as in [5, 25, 50, 100]");
    }
    Ok(())
}

fn check_service(service: &Service) -> anyhow::Result<()> {
    let name = &service.name;
    if let Err(error) = schemas::canonical::identifier(name) {
        bail!("service name {name:?}: {error}");
    }
    if let Err(why) = runner::supervisor::check_name(name) {
        bail!("service {name:?}: {why}");
    }
    if service.command.is_empty() {
        bail!("service {name}: `command` is empty; give the program and its words as a list");
    }
    if service.probe_url.is_empty() && service.environment.is_none() {
        bail!("service {name}: without `probe_url` nothing can tell whether it is well");
    }
    Ok(())
}

/// A TOML error with file, line, column and the near name.
fn explain(name: &str, text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|it| *it != '\n').count() + 1;
    let message = error.message();
    let near = unknown_field(message);
    format!("{name}:{line}:{column}: {message}{}", did_you_mean(near.as_deref()))
}

/// From serde's "unknown field `x`, expected one of `a`, `b`", the expected name nearest to x.
fn unknown_field(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    let (given, expected) = rest.split_once('`')?;
    let names = expected.split('`').skip(1).step_by(2);
    nearest(given, names).map(str::to_owned)
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
    Ok((attempts, duration_ms(window).ok_or_else(wrong)?))
}

/// Parses `90s`, `10m`, `2h`, `1d` into milliseconds.
pub fn duration_ms(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let n: u64 = digits.parse().ok()?;
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    n.checked_mul(unit)
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
    fn a_brake_that_can_never_trip_is_refused() {
        let text = "[numbers]\nattempts_window_ms = 10000\ndebounce_ms = 5000\nattempts_max = 3\n";
        let error = format!("{:#}", Config::parse("hw.toml", text).unwrap_err());
        assert!(error.contains("this brake can never trip"), "{error}");
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
    fn a_service_may_have_a_scope_and_none_that_an_operation_begins_with() {
        let lines = "command = [\"x\"]\nprobe_url = \"http://127.0.0.1:1/\"\n";
        for (name, good) in [
            ("prod-eu/shop/web", true),
            ("environment/web", true),
            ("env/web", false),
            ("a//b", false),
            ("../etc", false),
        ] {
            let text = format!("[[service]]\nname = {name:?}\n{lines}");
            assert_eq!(Config::parse("hw.toml", &text).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn a_listener_beyond_loopback_needs_a_token() {
        let text = "[http]\nlisten = \"0.0.0.0:80\"\n";
        let error = format!("{:#}", Config::parse("hw.toml", text).unwrap_err());
        assert!(error.contains("token_file"), "{error}");
    }

    #[test]
    fn a_schema_registry_is_an_address_without_a_login_in_it() {
        let check = |lines: &str| {
            Config::parse("hw.toml", &format!("[schema_registry]\n{lines}\n"))
                .map_or_else(|error| format!("{error:#}"), |_| "good".to_owned())
        };
        assert_eq!(check("url = \"http://registry:8081/apis/ccompat/v7\""), "good");
        assert_eq!(check("url = \"https://registry\"\nca_file = \"ca.pem\""), "good");
        let login = "username = \"hw\"\npassword_file = \"p\"";
        assert_eq!(check(&format!("url = \"http://registry:8081\"\n{login}")), "good");
        for (lines, why) in [
            ("url = \"registry:8081\"", "is no http://HOST:PORT"),
            ("url = \"http://\"", "is no http://HOST:PORT"),
            ("url = \"http://registry/?a=b\"", "is no http://HOST:PORT"),
            ("url = \"http://me:secret@registry\"", "holds a login"),
            ("url = \"http://registry\"\nusername = \"hw\"", "go together"),
            (login, "`schema_registry.url` is not"),
        ] {
            let said = check(lines);
            assert!(said.contains(why), "{lines}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn checkpoints_need_a_place_of_a_known_form() {
        for (text, why) in [
            ("url = \"ftp://a/b\"", "none of file:///DIR"),
            ("every_s = 5", "no place to put them"),
            ("url = \"s3://a/b\"\nevery_s = 0", "every_s` is 0"),
        ] {
            let error = Config::parse("hw.toml", &format!("[checkpoints]\n{text}\n"));
            let error = format!("{:#}", error.unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        Config::parse("hw.toml", "[checkpoints]\nurl = \"s3://a/b\"\n").unwrap();
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
        assert!(budget("0/10m").is_err() && budget("3").is_err() && budget("3/x").is_err());
    }
}
