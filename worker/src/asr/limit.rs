//! The concurrency limit, with additive increase and multiplicative decrease, as in TCP. A 429 cuts it by a third. So
//! do answers that take more than twice as long as usual, if the following probe does too. There is at most one cut per
//! round of calls. Each successful round adds one.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

/// A call that takes this many times as long as usual indicates too many calls.
pub(super) const TOO_SLOW: f64 = 2.0;

/// How many calls establish the usual duration.
pub(super) const FIRST_CALLS: u32 = 10;

/// The limit and what it is derived from.
#[derive(Debug)]
pub(super) struct Limit {
    ceiling: usize,
    now: f64,
    in_flight: usize,
    /// The maximum number of calls in flight since the last idle moment or cut.
    peak: usize,
    /// Since the circuit closed, until the first cut: the limit doubles each round.
    slow_start: bool,
    /// No cut before this.
    cut_again: Instant,
    /// Transcriptions so far.
    answers: u32,
    /// Their seconds: the usual ones over about a hundred calls, the recent ones over about ten.
    usual: f64,
    recent: f64,
}

impl Limit {
    pub(super) fn new(ceiling: usize) -> Self {
        Self {
            ceiling,
            now: as_f64(ceiling),
            in_flight: 0,
            peak: 0,
            slow_start: false,
            cut_again: Instant::now(),
            answers: 0,
            usual: 0.0,
            recent: 0.0,
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the ceiling")]
    pub(super) fn calls(&self) -> usize {
        self.now as usize
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn begin(&mut self) {
        self.in_flight += 1;
        self.peak = self.peak.max(self.in_flight);
    }

    pub(super) fn end(&mut self) {
        self.in_flight -= 1;
        if self.in_flight == 0 {
            self.peak = 0;
        }
    }

    /// Records a transcription. Returns whether answers have become slow.
    pub(super) fn answered(&mut self, took: Duration) -> bool {
        let took = took.as_secs_f64();
        self.answers = self.answers.saturating_add(1);
        let first = 1.0 / f64::from(self.answers);
        self.recent += (took - self.recent) * first.max(0.1);
        self.usual += (took - self.usual) * first.max(0.01);
        let slow = self.answers > FIRST_CALLS && self.recent > self.usual * TOO_SLOW;
        if !slow {
            self.grow();
        }
        slow
    }

    /// Whether the usual duration has just been established.
    pub(super) fn has_new_baseline(&self) -> bool {
        self.answers == FIRST_CALLS
    }

    /// Cuts the limit by a third, at most once per round of calls.
    pub(super) fn cut(&mut self, now: Instant, took: Duration, floor: usize) {
        if now < self.cut_again || self.calls() <= floor {
            return;
        }
        self.now = (self.now * 2.0 / 3.0).max(as_f64(floor));
        self.slow_start = false;
        self.peak = self.in_flight;
        self.cut_again = now + took.max(Duration::from_secs(1));
        info!(limit = self.calls(), "the model is overloaded: concurrency limit reduced");
    }

    /// Slow answers never cut below this: it may be that the chunks are longer.
    pub(super) fn slow_floor(&self) -> usize {
        (self.ceiling / 4).max(1)
    }

    /// After an outage: one call, and twice as many each round.
    pub(super) fn start_again(&mut self) {
        self.now = 1.0;
        self.slow_start = true;
    }

    fn grow(&mut self) {
        let step = if self.slow_start { 1.0 } else { 1.0 / self.now };
        // A limit that is not reached says nothing about the model.
        if self.peak * 2 >= self.calls() {
            self.now = (self.now + step).min(as_f64(self.ceiling));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a limit of calls is far below 2^52")]
fn as_f64(calls: usize) -> f64 {
    calls as f64
}
