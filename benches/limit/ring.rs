//! The bare ring: the same echo by completion. One accept and one receive per connection that never end, sends straight
//! from the buffers that the kernel received into, one `io_uring_enter` per round. What it costs per request is what
//! completion costs.
//!
//! Like the epoll loop it has no timers, counters, limits or logs. It uses the crate and not the daemon's own `Ring`, so
//! that it can say what that one costs too.
//!
//! - INVARIANT held-until-sent: a buffer is given back to the kernel when its last byte was sent or its connection broke,
//!   and no send from it is pending.
//! - INVARIANT quiet-when-closed: a connection is closed when neither a receive nor a send of it is pending. So a
//!   descriptor, which is the data of its completions, is used again only when nothing of its last connection can come.
//! - One send at a time: two could overtake each other.
//! - A connection that holds many buffers is not received from until they are sent.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs};
use io_uring::{EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};
use rustix::event::PollFlags;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, SocketFlags, shutdown, sockopt};

use crate::bare;

/// Few, since the kernel goes around in them: what is used again soon is still in the cache. More are handed over early.
const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 2048;
/// Enough for every connection that is ready at once in the rows, and two.
pub(crate) const BUFFERS: u16 = 512;
/// A connection that holds more is not received from. Guess.
const MOST_HELD: u16 = 8;
const GROUP: u16 = 0;
/// No page is larger, and the kernel asks for one.
const PAGE: usize = 64 << 10;
const LINE: usize = 64;

/// What a completion is of; with a descriptor below it, its data.
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const CANCEL: u64 = 3 << 32;
const STDIN: u64 = 4 << 32;

/// Serves until stdin closes; SIGTERM ends it by its default action.
pub(crate) fn run(threads: usize, read_bytes: usize, buffers: u16) -> io::Result<()> {
    // First of all, so that a refusal is not taken for a server that is ready.
    let ring = set_up().map_err(|error| io::Error::new(error.kind(), format!("io_uring: {error}")))?;
    let mut listeners = bare::listeners(threads)?;
    let first = listeners.remove(0);
    for listener in listeners {
        // A ring belongs to the thread that makes it.
        thread::spawn(move || {
            let result = set_up().and_then(|ring| echo(ring, &listener, Buffers::new(buffers, read_bytes), false));
            if let Err(error) = result {
                eprintln!("limit: bare ring: {error}");
                std::process::exit(1);
            }
        });
    }
    echo(ring, &first, Buffers::new(buffers, read_bytes), can_close_stdin()?)
}

fn set_up() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_cqsize(COMPLETIONS)
        .setup_submit_all()
        .setup_coop_taskrun()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(SUBMISSIONS)
}

/// A plain file or /dev/null never closes, though it can always be read.
fn can_close_stdin() -> io::Result<bool> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(io::stdin())?.st_mode);
    Ok(matches!(kind, FileType::Fifo | FileType::Socket) || io::stdin().is_terminal())
}

fn echo(mut ring: IoUring, listener: &OwnedFd, buffers: Buffers, watches_stdin: bool) -> io::Result<()> {
    let wait = if ring.params().is_feature_no_iowait() { EnterFlags::NO_IOWAIT } else { EnterFlags::empty() };
    let (mut submitter, submissions, mut completions) = ring.split();
    // Saves the kernel a look-up per call; without it the loop is only a little slower.
    let _ = submitter.register_ring_fd();
    buffers.register(&submitter)?;
    let queue = Queue { submitter, submissions };
    let mut echo = Echo { queue, buffers, listener, connections: Vec::new(), starved: Vec::new() };
    echo.accept()?;
    if watches_stdin {
        echo.watch_stdin()?;
    }
    loop {
        echo.buffers.publish();
        echo.queue.submissions.sync();
        completions.sync();
        match echo.queue.submitter.submit_with_args_and_flags(1, &SubmitArgs::new(), wait) {
            Ok(_) => {}
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INTR | Errno::BUSY | Errno::AGAIN)) => {}
            Err(error) => return Err(error),
        }
        echo.queue.submissions.sync();
        completions.sync();
        for completion in &mut completions {
            let data = completion.user_data();
            let index = data as u32 as usize;
            match data & !u64::from(u32::MAX) {
                ACCEPT => echo.accepted(&completion)?,
                RECEIVE => echo.received(index, &completion)?,
                SEND => echo.sent(index, completion.result())?,
                STDIN => {
                    if rustix::io::read(io::stdin(), &mut [0_u8; 64])? == 0 {
                        return Ok(());
                    }
                    echo.watch_stdin()?;
                }
                // A cancellation: what it ended has a completion of its own.
                _ => {}
            }
        }
        echo.feed()?;
    }
}

struct Echo<'a> {
    queue: Queue<'a>,
    buffers: Buffers,
    listener: &'a OwnedFd,
    /// Indexed by descriptor: the kernel gives out the lowest free number, so it stays dense.
    connections: Vec<Option<Connection>>,
    /// Those whose receive ended for want of a buffer.
    starved: Vec<usize>,
}

struct Connection {
    socket: OwnedFd,
    /// Buffers received and not sent, in order; the first may be in part.
    held: List,
    sent: u32,
    /// A receive is pending.
    receiving: bool,
    /// A send from the first buffer is pending.
    sending: bool,
    /// The receive is being cancelled, or has been, to let the client catch up.
    paused: bool,
    /// It is in `starved`.
    starved: bool,
    /// Nothing more is received: FIN, or broken.
    ended: bool,
    /// Nothing more is sent.
    broken: bool,
}

impl Echo<'_> {
    fn accept(&mut self) -> io::Result<()> {
        let flags = SocketFlags::CLOEXEC.bits() as i32;
        let accept = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd())).flags(flags);
        self.queue.push(accept.build().user_data(ACCEPT))
    }

    fn watch_stdin(&mut self) -> io::Result<()> {
        let events = u32::from(PollFlags::IN.bits());
        self.queue.push(opcode::PollAdd::new(Fd(io::stdin().as_raw_fd()), events).build().user_data(STDIN))
    }

    fn accepted(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        if !cqueue::more(completion.flags()) {
            self.accept()?;
        }
        let descriptor = completion.result();
        if descriptor < 0 {
            return match Errno::from_raw_os_error(-descriptor) {
                Errno::AGAIN | Errno::CONNABORTED | Errno::INTR => Ok(()),
                error => Err(error.into()),
            };
        }
        // SAFETY: the kernel has just made it, for this completion only.
        #[allow(unsafe_code, reason = "an accept completes with a number")]
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        sockopt::set_tcp_nodelay(&socket, true)?;
        let index = descriptor as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, || None);
        }
        let connection = Connection {
            socket,
            held: List::EMPTY,
            sent: 0,
            receiving: true,
            sending: false,
            paused: false,
            starved: false,
            ended: false,
            broken: false,
        };
        let replaced = self.connections[index].replace(connection);
        assert!(replaced.is_none(), "quiet-when-closed");
        self.queue.push(receive(descriptor))
    }

    #[inline]
    fn received(&mut self, index: usize, completion: &cqueue::Entry) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("quiet-when-closed");
        connection.receiving = cqueue::more(completion.flags());
        let result = completion.result();
        if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
            if result > 0 && !connection.broken {
                self.buffers.append(&mut connection.held, buffer, result as u32);
            } else {
                self.buffers.recycle(buffer);
            }
        }
        if result > 0 {
            if !connection.sending && !connection.broken {
                connection.sending = true;
                self.queue.push(send(connection, &self.buffers))?;
            }
            if connection.receiving && connection.held.count > MOST_HELD && !connection.paused {
                connection.paused = true;
                self.queue.push(opcode::AsyncCancel::new(RECEIVE | index as u64).build().user_data(CANCEL))?;
            }
            if connection.receiving {
                return Ok(());
            }
        } else if result == 0 {
            connection.ended = true;
        } else {
            match Errno::from_raw_os_error(-result) {
                Errno::NOBUFS => {
                    connection.starved = true;
                    self.starved.push(index);
                }
                Errno::CANCELED | Errno::INTR | Errno::AGAIN => {}
                _ => self.break_off(index),
            }
        }
        self.settle(index)
    }

    #[inline]
    fn sent(&mut self, index: usize, result: i32) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("quiet-when-closed");
        connection.sending = false;
        if connection.broken || (result < 0 && Errno::from_raw_os_error(-result) != Errno::INTR) {
            self.break_off(index);
            return self.settle(index);
        }
        connection.sent += result.max(0) as u32;
        let first = connection.held.first;
        if connection.sent == self.buffers.lengths[usize::from(first)] {
            connection.sent = 0;
            self.buffers.drop_first(&mut connection.held);
            if connection.held.count == 0 {
                return if connection.receiving { Ok(()) } else { self.settle(index) };
            }
        }
        connection.sending = true;
        self.queue.push(send(connection, &self.buffers))
    }

    /// Sends nothing any more, and makes what is pending end.
    #[cold]
    fn break_off(&mut self, index: usize) {
        let connection = self.connections[index].as_mut().expect("quiet-when-closed");
        if !connection.broken {
            // It may be gone already; then everything pending ends without it.
            let _ = shutdown(&connection.socket, Shutdown::Both);
        }
        (connection.ended, connection.broken) = (true, true);
        while !connection.sending && connection.held.count > 0 {
            self.buffers.drop_first(&mut connection.held);
        }
    }

    /// Closes or receives again, where nothing is pending.
    #[cold]
    fn settle(&mut self, index: usize) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("quiet-when-closed");
        if connection.receiving || connection.sending || connection.held.count > 0 {
            return Ok(());
        }
        if connection.ended {
            self.connections[index] = None;
        } else if !connection.starved {
            (connection.receiving, connection.paused) = (true, false);
            self.queue.push(receive(index as RawFd))?;
        }
        Ok(())
    }

    /// Receives again for those that were without a buffer, now that there are some.
    #[inline]
    fn feed(&mut self) -> io::Result<()> {
        if self.starved.is_empty() || !self.buffers.has_recycled() {
            return Ok(());
        }
        for index in std::mem::take(&mut self.starved) {
            if let Some(connection) = self.connections[index].as_mut().filter(|connection| connection.starved) {
                connection.starved = false;
                self.settle(index)?;
            }
        }
        Ok(())
    }
}

fn receive(descriptor: RawFd) -> squeue::Entry {
    opcode::RecvMulti::new(Fd(descriptor), GROUP).build().user_data(RECEIVE | descriptor as u64)
}

#[inline]
fn send(connection: &Connection, buffers: &Buffers) -> squeue::Entry {
    let (descriptor, first) = (connection.socket.as_raw_fd(), connection.held.first);
    let start = buffers.address(first) + connection.sent as usize;
    let length = buffers.lengths[usize::from(first)] - connection.sent;
    opcode::Send::new(Fd(descriptor), ptr::with_exposed_provenance(start), length)
        .flags(SendFlags::NOSIGNAL.bits() as i32)
        .build()
        .user_data(SEND | descriptor as u64)
}

struct Queue<'a> {
    submitter: Submitter<'a>,
    submissions: SubmissionQueue<'a>,
}

impl Queue<'_> {
    /// Hands over what is there when it is full.
    #[inline]
    fn push(&mut self, operation: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: no operation names other memory than buffers, which are never freed; by held-until-sent nobody
            // writes to one while it is sent.
            #[allow(unsafe_code, reason = "the kernel uses the memory after this call has returned")]
            let pushed = unsafe { self.submissions.push(&operation) };
            if pushed.is_ok() {
                return Ok(());
            }
            self.submissions.sync();
            self.submitter.submit()?;
            self.submissions.sync();
        }
    }
}

/// Buffers of one connection, in order.
struct List {
    first: u16,
    last: u16,
    count: u16,
}

impl List {
    const EMPTY: Self = Self { first: 0, last: 0, count: 0 };
}

/// Memory to receive into, and the ring by which it is handed to the kernel. Never freed: the loop ends with the process.
struct Buffers {
    /// Where the ring's entries start.
    entries: *mut BufRingEntry,
    count: u16,
    bytes_each: usize,
    tail: u16,
    published: u16,
    /// By buffer: how much was received, and which is behind it in its list.
    lengths: Vec<u32>,
    next: Vec<u16>,
}

impl Buffers {
    fn new(count: u16, bytes_each: usize) -> Self {
        let memory = vec![0_u8; 2 * PAGE + usize::from(count) * (size_of::<BufRingEntry>() + distance(bytes_each))];
        let memory = Box::leak(memory.into_boxed_slice());
        let skipped = memory.as_ptr().align_offset(PAGE);
        let entries = memory[skipped..].as_mut_ptr();
        entries.expose_provenance();
        let places = usize::from(count);
        let (lengths, next) = (vec![0; places], vec![0; places]);
        let mut buffers = Self { entries: entries.cast(), count, bytes_each, tail: 0, published: 0, lengths, next };
        (0..count).for_each(|buffer| buffers.recycle(buffer));
        buffers.publish();
        buffers
    }

    fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        // SAFETY: the memory begins with so many entries, and is never freed.
        #[allow(unsafe_code, reason = "the kernel keeps the address")]
        unsafe {
            submitter.register_buf_ring_with_flags(self.entries as u64, self.count, GROUP, 0)
        }
    }

    #[inline]
    fn address(&self, buffer: u16) -> usize {
        let entry_bytes = (usize::from(self.count) * size_of::<BufRingEntry>()).next_multiple_of(LINE);
        self.entries.addr() + entry_bytes + usize::from(buffer) * distance(self.bytes_each)
    }

    #[inline]
    fn append(&mut self, list: &mut List, buffer: u16, length: u32) {
        self.lengths[usize::from(buffer)] = length;
        if list.count == 0 {
            list.first = buffer;
        } else {
            self.next[usize::from(list.last)] = buffer;
        }
        list.last = buffer;
        list.count += 1;
    }

    #[inline]
    fn drop_first(&mut self, list: &mut List) {
        let first = list.first;
        list.first = self.next[usize::from(first)];
        list.count -= 1;
        self.recycle(first);
    }

    #[inline]
    fn recycle(&mut self, buffer: u16) {
        let address = self.address(buffer) as u64;
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: `place` is below `count`, and the kernel does not read an entry before the tail has passed it.
        #[allow(unsafe_code, reason = "entries are memory shared with the kernel")]
        let entry = unsafe { &mut *self.entries.add(place) };
        // One by one: the ring's tail is in the first entry, behind these.
        entry.set_addr(address);
        entry.set_len(self.bytes_each as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn has_recycled(&self) -> bool {
        self.tail != self.published
    }

    #[inline]
    fn publish(&mut self) {
        // SAFETY: the first entry is at the start of the memory.
        #[allow(unsafe_code, reason = "the crate finds the tail by the address of the ring")]
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: two aligned bytes of the memory, changed nowhere else.
        #[allow(unsafe_code, reason = "the tail is memory shared with the kernel")]
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release; pairs with the kernel's acquire of the tail where it selects a buffer.
        tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
    }
}

/// A line more than the size: at a power of two the first lines of all buffers would meet in one set of the cache.
fn distance(bytes_each: usize) -> usize {
    bytes_each.next_multiple_of(LINE) + LINE
}
