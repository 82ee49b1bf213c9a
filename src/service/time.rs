//! `time`: the seconds since 1900 began, as a number of four bytes (RFC 868), then FIN.
//!
//! The number is a `u32`, the highest byte first, and counts in UTC as the system does, without leap seconds. It is right
//! until 2036-02-07 06:28:15 UTC. A second later it is 0 again and goes on from there, as the seconds of NTP do: who knows
//! within 68 years what time it is can tell which round is meant, and the RFC says nothing of who does not.
//!
//! The clock is lent as to `daytime`.

use std::sync::Arc;
use std::time::SystemTime;

use super::once::Once;
use super::{BadParameter, Bounds, Entry};
use crate::clock::wall_time;
use crate::session::datagram::{Bound, DatagramReply, Datagrams};
use crate::session::handler::{Handler, Pace, Service};
use crate::session::mailbox::Address;

pub(super) const ENTRY: Entry = Entry {
    name: "time",
    about: "seconds since 1900 as a number of four bytes, then FIN",
    schemes: &["tcp", "udp"],
    default_listeners: &[("tcp", 7037), ("udp", 7037)],
    parameters: &[],
    spared_by_idle_timeout: false,
    repeatable: &[],
    build,
};

/// Seconds from the beginning of 1900 to that of 1970.
const FROM_1900_TO_1970: u64 = 2_208_988_800;

fn build(_parameters: &[(String, String)], _bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    Ok(Arc::new(Time { now: wall_time }))
}

struct Time {
    now: fn() -> SystemTime,
}

impl Service for Time {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        let now = self.now;
        Box::new(Once(move || number(now())))
    }

    fn speaks_first(&self) -> bool {
        true
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}

impl Datagrams for Time {
    fn bound(&self) -> Bound {
        Bound::Fixed
    }

    fn answer(&self, _request: &[u8], reply: &mut DatagramReply<'_>) {
        reply.put(&number((self.now)()));
    }
}

/// The four bytes for this moment.
fn number(now: SystemTime) -> [u8; 4] {
    let since_1970 = match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_secs(),
        // A second that has begun counts back from the next one.
        Err(before) => before.duration().as_nanos().div_ceil(1_000_000_000).wrapping_neg() as u64,
    };
    (since_1970.wrapping_add(FROM_1900_TO_1970) as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::datagram::Answer;

    #[test]
    fn seconds_count_from_1900_and_begin_again_in_2036() {
        let after = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let before = |duration| SystemTime::UNIX_EPOCH - duration;
        for (now, expected) in [
            // Four examples of the RFC, and its fifth as a number without a sign.
            (after(0), 2_208_988_800),
            (after(189_302_400), 2_398_291_200),
            (after(315_532_800), 2_524_521_600),
            (after(420_595_200), 2_629_584_000),
            (before(Duration::from_secs(3_506_716_800)), 1_297_728_000_u32.wrapping_neg()),
            (before(Duration::from_secs(1)), 2_208_988_799),
            (before(Duration::from_millis(1)), 2_208_988_799),
            (before(Duration::from_secs(2_208_988_800)), 0),
            (after(2_085_978_495), u32::MAX),
            (after(2_085_978_496), 0),
            (after(2_085_978_497), 1),
        ] {
            assert_eq!(u32::from_be_bytes(number(now)), expected, "{now:?}");
        }
    }

    #[test]
    fn a_datagram_is_answered_with_the_number_whatever_it_says() {
        let service = Time { now: || SystemTime::UNIX_EPOCH };
        for request in [&b""[..], b"what time is it?"] {
            let mut memory = vec![0; service.bound().allowance(request.len())];
            let mut reply = DatagramReply::new(&mut memory);
            service.answer(request, &mut reply);
            assert_eq!(reply.end(), Answer::Datagram(4));
            assert_eq!(memory[..4], 2_208_988_800_u32.to_be_bytes());
        }
    }
}
