//! `daytime`: the date and the time of day as a line for people (RFC 867), then FIN.
//!
//! The form is the first of the two that the RFC calls popular, in UTC: a daemon does not know where its clients are. A
//! service knows no clock, so this one is given a function that reads it, and tests give it another. A session's line
//! tells the moment at which it is said.

use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;

use super::once::Once;
use super::{BadParameter, Bounds, Entry};
use crate::clock::wall_time;
use crate::session::datagram::{Bound, DatagramReply, Datagrams};
use crate::session::handler::{Handler, Pace, Service};
use crate::session::mailbox::Address;

pub(super) const ENTRY: Entry = Entry {
    name: "daytime",
    about: "date and time in UTC as a line of text, then FIN",
    schemes: &["tcp", "udp"],
    default_listeners: &[("tcp", 7013), ("udp", 7013)],
    parameters: &[],
    spared_by_idle_timeout: false,
    repeatable: &[],
    build,
};

fn build(_parameters: &[(String, String)], _bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    Ok(Arc::new(Daytime { now: wall_time }))
}

struct Daytime {
    now: fn() -> SystemTime,
}

impl Service for Daytime {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        let now = self.now;
        Box::new(Once(move || line(now())))
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

impl Datagrams for Daytime {
    fn bound(&self) -> Bound {
        Bound::Fixed
    }

    fn answer(&self, _request: &[u8], reply: &mut DatagramReply<'_>) {
        reply.put(line((self.now)()).as_bytes());
    }
}

/// The line for this moment, at most 64 bytes; nothing for one so far off that no calendar has it.
fn line(now: SystemTime) -> String {
    let now = Timestamp::try_from(now);
    now.map(|now| now.strftime("%A, %B %-d, %Y %H:%M:%S-UTC\r\n").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::datagram::Answer;

    fn line_at(seconds: i64) -> String {
        let distance = Duration::from_secs(seconds.unsigned_abs());
        line(if seconds < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance })
    }

    #[test]
    fn a_moment_is_a_line_in_the_form_of_the_rfc() {
        for (seconds, expected) in [
            (0, "Thursday, January 1, 1970 00:00:00-UTC\r\n"),
            (-1, "Wednesday, December 31, 1969 23:59:59-UTC\r\n"),
            // The moment of the RFC's example, which is in PST and errs in the weekday.
            (383_276_263, "Tuesday, February 23, 1982 01:37:43-UTC\r\n"),
            (951_782_400, "Tuesday, February 29, 2000 00:00:00-UTC\r\n"),
            (4_107_542_400, "Monday, March 1, 2100 00:00:00-UTC\r\n"),
            (253_402_300_000, ""),
        ] {
            assert_eq!(line_at(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn a_datagram_is_answered_with_the_line_whatever_it_says() {
        let service = Daytime { now: || SystemTime::UNIX_EPOCH };
        for request in [&b""[..], b"what time is it?"] {
            let mut memory = vec![0; service.bound().allowance(request.len())];
            let mut reply = DatagramReply::new(&mut memory);
            service.answer(request, &mut reply);
            let Answer::Datagram(len) = reply.end() else { panic!("there is an answer") };
            assert_eq!(&memory[..len], b"Thursday, January 1, 1970 00:00:00-UTC\r\n");
        }
        let longest = (0..400).map(|days| line_at(days * 86_400).len()).max();
        assert_eq!(longest, Some("Wednesday, September 10, 1970 00:00:00-UTC\r\n".len()));
        assert!(longest <= Some(service.bound().allowance(0)), "every line fits");
    }
}
