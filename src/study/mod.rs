//! `maitred study`: swaps worker counts and architectures, and keeps what scheduling did.
//!
//! ```text
//!   flags or PLAN.toml ─▶ plan ─▶ runs, shuffled ─▶ run: serve ◀─ load ─▶ row ─▶ rows.jsonl ─▶ tables, analysis
//! ```
//! The modules, in reading order: `row.rs` and `rows.rs` (what a run leaves behind).

pub mod row;
pub mod rows;
