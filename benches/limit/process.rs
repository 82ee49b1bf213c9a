//! Children: started on a CPU of their own, never outliving their parent, stopped within a bound.
//!
//! A child is this program first (`launch`), which asks the kernel to be killed with its parent,
//! moves to its CPU and only then becomes the program wanted. So even a parent that is killed
//! leaves no server behind, and no code runs between `fork` and `exec`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use maitred::net::os;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// A server that printed `ready`. Dropped, it is killed.
pub(crate) struct Server {
    child: Running,
    pub(crate) address: SocketAddrV4,
}

impl Server {
    /// Starts a server and reads its `listening` and `ready` lines.
    pub(crate) fn start(command: &[OsString], cpu: Option<usize>) -> io::Result<Self> {
        let mut child = Running::start(command, cpu)?;
        let mut text = String::new();
        let mut ready = |text: &str| text.lines().any(|line| line == "ready") && text.ends_with('\n');
        child.read_until(&mut text, START_TIMEOUT, &mut ready)?;
        if !ready(&text) {
            return Err(child.failure("ended before it was ready"));
        }
        // `listening ADDRESS` or `listening SERVICE tcp://ADDRESS`.
        let address = (text.lines().find_map(|line| line.strip_prefix("listening ")))
            .and_then(|line| line.split_whitespace().last())
            .map(|last| last.trim_start_matches("tcp://"))
            .and_then(|address| address.parse().ok());
        match address {
            Some(address) => Ok(Self { child, address }),
            None => Err(child.failure(&format!("printed no address, but {text:?}"))),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.child.id()
    }

    /// What went wrong, with what the server said of it.
    pub(crate) fn failure(&mut self, what: &str) -> io::Error {
        self.child.failure(what)
    }

    /// Asks it to end, and insists when it does not.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        let child = &mut self.child.child;
        drop(child.stdin.take());
        if let Some(pid) = Pid::from_raw(child.id() as i32) {
            // It may have ended by itself when stdin closed.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            sleep(Duration::from_millis(2));
        }
        eprintln!("limit: a server did not end on SIGTERM and was killed");
        Ok(())
    }
}

/// A child with its stderr kept in memory. Dropped, it is killed and reaped.
struct Running {
    child: Child,
    name: String,
    said: File,
}

impl Running {
    fn start(command: &[OsString], cpu: Option<usize>) -> io::Result<Self> {
        // Not a pipe: nobody reads it while the child runs, and a full pipe would stop the child.
        let said = File::from(memfd_create("stderr", MemfdFlags::CLOEXEC)?);
        let mut launch = Command::new(std::env::current_exe()?);
        launch.args(["launch", "--parent", &std::process::id().to_string()]);
        if let Some(cpu) = cpu {
            launch.args(["--cpu", &cpu.to_string()]);
        }
        let child = launch
            .arg("--")
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said.try_clone()?)
            .spawn()?;
        let name = command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        Ok(Self { child, name, said })
    }

    /// Reads stdout until `enough`, end of file, or an error at the time limit.
    fn read_until(
        &mut self,
        text: &mut String,
        limit: Duration,
        enough: &mut dyn FnMut(&str) -> bool,
    ) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 4096];
        while !enough(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(stdout) = self.child.stdout.as_mut() else {
                return Ok(());
            };
            let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
            let mut polled = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
            if poll(&mut polled, Some(&timeout))? == 0 {
                return Err(self.failure(&format!("was not done after {limit:?}")));
            }
            match stdout.read(&mut buffer)? {
                0 => return Ok(()),
                read => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
            }
        }
        Ok(())
    }

    fn failure(&mut self, what: &str) -> io::Error {
        let mut said = String::new();
        // The offset is shared with the child, which has moved it to the end.
        let _ = self.said.rewind().and_then(|()| self.said.read_to_string(&mut said));
        // A daemon that was ended says its summary last, and before that why.
        let tail: Vec<&str> = said.lines().rev().take(12).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join(" | ");
        io::Error::other(format!("`{}` {what}; stderr: {tail}", self.name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side of [`Running::start`]; returns only to say why it could not.
pub(crate) fn become_program(parent: i32, cpu: Option<usize>, command: &[OsString]) -> io::Error {
    let prepare = || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above: then no signal will come.
        if getppid().map(Pid::as_raw_pid) != Some(parent) {
            return Err(io::Error::other("the parent is gone"));
        }
        pin(cpu)
    };
    match prepare() {
        Ok(()) => {
            let error = Command::new(&command[0]).args(&command[1..]).exec();
            io::Error::new(error.kind(), format!("{}: {error}", command[0].display()))
        }
        Err(error) => error,
    }
}

/// Moves this thread, and those it will start, to one CPU.
pub(crate) fn pin(cpu: Option<usize>) -> io::Result<()> {
    match cpu {
        Some(cpu) if os::processors().contains(&cpu) => os::pin_to(cpu),
        Some(cpu) => Err(io::Error::other(format!("cannot run on CPU {cpu}"))),
        None => Ok(()),
    }
}

/// Two CPUs that this process may use.
pub(crate) fn two_cpus() -> io::Result<[usize; 2]> {
    match os::processors().as_slice() {
        [first, second, ..] => Ok([*first, *second]),
        _ => Err(io::Error::other("the server and the load need a CPU each")),
    }
}
