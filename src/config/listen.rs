//! Listeners: from `SERVICE=SCHEME://ADDRESS[?key=value&…]` or a `[[listen]]` table to a [`Listener`].
//!
//! Both spellings become an [`Asked`], and one function checks it against the service registry and the engine. Nothing
//! is bound here. Read next: `service/mod.rs`, which names the services.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::file::listen_key;
use super::keys::{Unfit, shown};
use super::source::configuration;
use super::{Address, EngineInfo, Listener, Scheme};
use crate::error::Error;
use crate::service::{self, Bounds, Entry, SECRET, SERVICES};

/// A key of a file with its value as a flag would take it; or the same from a flag, which has no line.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) key: String,
    pub(super) text: String,
    pub(super) line: Option<usize>,
}

/// A listener as somebody asked for it.
#[derive(Debug)]
pub(super) struct Asked {
    service: Field,
    scheme: Field,
    address: Field,
    parameters: Vec<Field>,
    /// The line of the table; none for a flag.
    line: Option<usize>,
}

/// What is wrong with a listener: the key, its line, and why.
struct Wrong {
    key: String,
    line: Option<usize>,
    unfit: Unfit,
}

impl Asked {
    /// The keys that every `[[listen]]` table has; all others are parameters of the service.
    pub(super) const FIXED: &[&str] = &["service", "scheme", "address"];

    /// The listener that a table's keys ask for, or the key that is missing.
    pub(super) fn from_fields(mut fields: Vec<Field>, line: usize) -> Result<Asked, &'static str> {
        let mut take = |key: &'static str| {
            let at = fields.iter().position(|field| field.key == key).ok_or(key)?;
            Ok(fields.remove(at))
        };
        let (service, scheme, address) = (take("service")?, take("scheme")?, take("address")?);
        Ok(Asked { service, scheme, address, parameters: fields, line: Some(line) })
    }

    /// The listener that a flag asks for.
    ///
    /// # Errors
    /// `text` is not of the form `SERVICE=SCHEME://ADDRESS[?key=value&…]`.
    pub(super) fn from_flag(text: &str) -> Result<Asked, Error> {
        let form = || {
            let expected = "SERVICE=SCHEME://ADDRESS[?key=value&…], as in echo=tcp://127.0.0.1:7007";
            Unfit::new(format!("{} is not a listener", shown(without_secrets(text))), expected)
        };
        let field = |key: &str, text: &str| Field { key: key.to_owned(), text: text.to_owned(), line: None };
        let parts = || {
            let (service, rest) = text.split_once('=')?;
            let (scheme, rest) = rest.split_once("://")?;
            let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
            let pairs = query.split('&').filter(|pair| !pair.is_empty());
            let parameters = pairs.map(|pair| pair.split_once('=').map(|(key, value)| field(key, value)));
            Some((service, scheme, address, parameters.collect::<Option<Vec<_>>>()?))
        };
        let (service, scheme, address, parameters) = parts().ok_or_else(|| from_flag_error(form()))?;
        Ok(Asked {
            service: field("service", service),
            scheme: field("scheme", scheme),
            address: field("address", address),
            parameters,
            line: None,
        })
    }

    /// The listener, if its service exists, takes what is asked of it, and is carried by `engine`. `file` is where the
    /// request stands, if it does not come from a flag.
    pub(super) fn build(&self, engine: &EngineInfo, file: Option<&Path>, bounds: &Bounds) -> Result<Listener, Error> {
        self.check(engine, bounds).map_err(|wrong| self.error(wrong, file))
    }

    /// Refuses a listener whose address one of the `earlier` ones has already. Port 0 never clashes.
    pub(super) fn check_against(
        &self,
        listener: &Listener,
        earlier: &[Listener],
        file: Option<&Path>,
    ) -> Result<(), Error> {
        let same = |other: &&Listener| other.scheme == listener.scheme && other.address.clashes_with(&listener.address);
        let Some(other) = earlier.iter().find(same) else { return Ok(()) };
        let problem = format!("{} is taken by {} already", listener.url(), other.service_name);
        let unfit = Unfit::new(problem, "one listener for each address");
        Err(self.error(Wrong { key: "address".to_owned(), line: self.address.line, unfit }, file))
    }

    fn check(&self, engine: &EngineInfo, bounds: &Bounds) -> Result<Listener, Wrong> {
        let entry = service::find(&self.service.text).ok_or_else(|| {
            let known: Vec<&str> = SERVICES.iter().map(|entry| entry.name).collect();
            let problem = format!("{} is not a service", shown(&self.service.text));
            self.service.wrong(problem, one_of(&known))
        })?;
        let scheme = Scheme::from_name(&self.scheme.text).filter(|scheme| entry.schemes.contains(&scheme.name()));
        let scheme = scheme.ok_or_else(|| {
            let problem = format!("{} cannot be reached by {}", entry.name, shown(&self.scheme.text));
            self.scheme.wrong(problem, one_of(entry.schemes))
        })?;
        let address = Address::parse(scheme, &self.address.text);
        let address = address.map_err(|Unfit { problem, expected }| self.address.wrong(problem, expected))?;
        let listener = self.listener(entry, scheme, address, bounds)?;
        self.check_console(&listener)?;
        (engine.carries)(entry.name, scheme).map_err(|reason| {
            let problem = format!("engine {} cannot carry {} on {}: {reason}", engine.name, entry.name, scheme.name());
            self.service.wrong(problem, "another engine, or a service that this one carries")
        })?;
        if engine.forks && listener.service.meets_in_memory() {
            let with = entry
                .parameters
                .iter()
                .find(|(key, _)| *key == "cell")
                .map(|(key, value)| format!(" without {key}={value}"));
            let problem = format!(
                "engine {} cannot carry {}{}: its sessions share no memory",
                engine.name,
                entry.name,
                with.unwrap_or_default()
            );
            return Err(self.service.wrong(problem, "another engine, or a service that this one carries"));
        }
        Ok(listener)
    }

    /// A console gives its clients power over the daemon: in the file system its mode says who they are; on the network a
    /// token does, and nobody from elsewhere is even heard.
    fn check_console(&self, listener: &Listener) -> Result<(), Wrong> {
        let Some(console) = listener.service.console() else { return Ok(()) };
        let Some(address) = listener.address.ip() else { return Ok(()) };
        if !address.ip().is_loopback() {
            let problem = format!("{} may not be reached from other machines: {address}", listener.service_name);
            return Err(self.address.wrong(problem, "an address on loopback, or unix://PATH"));
        }
        if !console.has_token() {
            let problem = format!("{} on tcp asks for a token", listener.service_name);
            return Err(self.scheme.wrong(problem, format!("{SECRET}=TEXT, or unix://PATH")));
        }
        if console.mode().is_some() {
            let mode = self.parameters.iter().find(|field| field.key == "mode").unwrap_or(&self.scheme);
            return Err(mode.wrong("mode is for a socket in the file system", "unix://PATH, or no mode"));
        }
        Ok(())
    }

    fn listener(&self, entry: &Entry, scheme: Scheme, address: Address, bounds: &Bounds) -> Result<Listener, Wrong> {
        let pairs = |field: &Field| (field.key.clone(), field.text.clone());
        let parameters: Vec<(String, String)> = self.parameters.iter().map(pairs).collect();
        let service = entry.build(&parameters, bounds).map_err(|bad| {
            let field = self.parameters.iter().find(|field| field.key == bad.key).unwrap_or(&self.service);
            let known: Vec<&str> = entry.parameters.iter().map(|(key, _)| *key).collect();
            match known.contains(&bad.key.as_str()) {
                true if std::ptr::eq(field, &self.service) => {
                    field.wrong(format!("{} is without {}", entry.name, bad.key), bad.expected)
                }
                true => field.wrong(format!("{} does not fit {}", field.shown(), bad.key), bad.expected),
                false if known.is_empty() => field.wrong(not_a_parameter(entry, &bad.key), "no parameters"),
                false => field.wrong(not_a_parameter(entry, &bad.key), one_of(&known)),
            }
        })?;
        if let Some(only) = service.only_scheme().filter(|only| *only != scheme.name()) {
            let problem = format!("{} with these parameters is not reached by {}", entry.name, scheme.name());
            return Err(self.scheme.wrong(problem, only));
        }
        Ok(Listener {
            service_name: entry.name,
            scheme,
            address,
            parameters,
            service,
            idle_exempt: entry.spared_by_idle_timeout,
            asked_for: true,
        })
    }

    fn error(&self, wrong: Wrong, file: Option<&Path>) -> Error {
        match (file, wrong.line.or(self.line)) {
            (Some(file), Some(line)) => configuration(file.to_owned(), line, &listen_key(&wrong.key), wrong.unfit),
            _ => from_flag_error(wrong.unfit),
        }
    }
}

/// Where the services listen when nobody names a listener: on loopback, as far as `engine` carries them.
///
/// # Errors
/// It carries none of them.
pub(super) fn defaults(engine: &EngineInfo, bounds: &Bounds) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::new();
    for entry in SERVICES {
        for &(scheme, port) in entry.default_listeners {
            let scheme = Scheme::from_name(scheme).expect("the registry names schemes that exist");
            if let Err(reason) = (engine.carries)(entry.name, scheme) {
                log::warn!(
                    "{} on {} is left out: engine {} cannot carry it: {reason}",
                    entry.name,
                    scheme.name(),
                    engine.name
                );
                continue;
            }
            let service =
                entry.build(&[], bounds).unwrap_or_else(|bad| panic!("{} does without {}", entry.name, bad.key));
            if engine.forks && service.meets_in_memory() {
                log::warn!(
                    "{} is left out: engine {} cannot carry it: its sessions share no memory",
                    entry.name,
                    engine.name
                );
                continue;
            }
            listeners.push(Listener {
                service_name: entry.name,
                scheme,
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(),
                parameters: Vec::new(),
                service,
                idle_exempt: entry.spared_by_idle_timeout,
                asked_for: false,
            });
        }
    }
    if listeners.is_empty() {
        let problem = format!("engine {} carries none of the default listeners", engine.name);
        return Err(from_flag_error(Unfit::new(problem, "a listener that it carries")));
    }
    Ok(listeners)
}

impl Field {
    /// The value as an error shows it.
    fn shown(&self) -> String {
        if self.key == SECRET { "the value given".to_owned() } else { shown(&self.text) }
    }

    fn wrong(&self, problem: impl Into<String>, expected: impl Into<String>) -> Wrong {
        Wrong { key: self.key.clone(), line: self.line, unfit: Unfit::new(problem, expected) }
    }
}

/// A flag up to the first secret in it.
fn without_secrets(text: &str) -> &str {
    text.find(&format!("{SECRET}=")).map_or(text, |at| &text[..at])
}

fn from_flag_error(Unfit { problem, expected }: Unfit) -> Error {
    Error::Usage { flag: "--listen".to_owned(), problem, expected }
}

fn not_a_parameter(entry: &Entry, key: &str) -> String {
    format!("{} is not a parameter of {}", shown(key), entry.name)
}

fn one_of(names: &[&str]) -> String {
    match names {
        [name] => (*name).to_owned(),
        names => format!("one of {}", names.join(", ")),
    }
}
