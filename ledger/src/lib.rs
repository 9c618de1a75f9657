//! What can be proven: see design in the module docs.
