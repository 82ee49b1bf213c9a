//! Control messages: what the kernel says of a datagram beside its bytes, and is told.
//!
//! Bytes in a layout that the kernel fixes (`cmsg(3)`): a length, a level, a type, the value, and padding to the size of a
//! word. Read and written here as bytes, without pointers; what is not understood is passed over. Neither `rustix`, which
//! knows none of these messages, nor `nix`, which makes an allocation of each list, would do.

use std::ffi::c_int;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc;

const WORD: usize = size_of::<usize>();
const HEADER_BYTES: usize = WORD + 2 * size_of::<c_int>();

/// Room for what a datagram may have: a local address (`in6_pktinfo`, the longer of the two) and the length of segments.
const CONTROL_BYTES: usize = space(20) + space(4);

/// Bytes of a message with a value of so many.
const fn space(value_bytes: usize) -> usize {
    HEADER_BYTES + value_bytes.next_multiple_of(WORD)
}

/// The control messages of one datagram.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; CONTROL_BYTES],
    len: usize,
}

/// The address of ours that a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Local {
    /// Where an answer comes from: that address, or one of ours where that was a group or everybody.
    pub(super) address: IpAddr,
    /// Whether it was a group or everybody.
    pub(super) is_many: bool,
}

impl Control {
    /// No messages, and room for them.
    pub(super) const EMPTY: Control = Control { bytes: [0; CONTROL_BYTES], len: 0 };

    /// For a call that reads: the messages.
    pub(super) fn messages(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// For a call that writes messages: the whole room.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// After such a call: it has written so many bytes.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(CONTROL_BYTES);
    }

    /// The datagram is to leave from this address of ours.
    pub(super) fn push_source(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                // `in_pktinfo`: any interface, this source, and a field for arrivals.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(address) => {
                // `in6_pktinfo`: this source, any interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// The bytes are datagrams of this length each; the last may be shorter.
    pub(super) fn push_segment_len(&mut self, segment_len: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_len.to_ne_bytes());
    }

    /// The length of the datagrams that were joined, if they were.
    pub(super) fn segment_len(&self) -> Option<usize> {
        let value = self.find(libc::SOL_UDP, libc::UDP_GRO)?;
        usize::try_from(c_int::from_ne_bytes(*value.first_chunk()?)).ok().filter(|&len| len > 0)
    }

    /// Where the datagram came to, if the socket asks for that.
    pub(super) fn local(&self) -> Option<Local> {
        if let Some(info) = self.find(libc::IPPROTO_IP, libc::IP_PKTINFO) {
            let &[_, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = info.first_chunk::<12>()?;
            let (ours, sent_to) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
            return Some(Local { address: ours.into(), is_many: ours != sent_to });
        }
        let info = self.find(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)?;
        let sent_to = Ipv6Addr::from(*info.first_chunk::<16>()?);
        let is_many = match sent_to.to_canonical() {
            IpAddr::V4(sent_to) => sent_to.is_multicast() || sent_to.is_broadcast(),
            IpAddr::V6(sent_to) => sent_to.is_multicast(),
        };
        Some(Local { address: sent_to.into(), is_many })
    }

    fn push(&mut self, level: c_int, kind: c_int, value: &[u8]) {
        let header = [&(HEADER_BYTES + value.len()).to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes()];
        let mut at = self.len;
        for field in header.into_iter().chain([value]) {
            self.bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        self.len += space(value.len());
    }

    /// The value of the first message of this kind.
    fn find(&self, level: c_int, kind: c_int) -> Option<&[u8]> {
        let mut rest = self.messages();
        loop {
            let len = usize::from_ne_bytes(*rest.first_chunk()?);
            let header = rest.get(WORD..HEADER_BYTES)?;
            let value = rest.get(HEADER_BYTES..len)?;
            let (its_level, its_kind) = header.split_at(size_of::<c_int>());
            if its_level == level.to_ne_bytes() && its_kind == kind.to_ne_bytes() {
                return Some(value);
            }
            rest = rest.get(len.next_multiple_of(WORD)..)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(messages: &[(c_int, c_int, &[u8])]) -> Control {
        let mut control = Control::EMPTY;
        for (level, kind, value) in messages {
            control.push(*level, *kind, value);
        }
        control
    }

    #[test]
    fn the_layout_is_that_of_the_system() {
        let mut control = Control::EMPTY;
        control.push_segment_len(0x1234);
        control.push_source(Ipv6Addr::LOCALHOST.into());
        assert_eq!(control.len, CONTROL_BYTES, "there is room for both, and no more");
        // SAFETY: it computes with its argument.
        #[allow(unsafe_code, reason = "the system's own macros are functions that call themselves unsafe")]
        let (spaces, lens) =
            unsafe { ([2, 20].map(|len| libc::CMSG_SPACE(len)), [2, 20].map(|len| libc::CMSG_LEN(len))) };
        assert_eq!([space(2), space(20)], spaces.map(|space| space as usize));
        assert_eq!(usize::from_ne_bytes(*control.bytes.first_chunk().unwrap()), lens[0] as usize);
        assert_eq!(align_of::<Control>() % align_of::<libc::cmsghdr>(), 0);
    }

    #[test]
    fn what_is_written_is_read() {
        let gro = |len: c_int| control(&[(libc::SOL_UDP, libc::UDP_GRO, &len.to_ne_bytes())]);
        assert_eq!(gro(1_200).segment_len(), Some(1_200));
        assert_eq!([0, -1].map(|len| gro(len).segment_len()), [None; 2]);
        assert_eq!((Control::EMPTY.segment_len(), Control::EMPTY.local()), (None, None));

        let mut to_v4 = [0; 12];
        to_v4[4..].copy_from_slice(&[127, 0, 0, 9, 127, 0, 0, 9]);
        let at_v4 = |info: &[u8]| control(&[(libc::IPPROTO_IP, libc::IP_PKTINFO, info)]).local();
        let ours = IpAddr::from([127, 0, 0, 9]);
        assert_eq!(at_v4(&to_v4), Some(Local { address: ours, is_many: false }));
        to_v4[8..].copy_from_slice(&[224, 0, 0, 1]);
        assert_eq!(at_v4(&to_v4), Some(Local { address: ours, is_many: true }));

        for (address, is_many) in [
            ("::1", false),
            ("2001:db8::1", false),
            ("ff02::1", true),
            ("::ffff:192.0.2.1", false),
            ("::ffff:224.0.0.1", true),
            ("::ffff:255.255.255.255", true),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let mut control = Control::EMPTY;
            control.push_source(address);
            control.push(libc::SOL_UDP, libc::UDP_GRO, &9_000_i32.to_ne_bytes());
            assert_eq!(control.local(), Some(Local { address, is_many }));
            assert_eq!(control.segment_len(), Some(9_000), "the second message is found behind the first");
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_message() {
        for len in 0..=CONTROL_BYTES + 9 {
            for fill in [0, 1, 0xff] {
                let mut control = Control { bytes: [fill; CONTROL_BYTES], len: 0 };
                control.set_len(len);
                assert_eq!((control.segment_len(), control.local()), (None, None), "{len} bytes of {fill}");
            }
        }
        // A message that claims more than there is, and one that is shorter than its type.
        let mut cut = control(&[(libc::SOL_UDP, libc::UDP_GRO, &9_000_i32.to_ne_bytes())]);
        cut.set_len(HEADER_BYTES + 3);
        assert_eq!(cut.segment_len(), None);
        assert_eq!(control(&[(libc::SOL_UDP, libc::UDP_GRO, &[1, 0])]).segment_len(), None);
        assert_eq!(control(&[(libc::IPPROTO_IP, libc::IP_PKTINFO, &[0; 11])]).local(), None);
    }
}
