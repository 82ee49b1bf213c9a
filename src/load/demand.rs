//! [`Demand`]: how long `work` requests ask to be served, as a distribution: `fixed:10us`, `exp:10us`,
//! `bimodal:90%:5us,10%:55us`, `lognormal:10us:1.5`.
//!
//! What is drawn is not capped: a server that allows less (its `max_demand`) ends the session of the request.
//! Invariants: *printed-reads-back*: what is shown parses as the same distribution. *one-draw*: a sample takes one draw
//! of the generator it is given, whatever the distribution, so that changing the distribution moves nothing else that a
//! seed decides.
//!
//! Read next: `schedule.rs`, which draws the rest of a load.

use std::fmt;
use std::time::Duration;

use crate::config::shown;
use crate::random::Random;
use crate::units::{parse_decimal, parse_duration, show_duration};

/// What a demand may be written as, as it follows "expected".
pub const FORMS: &str = "fixed:10us, exp:10us, bimodal:90%:5us,10%:55us or lognormal:10us:1.5 (mean, sigma)";

/// Above it a slip of the keyboard is likelier than a wish.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Above it no run is long enough for its mean to come near the mean: the squared coefficient of variation is e^25.
const LARGEST_SIGMA: f64 = 5.0;
/// Shares are kept to a billionth of a percent, in whole numbers, so that their sum is exact.
const SHARE_DECIMALS: usize = 9;
const WHOLE: u64 = 100 * 10_u64.pow(SHARE_DECIMALS as u32);

/// A distribution of service times.
#[derive(Clone, Debug, PartialEq)]
pub enum Demand {
    /// Always the same.
    Fixed(Duration),
    /// Exponential.
    Exponential {
        /// Its mean, above zero.
        mean: Duration,
    },
    /// One of two.
    Bimodal {
        /// Each with its share, strictly between 0 and 1; together they are 1.
        parts: [(f64, Duration); 2],
    },
    /// The exponential of a normal distribution.
    Lognormal {
        /// The mean of the distribution itself, above zero; that of the normal below it is ln(mean) - sigma² / 2.
        mean: Duration,
        /// The standard deviation of the normal distribution below it.
        sigma: f64,
    },
}

impl Demand {
    /// The distribution written as `text`.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence that names the part; [`FORMS`] says what would have been right.
    pub fn parse(text: &str) -> Result<Demand, String> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let parsed = match name {
            "fixed" => read_time(rest).map(Demand::Fixed),
            "exp" => read_mean(rest).map(|mean| Demand::Exponential { mean }),
            "bimodal" => read_bimodal(rest),
            "lognormal" => read_lognormal(rest),
            _ => return Err(format!("{} is not a distribution", shown(name))),
        };
        parsed.map_err(|problem| format!("{}: {problem}", shown(text)))
    }

    /// The mean of the distribution, exactly; samples are rounded to whole nanoseconds.
    pub fn mean_ns(&self) -> f64 {
        match self {
            Demand::Fixed(mean) | Demand::Exponential { mean } | Demand::Lognormal { mean, .. } => ns(*mean),
            Demand::Bimodal { parts } => parts.iter().map(|(share, time)| share * ns(*time)).sum(),
        }
    }

    /// The squared coefficient of variation, variance over squared mean: 0 for `fixed`, 1 for `exp`.
    pub fn squared_variation(&self) -> f64 {
        match self {
            Demand::Fixed(_) => 0.0,
            Demand::Exponential { .. } => 1.0,
            Demand::Bimodal { parts } => {
                let mean = self.mean_ns();
                let variance: f64 = parts.iter().map(|(share, time)| share * (ns(*time) - mean).powi(2)).sum();
                // Two parts that take no time do not vary.
                if variance > 0.0 { variance / (mean * mean) } else { 0.0 }
            }
            Demand::Lognormal { sigma, .. } => (sigma * sigma).exp_m1(),
        }
    }

    /// One service time in nanoseconds. Takes one draw of `random` (*one-draw*), which seeds those of the sample.
    pub fn sample_ns(&self, random: &mut Random) -> u64 {
        let mut random = Random::new(random.next());
        let sample = match self {
            Demand::Fixed(time) => ns(*time),
            Demand::Exponential { mean } => random.exponential(ns(*mean)),
            Demand::Bimodal { parts: [(share, one), (_, other)] } => {
                ns(if random.uniform() < *share { *one } else { *other })
            }
            Demand::Lognormal { mean, sigma } => ns(*mean) * (sigma * random.normal() - sigma * sigma / 2.0).exp(),
        };
        sample.round() as u64
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Demand::Fixed(time) => write!(f, "fixed:{}", show_duration(*time)),
            Demand::Exponential { mean } => write!(f, "exp:{}", show_duration(*mean)),
            Demand::Bimodal { parts } => {
                let [one, other] = parts.map(|(share, time)| {
                    format!("{}%:{}", show_share((share * WHOLE as f64).round() as u64), show_duration(time))
                });
                write!(f, "bimodal:{one},{other}")
            }
            Demand::Lognormal { mean, sigma } => write!(f, "lognormal:{}:{sigma}", show_duration(*mean)),
        }
    }
}

fn read_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).map_err(|problem| format!("{} {problem}", shown(text)))?;
    if time > LONGEST { Err(format!("{text} is more than {}", show_duration(LONGEST))) } else { Ok(time) }
}

fn read_mean(text: &str) -> Result<Duration, String> {
    let mean = read_time(text)?;
    if mean.is_zero() { Err(format!("{text} is no mean; it must be above zero")) } else { Ok(mean) }
}

fn read_bimodal(text: &str) -> Result<Demand, String> {
    let part = |part: &str| {
        let (share, time) = part.split_once(':').ok_or_else(|| format!("{} is not SHARE%:DURATION", shown(part)))?;
        let share = read_share(share).map_err(|problem| format!("{} {problem}", shown(share)))?;
        Ok((share, read_time(time)?))
    };
    let parts = text.split(',').map(part).collect::<Result<Vec<_>, String>>()?;
    let &[(one, one_time), (other, other_time)] = parts.as_slice() else {
        return Err(format!("two parts are needed, not {}", parts.len()));
    };
    if one + other != WHOLE {
        return Err(format!("its shares are {}% together, not 100%", show_share(one + other)));
    }
    let share = |share: u64| share as f64 / WHOLE as f64;
    Ok(Demand::Bimodal { parts: [(share(one), one_time), (share(other), other_time)] })
}

fn read_lognormal(text: &str) -> Result<Demand, String> {
    let (mean, sigma) = text.split_once(':').ok_or("it needs a mean and a sigma")?;
    let mean = read_mean(mean)?;
    match parse_decimal(sigma) {
        Some(sigma) if sigma <= LARGEST_SIGMA => Ok(Demand::Lognormal { mean, sigma }),
        Some(_) => Err(format!("{sigma} is more than {LARGEST_SIGMA}, the largest sigma")),
        None => Err(format!("{} is not a number", shown(sigma))),
    }
}

fn read_share(text: &str) -> Result<u64, &'static str> {
    let number =
        text.strip_suffix('%').filter(|number| parse_decimal(number).is_some()).ok_or("is not a percentage")?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if decimals.len() > SHARE_DECIMALS {
        return Err("has more than nine decimals");
    }
    let share = format!("{whole}{decimals:0<SHARE_DECIMALS$}").parse().unwrap_or(u64::MAX);
    if 0 < share && share < WHOLE { Ok(share) } else { Err("is not between 0% and 100%") }
}

fn show_share(share: u64) -> String {
    let unit = WHOLE / 100;
    let text = format!("{}.{:0SHARE_DECIMALS$}", share / unit, share % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn ns(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: usize = 20_000;

    fn parsed(text: &str) -> Demand {
        Demand::parse(text).unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn samples(demand: &Demand, seed: u64) -> Vec<u64> {
        let mut random = Random::new(seed);
        std::iter::repeat_with(|| demand.sample_ns(&mut random)).take(SAMPLES).collect()
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same_distribution() {
        let table = [
            ("fixed:10us", "fixed:10us"),
            ("fixed:0", "fixed:0s"),
            ("fixed:1500us", "fixed:1500us"),
            ("exp:1m", "exp:60s"),
            ("exp:1h", "exp:3600s"),
            ("bimodal:90%:5us,10%:55us", "bimodal:90%:5us,10%:55us"),
            ("bimodal:99.90%:5us,0.1%:1ms", "bimodal:99.9%:5us,0.1%:1ms"),
            ("bimodal:33.3%:0,66.7%:0", "bimodal:33.3%:0s,66.7%:0s"),
            ("bimodal:0.000000001%:1s,99.999999999%:1ns", "bimodal:0.000000001%:1s,99.999999999%:1ns"),
            ("bimodal:012.340%:1s,87.66%:1s", "bimodal:12.34%:1s,87.66%:1s"),
            ("lognormal:10us:1.5", "lognormal:10us:1.5"),
            ("lognormal:10us:0", "lognormal:10us:0"),
            ("lognormal:10us:05.00", "lognormal:10us:5"),
            ("lognormal:10us:0.1000000000000000055511151231257827", "lognormal:10us:0.1"),
        ];
        for (text, shown) in table {
            let demand = parsed(text);
            assert_eq!(demand.to_string(), shown, "{text}");
            assert_eq!(parsed(shown), demand, "{text}");
        }
        // Every tenth of a percent: where sums and quotients of floating point would show.
        for tenths in 1..1_000 {
            let share = |tenths: usize| format!("{}.{}", tenths / 10, tenths % 10);
            let demand = parsed(&format!("bimodal:{}%:1us,{}%:2us", share(tenths), share(1_000 - tenths)));
            assert_eq!(parsed(&demand.to_string()), demand, "{tenths}");
        }
    }

    #[test]
    fn what_is_no_distribution_is_refused_with_its_reason() {
        let table = [
            ("", "an empty value is not a distribution"),
            ("10us", "10us is not a distribution"),
            ("gauss:10us:1us", "gauss is not a distribution"),
            ("Fixed:10us", "Fixed is not a distribution"),
            ("fixed", "fixed: an empty value is not a duration"),
            ("fixed:10", "fixed:10: 10 has no unit"),
            ("fixed:10us:1", "fixed:10us:1: 10us:1 has an unknown unit"),
            ("fixed:1.5us", "fixed:1.5us: 1.5us is not a whole number"),
            ("fixed:3601s", "fixed:3601s: 3601s is more than 3600s"),
            ("fixed:1\n", "fixed:1\\n: 1\\n has an unknown unit"),
            ("exp:-1us", "exp:-1us: -1us is not a duration"),
            ("exp:0us", "exp:0us: 0us is no mean; it must be above zero"),
            ("lognormal:10us", "lognormal:10us: it needs a mean and a sigma"),
            ("lognormal:10us:", "lognormal:10us:: an empty value is not a number"),
            ("lognormal:0:1", "lognormal:0:1: 0 is no mean; it must be above zero"),
            ("lognormal:10us:5.1", "lognormal:10us:5.1: 5.1 is more than 5, the largest sigma"),
            ("lognormal:10us:-1", "lognormal:10us:-1: -1 is not a number"),
            ("lognormal:10us:inf", "lognormal:10us:inf: inf is not a number"),
            ("lognormal:10us:NaN", "lognormal:10us:NaN: NaN is not a number"),
            ("lognormal:10us:1e1", "lognormal:10us:1e1: 1e1 is not a number"),
            ("lognormal:10us:1.", "lognormal:10us:1.: 1. is not a number"),
            ("bimodal", "bimodal: an empty value is not SHARE%:DURATION"),
            ("bimodal:5us", "bimodal:5us: 5us is not SHARE%:DURATION"),
            ("bimodal:100%:5us", "bimodal:100%:5us: 100% is not between 0% and 100%"),
            ("bimodal:90%:5us", "bimodal:90%:5us: two parts are needed, not 1"),
            ("bimodal:90:5us,10:5us", "bimodal:90:5us,10:5us: 90 is not a percentage"),
            ("bimodal:90%:5us,10%:5", "bimodal:90%:5us,10%:5: 5 has no unit"),
            ("bimodal:90%:5us,9.9%:5us", "bimodal:90%:5us,9.9%:5us: its shares are 99.9% together, not 100%"),
            ("bimodal:50%:5us,25%:1us,25%:2us", "bimodal:50%:5us,25%:1us,25%:2us: two parts are needed, not 3"),
            ("bimodal:0%:5us,100%:1us", "bimodal:0%:5us,100%:1us: 0% is not between 0% and 100%"),
            ("bimodal:-1%:5us,101%:1us", "bimodal:-1%:5us,101%:1us: -1% is not a percentage"),
            (
                "bimodal:0.0000000001%:5us,99%:1us",
                "bimodal:0.0000000001%:5us,99%:1us: 0.0000000001% has more than nine decimals",
            ),
            (
                "bimodal:99999999999999999999%:5us,1%:1us",
                "bimodal:99999999999999999999%:5us,1%:1us: 99999999999999999999% is not between 0% and 100%",
            ),
        ];
        for (text, problem) in table {
            assert_eq!(Demand::parse(text), Err(problem.to_owned()), "{text:?}");
        }
    }

    /// The largest distance between the distribution of the samples and `cdf`, of nanoseconds.
    fn kolmogorov_smirnov(mut samples: Vec<u64>, cdf: impl Fn(f64) -> f64) -> f64 {
        samples.sort_unstable();
        let n = samples.len() as f64;
        let distance = |(at, &sample): (usize, &u64)| {
            let expected = cdf(sample as f64);
            (expected - at as f64 / n).abs().max((expected - (at + 1) as f64 / n).abs())
        };
        samples.iter().enumerate().map(distance).fold(0.0, f64::max)
    }

    /// What the distance stays below in 999 of 1,000 tries; the seeds are fixed, so these tries stay what they are.
    fn critical() -> f64 {
        (-0.5 * (0.001_f64 / 2.0).ln()).sqrt() / (SAMPLES as f64).sqrt()
    }

    /// The distribution function of the normal distribution, to 1e-7 (Abramowitz and Stegun, 26.2.17).
    fn normal_cdf(x: f64) -> f64 {
        let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
        let polynomial = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
        let sum = polynomial.iter().rev().fold(0.0, |sum, factor| t * (sum + factor));
        let above = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum;
        if x < 0.0 { above } else { 1.0 - above }
    }

    #[test]
    fn exponential_samples_have_their_distribution() {
        for seed in 1..=5 {
            let distance = kolmogorov_smirnov(samples(&parsed("exp:1ms"), seed), |x| 1.0 - (-x / 1e6).exp());
            assert!(distance < critical(), "seed {seed}: {distance}");
        }
    }

    #[test]
    fn lognormal_samples_have_their_distribution() {
        for (sigma, seed) in [(0.1, 1), (0.5, 2), (1.0, 3), (1.5, 4), (3.0, 5)] {
            // Of a second, so that rounding to nanoseconds does not show.
            let demand = parsed(&format!("lognormal:1s:{sigma}"));
            let mu = 1e9_f64.ln() - sigma * sigma / 2.0;
            let distance = kolmogorov_smirnov(samples(&demand, seed), |x| normal_cdf((x.ln() - mu) / sigma));
            assert!(distance < critical(), "sigma {sigma}: {distance}");
        }
    }

    #[test]
    fn the_test_of_distributions_tells_them_apart() {
        let exponential = |mean: f64| move |x: f64| 1.0 - (-x / mean).exp();
        assert!(kolmogorov_smirnov(samples(&parsed("exp:1ms"), 1), exponential(1.05e6)) > critical());
        assert!(kolmogorov_smirnov(samples(&parsed("lognormal:1ms:1"), 1), exponential(1e6)) > critical());
    }

    #[test]
    fn bimodal_samples_have_their_shares_and_fixed_ones_do_not_vary() {
        for (text, share) in [
            ("bimodal:90%:5us,10%:55us", 0.9),
            ("bimodal:0.1%:5us,99.9%:55us", 0.001),
            ("bimodal:50%:5us,50%:55us", 0.5),
        ] {
            let samples = samples(&parsed(text), 7);
            let short = samples.iter().filter(|&&ns| ns == 5_000).count();
            let long = samples.iter().filter(|&&ns| ns == 55_000).count();
            assert_eq!(short + long, SAMPLES, "{text}");
            let deviation = (SAMPLES as f64 * share * (1.0 - share)).sqrt();
            assert!((short as f64 - SAMPLES as f64 * share).abs() < 3.3 * deviation, "{text}: {short}");
        }
        assert!(samples(&parsed("fixed:10us"), 7).iter().all(|&ns| ns == 10_000));
    }

    #[test]
    fn mean_and_variation_are_those_of_the_samples() {
        let table = [
            ("fixed:10us", 10_000.0, 0.0),
            ("exp:10us", 10_000.0, 1.0),
            ("bimodal:90%:5us,10%:55us", 10_000.0, 2.25),
            ("bimodal:50%:0,50%:0", 0.0, 0.0),
            ("lognormal:10us:0", 10_000.0, 0.0),
            ("lognormal:10us:0.5", 10_000.0, 0.284_025_416_687_741_5),
        ];
        for (text, mean_ns, variation) in table {
            let demand = parsed(text);
            assert!((demand.mean_ns() - mean_ns).abs() < 1e-6, "{text}: {}", demand.mean_ns());
            assert!((demand.squared_variation() - variation).abs() < 1e-9, "{text}: {}", demand.squared_variation());

            let samples: Vec<f64> = samples(&demand, 8).into_iter().map(|ns| ns as f64).collect();
            let n = SAMPLES as f64;
            let mean = samples.iter().sum::<f64>() / n;
            let variance = samples.iter().map(|ns| (ns - mean_ns).powi(2)).sum::<f64>() / n;
            assert!((mean - mean_ns).abs() <= 4.0 * (variance / n).sqrt(), "{text}: {mean}");
            assert!((variance - variation * mean_ns * mean_ns).abs() <= 0.1 * variance, "{text}: {variance}");
        }
    }

    #[test]
    fn a_sample_takes_one_draw_whatever_the_distribution() {
        for text in ["fixed:10us", "exp:10us", "bimodal:90%:5us,10%:55us", "lognormal:10us:1.5"] {
            let (mut random, mut beside) = (Random::new(9), Random::new(9));
            parsed(text).sample_ns(&mut random);
            beside.next();
            assert_eq!(random.next(), beside.next(), "{text}");
        }
    }
}
