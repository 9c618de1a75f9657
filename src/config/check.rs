//! What a configuration file may not say, beyond what its types refuse: values that would stop a
//! fold, do nothing, or contradict each other.
//!
//! A sentence names in backticks the key that it is about; [`super::place`] finds its line by that.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use runner::supervisor::{Target, check_name};
use schemas::canonical;
use serde::Serialize;
use topologies::config::Service;
use topologies::playbooks;
use topologies::profile::Profile;

use super::{Checkpoints, Config, Escalation, SchemaRegistry, did_you_mean, nearest};
use crate::checkpoints::depot::check_url;
use crate::client;

/// The longest span that a number may say. With the time of day added, its nanoseconds stay far
/// below what an Avro long holds.
pub const SPAN_MAX_MS: u64 = 365 * 86_400_000;
/// The same in words, as a budget may say it.
pub const SPAN_MAX_TEXT: &str = "365d";

/// Numbers of a profile with which nothing would ever be seen, judged or repaired if they were 0.
const NOT_ZERO: &[&str] = &[
    "probe_period_ms",
    "probe_misses_red",
    "validation_passes",
    "validation_timeout_ms",
    "error_window_ms",
    "stale_after_ms",
    "attempts_window_ms",
    "ceiling_per_type",
    "ceiling_global",
    "latch_after",
    "run_cap_ms",
    "shadow_timeout_ms",
    "ring_timeout_ms",
    "promotion_check_ms",
];

/// What is wrong, and with which part of the file.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Dotted path of the table that its keys are in; empty is the file.
    pub(super) within: String,
    /// The sentence.
    pub(super) why: anyhow::Error,
}

impl Wrong {
    fn within(place: impl Into<String>) -> impl FnOnce(anyhow::Error) -> Wrong {
        let within = place.into();
        move |why| Wrong { within, why }
    }
}

/// Checks a whole file.
pub(super) fn whole(config: &Config) -> Result<(), Wrong> {
    let profile = config.profile().map_err(Wrong::within(""))?;
    let shipped = config.shipped().map_err(Wrong::within(""))?;
    check_profile(&profile, &shipped).map_err(Wrong::within("numbers"))?;
    config.kafka.check().map_err(Wrong::within(""))?;
    let mut names = BTreeSet::new();
    for (n, service) in config.service.iter().enumerate() {
        let checked = check_service(service, &profile, &shipped).and_then(|()| {
            if !names.insert(&service.name) {
                bail!("`name` {:?} stands twice; each service needs its own", service.name);
            }
            Ok(())
        });
        checked.map_err(Wrong::within(format!("service.{n}")))?;
    }
    rest(config).map_err(Wrong::within(""))
}

/// What is neither a number nor a service.
fn rest(config: &Config) -> anyhow::Result<()> {
    let http = &config.http;
    if http.listen.is_some_and(|it| !it.ip().is_loopback()) && http.token_file.is_none() {
        bail!(
            "`http.listen` can be reached from elsewhere, so `http.token_file` is required: a \
             file with one line, readable by you alone"
        );
    }
    if let Some(host) = &config.runner.host {
        check_host(host).context("reading `runner.host`")?;
    }
    check_checkpoints(&config.checkpoints)?;
    config.escalation.check()?;
    config.schema_registry.check()
}

impl Escalation {
    pub(super) fn check(&self) -> anyhow::Result<()> {
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

/// Refuses what is no name of a host. Which hosts there are is known only when their runners have
/// called, so a name that nobody has yet is good.
///
/// # Errors
/// Which rule of names it breaks.
pub(crate) fn check_host(host: &str) -> anyhow::Result<()> {
    let name = canonical::identifier(host);
    let name = name.with_context(|| format!("{host:?} is no name of a host"))?;
    if name != host {
        bail!("{host:?} is no name of a host: it is not in Unicode's composed form (NFC)");
    }
    Ok(())
}

fn check_checkpoints(checkpoints: &Checkpoints) -> anyhow::Result<()> {
    let Checkpoints { url, every_s } = checkpoints;
    if let Some(url) = url {
        check_url(url).context("reading `checkpoints.url`")?;
    } else if every_s.is_some() {
        bail!("`checkpoints.every_s` without `checkpoints.url`: there is no place to put them");
    }
    match every_s {
        Some(0) => bail!("`checkpoints.every_s` is 0; give the seconds between two checkpoints"),
        Some(s) if *s > SPAN_MAX_MS / 1000 => {
            bail!("`checkpoints.every_s` is {s}, which is longer than {SPAN_MAX_TEXT}")
        }
        _ => Ok(()),
    }
}

/// Refuses numbers with which the loop would stand still, brakes that can never trip, and shares
/// that are none.
fn check_profile(profile: &Profile, shipped: &Profile) -> anyhow::Result<()> {
    if profile.attempts_max == 0 {
        bail!("`attempts_max` is 0, so nothing would ever be repaired; use `auto_apply = false`");
    }
    spans(profile, NOT_ZERO)?;
    let brake = Brake::of(profile);
    if brake != Brake::of(shipped) {
        brake.check()?;
    }
    for (name, share) in [
        ("error_rate_amber", profile.error_rate_amber),
        ("error_rate_red", profile.error_rate_red),
        ("hypothesis_confidence_min", profile.hypothesis_confidence_min),
        ("proposal_confidence_min", profile.proposal_confidence_min),
        ("trust_min", profile.trust_min),
        ("trust_start", profile.trust_start),
        ("success_delta_max", profile.success_delta_max),
        ("rollout_alpha", profile.rollout_alpha),
    ] {
        if !(0.0..=1.0).contains(&share) {
            bail!("`{name}` is {share} and no share; give a number from 0 to 1");
        }
    }
    for (name, value) in [
        ("p95_amber_ms", profile.p95_amber_ms),
        ("p95_red_ms", profile.p95_red_ms),
        ("p95_ratio_red", profile.p95_ratio_red),
        ("p95_floor_ms", profile.p95_floor_ms),
    ] {
        // JSON has no word for what is not finite, and the fold reads JSON.
        if !value.is_finite() || value < 0.0 {
            bail!("`{name}` is {value}; give a number from 0 on");
        }
    }
    let rings = &profile.rings;
    let rising = rings.windows(2).all(|pair| pair[0] < pair[1]);
    if rings.is_empty() || !rising || rings.last() != Some(&100) {
        bail!("`rings` must rise and end at 100, as in [5, 25, 50, 100]");
    }
    Ok(())
}

/// What keeps a service from being repaired again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brake {
    /// Attempts in the window.
    pub(crate) attempts_max: u32,
    /// The window.
    pub(crate) window_ms: u64,
    /// Least time between two attempts of one kind.
    pub(crate) debounce_ms: u64,
}

impl Brake {
    fn of(profile: &Profile) -> Self {
        Brake {
            attempts_max: profile.attempts_max,
            window_ms: profile.attempts_window_ms,
            debounce_ms: profile.debounce_ms,
        }
    }

    /// Why this brake can never trip, where it cannot.
    pub(crate) fn never_trips(self) -> Option<String> {
        let Brake { attempts_max, window_ms, debounce_ms } = self;
        let burst = debounce_ms.saturating_mul(u64::from(attempts_max));
        (window_ms <= burst).then(|| {
            format!(
                "this brake can never trip: {attempts_max} attempts, {debounce_ms} ms apart \
                 (`debounce_ms`), take longer than its window of {window_ms} ms"
            )
        })
    }

    /// Refuses a brake that can never trip.
    ///
    /// The shipped numbers are the specification's and not asked: under `production` the debounce
    /// of a trigger is the brake of a single fault, and the attempts are that of a service with
    /// several.
    ///
    /// # Errors
    /// Why, and what to change.
    fn check(self) -> anyhow::Result<()> {
        match self.never_trips() {
            Some(why) => bail!("{why}; raise `attempts_window_ms` or lower `attempts_max`"),
            None => Ok(()),
        }
    }
}

/// Refuses spans that no calculation could hold, and zeros among `not_zero`.
fn spans<T: Serialize>(body: &T, not_zero: &[&str]) -> anyhow::Result<()> {
    let body = serde_json::to_value(body).context("writing the configuration as JSON")?;
    for (key, value) in body.as_object().into_iter().flatten() {
        let Some(n) = value.as_u64() else { continue };
        if n == 0 && not_zero.contains(&key.as_str()) {
            bail!("`{key}` is 0, and nothing would be seen, judged or repaired; give at least 1");
        }
        if key.ends_with("_ms") && n > SPAN_MAX_MS {
            bail!("`{key}` is {n}; the longest span is {SPAN_MAX_MS} ms ({SPAN_MAX_TEXT})");
        }
    }
    Ok(())
}

fn check_service(service: &Service, profile: &Profile, shipped: &Profile) -> anyhow::Result<()> {
    let name = &service.name;
    if let Err(error) = canonical::identifier(name) {
        bail!("service `name` {name:?}: {error}");
    }
    if let Err(why) = check_name(name) {
        bail!("service `name` {name:?}: {why}");
    }
    if service.command.first().is_none_or(String::is_empty) {
        bail!("service {name}: `command` is empty; give the program and its words as a list");
    }
    if service.command.iter().any(|word| word.contains('\0')) {
        bail!("service {name}: a word of `command` holds a NUL, and no program can be given one");
    }
    if service.probe_url.is_empty() && service.environment.is_none() {
        bail!("service {name}: without `probe_url` nothing can tell whether it is well");
    }
    if !service.probe_url.is_empty() {
        let target = Target::parse(&service.probe_url.replace("{port}", "1"));
        target.with_context(|| format!("service {name}: `probe_url` cannot be probed"))?;
    }
    if !service.proxy.is_empty() && service.proxy.parse::<SocketAddr>().is_err() {
        bail!("service {name}: `proxy` {:?} is no ADDRESS:PORT", service.proxy);
    }
    if !service.host.is_empty() {
        check_host(&service.host).with_context(|| format!("service {name}: reading `host`"))?;
    }
    for playbook in &service.playbooks {
        check_playbook(playbook).with_context(|| format!("service {name}: `playbooks`"))?;
    }
    let place = || format!("service {name}");
    spans(service, &[]).with_context(place)?;
    check_budget(service, profile, shipped).with_context(place)
}

fn check_playbook(given: &str) -> anyhow::Result<()> {
    if playbooks::Playbook::named(given).is_some() {
        return Ok(());
    }
    let names = playbooks::ALL.iter().map(|it| it.name);
    let near = nearest(given, names.clone());
    let all: Vec<&str> = names.collect();
    bail!("{given:?} is none of {}{}", all.join(", "), did_you_mean(near))
}

/// A service's own budget, as the gate reads it: what is 0 is the profile's.
fn check_budget(service: &Service, profile: &Profile, shipped: &Profile) -> anyhow::Result<()> {
    let mut brake = Brake::of(profile);
    if service.attempts_max != 0 {
        brake.attempts_max = service.attempts_max;
    }
    if service.attempts_window_ms != 0 {
        brake.window_ms = service.attempts_window_ms;
    }
    if brake == Brake::of(profile) || brake == Brake::of(shipped) { Ok(()) } else { brake.check() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SHOP: &str = "[[service]]\nname = \"shop\"\ncommand = [\"x\"]\n\
                        probe_url = \"http://127.0.0.1:1/\"\n";

    /// What is said of a file.
    fn said(text: &str) -> String {
        Config::parse("hw.toml", text).map_or_else(|it| format!("{it:#}"), |_| "good".to_owned())
    }

    fn check(text: &str, why: &str) {
        let said = said(text);
        assert!(said.contains(why), "{text}: {said}");
    }

    #[test]
    fn no_span_is_longer_than_a_year() {
        for (key, value) in [
            ("attempts_window_ms", "18446744073709551615"),
            ("attempts_window_ms", "31536000001"),
            ("probe_timeout_ms", "9223372036854775808"),
            ("heartbeat_max_age_ms", "9223372036854775807"),
        ] {
            let text = format!("{SHOP}{key} = {value}\n");
            check(&text, &format!("hw.toml:5:1: service shop: `{key}` is {value}; the longest"));
        }
        check("[numbers]\ndebounce_ms = 31536000001\n", "hw.toml:2:1: `debounce_ms` is 3153600");
        check(&format!("{SHOP}attempts_window_ms = 31536000000\n"), "good");
        check("[checkpoints]\nurl = \"s3://a/b\"\nevery_s = 99999999999\n", "hw.toml:3:1: ");
    }

    #[test]
    fn what_would_stand_still_at_0_is_refused_at_0() {
        for key in NOT_ZERO {
            check(&format!("[numbers]\n{key} = 0\n"), &format!("hw.toml:2:1: `{key}` is 0"));
        }
        check("[numbers]\nlearning_ms = 0\n", "good");
    }

    #[test]
    fn a_share_is_from_0_to_1_and_every_number_is_finite() {
        check("[numbers]\ntrust_min = 1.5\n", "`trust_min` is 1.5 and no share");
        check("[numbers]\nerror_rate_red = nan\n", "`error_rate_red` is NaN and no share");
        check("[numbers]\np95_red_ms = inf\n", "`p95_red_ms` is inf; give");
    }

    #[test]
    fn a_services_own_brake_can_trip() {
        let brake = |lines: &str| format!("{SHOP}{lines}");
        check(&brake("attempts_max = 100000\nattempts_window_ms = 1000\n"), "hw.toml:6:1: service");
        check(&brake("attempts_max = 100000\n"), "hw.toml:5:1: service shop: this brake can never");
        check(&brake("attempts_max = 3\nattempts_window_ms = 600000\n"), "good");
        let production = brake("attempts_max = 3\nattempts_window_ms = 3600000\n");
        check(&format!("profile = \"production\"\n{production}"), "good");
    }

    #[test]
    fn two_services_of_one_name_are_refused() {
        check(&format!("{SHOP}{SHOP}"), "hw.toml:6:1: `name` \"shop\" stands twice");
    }

    #[test]
    fn an_unknown_playbook_is_answered_with_the_near_one() {
        let text = format!("{SHOP}playbooks = [\"restart_servise\"]\n");
        check(&text, "hw.toml:5:1: service shop: `playbooks`: \"restart_servise\" is none of");
        check(&text, "did you mean `restart_service`?");
    }

    #[test]
    fn what_the_runner_could_not_probe_or_serve_is_refused() {
        let https = SHOP.replace("http:", "https:");
        check(&https, "hw.toml:4:1: service shop: `probe_url` cannot be probed");
        check(&format!("{SHOP}proxy = \"everywhere\"\n"), "hw.toml:5:1: service shop: `proxy`");
        check(&SHOP.replace("[\"x\"]", "[\"\"]"), "hw.toml:3:1: service shop: `command` is empty");
    }

    #[test]
    fn a_host_is_a_name_that_no_runner_needs_to_have_yet() {
        check(&format!("{SHOP}host = \"machine-b\"\n"), "good");
        check(&format!("{SHOP}host = \"a b\"\n"), "hw.toml:5:1: service shop: reading `host`: ");
        check("[runner]\nhost = \"machine-b\"\n", "good");
        check("[runner]\nhost = \"\"\n", "hw.toml:2:1: reading `runner.host`: \"\" is no name");
    }

    #[test]
    fn a_brake_that_can_never_trip_is_refused() {
        let text = "[numbers]\nattempts_window_ms = 10000\ndebounce_ms = 5000\nattempts_max = 3\n";
        let error = format!("{:#}", Config::parse("hw.toml", text).unwrap_err());
        assert!(error.contains("this brake can never trip"), "{error}");
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
}
