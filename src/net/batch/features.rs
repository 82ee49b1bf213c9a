//! What this kernel has of the switches, tried on the very socket, and the options that no crate of ours has.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

use super::Switches;

/// Turns on what is wanted on a new UDP socket, and says what there is of it.
pub fn turn_on(socket: BorrowedFd<'_>, wanted: Switches) -> Switches {
    Switches {
        mmsg: wanted.mmsg && has_batches(socket),
        // Segments of no length: every message says its own, or has none.
        gso: wanted.gso && set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok(),
        gro: wanted.gro && set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok(),
    }
}

/// From now on each datagram says which address of ours it came to.
pub(in super::super) fn tell_local_addresses(socket: BorrowedFd<'_>, is_ipv4: bool) -> io::Result<()> {
    match is_ipv4 {
        true => set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        // On a socket that takes both, this tells the IPv4 addresses too, as IPv6 writes them.
        false => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// Datagrams that came and were dropped by the kernel, for want of room in the receive buffer before all. Wraps.
pub(in super::super) fn dropped(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // `SK_MEMINFO_DROPS`, the last of nine numbers.
    const DROPS: usize = 8;
    let mut numbers = [0_u32; DROPS + 1];
    let mut len = size_of_val(&numbers) as libc::socklen_t;
    let data = numbers.as_mut_ptr().cast();
    // SAFETY: the kernel writes no more than `len` bytes, which the numbers have.
    #[allow(unsafe_code, reason = "neither `rustix` nor `nix` has the option")]
    let asked = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, data, &mut len) };
    Errno::result(asked)?;
    Ok(numbers[DROPS])
}

/// Whether both calls are there: with no messages they do nothing, and a filter that refuses them does so all the same.
fn has_batches(socket: BorrowedFd<'_>) -> bool {
    let socket = socket.as_raw_fd();
    // SAFETY: there are no headers to read or write.
    #[allow(unsafe_code, reason = "one of the calls that are tried")]
    let sent = unsafe { libc::sendmmsg(socket, ptr::null_mut(), 0, 0) };
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "the other one")]
    let received = unsafe { libc::recvmmsg(socket, ptr::null_mut(), 0, 0, ptr::null_mut()) };
    sent == 0 && received == 0
}

fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let (data, len) = (ptr::from_ref(&value).cast(), size_of::<c_int>() as libc::socklen_t);
    // SAFETY: the kernel reads one number, which is there.
    #[allow(unsafe_code, reason = "`rustix` lacks these options; `nix` wants two features and a crate more")]
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, data, len) };
    Errno::result(set)?;
    Ok(())
}
