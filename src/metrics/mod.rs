//! What the daemon counts about itself, and the summary that it prints.
//!
//! Read next: `counters.rs` (who writes what), `stages.rs` (stage times), `summary.rs` (JSON and the one screen).

pub mod counters;
pub mod stages;
pub mod summary;
