//! The numbers. `production` is the spec's; `local` is what `demo` and `watch` activate
//! (spec 00 §2). A profile is a `config.activated.v1` named `profile`; its body is this, as JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Every number that a fold may use and that an operator may want to change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// `production`, `local` or an operator's own name.
    pub name: String,
    /// Period of a probe, milliseconds.
    pub probe_period_ms: u64,
    /// Consecutive failed probes until red.
    pub probe_misses_red: u32,
    /// Consecutive passed probes after which a repair counts as validated.
    pub validation_passes: u32,
    /// Wait before the first of them, milliseconds.
    pub validation_after_ms: u64,
    /// Longest wait for validation, milliseconds.
    pub validation_timeout_ms: u64,
    /// Window of the error rate, milliseconds.
    pub error_window_ms: u64,
    /// Share of errors at which amber begins (above it).
    pub error_rate_amber: f64,
    /// Share of errors at which red begins (above it).
    pub error_rate_red: f64,
    /// Milliseconds of p95 above which it is amber.
    pub p95_amber_ms: f64,
    /// Milliseconds of p95 above which it is red.
    pub p95_red_ms: f64,
    /// p95 over baseline above which it is red.
    pub p95_ratio_red: f64,
    /// Milliseconds of p95 up to which that ratio means nothing.
    pub p95_floor_ms: f64,
    /// Answers in a window below which its ratio is unknown.
    pub window_requests_min: u32,
    /// Silence after which a signal is unknown, milliseconds.
    pub stale_after_ms: u64,
    /// Healthy observation before a service may be judged, milliseconds.
    pub learning_ms: u64,
    /// Hours in which unattended approval is allowed, weekdays only; `None` is always.
    pub window_hours: Option<(u32, u32)>,
    /// Whether new triggers repair (`local`) or only detect (`production`).
    pub triggers_repair: bool,
    /// Attempts per service in [`Profile::attempts_window_ms`].
    pub attempts_max: u32,
    /// Window of the attempts budget, milliseconds.
    pub attempts_window_ms: u64,
    /// Cooling window of a trigger, milliseconds.
    pub debounce_ms: u64,
    /// Window in which an equal proposal is a duplicate, milliseconds.
    pub duplicate_ms: u64,
    /// Open attempts per trigger type.
    pub ceiling_per_type: u32,
    /// Open attempts over all types.
    pub ceiling_global: u32,
    /// Ineffective repairs of one playbook on one service after which it is latched.
    pub latch_after: u32,
    /// Hypothesis confidence below which nothing acts.
    pub hypothesis_confidence_min: f64,
    /// Proposal confidence below which nothing acts unattended.
    pub proposal_confidence_min: f64,
    /// Trust below which nothing acts unattended.
    pub trust_min: f64,
    /// Trust of built-in components at start.
    pub trust_start: f64,
    /// Reason of that start, empty where it is the plain one.
    pub trust_start_reason: String,
    /// Services that one unattended action may affect.
    pub blast_radius_max: u32,
    /// Longest run of one remediation, milliseconds.
    pub run_cap_ms: u64,
    /// Shares of a rollout after the shadow, percent, rising, the last is 100.
    pub rings: Vec<u32>,
    /// Compared answers after which a shadow without evidence passes.
    pub shadow_compared_min: u32,
    /// Longest shadow, milliseconds; it is extended once and then rolled back.
    pub shadow_timeout_ms: u64,
    /// Answers after which a ring without evidence passes.
    pub ring_requests_min: u32,
    /// Longest ring, milliseconds.
    pub ring_timeout_ms: u64,
    /// Loss of success rate that a release may not exceed.
    pub success_delta_max: f64,
    /// One type I error bound for the whole rollout.
    pub rollout_alpha: f64,
    /// Checks after promotion.
    pub promotion_checks: u32,
    /// Their period, milliseconds.
    pub promotion_check_ms: u64,
    /// Signers that a freeze knows at least.
    pub signers_min: u32,
    /// Whether an unattended approval is possible at all.
    pub auto_apply: bool,
}

impl Default for Profile {
    fn default() -> Self {
        Profile::production()
    }
}

impl Profile {
    /// The numbers of the spec.
    pub fn production() -> Self {
        Profile {
            name: "production".to_owned(),
            probe_period_ms: 10_000,
            probe_misses_red: 4,
            validation_passes: 1,
            validation_after_ms: 10_000,
            validation_timeout_ms: 60_000,
            error_window_ms: 60_000,
            error_rate_amber: 0.05,
            error_rate_red: 0.10,
            p95_amber_ms: 2_000.0,
            p95_red_ms: 5_000.0,
            p95_ratio_red: 2.0,
            p95_floor_ms: 0.0,
            window_requests_min: 300,
            stale_after_ms: 30_000,
            learning_ms: 60_000,
            window_hours: Some((9, 18)),
            triggers_repair: false,
            attempts_max: 3,
            attempts_window_ms: 3_600_000,
            debounce_ms: 1_800_000,
            duplicate_ms: 600_000,
            ceiling_per_type: 2,
            ceiling_global: 8,
            latch_after: 3,
            hypothesis_confidence_min: 0.75,
            proposal_confidence_min: 0.70,
            trust_min: 0.72,
            trust_start: 0.5,
            trust_start_reason: String::new(),
            blast_radius_max: 2,
            run_cap_ms: 600_000,
            rings: vec![5, 25, 50, 100],
            shadow_compared_min: 300,
            shadow_timeout_ms: 120_000,
            ring_requests_min: 300,
            ring_timeout_ms: 120_000,
            success_delta_max: 0.02,
            rollout_alpha: 0.01,
            promotion_checks: 8,
            promotion_check_ms: 60_000,
            signers_min: 3,
            auto_apply: false,
        }
    }

    /// One machine, one operator, no history.
    pub fn local() -> Self {
        Profile {
            name: "local".to_owned(),
            probe_period_ms: 500,
            probe_misses_red: 3,
            validation_passes: 3,
            validation_after_ms: 0,
            validation_timeout_ms: 10_000,
            error_window_ms: 5_000,
            p95_floor_ms: 100.0,
            window_requests_min: 30,
            stale_after_ms: 3_000,
            learning_ms: 2_000,
            window_hours: None,
            triggers_repair: true,
            attempts_window_ms: 600_000,
            debounce_ms: 5_000,
            duplicate_ms: 0,
            trust_start: 0.80,
            trust_start_reason: "vouched_by_operator".to_owned(),
            rings: vec![10, 50, 100],
            shadow_compared_min: 30,
            shadow_timeout_ms: 10_000,
            ring_requests_min: 30,
            ring_timeout_ms: 15_000,
            promotion_checks: 8,
            promotion_check_ms: 500,
            signers_min: 1,
            auto_apply: true,
            ..Profile::production()
        }
    }
}
