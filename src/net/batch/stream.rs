//! [`send_messages`]: many messages into one stream, several per call.
//!
//! Through `rustix`, whose `sendmmsg` needs no control messages here. Over one `writev` of all slices it has a higher cost
//! per message and no use of its own, but that messages need not fit into one list of slices; it exists to be compared.

use std::array;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags};

use super::MOST_BATCHED;

/// Sends messages, each a list of slices, in order; how many *bytes* of them the socket took. Less than all there are
/// means that the next call would block. A message may be taken in part: the next call goes on behind that byte.
///
/// # Errors
/// `WouldBlock` when the socket takes nothing, otherwise what broke the connection.
pub fn send_messages<'a, M: AsRef<[IoSlice<'a>]>>(socket: BorrowedFd<'_>, messages: &[M]) -> io::Result<usize> {
    let mut taken = 0;
    for batch in messages.chunks(MOST_BATCHED) {
        let mut rest = batch;
        while !rest.is_empty() {
            match send_batch(socket, rest) {
                Ok(Progress { bytes, messages, is_cut }) => {
                    taken += bytes;
                    rest = &rest[messages..];
                    if is_cut {
                        return Ok(taken);
                    }
                }
                Err(Errno::INTR) => {}
                // What broke it, if it is broken, the next call says as well.
                Err(_) if taken > 0 => return Ok(taken),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(taken)
}

struct Progress {
    bytes: usize,
    messages: usize,
    /// The last of the messages was taken in part, though it counts.
    is_cut: bool,
}

/// One call.
fn send_batch<'a, M: AsRef<[IoSlice<'a>]>>(socket: BorrowedFd<'_>, messages: &[M]) -> Result<Progress, Errno> {
    let mut controls: [SendAncillaryBuffer<'_, '_, '_>; MOST_BATCHED] =
        array::from_fn(|_| SendAncillaryBuffer::default());
    let mut controls = controls.iter_mut();
    let mut headers: [MMsgHdr<'_>; MOST_BATCHED] = array::from_fn(|place| {
        let slices = messages.get(place).map_or(&[][..], |message| message.as_ref());
        MMsgHdr::new(slices, controls.next().expect("there is one for each"))
    });
    let sent =
        rustix::net::sendmmsg(socket, &mut headers[..messages.len()], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    let bytes = headers[..sent].iter().map(MMsgHdr::bytes_sent).sum();
    let asked: usize = messages[..sent].iter().flat_map(|message| message.as_ref()).map(|slice| slice.len()).sum();
    Ok(Progress { bytes, messages: sent, is_cut: bytes < asked })
}
