//! One anomaly event for each change of colour, and the limit on repeating oneself.

use schemas::event::{Health, Severity, SloAnomalyDetected};
use schemas::{Ns, Uuid};

use super::health::{Phase, ServiceHealth, SignalHealth};
use crate::fold::{Folded, Output};

/// One alert per service, signal and colour in this time (spec 20 §4).
const ALERT_EVERY: Ns = Ns::from_s(300);

/// Says what has changed since it was last said, and when what is withheld may be said.
pub(super) fn say(
    health: &mut ServiceHealth,
    entry: &Folded<'_>,
    outputs: &mut Vec<Output>,
) -> Option<Ns> {
    if health.phase == Phase::Learning {
        return None;
    }
    let (service, range) = (health.service.clone(), health.evidence.clone());
    let now = entry.now();
    let mut again: Option<Ns> = None;
    for signal in &mut health.signals {
        let Some(at) = due(signal, now) else { continue };
        if at > now {
            again = Some(again.map_or(at, |it| it.min(at)));
            continue;
        }
        let event = anomaly(&service, &range, signal, entry);
        let urgency = match event.severity {
            Severity::Info => 3,
            Severity::Warning => 5,
            Severity::Critical | Severity::Emergency => 7,
        };
        outputs.push(Output::new(service.clone(), event).with_priority(urgency));
        signal.told = signal.colour;
        signal.told_at.insert(signal.colour.to_string(), now);
    }
    again
}

/// From when on the colour may be said; `None` when there is nothing to say.
///
/// Red always passes: it is worse than whatever was said, and each outage is one of its own. So
/// does green: it ends an alert and is none. Amber and silence are said once in
/// [`ALERT_EVERY`], so that a share that hovers at its limit is one alert and not a hundred.
fn due(signal: &SignalHealth, now: Ns) -> Option<Ns> {
    if signal.colour == signal.told {
        return None;
    }
    let was_bad = matches!(signal.told, Health::Amber | Health::Red);
    match signal.colour {
        Health::Red | Health::Green => Some(now),
        // Quiet hours of a healthy service are no event; silence is, and so is losing sight of
        // something bad.
        Health::Unknown if !signal.is_stale && !was_bad => None,
        Health::Amber | Health::Unknown => {
            let last = signal.told_at.get(signal.colour.as_str());
            Some(last.map_or(now, |at| *at + ALERT_EVERY))
        }
    }
}

fn anomaly(
    service: &str,
    range: &str,
    signal: &SignalHealth,
    entry: &Folded<'_>,
) -> SloAnomalyDetected {
    let mut evidence_refs = vec![range.to_owned()];
    if signal.is_stale {
        // What shows silence is the passing of time after the last sample.
        evidence_refs.push(entry.reference());
    }
    let place = entry.envelope.seq.to_be_bytes();
    let name: [&[u8]; 3] = [service.as_bytes(), signal.signal.as_str().as_bytes(), &place];
    SloAnomalyDetected {
        anomaly_id: Uuid::named("healwright/anomaly/v1", &name),
        service: service.to_owned(),
        signal: signal.signal,
        observed: observed(signal, entry.now()),
        threshold: signal.threshold,
        window_s: signal.window_s,
        severity: severity(signal.colour),
        health_from: signal.told,
        health_to: signal.colour,
        detector: if signal.is_stale { "silence".to_owned() } else { signal.detector.clone() },
        fallback: false,
        evidence_refs,
    }
}

/// Of a silent signal, the seconds of silence; of any other, what was measured.
fn observed(signal: &SignalHealth, now: Ns) -> f64 {
    match signal.is_stale {
        true => now.since(signal.seen_at).as_s(),
        false => signal.observed,
    }
}

fn severity(colour: Health) -> Severity {
    match colour {
        Health::Green => Severity::Info,
        Health::Amber | Health::Unknown => Severity::Warning,
        Health::Red => Severity::Critical,
    }
}
