//! What this runner may be asked at all, whoever approved it: its own RBAC set (spec 60 §2).
//!
//! `runner.json` in the runner's folder belongs to the person who owns the host. Without it every
//! method is allowed on registered services, and on nothing else.

use std::collections::BTreeSet;

use schemas::event::Op;
use serde::{Deserialize, Serialize};

use crate::target::Target;

/// The seven methods of a host (spec 60 §1).
const METHODS: [&str; 7] =
    ["apply_patch", "restart", "metrics", "rollback", "sandbox", "inventory", "cache_info"];

/// The runner's allow lists. Trusted: it is only read from the runner's own folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Methods that may be called; absent is all seven.
    pub methods: Option<BTreeSet<String>>,
    /// Services that may be acted on; absent is every registered one.
    pub services: Option<BTreeSet<String>>,
}

impl Policy {
    /// Whether the operation may be carried out, given the services under supervision.
    pub fn allows(&self, op: &Op<'_>, registered: &BTreeSet<String>) -> bool {
        let method = METHODS.contains(&op.method)
            && self.methods.as_ref().is_none_or(|allowed| allowed.contains(op.method));
        let on_host = matches!(op.method, "metrics" | "inventory" | "cache_info");
        let target = match service_of(op) {
            None => on_host && op.target.is_empty(),
            Some(service) => {
                registered.contains(service)
                    && self.services.as_ref().is_none_or(|allowed| allowed.contains(service))
            }
        };
        method && target
    }
}

/// The service that an operation is about, where its target has one of the forms that its method
/// takes.
fn service_of<'a>(op: &Op<'a>) -> Option<&'a str> {
    let target = Target::parse(op.target)?;
    let is_known = matches!(
        (op.method, target),
        ("apply_patch", _)
            | ("sandbox", Target::Service(_) | Target::Environment(_))
            | ("restart" | "rollback" | "metrics", Target::Service(_))
    );
    is_known.then(|| target.service())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn without_a_policy_the_methods_are_allowed_on_registered_services_only() {
        let registered = names(&["shop", "prod-eu/shop/web"]);
        for (op, allowed) in [
            ("restart:shop", true),
            ("rollback:shop", true),
            ("apply_patch:shop", true),
            ("apply_patch:env/shop", true),
            ("apply_patch:commit/shop", true),
            ("apply_patch:route/shop/shadow", true),
            ("apply_patch:route/shop/canary/25", true),
            ("sandbox:shop", true),
            ("sandbox:env/shop", true),
            ("restart:prod-eu/shop/web", true),
            ("apply_patch:env/prod-eu/shop/web", true),
            ("apply_patch:route/prod-eu/shop/web/canary/25", true),
            ("restart:prod-eu/shop", false),
            ("restart:eu/prod-eu/shop/web", false),
            ("inventory", true),
            ("cache_info", true),
            ("metrics", true),
            ("restart:other", false),
            ("restart", false),
            ("restart:", false),
            ("restart:shop/..", false),
            ("restart:../shop", false),
            ("restart:env/shop", false),
            ("apply_patch:route/shop/canary/101", false),
            ("apply_patch:route/shop/canary/-1", false),
            ("apply_patch:route/other/shadow", false),
            ("apply_patch:unknown/shop", false),
            ("shell:shop", false),
            ("Restart:shop", false),
            ("inventory:/etc", false),
            ("", false),
        ] {
            assert_eq!(Policy::default().allows(&Op::parse(op), &registered), allowed, "{op:?}");
        }
    }

    #[test]
    fn a_policy_only_takes_away() {
        let policy = Policy {
            methods: Some(names(&["restart"])),
            services: Some(names(&["shop", "unregistered"])),
        };
        let registered = names(&["shop", "billing"]);
        for (op, allowed) in [
            ("restart:shop", true),
            ("rollback:shop", false),
            ("restart:billing", false),
            ("restart:unregistered", false),
            ("inventory", false),
        ] {
            assert_eq!(policy.allows(&Op::parse(op), &registered), allowed, "{op:?}");
        }
    }
}
