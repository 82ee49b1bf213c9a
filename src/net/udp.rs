//! [`DatagramSocket`]: a UDP socket with memory for what comes and what goes, nonblocking.
//!
//! Who answers is the caller's: [`exchange`](DatagramSocket::exchange) shows it each datagram and takes at most one answer,
//! which leaves from the address that the request came to. A socket that takes no more stops the reading as well: answers
//! wait in memory of a fixed size, requests in the kernel's, which drops what does not fit and counts it.
//!
//! Invariant *read-once*: a datagram is shown exactly once; what is left of a batch when the socket blocks is shown later.
//!
//! A relay has one more for each client ([`ConnectedSocket`]), and shares boxes among them.
//!
//! How datagrams are moved more than one at a time: `batch.rs`. Who is to be answered: `session/datagram.rs`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::batch::{self, Datagram, Inbox, Outbox, ReceiveCounts, SendCounts, Sent, Switches};

/// How a socket is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// How datagrams are moved.
    pub switches: Switches,
    /// Bytes of the longest datagram that is wanted; longer ones are dropped and counted.
    pub longest_request: usize,
    /// Bytes of the longest answer.
    pub longest_answer: usize,
    /// What the kernel is asked to hold unread; it takes no more than `net.core.rmem_max`.
    pub receive_buffer_bytes: usize,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Exchange {
    /// Nothing is left to do until something comes.
    Drained,
    /// More may have come: exchange again, after others have had their turn.
    More,
    /// The socket takes no more answers: exchange again when it does.
    Blocked,
}

/// A bound UDP socket.
pub struct DatagramSocket {
    socket: OwnedFd,
    address: SocketAddr,
    purpose: Use,
    /// Those that the kernel has.
    switches: Switches,
    inbox: Inbox,
    outbox: Outbox,
}

impl DatagramSocket {
    /// Binds; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// What the kernel says of the address.
    pub fn bind(address: SocketAddr, purpose: Use) -> io::Result<DatagramSocket> {
        DatagramSocket::open(address, purpose, false)
    }

    fn open(address: SocketAddr, purpose: Use, shares: bool) -> io::Result<DatagramSocket> {
        let socket = new_socket(address)?;
        if shares {
            sockopt::set_socket_reuseport(&socket, true)?;
        }
        sockopt::set_socket_recv_buffer_size(&socket, purpose.receive_buffer_bytes)?;
        if address.ip().is_unspecified() {
            batch::tell_local_addresses(socket.as_fd(), address.is_ipv4())?;
        }
        let switches = batch::turn_on(socket.as_fd(), purpose.switches);
        rustix::net::bind(&socket, &address)?;
        let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        let inbox = Inbox::new(purpose.longest_request, switches.gro);
        let outbox = Outbox::new(purpose.longest_answer, switches.gso);
        Ok(DatagramSocket { socket, address, purpose, switches, inbox, outbox })
    }

    /// One more socket on the same address: from now on the kernel spreads senders over both, each by its address and port.
    ///
    /// The port stays this daemon's: the first socket was bound without `SO_REUSEPORT`, so that an address that is taken
    /// was refused, and gets the option only now. A process that does not ask to share is refused as ever, and one that
    /// does must be of the same user.
    ///
    /// # Errors
    /// No descriptor, or the kernel knows no sharing.
    pub fn sibling(&self) -> io::Result<DatagramSocket> {
        sockopt::set_socket_reuseport(&self.socket, true)?;
        DatagramSocket::open(self.address, self.purpose, true)
    }

    /// The address really bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it is used.
    pub fn purpose(&self) -> Use {
        self.purpose
    }

    /// How datagrams are moved: what was asked for, as far as the kernel has it.
    pub fn switches(&self) -> Switches {
        Switches { gso: self.outbox.joins(), ..self.switches }
    }

    /// Sends the answers that wait, then receives one batch and has each datagram answered: `answer` is lent memory for the
    /// longest answer and says how much of it is one, if there is one.
    ///
    /// # Panics
    /// If `answer` does, or says more than the memory has.
    pub fn exchange(&mut self, answer: impl FnMut(&Datagram<'_>, &mut [u8]) -> Option<usize>) -> Exchange {
        self.exchange_by(Outbox::send, answer)
    }

    fn exchange_by(
        &mut self,
        send: impl Fn(&mut Outbox, BorrowedFd<'_>, bool) -> Sent,
        mut answer: impl FnMut(&Datagram<'_>, &mut [u8]) -> Option<usize>,
    ) -> Exchange {
        let mmsg = self.switches.mmsg;
        if send(&mut self.outbox, self.socket.as_fd(), mmsg) == Sent::Blocked {
            return Exchange::Blocked;
        }
        if self.inbox.is_empty() && !self.inbox.receive(self.socket.as_fd(), mmsg) {
            return Exchange::Drained;
        }
        while !self.inbox.is_empty() {
            let Some(memory) = self.outbox.room() else {
                match send(&mut self.outbox, self.socket.as_fd(), mmsg) {
                    Sent::All => continue,
                    Sent::Blocked => return Exchange::Blocked,
                }
            };
            let Some(datagram) = self.inbox.take_next() else { break };
            if let Some(len) = answer(&datagram, memory) {
                self.outbox.put(len, datagram.source, datagram.local);
            }
        }
        match send(&mut self.outbox, self.socket.as_fd(), mmsg) {
            Sent::Blocked => Exchange::Blocked,
            Sent::All if self.inbox.was_filled() => Exchange::More,
            Sent::All => Exchange::Drained,
        }
    }

    /// Makes room for one more datagram to [post](DatagramSocket::post), if need be by sending those that wait: they are all
    /// sent, or there is none.
    pub fn make_room(&mut self) -> Sent {
        match self.outbox.room() {
            Some(_) => Sent::All,
            None => self.flush(),
        }
    }

    /// Has a datagram leave with the next that is sent, from this address of ours.
    ///
    /// # Panics
    /// If it is longer than the longest answer, or nobody has [made room](DatagramSocket::make_room).
    pub fn post(&mut self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) {
        self.outbox.room().expect("the caller has made room")[..bytes.len()].copy_from_slice(bytes);
        self.outbox.put(bytes.len(), to, from);
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self) -> Sent {
        self.outbox.send(self.socket.as_fd(), self.switches.mmsg)
    }

    /// What has come and gone so far.
    pub fn counts(&self) -> (ReceiveCounts, SendCounts) {
        (self.inbox.counts(), self.outbox.counts())
    }

    /// Datagrams that the kernel has dropped because nobody had read those before them. Wraps.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn dropped(&self) -> io::Result<u32> {
        batch::dropped(self.socket.as_fd())
    }
}

/// A socket that talks to one address and hears nobody else, for whoever has boxes to share among several.
pub struct ConnectedSocket {
    socket: OwnedFd,
    peer: SocketAddr,
}

impl ConnectedSocket {
    /// Connects to `peer` from an address of the kernel's choice.
    ///
    /// # Errors
    /// No descriptor, no local port, no way there.
    pub fn connect(peer: SocketAddr, purpose: Use) -> io::Result<ConnectedSocket> {
        let socket = new_socket(peer)?;
        sockopt::set_socket_recv_buffer_size(&socket, purpose.receive_buffer_bytes)?;
        batch::turn_on(socket.as_fd(), purpose.switches);
        rustix::net::connect(&socket, &peer)?;
        Ok(ConnectedSocket { socket, peer })
    }

    /// Whom it talks to.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Datagrams that the kernel has dropped because nobody had read those before them.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn dropped(&self) -> io::Result<u32> {
        batch::dropped(self.as_fd())
    }
}

impl AsFd for ConnectedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn new_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?)
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::{Duration, Instant};

    use super::batch::MOST_BATCHED;
    use super::*;

    #[test]
    fn a_socket_that_takes_no_answers_stops_reading_and_loses_nothing() {
        const LEN: usize = 100;
        for gro in [false, true] {
            let switches = Switches { mmsg: true, gso: false, gro };
            let purpose = Use { switches, longest_request: LEN, longest_answer: LEN, receive_buffer_bytes: 1 << 20 };
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let mut server = DatagramSocket::bind(any, purpose).expect("there is a port");
            let client = UdpSocket::bind(any).expect("there is a port");
            client.set_read_timeout(Some(Duration::from_secs(10))).expect("it is a timeout");
            let mut outbox = Outbox::new(LEN, true);
            // As one message where it may be received as one, so that an exchange has more than an outbox holds.
            for number in 0..60 {
                outbox.room().expect("60 are one message").fill(number);
                outbox.put(LEN, server.address(), None);
            }
            assert_eq!(outbox.send(client.as_fd(), true), Sent::All);

            let (is_blocked, answered) = (Cell::new(true), Cell::new(0));
            let mut exchange = || {
                let send = |outbox: &mut Outbox, socket: BorrowedFd<'_>, mmsg| match is_blocked.get() {
                    true if !outbox.is_empty() => Sent::Blocked,
                    _ => outbox.send(socket, mmsg),
                };
                server.exchange_by(send, |datagram, memory| {
                    answered.set(answered.get() + 1);
                    memory[..LEN].copy_from_slice(datagram.bytes);
                    Some(LEN)
                })
            };
            let deadline = Instant::now() + Duration::from_secs(10);
            while exchange() != Exchange::Blocked {
                assert!(Instant::now() < deadline, "requests arrive");
            }
            let waiting = answered.get();
            assert!((1..=MOST_BATCHED).contains(&waiting), "{waiting} answers wait, and a batch has {MOST_BATCHED}");
            assert_eq!([exchange(), exchange()], [Exchange::Blocked; 2]);
            assert_eq!(answered.get(), waiting, "nobody is answered while they wait");
            is_blocked.set(false);
            while answered.get() < 60 {
                assert_ne!(exchange(), Exchange::Blocked);
                assert!(Instant::now() < deadline, "the rest is shown");
            }
            for number in 0..60 {
                let mut reply = [0; LEN + 1];
                let (len, _) = client.recv_from(&mut reply).expect("every request is answered");
                assert_eq!(reply[..len], [number; LEN]);
            }
        }
    }
}
