//! The state of the circuit breaker and of the concurrency limit.

use std::time::Duration;

use longhand_shared::net::backoff;
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::limit::{Limit, TOO_SLOW};

/// While the circuit is closed, one probe may start per interval, and [`PROBE_BURST`] at once after a quiet time: at most
/// 17 in a minute.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// See [`PROBE_INTERVAL`].
pub const PROBE_BURST: u32 = 5;

/// The first and the longest pause between probes of an open circuit.
pub const OPEN_PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// How many calls per slot may begin after a failure until a call succeeds. Failed chunks are parked and release their
/// slots, so without this bound a model that may be down would get ever more calls.
const CALLS_ON_SUSPICION: usize = 4;

/// The circuit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Until the next probe.
    pub pause: Duration,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) limit: Limit,
    pub(super) circuit: Circuit,
    /// When the latest successful call began, for a probe or a chunk.
    pub(super) proven: Option<Instant>,
    /// The time of the latest failure that the model may have caused.
    pub(super) suspected: Option<Instant>,
    /// Whether a probe should measure how fast the model is.
    pub(super) timing_wanted: bool,
    /// The usual duration of a probe, in seconds.
    pub(super) usual_probe: Option<f64>,
    /// The earliest time of the next probe. In the past by the intervals that a burst may use.
    pub(super) next_probe: Option<Instant>,
    /// Calls that began since a failure without a success.
    pub(super) on_suspicion: usize,
    /// Why the last probe failed.
    pub(super) problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Circuit {
    Closed,
    Open { until: Instant, failures: u32 },
}

impl State {
    pub(super) fn new(ceiling: usize) -> Self {
        Self {
            limit: Limit::new(ceiling),
            circuit: Circuit::Closed,
            proven: None,
            suspected: None,
            timing_wanted: false,
            usual_probe: None,
            next_probe: None,
            on_suspicion: 0,
            problem: None,
        }
    }

    pub(super) fn allowed(&self) -> usize {
        match self.circuit {
            Circuit::Closed => self.limit.calls(),
            Circuit::Open { .. } => 0,
        }
    }

    pub(super) fn is_open(&self) -> Option<Open> {
        match self.circuit {
            Circuit::Closed => None,
            Circuit::Open { until, .. } => {
                Some(Open { pause: until.saturating_duration_since(Instant::now()) })
            }
        }
    }

    pub(super) fn is_suspected(&self) -> bool {
        self.suspected > self.proven
    }

    pub(super) fn may_begin(&self) -> bool {
        let suspicious = self.is_suspected() && self.on_suspicion >= self.limit.calls() * CALLS_ON_SUSPICION;
        self.limit.in_flight() < self.allowed() && !suspicious
    }

    pub(super) fn suspect(&mut self, now: Instant) {
        if !self.is_suspected() {
            self.on_suspicion = 0;
        }
        self.suspected = Some(now);
    }

    /// Records the success of a call that began at `began`.
    pub(super) fn prove(&mut self, began: Instant) {
        self.proven = self.proven.max(Some(began));
        self.on_suspicion = 0;
    }

    pub(super) fn probe_begins(&mut self, now: Instant) {
        // Each probe uses an interval. Unused intervals allow a burst.
        let saved = now.checked_sub(PROBE_INTERVAL * (PROBE_BURST - 1)).unwrap_or(now);
        self.next_probe = Some(self.next_probe.map_or(saved, |next| next.max(saved)) + PROBE_INTERVAL);
    }

    /// When the next probe should begin, if one is wanted.
    pub(super) fn probe_due(&self) -> Option<Instant> {
        match self.circuit {
            Circuit::Open { until, .. } => Some(until),
            Circuit::Closed if self.is_suspected() || self.timing_wanted => {
                Some(self.next_probe.unwrap_or_else(Instant::now))
            }
            Circuit::Closed => None,
        }
    }

    pub(super) fn probe_answered(&mut self, began: Instant, took: Duration) {
        self.prove(began);
        self.problem = None;
        let seconds = took.as_secs_f64();
        match self.circuit {
            Circuit::Open { .. } => {
                info!("the model works again: circuit closed");
                self.circuit = Circuit::Closed;
                self.limit.start_again();
            }
            Circuit::Closed => {
                let slow = self.usual_probe.is_some_and(|usual| seconds > usual * TOO_SLOW);
                if std::mem::take(&mut self.timing_wanted) && slow {
                    let floor = self.limit.slow_floor();
                    self.limit.cut(Instant::now(), took, floor);
                }
            }
        }
        self.usual_probe = Some(self.usual_probe.map_or(seconds, |usual| usual + (seconds - usual) * 0.1));
    }

    pub(super) fn probe_failed(&mut self, began: Instant, problem: String) {
        self.timing_wanted = false;
        let failures = match self.circuit {
            // Other calls succeed, so the problem is the probe's recording, or chance.
            Circuit::Closed if self.proven >= Some(began) => {
                warn!(problem, "the probe fails while other calls succeed; if this repeats, check ASR_PROBE");
                return;
            }
            Circuit::Closed => 1,
            Circuit::Open { failures, .. } => failures.saturating_add(1),
        };
        let pause = backoff::nth(failures, OPEN_PAUSES.0, OPEN_PAUSES.1);
        warn!(?pause, problem, "the model is down: the circuit is open");
        self.circuit = Circuit::Open { until: Instant::now() + pause, failures };
        self.problem = Some(problem);
    }
}
