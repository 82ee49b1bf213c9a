//! The log: `env_logger` makes the line on the calling thread, a bounded queue and one thread take it to stderr.
//!
//! A process that forks must have one thread: there the queue is drained by the loop of that thread, as far as stderr takes
//! it without waiting ([`drain`]), and the writer's thread is never started.
//!
//! A stopped reader of stderr blocks only the writer. When the queue is full a line is dropped and counted, and when
//! the writer has caught up it says how many. Nothing here decides what is worth a line.
//!
//! Invariants: *never-blocks*: a thread that logs waits for no reader of stderr; only [`Log::flush`] waits, and no
//! longer than [`PATIENCE`]. *nothing-in-silence*: every line is written or counted as dropped, up to the last flush.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use env_logger::{Builder, Logger, Target, WriteStyle};
use log::LevelFilter;

use crate::net::os;

/// Lines that wait for the writer: a burst of one line per session of a busy second, at some hundred bytes each.
pub const QUEUE_LINES: usize = 1_024;

/// How long [`Log::flush`] waits at most. Long enough for any reader that still reads, too short to annoy.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The log of the process. Clones are the same log.
#[derive(Clone)]
pub struct Log {
    queue: Sender<Entry>,
    dropped: Arc<AtomicU64>,
    /// The other end of the queue, until the writer's thread takes it.
    inline: Arc<Mutex<Option<Inline>>>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Takes what was logged so far to stderr, as far as that takes it without waiting; what is left stays in the queue. Only
/// where the writer has no thread.
pub fn drain() {
    if let Some(log) = LOG.get() {
        log.drain(Duration::ZERO);
    }
}

/// Forgets what was logged and not written: for a child process, whose parent writes it.
pub fn forget() {
    if let Some(inline) = LOG.get().and_then(|log| log.inline().take()) {
        inline.entries.try_iter().for_each(drop);
        let kept = Inline { unwritten: Vec::new(), ..inline };
        *LOG.get().expect("it was there above").inline() = Some(kept);
    }
}

enum Entry {
    /// Bytes of whole lines.
    Lines(Vec<u8>),
    /// Everything before this has been written; say so.
    Flush(Sender<()>),
}

impl Log {
    /// Makes this the log of the process: the level is that of `MAITRED_LOG`, else of `RUST_LOG`, else info. Called again,
    /// it returns the same log. Until [`start_writer`](Log::start_writer), lines wait for a flush or a [`drain`].
    pub fn start() -> Log {
        LOG.get_or_init(|| {
            let (queue, entries) = bounded(QUEUE_LINES);
            let inline = Inline { entries, unwritten: Vec::new(), reported: 0 };
            let log = Log { queue, dropped: Arc::default(), inline: Arc::new(Mutex::new(Some(inline))) };
            log.install();
            log
        })
        .clone()
    }

    /// Gives the writing to a thread of its own; from now on it waits for nobody but that thread's patience.
    ///
    /// # Errors
    /// When there can be no thread. Lines then wait for a flush or a [`drain`] as before.
    pub fn start_writer(&self) -> io::Result<()> {
        let mut inline = self.inline();
        if let Some(Inline { entries, reported, .. }) = &*inline {
            self.start_writer_on(entries.clone(), stderr(), *reported)?;
            *inline = None;
        }
        Ok(())
    }

    fn start_writer_on(
        &self,
        entries: Receiver<Entry>,
        sink: impl Write + Send + 'static,
        reported: u64,
    ) -> io::Result<()> {
        let writer = Writer { entries, sink, dropped: Arc::clone(&self.dropped), reported };
        thread::Builder::new().name("log".to_owned()).spawn(|| writer.run()).map(drop)
    }

    fn inline(&self) -> MutexGuard<'_, Option<Inline>> {
        self.inline.lock().expect("no thread panics while it holds this lock")
    }

    /// Whether all was written within `patience`. True where a thread writes.
    fn drain(&self, patience: Duration) -> bool {
        self.inline().as_mut().is_none_or(|inline| inline.drain(&self.dropped, patience))
    }

    /// Lines that were dropped because the queue was full or stderr could not be written.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Puts `text`, whole lines that are no log lines, behind the lines logged so far. Never waits; dropped like them.
    pub fn print(&self, text: impl fmt::Display) {
        let mut lines = text.to_string().into_bytes();
        if lines.last().is_some_and(|last| *last != b'\n') {
            lines.push(b'\n');
        }
        self.put(lines);
    }

    /// Waits until everything logged so far has been written, at most for [`PATIENCE`]. Whether it has. To be called
    /// before the process exits.
    pub fn flush(&self) -> bool {
        if self.inline().is_some() {
            return self.drain(PATIENCE);
        }
        let (written, wait) = bounded(1);
        // Half for a place in the queue, half for the writer to reach it.
        let queued = self.queue.send_timeout(Entry::Flush(written), PATIENCE / 2);
        queued.is_ok() && wait.recv_timeout(PATIENCE / 2).is_ok()
    }

    #[cfg(test)]
    fn with_sink(sink: impl Write + Send + 'static) -> Log {
        let (queue, entries) = bounded(QUEUE_LINES);
        let log = Log { queue, dropped: Arc::default(), inline: Arc::default() };
        log.start_writer_on(entries, sink, 0).expect("there are threads");
        log
    }

    /// From now on lines of this level and above are logged, whatever the environment says of this or that module.
    pub fn set_level(&self, level: LevelFilter) {
        IS_LEVEL_SET.store(true, Ordering::Relaxed);
        log::set_max_level(level);
    }

    fn install(&self) {
        let levels = ["MAITRED_LOG", "RUST_LOG"].into_iter().find_map(|name| env::var(name).ok());
        let filtered = match levels.as_deref().map(str::trim) {
            None | Some("") => self.logger(|builder| builder.filter_level(LevelFilter::Info)),
            Some(levels) => self.logger(|builder| builder.parse_filters(levels)),
        };
        let level = filtered.filter();
        let all = self.logger(|builder| builder.filter_level(LevelFilter::Trace));
        // Somebody who embeds the daemon may have a log already; then that one is the right one.
        if log::set_boxed_logger(Box::new(Choice { filtered, all })).is_ok() {
            log::set_max_level(level);
        }
    }

    fn logger(&self, filter: impl FnOnce(&mut Builder) -> &mut Builder) -> Logger {
        let mut builder = Builder::new();
        filter(&mut builder);
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !io::stderr().is_terminal();
        builder.write_style(if plain { WriteStyle::Never } else { WriteStyle::Always });
        builder.format_timestamp_millis();
        builder.target(Target::Pipe(Box::new(Pipe { log: self.clone(), record: Vec::new() })));
        builder.build()
    }

    fn put(&self, lines: Vec<u8>) {
        let dropped = match self.queue.try_send(Entry::Lines(lines)) {
            Ok(()) => return,
            Err(TrySendError::Full(entry) | TrySendError::Disconnected(entry)) => entry,
        };
        if let Entry::Lines(lines) = dropped {
            self.dropped.fetch_add(count_lines(&lines), Ordering::Relaxed);
        }
    }
}

/// Sends panics of all threads to `log`, as one `error` line each, instead of several to stderr.
///
/// The line is only queued: who ends the process over a panic flushes first. The main thread's hook does it itself,
/// since nothing runs after it.
pub fn install_panic_hook(log: &Log) {
    let log = log.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let message = panic.payload_as_str().unwrap_or("a payload that is no text").replace('\n', " ");
        match panic.location() {
            Some(place) => log::error!("thread {name} panicked at {place}: {message}"),
            None => log::error!("thread {name} panicked: {message}"),
        }
        if name == "main" {
            log.flush();
        }
    }));
}

/// Whether an operator has said which lines are logged.
static IS_LEVEL_SET: AtomicBool = AtomicBool::new(false);

/// Lines as the environment chooses them, or all that the level lets through.
struct Choice {
    filtered: Logger,
    all: Logger,
}

impl Choice {
    fn chosen(&self) -> &Logger {
        if IS_LEVEL_SET.load(Ordering::Relaxed) { &self.all } else { &self.filtered }
    }
}

impl log::Log for Choice {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.chosen().enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        self.chosen().log(record);
    }

    fn flush(&self) {}
}

/// Where `env_logger` writes: one record at a time, under its own lock, which is why nothing here may block.
struct Pipe {
    log: Log,
    record: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.record.extend_from_slice(bytes);
        if self.record.ends_with(b"\n") {
            self.log.put(std::mem::take(&mut self.record));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writing without a thread: never waits longer than it may.
struct Inline {
    entries: Receiver<Entry>,
    /// What stderr has not taken yet of the entry before.
    unwritten: Vec<u8>,
    /// Dropped lines that a line has told of.
    reported: u64,
}

/// What a pipe takes whole once it takes anything (`PIPE_BUF`).
const PIECE: usize = 4_096;

impl Inline {
    fn drain(&mut self, dropped: &AtomicU64, patience: Duration) -> bool {
        let mut stderr = stderr();
        loop {
            while !self.unwritten.is_empty() {
                if !os::takes_output(io::stderr().as_fd(), patience) {
                    return false;
                }
                let piece = self.unwritten.len().min(PIECE);
                if stderr.write_all(&self.unwritten[..piece]).is_err() {
                    dropped.fetch_add(count_lines(&self.unwritten), Ordering::Relaxed);
                    self.reported = dropped.load(Ordering::Relaxed);
                    self.unwritten.clear();
                    break;
                }
                self.unwritten.drain(..piece);
            }
            let lost = dropped.load(Ordering::Relaxed) - self.reported;
            match self.entries.try_recv() {
                Ok(Entry::Lines(lines)) => self.unwritten = lines,
                Ok(Entry::Flush(written)) => drop(written),
                Err(_) if lost > 0 => {
                    self.reported += lost;
                    self.unwritten = format!("maitred: {lost} log lines dropped\n").into_bytes();
                }
                Err(_) => return true,
            }
        }
    }
}

/// The thread that may block. Ends with the last handle of the log.
struct Writer<W> {
    entries: Receiver<Entry>,
    sink: W,
    dropped: Arc<AtomicU64>,
    /// Dropped lines that a line has told of.
    reported: u64,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        while let Ok(entry) = self.entries.recv() {
            match entry {
                Entry::Lines(lines) => self.write(&lines),
                Entry::Flush(written) => {
                    self.report();
                    let _ = written.send(());
                }
            }
            if self.entries.is_empty() {
                self.report();
            }
        }
    }

    fn write(&mut self, lines: &[u8]) {
        if self.sink.write_all(lines).and_then(|()| self.sink.flush()).is_err() {
            self.dropped.fetch_add(count_lines(lines), Ordering::Relaxed);
        }
    }

    fn report(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let unreported = dropped - self.reported;
        if unreported == 0 {
            return;
        }
        // Not through `write`: were it counted, a closed stderr would be reported to for ever.
        let line = format!("maitred: {unreported} log lines dropped\n");
        if self.sink.write_all(line.as_bytes()).and_then(|()| self.sink.flush()).is_ok() {
            self.reported = dropped;
        }
    }
}

/// Stderr without the lock of [`io::stderr`], which a blocked writer would hold against everybody else.
fn stderr() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(io::stderr()),
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink that writes nothing until its gate is opened, as a stopped reader of stderr.
    struct Gated {
        gate: Receiver<()>,
        started: Sender<()>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.started.try_send(());
            // Disconnected once the gate is open for good.
            let _ = self.gate.recv();
            self.text.lock().expect("no panic while held").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stopped_reader_costs_lines_and_no_waiting() {
        let (open, gate) = bounded(0);
        let (started, has_started) = bounded(1);
        let text = Arc::new(Mutex::new(Vec::new()));
        let log = Log::with_sink(Gated { gate, started, text: Arc::clone(&text) });
        log.print("first");
        has_started.recv().expect("the writer runs");
        // The writer holds the first line; the queue takes as many as it has places.
        for line in 0..QUEUE_LINES + 7 {
            log.print(line);
        }
        assert_eq!(log.dropped_lines(), 7);
        assert!(!log.flush(), "nobody reads");

        drop(open);
        while !log.flush() {}
        let text = String::from_utf8(text.lock().expect("no panic while held").clone()).expect("only text was printed");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "first");
        assert_eq!(lines[QUEUE_LINES], (QUEUE_LINES - 1).to_string());
        assert_eq!(lines[QUEUE_LINES + 1], "maitred: 7 log lines dropped");
        assert_eq!(lines.len(), QUEUE_LINES + 2);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let log = Log::with_sink(Closed);
        log.print("one\ntwo");
        log.print("three\n");
        assert!(log.flush());
        assert_eq!(log.dropped_lines(), 3);
    }

    #[test]
    fn a_record_is_one_entry_even_if_it_comes_in_pieces() {
        let text = Arc::new(Mutex::new(Vec::new()));
        let (open, gate) = bounded::<()>(0);
        drop(open);
        let (started, _has_started) = bounded(1);
        let log = Log::with_sink(Gated { gate, started, text: Arc::clone(&text) });
        let mut pipe = Pipe { log: log.clone(), record: Vec::new() };
        pipe.write_all(b"half ").expect("memory takes everything");
        log.print("between");
        pipe.write_all(b"a line\n").expect("memory takes everything");
        assert!(log.flush());
        assert_eq!(*text.lock().expect("no panic while held"), b"between\nhalf a line\n");
    }
}
