//! The backoff of all retries.

use std::time::Duration;

use rand::RngExt;
use tokio_retry::strategy::ExponentialBackoff;

/// Pauses between retries: `first`, doubled each time, at most `longest`. Each is shortened at random by up to a half,
/// so that processes do not retry at the same time.
pub fn backoff(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> {
    let half = u64::try_from(first.as_millis() / 2).unwrap_or(u64::MAX);
    ExponentialBackoff::from_millis(2).factor(half.max(1)).max_delay(longest).map(jitter)
}

/// The `n`-th pause of a [`backoff`], from 1.
pub fn nth(n: u32, first: Duration, longest: Duration) -> Duration {
    let place = usize::try_from(n.max(1) - 1).unwrap_or(usize::MAX);
    // By then every pause has reached `longest`.
    backoff(first, longest).nth(place.min(64)).unwrap_or(longest)
}

fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_vary() {
        let (first, longest) = (Duration::from_millis(500), Duration::from_secs(3));
        let tops = [500, 1_000, 2_000, 3_000, 3_000].map(Duration::from_millis);
        for _ in 0..50 {
            for (pause, top) in backoff(first, longest).zip(tops) {
                assert!((top / 2..=top).contains(&pause), "{pause:?} of {top:?}");
            }
        }
        assert!(nth(u32::MAX, first, longest) >= longest / 2);
        assert!(nth(0, first, longest) <= first);
        let some: Vec<_> = (0..20).map(|_| nth(3, first, longest)).collect();
        assert!(some.iter().any(|pause| *pause != some[0]), "{some:?}");
    }
}
