//! Settings that change while the daemon runs: by a reload, which says what has to wait, or one at a time.

use super::keys::{self, KEYS, Key, Live, Unfit};
use super::{Config, EngineInfo, Listener, Settings, poll_misfit};
use crate::cli::ServeArgs;
use crate::error::Error;

impl Config {
    /// What the same flags and the file amount to now, to go on with instead of this one.
    ///
    /// # Errors
    /// Those of [`Config::resolve`], and a file that named listeners and names none any more. Whoever wants the defaults
    /// restarts: a file that was emptied by mistake, or is just being written, must not close what is served.
    pub fn resolve_again(&self, args: &ServeArgs, engines: &'static [EngineInfo]) -> Result<Config, Error> {
        let new = Config::resolve(args, engines)?;
        match &new.config_path {
            Some(file) if self.names_listeners() && !new.names_listeners() => Err(Error::Configuration {
                file: file.clone(),
                line: None,
                key: Some("listen".to_owned()),
                problem: "no listener is named any more".to_owned(),
                expected: "at least one [[listen]] table, as before".to_owned(),
            }),
            _ => Ok(new),
        }
    }

    /// Whether somebody has named the listeners; otherwise they are the defaults.
    fn names_listeners(&self) -> bool {
        self.listeners.iter().any(|listener| listener.asked_for)
    }
}

/// The keys whose values differ between the two configurations and that a daemon with this engine cannot change while it
/// runs; of listeners only that they wait with another engine, since the daemon knows what it can do with them.
pub fn changes_needing_restart(engine: &EngineInfo, old: &Config, new: &Config) -> Vec<String> {
    let mut changed = Vec::new();
    if old.engine != new.engine {
        changed.push("engine");
        if !old.listeners.iter().map(Listener::asked).eq(new.listeners.iter().map(Listener::asked)) {
            changed.push("listen");
        }
    }
    if old.summary_path != new.summary_path {
        changed.push("summary");
    }
    let differs = |key: &&Key| (key.value)(&old.settings) != (key.value)(&new.settings);
    let waits = |key: &Key| match key.live {
        Live::Yes => None,
        Live::No => Some(key.name.to_owned()),
        Live::Resizing => engine.resizes.err().map(|reason| format!("{} ({reason})", key.name)),
    };
    changed.into_iter().map(str::to_owned).chain(KEYS.iter().filter(differs).filter_map(waits)).collect()
}

/// The settings that can be changed while this engine runs, with their values.
pub fn live_settings(settings: &Settings, engine: &EngineInfo) -> Vec<(&'static str, String)> {
    live_keys(engine).map(|key| (key.name, key.show(settings))).collect()
}

/// These settings with one of them changed.
///
/// # Errors
/// Why that cannot be, with what was expected.
pub fn with_live_setting(
    settings: &Settings,
    engine: &EngineInfo,
    name: &str,
    value: &str,
) -> Result<Settings, String> {
    let error = |Unfit { problem, expected }: Unfit| format!("{name}: {problem}; expected {expected}");
    let Some(key) = live_keys(engine).find(|key| key.name == name) else {
        let known: Vec<&str> = live_keys(engine).map(|key| key.name).collect();
        let problem = match keys::find(name) {
            Some(Key { live: Live::Resizing, .. }) => "workers are changed by `workers N`".to_owned(),
            Some(Key { live: Live::No, .. }) => format!("{name} can only be changed by a restart"),
            Some(_) => format!("engine {} has no use for {name}", engine.name),
            None => format!("{} is no setting", keys::shown(name)),
        };
        return Err(format!("{problem}; expected one of {}", known.join(", ")));
    };
    let mut changed = settings.clone();
    (key.set)(&mut changed, key.form.parse(value).map_err(error)?);
    match poll_misfit(&changed) {
        Some((_, unfit)) => Err(error(unfit)),
        None => Ok(changed),
    }
}

fn live_keys(engine: &EngineInfo) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| key.live == Live::Yes && engine.has_use_for(key.name))
}
