//! The settings by name: for each what it takes, where it is kept, and whether a running daemon may change it.
//!
//! One row of [`KEYS`] serves the flag (`--low-water`), the key of the file (`low_water`), the printed configuration
//! and the default in the help text, so that the four cannot disagree. Invariant *form-decides-type*: `set` is called
//! only with a value that the row's form has let through. Read next: `file.rs`, which finds the keys in a file.

use std::num::NonZeroU32;
use std::time::Duration;

use super::settings::{Limits, LowWater, MAX_WORKERS, Placement, Rearm, Settings, Wake, available_cores, file_threads};
pub(crate) use crate::units::shown;
use crate::units::{parse_duration, parse_size, show_duration, show_size};

/// A setting as flags and files know it.
pub(super) struct Key {
    /// Its name in the file; the flag is the same with dashes.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) form: Form,
    /// Whether a reload or an operator may change it while the daemon runs.
    pub(super) live: Live,
    /// Puts a value that `form` has let through where it belongs.
    pub(super) set: fn(&mut Settings, Value),
    /// The value in force.
    pub(super) value: fn(&Settings) -> Value,
}

/// Whether a reload may change a setting while the daemon runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Live {
    Yes,
    No,
    /// If the engine resizes.
    Resizing,
}

/// What a setting takes. `words` stand for themselves beside the quantity.
pub(super) enum Form {
    Count { words: &'static [&'static str], min: usize, max: usize },
    Size { min: usize, max: usize },
    Time { words: &'static [&'static str], min: Duration, max: Duration },
    Word(&'static [&'static str]),
    Switch,
}

/// A value that some form has let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Word(&'static str),
    Count(usize),
    Time(Duration),
    Switch(bool),
}

/// Why a value was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// What is wrong, with the value.
    pub(crate) problem: String,
    /// What would have been right.
    pub(crate) expected: String,
}

impl Unfit {
    pub(crate) fn new(problem: impl Into<String>, expected: impl Into<String>) -> Unfit {
        Unfit { problem: problem.into(), expected: expected.into() }
    }
}

const DAY: Duration = Duration::from_secs(86_400);
const MILLISECOND: Duration = Duration::from_millis(1);
const GIB: usize = 1 << 30;

/// Processes that a scoreboard has places for.
const MAX_PROCESS_COUNT: usize = 4_096;

/// Answers a second above which a rate would be none: the guard counts in nanoseconds.
const MAX_RATE: usize = 1_000_000_000;

/// All settings, in the order in which they are printed. The upper bounds are there so that a slip of the keyboard is
/// an error and not an allocation; they lie well above what has been measured to be of use.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "workers",
        form: Form::Count { words: &["auto"], min: 1, max: MAX_WORKERS },
        live: Live::Resizing,
        set: |settings, value| {
            settings.workers = match value {
                Value::Word(_) => available_cores(),
                value => value.count(),
            }
        },
        value: |settings| Value::Count(settings.workers),
    },
    Key {
        name: "queue",
        form: Form::Count { words: &[], min: 1, max: 1 << 20 },
        live: Live::No,
        set: |settings, value| settings.queue_capacity = value.count(),
        value: |settings| Value::Count(settings.queue_capacity),
    },
    Key {
        name: "low_water",
        form: Form::Count { words: &["auto", "off"], min: 0, max: 1 << 20 },
        live: Live::Yes,
        set: |settings, value| {
            settings.low_water = match value {
                Value::Word("auto") => LowWater::Auto,
                Value::Word(_) => LowWater::Off,
                value => LowWater::At(value.count()),
            }
        },
        value: |settings| match settings.low_water {
            LowWater::Auto => Value::Word("auto"),
            LowWater::At(depth) => Value::Count(depth),
            LowWater::Off => Value::Word("off"),
        },
    },
    Key {
        name: "wake",
        form: Form::Time { words: &["auto", "each"], min: Duration::ZERO, max: Duration::from_secs(1) },
        live: Live::No,
        set: |settings, value| {
            settings.wake = match value {
                Value::Word("auto") => Wake::Auto,
                Value::Word(_) => Wake::Each,
                value => Wake::Above(value.time()),
            }
        },
        value: |settings| match settings.wake {
            Wake::Auto => Value::Word("auto"),
            Wake::Each => Value::Word("each"),
            Wake::Above(backlog) => Value::Time(backlog),
        },
    },
    Key {
        name: "batch",
        form: Form::Count { words: &[], min: 1, max: 1 << 16 },
        live: Live::Yes,
        set: |settings, value| settings.batch = value.count(),
        value: |settings| Value::Count(settings.batch),
    },
    Key {
        name: "spin",
        form: Form::Time { words: &[], min: Duration::ZERO, max: Duration::from_secs(1) },
        live: Live::Yes,
        set: |settings, value| settings.spin = value.time(),
        value: |settings| Value::Time(settings.spin),
    },
    Key {
        name: "budget",
        form: Form::Size { min: 1, max: GIB },
        live: Live::Yes,
        set: |settings, value| settings.budget_bytes = value.count(),
        value: |settings| Value::Count(settings.budget_bytes),
    },
    Key {
        name: "ring",
        form: Form::Size { min: 1 << 10, max: 16 << 20 },
        live: Live::No,
        set: |settings, value| settings.ring_bytes = value.count(),
        value: |settings| Value::Count(settings.ring_bytes),
    },
    Key {
        name: "rearm",
        form: Form::Word(&["edge", "oneshot"]),
        live: Live::No,
        set: |settings, value| {
            settings.rearm = match value {
                Value::Word("oneshot") => Rearm::Oneshot,
                _ => Rearm::Edge,
            }
        },
        value: |settings| match settings.rearm {
            Rearm::Edge => Value::Word("edge"),
            Rearm::Oneshot => Value::Word("oneshot"),
        },
    },
    Key {
        name: "assist",
        form: Form::Switch,
        live: Live::No,
        set: |settings, value| settings.assist = value.switch(),
        value: |settings| Value::Switch(settings.assist),
    },
    Key {
        name: "stages",
        form: Form::Switch,
        live: Live::No,
        set: |settings, value| settings.stages = value.switch(),
        value: |settings| Value::Switch(settings.stages),
    },
    Key {
        name: "pin",
        form: Form::Switch,
        live: Live::No,
        set: |settings, value| settings.pin = value.switch(),
        value: |settings| Value::Switch(settings.pin),
    },
    Key {
        name: "placement",
        form: Form::Word(&["reuseport", "round-robin", "least"]),
        live: Live::No,
        set: |settings, value| {
            settings.placement = match value {
                Value::Word("round-robin") => Placement::RoundRobin,
                Value::Word("least") => Placement::Least,
                _ => Placement::ReusePort,
            }
        },
        value: |settings| match settings.placement {
            Placement::ReusePort => Value::Word("reuseport"),
            Placement::RoundRobin => Value::Word("round-robin"),
            Placement::Least => Value::Word("least"),
        },
    },
    Key {
        name: "min_processes",
        form: Form::Count { words: &[], min: 1, max: MAX_PROCESS_COUNT },
        live: Live::No,
        set: |settings, value| settings.processes.min = value.count(),
        value: |settings| Value::Count(settings.processes.min),
    },
    Key {
        name: "max_processes",
        form: Form::Count { words: &[], min: 1, max: MAX_PROCESS_COUNT },
        live: Live::No,
        set: |settings, value| settings.processes.max = value.count(),
        value: |settings| Value::Count(settings.processes.max),
    },
    Key {
        name: "min_spare",
        form: Form::Count { words: &[], min: 1, max: MAX_PROCESS_COUNT },
        live: Live::No,
        set: |settings, value| settings.processes.min_spare = value.count(),
        value: |settings| Value::Count(settings.processes.min_spare),
    },
    Key {
        name: "max_spare",
        form: Form::Count { words: &[], min: 1, max: MAX_PROCESS_COUNT },
        live: Live::No,
        set: |settings, value| settings.processes.max_spare = value.count(),
        value: |settings| Value::Count(settings.processes.max_spare),
    },
    Key {
        name: "jobs",
        form: Form::Count { words: &["auto"], min: 1, max: MAX_WORKERS },
        live: Live::No,
        set: |settings, value| {
            settings.jobs = match value {
                Value::Word(_) => available_cores(),
                value => value.count(),
            }
        },
        value: |settings| Value::Count(settings.jobs),
    },
    Key {
        name: "file_jobs",
        form: Form::Count { words: &["auto"], min: 1, max: MAX_WORKERS },
        live: Live::No,
        set: |settings, value| {
            settings.file_jobs = match value {
                Value::Word(_) => file_threads(),
                value => value.count(),
            }
        },
        value: |settings| Value::Count(settings.file_jobs),
    },
    Key {
        name: "job_backlog",
        form: Form::Count { words: &[], min: 1, max: 1 << 20 },
        live: Live::No,
        set: |settings, value| settings.job_backlog = value.count(),
        value: |settings| Value::Count(settings.job_backlog),
    },
    Key {
        name: "udp_public",
        form: Form::Switch,
        live: Live::No,
        set: |settings, value| settings.datagrams.is_public = value.switch(),
        value: |settings| Value::Switch(settings.datagrams.is_public),
    },
    Key {
        name: "udp_source_rate",
        form: Form::Count { words: &["off"], min: 1, max: MAX_RATE },
        live: Live::No,
        set: |settings, value| settings.datagrams.source_rate = value.rate(),
        value: |settings| {
            settings.datagrams.source_rate.map_or(Value::Word("off"), |rate| Value::Count(rate.get() as usize))
        },
    },
    Key {
        name: "udp_total_rate",
        form: Form::Count { words: &["off"], min: 1, max: MAX_RATE },
        live: Live::No,
        set: |settings, value| settings.datagrams.total_rate = value.rate(),
        value: |settings| {
            settings.datagrams.total_rate.map_or(Value::Word("off"), |rate| Value::Count(rate.get() as usize))
        },
    },
    Key {
        name: "udp_limit_local",
        form: Form::Switch,
        live: Live::No,
        set: |settings, value| settings.datagrams.limits_local = value.switch(),
        value: |settings| Value::Switch(settings.datagrams.limits_local),
    },
    Key {
        name: "udp_buffer",
        form: Form::Size { min: 4 << 10, max: GIB },
        live: Live::No,
        set: |settings, value| settings.datagrams.buffer_bytes = value.count(),
        value: |settings| Value::Count(settings.datagrams.buffer_bytes),
    },
    Key {
        name: "udp_mmsg",
        form: Form::Switch,
        live: Live::No,
        set: |settings, value| settings.datagrams.mmsg = value.switch(),
        value: |settings| Value::Switch(settings.datagrams.mmsg),
    },
    Key {
        name: "udp_gso",
        form: Form::Switch,
        live: Live::No,
        set: |settings, value| settings.datagrams.gso = value.switch(),
        value: |settings| Value::Switch(settings.datagrams.gso),
    },
    Key {
        name: "udp_gro",
        form: Form::Switch,
        live: Live::No,
        set: |settings, value| settings.datagrams.gro = value.switch(),
        value: |settings| Value::Switch(settings.datagrams.gro),
    },
    Key {
        name: "max_connections",
        form: Form::Count { words: &[], min: 1, max: 1 << 22 },
        live: Live::Yes,
        set: |settings, value| settings.limits.max_connections = value.count(),
        value: |settings| Value::Count(settings.limits.max_connections),
    },
    Key {
        name: "max_buffers",
        form: Form::Size { min: 1 << 10, max: 1_024 * GIB },
        live: Live::No,
        set: |settings, value| settings.limits.max_buffer_bytes = value.count(),
        value: |settings| Value::Count(settings.limits.max_buffer_bytes),
    },
    Key {
        name: "max_frame",
        form: Form::Size { min: 20, max: GIB },
        live: Live::No,
        set: |settings, value| settings.limits.max_frame_bytes = value.count(),
        value: |settings| Value::Count(settings.limits.max_frame_bytes),
    },
    Key {
        name: "max_demand",
        form: Form::Time { words: &[], min: Duration::ZERO, max: DAY },
        live: Live::No,
        set: |settings, value| settings.limits.max_demand = value.time(),
        value: |settings| Value::Time(settings.limits.max_demand),
    },
    Key {
        name: "idle_timeout",
        form: Form::Time { words: &["off"], min: MILLISECOND, max: DAY },
        live: Live::Yes,
        set: |settings, value| {
            settings.limits.idle_timeout = match value {
                Value::Word(_) => Limits::NEVER,
                value => value.time(),
            }
        },
        value: |settings| match settings.limits.idle_timeout {
            Limits::NEVER => Value::Word("off"),
            timeout => Value::Time(timeout),
        },
    },
    Key {
        name: "write_timeout",
        form: Form::Time { words: &[], min: MILLISECOND, max: DAY },
        live: Live::Yes,
        set: |settings, value| settings.limits.write_timeout = value.time(),
        value: |settings| Value::Time(settings.limits.write_timeout),
    },
    Key {
        name: "drain_timeout",
        form: Form::Time { words: &[], min: MILLISECOND, max: DAY },
        live: Live::Yes,
        set: |settings, value| settings.limits.drain_timeout = value.time(),
        value: |settings| Value::Time(settings.limits.drain_timeout),
    },
];

/// The settings that every engine keeps. Each of the others means something to the engines that name it in their
/// `options`.
pub(super) const LIMITS: &[&str] =
    &["max_connections", "max_buffers", "max_frame", "max_demand", "idle_timeout", "write_timeout", "drain_timeout"];

/// The settings that every engine has a use for that carries datagrams.
pub(super) const DATAGRAMS: &[&str] =
    &["udp_public", "udp_source_rate", "udp_total_rate", "udp_limit_local", "udp_buffer"];

/// Those that it has a use for if it moves more than one datagram at a time.
pub(super) const SWITCHES: &[&str] = &["udp_mmsg", "udp_gso", "udp_gro"];

/// The setting of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// The value in force, as the flag takes it.
    pub(super) fn show(&self, settings: &Settings) -> String {
        self.form.show((self.value)(settings))
    }

    /// The value in force, as the file takes it.
    pub(super) fn to_toml(&self, settings: &Settings) -> toml::Value {
        match ((self.value)(settings), &self.form) {
            (Value::Switch(on), _) => toml::Value::Boolean(on),
            (Value::Count(count), Form::Count { max, .. }) => {
                debug_assert!(count <= *max);
                toml::Value::Integer(i64::try_from(count).expect("every bound fits"))
            }
            (value, form) => toml::Value::String(form.show(value)),
        }
    }
}

impl Form {
    /// The value written as `text`.
    pub(super) fn parse(&self, text: &str) -> Result<Value, Unfit> {
        let unfit = |problem: &str| Unfit::new(format!("{} {problem}", shown(text)), self.expected());
        let words = match self {
            Form::Count { words, .. } | Form::Time { words, .. } | Form::Word(words) => words,
            Form::Size { .. } => &[][..],
            Form::Switch => &["on", "off"],
        };
        if let Some(&word) = words.iter().find(|word| **word == text) {
            return Ok(if matches!(self, Form::Switch) { Value::Switch(word == "on") } else { Value::Word(word) });
        }
        match *self {
            Form::Count { min, max, .. } => {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let count =
                    if digits { text.parse().unwrap_or(usize::MAX) } else { return Err(unfit("is not a number")) };
                within(count, min, max).map(Value::Count).map_err(unfit)
            }
            Form::Size { min, max } => {
                let bytes = parse_size(text).map_err(unfit)?;
                within(bytes, min, max).map(Value::Count).map_err(unfit)
            }
            Form::Time { min, max, .. } => {
                let duration = parse_duration(text).map_err(unfit)?;
                within(duration, min, max).map(Value::Time).map_err(unfit)
            }
            Form::Word(_) | Form::Switch => Err(unfit("is not known")),
        }
    }

    /// What would have been right, as it follows "expected".
    pub(super) fn expected(&self) -> String {
        let or_quantity = |words: &[&str], quantity: String| {
            words.iter().map(|word| (*word).to_owned()).chain([quantity]).collect::<Vec<_>>().join(" or ")
        };
        match *self {
            Form::Count { words, min, max } => or_quantity(words, format!("a number from {min} to {max}")),
            Form::Size { min, max } => {
                format!("a size such as 64, 16KiB or 1MiB, from {} to {}", show_size(min), show_size(max))
            }
            Form::Time { words, min, max } => {
                let range = format!("from {} to {}", show_duration(min), show_duration(max));
                or_quantity(words, format!("a duration such as 250us, 10ms or 5s, {range}"))
            }
            Form::Word(words) => words.join(" or "),
            Form::Switch => "on or off".to_owned(),
        }
    }

    pub(super) fn show(&self, value: Value) -> String {
        match (value, self) {
            (Value::Word(word), _) => word.to_owned(),
            (Value::Count(bytes), Form::Size { .. }) => show_size(bytes),
            (Value::Count(count), _) => count.to_string(),
            (Value::Time(duration), _) => show_duration(duration),
            (Value::Switch(on), _) => if on { "on" } else { "off" }.to_owned(),
        }
    }
}

impl Value {
    fn count(self) -> usize {
        match self {
            Value::Count(count) => count,
            other => unreachable!("INVARIANT form-decides-type: {other:?} is no count"),
        }
    }

    fn rate(self) -> Option<NonZeroU32> {
        match self {
            Value::Word(_) => None,
            value => NonZeroU32::new(u32::try_from(value.count()).expect("every bound fits")),
        }
    }

    fn time(self) -> Duration {
        match self {
            Value::Time(duration) => duration,
            other => unreachable!("INVARIANT form-decides-type: {other:?} is no duration"),
        }
    }

    fn switch(self) -> bool {
        match self {
            Value::Switch(on) => on,
            other => unreachable!("INVARIANT form-decides-type: {other:?} is no switch"),
        }
    }
}

/// The value, if it lies in the range; otherwise what is wrong with it, as it follows the value in a sentence.
pub(crate) fn within<T: PartialOrd>(value: T, min: T, max: T) -> Result<T, &'static str> {
    if value < min {
        Err("is too small")
    } else if value > max {
        Err("is too large")
    } else {
        Ok(value)
    }
}
