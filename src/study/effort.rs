//! [`Effort`]: what a server did for its requests, made of what its summary counts: how deep its queue was, and how often it
//! called the system.
//!
//! A summary is of the whole run, and a load's report of its window. So requests are counted where the calls are, by the
//! bytes that the server has read: all requests of a run are of one length. Measures nothing and judges nothing.
//!
//! Invariant *never-a-zero-in-disguise* (`row.rs`): what an engine does not count is absent here, too.
//!
//! Read next: `report/tables.rs`, where it is shown.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::row::Parameters;
use crate::load::pattern::WORK_REQUEST_HEADER;
use crate::metrics::counters::most_of_class;
use crate::metrics::histogram::is_believable;

/// The quantile of the queue's depth that is told.
const DEEP: f64 = 0.99;

/// What a server did for its requests; null is what it does not count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effort {
    /// System calls of the server by the requests that it has read: at least so many, since not all are counted
    /// ([`Summary::system_calls`](crate::metrics::summary::Summary::system_calls)).
    pub system_calls_per_request: Option<f64>,
    /// The share of batches behind which the poller saw the service queue empty: workers had taken everything by then.
    pub queue_empty_share: Option<f64>,
    /// Behind 99 % of batches the queue was at most this deep: the upper end of a class of depths. Null with fewer than ten
    /// batches beyond it.
    pub queue_depth_p99: Option<u64>,
}

impl Effort {
    /// What this summary says of a run with these parameters; none if it says nothing.
    pub fn of(parameters: &Parameters, server: &Value) -> Option<Effort> {
        let depths = Depths::of(server);
        let effort = Effort {
            system_calls_per_request: system_calls_per_request(parameters, server),
            queue_empty_share: depths.as_ref().map(Depths::empty_share),
            queue_depth_p99: depths.as_ref().and_then(|depths| depths.most_at(DEEP)),
        };
        let tells = effort.system_calls_per_request.is_some() || effort.queue_empty_share.is_some();
        tells.then_some(effort)
    }
}

fn system_calls_per_request(parameters: &Parameters, server: &Value) -> Option<f64> {
    let calls = server.get("system_calls")?.as_u64()?;
    let requests = read_bytes(server)? as f64 / request_bytes(parameters)? as f64;
    (requests >= 1.0).then_some(calls as f64 / requests)
}

/// What all who run turns have read from sockets.
fn read_bytes(server: &Value) -> Option<u64> {
    let workers = server.get("worker_turns")?.as_array()?;
    let all = workers.iter().chain(server.get("poller_turns"));
    all.map(|turns| turns.get("read_bytes")?.as_u64()).sum()
}

/// The length of a request on the wire, where it is known.
fn request_bytes(parameters: &Parameters) -> Option<usize> {
    match parameters.service.as_str() {
        "work" => Some(WORK_REQUEST_HEADER + parameters.size_bytes),
        "echo" => Some(parameters.size_bytes),
        _ => None,
    }
}

/// How deep the service queue was, batch by batch.
struct Depths {
    /// Batches by the classes of depths.
    classes: Vec<u64>,
    batches: u64,
    /// The deepest that it ever was.
    deepest: u64,
}

impl Depths {
    /// None where there is no service queue, or nothing was put there.
    fn of(server: &Value) -> Option<Depths> {
        let classes = server.get("queue_depths")?.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>()?;
        let deepest = server.get("poller")?.get("queue_depth_max")?.as_u64()?;
        let batches: u64 = classes.iter().sum();
        (batches > 0).then_some(Depths { classes, batches, deepest })
    }

    fn empty_share(&self) -> f64 {
        self.classes[0] as f64 / self.batches as f64
    }

    /// The most that it was behind this share of batches; none where too few lie beyond.
    fn most_at(&self, quantile: f64) -> Option<u64> {
        let rank = (self.batches as f64 * quantile).ceil() as u64;
        let reaches = |seen: &mut u64, batches: &u64| {
            *seen += batches;
            Some(*seen >= rank)
        };
        let class = self.classes.iter().scan(0, reaches).position(|is_there| is_there)?;
        let most = most_of_class(class).map_or(self.deepest, |most| most.min(self.deepest));
        is_believable(quantile, self.batches).then_some(most)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::row::tests::row;
    use super::*;

    fn of(server: Value) -> Option<Effort> {
        Effort::of(&row().parameters, &server)
    }

    #[test]
    fn calls_are_by_the_requests_that_the_server_has_read() {
        // 64 bytes behind a header of 24: four requests, one of them read by the poller.
        let mut server = json!({"system_calls": 14, "worker_turns": [{"read_bytes": 88}, {"read_bytes": 176}],
                                "poller_turns": {"read_bytes": 88}});
        let calls = |server: &Value| of(server.clone())?.system_calls_per_request;
        assert_eq!(calls(&server), Some(3.5));
        let mut echo = row().parameters;
        echo.service = "echo".to_owned();
        let told = Effort::of(&echo, &server).expect("it tells").system_calls_per_request;
        assert_eq!(told, Some(14.0 * 64.0 / 352.0), "all of its request is payload");
        echo.service = "chat".to_owned();
        assert_eq!(Effort::of(&echo, &server), None, "nobody knows how long its requests are");

        server["system_calls"] = Value::Null;
        assert_eq!(calls(&server), None, "a summary of an earlier version");
        server["system_calls"] = json!(14);
        server["worker_turns"][1] = json!({"turns": 2});
        assert_eq!(calls(&server), None, "somebody has not said how much it has read");
        assert_eq!(calls(&json!({"system_calls": 14, "worker_turns": [{"read_bytes": 0}]})), None, "nobody has asked");
    }

    #[test]
    fn a_depth_is_the_upper_end_of_its_class_and_never_more_than_the_deepest() {
        let depths = |counts: [u64; 12], deepest: u64| {
            let effort = of(json!({"queue_depths": counts, "poller": {"queue_depth_max": deepest}}))?;
            Some((effort.queue_empty_share.expect("there were batches"), effort.queue_depth_p99))
        };
        let with = |pairs: &[(usize, u64)]| {
            let mut counts = [0; 12];
            pairs.iter().for_each(|&(class, count)| counts[class] = count);
            counts
        };
        let table = [
            (with(&[(0, 250), (3, 740), (4, 10)]), 15, Some((0.25, Some(7)))),
            (with(&[(0, 250), (3, 739), (4, 11)]), 15, Some((0.25, Some(15)))),
            (with(&[(0, 250), (3, 739), (4, 11)]), 9, Some((0.25, Some(9)))),
            (with(&[(0, 1_000)]), 3, Some((1.0, Some(0)))),
            (with(&[(11, 1_000)]), 5_000, Some((0.0, Some(5_000)))),
            // Fewer than ten beyond.
            (with(&[(0, 999)]), 0, Some((1.0, None))),
            (with(&[]), 0, None),
        ];
        for (counts, deepest, expected) in table {
            assert_eq!(depths(counts, deepest), expected, "{counts:?}");
        }
        assert_eq!(of(json!({"poller": {"queue_depth_max": 4}})), None, "a summary of an earlier version");
    }
}
