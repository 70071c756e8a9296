//! The behaviour for calls without a scripted answer: latency, capacity and faults.

use std::{str::FromStr, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::text::fingerprint;

/// The maximum latency: an hour.
const MAX_LATENCY_MS: f64 = 3_600_000.0;

/// The behaviour for calls without a scripted answer. The default has no latency, no limit and no faults.
///
/// In JSON every field may be left out: `{"latency": {"fixed": 250}, "max_concurrent": 8}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// The time from the end of the upload to the answer. It applies to scripted answers too, except
    /// [`Answer::After`]. Refusals (a bad request, no capacity) are immediate.
    pub latency: Latency,
    /// The answer if no fault is drawn.
    pub answer: Answer,
    /// The faults with their probabilities, whose sum should be at most 1.
    pub faults: Vec<Weighted>,
    /// The concurrency limit. Further calls get a `429` after their upload.
    pub max_concurrent: Option<usize>,
    /// The `Retry-After` header of that `429`.
    pub retry_after: Option<String>,
    /// Whether `response_format=verbose_json` is supported. If not, it gets a `400` that names it.
    pub supports_verbose_json: bool,
    /// The random seed. With a seed, the n-th call for a file name always gets the same fault and latency, in any
    /// order of calls. Without a seed, every sim and every [`set`](crate::SimAsr::set) differs.
    pub seed: Option<u64>,
    /// Whether the upload is read before the answer. If not, the sim acts like a proxy that refuses early: it does not
    /// know the file name, so it uses no script and no [`FileBook`](crate::FileBook). It also does not notice a client
    /// that disconnects before the answer.
    pub reads_upload: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            latency: Latency::default(),
            answer: Answer::default(),
            faults: Vec::new(),
            max_concurrent: None,
            retry_after: None,
            supports_verbose_json: true,
            seed: None,
            reads_upload: true,
        }
    }
}

impl Behaviour {
    /// The default, but every call gets this answer.
    pub fn answering(answer: Answer) -> Self {
        Self { answer, ..Self::default() }
    }

    /// The default, but every call takes this long.
    pub fn taking(latency: Latency) -> Self {
        Self { latency, ..Self::default() }
    }

    /// A mix of transient faults with this total probability (0 to 1): two fifths are `503`, the rest in equal parts
    /// `500`, `429` with `Retry-After: 1`, and a closed connection.
    pub fn usual_faults(rate: f64) -> Vec<Weighted> {
        vec![
            Weighted::new(rate * 0.4, Answer::status(503)),
            Weighted::new(rate * 0.2, Answer::status(500)),
            Weighted::new(rate * 0.2, Answer::status_retry_after(429, "1")),
            Weighted::new(rate * 0.2, Answer::Cut),
        ]
    }

    /// Draws the answer and the latency of the n-th call for a file name.
    pub(crate) fn draw(&self, seed: u64, file_name: &str, nth: u64) -> (Answer, Duration) {
        let mut rng =
            StdRng::seed_from_u64(seed ^ fingerprint(file_name) ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let latency = self.latency.draw(&mut rng);
        let mut draw: f64 = rng.random();
        for fault in &self.faults {
            if draw < fault.probability {
                return (fault.answer.clone(), latency);
            }
            draw -= fault.probability;
        }
        (self.answer.clone(), latency)
    }
}

/// A fault and its probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// From 0, never, to 1, always.
    pub probability: f64,
    pub answer: Answer,
}

impl Weighted {
    pub fn new(probability: f64, answer: Answer) -> Self {
        Self { probability, answer }
    }
}

/// The latency of a call.
///
/// As text: `250` (milliseconds), `5000..10000` (uniform), `7000~0.3` (log-normal: median and sigma).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// Always this many milliseconds.
    Fixed(u64),
    /// Uniformly distributed between the bounds, inclusive.
    Uniform { from_ms: u64, to_ms: u64 },
    /// Near the median with a long tail, like real servers. At most an hour.
    LogNormal {
        /// Half of the calls take less than this many milliseconds.
        median_ms: u64,
        /// The standard deviation of the logarithm: at 0.5, one call in 40 takes over 2.7 medians.
        sigma: f64,
    },
}

impl Default for Latency {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Latency {
    fn draw(self, rng: &mut StdRng) -> Duration {
        match self {
            Self::Fixed(ms) => Duration::from_millis(ms),
            Self::Uniform { from_ms, to_ms } => {
                Duration::from_millis(rng.random_range(from_ms.min(to_ms)..=to_ms.max(from_ms)))
            }
            Self::LogNormal { median_ms, sigma } => {
                // Box and Muller's transform; `1 - u` keeps the logarithm from 0.
                let (u, v): (f64, f64) = (rng.random(), rng.random());
                let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                let median = Duration::from_millis(median_ms).as_secs_f64() * 1000.0;
                let ms = (median * (sigma * normal).exp()).clamp(0.0, MAX_LATENCY_MS);
                Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default()
            }
        }
    }
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is not a latency: give milliseconds as `250`, `5000..10000` or `7000~0.3` (median~sigma)"
            )
        };
        let ms = |number: &str| number.trim().parse::<u64>().map_err(|_| bad());
        if let Some((from, to)) = text.split_once("..") {
            let (from_ms, to_ms) = (ms(from)?, ms(to)?);
            if from_ms > to_ms {
                return Err(bad());
            }
            Ok(Self::Uniform { from_ms, to_ms })
        } else if let Some((median, sigma)) = text.split_once('~') {
            let sigma: f64 = sigma.trim().parse().map_err(|_| bad())?;
            if !sigma.is_finite() || sigma < 0.0 {
                return Err(bad());
            }
            Ok(Self::LogNormal { median_ms: ms(median)?, sigma })
        } else {
            ms(text).map(Self::Fixed)
        }
    }
}

/// Parses a share, from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// A sequence of behaviours: an outage, a recovery, a load peak.
///
/// In JSON, a list: `[{"after_ms": 0, "behaviour": {}}, {"after_ms": 60000, "behaviour": {"answer": {"status": {"code": 503}}}}]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schedule(pub Vec<Step>);

/// One step of a [`Schedule`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Milliseconds from the start of the schedule to the start of this behaviour.
    pub after_ms: u64,
    pub behaviour: Behaviour,
}

impl Step {
    pub fn new(after_ms: u64, behaviour: Behaviour) -> Self {
        Self { after_ms, behaviour }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_parsed() {
        assert_eq!("250".parse(), Ok(Latency::Fixed(250)));
        let (from_ms, to_ms) = (5_000, 10_000);
        assert_eq!("5000..10000".parse(), Ok(Latency::Uniform { from_ms, to_ms }));
        let (median_ms, sigma) = (7_000, 0.3);
        assert_eq!("7000~0.3".parse(), Ok(Latency::LogNormal { median_ms, sigma }));
        for bad in ["", "1s", "9..3", "5..", "7~-1", "7~NaN"] {
            let error = bad.parse::<Latency>().expect_err(bad);
            assert!(error.starts_with(&format!("`{bad}` is not a latency")), "{error}");
        }
    }

    #[test]
    fn half_of_the_log_normal_latencies_are_below_the_median() {
        let behaviour = Behaviour::taking(Latency::LogNormal { median_ms: 7_000, sigma: 0.5 });
        let times: Vec<Duration> = (0..2_000).map(|nth| behaviour.draw(1, "a", nth).1).collect();
        let share = |factor: f64| {
            let limit = Duration::from_secs(7).mul_f64(factor);
            times.iter().filter(|&&time| time < limit).count() * 100 / times.len()
        };
        assert!((46..=54).contains(&share(1.0)), "{}", share(1.0));
        assert!((94..=99).contains(&share(2.66)), "{}", share(2.66));
        assert!((1..=6).contains(&share(1.0 / 2.66)), "{}", share(1.0 / 2.66));
    }
}
