//! The services: pure protocols, each in a file of its own, and the registry that names them.
//!
//! Help text, configuration and the contract tests walk [`SERVICES`]; a new service gets all of them by its entry
//! here. Nothing in this folder imports anything but the traits and types of `session` and, where a service is built that
//! tells the time, the function that reads it. Read first: `echo.rs`, `discard.rs`, `chargen.rs`, the smallest three.

mod chargen;
mod chat;
mod console;
mod daytime;
mod discard;
mod echo;
pub mod files;
mod once;
mod relay;
mod time;
mod watch;
mod work;

use std::sync::Arc;
use std::time::Duration;

use crate::session::handler::Service;

/// A service as the registry knows it.
pub struct Entry {
    /// What the user types: `--listen NAME=…`.
    pub name: &'static str,
    /// One line for the help text.
    pub about: &'static str,
    /// The schemes it can be reached by.
    pub schemes: &'static [&'static str],
    /// Where it listens when the user names no listener: (scheme, port), on loopback.
    pub default_listeners: &'static [(&'static str, u16)],
    /// The parameters it takes after `?`, each as `key=expected`.
    pub parameters: &'static [(&'static str, &'static str)],
    /// Whether the idle timeout spares its sessions, because silence is their normal state.
    pub spared_by_idle_timeout: bool,
    /// Those of its parameters that may be given several times.
    pub repeatable: &'static [&'static str],
    build: Build,
}

/// The parameter whose value is known to those who were told, and shown to nobody.
pub const SECRET: &str = "token";

/// What is shown in its place. No service takes it.
pub const HIDDEN: &str = "(hidden)";

/// What services must not go beyond, whatever their parameters say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The longest message, for services whose messages name their length.
    pub max_frame_bytes: usize,
    /// The longest service time that a request may name.
    pub max_demand: Duration,
}

/// Makes a service of its parameters, whose keys are known to be its own.
type Build = fn(&[(String, String)], &Bounds) -> Result<Arc<dyn Service>, BadParameter>;

/// A parameter that the service does not know, or a value that it does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadParameter {
    /// The key that the user typed.
    pub key: String,
    /// What would have been right.
    pub expected: String,
}

/// All services, in the order in which people are shown them.
pub const SERVICES: &[Entry] = &[
    echo::ENTRY,
    discard::ENTRY,
    chargen::ENTRY,
    daytime::ENTRY,
    time::ENTRY,
    work::ENTRY,
    chat::ENTRY,
    watch::ENTRY,
    files::ENTRY,
    relay::ENTRY,
    console::ENTRY,
];

/// The service of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    SERVICES.iter().find(|entry| entry.name == name)
}

impl Entry {
    /// The service with these parameters, within these bounds.
    ///
    /// # Errors
    /// The first parameter that it does not know or whose value it does not take.
    pub fn build(&self, parameters: &[(String, String)], bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
        let unknown = parameters.iter().find(|(key, _)| !self.parameters.iter().any(|(known, _)| known == key));
        if let Some((key, _)) = unknown {
            let known: Vec<&str> = self.parameters.iter().map(|(known, _)| *known).collect();
            let expected = match known.as_slice() {
                [] => format!("{} takes no parameters", self.name),
                known => format!("{} takes {}", self.name, known.join(", ")),
            };
            return Err(BadParameter { key: key.clone(), expected });
        }
        let is_again = |(at, (key, _)): &(usize, &(String, String))| {
            parameters[..*at].iter().any(|(earlier, _)| earlier == key) && !self.repeatable.contains(&key.as_str())
        };
        if let Some((_, (key, _))) = parameters.iter().enumerate().find(is_again) {
            return Err(BadParameter { key: key.clone(), expected: format!("{key} once") });
        }
        (self.build)(parameters, bounds)
    }
}
