//! Counters: one padded block per thread, written by that thread alone, summed only when somebody reads.
//!
//! A count is a relaxed load and a relaxed store, not a read-modify-write: the line stays in its writer's cache, and a
//! reader sees numbers that were true a moment ago. What false sharing would cost: `design/padding.md`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::guard::Refusal;
use crate::session::handler::Closed;

/// A number that one thread writes and anybody may read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `more`; for the one writer.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Keeps the larger of the present number and `seen`; for the one writer.
    pub fn raise(&self, seen: u64) {
        if seen > self.0.load(Ordering::Relaxed) {
            self.0.store(seen, Ordering::Relaxed);
        }
    }

    /// The number now.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Puts the number that another count has; for the one writer.
    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    /// Begins again at zero; for the one writer, where the number is accounted for elsewhere.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Adds the number to `total` and begins again; for the one writer of both.
    pub fn move_to(&self, total: &Count) {
        total.add(self.read());
        self.clear();
    }
}

/// What one thread that runs turns has done. Written by that thread only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct TurnCounters {
    /// Turns run. Written at the start of a turn, so that the poller can see that one takes long.
    pub turns: Count,
    /// Calls run, or given to a pool. Written at the start, like `turns`.
    pub calls: Count,
    /// Calls that were run on the spot because the pool for them had taken as many as it may.
    pub jobs_refused: Count,
    /// Calls that waited, and their sessions with them, for a place in the pool for files.
    pub jobs_waited: Count,
    /// Messages that sessions took from their mailboxes.
    pub posts: Count,
    /// Messages that were refused because a mailbox was full.
    pub posts_refused: Count,
    /// Times that a post told the engine.
    pub post_wakes: Count,
    /// Bytes read from sockets.
    pub read_bytes: Count,
    /// Bytes written to sockets.
    pub written_bytes: Count,
    /// System calls that read from sockets, those that would have blocked too; a splice into a pipe is one.
    pub reads: Count,
    /// System calls that wrote to sockets, those that would have blocked too; a splice out of a pipe is one, and so is a
    /// part of a file that the kernel sends.
    pub writes: Count,
    /// Reads that would have blocked.
    pub read_blocks: Count,
    /// Writes that would have blocked or were cut short.
    pub write_blocks: Count,
    /// Turns that ended because the byte budget was spent.
    pub budget_stops: Count,
    /// Turns that ended for want of memory for a ring.
    pub starved: Count,
    /// Sessions put back into the queue because reasons came during their turn.
    pub again: Count,
    /// Times the queue was full for a session to be put back, so that it was served on the spot.
    pub carried: Count,
    /// Times that a thread waited in the kernel for the one session or endpoint that it has.
    pub waits: Count,
    /// Times this thread parked because the queue was empty.
    pub parks: Count,
    /// Times it gave up its processor before it would have parked.
    pub yields: Count,
    /// Times it woke another worker, for a session that it had put back behind others.
    pub worker_wakes: Count,
    /// Times it woke the parked poller.
    pub poller_wakes: Count,
    /// Sessions that ended in this thread's hands, by `Closed` in the order of `Closed::ALL`.
    pub closed: [Count; Closed::ALL.len()],
}

impl TurnCounters {
    /// Adds every count to that of `totals` and begins again at zero; for the one writer of both.
    pub fn move_to(&self, totals: &TurnCounters) {
        let TurnCounters {
            turns,
            calls,
            jobs_refused,
            jobs_waited,
            posts,
            posts_refused,
            post_wakes,
            read_bytes,
            written_bytes,
            reads,
            writes,
            read_blocks,
            write_blocks,
            budget_stops,
            starved,
            again,
            carried,
            waits,
            parks,
            yields,
            worker_wakes,
            poller_wakes,
            closed,
        } = self;
        turns.move_to(&totals.turns);
        calls.move_to(&totals.calls);
        jobs_refused.move_to(&totals.jobs_refused);
        jobs_waited.move_to(&totals.jobs_waited);
        posts.move_to(&totals.posts);
        posts_refused.move_to(&totals.posts_refused);
        post_wakes.move_to(&totals.post_wakes);
        read_bytes.move_to(&totals.read_bytes);
        written_bytes.move_to(&totals.written_bytes);
        reads.move_to(&totals.reads);
        writes.move_to(&totals.writes);
        read_blocks.move_to(&totals.read_blocks);
        write_blocks.move_to(&totals.write_blocks);
        budget_stops.move_to(&totals.budget_stops);
        starved.move_to(&totals.starved);
        again.move_to(&totals.again);
        carried.move_to(&totals.carried);
        waits.move_to(&totals.waits);
        parks.move_to(&totals.parks);
        yields.move_to(&totals.yields);
        worker_wakes.move_to(&totals.worker_wakes);
        poller_wakes.move_to(&totals.poller_wakes);
        for (count, total) in closed.iter().zip(&totals.closed) {
            count.move_to(total);
        }
    }
}

/// Classes of sizes, of batches and of the queue: none, 1, 2 to 3, 4 to 7, and so on by powers of two. The last begins at
/// 2¹⁰.
pub const SIZE_CLASSES: usize = 12;

/// The class of so many.
pub fn size_class(count: u64) -> usize {
    ((u64::BITS - count.leading_zeros()) as usize).min(SIZE_CLASSES - 1)
}

/// The most that is of this class; none of the last, which has no end.
pub fn most_of_class(class: usize) -> Option<u64> {
    (class < SIZE_CLASSES - 1).then(|| (1 << class) - 1)
}

/// What the poller has done. Written by the poll loop only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PollCounters {
    /// Connections taken off the listeners' backlogs.
    pub accepted: Count,
    /// Accepted connections that were closed at once because of a limit.
    pub turned_away: Count,
    /// Accepted connections that were closed at once because their service panicked.
    pub broken_opens: Count,
    /// Times accepting paused because descriptors or memory ran out.
    pub accept_pauses: Count,
    /// Times that a listener was asked for a connection, also when there was none. What the kernel accepts by itself is not
    /// asked for.
    pub accept_calls: Count,
    /// Calls that waited for readiness.
    pub polls: Count,
    /// Events of sessions that they brought.
    pub events: Count,
    /// The most that one call brought.
    pub events_max: Count,
    /// Calls by what they brought, in the classes of [`size_class`].
    pub batch_sizes: [Count; SIZE_CLASSES],
    /// Events that found their session queued or running.
    pub noted: Count,
    /// Events of sessions that had ended.
    pub stale: Count,
    /// Sessions put into the service queue.
    pub queued: Count,
    /// The deepest that the queue was seen.
    pub queue_depth_max: Count,
    /// Batches put into the service queue, by how deep it was then, in the classes of [`size_class`]: as the poller saw it
    /// right behind the batch, with what others have taken meanwhile gone. Each batch counts once, however often the poller
    /// looks again before the next.
    pub queue_depths: [Count; SIZE_CLASSES],
    /// Times a worker was woken.
    pub wakes: Count,
    /// Times a worker was woken because the ones awake were seen to be in long turns.
    pub long_turn_wakes: Count,
    /// Times the poller parked instead of polling, because the queue held a backlog.
    pub parks: Count,
    /// Times it had to wait because the queue was full.
    pub full_queue_waits: Count,
    /// Sessions that the poller served itself (`--assist`).
    pub assisted: Count,
    /// Timeouts looked at.
    pub timer_visits: Count,
}

/// What one endpoint has done. Written by its owner of the moment only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct DatagramCounters {
    /// Whether the kernel tells what it drops.
    pub tells_drops: bool,
    /// Datagrams that came and were looked at.
    pub received: Count,
    /// Their bytes.
    pub received_bytes: Count,
    /// Messages that they came in: fewer where the kernel has joined some.
    pub received_messages: Count,
    /// Times that the kernel was asked for a batch.
    pub receive_batches: Count,
    /// Datagrams that came cut off, since they were longer than the service wants.
    pub oversized: Count,
    /// Errors of the socket that were passed over.
    pub receive_errors: Count,
    /// Datagrams that the kernel dropped because nobody had read those before them.
    pub dropped: Count,
    /// Datagrams that the service answered.
    pub answered: Count,
    /// Datagrams to which it had nothing to say.
    pub silent: Count,
    /// Datagrams over which it panicked.
    pub panicked: Count,
    /// Datagrams that a relay has sent to a target.
    pub forwarded: Count,
    /// Datagrams of targets that are for a relay's clients.
    pub returned: Count,
    /// Clients that a relay has had.
    pub clients: Count,
    /// Those of them that were forgotten after a silence.
    pub clients_expired: Count,
    /// Those that were forgotten because another one needed the place.
    pub clients_replaced: Count,
    /// Those whose target was not there.
    pub clients_unreachable: Count,
    /// Datagrams that were not answered, by `Refusal` in the order of `Refusal::ALL`.
    pub refused: [Count; Refusal::ALL.len()],
    /// Answers that have left, of the service or of a relay's targets.
    pub sent: Count,
    /// Their bytes.
    pub sent_bytes: Count,
    /// Messages that they left in: fewer where some were joined.
    pub sent_messages: Count,
    /// Times that the kernel was given a batch.
    pub send_batches: Count,
    /// Answers that the kernel did not take, and that were skipped.
    pub unsendable: Count,
    /// Times that the socket took no more for now.
    pub send_blocks: Count,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_what_is_above_the_one_before() {
        assert_eq!([0, 1, 2, 3, 4, 1_023, 1_024, u64::MAX].map(size_class), [0, 1, 2, 2, 3, 10, 11, 11]);
        for class in 0..SIZE_CLASSES - 1 {
            let most = most_of_class(class).expect("it is not the last");
            assert_eq!((size_class(most), size_class(most + 1)), (class, class + 1));
        }
        assert_eq!(most_of_class(SIZE_CLASSES - 1), None);
    }
}
