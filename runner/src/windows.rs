//! Windows: no hook is proven yet, and this file says so.
//!
//! The hooks of the spec (service manager, VSS, Authenticode) are not written. Each method gives a
//! capability gap, so nothing that is asked of such a host can look done (spec 60 §6).

use schemas::event::TelemetrySample;

use crate::error::Error;
use crate::host::{Call, Host, Installed, Outcome};
use crate::store::Listed;

/// A Windows machine.
#[derive(Debug, Default)]
pub struct WindowsHost;

impl Host for WindowsHost {
    fn apply_patch(&self, call: &Call<'_>) -> Outcome {
        gap(call.op.method).into()
    }

    fn restart(&self, call: &Call<'_>) -> Outcome {
        gap(call.op.method).into()
    }

    fn metrics(&self) -> Result<TelemetrySample, Error> {
        Err(gap("metrics"))
    }

    fn rollback(&self, call: &Call<'_>) -> Outcome {
        gap(call.op.method).into()
    }

    fn sandbox(&self, call: &Call<'_>) -> Outcome {
        gap(call.op.method).into()
    }

    fn inventory(&self) -> Result<Vec<Installed>, Error> {
        Err(gap("inventory"))
    }

    fn cache_info(&self) -> Result<Vec<Listed>, Error> {
        Err(gap("cache_info"))
    }
}

fn gap(method: &str) -> Error {
    Error::CapabilityGap(format!("{method} is not proven on Windows"))
}
