//! Environments: built beside the one in use, flipped in one step, the service started from it.

use std::time::Instant;

use super::managed::Managed;
use super::{LinuxHost, millis, preflight, signed_digest};
use crate::environment::{self, Generation};
use crate::error::Error;
use crate::host::{Call, Outcome};
use crate::store::{Verified, digest_of};

impl LinuxHost {
    /// `apply_patch:env/<service>`: the new generation is named, and the service started from
    /// it, unless the same request restarts it anyway. The old generation stays until another
    /// one is applied.
    pub(super) fn apply_environment(
        &self,
        managed: &Managed,
        call: &Call<'_>,
    ) -> Result<Outcome, Error> {
        let service = managed.service();
        let _operation = service.operate();
        let start = Instant::now();
        let (home, steps) = (service.dir(), service.steps());
        let name = service.spec().name;
        let (verified, generation) = match self.staged_environment(managed, call) {
            Ok(staged) => staged,
            Err(error @ Error::Missing { .. }) => return Ok(preflight::deferred(&error)),
            Err(error) => return Err(error),
        };
        preflight::must_have_passed(home, &verified.digest().to_digest())?;
        let old = environment::current(home)?.map(|it| it.dir);
        environment::flip(home, &generation, steps)?;
        managed.look_again();
        let keep: Vec<_> = old.into_iter().collect();
        environment::prune(home, &keep);
        let mut text = format!("The environment of {name} was rebuilt from the local store");
        let slot = managed.deployment().live;
        let mut outcome = Outcome::success("");
        let restart = format!("restart:{name}");
        if call.request.ops.contains(&restart) {
            text.push_str(" and flipped; the restart follows.");
        } else {
            service.start(slot, &managed.source(slot, &self.store)?)?;
            managed.set_route(self.router.as_ref())?;
            service.wait_well(slot, call.deadline)?;
            text.push_str(" and flipped, and it is well again.");
            outcome = outcome.with("probe", 1.0);
        }
        outcome.explanation = text;
        outcome.snapshot = format!("local://environments/{name}/previous");
        Ok(managed.report(outcome, slot).with("duration_ms", millis(start)))
    }

    /// A complete generation of the environment that the request names: the one that the
    /// sandbox tried, if it still is what was built, else a new one.
    pub(super) fn staged_environment(
        &self,
        managed: &Managed,
        call: &Call<'_>,
    ) -> Result<(Verified, Generation), Error> {
        let service = managed.service();
        let spec = service.spec();
        let none = || Error::refused(format!("service {}", spec.name), "it has no environment");
        let wanted = spec.environment.as_ref().ok_or_else(none)?;
        let digest = signed_digest(call)?;
        if digest_of(&wanted.digest)? != digest {
            let why = "the request names another environment than is declared for the service";
            return Err(Error::refused(format!("environment {}", digest.to_digest()), why));
        }
        let verified = self.store.open_reference(&wanted.artifact_ref, Some(digest))?;
        if let Some(generation) = environment::staged(service.dir(), &digest) {
            return Ok((verified, generation));
        }
        let (home, steps) = (service.dir(), service.steps());
        let python = self.python_here()?;
        let generation = environment::stage(home, &self.store, &verified, python, steps)?;
        Ok((verified, generation))
    }
}
