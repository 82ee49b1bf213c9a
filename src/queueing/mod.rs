//! What queueing theory says of servers and the requests that wait for them: no socket, no thread, no clock.
//!
//! `formulas.rs` is what is known in closed form; `simulator.rs` runs what is not: any number of servers, ways to queue,
//! disciplines, costs, and any trace, also one that was measured. Where both apply they agree, which `tests/queueing.rs`
//! holds them to. Imports nothing of this crate: requests go in as values, and what became of each comes out by a closure,
//! so that who calls decides what is drawn and what is kept.
//!
//! Read next: `formulas.rs`; then `simulate/scenario.rs`, which puts a load and a simulated system together.

pub mod formulas;
pub mod simulator;
