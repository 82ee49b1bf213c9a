//! [`Needs`]: what the services of an engine need of it. Looked at by every turn or wait that has to know, so one word each.
//!
//! A reload may bring a service that needs what none before it did. What one has needed stays: its sessions may outlive its
//! listener. Invariant *known-before-the-first*: a need is known to every thread before a session that has it begins, since
//! it is added before the fronts hear of the listener; and a front that waits, and did not know, is rung.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::session::handler::{Pace, Service};

#[derive(Debug, Default)]
pub(super) struct Needs {
    clock: AtomicBool,
    mail: AtomicBool,
    calls: AtomicBool,
    open: AtomicBool,
}

impl Needs {
    /// Adds those of one service.
    pub(super) fn add(&self, service: &dyn Service) {
        for (need, has) in [
            (&self.clock, service.reads_clock()),
            (&self.mail, service.mailbox().is_some()),
            (&self.calls, service.pace() == Pace::Calls),
            (&self.open, service.pace() == Pace::Open),
        ] {
            if has {
                need.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Somebody looks at the clock.
    pub(super) fn clock(&self) -> bool {
        self.clock.load(Ordering::SeqCst)
    }

    /// Somebody is reached by others.
    pub(super) fn mail(&self) -> bool {
        self.mail.load(Ordering::SeqCst)
    }

    /// Somebody's turns are bounded by nothing, or nothing but that they leave what takes long as calls.
    pub(super) fn more_than_brief(&self) -> bool {
        self.calls.load(Ordering::SeqCst) || self.time()
    }

    /// Somebody's turns are bounded by nothing.
    pub(super) fn time(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }
}
