//! maitred: a network daemon that shows how it is scheduled.
//!
//! One poller thread detects readiness and pushes service requests into a bounded queue; a pool of workers, one per
//! core, drains it with nonblocking I/O, per-session rings and batched writes. A maître d' meets the guests at the door
//! and hands them to the waiters. The same services run unchanged on other engines, so that architectures and worker
//! counts can be compared and nothing else is.
//!
//! ```text
//!                    ┌────────────────────────── engine ──────────────────────────┐
//!   sockets ──────▶ poller ──▶ service queue ──▶ workers ──▶ session ──▶ handler (service)
//!      ▲           (net)        (bounded)        (turns)      (rings)     (pure protocol)
//!      └───────────────────────────── writes ──────────────────┘
//! ```
//!
//! The modules, in reading order:
//! - [`session`]: a session's protocol state, its rings, its state word, the table; the traits `Service` and `Handler`;
//! - [`service`]: the protocols, and their registry; [`spend`]: how `work` spends the time that a request asks for;
//!   [`digest`]: the hash of `files`;
//! - [`net`]: every system call;
//! - [`jobs`]: bounded pools for work that belongs on no worker;
//! - [`engine`]: who waits for readiness and who runs the turns; `engine/pool` is the reference;
//! - [`metrics`]: counters, histograms, stage times, the summary;
//! - [`config`], [`units`], [`cli`], [`error`], [`logging`], [`clock`]: what the user typed, and what the program runs with;
//! - [`daemon`]: all of it put together, with signals;
//! - [`server`]: the same for a program of your own, with a handler that can send from anywhere;
//! - [`cell`]: a value that processes share by a file, and watch;
//! - [`load`]: the load generator, which talks to any server; [`random`]: its seeded draws;
//! - [`queueing`]: what theory and a simulator say of servers and of those who wait for them; [`simulate`]: the same
//!   under a load;
//! - [`study`]: many runs of both, and what they amount to.
//!
//! Arrows point one way: `service → session ← engine → net ← load ← study`, `cell → net`. The course is in `design/`, beginning with its README.

pub mod cell;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod daemon;
pub mod digest;
pub mod engine;
pub mod error;
pub mod jobs;
pub mod load;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod queueing;
pub mod random;
pub mod server;
pub mod service;
pub mod session;
pub mod simulate;
pub mod spend;
pub mod study;
mod sync;
pub mod units;

/// The Rust of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
