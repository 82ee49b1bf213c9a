//! [`Target`]: whom a load talks to, and [`ServiceKind`], in which protocol: `[SERVICE=]SCHEME://HOST:PORT`.
//!
//! Any server of that protocol will do, ours or not. Only [`Target::addresses`] asks the system anything: it resolves
//! the name. Invariant *printed-reads-back*: what is shown parses as the same target. Read next: `plan.rs`.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};

use crate::config::{Scheme, shown};
use crate::error::Error;

/// A server. Which service is asked of it stands before it, and is a [`ServiceKind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// [`Scheme::Tcp`] or [`Scheme::Udp`].
    pub scheme: Scheme,
    /// A name, or an IP address without brackets. Never empty.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

/// A protocol that load speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// The bytes come back.
    Echo,
    /// Nothing comes back.
    Discard,
    /// Each message goes to all other connections.
    Chat,
    /// Framed requests that name their own service time.
    Work,
    /// Files below a folder of the server.
    Files,
}

const FORM: &str = "[SERVICE=]SCHEME://HOST:PORT, as in echo=tcp://127.0.0.1:7007";

impl Target {
    /// The service and the target written as `text`; without a service it is echo.
    ///
    /// # Errors
    /// [`Error::Usage`] of `TARGET`: what is wrong with it, and what was expected.
    pub fn parse(text: &str) -> Result<(ServiceKind, Target), Error> {
        let whole = |problem: &str| wrong(format!("{} {problem}", shown(text)), FORM);
        let (before, rest) = text.split_once("://").ok_or_else(|| whole("is not a target"))?;
        let (service, scheme) = match before.split_once('=') {
            Some((service, scheme)) => (ServiceKind::from_name(service)?, scheme),
            None => (ServiceKind::Echo, before),
        };
        let scheme = Scheme::from_name(scheme)
            .filter(|scheme| *scheme != Scheme::Unix)
            .ok_or_else(|| wrong(format!("{} is not a scheme that load knows", shown(scheme)), "tcp or udp"))?;
        let (host, port) =
            rest.rsplit_once(':').filter(|_| !rest.ends_with(']')).ok_or_else(|| whole("has no port"))?;
        let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port != 0 && is_digits);
        let port = port.ok_or_else(|| whole("has no port that can be connected to"))?;
        let is_ipv6 = |address: &str| address.parse::<Ipv6Addr>().is_ok();
        let host = match host.strip_prefix('[') {
            Some(rest) => match rest.strip_suffix(']') {
                // A zone, as in fe80::1%eth0, is for the system to understand.
                Some(address) if address.split('%').next().is_some_and(is_ipv6) => address,
                _ => return Err(wrong(format!("{} is not an IPv6 address", shown(host)), FORM)),
            },
            None if host.contains(':') => {
                let expected = "an IPv6 address in brackets, as in tcp://[::1]:7007";
                return Err(wrong(format!("{} has more colons than a host and a port", shown(text)), expected));
            }
            None => host,
        };
        if host.is_empty() {
            return Err(whole("has no host"));
        }
        if let Some(odd) = host.chars().find(|letter| letter.is_whitespace() || "/@?#[]=".contains(*letter)) {
            return Err(whole(&format!("has a host with '{}' in it", odd.escape_debug())));
        }
        let target = Target { scheme, host: host.to_owned(), port };
        let why_not = match (service, scheme) {
            (ServiceKind::Chat, Scheme::Udp) => Some("chat has members, and datagrams have no connections"),
            (ServiceKind::Files, Scheme::Udp) => Some("files are longer than datagrams"),
            _ => None,
        };
        if let Some(problem) = why_not {
            let over_tcp = format!("{}={}", service.name(), Target { scheme: Scheme::Tcp, ..target });
            return Err(wrong(problem.to_owned(), &over_tcp));
        }
        Ok((service, target))
    }

    /// Where the target is: every address that its name stands for, in the system's order. Never empty.
    ///
    /// # Errors
    /// [`Error::Resource`] when the name stands for none.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        let unresolved = |reason: io::Error| Error::resource(format!("resolve {}", self.host), reason);
        let addresses: Vec<SocketAddr> =
            (self.host.as_str(), self.port).to_socket_addrs().map_err(unresolved)?.collect();
        if addresses.is_empty() {
            return Err(unresolved(io::Error::other("it has no address")));
        }
        Ok(addresses)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = (self.scheme.name(), &self.host, self.port);
        if host.contains(':') { write!(f, "{scheme}://[{host}]:{port}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
}

impl ServiceKind {
    /// All of them.
    pub const ALL: [ServiceKind; 5] =
        [ServiceKind::Echo, ServiceKind::Discard, ServiceKind::Chat, ServiceKind::Work, ServiceKind::Files];

    /// The name that users type before `=`.
    pub fn name(self) -> &'static str {
        match self {
            ServiceKind::Echo => "echo",
            ServiceKind::Discard => "discard",
            ServiceKind::Chat => "chat",
            ServiceKind::Work => "work",
            ServiceKind::Files => "files",
        }
    }

    fn from_name(name: &str) -> Result<ServiceKind, Error> {
        ServiceKind::ALL.into_iter().find(|service| service.name() == name).ok_or_else(|| {
            let known = ServiceKind::ALL.map(ServiceKind::name).join(", ");
            wrong(format!("{} is not a service that load knows", shown(name)), &format!("one of {known}"))
        })
    }
}

fn wrong(problem: String, expected: &str) -> Error {
    Error::Usage { flag: "TARGET".to_owned(), problem, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_shown() {
        use ServiceKind::{Chat, Discard, Echo, Work};
        let table = [
            ("tcp://127.0.0.1:7007", Echo, Scheme::Tcp, "127.0.0.1", 7007, "echo=tcp://127.0.0.1:7007"),
            ("echo=udp://127.0.0.1:1", Echo, Scheme::Udp, "127.0.0.1", 1, "echo=udp://127.0.0.1:1"),
            ("discard=udp://localhost:9", Discard, Scheme::Udp, "localhost", 9, "discard=udp://localhost:9"),
            ("chat=tcp://my-host.lan:65535", Chat, Scheme::Tcp, "my-host.lan", 65_535, "chat=tcp://my-host.lan:65535"),
            ("work=tcp://[::1]:07020", Work, Scheme::Tcp, "::1", 7020, "work=tcp://[::1]:7020"),
            (
                "work=udp://[fe80::1%eth0]:7020",
                Work,
                Scheme::Udp,
                "fe80::1%eth0",
                7020,
                "work=udp://[fe80::1%eth0]:7020",
            ),
        ];
        for (text, service, scheme, host, port, shown) in table {
            let (found, target) = Target::parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((found, &target), (service, &Target { scheme, host: host.to_owned(), port }), "{text}");
            assert_eq!(format!("{}={target}", found.name()), shown, "{text}");
            assert_eq!(Target::parse(shown).ok(), Some((found, target)), "{text}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_its_reason() {
        let table = [
            ("", &*format!("an empty value is not a target; expected {FORM}")),
            ("127.0.0.1:7007", &format!("127.0.0.1:7007 is not a target; expected {FORM}")),
            ("tcp:/127.0.0.1:7007", &format!("tcp:/127.0.0.1:7007 is not a target; expected {FORM}")),
            ("tcp://127.0.0.1", &format!("tcp://127.0.0.1 has no port; expected {FORM}")),
            ("tcp://[::1]", &format!("tcp://[::1] has no port; expected {FORM}")),
            ("tcp://a:0", &format!("tcp://a:0 has no port that can be connected to; expected {FORM}")),
            ("tcp://a:", &format!("tcp://a: has no port that can be connected to; expected {FORM}")),
            ("tcp://a:+7", &format!("tcp://a:+7 has no port that can be connected to; expected {FORM}")),
            ("tcp://a:65536", &format!("tcp://a:65536 has no port that can be connected to; expected {FORM}")),
            ("tcp://a:7/b", &format!("tcp://a:7/b has no port that can be connected to; expected {FORM}")),
            ("tcp://:7007", &format!("tcp://:7007 has no host; expected {FORM}")),
            ("tcp://[]:7007", &format!("[] is not an IPv6 address; expected {FORM}")),
            ("tcp://[::g]:7007", &format!("[::g] is not an IPv6 address; expected {FORM}")),
            ("tcp://[::1:7007", &format!("[::1 is not an IPv6 address; expected {FORM}")),
            ("tcp://a b:7", &format!("tcp://a b:7 has a host with ' ' in it; expected {FORM}")),
            ("tcp://a\n:7", &format!("tcp://a\\n:7 has a host with '\\n' in it; expected {FORM}")),
            (
                "tcp://::1:7007",
                "tcp://::1:7007 has more colons than a host and a port; expected an IPv6 address in brackets, as in \
                 tcp://[::1]:7007",
            ),
            ("unix:///run/a.sock", "unix is not a scheme that load knows; expected tcp or udp"),
            ("http://localhost:80", "http is not a scheme that load knows; expected tcp or udp"),
            ("echo=://localhost:80", "an empty value is not a scheme that load knows; expected tcp or udp"),
            ("files=udp://[::1]:7040", "files are longer than datagrams; expected files=tcp://[::1]:7040"),
            (
                "smtp=tcp://127.0.0.1:25",
                "smtp is not a service that load knows; expected one of echo, discard, chat, work, files",
            ),
            (
                "=tcp://a:25",
                "an empty value is not a service that load knows; expected one of echo, discard, chat, work, files",
            ),
            (
                "chat=udp://[::1]:7010",
                "chat has members, and datagrams have no connections; expected chat=tcp://[::1]:7010",
            ),
        ];
        for (text, expected) in table {
            let error = Target::parse(text).expect_err(text);
            assert_eq!((error.to_string(), error.exit_code()), (format!("TARGET: {expected}"), 2), "{text:?}");
        }
    }

    #[test]
    fn names_and_addresses_are_resolved() {
        let addresses = |text: &str| Target::parse(text).expect("it is a target").1.addresses();
        assert_eq!(addresses("tcp://127.0.0.1:7007").unwrap(), ["127.0.0.1:7007".parse::<SocketAddr>().unwrap()]);
        assert_eq!(addresses("udp://[::1]:9").unwrap(), ["[::1]:9".parse::<SocketAddr>().unwrap()]);
        let local = addresses("tcp://localhost:80").unwrap();
        assert!(!local.is_empty() && local.iter().all(|at| at.ip().is_loopback() && at.port() == 80), "{local:?}");
    }

    #[test]
    fn a_name_that_stands_for_nothing_is_named() {
        // A label of more than 63 letters is refused before anybody is asked.
        let host = "x".repeat(64);
        let error = Target::parse(&format!("tcp://{host}.invalid:80")).unwrap().1.addresses().unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot resolve {host}.invalid: ")), "{error}");
        assert_eq!(error.exit_code(), 1);
    }
}
