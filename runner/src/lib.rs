//! What is done to a host.
