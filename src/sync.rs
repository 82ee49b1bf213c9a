//! The synchronisation primitives of the hand-offs: `std`'s, or loom's when the crate is built with `--cfg loom`.
//!
//! Everything that takes part in a hand-off between threads (the session's state word, parking, the idle set, the
//! stand-in for the service queue) imports from here, so that loom can check every interleaving of it.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{Mutex, MutexGuard, atomic},
    thread,
};

#[cfg(not(loom))]
pub(crate) use std::{
    sync::{Mutex, MutexGuard, atomic},
    thread,
};

/// `std`'s cell with the closure interface of loom's, which is how loom sees each access.
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}
