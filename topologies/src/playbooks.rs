//! The playbooks: what can be done about what, as data.
//!
//! A playbook names its preconditions, its steps and what undoes them. It deliberately decides
//! nothing: the trigger gate says whether one may be tried, and votes and policy whether it is.
//! A playbook's name is also its trigger type, so one ceiling bounds each of them.

use std::collections::BTreeMap;

use schemas::Ns;
use schemas::event::{ActionImpact, Pattern, Strategy};

use crate::config::{self, Release, Service};
use crate::fold::View;
use crate::{deployment, proposals, trust};

/// A release that was committed within this time is a change that may be the cause (spec 30 §3:
/// most failures follow a change).
pub const CHANGE_WINDOW: Ns = Ns::from_s(3600);

/// What can be done. Names are persisted: frozen.
#[derive(Debug)]
pub struct Playbook {
    /// Its name, and its trigger type.
    pub name: &'static str,
    /// Recovery strategy (spec 40 §7).
    pub strategy: Strategy,
    /// How deep it cuts (spec 50 §8).
    pub impact: ActionImpact,
    /// Patterns that it is made for.
    pub fits: &'static [Pattern],
    /// Patterns against which it may help.
    pub may_help: &'static [Pattern],
    /// Names of the parameters that it may carry.
    pub parameters: &'static [&'static str],
    /// Whether it builds something that a sandbox must try first.
    pub needs_sandbox: bool,
    /// Steps, rollback and preconditions for one service.
    plan: fn(&View<'_>, &Service) -> Result<Plan, String>,
}

/// A playbook applied to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `<method>:<target>` in order.
    pub ops: Vec<String>,
    /// What is applied, empty where nothing is.
    pub artifact_ref: String,
    /// Digest of it, empty where nothing is.
    pub digest: String,
    /// What undoes it.
    pub rollback: String,
    /// Whitelisted parameters.
    pub parameters: BTreeMap<String, String>,
}

/// Every playbook; the order breaks ties, the change first.
pub const ALL: &[Playbook] = &[
    Playbook {
        name: "rollback_release",
        strategy: Strategy::Sync,
        impact: ActionImpact::Low,
        fits: &[Pattern::CodeBugs],
        may_help: &[
            Pattern::ConfigurationErrors,
            Pattern::ServiceOverload,
            Pattern::ResourceExhaustion,
        ],
        parameters: &["to_digest", "to_version"],
        needs_sandbox: false,
        plan: rollback_release,
    },
    Playbook {
        name: "rebuild_environment",
        strategy: Strategy::Repair,
        impact: ActionImpact::Medium,
        fits: &[Pattern::ConfigurationErrors],
        may_help: &[],
        parameters: &["environment_digest"],
        needs_sandbox: true,
        plan: rebuild_environment,
    },
    Playbook {
        name: "restart_service",
        strategy: Strategy::Restart,
        impact: ActionImpact::Low,
        fits: &[Pattern::CodeBugs],
        may_help: &[
            Pattern::ResourceExhaustion,
            Pattern::ServiceOverload,
            Pattern::NetworkIssues,
            Pattern::ConfigurationErrors,
        ],
        parameters: &[],
        needs_sandbox: false,
        plan: restart_service,
    },
];

impl Playbook {
    /// The playbook of that name.
    pub fn named(name: &str) -> Option<&'static Playbook> {
        ALL.iter().find(|it| it.name == name)
    }

    /// Its steps for `service`, or the precondition that does not hold.
    ///
    /// # Errors
    /// One sentence.
    pub fn plan(&self, view: &View<'_>, service: &Service) -> Result<Plan, String> {
        if service.playbooks.is_empty() || service.playbooks.iter().any(|it| it == self.name) {
            return (self.plan)(view, service);
        }
        Err(format!("{} is not among the playbooks of {}", self.name, service.name))
    }

    /// 2 where it is made for the pattern, 1 where it may help, 0 otherwise.
    fn fit(&self, pattern: Pattern) -> u8 {
        match (self.fits.contains(&pattern), self.may_help.contains(&pattern)) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        }
    }

    /// How much of a hypothesis' confidence carries over to a proposal by this playbook.
    pub fn carries(&self, pattern: Pattern) -> f64 {
        if self.fits.contains(&pattern) { 1.0 } else { 0.9 }
    }
}

/// Playbooks that can be tried on `service` against `pattern`, best first, and why each of the
/// others cannot.
///
/// Order: the service's own, then fit, then weight (spec 90 §8: a weight orders and never
/// passes a gate), then the order of [`ALL`].
pub fn candidates(
    view: &View<'_>,
    now: Ns,
    service: &Service,
    pattern: Pattern,
) -> (Vec<&'static Playbook>, Vec<String>) {
    let mut found = Vec::new();
    let mut ruled_out = Vec::new();
    for (position, playbook) in ALL.iter().enumerate() {
        let fit = playbook.fit(pattern);
        if fit == 0 {
            ruled_out.push(format!("{} is nothing against {pattern}", playbook.name));
            continue;
        }
        if playbook.name == "rollback_release" && !recently_changed(view, now, &service.name) {
            ruled_out.push(format!(
                "rollback_release: no release of {} was committed in the last hour",
                service.name
            ));
            continue;
        }
        match playbook.plan(view, service) {
            Ok(_) => found.push((playbook, fit, position)),
            Err(why) => ruled_out.push(why),
        }
    }
    let own = |it: &Playbook| service.playbooks.iter().position(|name| name == it.name);
    found.sort_by(|a, b| {
        let weights = trust::weight(view, b.0.name).total_cmp(&trust::weight(view, a.0.name));
        own(a.0).cmp(&own(b.0)).then(b.1.cmp(&a.1)).then(weights).then(a.2.cmp(&b.2))
    });
    (found.into_iter().map(|it| it.0).collect(), ruled_out)
}

/// Services that an action on `name` can affect: itself and everything that calls it, however
/// far away.
pub fn blast_radius(view: &View<'_>, name: &str) -> u32 {
    affected_by(&config::services(view), name)
}

/// The same among `services`, which are all.
pub(crate) fn affected_by(services: &[Service], name: &str) -> u32 {
    let mut affected = vec![name.to_owned()];
    let mut next = 0;
    while next < affected.len() {
        let callers = services.iter().filter(|it| it.depends_on.contains(&affected[next]));
        let new: Vec<String> =
            callers.map(|it| it.name.clone()).filter(|it| !affected.contains(it)).collect();
        affected.extend(new);
        next += 1;
    }
    affected.len() as u32
}

fn recently_changed(view: &View<'_>, now: Ns, service: &str) -> bool {
    proposals::changed_at(view, service).is_some_and(|at| now.since(at) <= CHANGE_WINDOW)
}

fn rollback_release(view: &View<'_>, service: &Service) -> Result<Plan, String> {
    let committed = deployment::releases(view, &service.name);
    let [.., before, serving] = committed.as_slice() else {
        return Err(format!("no former release of {} is known to go back to", service.name));
    };
    let Release { version, digest, artifact_ref } = before.clone();
    Ok(Plan {
        ops: vec![format!("rollback:{}", service.name)],
        artifact_ref,
        digest: digest.clone(),
        rollback: serving.artifact_ref.clone(),
        parameters: BTreeMap::from([
            ("to_digest".to_owned(), digest),
            ("to_version".to_owned(), version),
        ]),
    })
}

/// The environment and then the process in it: one that failed at its start may have been given
/// up by its supervisor.
fn rebuild_environment(_: &View<'_>, service: &Service) -> Result<Plan, String> {
    let Some(environment) = &service.environment else {
        return Err(format!("{} has no environment to rebuild", service.name));
    };
    let name = &service.name;
    Ok(Plan {
        ops: vec![format!("apply_patch:env/{name}"), format!("restart:{name}")],
        artifact_ref: environment.artifact_ref.clone(),
        digest: environment.digest.clone(),
        rollback: format!("local://environments/{name}/previous"),
        parameters: BTreeMap::from([("environment_digest".to_owned(), environment.digest.clone())]),
    })
}

/// A restart is its own inverse: what runs after it is what ran before.
fn restart_service(view: &View<'_>, service: &Service) -> Result<Plan, String> {
    let serving = deployment::releases(view, &service.name).pop().map(|it| it.artifact_ref);
    Ok(Plan {
        ops: vec![format!("restart:{}", service.name)],
        artifact_ref: String::new(),
        digest: String::new(),
        rollback: serving.unwrap_or_else(|| format!("local://services/{}", service.name)),
        parameters: BTreeMap::new(),
    })
}
