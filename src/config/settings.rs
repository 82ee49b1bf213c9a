//! [`Settings`] and [`Limits`]: how an engine schedules, what sessions may take, and every default with its reason.
//!
//! Types and constants only; what is in range is for `keys.rs`, what fits together for `config.rs`. The constants are
//! the one place of each default: help text, man page and printed configuration read them from here.

use std::num::NonZeroU32;
use std::time::Duration;

/// How an engine schedules and what it may hold. Fixed for the life of the process, but for the workers of an engine that
/// resizes, for [`Tuning`], and for the timeouts and the number of connections in [`Limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Read by the engine at start: threads that run turns, to begin with where the engine resizes. Default: the cores that
    /// the process may use, since a turn does not block.
    pub workers: usize,
    /// Read by the engine at start: turns that the service queue holds before the poller waits. Default
    /// [`QUEUE_CAPACITY`].
    pub queue_capacity: usize,
    /// Read by poller and workers: when a poller that has parked polls again. Default `Auto`: when nothing is left to
    /// take. `At` is never above `queue_capacity`.
    pub low_water: LowWater,
    /// Read by the poller: whom it wakes. Default `Auto`, since each wake costs more than a short turn.
    pub wake: Wake,
    /// Read by the poller: ready sessions that it takes from the kernel in one call. Default [`BATCH`].
    pub batch: usize,
    /// Read by workers: how long an idle one looks at the queue before it parks. Default [`SPIN`].
    pub spin: Duration,
    /// Read by whoever runs a turn: bytes that it moves before the session goes to the back of the queue. Default
    /// [`BUDGET_BYTES`].
    pub budget_bytes: usize,
    /// Read by the free list of each worker: bytes of one ring, and so of the largest read. Default [`RING_BYTES`].
    pub ring_bytes: usize,
    /// Read by whoever arms a session: how the kernel is asked for readiness. Default `Edge`, which saves a call per
    /// turn.
    pub rearm: Rearm,
    /// Read by the poller: whether it may serve brief sessions itself, where handing on would gain nothing. Default
    /// [`ASSIST`].
    pub assist: bool,
    /// Read by poller and workers: whether the time of each stage is measured. Default [`STAGES`].
    pub stages: bool,
    /// Read by workers as they start: whether each is pinned to a core. Default [`PIN`].
    pub pin: bool,
    /// Read by `event-loops` at start, and where it accepts: which loop a new session lives on. Default `ReusePort`, which
    /// needs no thread to hand anything to another.
    pub placement: Placement,
    /// Read by `prefork`: how many processes there are, and how many of them may be free.
    pub processes: Processes,
    /// Read by the engine at start, if a service has work for the processors that belongs on no worker: the threads for it.
    /// Default: as many as there are cores.
    pub jobs: usize,
    /// Read by the engine at start, if a service reads files: the threads for that. Default: twice as many as
    /// there are cores, and 4 at least.
    pub file_jobs: usize,
    /// Read by whoever has work for either of these pools: how much of it may wait for a thread. Default [`JOB_BACKLOG`].
    pub job_backlog: usize,
    /// Read at start: how datagrams are moved, and who is answered.
    pub datagrams: DatagramSettings,
    /// Read by the engine at start, and again by a reload: what sessions may take.
    pub limits: Limits,
}

/// What sessions may take, each with a counter for those that came against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Read where connections are accepted: sessions open at once; a connection above it is accepted and closed.
    /// Default [`MAX_CONNECTIONS`], which `serve` lowers to what the process may open. A reload may change it.
    pub max_connections: usize,
    /// Read where rings are leased: bytes of all of them together. Default [`MAX_BUFFER_BYTES`], or the least that
    /// workers and rings need; never less than what the free lists of all workers keep and one ring.
    pub max_buffer_bytes: usize,
    /// Read by services whose messages name their length: the longest that one may have, its length not counted. Default
    /// [`MAX_FRAME_BYTES`].
    pub max_frame_bytes: usize,
    /// Read by `work`: the longest service time that a request may name. Default [`MAX_DEMAND`].
    pub max_demand: Duration,
    /// Read by the timeouts: how long a session may neither receive nor send; [`Limits::NEVER`] for `off`. Default
    /// [`IDLE_TIMEOUT`]. A reload may change it.
    pub idle_timeout: Duration,
    /// Read by the timeouts: how long a peer may take none of the bytes it is owed. Default [`WRITE_TIMEOUT`]. A reload
    /// may change it.
    pub write_timeout: Duration,
    /// Read when a drain begins: how long it waits for sessions to end. Default [`DRAIN_TIMEOUT`]. A reload may change
    /// it.
    pub drain_timeout: Duration,
}

/// How an engine schedules, as far as that can be changed while it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// See [`Settings::batch`].
    pub batch: usize,
    /// See [`Settings::spin`].
    pub spin: Duration,
    /// See [`Settings::budget_bytes`].
    pub budget_bytes: usize,
    /// See [`Settings::low_water`].
    pub low_water: LowWater,
}

/// When a poller that has parked, because the workers have enough to do, polls again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowWater {
    /// When a worker finds nothing left to take.
    Auto,
    /// When a worker has left so many turns in the queue.
    At(usize),
    /// It never parks for a backlog; a full queue still makes it wait.
    Off,
}

/// Whom the poller wakes when it has queued turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// As many workers as the engine's adaptive rule says.
    Auto,
    /// One worker per ready session that is handed on.
    Each,
    /// One more worker when the queue holds more work than this.
    Above(Duration),
}

/// Which of several loops a new session lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Whichever the kernel gave it to: each loop has a listener of its own on the same port.
    ReusePort,
    /// One after the other; the first loop accepts for all.
    RoundRobin,
    /// The one with the fewest sessions; the first loop accepts for all.
    Least,
}

/// The bounds of a pool of processes that grows and shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processes {
    /// Never fewer than this. Default [`MIN_PROCESSES`].
    pub min: usize,
    /// Never more than this. Default [`MAX_PROCESSES`].
    pub max: usize,
    /// With fewer free than this it grows. Default [`MIN_SPARE`].
    pub min_spare: usize,
    /// With more free than this it shrinks. Default [`MAX_SPARE`].
    pub max_spare: usize,
}

/// How datagrams are moved, and who is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramSettings {
    /// Whether senders are answered on addresses that strangers reach. Default [`UDP_PUBLIC`].
    pub is_public: bool,
    /// Answers a second to one sender, at each listener; as many may come at once. None for as many as it asks for. Default
    /// [`UDP_SOURCE_RATE`].
    pub source_rate: Option<NonZeroU32>,
    /// Answers a second to all senders together, at each listener; as many may come at once. Default [`UDP_TOTAL_RATE`].
    pub total_rate: Option<NonZeroU32>,
    /// Whether the rates are for senders on this machine, too. Default [`UDP_LIMIT_LOCAL`].
    pub limits_local: bool,
    /// Bytes that the kernel is asked to hold unread, for each socket. Default [`UDP_BUFFER_BYTES`].
    pub buffer_bytes: usize,
    /// Whether several messages go by one call (`recvmmsg`, `sendmmsg`). Default: yes, if the kernel can.
    pub mmsg: bool,
    /// Whether answers that follow each other to one sender leave as one message, which the kernel splits. Default: yes, if
    /// it can.
    pub gso: bool,
    /// Whether what came like that is received as one message. Default: yes, if the kernel can.
    pub gro: bool,
}

/// How the poller asks the kernel for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rearm {
    /// Edge-triggered: armed once for the life of the session.
    Edge,
    /// One-shot: armed again after each turn.
    Oneshot,
}

/// The most workers that there can be, for `auto` too, and of what each has to itself as many places.
pub const MAX_WORKERS: usize = 1_024;
/// Turns in the service queue: some milliseconds of work for two workers on echo. Guess; see the queue sweep.
pub const QUEUE_CAPACITY: usize = 1_024;
/// Ready sessions per call: above it the kernel copies for longer than the call costs. Guess; see the batch sweep.
pub const BATCH: usize = 512;
/// An idle worker parks at once: on a machine shared with its clients, spinning takes their time.
pub const SPIN: Duration = Duration::ZERO;
/// Four full rings a turn: a firehose pays the queue once per four reads, and a quiet session waits for no more.
pub const BUDGET_BYTES: usize = 256 << 10;
/// Reads of 64 KiB moved 1.55 times the bytes per second that reads of 16 KiB did.
pub const RING_BYTES: usize = 64 << 10;
/// A poller that finds nobody awake serves a few brief sessions sooner than a worker wakes; and where the workers are
/// measured to be no quicker, handing on only costs.
pub const ASSIST: bool = true;
/// Off, because it reads the clock several times per turn.
pub const STAGES: bool = false;
/// Off: the kernel places threads better than a guess does, unless the machine is the daemon's own.
pub const PIN: bool = false;
/// Two: one that serves, one that is free for whoever comes next.
pub const MIN_PROCESSES: usize = 2;
/// Some megabytes of memory each at the worst. Guess: as many as one machine of today schedules well.
pub const MAX_PROCESSES: usize = 256;
/// To fork takes longer than a client should wait: somebody is always free for the next one, and for the one after.
pub const MIN_SPARE: usize = 2;
/// Four times the least, so that a load which comes and goes by a few clients makes and ends no processes.
pub const MAX_SPARE: usize = 8;
/// Off: whoever forges a sender would have the daemon send to it.
pub const UDP_PUBLIC: bool = false;
/// More than somebody who looks at the time or tries an echo asks for, and next to nothing for whom it is forged on. Guess.
pub const UDP_SOURCE_RATE: u32 = 100;
/// A hundred senders at the most that one may have. Guess.
pub const UDP_TOTAL_RATE: u32 = 10_000;
/// Off: who is on this machine has better ways to disturb it.
pub const UDP_LIMIT_LOCAL: bool = false;
/// Some thousand small datagrams, since the kernel counts its own memory for each.
pub const UDP_BUFFER_BYTES: usize = 1 << 20;
/// Below the hard limit of descriptors that systems give a process as it comes, so that the default is what is in force.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Four thousand default rings: that many sessions may have bytes in flight at one moment.
pub const MAX_BUFFER_BYTES: usize = 256 << 20;
/// Enough for a second of work of a millisecond each. Guess.
pub const JOB_BACKLOG: usize = 1_024;
/// Sixteen default rings: longer messages than people send, and few enough of them fill the memory for rings.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// Longer than any study asks for; a request of an hour is a mistake.
pub const MAX_DEMAND: Duration = Duration::from_secs(10);
/// Longer than people pause, shorter than a forgotten connection should hold a descriptor.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than a TCP peer needs to get over a burst of loss.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Half of the ten seconds that container managers commonly grant before they kill.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

impl Settings {
    /// What of these can be changed while an engine runs, beside the limits.
    pub fn tuning(&self) -> Tuning {
        let Settings { batch, spin, budget_bytes, low_water, .. } = *self;
        Tuning { batch, spin, budget_bytes, low_water }
    }

    /// Changes that.
    pub fn set_tuning(&mut self, Tuning { batch, spin, budget_bytes, low_water }: Tuning) {
        (self.batch, self.spin, self.budget_bytes, self.low_water) = (batch, spin, budget_bytes, low_water);
    }
}

impl Limits {
    /// The `idle_timeout` of somebody who wants none.
    pub const NEVER: Duration = Duration::MAX;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: MAX_CONNECTIONS,
            max_buffer_bytes: MAX_BUFFER_BYTES,
            max_frame_bytes: MAX_FRAME_BYTES,
            max_demand: MAX_DEMAND,
            idle_timeout: IDLE_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
        }
    }
}

impl Default for DatagramSettings {
    fn default() -> DatagramSettings {
        DatagramSettings {
            is_public: UDP_PUBLIC,
            source_rate: NonZeroU32::new(UDP_SOURCE_RATE),
            total_rate: NonZeroU32::new(UDP_TOTAL_RATE),
            limits_local: UDP_LIMIT_LOCAL,
            buffer_bytes: UDP_BUFFER_BYTES,
            mmsg: true,
            gso: true,
            gro: true,
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            workers: available_cores(),
            queue_capacity: QUEUE_CAPACITY,
            low_water: LowWater::Auto,
            wake: Wake::Auto,
            batch: BATCH,
            spin: SPIN,
            budget_bytes: BUDGET_BYTES,
            ring_bytes: RING_BYTES,
            rearm: Rearm::Edge,
            assist: ASSIST,
            stages: STAGES,
            pin: PIN,
            placement: Placement::ReusePort,
            processes: Processes { min: MIN_PROCESSES, max: MAX_PROCESSES, min_spare: MIN_SPARE, max_spare: MAX_SPARE },
            jobs: available_cores(),
            file_jobs: file_threads(),
            job_backlog: JOB_BACKLOG,
            datagrams: DatagramSettings::default(),
            limits: Limits::default(),
        }
    }
}

/// Threads for files: they mostly wait for a disk, which serves several at once.
pub(super) fn file_threads() -> usize {
    (2 * available_cores()).clamp(4, MAX_WORKERS)
}

/// Cores that this process may use, by affinity and control group; one if the system does not say.
pub(super) fn available_cores() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.min(MAX_WORKERS)
}
