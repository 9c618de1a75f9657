//! `healwright repair`: what a person says of what must not mend itself.

use std::path::PathBuf;

use clap::Subcommand;

/// `healwright repair`.
#[derive(Debug, Subcommand)]
pub enum Repair {
    /// Pass over an input whose fold panicked; signed and journaled
    Skip {
        /// `<stream>/<position>` as the error names it
        place: String,
        /// Why, for the audit
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
    },
    /// Forget the folded state; the next start folds the chain anew
    State,
    /// Drop stored telemetry; what it led to stands in the journal
    Telemetry,
    /// Write the database's lost table of contents anew, if everything else is there
    Database,
    /// Make a damaged journal anew from what can be read of it; the damaged one is set aside
    Journal {
        /// An export that fills the gap
        #[arg(long, value_name = "BUNDLE")]
        from: Option<PathBuf>,
        /// Go on without what can be found nowhere; without this flag nothing is changed then
        #[arg(long)]
        accept_loss: bool,
    },
    /// Accept a log that is behind its head record, after a person has looked; signed and journaled
    Head {
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Register the runner of this data directory in place of one whose key was lost; signed and
    /// journaled
    Runner {
        /// Its host, where several are registered
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}
