//! Canonical text: what a cause must look like before it is hashed (spec 40 §3, A01).
