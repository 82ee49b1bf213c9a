//! Prefork: children made ahead, each accepts by itself and serves one session at a time.
//!
//! Here is what does not touch a process: `policy.rs` says how many children there are to be.

pub mod policy;
