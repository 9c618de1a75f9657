//! The patterns of spec 30 §3 as data, and the ladder of §4.
//!
//! Decision (policy data, tuned with the spec's leave): three sets beyond the table. A crash:
//! the process ended unasked, its environment is the desired one, its dependencies answer. A bad
//! version without a log to read: the version changed, and the breach began after it. And a set
//! one of whose kinds is known *not* to hold is ruled out, which is more than not having its
//! evidence.

use schemas::event::Pattern;

use super::evidence::{Evidence, Found, State};

/// A pattern: alternative sets of required kinds, and what else speaks for it.
pub(super) struct Rule {
    pub(super) pattern: Pattern,
    pub(super) required: &'static [&'static [Evidence]],
    pub(super) supporting: &'static [Evidence],
}

use Evidence::*;

/// In order of the spec; the order breaks ties.
pub(super) const RULES: &[Rule] = &[
    Rule {
        pattern: Pattern::NetworkIssues,
        required: &[&[NetErrorsBreach, ConnectionErrorsInLogs]],
        supporting: &[PeerTimeouts],
    },
    Rule {
        pattern: Pattern::ResourceExhaustion,
        required: &[&[ResourceBreach, RuntimeLimitLog]],
        supporting: &[RestartLoop],
    },
    Rule {
        pattern: Pattern::ServiceOverload,
        required: &[&[RequestsAboveBaseline, QueueGrowth]],
        supporting: &[LatencyBreach],
    },
    Rule {
        pattern: Pattern::ConfigurationErrors,
        required: &[&[ConfigurationChanged, ParseErrorInLogs], &[StartFailure, EnvironmentDiffers]],
        supporting: &[ConfigurationChanged, EnvironmentDiffers],
    },
    Rule {
        pattern: Pattern::DataCorruption,
        required: &[&[ChecksumMismatch, DecodeErrorInLogs]],
        supporting: &[],
    },
    Rule {
        pattern: Pattern::DependencyFailures,
        required: &[&[DependencyRedFirst, ProviderErrors]],
        supporting: &[SharedAcrossCallers],
    },
    Rule {
        pattern: Pattern::CodeBugs,
        required: &[
            &[VersionChanged, NewException],
            &[VersionChanged, BreachAfterChange],
            &[ProbeFails, ProcessExists, DependenciesAnswer],
            &[ProcessEnded, EnvironmentAsDesired, DependenciesAnswer],
        ],
        supporting: &[VersionChanged],
    },
];

/// How a pattern stands against what was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    pub(super) pattern: Pattern,
    /// Of its best set: kinds that are there, kinds that are required.
    pub(super) coverage: (usize, usize),
    /// Σ weight × strength.
    pub(super) score: f64,
    /// The kinds of its best set.
    pub(super) set: &'static [Evidence],
}

/// A pattern that cannot be it, with the finding that says so.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RuledOut {
    pub(super) pattern: Pattern,
    pub(super) because: String,
}

/// Patterns with evidence, the leading one first, and those that are ruled out.
pub(super) fn weigh(found: &[Found]) -> (Vec<Standing>, Vec<RuledOut>) {
    let mut standing = Vec::new();
    let mut ruled_out = Vec::new();
    for rule in RULES {
        match stand(rule, found) {
            Ok(Some(it)) => standing.push(it),
            Ok(None) => {}
            Err(it) => ruled_out.push(it),
        }
    }
    // Stable: the order of the table breaks ties.
    standing.sort_by(|a, b| b.score.total_cmp(&a.score));
    (standing, ruled_out)
}

/// The standing of one rule: its best set that is not contradicted. `Err` when something spoke
/// for it and each such set is contradicted.
fn stand(rule: &Rule, found: &[Found]) -> Result<Option<Standing>, RuledOut> {
    let mut best: Option<Standing> = None;
    let mut contradiction = None;
    for set in rule.required {
        let present = set.iter().filter(|it| strength(**it, found) > 0.0);
        if present.clone().all(|it| it.is_circumstance()) {
            continue;
        }
        let present = present.count();
        let against = found.iter().find(|it| it.state == State::Absent && set.contains(&it.kind));
        if let Some(against) = against {
            contradiction.get_or_insert_with(|| against.sentence.clone());
            continue;
        }
        let also = rule.supporting.iter().filter(|it| !set.contains(it));
        let score = set.iter().chain(also).map(|it| it.weight() * strength(*it, found)).sum();
        let coverage = (present, set.len());
        let standing = Standing { pattern: rule.pattern, coverage, score, set };
        if best.as_ref().is_none_or(|it| is_better(&standing, it)) {
            best = Some(standing);
        }
    }
    match (best, contradiction) {
        (None, Some(because)) => Err(RuledOut { pattern: rule.pattern, because }),
        (best, _) => Ok(best),
    }
}

fn is_better(a: &Standing, b: &Standing) -> bool {
    let share = |it: &Standing| it.coverage.0 as f64 / it.coverage.1 as f64;
    share(a).total_cmp(&share(b)).then(a.score.total_cmp(&b.score)).is_gt()
}

fn strength(kind: Evidence, found: &[Found]) -> f64 {
    let of_kind = found.iter().find(|it| it.kind == kind);
    of_kind.map_or(0.0, |it| match it.state {
        State::Present(strength) => strength,
        State::Absent => 0.0,
    })
}

/// Confidence of the pattern with `scores[0]` among `scores`, of whose required kinds `present`
/// of `required` are there: ladder × coverage (spec 30 §4).
pub fn confidence(scores: &[f64], present: usize, required: usize) -> f64 {
    let ladder = match scores {
        [] => return 0.0,
        [_] => 0.8,
        [lead, next, ..] if *lead > 2.0 * next => 0.9,
        [lead, next, ..] if *lead > 1.5 * next => 0.8,
        [..] => 0.7,
    };
    ladder * present as f64 / required.max(1) as f64
}
