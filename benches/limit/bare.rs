//! The bare loop: edge-triggered epoll, one read, one write, nothing else. What it costs per
//! request is what readiness costs, and the daemon is measured against it.
//!
//! It deliberately has no timers, counters, limits or logs, and takes no turns: a firehose
//! connection starves the others. With several threads each has a listener of its own on the same
//! port (`SO_REUSEPORT`) and shares nothing with the rest.
//!
//! INVARIANT rest-stops-reading: while bytes of a connection wait to be written, it is not read.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;

use maitred::net::os;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

const EVENTS: usize = 1024;
/// Beside descriptor numbers, which are the data of connections.
const LISTENER: u64 = u64::MAX;
const STDIN: u64 = u64::MAX - 1;

/// Serves until stdin closes; SIGTERM ends it by its default action.
pub(crate) fn run(threads: usize, read_bytes: usize) -> io::Result<()> {
    let mut listeners = listeners(threads)?;
    let first = listeners.remove(0);
    for listener in listeners {
        let mut echo = EchoLoop::new(listener, read_bytes)?;
        thread::spawn(move || {
            if let Err(error) = echo.run() {
                eprintln!("limit: bare loop: {error}");
                std::process::exit(1);
            }
        });
    }
    // The main thread runs a loop too and watches stdin with it: with one loop the process has one
    // thread, so the kernel looks descriptors up without counting references.
    let mut echo = EchoLoop::new(first, read_bytes)?;
    echo.watch_stdin()?;
    echo.run()
}

/// One for each thread, at least one, all on one port; says that they are there.
pub(crate) fn listeners(threads: usize) -> io::Result<Vec<OwnedFd>> {
    os::raise_descriptor_limit();
    // The first listener chooses the port, the others join it; all listen before `ready`.
    let mut listeners = vec![listen(0)?];
    let port = SocketAddrV4::try_from(net::getsockname(&listeners[0])?)?.port();
    for _ in 1..threads {
        listeners.push(listen(port)?);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "listening 127.0.0.1:{port}\nready")?;
    out.flush()?;
    Ok(listeners)
}

fn listen(port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    net::listen(&socket, 4096)?;
    Ok(socket)
}

struct EchoLoop {
    epoll: OwnedFd,
    listener: OwnedFd,
    /// Indexed by descriptor: the kernel gives out the lowest free number, so it stays dense.
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
}

/// Sixteen bytes, so that an idle connection costs next to nothing.
struct Connection {
    socket: OwnedFd,
    rest: Option<Box<Rest>>,
}

/// What the socket did not take.
struct Rest {
    bytes: Vec<u8>,
    written: usize,
}

/// What a turn leaves behind.
enum Turn {
    Waiting,
    Closed,
}

impl EchoLoop {
    fn new(listener: OwnedFd, read_bytes: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self { epoll, listener, connections: Vec::new(), buffer: vec![0; read_bytes] })
    }

    fn watch_stdin(&self) -> io::Result<()> {
        match epoll::add(&self.epoll, io::stdin(), EventData::new_u64(STDIN), EventFlags::IN) {
            // A plain file or /dev/null cannot be waited for, and never closes.
            Err(Errno::PERM) => Ok(()),
            other => Ok(other?),
        }
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    STDIN => {
                        if rustix::io::read(io::stdin(), &mut [0_u8; 64])? == 0 {
                            return Ok(());
                        }
                    }
                    descriptor => self.turn(descriptor as usize, event.flags),
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = match net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            // The listener is level-triggered: whatever else waits is reported again.
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        sockopt::set_tcp_nodelay(&socket, true)?;
        let index = socket.as_raw_fd() as usize;
        // OUT is asked for once and for all. On an edge it costs nothing: it is only raised after a
        // write found the socket full.
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), interest)?;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, || None);
        }
        self.connections[index] = Some(Connection { socket, rest: None });
        Ok(())
    }

    #[inline]
    fn turn(&mut self, index: usize, flags: EventFlags) {
        let Some(Some(connection)) = self.connections.get_mut(index) else {
            return;
        };
        if let Turn::Closed = connection.turn(flags, &mut self.buffer) {
            self.connections[index] = None;
        }
    }
}

impl Connection {
    #[inline]
    fn turn(&mut self, flags: EventFlags, buffer: &mut [u8]) -> Turn {
        if self.rest.is_some() {
            match self.write_rest() {
                Ok(true) => {}
                Ok(false) => return Turn::Waiting,
                Err(_) => return Turn::Closed,
            }
        }
        // A FIN may share its edge with data: then a short read does not mean drained.
        let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        loop {
            let read = match receive(self.socket.as_fd(), buffer) {
                Ok(0) => return Turn::Closed,
                Ok(read) => read,
                Err(Errno::AGAIN) => return Turn::Waiting,
                Err(Errno::INTR) => continue,
                Err(_) => return Turn::Closed,
            };
            match send(self.socket.as_fd(), &buffer[..read]) {
                Ok(written) if written == read => {}
                Ok(written) => return self.keep(&buffer[written..read]),
                Err(Errno::AGAIN | Errno::INTR) => return self.keep(&buffer[..read]),
                Err(_) => return Turn::Closed,
            }
            if read < buffer.len() && !ends {
                return Turn::Waiting;
            }
        }
    }

    #[cold]
    fn keep(&mut self, bytes: &[u8]) -> Turn {
        self.rest = Some(Box::new(Rest { bytes: bytes.to_vec(), written: 0 }));
        Turn::Waiting
    }

    /// Whether nothing is left to write.
    #[cold]
    fn write_rest(&mut self) -> rustix::io::Result<bool> {
        while let Some(rest) = &mut self.rest {
            match send(self.socket.as_fd(), &rest.bytes[rest.written..]) {
                Ok(written) => rest.written += written,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            if rest.written == rest.bytes.len() {
                self.rest = None;
            }
        }
        Ok(true)
    }
}

#[inline]
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    net::recv(socket, buffer, RecvFlags::empty()).map(|(read, _)| read)
}

#[inline]
fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> rustix::io::Result<usize> {
    net::send(socket, bytes, SendFlags::NOSIGNAL)
}
