//! What signals and operators bring about: [`Operations`], one for the process; [`Attendant`], the thread that hears them.
//!
//! Signals: the first SIGTERM or SIGINT drains, the second stops at once; SIGUSR1 prints the summary; SIGHUP reads the
//! configuration again (`reload.rs`), or keeps the old one and says why. What operators ask for is in `session/operator.rs`.
//!
//! They come by one descriptor: to a thread that waits for nothing else, so that no hot thread ever does more than look at
//! a queue of commands; or to the one thread of a process that forks, between other things. Nothing here waits: what takes
//! a while is asked for, and the operator is told when it is there.

mod answers;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use log::{LevelFilter, info, warn};

use self::answers::{InForceLater, SessionList};
use super::{Daemon, Relistened};
use crate::cli::ServeArgs;
use crate::config::{self, Config, Limits};
use crate::console::{Console, Orders};
use crate::engine::ENGINES;
use crate::logging::Log;
use crate::metrics::screen::Screen;
use crate::net::children::{Signal, SignalFd};
use crate::net::os;
use crate::session::operator::{Answer, Lines, Order};

/// The level of the log as operators set it. It is no setting of the file: there the environment says.
const LOG_LEVEL: &str = "log_level";

/// Waits for signals and operators, and sees to them.
pub(super) struct Attendant {
    pub(super) operations: Arc<Operations>,
    pub(super) signals: SignalFd,
    /// Watches the signals, too.
    pub(super) console: Console,
}

impl Attendant {
    pub(super) fn run(mut self) {
        loop {
            os::wait_for_input(self.console.as_fd());
            self.handle();
        }
    }

    /// Does what there is to do, without waiting.
    pub(super) fn handle(&mut self) {
        let write_timeout = self.operations.config().settings.limits.write_timeout;
        if self.console.handle(write_timeout) {
            while let Some(signal) = self.signals.read().expect("a signal descriptor can be read") {
                self.operations.handle_signal(signal);
            }
        }
        self.operations.begin_asked_drain();
    }
}

/// Carries signals and orders out.
pub(super) struct Operations {
    daemon: Arc<Daemon>,
    args: ServeArgs,
    log: Log,
    /// What is in force, as far as it can change.
    config: Mutex<Config>,
    is_draining: AtomicBool,
    /// An operator has asked for it, and is answered first.
    must_drain: AtomicBool,
}

impl Operations {
    pub(super) fn new(daemon: Arc<Daemon>, args: ServeArgs, config: Config, log: Log) -> Arc<Operations> {
        let (is_draining, must_drain) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Operations { daemon, args, log, config: Mutex::new(config), is_draining, must_drain })
    }

    /// By whom a console has its orders carried out.
    pub(super) fn orders(self: Arc<Operations>) -> Orders {
        Arc::new(move |order| self.carry_out(order))
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().expect("no thread panics while it holds this lock")
    }

    fn handle_signal(&self, signal: Signal) {
        match signal {
            Signal::TERM | Signal::INT if self.is_draining.load(Ordering::Relaxed) => {
                info!("a second signal: stopping at once");
                self.daemon.stop();
            }
            Signal::TERM | Signal::INT => self.drain(),
            Signal::USR1 => {
                let mut summary = self.daemon.summary();
                summary.log_lines_dropped = self.log.dropped_lines();
                self.log.print(summary);
            }
            _ => self.reload(),
        }
    }

    fn drain(&self) {
        if self.is_draining.swap(true, Ordering::Relaxed) {
            return;
        }
        info!("draining, at most {:?}; another signal stops at once", self.config().settings.limits.drain_timeout);
        self.daemon.drain();
    }

    /// Whoever asked has been answered, as far as its socket takes it.
    fn begin_asked_drain(&self) {
        if self.must_drain.swap(false, Ordering::Relaxed) {
            self.drain();
        }
    }

    fn reload(&self) {
        if self.is_draining.load(Ordering::Relaxed) {
            warn!("SIGHUP: the daemon drains, and nothing changes any more");
            return;
        }
        let Some(path) = self.config().config_path.clone() else {
            warn!("SIGHUP: there is no configuration file to read again");
            return;
        };
        // Reading a pipe could keep this thread from every later signal; and it would find nothing new there.
        if !std::fs::metadata(&path).is_ok_and(|file| file.is_file()) {
            warn!("SIGHUP: the old configuration stays in force: {} is no regular file", path.display());
            return;
        }
        let resolved = self.config().resolve_again(&self.args, ENGINES);
        let new = match resolved {
            Ok(new) => new,
            Err(reason) => {
                warn!("SIGHUP: the old configuration stays in force: {reason}");
                return;
            }
        };
        // Another engine may carry other services: then the listeners wait with it.
        let is_same_engine = new.engine == self.config().engine;
        let listened = if is_same_engine { self.daemon.listen(&new) } else { Ok(Relistened::default()) };
        let Relistened { changes, waiting } = match listened {
            Ok(listened) => listened,
            Err(reason) => {
                warn!("SIGHUP: the old configuration stays in force: {reason}");
                return;
            }
        };
        changes.iter().for_each(|change| info!("SIGHUP: {change}"));
        self.reload_workers(new.settings.workers);
        let mut config = self.config();
        let mut restart = config::changes_needing_restart(self.daemon.info, &config, &new);
        restart.extend(waiting);
        if !restart.is_empty() {
            warn!("SIGHUP: these changes wait for a restart: {}", restart.join(", "));
        }
        let Config { settings: mut new, listeners, .. } = new;
        self.daemon.tune(&mut new);
        info!("SIGHUP: {} is in force", path.display());
        config.settings.set_tuning(new.tuning());
        // The memory of rings is one of the changes that wait: the next reload is to say so again.
        let max_buffer_bytes = config.settings.limits.max_buffer_bytes;
        config.settings.limits = Limits { max_buffer_bytes, ..new.limits };
        if is_same_engine {
            config.listeners = listeners;
        }
    }

    /// Has as many workers as the file says, where they can change while the daemon serves.
    fn reload_workers(&self, workers: usize) {
        if self.daemon.info.resizes.is_err() {
            return;
        }
        let before = self.daemon.workers();
        if workers == before {
            return;
        }
        let in_force = move |workers| info!("SIGHUP: workers = {workers} is in force (before: {before})");
        if let Err(reason) = self.daemon.set_workers(workers, in_force) {
            warn!("SIGHUP: workers = {before} stays in force: {reason}");
        }
    }

    fn carry_out(self: &Arc<Operations>, order: Order) -> Box<dyn Answer> {
        match order {
            Order::Stats => {
                let mut summary = self.daemon.summary();
                summary.log_lines_dropped = self.log.dropped_lines();
                Lines::of(format!("{}ok", Screen(&summary)))
            }
            Order::Sessions => Box::new(SessionList::new(Arc::clone(&self.daemon))),
            Order::Kill(id) if self.daemon.kill(id) => Lines::of("ok"),
            Order::Kill(id) => error(&format!("{id} is no session that is open; expected an id that sessions tells")),
            Order::Workers(None) => Lines::of(format!("workers {}", self.daemon.workers())),
            Order::Workers(Some(workers)) => self.resize(workers),
            Order::Settings => self.show_settings(),
            Order::Set { key, value } => match self.set(&key, &value) {
                Ok(()) => Lines::of("ok"),
                Err(problem) => error(&problem),
            },
            Order::Drain => {
                self.must_drain.store(true, Ordering::Relaxed);
                let timeout = self.config().settings.limits.drain_timeout;
                Lines::of(format!("ok draining, at most {timeout:?}"))
            }
        }
    }

    fn resize(&self, workers: usize) -> Box<dyn Answer> {
        let in_force = Arc::new(OnceLock::new());
        let told = Arc::clone(&in_force);
        // Told once; a second time would change nothing.
        let tell = move |workers| {
            let _ = told.set(workers);
        };
        match self.daemon.set_workers(workers, tell) {
            Ok(()) => Box::new(InForceLater { in_force, is_said: false }),
            Err(reason) => error(&reason.to_string()),
        }
    }

    fn show_settings(&self) -> Box<dyn Answer> {
        let engine = self.daemon.info;
        let settings = config::live_settings(&self.config().settings, engine);
        let mut text: String = settings.iter().map(|(key, value)| format!(" {key} {value}\n")).collect();
        text += &format!(" {LOG_LEVEL} {}\nok", log::max_level().to_string().to_lowercase());
        Lines::of(text)
    }

    fn set(&self, key: &str, value: &str) -> Result<(), String> {
        if key == LOG_LEVEL {
            let level: LevelFilter = value.parse().map_err(|_| {
                format!(
                    "{LOG_LEVEL}: {} is not known; expected off, error, warn, info, debug or trace",
                    value.escape_debug()
                )
            })?;
            self.log.set_level(level);
            return Ok(());
        }
        let engine = self.daemon.info;
        let mut config = self.config();
        let settings = config::with_live_setting(&config.settings, engine, key, value);
        // Those of the configuration are all that it knows of.
        let with_level =
            |why: String| if why.contains("expected one of") { format!("{why}, {LOG_LEVEL}") } else { why };
        let mut settings = settings.map_err(with_level)?;
        self.daemon.tune(&mut settings);
        info!("an operator has set {key} to {value}");
        config.settings = settings;
        Ok(())
    }
}

fn error(problem: &str) -> Box<dyn Answer> {
    Lines::of(format!("error {problem}"))
}
