//! Levels, roles and the clocks of the failure classes (spec 30 §2, spec 40 §11), as data.

use schemas::Ns;

use crate::playbooks::Playbook;

/// How long an incident of that class may last before it moves up.
pub(super) fn class_timeout(class: u8) -> Ns {
    let minutes = match class {
        0 | 1 => 5,
        2 => 10,
        3 => 15,
        4 => 30,
        _ => 60,
    };
    Ns::from_s(minutes * 60)
}

/// Who should act at a level. The names are those of the spec and mean nothing to the code.
pub(super) fn roles(level: u8) -> Vec<String> {
    let roles: &[&str] = match level {
        0 => &["self-healing"],
        1 => &["G5 Execution Orchestrator"],
        2 => &["G6 Memory Keeper", "G3 Alignment"],
        3 => &["G7 Emergence", "G2 Synthesis"],
        _ => &["all approver roles", "human"],
    };
    roles.iter().map(|it| (*it).to_owned()).collect()
}

/// The trigger type of a playbook; empty for the explicit "none is safe".
pub(super) fn trigger_type(playbook: &str) -> &'static str {
    Playbook::named(playbook).map_or("", |it| it.name)
}
