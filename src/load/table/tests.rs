//! What the screen shows, letter by letter.

use super::*;
use crate::load::recorder::{ErrorKind, Errors};
use crate::load::report::{StageQuantiles, TimerError, Verdict};
use crate::metrics::histogram::Histogram;

/// Nothing happened, in a closed loop.
fn nothing() -> Report {
    Report {
        schema: "maitred.load/1",
        target: "echo=tcp://127.0.0.1:7007".to_owned(),
        service: "echo",
        scheme: "tcp",
        mode: "closed",
        arrivals: None,
        connections: 1,
        depth: Some(1),
        requests_per_connection: None,
        size_bytes: 64,
        demand: None,
        kind: None,
        framing: None,
        seed: 1,
        threads: 1,
        warmup_s: 1.0,
        duration_s: 0.0,
        interrupted: true,
        offered_per_s: None,
        phases: Vec::new(),
        achieved_per_s: 0.0,
        requests: 0,
        unsent: 0,
        intended: 0,
        unanswered: 0,
        shed: 0,
        deliveries: 0,
        errors: Errors::default(),
        bytes_sent: 0,
        bytes_received: 0,
        latency_ns: Quantiles::default(),
        service_latency_ns: Quantiles::default(),
        connect_latency_ns: None,
        stages_ns: None,
        stages_at: None,
        generator: Generator {
            threads: 1,
            cpu_util: 0.0,
            run_delay_util: 0.0,
            steal_util: Some(0.0099),
            cpu_ns_per_request: None,
            saturated: false,
            saturated_by: None,
            late_sends: 0,
            timer_error_ns: None,
        },
        server: None,
        slo: None,
        intervals: Vec::new(),
        search: None,
        histogram: Histogram::new(),
    }
}

/// Something of everything, in an open loop.
fn everything() -> Report {
    let mut histogram = Histogram::new();
    for (ns, count) in
        [(90, 20), (150, 4_000), (250, 30_000), (350, 42_000), (412, 40_000), (700, 20_000), (1_370, 3_000)]
    {
        histogram.record_n(ns * 1_000, count);
    }
    histogram.record_n(6_020_000, 12);
    let quantiles = |scale: u64| Quantiles {
        mean: Some(436_600.0 / scale as f64),
        p50: Some(400_000 / scale),
        p90: Some(700_000 / scale),
        p99: Some(1_370_000 / scale),
        p99_9: Some(2_999_600 / scale),
        p99_99: None,
        max: Some(6_020_000 / scale),
    };
    let mut errors = Errors::default();
    errors.add(ErrorKind::Closed, 2);
    errors.add(ErrorKind::Unanswered, 1_234);
    let mut report = Report {
        target: "work=tcp://127.0.0.1:7020".to_owned(),
        service: "work",
        mode: "open",
        arrivals: Some("poisson"),
        connections: 64,
        depth: None,
        requests_per_connection: Some(1_000),
        size_bytes: 16_384,
        demand: Some("exp:10us".to_owned()),
        kind: Some("spin"),
        seed: 42,
        threads: 2,
        duration_s: 10.0,
        interrupted: false,
        offered_per_s: Some(15_000.0),
        achieved_per_s: 13_903.2,
        requests: 139_032,
        unsent: 500,
        intended: 140_786,
        unanswered: 1_234,
        shed: 20,
        deliveries: 7,
        errors,
        bytes_sent: 2_277_900_288,
        bytes_received: 2_277_900_288,
        latency_ns: quantiles(1),
        service_latency_ns: quantiles(2),
        connect_latency_ns: Some(Quantiles { mean: Some(71_234.0), max: Some(99_000), ..Quantiles::default() }),
        stages_ns: Some(StageQuantiles {
            late: quantiles(20),
            unseen: quantiles(30),
            queue: quantiles(3),
            service: quantiles(40),
            reply: quantiles(1_000),
        }),
        generator: Generator {
            threads: 2,
            cpu_util: 1.93,
            run_delay_util: 0.05,
            steal_util: Some(0.01),
            cpu_ns_per_request: Some(138_817.0),
            saturated: true,
            saturated_by: Some(Cause::Itself),
            late_sends: 1_210,
            timer_error_ns: Some(TimerError { p50: Some(3_210), p99: Some(912_000), max: Some(4_100_000) }),
        },
        server: Some(Server {
            cpu_util: Some(3.87),
            cpu_ns_per_request: Some(278_354.0),
            voluntary_switches_per_request: Some(0.98),
            involuntary_switches_per_request: None,
            run_delay_ns_per_request: Some(1_204.0),
            rss_bytes: Some(12_900_000),
            processes: 5,
            threads: 5,
            processes_started: 4,
            processes_ended: 0,
            threads_started: 4,
            threads_ended: 1,
        }),
        slo: Some(Verdict {
            text: "p99=500us".to_owned(),
            quantile_ns: None,
            met: false,
            reason: Some("1.25 % unanswered".to_owned()),
        }),
        histogram,
        ..nothing()
    };
    let point = |rate_per_s: f64, quantile_ns, saturated, reason: Option<&str>| SearchPoint {
        rate_per_s,
        achieved_per_s: rate_per_s * 0.999,
        quantile_ns,
        met: reason.is_none(),
        saturated,
        reason: reason.map(str::to_owned),
        errors: Errors::default(),
    };
    report.search = Some(SearchReport {
        objective: "p99=500us".to_owned(),
        low_per_s: Some(750.0),
        high_per_s: Some(15_000.0),
        limited_by: Some("generator"),
        points: vec![
            point(750.0, Some(212_345), false, None),
            point(1_500_000.0, None, true, Some("88.23 % unanswered")),
            point(15_000.0, Some(1_370_000), true, Some("above 500us")),
        ],
    });
    report
}

/// Fails with both texts whole, so that the new one can be looked at and taken over.
fn assert_shows(report: &Report, expected: &str) {
    let text = render(report);
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > WIDTH).collect();
    assert!(wide.is_empty(), "more than {WIDTH} columns: {wide:#?}");
    assert!(text == expected.trim_start_matches('\n'), "shown:\n{text}\nexpected:\n{expected}");
}

#[test]
fn everything_fits_on_the_screen() {
    assert_shows(
        &everything(),
        r"
work=tcp://127.0.0.1:7020
  open loop · poisson arrivals · 64 connections · depth unlimited
  a new one after 1,000 requests · 16.0 KiB · demand exp:10us spin
  10.0 s after 1.00 s of warm-up · 2 threads · seed 42

  offered    15,000 /s
  achieved   13,903 /s of 14,079 /s that came due
  requests   139,032 answered · 500 unsent · 1,234 unanswered · 20 shed
             7 deliveries
  traffic    2.12 GiB sent (217 MiB/s) · 2.12 GiB received (217 MiB/s)
  errors     closed 2 · unanswered 1,234
  objective  p99=500us not met (1.25 % unanswered)

  latency from        p50      p90      p99    p99.9   p99.99      max     mean
  intended send    400 us   700 us  1.37 ms  3.00 ms        -  6.02 ms   437 us
  actual send      200 us   350 us   685 us  1.50 ms        -  3.01 ms   218 us
  connect               -        -        -        -        -  99.0 us  71.2 us

  stages     late until sent · unseen until ready · queue until taken
             service until done · reply until received
  late            20.0 us  35.0 us  68.5 us   150 us        -   301 us  21.8 us
  unseen          13.3 us  23.3 us  45.7 us   100 us        -   201 us  14.6 us
  queue            133 us   233 us   457 us  1.00 ms        -  2.01 ms   146 us
  service         10.0 us  17.5 us  34.2 us  75.0 us        -   150 us  10.9 us
  reply            400 ns   700 ns  1.37 us  3.00 us        -  6.02 us   437 ns
  - : fewer than ten samples beyond it

        up to  from the intended send                         requests    so far
       160 us │████▎                                             4,020    2.89 %
       200 us │                                                      0    2.89 %
       250 us │███████████████████████████████▍                 30,000   24.46 %
       315 us │                                                      0   24.46 %
       400 us │████████████████████████████████████████████     42,000   54.67 %
       500 us │█████████████████████████████████████████▉       40,000   83.44 %
       630 us │                                                      0   83.44 %
       800 us │█████████████████████                            20,000   97.83 %
      1.00 ms │                                                      0   97.83 %
      1.25 ms │                                                      0   97.83 %
      1.60 ms │███▏                                              3,000   99.99 %
  max 6.02 ms │▏                                                    12  100.00 %

  generator  1.93 CPUs of 2 threads · 0.05 waiting for one
             0.01 taken by the host · 139 us a request
             1,210 sends over 1 ms late (0.85 %)
             timer error p50 3.21 us, p99 912 us, max 4.10 ms
  server     3.87 CPUs · 278 us a request · 12.3 MiB · 5 processes · 5 threads
             switches a request: 0.98 voluntary, - involuntary
             run delay 1.20 us a request · processes: 4 begun, 0 ended
             threads: 4 begun, 1 ended

  search     p99=500us kept at 750 /s, missed at 15,000 /s
             limited by the generator
         offered       achieved       p99
          750 /s         749 /s    212 us  met
    1,500,000 /s   1,498,500 /s         -  88.23 % unanswered, saturated
       15,000 /s      14,985 /s   1.37 ms  above 500us, saturated

! 1,754 of 140,786 requests (1.24 %) were shed or got no answer. The latencies
  are those of the others.
! The generator was saturated: the latencies hold its own delays, and the server
  may carry more than this. Use more --threads, a lower --rate or another
  machine.
",
    );
}

#[test]
fn nothing_is_shown_as_such() {
    assert_shows(
        &nothing(),
        r"
echo=tcp://127.0.0.1:7007
  closed loop · 1 connection · depth 1 · 64 B · 0 s after 1.00 s of warm-up
  1 thread · seed 1

  achieved   0 /s
  requests   0 answered · 0 unsent
  traffic    0 B sent (0 B/s) · 0 B received (0 B/s)
  errors     none

  latency from        p50      p90      p99    p99.9   p99.99      max     mean
  intended send         -        -        -        -        -        -        -
  actual send           -        -        -        -        -        -        -

  generator  0.00 CPUs of 1 thread · 0.00 waiting for one

! Interrupted: the figures cover 0 s.
",
    );
}

#[test]
fn what_helps_depends_on_what_kept_the_generator() {
    let shown = |mode, threads, saturated_by| {
        let generator = Generator { saturated: true, saturated_by, steal_util: Some(0.006), ..nothing().generator };
        let text = render(&Report { mode, threads, generator, interrupted: false, ..nothing() });
        assert_eq!(text.contains("0.01 taken by the host"), saturated_by == Some(Cause::Host), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let warning = words.split_once("! The generator was saturated").expect("it is said").1;
        let (why, rest) = warning.split_once(": the latencies hold its own delays").expect("why is said");
        (why.trim().to_owned(), rest.split_once("this. ").expect("what to do is said").1.to_owned())
    };
    let table = [
        ("closed", 1, Some(Cause::Itself), "", "Use more --threads, fewer --connections or another machine."),
        ("open", 2, Some(Cause::Itself), "", "Use more --threads, a lower --rate or another machine."),
        (
            "open",
            1,
            Some(Cause::OtherPrograms),
            "by others who had its processor",
            "Give it a processor that neither the server nor another program uses (taskset).",
        ),
        (
            "closed",
            2,
            Some(Cause::OtherPrograms),
            "by others who had its processor",
            "Give it a processor that neither the server nor another program uses (taskset), no more --threads than it \
             has processors.",
        ),
        (
            "open",
            1,
            Some(Cause::Host),
            "by the host, which took its processor away",
            "More --threads or a lower --rate do not help; wait for a better hour, or use another machine.",
        ),
        (
            "open",
            1,
            None,
            ", and neither its own work nor other programs nor the host, as far as it tells, explain that",
            "Try more --threads, a lower --rate or another machine.",
        ),
    ];
    for (mode, threads, cause, why, remedy) in table {
        assert_eq!(shown(mode, threads, cause), (why.to_owned(), remedy.to_owned()), "{mode} {threads} {cause:?}");
    }
}

#[test]
fn a_trace_with_few_arrivals_reads_as_no_shortfall() {
    // What seed 1 draws at 20,000/s in ten seconds, all of it answered at once.
    let report = Report {
        mode: "open",
        offered_per_s: Some(20_000.0),
        intended: 199_352,
        requests: 199_352,
        achieved_per_s: 19_935.2,
        duration_s: 10.0,
        ..nothing()
    };
    let text = render(&report);
    assert!(text.contains("\n  offered    20,000 /s\n  achieved   19,935 /s of 19,935 /s that came due\n"), "{text}");
    let text = render(&Report { duration_s: 0.0, intended: 0, achieved_per_s: 0.0, ..report });
    assert!(text.contains("\n  offered    20,000 /s\n  achieved        0 /s\n"), "{text}");
}

#[test]
fn where_nothing_was_answered_there_are_no_others() {
    let text = render(&Report { intended: 5, unsent: 2, unanswered: 3, ..nothing() });
    assert!(text.ends_with("! 5 of 5 requests (100.00 %) got no answer.\n"), "{text}");
    let text = render(&Report { intended: 6, unsent: 2, unanswered: 3, requests: 1, ..nothing() });
    assert!(text.contains("got no answer. The latencies are those of the\n  others.\n"), "{text}");
}

#[test]
fn intervals_stand_under_their_head() {
    let full = Interval {
        from_s: 9.0,
        to_s: 10.0,
        requests: 49_987,
        achieved_per_s: 49_987.4,
        p50_ns: Some(411_999),
        p99_ns: Some(1_370_000),
        max_ns: Some(6_020_000),
        errors: 3,
    };
    let empty = Interval {
        requests: 0,
        achieved_per_s: 0.0,
        p50_ns: None,
        p99_ns: None,
        max_ns: None,
        errors: 0,
        ..full.clone()
    };
    let shown = interval_heading() + &interval_line(&full) + &interval_line(&empty);
    let expected = r"
       time s     requests   achieved/s        p50        p99        max  errors
  9.00- 10.00       49,987       49,987     412 us    1.37 ms    6.02 ms       3
  9.00- 10.00            0            0          -          -          -       0
";
    assert_eq!(shown, expected.trim_start_matches('\n'));
    // Of a report, their lines are printed before it.
    let report = Report { intervals: vec![full], ..nothing() };
    assert_eq!(render(&report), format!("\n{}", render(&nothing())));
}

#[test]
fn three_digits_in_the_unit_that_suits() {
    let times = [
        (0.0, "0 ns"),
        (7.0, "7 ns"),
        (12.37, "12.4 ns"),
        (999.0, "999 ns"),
        (999.6, "1.00 us"),
        (1_000.0, "1.00 us"),
        (9_994.0, "9.99 us"),
        (9_995.0, "10.0 us"),
        (99_949.0, "99.9 us"),
        (99_950.0, "100 us"),
        (412_499.0, "412 us"),
        (999_499.0, "999 us"),
        (999_500.0, "1.00 ms"),
        (60e9, "60.0 s"),
        (3_600e9, "3600 s"),
    ];
    for (ns, expected) in times {
        assert_eq!(show_ns(ns), expected, "{ns} ns");
    }
    for (bytes, expected) in
        [(0.0, "0 B"), (64.0, "64 B"), (1_000.0, "0.98 KiB"), (1e6, "977 KiB"), (3e18, "2728484 TiB")]
    {
        assert_eq!(show_bytes(bytes), expected, "{bytes} bytes");
    }
    for (rate, expected) in [(0.0, "0"), (0.125, "0.12"), (51.23, "51.2"), (999.4, "999"), (999.5, "1,000")] {
        assert_eq!(show_rate(rate), expected, "{rate} /s");
    }
    for (count, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(show_count(count), expected);
    }
    for (share, expected) in
        [(0.0, "0.00 %"), (0.000_09, "<0.01 %"), (0.5, "50.00 %"), (0.999_99, "99.99 %"), (1.0, "100.00 %")]
    {
        assert_eq!(show_share(share), expected, "{share}");
    }
}

#[test]
fn what_waits_for_ten_samples_is_explained_only_where_it_is_seen() {
    let note = |report: &Report| render(report).contains("fewer than ten samples");
    assert!(note(&everything()) && !note(&nothing()));
    let all = Quantiles { p99_99: Some(1), max: Some(1), ..Quantiles::default() };
    assert!(!note(&Report { latency_ns: all.clone(), service_latency_ns: all, ..nothing() }));
}
