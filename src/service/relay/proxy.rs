//! The header of the PROXY protocol, version 2: by it a relay tells a target on whose behalf it has come.
//!
//! Twelve bytes that no other protocol begins with, one for version and command, one for the family, the length of what
//! follows, then the client's address and the one that it came to, then their ports. Of a client that has gone before its
//! addresses were known, the header says that there are none (`LOCAL`). The protocol is specified in HAProxy's
//! `doc/proxy-protocol.txt`, section 2.2.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, on behalf of somebody.
const PROXY: u8 = 0x21;

/// Version 2, of the relay's own accord.
const LOCAL: u8 = 0x20;

/// A stream over IPv4, over IPv6, of unknown kind.
const STREAM_V4: u8 = 0x11;
const STREAM_V6: u8 = 0x21;
const UNKNOWN: u8 = 0x00;

/// The header for a client of these addresses, its own and the one that it came to.
pub(super) fn header(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let (command, family, place) = match addresses {
        None => (LOCAL, UNKNOWN, Vec::new()),
        Some((client, local)) => {
            let ports = [client.port().to_be_bytes(), local.port().to_be_bytes()].concat();
            // IPv4 comes to a listener of IPv6 in addresses of its own kind.
            match (client.ip().to_canonical(), local.ip().to_canonical()) {
                (IpAddr::V4(client), IpAddr::V4(local)) => {
                    (PROXY, STREAM_V4, [&client.octets()[..], &local.octets(), &ports].concat())
                }
                (client, local) => (PROXY, STREAM_V6, [&as_v6(client)[..], &as_v6(local), &ports].concat()),
            }
        }
    };
    let len = u16::try_from(place.len()).expect("36 bytes at the most");
    [&SIGNATURE[..], &[command, family], &len.to_be_bytes(), &place].concat()
}

fn as_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(client: &str, local: &str) -> Vec<u8> {
        header(Some((client.parse().expect("an address"), local.parse().expect("an address"))))
    }

    #[test]
    fn ipv4_takes_28_bytes() {
        let expected =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &[192, 0, 2, 1, 198, 51, 100, 7], &[0xc0, 0x01, 0x01, 0xbb]];
        assert_eq!(header_of("192.0.2.1:49153", "198.51.100.7:443"), expected.concat());
        assert_eq!(header_of("[::ffff:192.0.2.1]:49153", "[::ffff:198.51.100.7]:443"), expected.concat());
    }

    #[test]
    fn ipv6_takes_52_bytes() {
        let header = header_of("[2001:db8::1]:49153", "[2001:db8::2]:443");
        assert_eq!(header.len(), 52);
        assert_eq!(header[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(header[16..32], [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(header[48..], [0xc0, 0x01, 0x01, 0xbb]);
    }

    #[test]
    fn a_client_without_an_address_is_told_as_such() {
        assert_eq!(header(None), b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    }
}
