//! [`Config`]: what the program runs with. All limits and units; checked once, then read-only.
//!
//! Made by [`Config::resolve`] from defaults, then the file, then the flags, each overriding the one before. Nothing
//! here binds, opens or changes anything but to read the file. What the machine allows (descriptors, cores to pin to)
//! is not checked here: that is for whoever runs with it.
//!
//! Invariants: *in-range*: every number lies in the range that its row in `config/keys.rs` names. *printed-reads-back*:
//! [`Config::to_toml`] is a file that resolves to the same configuration, but for secrets, which it hides.
//!
//! Read next: `config/settings.rs`, the limits with their defaults; `config/keys.rs`, one row per setting.

mod address;
mod file;
mod flags;
mod keys;
mod listen;
mod live;
mod settings;
pub(crate) mod source;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::file::File;
pub(crate) use self::flags::{number, time, usage};
use self::keys::KEYS;
pub(crate) use self::keys::{Unfit, shown, within};
use self::listen::{Asked, Field};
use crate::cli::ServeArgs;
use crate::error::Error;
use crate::service::{Bounds, HIDDEN, SECRET, SERVICES};
use crate::session::buffer::Leases;
use crate::session::handler::Service;
use crate::units::show_size;

pub use self::address::Address;
pub use self::live::{changes_needing_restart, live_settings, with_live_setting};
pub use self::settings::*;

/// The engine when nobody names one: the one that the project is about.
pub const ENGINE: &str = "pool";

/// What the program runs with.
pub struct Config {
    /// Read by `serve`, which starts it: a name from the list that [`Config::resolve`] was given. Default [`ENGINE`].
    pub engine: &'static str,
    /// Read by the engine, which binds them, in this order. Never empty; no two have the same address, unless the
    /// system chooses the port. Default: what the service registry names, on loopback.
    pub listeners: Vec<Listener>,
    /// Read by the engine.
    pub settings: Settings,
    /// Read by `serve` at exit: where the summary is written as JSON. Default: nowhere.
    pub summary_path: Option<PathBuf>,
    /// Read by log lines of a reload: the file this came from. Default: none, and a reload changes nothing.
    pub config_path: Option<PathBuf>,
    /// Read by `serve` at start, which says so in the log: settings that somebody gave and that this engine has no use
    /// for. No error, since whoever compares engines gives all of them the same flags.
    pub without_use: Vec<&'static str>,
}

/// One address, and the service that answers there.
#[derive(Clone)]
pub struct Listener {
    /// Name of the service in the registry.
    pub service_name: &'static str,
    /// How the address is reached.
    pub scheme: Scheme,
    /// Where to listen.
    pub address: Address,
    /// The service's parameters as they were given, a repeated one several times.
    pub parameters: Vec<(String, String)>,
    /// The service with these parameters; opens a session's handler.
    pub service: Arc<dyn Service>,
    /// Whether the idle timeout spares its sessions, because silence is their normal state.
    pub idle_exempt: bool,
    /// Whether somebody named this listener; false for the defaults.
    pub asked_for: bool,
}

/// How a listener is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Streams over TCP.
    Tcp,
    /// Datagrams over UDP.
    Udp,
    /// Streams over a socket in the file system.
    Unix,
}

/// An engine as the configuration and people need to know it.
#[derive(Clone, Copy)]
pub struct EngineInfo {
    /// What the user types: `--engine NAME`.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Whether it carries this service on this scheme; if not, why.
    pub carries: fn(service: &str, scheme: Scheme) -> Result<(), &'static str>,
    /// The settings that it has a use for, by their names in the file, beside the limits: every engine keeps those.
    pub options: &'static [&'static str],
    /// How many clients it serves at once.
    pub at_once: AtOnce,
    /// Whether it makes processes: then nothing else in this one may start a thread.
    pub forks: bool,
    /// Whether the number of its workers can change while it serves; if not, why.
    pub resizes: Result<(), &'static str>,
    /// Whether its listeners can change while it serves; if not, why.
    pub relistens: Result<(), &'static str>,
}

impl EngineInfo {
    /// Whether it has a use for the setting of this name: for its own, for limits, and for those of datagrams if it carries
    /// some.
    pub fn has_use_for(&self, setting: &str) -> bool {
        let has_endpoints = || (self.carries)("echo", Scheme::Udp).is_ok();
        let is_of_datagrams =
            keys::DATAGRAMS.contains(&setting) || keys::SWITCHES.contains(&setting) && self.at_once == AtOnce::Many;
        keys::LIMITS.contains(&setting) || self.options.contains(&setting) || is_of_datagrams && has_endpoints()
    }
}

/// How many clients are served at once: by an engine, or for a test to make sense. `One < Many`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AtOnce {
    /// One; the others wait in the backlog until it has left.
    One,
    /// As many as the limits let in.
    Many,
}

impl Config {
    /// The configuration that these flags and the file they name amount to. To reload it, see
    /// [`resolve_again`](Config::resolve_again).
    ///
    /// # Errors
    /// The first thing that is wrong, as [`Error::Usage`] for a flag and [`Error::Configuration`] for the file.
    pub fn resolve(args: &ServeArgs, engines: &'static [EngineInfo]) -> Result<Config, Error> {
        let path = args.config.as_deref();
        let file = path.map(file::read).transpose()?.unwrap_or(File { fields: Vec::new(), listen: None });
        let flags = args.given().map(|(key, text)| Field { key: key.to_owned(), text: text.to_owned(), line: None });
        let fields = Fields { path, given: file.fields.into_iter().chain(flags).collect() };
        let engine = fields.engine(engines)?;
        let settings = fields.settings()?;
        let summary_path = fields.last("summary").map(|field| match field.text.as_str() {
            "" => Err(fields.error(field, Unfit::new("the path is empty", "the path of a file"))),
            text => Ok(PathBuf::from(text)),
        });
        let Limits { max_frame_bytes, max_demand, .. } = settings.limits;
        let bounds = Bounds { max_frame_bytes, max_demand };
        let flags = args.listen.iter().map(|text| Asked::from_flag(text)).collect::<Result<Vec<_>, _>>()?;
        let listeners = match (flags.as_slice(), &file.listen) {
            ([], None) => listen::defaults(engine, &bounds)?,
            ([], Some(tables)) => build_listeners(tables, engine, path, &bounds)?,
            (flags, _) => build_listeners(flags, engine, None, &bounds)?,
        };
        Ok(Config {
            engine: engine.name,
            listeners,
            settings,
            summary_path: summary_path.transpose()?,
            config_path: path.map(Path::to_owned),
            without_use: fields.without_use(engine),
        })
    }

    /// What is known of the engine.
    ///
    /// # Panics
    /// If it is not among `engines`, the list that this was resolved with.
    pub fn engine_info(&self, engines: &'static [EngineInfo]) -> &'static EngineInfo {
        engines.iter().find(|engine| engine.name == self.engine).expect("it was resolved from this list")
    }

    /// The effective configuration as TOML, which `--config` takes again.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: toml::Value| {
            writeln!(text, "{key} = {value}").expect("a string takes everything");
        };
        line("engine", self.engine.into());
        if let Some(path) = &self.summary_path {
            line("summary", path.to_string_lossy().into_owned().into());
        }
        for key in KEYS {
            line(key.name, key.to_toml(&self.settings));
        }
        for listener in &self.listeners {
            text.push('\n');
            text.push_str(&listener.to_toml());
        }
        text
    }
}

impl Settings {
    /// Whether they are such as flags and files let through; for settings that come from elsewhere.
    ///
    /// # Errors
    /// The first that is out of its range, or does not fit the others, by its name in the file.
    pub fn check(&self) -> Result<(), Error> {
        let out_of_range = KEYS.iter().find_map(|key| Some((key.name, key.form.parse(&key.show(self)).err()?)));
        match out_of_range.or_else(|| poll_misfit(self)) {
            Some((name, Unfit { problem, expected })) => Err(Error::Usage { flag: name.to_owned(), problem, expected }),
            None => Ok(()),
        }
    }

    /// The least memory for rings: what the free lists of all who run turns keep, and one.
    fn least_buffer_bytes(&self) -> usize {
        ((self.workers + 1) * Leases::KEPT + 1) * self.ring_bytes
    }
}

/// A setting that does not fit others, each of which is in its range.
fn poll_misfit(settings: &Settings) -> Option<(&'static str, Unfit)> {
    let capacity = settings.queue_capacity;
    if let LowWater::At(depth) = settings.low_water
        && depth > capacity
    {
        let problem = format!("{depth} is more than the queue holds");
        return Some(("low_water", Unfit::new(problem, format!("at most {capacity}, the capacity of the queue"))));
    }
    let (buffers, least) = (settings.limits.max_buffer_bytes, settings.least_buffer_bytes());
    if buffers < least {
        let (workers, rings) = (settings.workers, show_size(settings.ring_bytes));
        let problem = format!("{} is too small for {workers} workers and rings of {rings}", show_size(buffers));
        return Some(("max_buffers", Unfit::new(problem, format!("at least {}", show_size(least)))));
    }
    None
}

/// The default of a setting, as its flag takes it, for the help text.
///
/// # Panics
/// There is no setting of this name: a bug in the help text.
pub fn default_of(name: &str) -> String {
    let key = keys::find(name).unwrap_or_else(|| panic!("{name} is a setting"));
    key.show(&Settings::default())
}

/// The ports that services over UDP have if nobody names a listener, in this daemon and in others like it.
pub fn default_udp_ports() -> impl Iterator<Item = u16> {
    let listeners = SERVICES.iter().flat_map(|entry| entry.default_listeners);
    listeners.filter(|(scheme, _)| *scheme == Scheme::Udp.name()).map(|(_, port)| *port)
}

/// The value of a setting, alone and without a look at the others, as it is shown: `0x10` and `16` are one.
///
/// # Errors
/// There is no setting of this name (none), or it does not take this value.
pub(crate) fn setting(name: &str, text: &str) -> Option<Result<String, Unfit>> {
    let key = keys::find(name)?;
    Some(key.form.parse(text).map(|value| key.form.show(value)))
}

/// The names of all services.
pub fn service_names() -> Vec<&'static str> {
    SERVICES.iter().map(|entry| entry.name).collect()
}

/// The names of all settings, as the file has them.
pub(crate) fn setting_names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name)
}

/// The names of those that every engine keeps.
#[cfg(test)]
pub(crate) fn limit_names() -> &'static [&'static str] {
    keys::LIMITS
}

/// Everything that was given, the later overriding the earlier, with where it was given.
struct Fields<'a> {
    path: Option<&'a Path>,
    given: Vec<Field>,
}

impl Fields<'_> {
    fn engine(&self, engines: &'static [EngineInfo]) -> Result<&'static EngineInfo, Error> {
        let by_name = |name: &str| engines.iter().find(|engine| engine.name == name);
        let Some(field) = self.last("engine") else {
            return Ok(by_name(ENGINE).expect("the list of engines has the default"));
        };
        by_name(&field.text).ok_or_else(|| {
            let known: Vec<&str> = engines.iter().map(|engine| engine.name).collect();
            let problem = format!("{} is not an engine", keys::shown(&field.text));
            self.error(field, Unfit::new(problem, known.join(" or ")))
        })
    }

    /// The settings that were given and that this engine has no use for, each once, in the order of [`KEYS`].
    fn without_use(&self, engine: &EngineInfo) -> Vec<&'static str> {
        let names = KEYS.iter().map(|key| key.name);
        names.filter(|name| !engine.has_use_for(name) && self.last(name).is_some()).collect()
    }

    fn settings(&self) -> Result<Settings, Error> {
        let mut settings = Settings::default();
        for field in &self.given {
            let Some(key) = keys::find(&field.key) else { continue };
            let value = key.form.parse(&field.text).map_err(|unfit| self.error(field, unfit))?;
            (key.set)(&mut settings, value);
        }
        let processes = settings.processes;
        for (low, high, low_name, high_name) in [
            (processes.min, processes.max, "min_processes", "max_processes"),
            (processes.min_spare, processes.max_spare, "min_spare", "max_spare"),
            (processes.min_spare, processes.max, "min_spare", "max_processes"),
        ] {
            if low > high {
                // One of them was given, or the defaults do not fit each other.
                let (field, value, expected) = match (self.last(low_name), self.last(high_name)) {
                    (Some(field), _) => (field, low, format!("at most {high}, which is {high_name}")),
                    (None, Some(field)) => (field, high, format!("at least {low}, which is {low_name}")),
                    (None, None) => unreachable!("INVARIANT in-range: the defaults fit each other"),
                };
                let problem = format!("{value} does not fit the other bound");
                return Err(self.error(field, Unfit::new(problem, expected)));
            }
        }
        if self.last("max_buffers").is_none() {
            settings.limits.max_buffer_bytes = settings.least_buffer_bytes().max(settings.limits.max_buffer_bytes);
        }
        if let Some((name, unfit)) = poll_misfit(&settings) {
            let field = self.last(name).expect("INVARIANT in-range: the defaults fit each other");
            return Err(self.error(field, unfit));
        }
        Ok(settings)
    }

    fn last(&self, key: &str) -> Option<&Field> {
        self.given.iter().rev().find(|field| field.key == key)
    }

    fn error(&self, field: &Field, unfit: Unfit) -> Error {
        match (self.path, field.line) {
            (Some(path), Some(line)) => source::configuration(path.to_owned(), line, &field.key, unfit),
            _ => {
                let flag = format!("--{}", field.key.replace('_', "-"));
                Error::Usage { flag, problem: unfit.problem, expected: unfit.expected }
            }
        }
    }
}

fn build_listeners(
    asked: &[Asked],
    engine: &EngineInfo,
    file: Option<&Path>,
    bounds: &Bounds,
) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::with_capacity(asked.len());
    for asked in asked {
        let listener = asked.build(engine, file, bounds)?;
        asked.check_against(&listener, &listeners, file)?;
        listeners.push(listener);
    }
    Ok(listeners)
}

impl Listener {
    /// The address with its scheme: `tcp://127.0.0.1:7007`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme.name(), self.address)
    }

    /// What was asked for, secrets too.
    fn asked(&self) -> (&'static str, Scheme, &Address, &[(String, String)]) {
        (self.service_name, self.scheme, &self.address, &self.parameters)
    }

    /// The table of it. What is secret is not shown: such a value is one that no service takes.
    fn to_toml(&self) -> String {
        let address = toml::Value::String(self.address.to_string());
        let mut text = format!(
            "[[listen]]\nservice = \"{}\"\nscheme = \"{}\"\naddress = {address}\n",
            self.service_name,
            self.scheme.name(),
        );
        for (at, (key, _)) in self.parameters.iter().enumerate() {
            let is_key = |(other, _): &&(String, String)| other == key;
            if self.parameters[..at].iter().any(|pair| is_key(&pair)) {
                continue;
            }
            let values = self.parameters.iter().filter(is_key);
            let values: Vec<&str> = values.map(|(key, value)| if key == SECRET { HIDDEN } else { value }).collect();
            let value: toml::Value = if let [value] = values[..] { value.into() } else { values.into() };
            writeln!(text, "{key} = {value}").expect("a string takes everything");
        }
        text
    }
}

impl Scheme {
    /// All schemes.
    pub const ALL: [Scheme; 3] = [Scheme::Tcp, Scheme::Udp, Scheme::Unix];

    /// The scheme of this name.
    pub fn from_name(name: &str) -> Option<Scheme> {
        Scheme::ALL.into_iter().find(|scheme| scheme.name() == name)
    }

    /// The name that users type before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Tcp => "tcp",
            Scheme::Udp => "udp",
            Scheme::Unix => "unix",
        }
    }
}
