//! What the session's rings cost against the simplest buffers: an echo of messages in memory, without a kernel.
//!
//! Three contenders echo the same messages over the same in-memory stream, which copies as a socket does:
//! - *session*: a session of the service `echo` through the public interface, one turn per message;
//! - *one Vec*: read all into a `Vec`, write all of it back;
//! - *two Vecs*: the same with the input copied to an output buffer first, as a server does whose handlers return bytes.
//!
//! Each in two shapes. *whole*: the stream takes every write whole, so that the buffer is empty after each message. *leaves
//! 1*: it leaves the last byte of every message untaken until the next has come, so that the ring wraps again and again
//! and the `Vec`s must move what is left to the front. `README.md` beside this file says how to read the table.

use std::env;
use std::io::{self, IoSlice, IoSliceMut};
use std::time::{Duration, Instant};

use maitred::clock::Clock;
use maitred::service::{self, Bounds};
use maitred::session::buffer::{Budget, Leases};
use maitred::session::handler::{Means, Moment, Tally};
use maitred::session::state::Reasons;
use maitred::session::{Session, Stream, TurnEnd};

/// Bytes of a ring, and of a `Vec`: what the daemon has by default.
const RING_BYTES: usize = 64 << 10;

const SIZES: [usize; 4] = [64, 1 << 10, 16 << 10, 64 << 10];

/// Runs of each contender, in turns.
const REPEATS: usize = 15;

/// Bytes that one run echoes, if that is not too many messages: some milliseconds.
const RUN_BYTES: usize = 64 << 20;

/// The most messages of one run.
const MOST_MESSAGES: usize = 400_000;

/// A stream of messages of one size; what is written to it is copied and forgotten.
struct Memory {
    message: Vec<u8>,
    written: Vec<u8>,
    /// Bytes of the message that have not been read.
    unread: usize,
    /// Bytes that it takes before it would block.
    takes: usize,
    copied_bytes: u64,
    calls: u64,
    vectored_calls: u64,
}

impl Memory {
    fn new(size: usize) -> Memory {
        Memory {
            message: (0..size).map(|place| place as u8).collect(),
            // One byte of the message before may come with this one.
            written: vec![0; size + 1],
            unread: 0,
            takes: 0,
            copied_bytes: 0,
            calls: 0,
            vectored_calls: 0,
        }
    }

    fn note(&mut self, slices: usize, bytes: usize) {
        self.calls += 1;
        self.vectored_calls += u64::from(slices > 1);
        self.copied_bytes += bytes as u64;
    }

    fn read_slices<'a>(&mut self, slices: impl ExactSizeIterator<Item = &'a mut [u8]>) -> io::Result<usize> {
        if self.unread == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (count, mut read) = (slices.len(), 0);
        for slice in slices {
            let now = slice.len().min(self.unread);
            let from = self.message.len() - self.unread;
            slice[..now].copy_from_slice(&self.message[from..from + now]);
            self.unread -= now;
            read += now;
        }
        self.note(count, read);
        Ok(read)
    }

    fn write_slices<'a>(&mut self, slices: impl ExactSizeIterator<Item = &'a [u8]>) -> io::Result<usize> {
        if self.takes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (count, mut written) = (slices.len(), 0);
        for slice in slices {
            let now = slice.len().min(self.takes);
            self.written[..now].copy_from_slice(&slice[..now]);
            self.takes -= now;
            written += now;
        }
        self.note(count, written);
        Ok(written)
    }
}

impl Stream for Memory {
    fn read(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.read_slices(slices.iter_mut().map(|slice| &mut **slice))
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_slices(slices.iter().map(|slice| &**slice))
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Something that echoes what its stream holds.
trait Echo {
    /// The stream has a message and takes output again: echo until it has no more or takes no more.
    fn echo(&mut self, stream: &mut Memory);

    /// Bytes copied by the contender itself.
    fn copied_bytes(&self) -> u64;
}

struct InSession {
    session: Session,
    leases: Leases,
    clock: Clock,
}

/// Echo takes neither.
const BOUNDS: Bounds = Bounds { max_frame_bytes: 0, max_demand: Duration::ZERO };

impl InSession {
    fn new() -> InSession {
        let echo =
            service::find("echo").expect("it is registered").build(&[], &BOUNDS).expect("it needs no parameters");
        let session = Session::new(echo.open(None), None);
        InSession { session, leases: Leases::new(RING_BYTES, Budget::new(usize::MAX)), clock: Clock::start() }
    }
}

impl Echo for InSession {
    fn echo(&mut self, stream: &mut Memory) {
        let reasons = Reasons::READABLE | Reasons::WRITABLE;
        let (tally, calls) = (&mut Tally::default(), &mut Vec::new());
        let moment = Moment::new(self.clock, None, None, 0);
        let mut means =
            Means { leases: &mut self.leases, budget_bytes: usize::MAX, moment, parallel: None, tally, calls };
        let end = self.session.turn(stream, reasons, &mut means);
        assert_eq!(end, TurnEnd::Idle);
    }

    fn copied_bytes(&self) -> u64 {
        0
    }
}

struct InVec {
    buffer: Vec<u8>,
    /// Where the input is copied to before it is written, if it is.
    output: Option<Vec<u8>>,
    held: usize,
    copied_bytes: u64,
}

impl InVec {
    fn new(copies: bool) -> InVec {
        let output = copies.then(|| vec![0; RING_BYTES]);
        InVec { buffer: vec![0; RING_BYTES], output, held: 0, copied_bytes: 0 }
    }
}

impl Echo for InVec {
    fn echo(&mut self, stream: &mut Memory) {
        loop {
            let read = stream.read_slices([&mut self.buffer[self.held..]].into_iter());
            self.held += read.unwrap_or(0);
            let owed = match &mut self.output {
                Some(output) => {
                    output[..self.held].copy_from_slice(&self.buffer[..self.held]);
                    self.copied_bytes += self.held as u64;
                    &output[..self.held]
                }
                None => &self.buffer[..self.held],
            };
            let written = stream.write_slices([owed].into_iter()).unwrap_or(0);
            self.buffer.copy_within(written..self.held, 0);
            self.held -= written;
            self.copied_bytes += self.held as u64;
            if stream.unread == 0 || written == 0 {
                return;
            }
        }
    }

    fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }
}

/// What a run cost for each message.
#[derive(Clone, Copy)]
struct Cost {
    ns: f64,
    copied_bytes: f64,
    /// Of the calls that read or wrote, those with more than one slice.
    vectored_share: f64,
}

fn main() {
    if !env::args().any(|argument| argument == "--bench") {
        eprintln!("rings: measures under `cargo bench --bench rings`");
        return;
    }
    println!("rings of {RING_BYTES} bytes; median of {REPEATS} runs in turns; per message: ns, the ratio to one Vec,");
    println!("bytes copied, and the share of calls with two slices\n");
    print!("{:>7} {:>9}", "bytes", "shape");
    for name in ["session", "one Vec", "two Vecs"] {
        print!(" | {name:>8} {:>6} {:>7} {:>5}", "ratio", "copied", "two");
    }
    println!();
    for size in SIZES {
        for (shape, leaves) in [("whole", 0), ("leaves 1", 1)] {
            let costs = measure(size, leaves);
            print!("{size:>7} {shape:>9}");
            for cost in costs {
                let ratio = cost.ns / costs[1].ns;
                let two = format!("{:.0}%", cost.vectored_share * 100.0);
                print!(" | {:>8.1} {ratio:>6.2} {:>7.0} {two:>5}", cost.ns, cost.copied_bytes);
            }
            println!();
        }
    }
}

/// The session, one Vec, two Vecs.
fn measure(size: usize, leaves: usize) -> [Cost; 3] {
    let mut runs = [const { Vec::new() }; 3];
    for repeat in 0..REPEATS {
        for place in 0..3 {
            let place = (place + repeat) % 3;
            runs[place].push(match place {
                0 => run(&mut InSession::new(), size, leaves),
                1 => run(&mut InVec::new(false), size, leaves),
                _ => run(&mut InVec::new(true), size, leaves),
            });
        }
    }
    runs.map(|mut costs| {
        costs.sort_by(|a, b| a.ns.total_cmp(&b.ns));
        costs[costs.len() / 2]
    })
}

fn run(echo: &mut impl Echo, size: usize, leaves: usize) -> Cost {
    let messages = (RUN_BYTES / size).min(MOST_MESSAGES);
    let mut stream = Memory::new(size);
    // The first message makes the ring, and leaves what the others find left.
    let mut begin = (Instant::now(), 0);
    for message in 0..=messages {
        stream.unread = size;
        stream.takes = if message == 0 { size - leaves } else { size };
        echo.echo(&mut stream);
        if message == 0 {
            (stream.copied_bytes, stream.calls, stream.vectored_calls) = (0, 0, 0);
            begin = (Instant::now(), echo.copied_bytes());
        }
    }
    let ns = begin.0.elapsed().as_nanos();
    assert_eq!((stream.unread, stream.takes), (0, 0), "every message came back");
    Cost {
        ns: ns as f64 / messages as f64,
        copied_bytes: (stream.copied_bytes + echo.copied_bytes() - begin.1) as f64 / messages as f64,
        vectored_share: stream.vectored_calls as f64 / stream.calls as f64,
    }
}
