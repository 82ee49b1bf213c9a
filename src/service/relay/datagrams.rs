//! `relay` over UDP: what one client says is sent to one target, from a socket that is this client's alone, and what comes back
//! by that socket is sent to the client. Here is what the user has to say about it; `engine/endpoint/forwarder.rs` does it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{ENTRY, addresses, refuse, targets};
use crate::service::BadParameter;
use crate::session::handler::{Handler, Pace, Service};
use crate::session::mailbox::Address;
use crate::session::upstream::{DatagramUsage, Upstream};

/// Clients at the most, where nobody says: a descriptor each.
const CLIENTS: usize = 512;

/// More than there are ports on one address of ours.
const MOST_CLIENTS: usize = 65_536;

/// After what silence a client is forgotten, where nobody says.
const IDLE: Duration = Duration::from_secs(60);

pub(super) fn build(parameters: &[(String, String)]) -> Result<Arc<dyn Service>, BadParameter> {
    let mut usage = DatagramUsage { clients: CLIENTS, idle: IDLE };
    for (key, value) in parameters {
        match key.as_str() {
            "to" => {}
            "idle" => usage.idle = super::duration(key, value)?,
            "clients" => {
                let clients = value.parse().ok().filter(|clients| (1..=MOST_CLIENTS).contains(clients));
                usage.clients = clients.ok_or_else(|| refuse(key, &format!("1 to {MOST_CLIENTS}")))?;
            }
            _ => return Err(refuse(key, "targets that are reached by tcp")),
        }
    }
    let targets = targets("udp", parameters)?;
    Ok(Arc::new(Relay { targets, usage, upstream: OnceLock::new() }))
}

struct Relay {
    /// As `HOST:PORT`.
    targets: Vec<String>,
    usage: DatagramUsage,
    /// Once the names are known to be addresses.
    upstream: OnceLock<Upstream<DatagramUsage>>,
}

impl Service for Relay {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn datagram_upstream(&self) -> Option<&Upstream<DatagramUsage>> {
        self.upstream.get()
    }

    fn only_scheme(&self) -> Option<&'static str> {
        Some("udp")
    }

    fn prepare(&self) -> Result<(), String> {
        let _ = self.upstream.set(Upstream::new(addresses("udp", &self.targets)?, self.usage));
        Ok(())
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        unreachable!("datagrams have no sessions")
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::built;
    use super::*;

    #[test]
    fn what_is_for_streams_is_refused_and_what_is_wrong_is_named() {
        let to = ("to", "udp://127.0.0.1:80");
        for (pairs, key) in [
            (&[to, ("connect_timeout", "1s")][..], "connect_timeout"),
            (&[to, ("proxy", "v2")], "proxy"),
            (&[to, ("zero_copy", "off")], "zero_copy"),
            (&[to, ("clients", "0")], "clients"),
            (&[to, ("clients", "many")], "clients"),
            (&[to, ("clients", "65537")], "clients"),
            (&[to, ("idle", "0s")], "idle"),
            (&[to, ("to", "tcp://127.0.0.1:80")], "to"),
            (&[("to", "tcp://127.0.0.1:80"), to], "to"),
            (&[("to", "tcp://127.0.0.1:80"), ("clients", "3")], "clients"),
        ] {
            assert_eq!(built(pairs).map(drop).expect_err("it is wrong").key, key);
        }
    }

    #[test]
    fn it_is_reached_as_its_targets_are() {
        let service = built(&[("to", "udp://127.0.0.1:7007"), ("clients", "9"), ("idle", "2s")]).expect("it is right");
        assert!(service.only_scheme() == Some("udp") && service.datagram_upstream().is_none());
        service.prepare().expect("it has an address");
        let upstream = service.datagram_upstream().expect("it is prepared");
        assert_eq!((upstream.len(), upstream.name(0)), (1, "udp://127.0.0.1:7007"));
        assert_eq!((upstream.usage.clients, upstream.usage.idle), (9, Duration::from_secs(2)));
        assert!(service.upstream().is_none() && service.datagrams().is_none());
    }
}
