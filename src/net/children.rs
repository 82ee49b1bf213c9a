//! Child processes: forked, signalled, waited for; and signals by descriptor.
//!
//! What a child does, how many there are and what is counted of them is the engine's. Nothing here starts a program.
//!
//! Invariants:
//! - *one-thread*: only a process with one thread forks. A child has a copy of the forking thread alone: a lock that
//!   another thread held at that moment (the allocator's, the log's) would stay locked in it for ever.
//! - *dies-with-parent*: a child does not outlive the thread that forked it, even if that is killed by SIGKILL.
//! - *never-another*: a signal reaches the child that it is for, or nobody: it goes by pidfd, and a pid is reused only
//!   after [`Child::reap`] or [`Child::wait`].
//!
//! Read next: `shared.rs` (memory that parent and children share), `engine/scoreboard.rs` (what they write there).

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{self, SigHandler, SigSet, SigmaskHow};
use nix::sys::signalfd::{self, SfdFlags};
use nix::unistd::ForkResult;
use rustix::event::EventfdFlags;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, waitid,
};

pub use rustix::process::Signal;

use super::retry;

/// How often the threads are counted before a fork is refused, and the pause in between: a thread that was joined is on
/// the kernel's list for a moment longer.
const LOOKS: usize = 50;
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_micros(100);

/// The code of a child that ended before it returned from [`fork`]: its parent had gone, or the kernel refused it
/// something.
pub const STILLBORN: i32 = 71;

/// Which of the two returns from [`fork`] this is.
#[must_use]
pub enum Fork {
    /// In the process that forked.
    Parent(Child),
    /// In the new one. It has the signal mask empty and default dispositions, except that what was ignored stays
    /// ignored, and that SIGINT, SIGTERM, SIGHUP and SIGUSR1 are: terminals, `timeout` and service managers send them to a
    /// whole group, and it is the parent's to say what becomes of its children. It ends by [`exit_child`].
    Child,
}

/// A child process, in its parent's hands.
///
/// To be ended and collected by [`wait`](Child::wait) or [`reap`](Child::reap). One that is dropped before that is
/// killed and waited for, so that no zombie stays behind; a copy that a later child has inherited does nothing.
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    /// Who forked it; nobody else may wait for it.
    parent: Pid,
    /// How it ended, once collected. From then on the pid may be another's.
    ended: Option<Ended>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Makes a child process, a copy of this one. Both return.
///
/// What standard output or a log has buffered is copied, too; a child that ends by [`exit_child`] never writes it.
///
/// # Errors
/// When this process has several threads (the message names their number), or the kernel has no room for another
/// process or descriptor. There is no child then.
pub fn fork() -> io::Result<Fork> {
    only_one_thread()?;
    remember_ended_children()?;
    // Held back in its place, so that the pidfd of a child that runs already is not refused for want of descriptors.
    let reserve = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
    let parent = getpid();
    // Nothing that comes now may run a handler of the parent in the child: it would tell the parent of it.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: INVARIANT one-thread, just checked: nobody holds a lock that the child could ever wait for.
    #[allow(unsafe_code, reason = "a fork is safe in a process with one thread only")]
    let forked = unsafe { nix::unistd::fork() };
    match forked {
        Ok(ForkResult::Child) => {
            begin_childhood(parent).unwrap_or_else(|_| exit_child(STILLBORN));
            Ok(Fork::Child)
        }
        Ok(ForkResult::Parent { child }) => {
            drop(reserve);
            mask.thread_set_mask()?;
            let pid = Pid::from_raw(child.as_raw()).expect("a child has a pid");
            adopt(pid, parent).map(Fork::Parent)
        }
        Err(reason) => {
            mask.thread_set_mask()?;
            Err(reason.into())
        }
    }
}

/// Ends a child at once: no exit handler and no destructor of the parent's runs in it, nothing buffered is written.
pub fn exit_child(code: i32) -> ! {
    // SAFETY: it takes any number and does not return.
    #[allow(unsafe_code, reason = "`std` has only the exit that runs the parent's handlers")]
    unsafe {
        libc::_exit(code)
    }
}

/// Closes every descriptor but these and the standard three (whatever was opened next would else become the standard
/// error that a panic is written to). For a child that wants nothing more of what its parent had open.
///
/// Whoever owns a descriptor that is closed here must be forgotten, not dropped: dropped, it would close whatever has
/// its number by then. A child that ends by [`exit_child`] drops nothing of its parent's.
///
/// # Errors
/// When the kernel does not have the call (Linux 5.9).
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).chain(0..=2).collect();
    kept.sort_unstable();
    let ends = kept.iter().skip(1).map(|&next| next - 1).chain([RawFd::MAX]);
    for (&before, last) in kept.iter().zip(ends) {
        if before < last {
            close_range(before + 1, last)?;
        }
    }
    Ok(())
}

impl Child {
    /// Its number, for people. A signal goes by [`kill`](Child::kill).
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().cast_unsigned()
    }

    /// Sends it a signal. One that has ended gets none, which is no error.
    ///
    /// # Errors
    /// None that a caller can act on.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Collects it if it has ended, and says how; None while it runs. Does not wait. Once ended, it says so again.
    ///
    /// # Errors
    /// When it is no child of this process: somebody else has collected it.
    pub fn reap(&mut self) -> io::Result<Option<Ended>> {
        self.collect(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// As for [`reap`](Child::reap).
    pub fn wait(&mut self) -> io::Result<Ended> {
        self.collect(WaitIdOptions::EXITED).map(|ended| ended.expect("that waits for the end"))
    }

    fn collect(&mut self, options: WaitIdOptions) -> io::Result<Option<Ended>> {
        if self.ended.is_none() {
            let status = retry(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), options))?;
            self.ended = status.map(Ended::from);
        }
        Ok(self.ended)
    }
}

/// Readable once the child has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() && self.parent == getpid() {
            let _ = self.kill(Signal::KILL);
            // Fails only if somebody else has collected it, and then there is no zombie either.
            let _ = self.wait();
        }
    }
}

impl From<WaitIdStatus> for Ended {
    fn from(status: WaitIdStatus) -> Ended {
        let code = status.exit_status().map(Ended::Code);
        code.or_else(|| status.terminating_signal().map(Ended::Signal)).expect("it ended in one way or the other")
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Ended::Code(code) => write!(out, "ended with code {code}"),
            Ended::Signal(number) => match signal::Signal::try_from(number) {
                Ok(signal) => write!(out, "was ended by {signal}"),
                Err(_) => write!(out, "was ended by signal {number}"),
            },
        }
    }
}

/// Signals as a descriptor to poll, instead of handlers that run at any time.
///
/// They are blocked in the thread that made it, and stay so when it is dropped: one that came meanwhile would else end
/// the process. A descriptor inherited from the parent tells of the parent's signals to whoever polls it through an
/// inherited poller; a child makes its own, as soon as [`fork`] has returned.
pub struct SignalFd(signalfd::SignalFd);

impl SignalFd {
    /// Blocks these signals in the calling thread, from now on, and receives them. In a process with other threads they
    /// must be blocked in those, too.
    ///
    /// # Errors
    /// When the process may open no more descriptors.
    pub fn new(signals: &[Signal]) -> io::Result<SignalFd> {
        let mask: SigSet = signals.iter().map(|&signal| named(signal)).collect();
        mask.thread_block()?;
        Ok(SignalFd(signalfd::SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The next signal that has come, if there is one. Several of a kind may come as one.
    ///
    /// # Errors
    /// None that a caller can act on.
    pub fn read(&self) -> io::Result<Option<Signal>> {
        let info = self.0.read_signal()?;
        Ok(info.and_then(|info| Signal::from_named_raw(info.ssi_signo.cast_signed())))
    }
}

/// Readable while a signal waits.
impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn named(signal: Signal) -> signal::Signal {
    signal::Signal::try_from(signal.as_raw()).expect("both crates name the same signals")
}

/// INVARIANT one-thread.
fn only_one_thread() -> io::Result<()> {
    let mut threads = fs::read_dir("/proc/self/task")?.count();
    for _ in 1..LOOKS {
        if threads == 1 {
            return Ok(());
        }
        std::thread::sleep(PAUSE_BETWEEN_LOOKS);
        threads = fs::read_dir("/proc/self/task")?.count();
    }
    match threads {
        1 => Ok(()),
        _ => Err(io::Error::other(format!(
            "this process has {threads} threads, and only one with a single one may fork"
        ))),
    }
}

/// A process that ignores SIGCHLD, as it may by inheritance, has its children forgotten as they end: there would be no
/// waiting for them, and their pids would be others' at once.
fn remember_ended_children() -> io::Result<()> {
    let action = disposition(signal::Signal::SIGCHLD)?;
    if action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0 {
        dispose(signal::Signal::SIGCHLD, SigHandler::SigDfl)?;
    }
    Ok(())
}

/// The first that a child does, with all signals blocked.
fn begin_childhood(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // INVARIANT dies-with-parent: one that died before that call is not noticed by the kernel.
    if getppid() != Some(parent) {
        exit_child(STILLBORN);
    }
    for signal in signal::Signal::iterator() {
        match signal {
            // What std has set up to tell of a stack that is exhausted serves a child as well.
            signal::Signal::SIGSEGV | signal::Signal::SIGBUS => {}
            signal::Signal::SIGKILL | signal::Signal::SIGSTOP => {}
            signal::Signal::SIGINT | signal::Signal::SIGTERM | signal::Signal::SIGHUP | signal::Signal::SIGUSR1 => {
                dispose(signal, SigHandler::SigIgn)?;
            }
            _ if disposition(signal)?.sa_sigaction == libc::SIG_IGN => {}
            _ => dispose(signal, SigHandler::SigDfl)?,
        }
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

/// A handle on a child that was just forked.
fn adopt(pid: Pid, parent: Pid) -> io::Result<Child> {
    // It was not waited for, so that the pid is its own, whether it still runs or not.
    pidfd_open(pid, PidfdFlags::empty()).map(|pidfd| Child { pid, pidfd, parent, ended: None }).map_err(|reason| {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = retry(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
        reason.into()
    })
}

fn disposition(signal: signal::Signal) -> io::Result<libc::sigaction> {
    let mut action = std::mem::MaybeUninit::uninit();
    // SAFETY: with no new action it only writes the present one, to memory of that type.
    #[allow(unsafe_code, reason = "`nix` has no call that only asks, and setting SIGCHLD drops one that waits")]
    let asked = unsafe { libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) };
    nix::errno::Errno::result(asked)?;
    // SAFETY: the call has succeeded, so that it has written all of it.
    #[allow(unsafe_code, reason = "as above")]
    let action = unsafe { action.assume_init() };
    Ok(action)
}

/// Sets default or ignore, never a handler.
fn dispose(signal: signal::Signal, how: SigHandler) -> io::Result<()> {
    assert!(matches!(how, SigHandler::SigDfl | SigHandler::SigIgn));
    // SAFETY: unsafe for the sake of handlers, which run at any time; there is none.
    #[allow(unsafe_code, reason = "the call takes handlers as well")]
    unsafe {
        signal::signal(signal, how)?;
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: touches no memory. Whose descriptors they are is the promise of who calls `close_all_but`.
    #[allow(unsafe_code, reason = "neither `rustix` nor `nix` has the call")]
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    nix::errno::Errno::result(closed)?;
    Ok(())
}
