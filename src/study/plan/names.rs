//! The parameters of a plan by name: those of the study itself, those of the load, and every setting of the daemon.
//!
//! A setting has the name that it has in the daemon's own file, but for one: there `pin` says whether workers are
//! pinned, and here how server and load share the machine, so the setting is called [`PIN_WORKERS`]. A parameter of a
//! listener, such as `shed`, has the name that stands behind its `?`.

use crate::config::setting_names;
use crate::service::find;

/// The daemon's setting `pin`, as plans call it.
pub(super) const PIN_WORKERS: &str = "pin_workers";
/// The rates that follow each other in one run: a list that does not vary.
pub(super) const PHASES: &str = "phases";

/// Of the study: one value each, the same for all runs.
const STUDY: &[&str] =
    &["repeats", "duration", "warmup", "cooldown", "grace", "interval", PHASES, "seed", "pin", "objective", "threads"];

/// Of the load, and which server it is put on.
const LOAD: &[&str] = &[
    "engine",
    "service",
    "demand",
    "kind",
    "load",
    "rate",
    "arrivals",
    "connections",
    "depth",
    "requests_per_connection",
    "size",
];

/// The services that a study can load.
pub(super) const SERVICES: &[&str] = &["work", "echo"];

/// All names, in the order in which people are shown them; rows and labels keep to it.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    let settings = setting_names().map(|name| if name == "pin" { PIN_WORKERS } else { name });
    STUDY.iter().copied().chain(LOAD.iter().copied()).chain(settings).chain(of_listeners())
}

pub(super) fn is_known(name: &str) -> bool {
    all().any(|known| known == name)
}

/// Whether several values of it make several configurations or points.
pub(super) fn may_vary(name: &str) -> bool {
    !STUDY.contains(&name)
}

/// Whether it is a parameter of this service's listener.
pub(super) fn is_of_listener(service: &str, name: &str) -> bool {
    find(service).is_some_and(|entry| entry.parameters.iter().any(|(known, _)| *known == name))
}

/// The daemon's setting of this name, if it is one.
pub(super) fn setting(name: &str) -> Option<&'static str> {
    match name {
        PIN_WORKERS => Some("pin"),
        "pin" => None,
        name => setting_names().find(|known| *known == name),
    }
}

fn of_listeners() -> impl Iterator<Item = &'static str> {
    let entries = SERVICES.iter().filter_map(|service| find(service));
    entries.flat_map(|entry| entry.parameters.iter().map(|(name, _)| *name))
}
