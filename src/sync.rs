//! The synchronisation primitives of the hand-offs: `std`'s, or loom's when the crate is built with `--cfg loom`.
//!
//! What the models check of the hand-offs between threads (the session's state word, the table's slots, parking, the
//! idle stack, the stand-in for the service queue) and of the memory of a cell imports from here, so that loom can check
//! its interleavings. What the engine keeps beside that (commands, estimates, counters) is `std`'s. The models are beside
//! the code that they check, in modules named `loom_models`; they run with
//! `RUSTFLAGS="--cfg loom" cargo test --lib --release loom`.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{Condvar, Mutex, MutexGuard, atomic},
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

/// Threads and parking under loom. Loom's own `unpark` also rouses a thread that waits for a lock or for another thread's
/// end, and is forgotten by it; this one keeps to std's contract: a token that one `park` uses up, and spurious returns.
#[cfg(loom)]
pub(crate) mod thread {
    use std::sync::Arc;

    use loom::sync::Notify;
    #[cfg(test)]
    pub(crate) use loom::thread::{JoinHandle, spawn};

    #[derive(Clone)]
    pub(crate) struct Thread(Arc<Notify>);

    loom::thread_local! {
        static TOKEN: Arc<Notify> = Arc::new(Notify::new());
    }

    pub(crate) fn current() -> Thread {
        Thread(TOKEN.with(Arc::clone))
    }

    pub(crate) fn park() {
        current().0.wait();
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            self.0.notify();
        }
    }
}

/// Runs `body` under every interleaving with at most three preemptions, or as many as `LOOM_MAX_PREEMPTIONS` says.
///
/// A thread that loses its processor where it would not have given it up is one preemption. Mistakes in hand-offs show
/// with one or two; without a bound the larger models take hours.
#[cfg(all(test, loom))]
pub(crate) fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(body);
}
