//! What is remembered: the log, the keyed state, and what both keep on disk.
//!
//! No meaning of any event lives here, and no tokio: traits are synchronous and are called from
//! threads of their own.
