//! Waiting for one socket, with a way for others to end the wait: a thread that blocks on behalf of one connection must
//! still hear of a drain.
//!
//! The signal is blocked in every thread that waits here and let in by `ppoll` only while it waits, so that a nudge is
//! never lost between a look at the orders and the wait, and never interrupts anything else. It is `SIGURG`, which does
//! nothing to a process that has not asked for it.
//!
//! Whoever is nudged looks at everything again; a nudge too many does no harm. Read next: `engine/blocking.rs`.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::time::TimeSpec;

/// What ends a wait from outside.
const NUDGE: Signal = Signal::SIGURG;

thread_local! {
    /// What stays blocked while this thread waits: all that is blocked anyway, but the nudge. Signals that the daemon reads
    /// from a descriptor must not slip in here.
    static WHILE_WAITING: SigSet = {
        let mut mask = SigSet::thread_get_mask().expect("a thread has a mask");
        mask.remove(NUDGE);
        mask
    };
}

/// A thread that can be nudged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleeper(Pthread);

/// What a wait found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// There is something to read, or the peer's FIN; told again as long as it is there.
    pub readable: bool,
    /// Output is taken again.
    pub writable: bool,
    /// Both directions have ended, or the connection is broken.
    pub read_on: bool,
    /// Nothing of the kind: the time is up.
    pub timed_out: bool,
}

/// What to wait for, beside a nudge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Input, or its end.
    pub input: bool,
    /// Room for output.
    pub output: bool,
}

/// Makes the calling thread, and those that it starts from now on, ones that can be nudged.
///
/// # Errors
/// None that a caller can act on.
pub fn listen_for_nudges() -> io::Result<()> {
    extern "C" fn do_nothing(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which is safe in the middle of anything.
    #[allow(unsafe_code, reason = "a handler may run in the middle of anything")]
    unsafe {
        sigaction(NUDGE, &action)?;
    }
    SigSet::from(NUDGE).thread_block()?;
    Ok(())
}

impl Sleeper {
    /// The calling thread.
    pub fn current() -> Sleeper {
        Sleeper(pthread_self())
    }

    /// Ends the present or next wait of that thread.
    ///
    /// The thread must not have ended: whoever keeps a `Sleeper` for others takes it away, under the lock by which they
    /// find it, before it returns.
    pub fn nudge(self) {
        let result = pthread_kill(self.0, NUDGE);
        debug_assert!(result.is_ok(), "a thread that lives can be nudged: {result:?}");
    }
}

/// Waits until the socket is ready, the time is up or somebody nudges. Without a socket or an interest only the latter two.
pub fn wait(socket: Option<BorrowedFd<'_>>, interest: Interest, timeout: Option<Duration>) -> Woken {
    let mut one = socket.map(|socket| polled(socket, interest));
    let [woken] = wait_in_all(one.as_mut_slice(), timeout);
    woken
}

/// The same for two sockets, of which each that waits for nothing is left alone; what each of them is ready for.
pub fn wait_for_both(sockets: [(BorrowedFd<'_>, Interest); 2], timeout: Option<Duration>) -> [Woken; 2] {
    let waits = |interest: Interest| interest.input || interest.output;
    let [first, second] = sockets;
    match (waits(first.1), waits(second.1)) {
        (true, true) => wait_in_all(&mut sockets.map(|(socket, interest)| polled(socket, interest)), timeout),
        (true, false) => {
            let woken = wait(Some(first.0), first.1, timeout);
            [woken, Woken { timed_out: woken.timed_out, ..Woken::default() }]
        }
        (false, is_second) => {
            let woken = wait(is_second.then_some(second.0), second.1, timeout);
            [Woken { timed_out: woken.timed_out, ..Woken::default() }, woken]
        }
    }
}

fn polled(socket: BorrowedFd<'_>, interest: Interest) -> PollFd<'_> {
    let mut flags = PollFlags::empty();
    if interest.input {
        flags |= PollFlags::POLLIN;
    }
    if interest.output {
        flags |= PollFlags::POLLOUT;
    }
    PollFd::new(socket, flags)
}

fn wait_in_all<const MOST: usize>(polled: &mut [PollFd<'_>], timeout: Option<Duration>) -> [Woken; MOST] {
    match ppoll(polled, timeout.map(TimeSpec::from), Some(WHILE_WAITING.with(|mask| *mask))) {
        Ok(0) => [Woken { timed_out: true, ..Woken::default() }; MOST],
        Ok(_) => std::array::from_fn(|at| {
            let seen = polled.get(at).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
            let broken = seen.intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
            Woken {
                readable: seen.contains(PollFlags::POLLIN),
                writable: seen.contains(PollFlags::POLLOUT) || broken,
                read_on: broken,
                timed_out: false,
            }
        }),
        Err(Errno::EINTR) => [Woken::default(); MOST],
        Err(error) => panic!("waiting for a socket cannot fail: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    const INPUT: Interest = Interest { input: true, output: false };
    const LONG: Option<Duration> = Some(Duration::from_secs(60));

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("somebody listens");
        (near, listener.accept().expect("somebody came").0)
    }

    #[test]
    fn a_socket_that_is_ready_ends_the_wait() {
        let (mut near, far) = pair();
        let soon = Some(Duration::from_millis(1));
        assert!(wait(Some(far.as_fd()), INPUT, soon).timed_out);
        near.write_all(b"x").expect("it is open");
        let woken = wait(Some(far.as_fd()), Interest { input: true, output: true }, LONG);
        assert!(woken.writable);
        assert!(wait(Some(far.as_fd()), INPUT, LONG).readable);
        near.shutdown(Shutdown::Write).expect("it is open");
        assert!(wait(Some(far.as_fd()), INPUT, LONG).readable);
    }

    #[test]
    fn of_two_sockets_each_says_what_it_is_ready_for() {
        let ((mut near, far), (_other, idle)) = (pair(), pair());
        let (far, idle) = (far.as_fd(), idle.as_fd());
        let (output, none) = (Interest { input: false, output: true }, Interest { input: false, output: false });
        let soon = Some(Duration::from_millis(1));
        assert!(wait_for_both([(far, INPUT), (idle, INPUT)], soon).iter().all(|woken| woken.timed_out));
        let [first, second] = wait_for_both([(far, INPUT), (idle, output)], LONG);
        assert_eq!((first, second), (Woken::default(), Woken { writable: true, ..Woken::default() }));
        near.write_all(b"x").expect("it is open");
        let [first, second] = wait_for_both([(far, INPUT), (idle, INPUT)], LONG);
        assert_eq!((first, second), (Woken { readable: true, ..Woken::default() }, Woken::default()));
        // Who waits for nothing is not looked at.
        let [first, second] = wait_for_both([(far, none), (idle, INPUT)], soon);
        assert!(first.timed_out && second.timed_out && !first.readable);
        let [first, second] = wait_for_both([(idle, INPUT), (far, none)], soon);
        assert!(first.timed_out && second.timed_out && !second.readable);
    }

    #[test]
    fn a_nudge_ends_the_present_wait_or_the_next() {
        let (_near, far) = pair();
        let (sender, sleepers) = channel();
        let thread = thread::spawn(move || {
            listen_for_nudges().expect("there are signals");
            sender.send(Sleeper::current()).expect("somebody listens");
            for _ in 0..2 {
                assert_eq!(wait(Some(far.as_fd()), INPUT, LONG), Woken::default());
            }
            assert_eq!(wait(None, INPUT, LONG), Woken::default());
        });
        let sleeper = sleepers.recv().expect("it is there");
        while !thread.is_finished() {
            // It has not ended: it waits to be joined.
            sleeper.nudge();
            thread::yield_now();
        }
        thread.join().expect("every wait ended");
    }
}
