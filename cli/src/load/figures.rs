//! Statistics.

use std::time::Duration;

use serde::Serialize;

/// Percentiles in seconds, by nearest rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` without measurements.
    pub(super) fn of(mut measured: Vec<Duration>) -> Option<Self> {
        measured.sort_unstable();
        let at = |percent: usize| {
            let rank = (measured.len() * percent).div_ceil(100).max(1);
            measured.get(rank - 1).map(Duration::as_secs_f64)
        };
        Some(Self { p50: at(50)?, p90: at(90)?, p99: at(99)?, max: at(100)? })
    }
}

/// A quotient; 0 if the divisor is 0.
pub(super) fn ratio(sum: f64, over: f64) -> f64 {
    if over > 0.0 { sum / over } else { 0.0 }
}

pub(super) fn count(things: usize) -> f64 {
    u32::try_from(things).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_made_of_what_was_measured() {
        let seconds = |all: std::ops::RangeInclusive<u64>| all.map(Duration::from_secs).rev().collect();
        let spread = |p50, p90, p99, max| Some(Spread { p50, p90, p99, max });
        assert_eq!(Spread::of(seconds(1..=100)), spread(50.0, 90.0, 99.0, 100.0));
        assert_eq!(Spread::of(seconds(1..=1000)), spread(500.0, 900.0, 990.0, 1000.0));
        assert_eq!(Spread::of(seconds(1..=3)), spread(2.0, 3.0, 3.0, 3.0));
        assert_eq!(Spread::of(seconds(7..=7)), spread(7.0, 7.0, 7.0, 7.0));
        assert_eq!(Spread::of(vec![]), None);
    }

    #[test]
    fn nothing_over_nothing_is_nothing() {
        assert_eq!((ratio(3.0, count(2)), ratio(3.0, count(0))), (1.5, 0.0));
    }
}
