//! What the daemon counts about itself, the summary that it prints, and the histogram of all measured times.
//!
//! Read next: `counters.rs` (who writes what), `histogram.rs` and `stages.rs` (times), `summary.rs` (JSON and
//! text), `screen.rs` (the same on a terminal).

pub mod counters;
pub mod histogram;
pub mod screen;
pub mod stages;
pub mod summary;
