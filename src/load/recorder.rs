//! What a load finds: [`Tally`] holds it, [`Recorder`] decides what belongs into it.
//!
//! Latency counts from the *intended* send time: a late send is recorded, not forgiven (the idea is that of wrk2). A
//! request is measured if that time lies in the window; when its reply comes does not matter, so that what a stall
//! pushed out of the window is not left out. Rates are what they say: replies, bytes and processor time between the two
//! ends of the window. Nothing here reads a clock or knows a socket, so that a simulated server can be recorded as well.
//!
//! Invariant *window-by-intention*: no request is in `latency` whose intended time lies outside the window.

use std::ops::Range;

use crate::load::breakdown::{Breakdown, STAGES};
use crate::load::flight::Sent;
use crate::metrics::histogram::Histogram;

/// A send that comes later than this after its time says that the thread had no processor when it was due, or was behind
/// with other work: waking a sleeping processor takes tens of microseconds, seldom hundreds. Who had the processor, another
/// program or the host of a virtual machine, only the figures beside it can tell.
pub const LATE_NS: u64 = 1_000_000;

/// What the measured windows of one generator thread found, or of all threads together.
#[derive(Clone, Default)]
pub struct Tally {
    /// From the intended send to the reply, of every request answered.
    pub latency: Histogram,
    /// From the actual send to the reply, of the same requests.
    pub service_latency: Histogram,
    /// From the attempt to connect to the connection.
    pub connect_latency: Histogram,
    /// Where the time of `work` requests went, by the server's stamps; empty without.
    pub stages: Stages,
    /// The same by how long the whole request took.
    pub breakdown: Breakdown,
    /// Open loop: from the intended send until the generator took the arrival up, whatever became of it then.
    pub timer_error: Histogram,
    /// Wall time of the measured windows.
    pub window_ns: u64,
    /// Replies received inside the windows.
    pub replies: u64,
    /// Requests intended inside the windows: answered, shed, unanswered and unsent together.
    pub intended: u64,
    /// Requests intended inside the windows that were never sent.
    pub unsent: u64,
    /// Requests intended inside the windows that were sent and had no reply, for whatever reason.
    pub unanswered: u64,
    /// Requests that the server answered as shed; in no histogram.
    pub shed: u64,
    /// Chat: messages received, by all connections together, inside the windows.
    pub deliveries: u64,
    /// Open loop: arrivals that the generator took up more than a millisecond late.
    pub late_sends: u64,
    /// Bytes handed to the kernel inside the windows.
    pub bytes_sent: u64,
    /// Bytes taken from the kernel inside the windows.
    pub bytes_received: u64,
    /// What went wrong, over the whole run.
    pub errors: Errors,
    /// What each generator thread used inside the windows.
    pub threads: Vec<ThreadUse>,
    /// Time that the host took away, of as many processors as there are threads: of those that the process may use, the
    /// ones that lost most. Set by whoever looks at the machine over the window, which the threads do not.
    pub stolen_ns: Option<u64>,
}

/// Where these stages stand among the five: those that begin by one side's clock and end by the other's.
const UNSEEN: usize = 1;
const REPLY: usize = 4;

/// The stages of a `work` request, in order; together they are its latency.
#[derive(Clone, Default)]
pub struct Stages {
    /// Intended to actual send.
    pub late: Histogram,
    /// Actual send to ready seen: the way there, kernel wait and parked poller.
    pub unseen: Histogram,
    /// Ready seen to taken by a worker.
    pub queue: Histogram,
    /// Taken to done.
    pub service: Histogram,
    /// Done to received.
    pub reply: Histogram,
}

/// What one generator thread used inside the windows.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadUse {
    /// Time on a processor.
    pub cpu_ns: u64,
    /// Time ready to run without a processor.
    pub run_delay_ns: u64,
}

/// What can go wrong with one connection or request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A connection could not be made again.
    Connect,
    /// A datagram was refused: nobody listens there.
    Refused,
    /// The server sent its FIN while the load went on.
    Closed,
    /// The connection broke.
    Reset,
    /// A reply that is not what was sent.
    WrongBytes,
    /// Bytes that nobody asked for.
    UnexpectedBytes,
    /// A reply that its protocol does not allow.
    Protocol,
    /// A datagram without a reply in time.
    Lost,
    /// A request without a reply: its connection ended first, or the grace.
    Unanswered,
    /// Chat: a message that one connection never got.
    Missing,
    /// A message or reply that came before.
    Duplicate,
    /// Chat: a message that came before an earlier one of the same sender.
    OutOfOrder,
    /// Files: an answer that says that there is none.
    ErrorReply,
}

impl ErrorKind {
    /// All kinds with their names in reports.
    pub const ALL: [(ErrorKind, &'static str); 13] = [
        (ErrorKind::Connect, "connect"),
        (ErrorKind::Refused, "refused"),
        (ErrorKind::Closed, "closed"),
        (ErrorKind::Reset, "reset"),
        (ErrorKind::WrongBytes, "wrong_bytes"),
        (ErrorKind::UnexpectedBytes, "unexpected_bytes"),
        (ErrorKind::Protocol, "protocol"),
        (ErrorKind::Lost, "lost"),
        (ErrorKind::Unanswered, "unanswered"),
        (ErrorKind::Missing, "missing"),
        (ErrorKind::Duplicate, "duplicate"),
        (ErrorKind::OutOfOrder, "out_of_order"),
        (ErrorKind::ErrorReply, "error_reply"),
    ];
}

/// How often each [`ErrorKind`] happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errors([u64; ErrorKind::ALL.len()]);

impl Errors {
    /// Counts `count` more of one kind.
    pub fn add(&mut self, kind: ErrorKind, count: u64) {
        self.0[kind as usize] += count;
    }

    /// How many of one kind.
    pub fn count(&self, kind: ErrorKind) -> u64 {
        self.0[kind as usize]
    }

    /// How many of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Counts all of `more` as well.
    pub fn add_all(&mut self, more: &Errors) {
        for (sum, count) in self.0.iter_mut().zip(more.0) {
            *sum += count;
        }
    }

    /// How many that no server may cause, however much is asked of it.
    pub fn wrong(&self) -> u64 {
        use ErrorKind::{Duplicate, OutOfOrder, Protocol, UnexpectedBytes, WrongBytes};
        [Duplicate, OutOfOrder, Protocol, UnexpectedBytes, WrongBytes].iter().map(|kind| self.count(*kind)).sum()
    }

    /// What happened since `earlier`.
    pub fn since(&self, earlier: &Errors) -> Errors {
        Errors(std::array::from_fn(|kind| self.0[kind] - earlier.0[kind]))
    }

    /// Those that happened, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ErrorKind::ALL.iter().map(|&(kind, name)| (name, self.count(kind))).filter(|&(_, count)| count > 0)
    }
}

impl Tally {
    /// Adds what another thread found over the same windows.
    pub fn merge(&mut self, other: &Tally) {
        self.latency.add(&other.latency);
        self.service_latency.add(&other.service_latency);
        self.connect_latency.add(&other.connect_latency);
        for (stage, more) in self.stages.all_mut().into_iter().zip(other.stages.all()) {
            stage.add(more);
        }
        self.breakdown.add(&other.breakdown);
        self.timer_error.add(&other.timer_error);
        // The threads measured side by side, not one after the other.
        self.window_ns = self.window_ns.max(other.window_ns);
        self.replies += other.replies;
        self.intended += other.intended;
        self.unsent += other.unsent;
        self.unanswered += other.unanswered;
        self.shed += other.shed;
        self.deliveries += other.deliveries;
        self.late_sends += other.late_sends;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.errors.add_all(&other.errors);
        self.threads.extend(&other.threads);
    }
}

impl Stages {
    /// The stages in their order.
    pub fn all(&self) -> [&Histogram; 5] {
        [&self.late, &self.unseen, &self.queue, &self.service, &self.reply]
    }

    fn all_mut(&mut self) -> [&mut Histogram; 5] {
        [&mut self.late, &mut self.unseen, &mut self.queue, &mut self.service, &mut self.reply]
    }
}

/// What one piece of time found, for the lines of `--interval`: by the time of the reply, since it is shown at once.
#[derive(Clone, Default)]
pub struct Count {
    /// When it ended, in nanoseconds after the window's beginning.
    pub until_ns: u64,
    /// Latency from the intended send of the replies that came.
    pub latency: Histogram,
    /// What went wrong.
    pub errors: Errors,
}

/// Readings at one end of a window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    /// The time.
    pub at_ns: u64,
    /// Bytes sent since the connections were made.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// What the thread has used since it began.
    pub used: ThreadUse,
}

/// Decides what is measured.
#[derive(Default)]
pub struct Recorder {
    tally: Tally,
    window: Range<u64>,
    /// Set between the two ends of the window.
    begun: Option<Mark>,
    /// Kept only when somebody wants to see it.
    count: Option<Count>,
    counted_errors: Errors,
    alike: Alike,
    /// Latency of requests sent when they were intended, as all of a closed loop with a free socket are: once, for what
    /// would be the same in both histograms of the tally.
    punctual: Histogram,
}

/// Requests that were due, sent and answered at the same times, as those in flight on one connection of a closed loop
/// are: they are recorded as one.
#[derive(Default)]
struct Alike {
    sent: Sent,
    now_ns: u64,
    count: u64,
}

impl Recorder {
    /// From now on requests count that are intended inside `window`. `counts`: keep what [`Recorder::take_count`] takes.
    pub fn set_window(&mut self, window: Range<u64>, counts: bool) {
        self.write_down();
        self.window = window;
        self.count = counts.then(Count::default);
        self.counted_errors = self.tally.errors;
    }

    /// The window begins; what is counted rather than timed counts from here.
    pub fn begin(&mut self, mark: Mark) {
        self.write_down();
        self.begun = Some(mark);
    }

    /// The window ends here, even if it was meant to be longer.
    pub fn end(&mut self, mark: Mark) {
        self.write_down();
        let Some(begun) = self.begun.take() else { return };
        self.window.end = self.window.end.min(mark.at_ns);
        self.tally.window_ns += mark.at_ns - begun.at_ns;
        self.tally.bytes_sent += mark.sent_bytes - begun.sent_bytes;
        self.tally.bytes_received += mark.received_bytes - begun.received_bytes;
        if self.tally.threads.is_empty() {
            self.tally.threads.push(ThreadUse::default());
        }
        self.tally.threads[0].cpu_ns += mark.used.cpu_ns.saturating_sub(begun.used.cpu_ns);
        self.tally.threads[0].run_delay_ns += mark.used.run_delay_ns.saturating_sub(begun.used.run_delay_ns);
    }

    /// The arrival that was due at `intended_ns` was taken up now.
    #[inline]
    pub fn taken_up(&mut self, intended_ns: u64, now_ns: u64) {
        if self.window.contains(&intended_ns) {
            let late_ns = now_ns.saturating_sub(intended_ns);
            self.tally.timer_error.record(late_ns);
            self.tally.late_sends += u64::from(late_ns > LATE_NS);
        }
    }

    /// A request had its reply.
    #[inline]
    pub fn answered(&mut self, sent: Sent, now_ns: u64) {
        let alike = &mut self.alike;
        if (alike.sent, alike.now_ns) == (sent, now_ns) {
            alike.count += 1;
            return;
        }
        self.write_down();
        self.alike = Alike { sent, now_ns, count: 1 };
    }

    /// Records the requests that were put off because the next might be alike.
    fn write_down(&mut self) {
        let Alike { sent, now_ns, count } = std::mem::take(&mut self.alike);
        if count == 0 {
            return;
        }
        let latency_ns = now_ns.saturating_sub(sent.intended_ns);
        if self.window.contains(&sent.intended_ns) {
            if sent.sent_ns == sent.intended_ns {
                self.punctual.record_n(latency_ns, count);
            } else {
                self.tally.latency.record_n(latency_ns, count);
                self.tally.service_latency.record_n(now_ns.saturating_sub(sent.sent_ns), count);
            }
        }
        if self.begun.is_some() {
            self.tally.replies += count;
        }
        if let Some(interval) = &mut self.count {
            interval.latency.record_n(latency_ns, count);
        }
    }

    /// A `work` request had a reply with stamps: ready seen, taken, done. A stage that the server or the two clocks
    /// cannot know is left out.
    pub fn staged(&mut self, sent: Sent, stamps: [u64; 3], now_ns: u64) {
        if !self.window.contains(&sent.intended_ns) {
            return;
        }
        let times = [sent.intended_ns, sent.sent_ns, stamps[0], stamps[1], stamps[2], now_ns];
        // Two hosts have two clocks: where the server's times do not lie between ours, nothing compares them.
        let mut known = stamps.iter().filter(|stamp| **stamp != u64::MAX);
        let is_one_clock = known.all(|stamp| (sent.sent_ns..=now_ns).contains(stamp));
        let mut all_ns = [None; STAGES];
        for (index, (stage, ends)) in self.tally.stages.all_mut().into_iter().zip(times.windows(2)).enumerate() {
            let is_known =
                ends.iter().all(|end| *end != u64::MAX) && (is_one_clock || ![UNSEEN, REPLY].contains(&index));
            if let Some(ns) = ends[1].checked_sub(ends[0]).filter(|_| is_known) {
                stage.record(ns);
                all_ns[index] = Some(ns);
            }
        }
        if let [Some(late), Some(unseen), Some(queue), Some(service), Some(reply)] = all_ns {
            self.tally.breakdown.record([late, unseen, queue, service, reply]);
        }
    }

    /// A request was answered as not served.
    pub fn shed(&mut self, sent: Sent) {
        self.tally.shed += u64::from(self.window.contains(&sent.intended_ns));
    }

    /// Chat: a message reached one connection.
    pub fn delivered(&mut self) {
        self.tally.deliveries += u64::from(self.begun.is_some());
    }

    /// A connection was made.
    pub fn connected(&mut self, took_ns: u64) {
        self.tally.connect_latency.record(took_ns);
    }

    /// Forgets the connections that were made so far: what is measured comes now.
    pub fn forget_connects(&mut self) {
        self.tally.connect_latency.clear();
    }

    /// A request is asked for, due at `intended_ns`.
    #[inline]
    pub fn intended(&mut self, intended_ns: u64) {
        self.tally.intended += u64::from(self.window.contains(&intended_ns));
    }

    /// A request that was sent will have no reply.
    pub fn unanswered(&mut self, sent: Sent) {
        self.tally.unanswered += u64::from(self.window.contains(&sent.intended_ns));
    }

    /// So many requests inside the window were never asked for, since there was no time to look at each.
    pub fn never_taken_up(&mut self, count: u64) {
        self.tally.intended += count;
        self.tally.unsent += count;
    }

    /// A request due at `intended_ns` was never sent.
    pub fn unsent(&mut self, intended_ns: u64) {
        self.tally.unsent += u64::from(self.window.contains(&intended_ns));
    }

    /// Something went wrong, `count` times.
    pub fn error(&mut self, kind: ErrorKind, count: u64) {
        self.tally.errors.add(kind, count);
    }

    /// Several things went wrong.
    pub fn errors(&mut self, errors: &Errors) {
        self.tally.errors.add_all(errors);
    }

    /// What happened since the last call up to `now_ns`, if it was to be kept.
    pub fn take_count(&mut self, now_ns: u64) -> Option<Count> {
        self.write_down();
        let count = self.count.as_mut()?;
        count.until_ns = now_ns.saturating_sub(self.window.start);
        count.errors = self.tally.errors.since(&self.counted_errors);
        self.counted_errors = self.tally.errors;
        Some(std::mem::take(count))
    }

    /// What was found so far.
    pub fn tally(&mut self) -> &Tally {
        self.write_down();
        self.tally.latency.add(&self.punctual);
        self.tally.service_latency.add(&self.punctual);
        self.punctual.clear();
        &self.tally
    }

    /// Forgets what was found so far.
    pub fn forget(&mut self) {
        self.alike = Alike::default();
        self.punctual.clear();
        self.tally = Tally::default();
        self.counted_errors = Errors::default();
    }
}
