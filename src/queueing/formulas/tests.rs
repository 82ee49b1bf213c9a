//! Formulas against textbook values, against each other, and against identities that hold between them.

use super::*;

fn assert_near(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, not {expected}");
}

#[test]
fn erlang_b_and_c_are_those_of_the_tables() {
    // From the tables of teletraffic: offered load, servers, share.
    for (servers, offered, blocked) in [(1, 1.0, 0.5), (2, 1.0, 0.2), (5, 3.0, 0.110_054), (10, 5.0, 0.018_385)] {
        assert_near(erlang_b(servers, offered), blocked, 1e-6, "Erlang B");
    }
    // One server: all who find it busy wait. Two: 2 load² / (1 + load).
    for load in [0.1_f64, 0.5, 0.9, 0.999] {
        assert_near(erlang_c(1, load).expect("it is stable"), load, 1e-12, "one server");
        assert_near(erlang_c(2, load).expect("it is stable"), 2.0 * load * load / (1.0 + load), 1e-12, "two servers");
    }
    // 3^5 / 5! × 5 / 2, over itself and the sum of 3^k / k! below 5.
    assert_near(erlang_c(5, 0.6).expect("it is stable"), 5.0625 / 21.4375, 1e-12, "Erlang C");
    // Nothing overflows where factorials and powers would.
    assert!((0.0..1.0).contains(&erlang_c(4_096, 0.99).expect("it is stable")));
}

#[test]
fn the_largest_loads_at_an_objective_are_the_known_ones() {
    // Of the p99 of M/M/n within k mean service times, in tenths of a per cent.
    let table = [(1, [7.9, 53.9, 77.0]), (4, [60.6, 87.5, 94.1]), (8, [77.3, 93.6, 97.0]), (16, [87.3, 96.8, 98.5])];
    for (servers, expected) in table {
        for (limit, expected) in [5.0, 10.0, 20.0].into_iter().zip(expected) {
            let load = Mmc::largest_load(servers, 0.99, limit).expect("there is one");
            assert_near((load * 1_000.0).round() / 10.0, expected, 1e-9, &format!("n = {servers}, k = {limit}"));
        }
    }
    // 1 of 100 exponential service times is longer than 4.6 means, whatever the load.
    assert_eq!(Mmc::largest_load(16, 0.99, 4.6), None);
    assert!(Mmc::largest_load(16, 0.99, 4.7).is_some());
    assert_eq!(Md1::largest_load(0.99, 0.999), None);
    assert!(Md1::largest_load(0.99, 1.1).is_some());
}

#[test]
fn mmc_is_one_distribution_seen_from_all_sides() {
    for servers in [1, 2, 16, 256] {
        // 1 - 1 / servers: the rates of wait and service are equal there.
        for load in [0.01, 0.5, 0.9, 0.999, (1.0 - 1.0 / servers as f64).max(0.3)] {
            let system = Mmc::new(servers, load, 20.0).expect("it is stable");
            for quantile in [0.001, 0.5, 0.9, 0.99, 0.999, 0.999_999] {
                let time = system.sojourn_quantile(quantile);
                assert_near(system.sojourn_beyond(time) / (1.0 - quantile), 1.0, 1e-9, "sojourn there and back");
                let time = system.wait_quantile(quantile);
                let beyond = system.wait_beyond(time);
                assert!(beyond <= (1.0 - quantile) * (1.0 + 1e-9), "{servers} {load} {quantile}");
                assert_eq!(time == 0.0, system.waits() <= 1.0 - quantile);
            }
            // The mean is the integral of what is beyond.
            let step = system.mean_sojourn() / 1_000.0;
            let integral: f64 = (0..200_000).map(|at| system.sojourn_beyond((at as f64 + 0.5) * step) * step).sum();
            assert_near(integral / system.mean_sojourn(), 1.0, 1e-4, "the mean of what is beyond");
        }
    }
    // One server: the sojourn is exponential itself.
    let system = Mmc::new(1, 0.75, 2.0).expect("it is stable");
    assert_near(system.mean_sojourn(), 8.0, 1e-12, "M/M/1");
    assert_near(system.sojourn_quantile(0.99), 8.0 * 100.0_f64.ln(), 1e-9, "M/M/1");
}

#[test]
fn one_server_is_the_same_by_every_formula() {
    for load in [0.1, 0.5, 0.95] {
        let exponential = Mmc::new(1, load, 3.0).expect("it is stable");
        assert_near(mg1_mean_wait(load, 3.0, 1.0).expect("it is stable"), exponential.mean_wait(), 1e-9, "M/G/1");
        assert_near(shared_mean_sojourn(1, load, 3.0).expect("it is stable"), 3.0 / (1.0 - load), 1e-9, "sharing");
        let fixed = Md1::new(load, 3.0).expect("it is stable");
        assert_near(mg1_mean_wait(load, 3.0, 0.0).expect("it is stable"), fixed.mean_wait(), 1e-12, "M/D/1");
    }
}

/// Erlang's own formula for M/D/1, in units of the service time. Its terms alternate and grow, so that it is good for short
/// waits only.
fn md1_by_erlang(load: f64, time: f64) -> f64 {
    let mut sum = 0.0;
    for at in 0..=time.floor() as i32 {
        let gone = load * (time - f64::from(at));
        let factorial: f64 = (1..=at).map(f64::from).product();
        sum += (-gone).powi(at) / factorial * gone.exp();
    }
    (1.0 - load) * sum
}

#[test]
fn the_wait_of_md1_is_that_of_erlang_where_his_sum_keeps_its_digits() {
    for load in [0.05, 0.5, 0.9, 0.99] {
        let system = Md1::new(load, 1.0).expect("it is stable");
        assert_near(system.waits_at_most(0.0), 1.0 - load, 1e-12, "who finds nobody");
        for tenths in 0..80 {
            let time = f64::from(tenths) / 10.0 + 0.03;
            assert_near(system.waits_at_most(time), md1_by_erlang(load, time), 1e-9, &format!("{load} {time}"));
        }
    }
}

#[test]
fn the_wait_of_md1_stays_right_far_out() {
    for load in [0.5, 0.99, Md1::LARGEST_LOAD] {
        let system = Md1::new(load, 10.0).expect("it is stable");
        // The mean is the integral of what is beyond.
        let far = system.wait_quantile(1.0 - 1e-9);
        let step = far / 200_000.0;
        let integral: f64 = (0..200_000).map(|at| (1.0 - system.waits_at_most((at as f64 + 0.5) * step)) * step).sum();
        assert_near(integral / system.mean_wait(), 1.0, 1e-4, &format!("{load}"));
        for quantile in [0.9, 0.99, 0.999] {
            let time = system.wait_quantile(quantile);
            assert_near(system.waits_at_most(time), quantile.max(1.0 - load), 1e-9, "there and back");
        }
    }
}

#[test]
fn what_has_no_steady_state_has_no_value() {
    let at_one = "at a load of 1 the queue grows without end";
    assert_eq!(erlang_c(4, 1.0).expect_err("it is not stable").to_string(), at_one);
    assert_eq!(Mmc::new(4, 1.0, 1.0).expect_err("it is not stable").to_string(), at_one);
    assert_eq!(mg1_mean_wait(1.0, 1.0, 1.0).expect_err("it is not stable").to_string(), at_one);
    assert_eq!(shared_mean_sojourn(2, 1.0, 1.0).expect_err("it is not stable").to_string(), at_one);
    assert_eq!(Md1::new(1.0, 1.0).expect_err("it is not stable").to_string(), at_one);
    let too_near = Md1::new(0.99995, 1.0).expect_err("it is too near");
    assert_eq!(too_near.to_string(), "M/D/1 is computed up to a load of 0.9999, not 0.99995");
    for load in [0.0, -0.5, f64::NAN] {
        assert_eq!(erlang_c(1, load).expect_err("it is none").to_string(), format!("{load} is no load"));
    }
    assert_eq!(erlang_c(0, 0.5).expect_err("nobody").to_string(), "without servers nobody is served");
}
