//! `relay`: each client is connected to one of several targets, and bytes go both ways as they come. Over UDP so do datagrams
//! (`relay/datagrams.rs`).
//!
//! The only service without a handler: what a relay does is the same for every protocol, so that it is a machine of its own
//! ([`Pair`](crate::session::pair::Pair)), which the engine runs between two sockets. Here is what the user has to say about
//! it, checked; names become addresses once, before anybody can connect. What a target can be told of the client
//! (`proxy=v2`) is in `relay/proxy.rs`.
//!
//! Read next: `session/upstream.rs`, which chooses among the targets; the chapter is `design/relaying.md`.

mod datagrams;
mod proxy;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{BadParameter, Bounds, Entry};
use crate::session::handler::{Handler, Pace, Service};
use crate::session::mailbox::Address;
use crate::session::upstream::{MOST_TARGETS, Upstream, Usage};
use crate::units::parse_duration;

pub(super) const ENTRY: Entry = Entry {
    name: "relay",
    about: "connects each client to one of several targets, and forwards what both say",
    schemes: &["tcp", "udp"],
    default_listeners: &[],
    parameters: &[
        ("to", "SCHEME://HOST:PORT"),
        ("connect_timeout", "DURATION"),
        ("idle", "DURATION"),
        ("proxy", "v2"),
        ("zero_copy", "auto|off"),
        ("clients", "N"),
    ],
    spared_by_idle_timeout: false,
    repeatable: &["to"],
    build,
};

/// How long a client waits for a target, where nobody says.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

fn build(parameters: &[(String, String)], _bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    let first = parameters.iter().find(|(key, _)| key == "to");
    if first.is_some_and(|(_, target)| target.starts_with("udp:")) {
        return datagrams::build(parameters);
    }
    let mut usage = Usage { connect_timeout: CONNECT_TIMEOUT, idle: None, header: None, zero_copy: true };
    for (key, value) in parameters {
        match key.as_str() {
            "to" => {}
            "connect_timeout" => usage.connect_timeout = duration(key, value)?,
            "idle" => usage.idle = Some(duration(key, value)?),
            "proxy" if value == "v2" => usage.header = Some(proxy::header),
            "proxy" => return Err(refuse(key, "v2")),
            "clients" => return Err(refuse(key, "targets that are reached by udp")),
            _ => match value.as_str() {
                "auto" => usage.zero_copy = true,
                "off" => usage.zero_copy = false,
                _ => return Err(refuse(key, "auto or off")),
            },
        }
    }
    let targets = targets("tcp", parameters)?;
    Ok(Arc::new(Relay { targets, usage, upstream: OnceLock::new() }))
}

fn refuse(key: &str, expected: &str) -> BadParameter {
    BadParameter { key: key.to_owned(), expected: expected.to_owned() }
}

fn duration(key: &str, value: &str) -> Result<Duration, BadParameter> {
    let duration = parse_duration(value).ok().filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| refuse(key, "a duration above 0, as in 5s"))
}

/// The targets, all of this scheme, as `HOST:PORT`.
fn targets(scheme: &str, parameters: &[(String, String)]) -> Result<Vec<String>, BadParameter> {
    let named = parameters.iter().filter(|(key, _)| key == "to");
    let expected = || refuse("to", &format!("{scheme}://HOST:PORT, as in {scheme}://127.0.0.1:7007"));
    let targets = named.map(|(_, text)| target(scheme, text).ok_or_else(expected)).collect::<Result<Vec<_>, _>>()?;
    match targets.len() {
        1..=MOST_TARGETS => Ok(targets),
        0 => Err(refuse("to", "to=tcp://HOST:PORT or to=udp://HOST:PORT, once for each target")),
        _ => Err(refuse("to", &format!("at most {MOST_TARGETS} targets"))),
    }
}

/// Host and port of a target, if it is one.
fn target(scheme: &str, text: &str) -> Option<String> {
    let place = text.strip_prefix(scheme)?.strip_prefix("://")?;
    let (host, port) = place.rsplit_once(':')?;
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && !host.contains([':', '/', '[', ']', '@']),
    };
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    (is_host && is_port).then(|| place.to_owned())
}

struct Relay {
    /// As `HOST:PORT`.
    targets: Vec<String>,
    usage: Usage,
    /// Once the names are known to be addresses.
    upstream: OnceLock<Upstream>,
}

impl Service for Relay {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn upstream(&self) -> Option<&Upstream> {
        self.upstream.get()
    }

    fn prepare(&self) -> Result<(), String> {
        let _ = self.upstream.set(Upstream::new(addresses("tcp", &self.targets)?, self.usage));
        Ok(())
    }

    fn only_scheme(&self) -> Option<&'static str> {
        Some("tcp")
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        unreachable!("a service that has targets is prepared before it has sessions, and they need no handler")
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }
}

/// What people call each target, and its address.
fn addresses(scheme: &str, targets: &[String]) -> Result<Vec<(String, SocketAddr)>, String> {
    targets.iter().map(|target| Ok((format!("{scheme}://{target}"), resolve(target)?))).collect()
}

/// The address behind a name; of several, IPv4 or IPv6, the one that the system puts first.
fn resolve(target: &str) -> Result<SocketAddr, String> {
    let mut addresses = target.to_socket_addrs().map_err(|reason| format!("the target {target}: {reason}"))?;
    addresses.next().ok_or_else(|| format!("the target {target} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { max_frame_bytes: 1 << 20, max_demand: Duration::from_secs(1) };

    pub(super) fn built(pairs: &[(&str, &str)]) -> Result<Arc<dyn Service>, BadParameter> {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ENTRY.build(&pairs, &BOUNDS)
    }

    #[test]
    fn targets_are_names_or_addresses_with_a_port() {
        for right in ["tcp://127.0.0.1:80", "tcp://[::1]:65535", "tcp://localhost:1", "tcp://a.b-c.example:9000"] {
            assert!(built(&[("to", right)]).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "127.0.0.1:80",
            "udp://127.0.0.1:80",
            "tcp://:80",
            "tcp://host",
            "tcp://host:0",
            "tcp://host:65536",
            "tcp://::1:80",
            "tcp://[::1:80",
            "tcp://[no]:80",
            "tcp://host:80/path",
            "tcp://me@host:80",
        ] {
            let refused = built(&[("to", "tcp://127.0.0.1:80"), ("to", wrong)]);
            assert_eq!(refused.map(drop).expect_err(wrong).key, "to");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let to = ("to", "tcp://127.0.0.1:80");
        for (pairs, key) in [
            (&[][..], "to"),
            (&[to; MOST_TARGETS + 1], "to"),
            (&[to, ("idle", "0s")], "idle"),
            (&[to, ("connect_timeout", "soon")], "connect_timeout"),
            (&[to, ("proxy", "v1")], "proxy"),
            (&[to, ("zero_copy", "on")], "zero_copy"),
            (&[to, ("from", "x")], "from"),
        ] {
            assert_eq!(built(pairs).map(drop).expect_err("it is wrong").key, key);
        }
    }

    #[test]
    fn names_become_addresses_when_it_is_prepared() {
        let service = built(&[("to", "tcp://127.0.0.1:7007"), ("to", "tcp://localhost:7008")]).expect("it is right");
        assert!(service.upstream().is_none());
        service.prepare().expect("both have addresses");
        let upstream = service.upstream().expect("it is prepared");
        assert_eq!((upstream.len(), upstream.name(1)), (2, "tcp://localhost:7008"));
        assert_eq!(upstream.address(0), "127.0.0.1:7007".parse().expect("an address"));
        assert!(upstream.address(1).ip().is_loopback());
        let nobody = built(&[("to", "tcp://name.invalid:1")]).expect("it could be a name");
        let reason = nobody.prepare().expect_err("no such name can exist");
        assert!(reason.contains("name.invalid:1"), "{reason}");
    }
}
