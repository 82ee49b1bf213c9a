//! What the recorder says of a simulated server that stalls for a known time: the open loop must show the stall, and
//! the closed loop cannot. No socket, no clock; each run is a function of its seed.

use maitred::load::flight::{Flight, Found};
use maitred::load::plan::Arrivals;
use maitred::load::recorder::{Mark, Recorder, Tally};
use maitred::load::schedule::Schedule;

const MS: u64 = 1_000_000;
const WINDOW_NS: u64 = 10_000 * MS;
const SERVICE_NS: u64 = MS / 10;
/// A tenth of the window.
const STALL: std::ops::Range<u64> = 3_000 * MS..4_000 * MS;

/// A server of one place, first come first served, that does nothing during the stall.
#[derive(Default)]
struct Server {
    free_ns: u64,
}

impl Server {
    /// When what arrives now is answered.
    fn answer_ns(&mut self, arrival_ns: u64) -> u64 {
        let begin_ns = arrival_ns.max(self.free_ns);
        let begin_ns = if STALL.contains(&begin_ns) { STALL.end } else { begin_ns };
        self.free_ns = begin_ns + SERVICE_NS;
        self.free_ns
    }
}

/// What is recorded of arrivals at these times, with at most `depth` in flight.
fn record(arrivals: impl Iterator<Item = u64>, depth: usize) -> Tally {
    let mut recorder = Recorder::default();
    let (mut flight, mut server) = (Flight::default(), Server::default());
    recorder.set_window(0..WINDOW_NS, false);
    recorder.begin(Mark::default());
    let mut answers: Vec<u64> = Vec::new();
    for (number, intended_ns) in arrivals.enumerate() {
        flight.ask(intended_ns);
        // The slot of the request `depth` before this one.
        let freed_ns = number.checked_sub(depth).map_or(0, |before| answers[before]);
        let sent_ns = intended_ns.max(freed_ns);
        flight.begin(1, sent_ns);
        let answer_ns = server.answer_ns(sent_ns);
        answers.push(answer_ns);
        let Found::Sent(sent) = flight.complete(number as u64) else { panic!("{number} is in flight") };
        recorder.answered(sent, answer_ns);
    }
    recorder.end(Mark { at_ns: WINDOW_NS, ..Mark::default() });
    recorder.tally().clone()
}

fn poisson(seed: u64) -> impl Iterator<Item = u64> {
    let arrivals = Arrivals::Poisson { rate_per_s: 2_000.0 };
    Schedule::new(arrivals, 1, WINDOW_NS, seed).map(|arrival| arrival.at_ns)
}

#[test]
fn an_open_loop_shows_the_stall_in_its_p99() {
    for seed in 1..=5 {
        let tally = record(poisson(seed), usize::MAX);
        // A tenth of the requests was due during the stall, evenly spread over it: those that were due in its first
        // tenth waited for 0.9 s and more, and are the slowest hundredth of all. The backlog adds up to 0.2 s.
        let (p50, p99) = (tally.latency.quantile(0.5), tally.latency.quantile(0.99));
        assert!((900 * MS..1_150 * MS).contains(&p99), "seed {seed}: {p99}");
        assert!(p50 < 2 * SERVICE_NS, "seed {seed}: {p50}");
        assert!(tally.latency.max() > 990 * MS);
        // All were sent on time: both latencies are the same.
        assert_eq!(tally.service_latency.quantile(0.99), p99);
    }
}

#[test]
fn with_one_in_flight_only_the_latency_from_the_intended_send_shows_it() {
    for seed in 1..=5 {
        let tally = record(poisson(seed), 1);
        assert!((900 * MS..1_150 * MS).contains(&tally.latency.quantile(0.99)), "seed {seed}");
        // The one request that was in flight waited; the others were held back, and this is coordinated omission.
        assert!(tally.service_latency.quantile(0.999) < 2 * SERVICE_NS, "seed {seed}");
        assert_eq!(tally.latency.len(), tally.service_latency.len());
    }
}

#[test]
fn a_closed_loop_hides_the_stall() {
    // The next request follows the reply: 90,000 of them, of which a single one meets the stall.
    let mut server = Server::default();
    let times = std::iter::successors(Some(0), move |sent_ns| Some(server.answer_ns(*sent_ns)));
    let tally = record(times.take_while(|sent_ns| *sent_ns < WINDOW_NS), 1);
    assert!((89_990..=90_010).contains(&tally.latency.len()), "{}", tally.latency.len());
    assert!(tally.latency.quantile(0.999) < 2 * SERVICE_NS);
    assert!(tally.latency.max() > 999 * MS, "it is there, where no quantile looks");
}

#[test]
fn what_was_due_inside_the_window_counts_whenever_its_reply_comes() {
    let mut recorder = Recorder::default();
    let mut flight = Flight::default();
    recorder.set_window(100..200, true);
    // Due before the window, in it with a reply behind it, and after it.
    for (number, (intended_ns, answer_ns)) in [(99, 150), (100, 150), (199, 500), (200, 210)].into_iter().enumerate() {
        if answer_ns == 500 {
            recorder.end(Mark { at_ns: 200, ..Mark::default() });
        } else if number == 0 {
            recorder.begin(Mark { at_ns: 100, ..Mark::default() });
        }
        flight.ask(intended_ns);
        flight.begin(1, intended_ns + 1);
        let Found::Sent(sent) = flight.complete(number as u64) else { panic!("{number} is in flight") };
        recorder.answered(sent, answer_ns);
    }
    let counted = recorder.take_count(200).expect("it was asked for");
    let tally = recorder.tally();
    assert_eq!((tally.latency.len(), tally.latency.min(), tally.latency.max()), (2, 50, 301));
    assert_eq!(tally.service_latency.max(), 300);
    // Replies are counted when they come, for the rate; and an interval shows all that came.
    assert_eq!((tally.replies, tally.window_ns, counted.latency.len(), counted.until_ns), (2, 100, 4, 100));
}

#[test]
fn the_stages_of_a_request_add_up_to_its_latency_if_both_ends_have_one_clock() {
    // Intended, sent; ready, taken, done by the server; received.
    let staged = |stamps: [u64; 3]| {
        let mut recorder = Recorder::default();
        recorder.set_window(0..WINDOW_NS, false);
        let mut flight = Flight::default();
        flight.ask(1_000);
        flight.begin(1, 1_100);
        let Found::Sent(sent) = flight.complete(0) else { panic!("it is in flight") };
        recorder.answered(sent, 2_000);
        recorder.staged(sent, stamps, 2_000);
        let tally = recorder.tally().clone();
        assert_eq!(tally.latency.max(), 1_000);
        tally.stages.all().map(|stage| (!stage.is_empty()).then(|| stage.max()))
    };
    const UNKNOWN: u64 = u64::MAX;
    assert_eq!(staged([1_300, 1_600, 1_950]), [Some(100), Some(200), Some(300), Some(350), Some(50)]);
    // What a server cannot know is left out, with the stages at both its sides.
    assert_eq!(staged([1_300, UNKNOWN, UNKNOWN]), [Some(100), Some(200), None, None, None]);
    assert_eq!(staged([UNKNOWN; 3]), [Some(100), None, None, None, None]);
    // Another host's clock, ahead of ours or behind it, says how long it waited and worked, and no more.
    assert_eq!(staged([90_300, 90_600, 90_950]), [Some(100), None, Some(300), Some(350), None]);
    assert_eq!(staged([300, 600, 950]), [Some(100), None, Some(300), Some(350), None]);
}
