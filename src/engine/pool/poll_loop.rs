//! The poller thread: wait for readiness, queue what is ready, wake whom it takes, repeat.
//!
//! It is a [`Front`] over [`Sessions`], which accepts, looks at timeouts and carries out commands as part of each wait.
//! The wait's harvest goes to `hand_off.rs`, which decides whom to wake and whether to park before the next one.
//!
//! Read next: `hand_off.rs`.

use std::sync::atomic::Ordering;

use super::Shared;
use super::hand_off::HandOff;
use crate::engine::front::Front;
use crate::engine::reactor::Sessions;
use crate::net::os::sharpen_timers;
use crate::net::poller::Batch;

/// Runs until nobody is here and nobody can come.
pub(super) fn run(shared: &Shared, mut front: Front<Sessions>) {
    let mut hand_off = HandOff::new(shared);
    let mut batch = Batch::new(shared.settings().batch);
    shared.poller_seat.occupy();
    sharpen_timers();
    while !front.is_drained() {
        let timeout = hand_off.recheck_in(&front.floor.ready);
        batch.set_capacity(shared.common.orders().batch());
        front.wait(&mut batch, timeout);
        let alarm_ns = front.alarm_ns();
        hand_off.hand_on(&mut front.floor.ready, alarm_ns);
    }
    shared.stopping.store(true, Ordering::SeqCst);
    shared.idle.wake_all();
}
