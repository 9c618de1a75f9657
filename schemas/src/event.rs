//! Every event that can stand in the journal: its name, version, number and payload.
//!
//! Names are part of the public contract (spec 10 §3) and numbers are persisted in state keys:
//! both are frozen. Payload types mirror the `.avsc` files at the top of this crate field by
//! field; a test compares their bytes with apache-avro's.

mod act;
mod decide;
mod diagnose;
mod log;
mod observe;
mod oversee;
mod statement;

use serde::{Deserialize, Serialize, Serializer};

pub use act::*;
pub use decide::*;
pub use diagnose::*;
pub use log::*;
pub use observe::*;
pub use oversee::*;
pub use statement::*;

use crate::{Error, codec};

macro_rules! events {
    ($(
        $number:literal $variant:ident $name:literal $version:literal $class:ident $doc:literal
    )*) => {
        /// A topic name and version. Numbers are persisted: frozen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $(#[doc = $doc] $variant = $number,)*
        }

        impl Kind {
            /// Every kind, in order of number.
            pub const ALL: &[Kind] = &[$(Kind::$variant,)*];

            /// Topic name without the version suffix.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)* }
            }

            /// Version of the payload.
            pub const fn version(self) -> u16 {
                match self { $(Kind::$variant => $version,)* }
            }

            /// Whether it is a control event with a typed topic or a record of the log itself.
            pub const fn class(self) -> Class {
                match self { $(Kind::$variant => Class::$class,)* }
            }

            /// The Avro schema, verbatim.
            pub const fn avsc(self) -> &'static str {
                #[cfg(feature = "next-schemas")]
                if let Some(avsc) = $crate::codec::next(self) {
                    return avsc;
                }
                match self {
                    $(Kind::$variant => {
                        include_str!(concat!("../", $name, ".v", $version, ".avsc"))
                    })*
                }
            }
        }

        /// A typed payload.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Event {
            $(#[doc = $doc] $variant($variant),)*
        }

        impl Event {
            /// Which event it is.
            pub const fn kind(&self) -> Kind {
                match self { $(Event::$variant(_) => Kind::$variant,)* }
            }

            /// The payload, Avro single-object encoded.
            ///
            /// # Errors
            /// A number outside the range of an Avro long.
            pub fn encode(&self) -> Result<Vec<u8>, Error> {
                match self { $(Event::$variant(it) => codec::encode(Kind::$variant, it),)* }
            }

            /// Reads a payload written under this or an older version of the schema.
            ///
            /// # Errors
            /// [`Error::Payload`].
            pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, Error> {
                match kind {
                    $(Kind::$variant => codec::decode(kind, bytes).map(Event::$variant),)*
                }
            }

            /// The event of a JSON object, as the API takes it.
            ///
            /// # Errors
            /// [`Error::Payload`] names the field.
            pub fn from_json(kind: Kind, json: &str) -> Result<Self, Error> {
                let payload = |error: serde_json::Error| Error::Payload {
                    kind: kind.name().to_owned(),
                    why: error.to_string(),
                };
                match kind {
                    $(Kind::$variant => {
                        serde_json::from_str(json).map(Event::$variant).map_err(payload)
                    })*
                }
            }
        }

        $(impl From<$variant> for Event {
            fn from(it: $variant) -> Event {
                Event::$variant(it)
            }
        })*
    };
}

/// What sort of record a kind is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Belongs to the log itself; has no typed topic (spec 10 §3).
    Log,
    /// A control event, fanned out to the topic of its name.
    Control,
}

events! {
    1 OwnerElected "owner.elected" 1 Log "A process took office over the partition."
    2 TelemetrySealed "telemetry.sealed" 1 Log "A range of telemetry took its place in the chain."
    3 Tick "tick" 1 Control "Time passed."
    4 InputRefused "input.refused" 1 Log "An input that was not folded, with the reason."
    5 HeadCosigned "head.cosigned" 1 Log "A witness confirmed a tree head."
    10 ConfigActivated "config.activated" 1 Control "Something that changes how folds behave."
    11 TelemetrySample "telemetry.sample" 1 Control "A batch of samples."
    12 ChangeObserved "change.observed" 1 Control "Somebody changed something."
    13 ReleaseRequested "release.requested" 1 Control "An operator wants a release rolled out."
    20 SloAnomalyDetected "slo.anomaly.detected" 1 Control "A signal left its objective."
    21 RcaHypothesis "rca.hypothesis" 1 Control "A cause, with confidence and evidence."
    30 HealTriggerEvaluated "heal.trigger.evaluated" 1 Control "A trigger was evaluated."
    31 HealEscalated "heal.escalated" 1 Control "Handed to people, with what was tried."
    32 RemediationProposed "remediation.proposed" 1 Control "A repair was proposed."
    40 VoteCast "vote.cast" 1 Control "A voter's verdict on a proposal."
    41 L1ConsensusResult "l1.consensus.result" 1 Control "Outcome of the first layer."
    42 L2ConsensusResult "l2.consensus.result" 1 Control "Outcome of the second layer."
    43 L3ExecutionResult "l3.execution.result" 1 Control "Outcome of the third layer."
    44 GovernanceDecision "governance.decision" 1 Control "What policy says to a proposal."
    45 ApprovalGiven "approval.given" 1 Control "A person's signature over a plan digest."
    46 SandboxResult "sandbox.result" 1 Control "What a preflight measured."
    50 RunnerRequest "runner.request" 1 Control "A runner may act once its proof stands."
    51 RunnerResult "runner.result" 1 Control "A runner's signed answer."
    52 DeployState "deploy.state" 1 Control "A deployment moved."
    60 KpiTrustUpdate "kpi.trust.update" 1 Control "Trust changed, and why."
    70 ModeChanged "mode.changed" 1 Control "The operating mode changed."
    71 FreezeCommand "freeze.command" 1 Control "A signer's freeze or unfreeze."
    80 IncidentChanged "incident.changed" 1 Control "An incident opened, changed or ended."
    81 AnnotationAdded "annotation.added" 1 Control "A later statement about an entry."
}

impl Kind {
    /// The kind of a topic name and version.
    ///
    /// # Errors
    /// [`Error::UnknownKind`].
    pub fn named(name: &str, version: u16) -> Result<Self, Error> {
        let found = Kind::ALL.iter().find(|it| it.name() == name && it.version() == version);
        found.copied().ok_or_else(|| Error::UnknownKind { name: name.to_owned(), version })
    }

    /// The topic, `<type>.v<version>`.
    pub fn topic(self) -> String {
        format!("{}.v{}", self.name(), self.version())
    }

    /// The kind of a topic, `<type>.v<version>` or the bare type.
    ///
    /// # Errors
    /// [`Error::UnknownKind`].
    pub fn of_topic(topic: &str) -> Result<Self, Error> {
        let found = Kind::ALL.iter().find(|it| it.topic() == topic || it.name() == topic);
        found.copied().ok_or_else(|| Error::UnknownKind { name: topic.to_owned(), version: 0 })
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Kind::of_topic(&name).map_err(serde::de::Error::custom)
    }
}

/// Declares a closed vocabulary of spec 10 §8: an Avro enum whose order is frozen.
macro_rules! vocabulary {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        pub enum $name {
            $($(#[$vmeta])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every value, in Avro order.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The value as it is written everywhere.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $name::ALL.iter().find(|it| it.as_str() == text).copied().ok_or_else(|| {
                    let values: Vec<&str> = $name::ALL.iter().map(|it| it.as_str()).collect();
                    $crate::Error::malformed(
                        stringify!($name),
                        format!("{text:?} is none of {}", values.join(", ")),
                    )
                })
            }
        }
    };
}
pub(crate) use vocabulary;
