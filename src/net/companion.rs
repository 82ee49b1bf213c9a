//! A program that is started beside this one: on processors of its own, and never longer than we are.
//!
//! Unlike `children.rs` this starts another program, and may do so with several threads running.
//!
//! Invariants: *dies-with-parent*: a companion does not outlive the thread that started it, even if that is killed by
//! SIGKILL; dropped, it is killed and collected. *apart*: it has a process group of its own, so that what a terminal
//! sends to ours reaches it only through us.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};
use rustix::thread::{CpuSet, sched_setaffinity};

/// A program that runs beside ours.
pub struct Companion {
    child: Child,
    pidfd: OwnedFd,
}

impl Companion {
    /// Starts `command` on these processors; on all that we may use if none are named.
    ///
    /// # Errors
    /// It cannot be started, or not there.
    pub fn start(command: &mut Command, processors: &[usize]) -> io::Result<Companion> {
        let mut set = CpuSet::new();
        processors.iter().for_each(|&processor| set.set(processor));
        let somewhere = !processors.is_empty();
        let parent = getpid();
        let prepare = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above: then no signal will come.
            if getppid() != Some(parent) {
                return Err(Errno::SRCH.into());
            }
            if somewhere { Ok(sched_setaffinity(None, &set)?) } else { Ok(()) }
        };
        #[allow(
            unsafe_code,
            reason = "what runs between fork and exec is the caller's to keep within what is allowed there"
        )]
        // SAFETY: `prepare` makes three system calls and touches nothing but its own copies: no lock, no memory that is
        // allocated, whatever other threads held at the fork. An `Errno` becomes an `io::Error` without allocation.
        unsafe {
            command.pre_exec(prepare);
        }
        let mut child = command.process_group(0).spawn()?;
        match pidfd_open(pid_of(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Companion { child, pidfd }),
            Err(reason) => {
                // It could not be waited for with a limit.
                child.kill()?;
                child.wait()?;
                Err(reason.into())
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it SIGTERM; one that has ended needs none.
    ///
    /// # Errors
    /// The system refuses.
    pub fn terminate(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(reason) => Err(reason.into()),
        }
    }

    /// Waits for its end; none if it goes on after `patience`, or if a signal came meanwhile.
    ///
    /// # Errors
    /// The system refuses.
    pub fn wait_for(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        let ended = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout));
        match ended {
            Ok(0) | Err(Errno::INTR) => Ok(None),
            Ok(_) => Ok(Some(self.child.wait()?)),
            Err(reason) => Err(reason.into()),
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("the kernel gives positive process numbers")
}

impl fmt::Debug for Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Companion").field(&self.pid()).finish()
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        // Both fail only for one that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::os;

    #[test]
    fn a_companion_runs_where_it_is_told_in_a_group_of_its_own() {
        let processors = os::processors();
        let last = *processors.last().expect("this runs somewhere");
        let script = "grep Cpus_allowed_list /proc/self/status; ps -o pgid= -p $$; echo $$";
        let (mut reader, writer) = io::pipe().expect("there is room for a pipe");
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(writer);
        let mut companion = Companion::start(&mut command, &[last]).expect("sh is here");
        drop(command);
        let status = companion.wait_for(Duration::from_secs(30)).expect("it can be waited for").expect("it ends");
        assert!(status.success());
        let said = io::read_to_string(&mut reader).expect("it wrote text");
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        assert_eq!(lines[0], format!("Cpus_allowed_list:\t{last}"));
        assert_eq!(lines[1], lines[2], "it leads its group");
        companion.terminate().expect("one that has ended needs no signal");
    }

    #[test]
    fn patience_ends_and_a_companion_that_is_dropped_is_gone() {
        let mut companion = Companion::start(Command::new("sleep").arg("1000"), &[]).expect("sleep is here");
        assert_eq!(companion.wait_for(Duration::from_millis(5)).expect("it can be waited for"), None);
        let path = format!("/proc/{}", companion.pid());
        assert!(std::fs::exists(&path).expect("/proc can be read"));
        drop(companion);
        assert!(!std::fs::exists(&path).expect("/proc can be read"), "it is collected, too");

        let refused = Companion::start(&mut Command::new("sleep"), &[CpuSet::MAX_CPU - 1]);
        assert!(refused.is_err(), "there is no such processor");
    }
}
