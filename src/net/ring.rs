//! Completion: operations handed to the kernel, the one call that waits for their ends, and the memory that it receives
//! into.
//!
//! The only user of `io-uring`. A ring belongs to the thread that made it, and everything that thread waits for waits
//! here: the kernel is told so (`SINGLE_ISSUER`, `DEFER_TASKRUN`), does the work of completions inside of that wait, and
//! interrupts nobody for it. Knows no session: what an operation was for is in its key.
//!
//! - A descriptor with an operation pending stays open below after it is closed above. So an operation that may last is
//!   cancelled, or its socket shut down, and its last completion taken, before the descriptor is closed.
//! - Whether a descriptor is `O_NONBLOCK` makes no difference: an operation waits until it can be done.
//! - INVARIANT one-owner-per-buffer is in `ring/buffers.rs`.
//!
//! Read next: `ring/features.rs` (what this kernel has), `ring/buffers.rs` (the memory).

mod buffers;
mod features;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags};

use buffers::Buffers;
pub use features::{Features, probe};

/// How long a dropped ring waits for what the kernel still does in its memory. Guess; it has taken microseconds.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// The group of the only buffers that there are.
const GROUP: u16 = 0;

/// What a [`Ring`] is made for.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Operations that one call can hand over; more go in several.
    pub submissions: u32,
    /// Completions that wait without costing the kernel memory of its own; more than `submissions`, since one operation
    /// may complete many times.
    pub completions: u32,
    /// Buffers to receive into: a power of two, at most 32768.
    pub buffers: u16,
    /// Size of each, and so of the longest receive.
    pub buffer_bytes: u32,
}

/// A pair of queues shared with the kernel, and the buffers that it receives into.
pub struct Ring {
    ring: IoUring,
    /// Dropped after the ring, and only when the kernel is done with it; see `drop`.
    buffers: Buffers,
    /// Completions taken off the queue to make room, before those that are still in it.
    aside: VecDeque<Completion>,
    /// Of each wait: not counted as waiting for a disk, where the kernel can make the difference (Linux 6.15).
    wait_flags: EnterFlags,
}

/// The end of an operation, or of one round of an operation that goes on.
#[derive(Debug)]
pub struct Completion {
    /// The key given with the operation.
    pub key: u64,
    /// What the system call would have returned.
    pub result: io::Result<u32>,
    /// A buffer that is the caller's from now on, whatever the result, until it is [recycled](Ring::recycle).
    pub buffer: Option<u16>,
    /// The operation goes on: there will be another completion with this key.
    pub more: bool,
}

impl Completion {
    /// Nothing happened to the socket: the operation was cancelled or interrupted, or there was no buffer for it.
    pub fn is_void(&self) -> bool {
        const VOID: [Errno; 4] = [Errno::CANCELED, Errno::INTR, Errno::AGAIN, Errno::NOBUFS];
        self.result.as_ref().is_err_and(|error| Errno::from_io_error(error).is_some_and(|errno| VOID.contains(&errno)))
    }

    /// The connection of an accept.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Safety
    /// It comes from a ring, as it is, and its key is that of an [accept](Ring::accept_multishot) there.
    #[allow(unsafe_code, reason = "a number becomes a descriptor, and only the caller's key says which numbers are")]
    pub unsafe fn into_connection(self) -> io::Result<OwnedFd> {
        let descriptor = self.result? as RawFd;
        // SAFETY: by the contract the kernel has just made this descriptor, and nobody else takes this completion.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

impl Ring {
    /// A ring for this thread, and no other.
    ///
    /// # Errors
    /// As [`probe`] says it in words; or no memory, or no buffer rings in this kernel.
    ///
    /// # Panics
    /// When the number of buffers is no power of two.
    pub fn new(size: Size) -> io::Result<Ring> {
        let (ring, _) = set_up(size.submissions, size.completions)?;
        let buffers = Buffers::new(size.buffers, size.buffer_bytes)?;
        buffers.register(&ring.submitter(), GROUP)?;
        let wait_flags = match ring.params().is_feature_no_iowait() {
            true => EnterFlags::NO_IOWAIT,
            false => EnterFlags::empty(),
        };
        Ok(Ring { ring, buffers, aside: VecDeque::new(), wait_flags })
    }

    /// Accepts connections until it is cancelled or fails. Each completion is a connection, nonblocking and closed on
    /// `exec`, or an error; it is lost to the process if nobody makes a descriptor of it.
    pub fn accept_multishot(&mut self, listener: BorrowedFd<'_>, key: u64) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let operation = opcode::AcceptMulti::new(fd(listener)).flags(flags.bits() as i32).build();
        self.push_harmless(operation, key);
    }

    /// Receives into provided buffers until the peer's FIN (0), an error or a cancellation. It also ends, with
    /// `ENOBUFS`, when there is no buffer to be had, and then wants to be asked for again after one was recycled.
    pub fn receive_multishot(&mut self, socket: BorrowedFd<'_>, key: u64) {
        self.push_harmless(opcode::RecvMulti::new(fd(socket), GROUP).build(), key);
    }

    /// Sends, waiting until the socket takes something; that may be a part. Never raises `SIGPIPE`. Two sends on one
    /// socket at a time may overtake each other.
    ///
    /// # Safety
    /// The bytes stay where they are, unchanged, until the completion with this key has been taken or the ring is gone.
    /// Bytes of a provided buffer do, while it is not recycled.
    ///
    /// # Panics
    /// Above 4 GiB.
    #[allow(unsafe_code, reason = "the kernel reads the bytes after this call has returned")]
    pub unsafe fn send(&mut self, socket: BorrowedFd<'_>, bytes: *const [u8], key: u64) {
        let length = u32::try_from(bytes.len()).expect("a send is shorter than 4 GiB");
        let operation = opcode::Send::new(fd(socket), bytes.cast(), length).flags(SendFlags::NOSIGNAL.bits() as i32);
        // SAFETY: the caller keeps the bytes, by this function's own contract.
        unsafe { self.push(operation.build().user_data(key)) };
    }

    /// Ends the operation with the key `target`, which then completes for the last time: with `ECANCELED`, or as it would
    /// have if it was just done. The cancellation has a completion of its own: `NotFound` when there is no such operation.
    pub fn cancel(&mut self, target: u64, key: u64) {
        self.push_harmless(opcode::AsyncCancel::new(target).build(), key);
    }

    /// Completes each time that there is something to read of a descriptor of the engine's own, such as an eventfd.
    pub fn poll_multishot(&mut self, source: BorrowedFd<'_>, key: u64) {
        let events = u32::from(PollFlags::IN.bits());
        self.push_harmless(opcode::PollAdd::new(fd(source), events).multi(true).build(), key);
    }

    /// Completes once, when there is something to read of a socket, without reading it.
    pub fn poll(&mut self, source: BorrowedFd<'_>, key: u64) {
        let events = u32::from((PollFlags::IN | PollFlags::RDHUP).bits());
        self.push_harmless(opcode::PollAdd::new(fd(source), events).build(), key);
    }

    /// Completes once, when a socket takes output.
    pub fn poll_output(&mut self, target: BorrowedFd<'_>, key: u64) {
        self.push_harmless(opcode::PollAdd::new(fd(target), u32::from(PollFlags::OUT.bits())).build(), key);
    }

    /// Hands over what was asked for and waits until something completes, the timeout passes or a signal comes; None waits
    /// without end. How many completions there are to be taken; operations asked for meanwhile may add to them.
    ///
    /// # Errors
    /// None that a caller can act on: a failure here is a bug.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.buffers.publish();
        let waits = self.aside.is_empty() && timeout != Some(Duration::ZERO);
        let result = if waits {
            let timespec = timeout.map(Timespec::from);
            let arguments = SubmitArgs::new();
            let arguments = timespec.as_ref().map_or(arguments, |timespec| arguments.timespec(timespec));
            self.ring.submitter().submit_with_args_and_flags(1, &arguments, self.wait_flags)
        } else {
            self.enter_without_waiting()
        };
        match result.map_err(|error| (Errno::from_io_error(&error), error)) {
            // Busy: the queue of completions is full and more of them wait outside, so there is something to take.
            Ok(_) | Err((Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN), _)) => {}
            Err((_, error)) => return Err(error),
        }
        Ok(self.aside.len() + self.ring.completion().len())
    }

    /// The next completion, in the order in which the kernel made them.
    pub fn next_completion(&mut self) -> Option<Completion> {
        if let Some(completion) = self.aside.pop_front() {
            return Some(completion);
        }
        let entry = self.ring.completion().next()?;
        Some(self.taken(&entry))
    }

    /// What was received into a buffer, of which a completion has said how much.
    ///
    /// # Panics
    /// When the buffer is the kernel's, or shorter.
    pub fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        self.buffers.bytes(buffer, length)
    }

    /// Gives a buffer back to be received into, from the next [`submit_and_wait`](Ring::submit_and_wait) on.
    ///
    /// # Panics
    /// When it is the kernel's already.
    pub fn recycle(&mut self, buffer: u16) {
        self.buffers.recycle(buffer);
    }

    fn taken(&mut self, entry: &cqueue::Entry) -> Completion {
        let result = match entry.result() {
            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            count => Ok(count as u32),
        };
        let buffer = cqueue::buffer_select(entry.flags());
        if let Some(buffer) = buffer {
            self.buffers.take(buffer);
        }
        Completion { key: entry.user_data(), result, buffer, more: cqueue::more(entry.flags()) }
    }

    fn push_harmless(&mut self, operation: squeue::Entry, key: u64) {
        // SAFETY: the operation names no memory but the provided buffers, which live until `drop` has made sure that the
        // kernel is done with them.
        #[allow(unsafe_code, reason = "the crate cannot know which operations name memory")]
        unsafe {
            self.push(operation.user_data(key));
        }
    }

    /// # Safety
    /// The memory that the operation names stays until its completion.
    #[allow(unsafe_code, reason = "hands on the contract of the crate's own `push`")]
    unsafe fn push(&mut self, operation: squeue::Entry) {
        // SAFETY: the caller keeps the memory, by this function's own contract.
        while unsafe { self.ring.submission().push(&operation) }.is_err() {
            self.make_room();
        }
    }

    /// Hands over what fills the queue of submissions.
    #[cold]
    fn make_room(&mut self) {
        self.buffers.publish();
        match self.ring.submit().map_err(|error| (Errno::from_io_error(&error), error)) {
            Ok(_) | Err((Some(Errno::INTR), _)) => {}
            // Old kernels take nothing while completions overflow; any may be short of memory for a moment.
            Err((Some(Errno::BUSY | Errno::AGAIN), _)) => {
                self.set_aside();
                std::thread::yield_now();
            }
            Err((_, error)) => panic!("the kernel takes no operations: {error}"),
        }
    }

    /// Takes all completions off the queue, so that there is room in it.
    fn set_aside(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else { return };
            let completion = self.taken(&entry);
            self.aside.push_back(completion);
        }
    }

    /// Hands over, lets the kernel do the work of completions, and returns.
    fn enter_without_waiting(&mut self) -> io::Result<usize> {
        let submissions = self.ring.submission().len() as u32;
        // SAFETY: so many entries are in the queue, and no argument is passed that the kernel would read.
        #[allow(unsafe_code, reason = "the crate's safe calls defer the work of completions when they do not wait")]
        unsafe {
            self.ring.submitter().enter::<()>(submissions, 0, EnterFlags::GETEVENTS.bits(), None)
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Closing the ring would end its operations too, but some time later, in memory that is somebody else's by then.
        let everything = CancelBuilder::any();
        let cancelled = self.ring.submitter().register_sync_cancel(Some(CANCEL_TIMEOUT.into()), everything);
        let is_quiet = match cancelled {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if is_quiet {
            // What was cancelled lets go of its descriptor in here; there is nothing to do about an error any more.
            let _ = self.enter_without_waiting();
        } else {
            // Before Linux 6.0, or something is stuck: better lost than written to.
            self.buffers.leak();
        }
    }
}

/// Whether the kernel works out completions within the wait for them, rather than wherever the thread is.
type IsDeferred = bool;

/// Makes the queues, with as many of the flags as the kernel takes.
fn set_up(submissions: u32, completions: u32) -> io::Result<(IoUring, IsDeferred)> {
    // With the flags that Linux 6.1, 6.0, 5.19 and 5.11 have; what is unknown to a kernel is invalid.
    for level in [3, 2, 1] {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions).setup_submit_all().setup_coop_taskrun();
        if level >= 2 {
            builder.setup_single_issuer();
        }
        if level >= 3 {
            builder.setup_defer_taskrun();
        }
        match builder.build(submissions) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
            result => return Ok((result?, level >= 3)),
        }
    }
    Ok((IoUring::builder().setup_cqsize(completions).build(submissions)?, false))
}

fn fd(descriptor: BorrowedFd<'_>) -> Fd {
    Fd(descriptor.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);
    const SMALL: Size = Size { submissions: 8, completions: 32, buffers: 4, buffer_bytes: 64 };

    /// None, and the reason printed, where there are no rings.
    fn ring(size: Size) -> Option<Ring> {
        match probe() {
            Ok(features) if features.accept_multishot && features.receive_multishot => {
                Some(Ring::new(size).expect("what was probed works"))
            }
            Ok(features) => {
                println!("skipped: {features:?}");
                None
            }
            Err(reason) => {
                println!("skipped: {reason}");
                None
            }
        }
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        client.set_read_timeout(Some(DEADLINE)).expect("a time above zero");
        (client, listener.accept().expect("one waits").0)
    }

    fn next(ring: &mut Ring) -> Completion {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(completion) = ring.next_completion() {
                return completion;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing completed");
            ring.submit_and_wait(Some(left)).expect("a wait");
        }
    }

    fn errno(completion: &Completion) -> Option<Errno> {
        completion.result.as_ref().err().and_then(Errno::from_io_error)
    }

    #[test]
    fn a_connection_is_accepted_and_its_bytes_come_back() {
        let Some(mut ring) = ring(SMALL) else { return };
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        ring.accept_multishot(listener.as_fd(), 1);
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        client.set_read_timeout(Some(DEADLINE)).expect("a time above zero");
        let accepted = next(&mut ring);
        assert_eq!((accepted.key, accepted.more), (1, true));
        // SAFETY: the key is that of the accept.
        #[allow(unsafe_code, reason = "the test is the engine here")]
        let socket = unsafe { accepted.into_connection() }.expect("a connection");
        ring.receive_multishot(socket.as_fd(), 2);
        for round in 0..20_u8 {
            client.write_all(&[round; 64]).expect("sent");
            let received = next(&mut ring);
            assert!(received.key == 2 && received.more, "{received:?}");
            let (buffer, count) = (received.buffer.expect("bytes lie in one"), received.result.expect("bytes"));
            let bytes: *const [u8] = ring.bytes(buffer, count as usize);
            // SAFETY: the buffer is recycled only below, when the send has completed.
            #[allow(unsafe_code, reason = "the test is the engine here")]
            unsafe {
                ring.send(socket.as_fd(), bytes, 3);
            }
            let sent = next(&mut ring);
            assert!(sent.key == 3 && !sent.more && sent.buffer.is_none(), "{sent:?}");
            assert_eq!(sent.result.expect("sent"), count);
            ring.recycle(buffer);
            let mut answer = [0; 64];
            client.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, [round; 64]);
        }
        client.shutdown(Shutdown::Write).expect("connected");
        let end = next(&mut ring);
        assert!(end.key == 2 && !end.more && matches!(end.result, Ok(0)), "{end:?}");
    }

    #[test]
    fn without_a_buffer_a_receive_ends_and_with_one_it_can_be_asked_for_again() {
        let Some(mut ring) = ring(SMALL) else { return };
        let (mut client, server) = pair();
        let sent: Vec<u8> = (0..=255).cycle().take(64 * 6).collect();
        client.write_all(&sent).expect("sent");
        ring.receive_multishot(server.as_fd(), 1);
        let (mut received, mut held) = (Vec::new(), Vec::new());
        let end = loop {
            let completion = next(&mut ring);
            let Some(buffer) = completion.buffer else { break completion };
            received.extend_from_slice(ring.bytes(buffer, completion.result.expect("bytes") as usize));
            held.push(buffer);
        };
        assert_eq!((errno(&end), end.more), (Some(Errno::NOBUFS), false));
        held.sort_unstable();
        assert_eq!(held, [0, 1, 2, 3], "no buffer comes twice");
        held.into_iter().for_each(|buffer| ring.recycle(buffer));
        ring.receive_multishot(server.as_fd(), 1);
        while received.len() < sent.len() {
            let completion = next(&mut ring);
            let buffer = completion.buffer.expect("buffers are enough now");
            received.extend_from_slice(ring.bytes(buffer, completion.result.expect("bytes") as usize));
            ring.recycle(buffer);
        }
        assert_eq!(received, sent);
    }

    #[test]
    #[should_panic(expected = "one-owner-per-buffer")]
    fn a_buffer_is_recycled_once() {
        let mut buffers = Buffers::new(4, 64).expect("memory");
        buffers.take(2);
        buffers.recycle(2);
        buffers.recycle(2);
    }

    #[test]
    fn a_cancelled_receive_completes_for_the_last_time() {
        let Some(mut ring) = ring(SMALL) else { return };
        let (_client, server) = pair();
        ring.receive_multishot(server.as_fd(), 1);
        assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)).expect("a wait"), 0);
        ring.cancel(1, 2);
        let mut both = [next(&mut ring), next(&mut ring)];
        both.sort_by_key(|completion| completion.key);
        assert_eq!((both[0].key, errno(&both[0]), both[0].more), (1, Some(Errno::CANCELED), false));
        assert!(both[1].key == 2 && both[1].result.is_ok(), "{both:?}");
        ring.cancel(1, 3);
        let none = next(&mut ring);
        assert_eq!((none.key, errno(&none)), (3, Some(Errno::NOENT)));
    }

    #[test]
    fn a_wait_ends_when_its_time_is_up() {
        let Some(mut ring) = ring(SMALL) else { return };
        let begin = Instant::now();
        assert_eq!(ring.submit_and_wait(Some(Duration::from_millis(20))).expect("a wait"), 0);
        assert!(begin.elapsed() >= Duration::from_millis(20));
        assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)).expect("a look"), 0);
    }

    #[test]
    fn a_polled_eventfd_completes_each_time_that_it_is_written() {
        let Some(mut ring) = ring(SMALL) else { return };
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("a descriptor");
        ring.poll_multishot(wake.as_fd(), 7);
        for _ in 0..3 {
            assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)).expect("a look"), 0);
            rustix::io::write(&wake, &1_u64.to_ne_bytes()).expect("room in the counter");
            let woken = next(&mut ring);
            assert!(woken.key == 7 && woken.more && woken.result.is_ok(), "{woken:?}");
        }
    }

    #[test]
    fn more_operations_than_both_queues_hold_all_complete() {
        let Some(mut ring) = ring(SMALL) else { return };
        // No such operation: each cancellation fails at once, with a completion of its own.
        for key in 0..500 {
            ring.cancel(u64::MAX, key);
        }
        let keys: Vec<u64> = (0..500).map(|_| next(&mut ring).key).collect();
        assert_eq!(keys, (0..500).collect::<Vec<u64>>());
        assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)).expect("a look"), 0);
    }

    #[test]
    fn completions_set_aside_keep_their_order() {
        let Some(mut ring) = ring(SMALL) else { return };
        ring.cancel(u64::MAX, 0);
        ring.submit_and_wait(None).expect("a wait");
        ring.set_aside();
        ring.cancel(u64::MAX, 1);
        assert_eq!(ring.submit_and_wait(None).expect("one waits already"), 2);
        assert_eq!([next(&mut ring).key, next(&mut ring).key], [0, 1]);
    }

    #[test]
    fn nonblocking_sockets_are_waited_for_all_the_same() {
        let filling = vec![1; 1 << 20];
        let Some(mut ring) = ring(SMALL) else { return };
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        listener.set_nonblocking(true).expect("a socket");
        let (mut client, mut server) = pair();
        server.set_nonblocking(true).expect("a socket");
        while server.write(&filling).is_ok() {}
        ring.accept_multishot(listener.as_fd(), 1);
        ring.receive_multishot(server.as_fd(), 2);
        // SAFETY: `filling` is made before the ring, so that it is dropped after it.
        #[allow(unsafe_code, reason = "the test is the engine here")]
        unsafe {
            ring.send(server.as_fd(), filling.as_slice(), 3);
        }
        assert_eq!(ring.submit_and_wait(Some(Duration::from_millis(5))).expect("a wait"), 0);
        client.write_all(&[1; 3]).expect("sent");
        assert!(matches!(next(&mut ring), Completion { key: 2, result: Ok(3), .. }));
        let _second = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let accepted = next(&mut ring);
        // SAFETY: the key is that of the accept.
        #[allow(unsafe_code, reason = "the test is the engine here")]
        unsafe { accepted.into_connection() }.expect("a connection");
        std::thread::spawn(move || while client.read(&mut [0; 1 << 16]).is_ok_and(|count| count > 0) {});
        let sent = next(&mut ring);
        assert!(sent.key == 3 && sent.result.as_ref().is_ok_and(|count| *count > 0), "{sent:?}");
    }

    #[test]
    fn dropping_a_ring_lets_go_of_sockets() {
        let Some(mut ring) = ring(SMALL) else { return };
        let (mut client, server) = pair();
        ring.receive_multishot(server.as_fd(), 1);
        ring.submit_and_wait(Some(Duration::ZERO)).expect("a look");
        drop(ring);
        drop(server);
        assert_eq!(client.read(&mut [0; 8]).expect("the FIN"), 0);
    }
}
