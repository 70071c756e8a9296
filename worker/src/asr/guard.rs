//! Protects the model: how many calls there may be at once, and whether there may be any.
//!
//! The limit follows what the model says (additive increase, multiplicative decrease, as TCP does
//! with a network): a 429, a 503, a timeout, or answers that take twice as long as usual cut it by a
//! third, at most once per round of calls; each round that goes well adds one. It is also the number of
//! the worker's slots, so that the excess waits in the queue, where it can be seen.
//!
//! When nothing but failures comes back, the circuit opens: there are no slots, nothing is received,
//! and what is in hand goes back at no cost. After a pause there is one slot, and so one call; if that
//! one goes well the slots grow from there, if not the next pause is twice as long.
//!
//! No crate: those for limits know nothing of a circuit, those for circuits nothing of a limit, and
//! neither can size the slots that messages are received into, which is the point.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{counter, histogram};
use rand::RngExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::slots::Slots;

/// What failures in a row must weigh, of any calls, to open the circuit: ten that say that the model
/// is down, or thirty that may be the chunks' fault, so that one user's bad audio does not stop all.
const OPEN_AT: u32 = 30;

/// The first pause of an open circuit, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// A call that takes this many times as long as usual says that the model has too many.
const TOO_SLOW: f64 = 2.0;

/// How one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// With a transcription.
    Answered,
    /// With a refusal of the chunk or of what was asked for: the model is there, and how long it takes to
    /// say no is not how long it takes to listen.
    Refused,
    /// With 429: the model is there, but has too much to do.
    Throttled,
    /// With a sign that it is down: nobody there, 502, 503, 504, a timeout.
    Down,
    /// With another failure, which may be the chunk's fault.
    Failed,
}

impl Called {
    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Down => "down",
            Self::Failed => "failed",
        }
    }

    fn weight(self) -> u32 {
        match self {
            Self::Answered | Self::Refused | Self::Throttled => 0,
            Self::Failed => 1,
            Self::Down => 3,
        }
    }
}

/// Leave to make one call.
#[derive(Debug)]
pub struct Leave<'a> {
    guard: &'a Guard,
    began: Instant,
}

/// The circuit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Until it may be tried again.
    pub pause: Duration,
}

/// The protection of one model.
#[derive(Debug)]
pub struct Guard {
    slots: Arc<Slots>,
    ceiling: usize,
    state: Mutex<State>,
    left: Notify,
}

#[derive(Debug)]
struct State {
    limit: f64,
    in_flight: usize,
    /// The most in flight since there was none, or since the last cut.
    peak: usize,
    /// What the failures since the last answer weigh.
    failures: u32,
    circuit: Circuit,
    /// Since the circuit closed, until the first cut: the limit doubles each round.
    slow_start: bool,
    /// No cut before this.
    cut_again: Instant,
    /// Transcriptions that came back.
    heard: u32,
    usual: f64,
    lately: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Circuit {
    Closed,
    /// Nothing goes through until then.
    Open {
        until: Instant,
        pause: Duration,
    },
    /// One call goes through.
    Probing {
        pause: Duration,
    },
}

impl Guard {
    /// At most `ceiling` calls at once.
    pub fn new(ceiling: usize) -> Arc<Self> {
        #[expect(clippy::cast_precision_loss, reason = "a limit of calls is far below 2^52")]
        let state = State {
            limit: ceiling as f64,
            in_flight: 0,
            peak: 0,
            failures: 0,
            circuit: Circuit::Closed,
            slow_start: false,
            cut_again: Instant::now(),
            heard: 0,
            usual: 0.0,
            lately: 0.0,
        };
        Arc::new(Self { slots: Slots::new(ceiling), ceiling, state: Mutex::new(state), left: Notify::new() })
    }

    /// The slots that the limit sizes.
    pub fn slots(&self) -> Arc<Slots> {
        Arc::clone(&self.slots)
    }

    /// Calls that may be made at once, just now. None while the circuit is open.
    pub fn limit(&self) -> usize {
        self.lock().allowed()
    }

    /// Whether the circuit is closed.
    pub fn is_closed(&self) -> bool {
        self.lock().circuit == Circuit::Closed
    }

    /// Waits until a call may be made.
    pub async fn enter(&self) -> Result<Leave<'_>, Open> {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            {
                let mut state = self.lock();
                let now = Instant::now();
                match state.circuit {
                    Circuit::Open { until, .. } if now < until => return Err(Open { pause: until - now }),
                    Circuit::Open { pause, .. } => self.probe(&mut state, pause),
                    Circuit::Closed | Circuit::Probing { .. } => {}
                }
                if state.in_flight < state.allowed() {
                    state.in_flight += 1;
                    state.peak = state.peak.max(state.in_flight);
                    return Ok(Leave { guard: self, began: Instant::now() });
                }
            }
            left.await;
        }
    }

    /// Gives back one slot when the circuit's pause is over. Runs beside the worker.
    pub async fn keep(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            let until = match self.lock().circuit {
                Circuit::Open { until, .. } => Some(until),
                Circuit::Closed | Circuit::Probing { .. } => None,
            };
            match until {
                Some(until) => {
                    tokio::time::sleep_until(until).await;
                    let mut state = self.lock();
                    if let Circuit::Open { until, pause } = state.circuit
                        && until <= Instant::now()
                    {
                        self.probe(&mut state, pause);
                    }
                }
                None => left.await,
            }
        }
    }

    fn probe(&self, state: &mut State, pause: Duration) {
        info!("the model may be back: one call to see");
        state.circuit = Circuit::Probing { pause };
        self.slots.resize(1);
    }

    fn told(&self, called: Called, took: Duration) {
        counter!("longhand_asr_calls_total", "outcome" => called.name()).increment(1);
        histogram!("longhand_asr_call_seconds").record(took);
        let mut state = self.lock();
        let now = Instant::now();
        match called {
            Called::Answered | Called::Refused => {
                state.failures = 0;
                if let Circuit::Probing { .. } = state.circuit {
                    info!("the model is back");
                    state.circuit = Circuit::Closed;
                    state.limit = 1.0;
                    state.slow_start = true;
                }
                if called == Called::Answered && state.is_slower_than_usual(took) {
                    // It may be that the chunks are longer: no reason to stop.
                    state.cut(now, took, (self.ceiling / 4).max(1));
                } else {
                    state.grow(self.ceiling);
                }
            }
            Called::Throttled | Called::Down | Called::Failed => {
                state.failures += called.weight();
                match state.circuit {
                    Circuit::Probing { pause } => state.open((pause * 2).min(PAUSES.1)),
                    Circuit::Closed if state.failures >= OPEN_AT => state.open(PAUSES.0),
                    Circuit::Closed if called != Called::Failed => state.cut(now, took, 1),
                    Circuit::Closed | Circuit::Open { .. } => {}
                }
            }
        }
        let allowed = state.allowed();
        if allowed != self.slots.size() {
            self.slots.resize(allowed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the ceiling")]
    fn allowed(&self) -> usize {
        match self.circuit {
            Circuit::Closed => self.limit as usize,
            Circuit::Open { .. } => 0,
            Circuit::Probing { .. } => 1,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a limit of calls is far below 2^52")]
    fn grow(&mut self, ceiling: usize) {
        let step = if self.slow_start { 1.0 } else { 1.0 / self.limit };
        // A limit that is not reached says nothing about the model.
        if self.peak * 2 >= self.allowed() {
            self.limit = (self.limit + step).min(ceiling as f64);
        }
    }

    /// Fewer by a third; once for the calls that are under way, however many of them say so.
    #[expect(clippy::cast_precision_loss, reason = "a limit of calls is far below 2^52")]
    fn cut(&mut self, now: Instant, took: Duration, floor: usize) {
        if now < self.cut_again || self.allowed() <= floor {
            return;
        }
        self.limit = (self.limit * 2.0 / 3.0).max(floor as f64);
        self.slow_start = false;
        self.peak = self.in_flight;
        self.cut_again = now + took.max(Duration::from_secs(1));
        info!(limit = self.allowed(), "the model has too many calls: fewer at once");
    }

    fn open(&mut self, pause: Duration) {
        let pause = pause.mul_f64(rand::rng().random_range(0.75..=1.0));
        warn!(?pause, "the model is down: nothing is sent to it for now");
        self.circuit = Circuit::Open { until: Instant::now() + pause, pause };
    }

    /// Keeps what is usual, over about a hundred calls, and what came lately, over about ten. The first
    /// ten say nothing: one lucky call is no measure.
    fn is_slower_than_usual(&mut self, took: Duration) -> bool {
        let took = took.as_secs_f64();
        self.heard = self.heard.saturating_add(1);
        let first = 1.0 / f64::from(self.heard);
        self.lately += (took - self.lately) * first.max(0.1);
        self.usual += (took - self.usual) * first.max(0.01);
        self.heard > 10 && self.lately > self.usual * TOO_SLOW
    }
}

impl Leave<'_> {
    /// The call begins only now: what came before was not the model's time.
    pub fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// How the call ended.
    pub fn ended(self, called: Called) {
        self.guard.told(called, self.began.elapsed());
    }
}

impl Drop for Leave<'_> {
    /// A call that was cancelled says nothing about the model; a probe that nobody waits for any more
    /// is followed by another.
    fn drop(&mut self) {
        let mut state = self.guard.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            state.peak = 0;
        }
        drop(state);
        self.guard.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn call(guard: &Guard, called: Called, took: Duration) {
        let leave = guard.enter().await.expect("the circuit lets it through");
        tokio::time::sleep(took).await;
        leave.ended(called);
    }

    /// So many calls at once, which end together.
    async fn calls(guard: &Guard, count: usize, called: Called, took: Duration) {
        futures::future::join_all((0..count).map(|_| call(guard, called, took))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttling_model_gets_fewer_calls_once_a_round_and_never_none() {
        let guard = Guard::new(30);
        calls(&guard, 30, Called::Throttled, SECOND).await;
        assert_eq!((guard.limit(), guard.slots().size()), (20, 20));
        for _ in 0..20 {
            call(&guard, Called::Throttled, SECOND * 2).await;
        }
        assert_eq!(guard.limit(), 1);
        assert!(guard.is_closed(), "it is there, after all");
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_grows_by_one_a_round_up_to_the_ceiling() {
        let guard = Guard::new(9);
        call(&guard, Called::Throttled, SECOND).await;
        assert_eq!(guard.limit(), 6);
        calls(&guard, 6, Called::Answered, SECOND).await;
        let after_a_round = guard.limit();
        assert!((6..=7).contains(&after_a_round), "{after_a_round}");
        for _ in 0..10 {
            let limit = guard.limit();
            calls(&guard, limit, Called::Answered, SECOND).await;
        }
        assert_eq!((guard.limit(), guard.slots().size()), (9, 9));
    }

    #[tokio::test(start_paused = true)]
    async fn the_circuit_opens_probes_with_growing_pauses_and_closes() {
        let guard = Guard::new(16);
        let keeping = tokio::spawn({
            let guard = Arc::clone(&guard);
            async move { guard.keep().await }
        });
        calls(&guard, 10, Called::Down, SECOND).await;
        assert!(!guard.is_closed());
        assert_eq!(guard.slots().size(), 0);
        let mut last = Duration::ZERO;
        for turn in 0..3 {
            let Err(Open { pause }) = guard.enter().await else { panic!("it is open") };
            assert!(pause > last.mul_f64(1.2), "turn {turn}: {pause:?} after {last:?}");
            last = pause;
            tokio::time::sleep(pause + Duration::from_millis(1)).await;
            assert_eq!((guard.limit(), guard.slots().size()), (1, 1));
            let called = if turn == 2 { Called::Answered } else { Called::Failed };
            call(&guard, called, SECOND).await;
        }
        assert!(guard.is_closed());
        // From there it doubles.
        let mut seen = vec![guard.limit()];
        for _ in 0..4 {
            let limit = guard.limit();
            calls(&guard, limit, Called::Answered, SECOND).await;
            seen.push(guard.limit());
        }
        assert_eq!(seen, [2, 4, 8, 16, 16]);
        keeping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_the_chunks_fault_opens_late_and_an_answer_forgives_it() {
        let guard = Guard::new(40);
        calls(&guard, 29, Called::Failed, SECOND).await;
        assert!(guard.is_closed());
        call(&guard, Called::Answered, SECOND).await;
        calls(&guard, 29, Called::Failed, SECOND).await;
        assert!(guard.is_closed());
        call(&guard, Called::Failed, SECOND).await;
        assert!(!guard.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_has_become_twice_as_slow_gets_fewer_calls() {
        let guard = Guard::new(10);
        for _ in 0..20 {
            calls(&guard, 5, Called::Answered, SECOND).await;
        }
        assert_eq!(guard.limit(), 10);
        for _ in 0..4 {
            calls(&guard, 5, Called::Answered, SECOND * 5).await;
        }
        assert!(guard.limit() < 10, "{}", guard.limit());
    }

    #[tokio::test(start_paused = true)]
    async fn longer_chunks_do_not_stop_the_work() {
        let guard = Guard::new(40);
        for _ in 0..5 {
            calls(&guard, 10, Called::Answered, SECOND).await;
        }
        for _ in 0..20 {
            let limit = guard.limit();
            calls(&guard, limit, Called::Answered, SECOND * 30).await;
            assert!(guard.limit() >= 10, "{}", guard.limit());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_no_and_a_lucky_first_call_are_no_measure() {
        let guard = Guard::new(10);
        calls(&guard, 10, Called::Refused, Duration::from_millis(2)).await;
        call(&guard, Called::Answered, Duration::from_millis(50)).await;
        for _ in 0..10 {
            calls(&guard, 10, Called::Answered, SECOND * 5).await;
            assert_eq!(guard.limit(), 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_over_the_limit_wait_and_a_cancelled_one_leaves_its_place() {
        let guard = Guard::new(1);
        let first = guard.enter().await.expect("free");
        let waiting = tokio::time::timeout(SECOND, guard.enter()).await;
        assert!(waiting.is_err(), "there is one already");
        drop(first);
        assert!(guard.enter().await.is_ok());
    }
}
