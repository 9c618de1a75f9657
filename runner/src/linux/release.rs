//! Releases: into the other slot, before users by shares, committed, or taken back.
//!
//! The order of each: what is recorded, then the route, then processes. In a rollback users
//! are on the old slot before anything is ended.

use std::time::Instant;

use schemas::Hash;

use super::managed::{Managed, Stage};
use super::{LinuxHost, millis, preflight, signed_digest};
use crate::error::Error;
use crate::host::{Call, Outcome};
use crate::store::{ArtifactKind, Verified};
use crate::supervisor::Slot;

impl LinuxHost {
    /// `apply_patch:<service>`: the release is started in the slot that nobody is served from.
    pub(super) fn apply_release(
        &self,
        managed: &Managed,
        call: &Call<'_>,
    ) -> Result<Outcome, Error> {
        let service = managed.service();
        let _operation = service.operate();
        let start = Instant::now();
        let name = service.spec().name;
        must_be_proxied(managed)?;
        let deployment = managed.deployment();
        if deployment.stage != Stage::None {
            return Err(Error::refused(
                format!("release of {name}"),
                "another one is under way; two never run at the same time",
            ));
        }
        let reference = &call.request.artifact_ref;
        let verified = self.store.open_reference(reference, Some(signed_digest(call)?))?;
        let digest = verified.digest().to_digest();
        if !deployment.committed.contains(&digest) {
            preflight::must_have_passed(service.dir(), &digest)?;
        }
        let slot = deployment.live.other();
        let snapshot = self.snapshot(managed, deployment.live)?;
        managed.change(|deployment| deployment.stage = Stage::Applied)?;
        let probe_ms = match self.fill(managed, slot, &verified, reference, call.deadline) {
            Ok(probe_ms) => probe_ms,
            Err(error) => return Err(give_up(managed, slot, error)),
        };
        let version = &verified.manifest().version;
        let took = millis(start);
        let text = format!(
            "Release {version} of {name} runs in the {} slot after {took:.0} ms; no user sees it.",
            slot.as_str()
        );
        let mut outcome = managed.report(Outcome::success(text), slot);
        outcome.snapshot = snapshot;
        Ok(outcome.with("probe_ms", probe_ms).with("duration_ms", took))
    }

    /// `apply_patch:route/<service>/shadow`: it is sent copies of safe requests.
    pub(super) fn mirror(&self, managed: &Managed) -> Result<Outcome, Error> {
        self.move_to(managed, Stage::Shadow, "is sent copies of safe requests")
    }

    /// `apply_patch:route/<service>/canary/<pct>`: it serves a share.
    pub(super) fn widen(&self, managed: &Managed, pct: u32) -> Result<Outcome, Error> {
        self.move_to(managed, Stage::Canary(pct), &format!("serves {pct} % of the requests"))
    }

    /// `apply_patch:commit/<service>`: it serves alone, and what ran before is ended. Its
    /// release stays on disk.
    pub(super) fn commit(&self, managed: &Managed) -> Result<Outcome, Error> {
        let service = managed.service();
        let _operation = service.operate();
        let slot = must_have_candidate(managed)?;
        let spec = service.spec();
        let seen = service.look(slot, &spec);
        if !seen.passed || service.process(slot).is_none() {
            return Err(Error::NotWell { service: spec.name, why: seen.detail });
        }
        self.switch(managed, slot)?;
        managed.prune();
        let text = format!(
            "{} is committed: the {} slot serves alone and the other is ended.",
            spec.name,
            slot.as_str()
        );
        Ok(managed.report(Outcome::success(text), slot).with("probe", 1.0))
    }

    /// `rollback:<service>`: the release that the request names serves alone.
    pub(super) fn roll_back(&self, managed: &Managed, call: &Call<'_>) -> Result<Outcome, Error> {
        let service = managed.service();
        let _operation = service.operate();
        let start = Instant::now();
        let live = managed.deployment().live;
        // Users first: whatever fails below, they are no longer on the new release.
        managed.change(|deployment| deployment.stage = Stage::None)?;
        managed.set_route(self.router.as_ref())?;
        service.stop(live.other())?;
        let target = self.target(managed, call)?;
        let digest = target.as_ref().map(|it| it.digest().to_digest()).unwrap_or_default();
        if service.slot(live).digest != digest {
            let Some(verified) = &target else {
                return Err(Error::refused("rollback", "it names no release to go back to"));
            };
            must_be_proxied(managed)?;
            let reference = &call.request.artifact_ref;
            let filled = self.fill(managed, live.other(), verified, reference, call.deadline);
            if let Err(error) = filled {
                return Err(give_up(managed, live.other(), error));
            }
            self.switch(managed, live.other())?;
        } else if service.process(live).is_none() {
            service.start(live, &managed.source(live, &self.store)?)?;
            managed.set_route(self.router.as_ref())?;
        }
        let slot = managed.deployment().live;
        let probe_ms = service.wait_well(slot, call.deadline)?;
        let equal = self.runs(managed, slot, target.as_ref());
        let took = millis(start);
        let text = format!(
            "{} is served by {} alone again, after {took:.0} ms; its digest {} and its probe \
             passes.",
            service.spec().name,
            target.as_ref().map_or("what ran before", |it| &it.manifest().version),
            if equal { "is the recorded one" } else { "is NOT the recorded one" },
        );
        let outcome = managed.report(Outcome::success(text), slot);
        Ok(outcome
            .with("digest_equal", f64::from(u8::from(equal)))
            .with("probe", 1.0)
            .with("probe_ms", probe_ms)
            .with("duration_ms", took))
    }

    /// Lays a release out in `slot`, starts it and waits until it is well.
    fn fill(
        &self,
        managed: &Managed,
        slot: Slot,
        verified: &Verified,
        reference: &str,
        deadline: Instant,
    ) -> Result<f64, Error> {
        if verified.manifest().kind != ArtifactKind::Release {
            return Err(Error::refused("artifact", "it is no release"));
        }
        let service = managed.service();
        service.stop(slot)?;
        service.assign(slot, &verified.digest().to_digest(), reference)?;
        let source = managed.source(slot, &self.store)?;
        service.start(slot, &source)?;
        service.wait_well(slot, deadline)
    }

    /// Makes `slot` the one that serves, alone.
    fn switch(&self, managed: &Managed, slot: Slot) -> Result<(), Error> {
        let service = managed.service();
        let digest = service.slot(slot).digest;
        managed.change(|deployment| {
            deployment.live = slot;
            deployment.stage = Stage::None;
            deployment.remember(&digest);
        })?;
        service.steps().reach("switch: recorded")?;
        managed.set_route(self.router.as_ref())?;
        service.steps().reach("switch: routed")?;
        service.stop(slot.other())
    }

    fn move_to(&self, managed: &Managed, stage: Stage, words: &str) -> Result<Outcome, Error> {
        let service = managed.service();
        let _operation = service.operate();
        let slot = must_have_candidate(managed)?;
        managed.change(|deployment| deployment.stage = stage)?;
        managed.set_route(self.router.as_ref())?;
        let text = format!("The {} slot of {} {words}.", slot.as_str(), service.spec().name);
        Ok(managed.report(Outcome::success(text), slot))
    }

    /// The release that a rollback is about: the one that it applies or, where it applies none,
    /// the one that undoes it.
    fn target(&self, managed: &Managed, call: &Call<'_>) -> Result<Option<Verified>, Error> {
        let request = call.request;
        let applied = !request.artifact_ref.is_empty();
        let reference = if applied { &request.artifact_ref } else { &request.rollback.artifact };
        if managed.service().slot(managed.deployment().live).digest.is_empty() {
            // It never had a release, so there is nothing to compare.
            return Ok(None);
        }
        let expected = if applied { Some(signed_digest(call)?) } else { None };
        self.store.open_reference(reference, expected).map(Some)
    }

    /// Whether what runs in `slot` is `target`, by record and by the bytes on disk.
    fn runs(&self, managed: &Managed, slot: Slot, target: Option<&Verified>) -> bool {
        let Some(target) = target else { return true };
        let digest: Hash = target.digest();
        let record = managed.service().slot(slot);
        let Some(dir) = managed.service().current(slot) else { return false };
        record.digest == digest.to_digest()
            && dir.file_name().is_some_and(|name| name.to_string_lossy() == digest.to_string())
            && self.store.holds(target, &dir).is_ok()
    }

    /// Names what serves now, so that it can be gone back to. Its blobs are in the store.
    fn snapshot(&self, managed: &Managed, live: Slot) -> Result<String, Error> {
        let service = managed.service();
        let digest = service.slot(live).digest;
        let Ok(hash) = digest.parse::<Hash>() else { return Ok(String::new()) };
        let name = service.spec().name;
        let reference = format!("local://snapshots/{name}@{}", &hash.to_string()[..12]);
        self.store.point(&reference, &hash)?;
        Ok(reference)
    }
}

/// Ends what was begun in `slot`, which serves nobody. A stop by a test is a crash and leaves
/// everything as it is.
fn give_up(managed: &Managed, slot: Slot, error: Error) -> Error {
    if matches!(error, Error::Stopped(_)) {
        return error;
    }
    let ended = managed.service().stop(slot);
    let ended = ended.and_then(|()| managed.change(|it| it.stage = Stage::None));
    if let Err(second) = ended {
        tracing::error!(%second, "what was begun could not be ended");
    }
    error
}

fn must_be_proxied(managed: &Managed) -> Result<(), Error> {
    let spec = managed.service().spec();
    if spec.is_proxied() {
        return Ok(());
    }
    let why = "users reach it without the proxy, so it has no second slot";
    Err(Error::refused(format!("release of {}", spec.name), why))
}

fn must_have_candidate(managed: &Managed) -> Result<Slot, Error> {
    let deployment = managed.deployment();
    if deployment.stage != Stage::None {
        return Ok(deployment.live.other());
    }
    let name = managed.service().spec().name;
    Err(Error::refused(format!("release of {name}"), "none is under way"))
}
