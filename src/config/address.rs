//! [`Address`]: where a listener is, on the network or in the file system.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Scheme;
use super::keys::{Unfit, shown};

/// Bytes that the path of a socket may have; the kernel keeps one more for the end.
const PATH_BYTES_MAX: usize = 107;

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// On the network. Port 0 lets the system choose.
    Ip(SocketAddr),
    /// In the file system: the path of a socket.
    Path(PathBuf),
}

impl Address {
    /// The address that `text` names, of a listener of this scheme.
    pub(super) fn parse(scheme: Scheme, text: &str) -> Result<Address, Unfit> {
        if scheme != Scheme::Unix {
            let unfit = |_| {
                let problem = format!("{} is not an address", shown(text));
                Unfit::new(problem, "IP:PORT, as in 127.0.0.1:7007 or [::1]:7007")
            };
            return text.parse().map(Address::Ip).map_err(unfit);
        }
        let expected = || "the path of a socket, as in /run/maitred.sock";
        if text.is_empty() || text.contains(char::is_control) {
            return Err(Unfit::new(format!("{} is not a path", shown(text)), expected()));
        }
        if text.len() > PATH_BYTES_MAX {
            let problem = format!("{} is too long", shown(text));
            return Err(Unfit::new(problem, format!("{} of at most {PATH_BYTES_MAX} bytes", expected())));
        }
        Ok(Address::Path(PathBuf::from(text)))
    }

    /// The address on the network, if it is there.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Path(_) => None,
        }
    }

    /// The path, if it is in the file system.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::Ip(_) => None,
            Address::Path(path) => Some(path),
        }
    }

    /// Whether two listeners of one scheme cannot both have it.
    pub(super) fn clashes_with(&self, other: &Address) -> bool {
        self == other && self.ip().is_none_or(|address| address.port() != 0)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(out),
            Address::Path(path) => path.display().fmt(out),
        }
    }
}
