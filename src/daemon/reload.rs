//! Listeners that change while the daemon serves: what has to be done for others than there are, and doing it.
//!
//! A listener is known by its scheme and address. One that stays keeps its socket, and with it whoever is in its backlog; those
//! who come from now on get what it offers now. Sessions never end by this, not those of a listener that is closed either:
//! they have been let in, and end as sessions do.
//!
//! Invariant *all-or-nothing*: what can fail comes first, all new addresses are bound and all new services prepared; then
//! the engine is told, and nothing that follows can fail.
//!
//! Not for datagrams: an endpoint is watched, counted and guarded together with all others from the start. Read next:
//! [`Change`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Daemon;
use super::circles::{self, Place};
use crate::config::{Address, Config, Listener as Asked, Scheme};
use crate::engine::{Change, Served};
use crate::error::Error;
use crate::net::listener::Listener;

/// Why listeners of datagrams wait.
const NOT_DATAGRAMS: &str = "a listener of datagrams is there from the start to the end";

/// Why those of operators do.
const NOT_CONSOLES: &str = "a console is there from the start to the end";

/// A listener as it was asked for, and where it really is.
#[derive(Clone)]
pub(super) struct Bound {
    pub(super) asked: Asked,
    pub(super) address: Address,
}

impl Bound {
    /// The same, of one that is not in the file system.
    pub(super) fn place(&self) -> Option<Place<'_>> {
        let address = self.address.ip()?;
        Some(Place { asked: &self.asked, address })
    }

    /// Where it is, of one that the engine has.
    fn on_network(&self) -> SocketAddr {
        self.address.ip().expect("only a console is elsewhere, and stays")
    }
}

/// What a change of the listeners came to, in words for people.
#[derive(Debug, Default)]
pub struct Relistened {
    /// What is in force now and was not before, one listener a line.
    pub changes: Vec<String>,
    /// What waits for a restart, with the reason.
    pub waiting: Vec<String>,
}

/// What becomes of the listeners that there are, and which are to come.
struct Plan {
    /// By place of those that there are.
    fates: Vec<Fate>,
    added: Vec<Asked>,
}

enum Fate {
    Stays,
    /// It offers this instead.
    Offers(Asked),
    Goes,
}

impl Daemon {
    /// Goes on with the listeners of this configuration, as far as the engine can change them while it serves.
    ///
    /// # Errors
    /// A new address that cannot be bound, a service that cannot serve, or a relay that would lead back to itself: then
    /// nothing has changed.
    pub fn listen(&self, config: &Config) -> Result<Relistened, Error> {
        let mut bound = self.bound.lock().expect("no thread panics while it holds this lock");
        let mut plan = Plan::new(&bound, &config.listeners);
        let mut said = Relistened { waiting: plan.put_off(&bound, self.info.relistens.err()), ..Relistened::default() };
        if plan.is_empty() {
            return Ok(said);
        }
        let offered =
            plan.fates.iter().filter_map(|fate| if let Fate::Offers(asked) = fate { Some(asked) } else { None });
        offered.chain(&plan.added).try_for_each(prepare)?;
        let listeners = plan.added.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        circles::check(&plan.places(&bound, &listeners))?;

        let mut changes = Vec::new();
        let mut left = Vec::new();
        for (one, fate) in bound.iter().zip(plan.fates) {
            let at = format!("{}://{}", one.asked.scheme.name(), one.address);
            match fate {
                Fate::Stays => left.push(one.clone()),
                Fate::Offers(mut asked) => {
                    // What its clients share there is not to be lost.
                    if let Some(service) = asked.service.succeed(&one.asked.service) {
                        asked.service = service;
                    }
                    let (service, idle_exempt) = (Arc::clone(&asked.service), asked.idle_exempt);
                    changes.push(Change::Offer { address: one.on_network(), service, idle_exempt });
                    said.changes.push(format!("{at} offers {} (before: {})", offer(&asked), offer(&one.asked)));
                    left.push(Bound { asked, address: one.address.clone() });
                }
                Fate::Goes => {
                    changes.push(Change::Close(one.on_network()));
                    said.changes
                        .push(format!("not listening any more {} {at}; its sessions live on", one.asked.service_name));
                }
            }
        }
        for (asked, listener) in plan.added.into_iter().zip(listeners) {
            let address = listener.address();
            let (service, idle_exempt) = (Arc::clone(&asked.service), asked.idle_exempt);
            said.changes.push(format!("listening {} {}://{address}", asked.service_name, asked.scheme.name()));
            changes.push(Change::Open(Served { listener, service, idle_exempt }));
            left.push(Bound { asked, address: address.into() });
        }
        self.engine.listen(changes)?;
        *bound = left;
        Ok(said)
    }
}

impl Plan {
    /// Those that are asked for alike are the same, then those at the same address: of several at port 0 each has its own.
    fn new(bound: &[Bound], wanted: &[Asked]) -> Plan {
        let mut wanted: Vec<Option<&Asked>> = wanted.iter().map(Some).collect();
        let mut take = |is_it: &dyn Fn(&Asked) -> bool| {
            wanted.iter_mut().find(|asked| asked.is_some_and(is_it)).and_then(Option::take)
        };
        let mut fates: Vec<Fate> = bound
            .iter()
            .map(|one| match take(&|asked| is_same(asked, &one.asked)) {
                Some(_) => Fate::Stays,
                None => Fate::Goes,
            })
            .collect();
        for (one, fate) in bound.iter().zip(&mut fates).filter(|(_, fate)| matches!(fate, Fate::Goes)) {
            if let Some(asked) = take(&|asked| is_at_same(asked, &one.asked)) {
                *fate = Fate::Offers(asked.clone());
            }
        }
        let added = wanted.into_iter().flatten().cloned().collect();
        Plan { fates, added }
    }

    /// Leaves undone what cannot be done: nothing can, if there is a reason, and nothing with datagrams. What that is.
    fn put_off(&mut self, bound: &[Bound], reason: Option<&str>) -> Vec<String> {
        let reason_for = |asked: &Asked| match asked.scheme {
            _ if asked.service.console().is_some() => Some(NOT_CONSOLES),
            Scheme::Udp => reason.or(Some(NOT_DATAGRAMS)),
            _ => reason,
        };
        let mut waiting = Vec::new();
        for (one, fate) in bound.iter().zip(&mut self.fates).filter(|(_, fate)| !matches!(fate, Fate::Stays)) {
            if let Some(reason) = reason_for(&one.asked) {
                waiting.push(format!("listen {}://{} ({reason})", one.asked.scheme.name(), one.address));
                *fate = Fate::Stays;
            }
        }
        self.added.retain(|asked| {
            let reason = reason_for(asked);
            waiting.extend(reason.map(|reason| format!("listen {} ({reason})", asked.url())));
            reason.is_none()
        });
        waiting
    }

    /// What there will be, once the new ones are bound to these.
    fn places<'a>(&'a self, bound: &'a [Bound], listeners: &[Listener]) -> Vec<Place<'a>> {
        let left = bound.iter().zip(&self.fates).filter_map(|(one, fate)| match fate {
            Fate::Stays => one.place(),
            Fate::Offers(asked) => one.place().map(|place| Place { asked, ..place }),
            Fate::Goes => None,
        });
        let added = self.added.iter().zip(listeners);
        left.chain(added.map(|(asked, listener)| Place { asked, address: listener.address() })).collect()
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.fates.iter().all(|fate| matches!(fate, Fate::Stays))
    }
}

fn is_at_same(left: &Asked, right: &Asked) -> bool {
    (left.scheme, &left.address) == (right.scheme, &right.address)
}

fn is_same(left: &Asked, right: &Asked) -> bool {
    is_at_same(left, right) && (left.service_name, &left.parameters) == (right.service_name, &right.parameters)
}

/// What a listener offers, as its flag has it.
fn offer(asked: &Asked) -> String {
    let parameters: Vec<String> = asked.parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
    match parameters.is_empty() {
        true => asked.service_name.to_owned(),
        false => format!("{}?{}", asked.service_name, parameters.join("&")),
    }
}

/// Has the service do what may fail before anybody comes.
pub(super) fn prepare(asked: &Asked) -> Result<(), Error> {
    let refused = |reason| Error::resource(format!("serve {}", asked.service_name), io::Error::other(reason));
    asked.service.prepare().map_err(refused)
}

pub(super) fn bind(asked: &Asked) -> Result<Listener, Error> {
    let bound = match asked.address.ip() {
        Some(address) => Listener::bind(address),
        None => Err(io::Error::other("only a console is reached in the file system")),
    };
    bound.map_err(|reason| refused(asked, reason))
}

pub(super) fn refused(asked: &Asked, reason: io::Error) -> Error {
    Error::Bind { service: asked.service_name, address: asked.url(), reason }
}
