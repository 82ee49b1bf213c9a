//! The frames of `work`: what a request says before its payload, and what a reply does.
//!
//! Pure: bytes in, fields out, and back. Numbers are big-endian and unpadded; the layout is that of `design/contract.md`. A
//! datagram is one frame.
//!
//! Invariant *checked-before-memory*: a request is known to be allowed from its first [`REQUEST_HEAD`] bytes, before any
//! memory is set aside for its payload. Read next: `../work.rs`.

use std::time::Duration;

use crate::session::framing::Framing;
use crate::session::handler::Chunks;
use crate::spend::Kind;

/// Bytes of a request from its length to its payload.
pub(super) const REQUEST_HEAD: usize = 24;

/// Bytes of a reply from its length to its payload, without stamps and with them.
const REPLY_HEAD: usize = 32;
pub(super) const LONGEST_REPLY_HEAD: usize = 56;

/// Bytes of a length, which counts what follows it.
const LENGTH_BYTES: usize = 4;

/// What nobody knows.
const UNKNOWN: u64 = u64::MAX;

/// Flags of a request and of a reply.
const WANTS_STAMPS: u16 = 1;
const IS_SHED: u16 = 1;
const HAS_STAMPS: u16 = 2;

/// Frames of at most so many bytes behind their length.
pub(super) fn framing(max_frame_bytes: usize) -> Framing {
    let least = (REQUEST_HEAD - LENGTH_BYTES) as u32;
    Framing::Length { least, most: u32::try_from(max_frame_bytes).unwrap_or(u32::MAX) }
}

/// What a client asks for, its payload apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) demand_ns: u64,
    pub(super) kind: Kind,
    pub(super) wants_stamps: bool,
}

impl Request {
    /// The request that begins these bytes, its length first; of its class, and of flags that nobody knows, nothing depends.
    ///
    /// # Errors
    /// What no client may ask for.
    ///
    /// # Panics
    /// If they are fewer than [`REQUEST_HEAD`].
    pub(super) fn parse(frame: Chunks<'_>, max_demand: Duration) -> Result<Request, &'static str> {
        let mut head = [0; REQUEST_HEAD];
        frame.range(0..REQUEST_HEAD).copy_to(&mut head);
        let [.., kind, _class, high, low] = head;
        let kind = match kind {
            0 => Kind::Spin,
            1 => Kind::Sleep,
            2 => Kind::Hash,
            _ => return Err("there is no such kind of work"),
        };
        let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (id, demand_ns) = (number(4), number(12));
        if Duration::from_nanos(demand_ns) > max_demand {
            return Err("the service time is longer than is allowed");
        }
        let wants_stamps = u16::from_be_bytes([high, low]) & WANTS_STAMPS != 0;
        Ok(Request { id, demand_ns, kind, wants_stamps })
    }

    /// Bytes before the payload of its reply, once it has been served.
    pub(super) fn reply_head(&self) -> usize {
        if self.wants_stamps { LONGEST_REPLY_HEAD } else { REPLY_HEAD }
    }
}

/// What became of a request, and when: `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) request: Request,
    pub(super) worker: Option<u16>,
    /// When it was known of, if that is known.
    pub(super) ready_ns: Option<u64>,
    pub(super) taken_ns: u64,
    /// When it had been served; None if it was not.
    pub(super) done_ns: Option<u64>,
}

impl Answer {
    /// Bytes before the payload.
    pub(super) fn head(&self) -> usize {
        if self.done_ns.is_some() { self.request.reply_head() } else { REPLY_HEAD }
    }

    /// Writes the reply up to its payload of so many bytes.
    ///
    /// # Panics
    /// If `out` is not as long as [`head`](Answer::head) says.
    pub(super) fn write(&self, payload_bytes: usize, out: &mut [u8]) {
        let Answer { request, worker, ready_ns, taken_ns, done_ns } = *self;
        assert_eq!(out.len(), self.head());
        let length = (self.head() - LENGTH_BYTES + payload_bytes) as u32;
        let queue_ns = ready_ns.map_or(UNKNOWN, |ready_ns| taken_ns.saturating_sub(ready_ns));
        let service_ns = done_ns.map_or(0, |done_ns| done_ns.saturating_sub(taken_ns));
        let flags = match (done_ns, request.wants_stamps) {
            (None, _) => IS_SHED,
            (_, true) => HAS_STAMPS,
            (_, false) => 0,
        };
        let mut rest = out;
        let mut put = |bytes: &[u8]| rest.split_off_mut(..bytes.len()).expect("there is room").copy_from_slice(bytes);
        put(&length.to_be_bytes());
        put(&request.id.to_be_bytes());
        put(&queue_ns.to_be_bytes());
        put(&service_ns.to_be_bytes());
        put(&worker.unwrap_or(u16::MAX).to_be_bytes());
        put(&flags.to_be_bytes());
        if let (Some(done_ns), true) = (done_ns, request.wants_stamps) {
            put(&ready_ns.unwrap_or(UNKNOWN).to_be_bytes());
            put(&taken_ns.to_be_bytes());
            put(&done_ns.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);

    #[rustfmt::skip]
    const HEAD: [u8; REQUEST_HEAD] = [
        0, 0, 0, 23,
        1, 2, 3, 4, 5, 6, 7, 8,
        0, 0, 0, 0, 0, 0, 0x27, 0x10,
        2, 99, 0, 1,
    ];

    fn with(changes: &[(usize, u8)]) -> [u8; REQUEST_HEAD] {
        let mut head = HEAD;
        changes.iter().for_each(|&(at, byte)| head[at] = byte);
        head
    }

    fn parse(head: &[u8]) -> Result<Request, &'static str> {
        Request::parse(Chunks::new(head, &[]), MAX)
    }

    #[test]
    fn a_request_is_read_wherever_the_memory_wraps() {
        let expected = Request { id: 0x0102_0304_0506_0708, demand_ns: 10_000, kind: Kind::Hash, wants_stamps: true };
        let frame = [&HEAD[..], b"abc"].concat();
        for wrap in 0..=frame.len() {
            let (first, second) = frame.split_at(wrap);
            assert_eq!(Request::parse(Chunks::new(first, second), MAX), Ok(expected), "at {wrap}");
        }
    }

    #[test]
    fn what_no_client_may_ask_for_is_refused() {
        for (kind, known) in [(0, Kind::Spin), (1, Kind::Sleep), (2, Kind::Hash)] {
            assert_eq!(parse(&with(&[(20, kind)])).map(|request| request.kind), Ok(known));
        }
        for kind in [3, 4, 128, 255] {
            assert_eq!(parse(&with(&[(20, kind)])), Err("there is no such kind of work"));
        }
        let demand = |demand_ns: u64| {
            let mut head = HEAD;
            head[12..20].copy_from_slice(&demand_ns.to_be_bytes());
            parse(&head).map(|request| request.demand_ns)
        };
        assert_eq!(demand(0), Ok(0));
        assert_eq!(demand(10_000_000_000), Ok(10_000_000_000));
        for above in [10_000_000_001, u64::MAX] {
            assert_eq!(demand(above), Err("the service time is longer than is allowed"));
        }
    }

    #[test]
    fn flags_and_classes_that_nobody_knows_change_nothing() {
        let plain = parse(&with(&[(22, 0), (23, 0)])).expect("it is allowed");
        assert!(!plain.wants_stamps);
        assert_eq!(parse(&with(&[(21, 255), (22, 255), (23, 254)])), Ok(plain));
    }

    #[test]
    fn the_shortest_frame_is_a_request_without_payload() {
        assert_eq!(framing(1 << 20), Framing::Length { least: 20, most: 1 << 20 });
    }

    #[test]
    fn a_reply_says_who_served_and_when() {
        let request = Request { id: 7, demand_ns: 5, kind: Kind::Spin, wants_stamps: false };
        let answer =
            Answer { request, worker: Some(258), ready_ns: Some(1_000), taken_ns: 1_010, done_ns: Some(1_050) };
        let head = |answer: Answer| {
            let mut out = vec![0xEE; answer.head()];
            answer.write(3, &mut out);
            out
        };
        #[rustfmt::skip]
        let expected = [
            0, 0, 0, 31,
            0, 0, 0, 0, 0, 0, 0, 7,
            0, 0, 0, 0, 0, 0, 0, 10,
            0, 0, 0, 0, 0, 0, 0, 40,
            1, 2, 0, 0,
        ];
        assert_eq!(head(answer), expected);

        let stamped = Answer { request: Request { wants_stamps: true, ..request }, ..answer };
        let stamps = [1_000, 1_010, 1_050].map(u64::to_be_bytes).concat();
        let mut with_stamps = [&expected[..], &stamps].concat();
        (with_stamps[3], with_stamps[31]) = (55, 2);
        assert_eq!(head(stamped), with_stamps);

        let unknown = head(Answer { worker: None, ready_ns: None, ..stamped });
        assert_eq!(unknown[12..20], [0xFF; 8], "queue time");
        assert_eq!(unknown[28..30], [0xFF; 2], "worker");
        assert_eq!(unknown[32..40], [0xFF; 8], "ready");
        assert_eq!(unknown[40..], with_stamps[40..]);

        let shed = head(Answer { done_ns: None, ..stamped });
        let mut expected = expected;
        expected[20..28].fill(0);
        expected[31] = 1;
        assert_eq!(shed, expected, "it has no stamps, wanted or not");
    }
}
