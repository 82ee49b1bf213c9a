//! What the daemon counts about itself, the summary that it prints, and the histogram of all measured times.
//!
//! Read next: `counters.rs` (who writes what), `histogram.rs` and `stages.rs` (times), `summary.rs` (JSON and the one
//! screen).

pub mod counters;
pub mod histogram;
pub mod stages;
pub mod summary;
