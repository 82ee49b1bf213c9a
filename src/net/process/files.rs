//! The files of `/proc` that say what a process and its threads use, read and parsed.
//!
//! Nothing here remembers anything. A process may end between any two reads: that is an error for the caller to take as
//! "gone". Odd content is an error too (`InvalidData`) or a `None`, and never a panic.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};

use nix::time::ClockId;
use rustix::io::Errno;

/// The unit of times in `stat` is fixed at 100 per second, whatever the kernel's own tick.
pub(super) const NS_PER_STEP: u64 = 10_000_000;

/// SIGCHLD as a bit of the masks in `status`.
const SIGCHLD_BIT: u64 = 1 << (17 - 1);

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Ended, but not yet collected by its parent. Said of a process when its first thread has ended, too.
    pub(super) is_zombie: bool,
    pub(super) parent: u32,
    /// CPU time of the children that ended and were waited for, and of theirs. Counted in nanoseconds and shown as two
    /// numbers in steps of 10 ms: up to 20 ms too little, however many children it sums up.
    pub(super) collected_ns: u64,
    pub(super) threads: u64,
    /// When it started; with the pid this names one process for ever.
    pub(super) start: u64,
}

impl Stat {
    /// The name is between the first parenthesis and the last, and may be anything: spaces, parentheses, line ends.
    pub(super) fn parse(text: &[u8]) -> Option<Stat> {
        let name_end = text.iter().rposition(|&byte| byte == b')')?;
        let fields: Vec<&str> = std::str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace().collect();
        // The manual counts fields from 1, and the state, which is the first here, is number 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
            parent: u32::try_from(number(4)?).ok()?,
            collected_ns: number(16)?.saturating_add(number(17)?).saturating_mul(NS_PER_STEP),
            threads: number(20)?,
            start: number(22)?,
        })
    }
}

/// What `schedstat` says of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// Time on a processor; a thread that runs is brought up to date at each tick and switch.
    pub(super) run_ns: u64,
    /// Time ready to run without a processor.
    pub(super) delay_ns: u64,
    /// How often it was given a processor.
    pub(super) slices: u64,
}

impl Run {
    pub(super) fn parse(text: &[u8]) -> Option<Run> {
        let mut fields = std::str::from_utf8(text).ok()?.split_ascii_whitespace().map(str::parse);
        let mut next = || fields.next()?.ok();
        Some(Run { run_ns: next()?, delay_ns: next()?, slices: next()? })
    }
}

/// What `status` says of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// It went to sleep.
    pub(super) voluntary: u64,
    /// It was made to give way.
    pub(super) involuntary: u64,
    /// The process ignores SIGCHLD: its children leave no zombie and no time.
    pub(super) ignores_children: bool,
}

impl Status {
    pub(super) fn parse(text: &[u8]) -> Option<Status> {
        let mask = std::str::from_utf8(value(text, b"SigIgn:")?).ok()?;
        Some(Status {
            voluntary: number(text, b"voluntary_ctxt_switches:")?,
            involuntary: number(text, b"nonvoluntary_ctxt_switches:")?,
            ignores_children: u64::from_str_radix(mask, 16).ok()? & SIGCHLD_BIT != 0,
        })
    }
}

/// Reads the files of `/proc`, with one buffer and one path for all.
#[derive(Default)]
pub(super) struct Files {
    path: String,
    text: Vec<u8>,
}

impl Files {
    pub(super) fn stat(&mut self, pid: u32) -> io::Result<Stat> {
        Stat::parse(self.read(format_args!("{pid}/stat"))?).ok_or_else(odd)
    }

    pub(super) fn run(&mut self, pid: u32, thread: u32) -> io::Result<Run> {
        Run::parse(self.read(format_args!("{pid}/task/{thread}/schedstat"))?).ok_or_else(odd)
    }

    pub(super) fn status(&mut self, pid: u32, thread: u32) -> io::Result<Status> {
        Status::parse(self.read(format_args!("{pid}/task/{thread}/status"))?).ok_or_else(odd)
    }

    /// Adds the children of one thread that are not yet collected. One may be missed while another ends.
    pub(super) fn children(&mut self, pid: u32, thread: u32, found: &mut Vec<u32>) -> io::Result<()> {
        let text = self.read(format_args!("{pid}/task/{thread}/children"))?;
        let pids = std::str::from_utf8(text).unwrap_or("").split_ascii_whitespace();
        found.extend(pids.filter_map(|pid| pid.parse::<u32>().ok()));
        Ok(())
    }

    /// A line of `smaps_rollup`, which the kernel adds up page by page.
    fn rollup_bytes(&mut self, pid: u32, name: &[u8]) -> io::Result<u64> {
        let kib = number(self.read(format_args!("{pid}/smaps_rollup"))?, name).ok_or_else(odd)?;
        Ok(kib.saturating_mul(1024))
    }

    /// Its share of memory: each page divided by the number of processes that map it. `None`: it has ended.
    pub(super) fn proportional_bytes(&mut self, pid: u32) -> io::Result<Option<u64>> {
        match self.rollup_bytes(pid, b"Pss:") {
            Ok(bytes) => Ok(Some(bytes)),
            // A zombie has no memory, and a process that was collected no file.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.stat(pid).is_err() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn resident_bytes(&mut self, pid: u32) -> io::Result<u64> {
        self.rollup_bytes(pid, b"Rss:")
    }

    fn read(&mut self, path: std::fmt::Arguments<'_>) -> io::Result<&[u8]> {
        self.path.clear();
        write!(self.path, "/proc/{path}").expect("a string takes everything");
        let mut file = File::open(&self.path)?;
        let mut filled = 0;
        // A short read is no sign of the end: files that list something come page by page.
        loop {
            if self.text.len() - filled < PAGE {
                self.text.resize(filled + 2 * PAGE, 0);
            }
            match file.read(&mut self.text[filled..]) {
                Ok(0) => return Ok(&self.text[..filled]),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

const PAGE: usize = 4096;

/// The threads of a process, or all processes (`/proc` itself): the numbers among the names in a folder.
pub(super) fn numbers_in(folder: &str) -> io::Result<impl Iterator<Item = u32> + use<>> {
    Ok(fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// The clock that counts a process's CPU time, ended threads included, in nanoseconds: exists until the process is
/// collected. Reading it is one call and asks for no permission.
pub(super) fn cpu_clock(pid: u32) -> ClockId {
    // The kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED), which is what clock_getcpuclockid(3) returns.
    ClockId::from_raw((!pid.cast_signed() << 3) | 2)
}

/// What a clock shows.
pub(super) fn clock_ns(clock: ClockId) -> io::Result<u64> {
    let now = clock.now()?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}

fn odd() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// The first word after `name` at the beginning of a line.
fn value<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))?;
    line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())
}

fn number(text: &[u8], name: &[u8]) -> Option<u64> {
    std::str::from_utf8(value(text, name)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &[u8] = b" S 41 7 7 0 -1 4194304 1 2 3 4 50 60 7 8 20 0 3 0 123456 99 1 18446744073709551615\n";

    #[test]
    fn a_name_may_hold_anything() {
        let expected =
            Stat { is_zombie: false, parent: 41, collected_ns: 15 * NS_PER_STEP, threads: 3, start: 123_456 };
        for name in [&b"cat"[..], b"a b", b"a) S 1 (b", b")", b"", b"(((", b"x\n) Z 1", b"\xff\xfe) 1 2 3"] {
            let text = [b"42 (", name, b")", TAIL].concat();
            assert_eq!(Stat::parse(&text).as_ref(), Some(&expected), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn odd_content_is_no_stat() {
        let negative = String::from_utf8_lossy(TAIL).replace(" 8 ", " -8 ");
        let short = &TAIL[..TAIL.len() - 40];
        for tail in [&b""[..], b" ", b" S", b" S 1 2 3", b" S x 7 7 0", b" \xff 1 2", short, negative.as_bytes()] {
            assert_eq!(Stat::parse(&[b"42 (cat)", tail].concat()), None, "{}", tail.escape_ascii());
        }
        assert_eq!((Stat::parse(b""), Stat::parse(b"42 (cat S 1")), (None, None));
        let huge = String::from_utf8_lossy(TAIL).replace(" 7 8 ", " 18446744073709551615 8 ");
        assert_eq!(Stat::parse(format!("1 (x){huge}").as_bytes()).map(|stat| stat.collected_ns), Some(u64::MAX));
    }

    #[test]
    fn every_end_of_a_stat_is_survived() {
        let text = [b"42 (a) b)", TAIL].concat();
        for end in 0..text.len() {
            let _ = Stat::parse(&text[..end]);
        }
    }

    #[test]
    fn threads_say_how_they_ran() {
        assert_eq!(Run::parse(b"588577 12 3\n"), Some(Run { run_ns: 588_577, delay_ns: 12, slices: 3 }));
        assert_eq!(
            (Run::parse(b""), Run::parse(b"1 2"), Run::parse(b"1 x 3"), Run::parse(b"\xff")),
            (None, None, None, None)
        );
        let text = |mask| {
            let name = "Name:\tvoluntary_ctxt_switches: 9";
            format!("{name}\nSigIgn:\t{mask}\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t8\n")
        };
        let expected = Status { voluntary: 7, involuntary: 8, ignores_children: false };
        assert_eq!(Status::parse(text("0000000000001000").as_bytes()), Some(expected));
        let ignoring = Status::parse(text("0000000000011000").as_bytes());
        assert_eq!(ignoring, Some(Status { ignores_children: true, ..expected }));
        assert_eq!((Status::parse(b""), Status::parse(text("x").as_bytes())), (None, None));
    }

    #[test]
    fn a_process_finds_itself() {
        let mut files = Files::default();
        let pid = std::process::id();
        assert_eq!(files.stat(pid).expect("it runs").parent, std::os::unix::process::parent_id());
        assert!(numbers_in(&format!("/proc/{pid}/task")).expect("it runs").any(|thread| thread == pid));
        assert!(clock_ns(cpu_clock(pid)).expect("it runs") > 0);
        // Other tests of this process take memory and give it back: two readings are of one moment only if nothing moved.
        loop {
            let resident = files.resident_bytes(pid).expect("its own memory");
            let proportional = files.proportional_bytes(pid).expect("its own memory").expect("it runs");
            if files.resident_bytes(pid).expect("its own memory") == resident {
                assert!(0 < proportional && proportional <= resident, "{proportional} of {resident}");
                return;
            }
        }
    }
}
