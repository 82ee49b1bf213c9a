//! How a service time is spent: [`spend`]. What `work` does when a request asks for it.
//!
//! *Spin* is work on the processor that the thread is on ([`Spin`]). *Sleep* blocks the thread, on purpose: it stands for
//! services that wait for something else. *Hash* is real work, SHA-256 over as many bytes as take that long on an undisturbed
//! processor; nothing corrects it while it runs. What one of them costs is measured once per process ([`calibrate`]).
//!
//! A long one looks now and then whether anybody still waits for it. Read next: `spend/spin.rs`.

pub mod spin;

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Duration;

use log::{info, warn};

use self::spin::{Chain, Processor, Rate, Spin, TRIED_NS};
use crate::clock;
use crate::digest::Digest;
use crate::units::show_duration;

/// How a service time is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By a thread that works.
    Spin,
    /// By a thread that is blocked, on purpose.
    Sleep,
    /// By work that is real, for the pool that is there for it.
    Hash,
}

/// How long a sleeper sleeps before it looks whether anybody waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Bytes that are hashed before somebody looks: some hundred microseconds.
const LOOK_EVERY_BYTES: u64 = 512 << 10;

/// Spends so much time in this way, or less if it `is_wanted` no longer.
pub fn spend(kind: Kind, demand_ns: u64, is_wanted: &dyn Fn() -> bool) {
    match kind {
        Kind::Spin => Spin::calibrated().run(&mut Chain, demand_ns, is_wanted),
        Kind::Sleep => sleep(demand_ns, is_wanted),
        Kind::Hash => hash(hash_rate().units_in(demand_ns), is_wanted),
    }
}

/// Measures what work costs on this machine, and says in the log how near a spin comes to what was asked for. Once per
/// process, some ten milliseconds; whoever spends a time before waits for it.
pub fn calibrate() {
    static SAID: OnceLock<()> = OnceLock::new();
    SAID.get_or_init(|| {
        let (spin, hash_rate) = (Spin::calibrated(), hash_rate());
        if !(spin.rate().is_settled && hash_rate.is_settled) {
            warn!("this machine works at no steady speed: what spin and hash take is not what they are asked for");
        }
        let errors = spin.errors(&mut Chain);
        let said = TRIED_NS.iter().zip(errors).map(|(demand_ns, error)| {
            format!("{} {:+.2} %", show_duration(Duration::from_nanos(*demand_ns)), error * 100.0)
        });
        info!("spin: {:.3} steps/ns; off by: {}", spin.rate().units_per_ns(), said.collect::<Vec<_>>().join(", "));
        info!("hash: {:.3} bytes/ns of SHA-256", hash_rate.units_per_ns());
    });
}

fn sleep(demand_ns: u64, is_wanted: &dyn Fn() -> bool) {
    let until_ns = clock::monotonic_ns().saturating_add(demand_ns);
    while is_wanted() {
        let left_ns = until_ns.saturating_sub(clock::monotonic_ns());
        if left_ns == 0 {
            return;
        }
        clock::sleep_for(Duration::from_nanos(left_ns).min(LOOK_EVERY));
    }
}

/// What is hashed, again and again: short enough to stay in the nearest cache.
static BYTES: [u8; 16 << 10] = [0xA5; 16 << 10];

fn hash(bytes: u64, is_wanted: &dyn Fn() -> bool) {
    let mut digest = Digest::new();
    let mut left = bytes;
    while left > 0 && is_wanted() {
        let mut now = left.min(LOOK_EVERY_BYTES);
        left -= now;
        while now > 0 {
            let piece = now.min(BYTES.len() as u64);
            digest.update(&black_box(&BYTES)[..piece as usize]);
            now -= piece;
        }
    }
    black_box(digest.finish());
}

/// How many bytes are hashed in a time.
fn hash_rate() -> Rate {
    static RATE: OnceLock<Rate> = OnceLock::new();
    *RATE.get_or_init(|| Rate::measure(&mut Hashing))
}

/// The calling thread's processor: a unit is a byte that is hashed.
struct Hashing;

impl Processor for Hashing {
    fn work(&mut self, units: u64) {
        hash(units, &|| true);
    }

    fn now_ns(&mut self) -> u64 {
        clock::thread_cpu_ns()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const ALL: [Kind; 3] = [Kind::Spin, Kind::Sleep, Kind::Hash];

    #[test]
    fn a_time_is_spent_and_not_less() {
        let since_ns = clock::monotonic_ns();
        spend(Kind::Sleep, 3_000_000, &|| true);
        assert!(clock::monotonic_ns() - since_ns >= 3_000_000);
        let since_ns = clock::thread_cpu_ns();
        spend(Kind::Spin, 3_000_000, &|| true);
        assert!(clock::thread_cpu_ns() - since_ns >= 2_900_000, "but for what is not measured at the end");
    }

    #[test]
    fn what_nobody_wants_ends_long_before_its_time() {
        for kind in ALL {
            let looks = Cell::new(0);
            let is_wanted = || {
                looks.set(looks.get() + 1);
                looks.get() < 3
            };
            // An hour: the test would not end.
            spend(kind, 3_600_000_000_000, &is_wanted);
            assert_eq!(looks.get(), 3, "{kind:?} looks now and then");
        }
    }

    #[test]
    fn no_time_takes_no_look() {
        for kind in ALL {
            spend(kind, 0, &|| kind == Kind::Sleep);
        }
        calibrate();
        calibrate();
    }
}
