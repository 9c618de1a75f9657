//! The rules of policy, each a sentence when it is broken.

use schemas::event::{ActionImpact, ReleaseRequested, SandboxResult};
use schemas::{Ns, Uuid};

use crate::config;
use crate::consensus::{self, Votes};
use crate::fold::View;
use crate::profile::Profile;
use crate::proposals::Case;
use crate::triggers;
use crate::{deployment, mode, rules, said, trust};

/// A rule that holds, or the sentence that says how it is broken.
pub(super) type Rule = Result<(), String>;

/// Confidence of the votes below which nothing is unattended (spec 50 §7, spec 30 §4).
const DECISION_CONFIDENCE_MIN: f64 = 0.78;
/// Trust above which a component acts alone at all, whatever the profile asks (spec 90 §1).
const TRUST_ALONE: f64 = 0.7;
/// Longest run of an unattended action (spec 50 §8).
const RUN_CAP: Ns = Ns::from_s(600);
/// Classes from here on are never acted on by anything but a person.
const CLASS_CRITICAL: u8 = 6;
/// Seconds of a day and of an hour.
const DAY_S: u64 = 24 * 3600;
const HOUR_S: u64 = 3600;

fn rule(holds: bool, sentence: impl FnOnce() -> String) -> Rule {
    if holds { Ok(()) } else { Err(sentence()) }
}

/// Rules that no vote and no approval overrides.
pub(super) fn hard_rules(
    view: &View<'_>,
    case: &Case,
    votes: Option<&Votes>,
    sandbox: Option<&SandboxResult>,
) -> Vec<Rule> {
    let proposal = &case.proposal;
    let digest = proposal.plan_digest_of();
    let voted = votes.filter(|it| it.accepted()).map(|it| it.plan_digest.as_str());
    let violations = consensus::violations(view, proposal);
    let red = sandbox.into_iter().flat_map(|it| &it.checks).find(|(_, it)| !it.is_green());
    vec![
        mode::allows_action(view).map(|_| ()),
        rule(voted == Some(digest.as_str()), || {
            "the plan is not the one that both layers accepted".to_owned()
        }),
        rule(red.is_none(), || {
            let (name, check) = red.expect("the rule is broken by this check");
            format!("the sandbox's check {name} is {}: {}", check.status, check.detail)
        }),
        rule(violations.is_empty(), || violations.join("; ")),
        rule(case.raised.failure_class < CLASS_CRITICAL, || {
            "class 6 is never repaired by the healer".to_owned()
        }),
    ]
}

/// Conditions of an unattended approval, spec 50 §8; each one that fails is named.
pub(super) fn unattended(
    view: &View<'_>,
    now: Ns,
    case: &Case,
    votes: Option<&Votes>,
) -> Vec<Rule> {
    let profile = config::profile(view);
    let proposal = &case.proposal;
    let service = config::service(view, &case.raised.service).unwrap_or_default();
    let at_least = |value: f64, minimum: f64, what: &str| {
        rule(value >= minimum, || format!("{what} {value:.2} is below {minimum:.2}"))
    };
    vec![
        rule(profile.auto_apply, || format!("auto_apply is off in profile {}", profile.name)),
        rule(!service.propose_only, || format!("{} is watched with --propose-only", service.name)),
        rule(proposal.impact != ActionImpact::High, || {
            format!("the impact of {} is high", proposal.playbook)
        }),
        rule(proposal.blast_radius <= profile.blast_radius_max, || {
            format!(
                "it can affect {} of the services, and {} is the most without a person",
                proposal.blast_radius, profile.blast_radius_max
            )
        }),
        at_least(proposal.confidence, profile.proposal_confidence_min, "proposal confidence"),
        at_least(
            case.raised.confidence,
            profile.hypothesis_confidence_min,
            "hypothesis confidence",
        ),
        at_least(
            votes.map_or(0.0, |it| it.confidence),
            DECISION_CONFIDENCE_MIN,
            "confidence of the votes",
        ),
        trusted(view, &profile, &proposal.playbook),
        in_window(now, profile.window_hours),
        in_rate(view, now, case),
        no_duplicate(view, now, case),
        rule(profile.run_cap_ms <= RUN_CAP.as_ms(), || {
            format!("runs of up to {} need a person", said::span(Ns::from_ms(profile.run_cap_ms)))
        }),
    ]
}

/// Whether the playbook may act alone.
fn trusted(view: &View<'_>, profile: &Profile, playbook: &str) -> Rule {
    let (trust, minimum) = (trust::of(view, playbook), profile.trust_min);
    rule(trust >= minimum, || format!("trust in {playbook} {trust:.2} is below {minimum:.2}"))?;
    rule(trust > TRUST_ALONE || !rules::are_second(view), || {
        format!("trust in {playbook} {trust:.2} is not above {TRUST_ALONE:.2}")
    })
}

/// Whether tick time lies on a weekday within the hours, in UTC: a fold knows no time zone.
pub(super) fn in_window(now: Ns, hours: Option<(u32, u32)>) -> Rule {
    let Some((from, to)) = hours else { return Ok(()) };
    let seconds = now.as_ms() / 1000;
    // 1970-01-01 was a Thursday, three days after a Monday.
    let weekday = (seconds / DAY_S + 3) % 7;
    let hour = (seconds % DAY_S / HOUR_S) as u32;
    rule(weekday < 5 && (from..to).contains(&hour), || {
        format!("it is outside the window, weekdays {from:02} to {to:02} UTC")
    })
}

/// At most as many proposals as attempts (spec 50 §8); this one is among them.
fn in_rate(view: &View<'_>, now: Ns, case: &Case) -> Rule {
    let service = &case.raised.service;
    let budget = triggers::budget(view, now, service);
    rule(budget.used <= budget.max, || {
        format!("{} proposals for {service} within {}", budget.used, said::span(budget.window))
    })
}

fn no_duplicate(view: &View<'_>, now: Ns, case: &Case) -> Rule {
    let window = Ns::from_ms(config::profile(view).duplicate_ms);
    let last = view.load::<Ns>(&equal_key(case));
    rule(last.is_none_or(|it| now.since(it) >= window), || {
        let (playbook, window) = (&case.proposal.playbook, said::span(window));
        format!("an equal proposal by {playbook} was made within {window}")
    })
}

/// When an equal proposal was last decided on.
pub(super) fn equal_key(case: &Case) -> String {
    format!("equal/{}/{}", case.raised.service, case.proposal.playbook)
}

/// What binds an operator's release as well.
pub(super) fn release_rules(
    view: &View<'_>,
    request: &ReleaseRequested,
    signed: Rule,
) -> Vec<Rule> {
    let (service, digest) = (&request.service, &request.digest);
    let denial = deployment::denial(view, service, digest);
    let serving = deployment::committed(view, service).is_some_and(|it| it.digest == *digest);
    let used = view.load::<String>(&used_key(request));
    let used = used.filter(|_| deployment::was_committed(view, service, digest));
    vec![
        signed,
        mode::allows_action(view).map(|_| ()),
        rule(config::service(view, service).is_some(), || {
            format!("{service:?} is not under care; `healwright watch` takes it under care")
        }),
        rule(denial.is_none(), || {
            let (version, why) =
                denial.map(|it| (it.release.version, it.reason)).unwrap_or_default();
            let clear = match rules::are_second(view) {
                true => format!("release clear {service} {version}"),
                false => "approve".to_owned(),
            };
            format!(
                "{digest} is on the deny list of {service} ({why}); a signer's `healwright \
                     {clear}` clears it"
            )
        }),
        rule(!deployment::running(view, service), || {
            format!(
                "another release of {service} is being rolled out; `healwright status` shows it"
            )
        }),
        rule(!serving, || format!("{digest} is what {service} already runs")),
        rule(used.is_none(), || {
            let at = used.unwrap_or_default();
            let again = match rules::are_second(view) {
                true => "`healwright release start` signs another",
                false => "ask again under another version text",
            };
            format!(
                "this very request was carried out before ({at}), and a signature counts once; \
                 {again}"
            )
        }),
    ]
}

/// Where it is remembered that a signed request was approved.
pub(super) fn used_key(request: &ReleaseRequested) -> String {
    format!("used/{}", Uuid::named("healwright/release/used/v1", &[&request.statement()]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_window_is_weekdays_from_nine_to_eighteen() {
        let cases = [
            ("2026-03-02T08:59:59Z", false), // Monday
            ("2026-03-02T09:00:00Z", true),
            ("2026-03-06T17:59:59Z", true), // Friday
            ("2026-03-06T18:00:00Z", false),
            ("2026-03-07T12:00:00Z", false), // Saturday
            ("2026-03-08T12:00:00Z", false),
            ("2026-03-09T12:00:00Z", true),
        ];
        for (time, inside) in cases {
            let now: Ns = time.parse().unwrap();
            assert_eq!(in_window(now, Some((9, 18))).is_ok(), inside, "{time}");
            assert!(in_window(now, None).is_ok());
        }
    }
}
