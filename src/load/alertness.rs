//! When to wake up for a send that is due: early by what waking is measured to take, and awake for the rest.
//!
//! A thread that sleeps until a send is due sends late by what the kernel and a sleeping processor need to wake it: tens
//! of microseconds on a virtual machine. So it sleeps less, and looks for replies until the time has come. How much less
//! follows the oversleeping that it sees. What is spent awake is bounded by a share of the time, since the server may
//! want that processor: at high rates the thread seldom sleeps for long, and then the bound ends the waiting awake.
//!
//! Nothing here reads a clock. Read next: `client.rs`, which asks before each wait.

/// At most one part in so many of the time is spent waiting awake.
const SHARE: u64 = 20;

/// A send that is no later than this is on time: less would cost more processor than it is worth.
const ON_TIME_NS: u64 = 30_000;

/// Time awake that can be saved up: enough for a burst of some tens of sends.
const MOST_CREDIT_NS: u64 = 2_000_000;

/// Never wakes earlier than this: what oversleeps more is not the waking of a processor.
const MOST_MARGIN_NS: u64 = 150_000;

/// The margin grows by this when it was too short, and shrinks by a [`PATIENCE`]th of it when it was long enough; so it
/// settles where one send in that many is late.
const STEP_NS: u64 = 6_400;
const PATIENCE: u64 = 128;

/// How a thread waits for its next send.
pub(super) struct Alertness {
    margin_ns: u64,
    credit_ns: u64,
    /// When it was asked last, and whether it was told to stay awake.
    asked_ns: u64,
    stayed_awake: bool,
    /// When it should have woken.
    wake_ns: Option<u64>,
}

impl Alertness {
    pub(super) fn new() -> Alertness {
        Alertness { margin_ns: 50_000, credit_ns: MOST_CREDIT_NS, asked_ns: 0, stayed_awake: false, wake_ns: None }
    }

    /// How long to sleep, now, for something that is due at `due_ns`; 0: not at all.
    #[inline]
    pub(super) fn sleep_ns(&mut self, due_ns: u64, now_ns: u64) -> u64 {
        let passed_ns = now_ns.saturating_sub(self.asked_ns);
        self.asked_ns = now_ns;
        self.credit_ns = match self.stayed_awake {
            true => self.credit_ns.saturating_sub(passed_ns),
            false => (self.credit_ns + passed_ns / SHARE).min(MOST_CREDIT_NS),
        };
        self.stayed_awake = false;
        let left_ns = due_ns.saturating_sub(now_ns);
        if left_ns == 0 || self.credit_ns == 0 {
            return left_ns;
        }
        let sleep_ns = left_ns.saturating_sub(self.margin_ns);
        self.stayed_awake = sleep_ns == 0;
        self.wake_ns = (sleep_ns > 0).then_some(now_ns + sleep_ns);
        sleep_ns
    }

    /// The thread has woken with nothing to do, or something else has woken it.
    #[inline]
    pub(super) fn woke(&mut self, now_ns: u64, found_something: bool) {
        let Some(wake_ns) = self.wake_ns.take().filter(|_| !found_something) else { return };
        let Some(overslept_ns) = now_ns.checked_sub(wake_ns) else { return };
        self.margin_ns = match overslept_ns > self.margin_ns + ON_TIME_NS {
            true => (self.margin_ns + STEP_NS).min(MOST_MARGIN_NS),
            false => self.margin_ns.saturating_sub(STEP_NS / PATIENCE),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Sends `count` times, `gap_ns` apart, where waking takes what `overslept` draws. How late the sends are, sorted,
    /// and the share of the time that was spent awake.
    fn send(count: u64, gap_ns: u64, mut overslept: impl FnMut(&mut Random) -> u64) -> (Vec<u64>, f64) {
        const LOOK_NS: u64 = 500;
        let mut random = Random::new(1);
        let mut alertness = Alertness::new();
        let (mut now_ns, mut awake_ns, mut late) = (0, 0, Vec::new());
        for send in 1..=count {
            let due_ns = send * gap_ns;
            while now_ns < due_ns {
                match alertness.sleep_ns(due_ns, now_ns) {
                    0 => {
                        now_ns += LOOK_NS;
                        awake_ns += LOOK_NS;
                    }
                    sleep_ns => {
                        now_ns += sleep_ns + overslept(&mut random);
                        alertness.woke(now_ns, false);
                    }
                }
            }
            late.push(now_ns - due_ns);
        }
        late.drain(..late.len() / 2);
        late.sort_unstable();
        (late, awake_ns as f64 / now_ns as f64)
    }

    #[test]
    fn sends_are_on_time_though_waking_is_not() {
        let (late, awake) = send(20_000, 1_000_000, |random| 20_000 + random.exponential(15_000.0) as u64);
        assert!(late[late.len() * 98 / 100] < ON_TIME_NS + 5_000, "{late:?}");
        assert!(awake < 0.05, "{awake}");
    }

    #[test]
    fn who_wakes_on_time_hardly_stays_awake() {
        let (late, awake) = send(20_000, 1_000_000, |_| 1_000);
        assert!(late[late.len() * 99 / 100] < 1_500);
        assert!(awake < 0.002, "{awake}");
    }

    #[test]
    fn no_more_than_its_share_is_spent_awake() {
        for gap_ns in [3_000, 10_000, 50_000, 200_000] {
            let (_, awake) = send(100_000, gap_ns, |random| 20_000 + random.exponential(15_000.0) as u64);
            // And what can be saved up.
            assert!(awake < 1.0 / SHARE as f64 + 0.02, "{gap_ns}: {awake}");
        }
    }
}
