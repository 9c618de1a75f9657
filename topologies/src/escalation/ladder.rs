//! Levels and roles (spec 40 §11), as data.

use crate::playbooks::Playbook;

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
