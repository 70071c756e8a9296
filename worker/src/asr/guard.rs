//! Protects the model with a concurrency limit (`limit.rs`) and a circuit breaker.
//!
//! The chunk or the model may cause a failure. Longhand's probe shows which: a call with a short recording that any
//! working model can transcribe. If it succeeds, the failures count against their chunks. If it fails, the circuit
//! opens: there are no slots, the worker receives nothing, and chunks in hand return to the queue without a counted
//! call. Only the probe tests an open circuit. When it succeeds, the limit is one call, and doubles each round.
//!
//! So no user's chunk can open the circuit or keep it open. A call that began after the failure and succeeded replaces
//! the probe.
//!
//! No crate combines a limit with a circuit breaker, or sets the number of slots for received messages.

mod state;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use longhand_shared::net::backoff::backoff;
use metrics::{counter, histogram};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::info;

use state::{Circuit, State};
pub use state::{OPEN_PAUSES, Open, PROBE_BURST, PROBE_INTERVAL};

use crate::failure::{Failure, Signal};
use crate::slots::Slots;

/// How many calls of a probe must fail to open the circuit. One is enough if it times out.
pub const PROBE_TRIES: u32 = 3;

/// The pause after the first failed call of a probe.
const PROBE_PAUSE: Duration = Duration::from_millis(200);

pub type Ended = Result<(), Failure>;

/// Whether the model works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works: the chunk caused the failure.
    Healthy,
    Down(Open),
}

#[derive(Clone, Debug)]
pub struct ProbeError {
    pub message: String,
    pub timed_out: bool,
}

pub type Probing<'a> = BoxFuture<'a, Result<(), ProbeError>>;

/// Permission to make one call.
#[derive(Debug)]
pub struct Permit<'a> {
    guard: &'a Guard,
    began: Instant,
}

#[derive(Debug)]
pub struct Guard {
    slots: Arc<Slots>,
    probing: bool,
    state: Mutex<State>,
    changed: Notify,
}

impl Guard {
    /// Allows at most `ceiling` concurrent calls. Without `probing` the circuit never opens, and failures that count do so
    /// even in an outage.
    pub fn new(ceiling: usize, probing: bool) -> Arc<Self> {
        let state = Mutex::new(State::new(ceiling));
        Arc::new(Self { slots: Slots::new(ceiling), probing, state, changed: Notify::new() })
    }

    /// The slots, whose number follows the limit.
    pub fn slots(&self) -> Arc<Slots> {
        Arc::clone(&self.slots)
    }

    /// The current concurrency limit; 0 while the circuit is open.
    pub fn limit(&self) -> usize {
        self.state.lock().allowed()
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().circuit == Circuit::Closed
    }

    /// Why the circuit is open.
    pub fn problem(&self) -> Option<String> {
        let state = self.state.lock();
        if state.circuit == Circuit::Closed { None } else { state.problem.clone() }
    }

    /// Waits until a call may be made.
    pub async fn permit(&self) -> Result<Permit<'_>, Open> {
        self.when(|state| {
            if let Some(open) = state.is_open() {
                return Some(Err(open));
            }
            state.may_begin().then(|| {
                state.limit.begin();
                state.on_suspicion += 1;
                Ok(Permit { guard: self, began: Instant::now() })
            })
        })
        .await
    }

    /// Waits until the circuit is open.
    pub async fn opened(&self) -> Open {
        self.when(|state| state.is_open()).await
    }

    /// Whether the model worked after the time `failed` of a failure. Waits for the probe.
    pub async fn verdict(&self, failed: Instant) -> Verdict {
        if !self.probing {
            return Verdict::Healthy;
        }
        self.when(|state| match state.is_open() {
            Some(open) => Some(Verdict::Down(open)),
            None => (state.proven >= Some(failed)).then_some(Verdict::Healthy),
        })
        .await
    }

    /// Whether the model works now: a call succeeded within the last [`PROBE_INTERVAL`], or a probe succeeds.
    pub async fn probe_now(&self) -> Verdict {
        let now = Instant::now();
        if self.probing {
            let mut state = self.state.lock();
            let fresh = state.proven.is_some_and(|proven| now - proven <= PROBE_INTERVAL);
            if fresh && !state.is_suspected() && state.circuit == Circuit::Closed {
                return Verdict::Healthy;
            }
            state.suspect(now);
        }
        self.changed.notify_waiters();
        self.verdict(now).await
    }

    /// Probes the model whenever a probe is due. Never ends.
    pub async fn run<'a>(&self, probe: impl Fn() -> Probing<'a> + Sync) {
        if !self.probing {
            return std::future::pending().await;
        }
        loop {
            self.until_probe_is_due().await;
            let began = Instant::now();
            self.state.lock().probe_begins(began);
            let result = self.tries(&probe).await;
            let outcome = if result.is_ok() { "answered" } else { "failed" };
            counter!("longhand_asr_probes_total", "outcome" => outcome).increment(1);
            self.probed(began, result);
        }
    }

    async fn until_probe_is_due(&self) {
        loop {
            // It receives each wakeup after its creation, so a change after the look below is not missed.
            let changed = self.changed.notified();
            let due = self.state.lock().probe_due();
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => {
                    let _ = timeout_at(due, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// One probe: up to [`PROBE_TRIES`] calls while the circuit is closed, and one while it is open.
    async fn tries<'a>(&self, probe: &(impl Fn() -> Probing<'a> + Sync)) -> Result<Duration, ProbeError> {
        let tries = if self.is_closed() { PROBE_TRIES } else { 1 };
        let mut pauses = backoff(PROBE_PAUSE, PROBE_INTERVAL).take(tries as usize - 1);
        loop {
            let began = Instant::now();
            match (probe().await, pauses.next()) {
                (Ok(()), _) => return Ok(began.elapsed()),
                (Err(error), Some(pause)) if !error.timed_out => {
                    info!(error = error.message, "the probe failed; trying again");
                    sleep_until(Instant::now() + pause).await;
                }
                (Err(error), _) => return Err(error),
            }
        }
    }

    fn probed(&self, began: Instant, result: Result<Duration, ProbeError>) {
        let mut state = self.state.lock();
        match result {
            Ok(took) => state.probe_answered(began, took),
            Err(error) => state.probe_failed(began, error.message),
        }
        self.apply(&state);
    }

    fn ended(&self, ended: Ended, first: bool, began: Instant) {
        let took = began.elapsed();
        counter!("longhand_asr_calls_total", "outcome" => label(ended)).increment(1);
        histogram!("longhand_asr_call_seconds").record(took);
        let now = Instant::now();
        let mut state = self.state.lock();
        match ended.map_err(|failure| failure.rule().signal) {
            Ok(()) => {
                state.prove(began);
                let slow = state.limit.answered(took);
                state.timing_wanted |= slow || state.limit.has_new_baseline();
            }
            // Only the first 429 of a chunk cuts the limit, so that no single chunk can cut it repeatedly.
            Err(Signal::Busy) if first => state.limit.cut(now, took, 1),
            Err(Signal::Suspect) if self.probing => state.suspect(now),
            Err(_) => {}
        }
        self.apply(&state);
    }

    /// Sets the number of slots to the limit, and wakes all tasks that wait for a change.
    fn apply(&self, state: &State) {
        let allowed = state.allowed();
        if allowed != self.slots.size() {
            self.slots.resize(allowed);
        }
        self.changed.notify_waiters();
    }

    /// Waits until `look` returns a value.
    async fn when<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            // It receives each wakeup after its creation, so a change after the look below is not missed.
            let changed = self.changed.notified();
            if let Some(found) = look(&mut self.state.lock()) {
                return found;
            }
            changed.await;
        }
    }
}

/// The metric's label for how a call ended.
fn label(ended: Ended) -> &'static str {
    match ended {
        Ok(()) => "answered",
        Err(Failure::Throttled) => "throttled",
        Err(Failure::Unreachable | Failure::Timeout) => "down",
        Err(failure) if failure.rule().signal == Signal::Suspect => "failed",
        Err(_) => "refused",
    }
}

impl Permit<'_> {
    /// Starts the call's time, after its preparation.
    pub fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// Reports the call's result. `first`: no earlier call for the chunk was throttled.
    pub fn ended(self, ended: Ended, first: bool) {
        self.guard.ended(ended, first, self.began);
    }
}

impl Drop for Permit<'_> {
    /// A cancelled call indicates nothing about the model.
    fn drop(&mut self) {
        self.guard.state.lock().limit.end();
        self.guard.changed.notify_waiters();
    }
}
