//! The four system calls, with headers made anew on the stack for each: nothing outlives a call, nothing is allocated.
//!
//! Through `libc`, because neither crate fits. `rustix` has `sendmmsg`, but no `recvmmsg`, and none of the control messages.
//! `nix` has both calls; its `sendmmsg` takes one list of control messages for all datagrams, and its `recvmmsg` leaves in
//! the headers what the kernel has shortened there, so that memory used twice loses control messages.
//!
//! The plain calls make of a batch what the batched ones do: all until the first error, which is told only if nothing
//! went before it.

use std::array;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::libc;
use rustix::io::Errno;
use rustix::net::SocketAddrAny;
use rustix::net::addr::SocketAddrStorage;

use super::MOST_BATCHED;
use super::control::Control;

/// Never waits, whatever the socket does, and never raises a signal.
const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A message that goes out.
pub(super) struct Outgoing<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) to: &'a SocketAddrAny,
    /// Which address of ours it leaves from; None: the kernel chooses.
    pub(super) from: Option<IpAddr>,
    /// The length of its segments, if it has several.
    pub(super) segment_len: Option<u16>,
}

/// A message that came, in the buffer of the same number.
pub(super) struct Incoming<'a> {
    pub(super) len: usize,
    pub(super) source: SocketAddr,
    pub(super) control: &'a Control,
}

/// Sends messages, as many as a batch holds; how many went. More may be left if none failed.
pub(super) fn send<'a>(
    socket: BorrowedFd<'_>,
    mmsg: bool,
    messages: impl Iterator<Item = Outgoing<'a>>,
) -> Result<usize, Errno> {
    let mut slices = [IoSlice::new(&[]); MOST_BATCHED];
    let mut controls = [const { Control::EMPTY }; MOST_BATCHED];
    let mut headers = [const { empty_header() }; MOST_BATCHED];
    let mut count = 0;
    for (((message, slice), control), header) in messages.zip(&mut slices).zip(&mut controls).zip(&mut headers) {
        *slice = IoSlice::new(message.bytes);
        if let Some(segment_len) = message.segment_len {
            control.push_segment_len(segment_len);
        }
        if let Some(from) = message.from {
            control.push_source(from);
        }
        let header = &mut header.msg_hdr;
        header.msg_name = message.to.as_ptr().cast_mut().cast();
        header.msg_namelen = message.to.addr_len();
        header.msg_iov = ptr::from_mut(slice).cast();
        header.msg_iovlen = 1;
        if !control.messages().is_empty() {
            header.msg_control = control.messages().as_ptr().cast_mut().cast();
            header.msg_controllen = control.messages().len() as _;
        }
        count += 1;
    }
    let headers = &mut headers[..count];
    if mmsg {
        // SAFETY: each header points to a name, to one slice and to control messages, or to none, which live here until
        // the call is over; the kernel only reads them, and writes the headers.
        #[allow(unsafe_code, reason = "see the top of the file")]
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as _, FLAGS as _) };
        return counted(sent as isize);
    }
    one_by_one(headers, |header| {
        // SAFETY: as above, for one header.
        #[allow(unsafe_code, reason = "see the top of the file")]
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header.msg_hdr, FLAGS) };
        counted(sent)
    })
}

/// Receives a message into each buffer, as far as they have come and a batch goes; how many. Of each that came whole,
/// `take` is told; one that did not has lost bytes, or what the kernel says of it, for want of room.
pub(super) fn receive<'a>(
    socket: BorrowedFd<'_>,
    mmsg: bool,
    buffers: impl Iterator<Item = &'a mut [u8]>,
    mut take: impl FnMut(usize, Option<Incoming<'_>>),
) -> Result<usize, Errno> {
    let mut slices: [_; MOST_BATCHED] = array::from_fn(|_| IoSliceMut::new(&mut []));
    let mut names = [const { MaybeUninit::<SocketAddrStorage>::uninit() }; MOST_BATCHED];
    let mut controls = [const { Control::EMPTY }; MOST_BATCHED];
    let mut headers = [const { empty_header() }; MOST_BATCHED];
    let mut count = 0;
    let places = slices.iter_mut().zip(&mut names).zip(&mut controls).zip(&mut headers);
    for (buffer, (((slice, name), control), header)) in buffers.zip(places) {
        *slice = IoSliceMut::new(buffer);
        let header = &mut header.msg_hdr;
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = size_of::<SocketAddrStorage>() as _;
        header.msg_iov = ptr::from_mut(slice).cast();
        header.msg_iovlen = 1;
        header.msg_control = control.room().as_mut_ptr().cast();
        header.msg_controllen = control.room().len() as _;
        count += 1;
    }
    let headers = &mut headers[..count];
    let received = if mmsg {
        // SAFETY: each header points to room for a name, to one slice of memory that is borrowed for as long as the call
        // takes, and to room for control messages; the kernel writes no further than the lengths beside them.
        #[allow(unsafe_code, reason = "see the top of the file")]
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as _, FLAGS as _, ptr::null_mut())
        };
        counted(received as isize)?
    } else {
        one_by_one(headers, |header| {
            // SAFETY: as above, for one header.
            #[allow(unsafe_code, reason = "see the top of the file")]
            let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header.msg_hdr, FLAGS) };
            counted(received)
        })?
    };
    for (place, header) in headers[..received].iter().enumerate() {
        let (len, header) = (header.msg_len as usize, &header.msg_hdr);
        controls[place].set_len(header.msg_controllen as _);
        let is_whole = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0;
        let source = source(&names[place], header.msg_namelen).filter(|_| is_whole);
        take(place, source.map(|source| Incoming { len, source, control: &controls[place] }));
    }
    Ok(received)
}

/// The call for one header after the other, until the first error.
fn one_by_one(
    headers: &mut [libc::mmsghdr],
    mut call: impl FnMut(&mut libc::mmsghdr) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    for (done, header) in headers.iter_mut().enumerate() {
        match call(header) {
            Ok(len) => header.msg_len = len as _,
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
        }
    }
    Ok(headers.len())
}

fn counted(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(nix::errno::Errno::last_raw()))
}

/// Whom the kernel has named, if it is an address of IP.
fn source(name: &MaybeUninit<SocketAddrStorage>, len: u32) -> Option<SocketAddr> {
    // An unnamed sender, which no datagram of IP has.
    if (len as usize) < size_of::<libc::sa_family_t>() || len as usize > size_of::<SocketAddrStorage>() {
        return None;
    }
    // SAFETY: the kernel has written a socket address of `len` bytes there.
    #[allow(unsafe_code, reason = "only the kernel knows what it wrote")]
    let name = unsafe { SocketAddrAny::new(*name, len) };
    SocketAddr::try_from(name).ok()
}

const fn empty_header() -> libc::mmsghdr {
    // SAFETY: numbers and pointers, for which zero is a value: no name, no slices, no control messages.
    #[allow(unsafe_code, reason = "on some systems the type has padding that only this can write")]
    unsafe {
        MaybeUninit::zeroed().assume_init()
    }
}
