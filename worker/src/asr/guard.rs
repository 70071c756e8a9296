//! Protects the model: how many calls there may be at once (`limit.rs`), and whether there may be any (the circuit).
//!
//! A failure may be the chunk's fault or the model's. Longhand's own probe, a short recording that any model can
//! transcribe, decides: if it succeeds, the failures count against their chunks and everything stays as it is. If it
//! fails, the circuit opens: there are no slots, nothing is received, and chunks in hand go back without a counted try.
//! Only the probe tests an open circuit; once it succeeds there is one slot, and twice as many each round.
//!
//! So no chunk of a user can open the circuit or keep it open. A call that began after the failure and succeeded is as
//! good as a successful probe, and saves one.
//!
//! No crate: those for limits have no circuit, those for circuits no limit, and neither can size the slots that
//! messages are received into.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use metrics::{counter, histogram};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::limit::{Limit, TOO_SLOW};
use crate::backoff;
use crate::failure::{Failure, Signal};
use crate::slots::Slots;

/// While the circuit is closed there may be one probe in this time, and [`PROBE_BURST`] at once after a quiet time: at
/// most 17 in a minute.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// See [`PROBE_INTERVAL`].
pub const PROBE_BURST: u32 = 5;

/// The first pause of an open circuit, and the longest.
pub const OPEN_PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// How often a probe is tried before the circuit opens; the last try decides.
pub const PROBE_TRIES: u32 = 3;

/// The pause after a probe's first failed try; it doubles.
const PROBE_PAUSE: Duration = Duration::from_millis(200);

/// So many calls for each slot may begin between a suspicion and the next proof that the model works. It keeps chunks
/// that are parked after their failures from being followed by ever more calls of a model that may be down.
const CALLS_ON_SUSPICION: usize = 4;

/// How one call ended.
pub type Ended = Result<(), Failure>;

/// What the probe found out about the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works: the failure was the chunk's.
    Healthy,
    /// It does not.
    Down(Open),
}

/// The circuit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Until the next probe.
    pub pause: Duration,
}

/// Why a try of the probe failed.
#[derive(Clone, Debug)]
pub struct ProbeError {
    /// For people.
    pub message: String,
    /// Whether another try at once is useless: it timed out.
    pub timed_out: bool,
}

/// One call with the probe's recording.
pub type Probing<'a> = BoxFuture<'a, Result<(), ProbeError>>;

/// Permission to make one call.
#[derive(Debug)]
pub struct Permit<'a> {
    guard: &'a Guard,
    began: Instant,
}

/// The protection of one model.
#[derive(Debug)]
pub struct Guard {
    slots: Arc<Slots>,
    probing: bool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    limit: Limit,
    circuit: Circuit,
    /// When the latest call that succeeded began, a probe's or a chunk's.
    proven: Option<Instant>,
    /// When the latest failure happened that may be the model's.
    suspected: Option<Instant>,
    /// Whether a probe should find out how fast the model is.
    timing_wanted: bool,
    /// How long a probe usually takes, in seconds.
    usual_probe: Option<f64>,
    /// The earliest time of the next probe. In the past by as much as was saved up for a burst.
    next_probe: Option<Instant>,
    /// Calls that have begun since the model was suspected and not proven to work.
    on_suspicion: usize,
    /// Why the last probe failed.
    problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Circuit {
    Closed,
    Open { until: Instant, failures: u32 },
}

impl Guard {
    /// At most `ceiling` calls at once. Without `probing` every failure counts, and the circuit never opens.
    pub fn new(ceiling: usize, probing: bool) -> Arc<Self> {
        let state = State {
            limit: Limit::new(ceiling),
            circuit: Circuit::Closed,
            proven: None,
            suspected: None,
            timing_wanted: false,
            usual_probe: None,
            next_probe: None,
            on_suspicion: 0,
            problem: None,
        };
        Arc::new(Self {
            slots: Slots::new(ceiling),
            probing,
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    /// The slots that the limit sizes.
    pub fn slots(&self) -> Arc<Slots> {
        Arc::clone(&self.slots)
    }

    /// Calls that may be made at once now. None while the circuit is open.
    pub fn limit(&self) -> usize {
        self.lock().allowed()
    }

    /// Whether the circuit is closed.
    pub fn is_closed(&self) -> bool {
        self.lock().circuit == Circuit::Closed
    }

    /// Why the circuit is open.
    pub fn problem(&self) -> Option<String> {
        let state = self.lock();
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

    /// Whether the model worked after `failed`, a failure that may be its own. Waits for the probe.
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

    /// Whether the model works now: it was proven within the last [`PROBE_INTERVAL`], or a probe finds out.
    pub async fn probe_now(&self) -> Verdict {
        let now = Instant::now();
        if self.probing {
            let mut state = self.lock();
            let fresh = state.proven.is_some_and(|proven| now - proven <= PROBE_INTERVAL);
            if fresh && !state.is_suspected() && state.circuit == Circuit::Closed {
                return Verdict::Healthy;
            }
            state.suspect(now);
        }
        self.changed.notify_waiters();
        self.verdict(now).await
    }

    /// Makes the probe's calls whenever they are due. Never ends; runs beside the worker.
    pub async fn run<'a>(&self, probe: impl Fn() -> Probing<'a> + Sync) {
        if !self.probing {
            return std::future::pending().await;
        }
        loop {
            self.until_probe_is_due().await;
            let began = Instant::now();
            self.lock().probe_begins(began);
            let result = self.tries(&probe).await;
            let outcome = if result.is_ok() { "answered" } else { "failed" };
            counter!("longhand_asr_probes_total", "outcome" => outcome).increment(1);
            self.probed(began, result);
        }
    }

    async fn until_probe_is_due(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let due = self.lock().probe_due();
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => {
                    // Either way there is something new to look at.
                    let _ = timeout_at(due, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// While the circuit is closed one failed call is not enough to open it; while it is open one try is enough.
    async fn tries<'a>(&self, probe: &(impl Fn() -> Probing<'a> + Sync)) -> Result<Duration, ProbeError> {
        let tries = if self.is_closed() { PROBE_TRIES } else { 1 };
        let mut pauses = backoff::backoff(PROBE_PAUSE, PROBE_INTERVAL).take(tries as usize - 1);
        loop {
            let began = Instant::now();
            match (probe().await, pauses.next()) {
                (Ok(()), _) => return Ok(began.elapsed()),
                (Err(error), Some(pause)) if !error.timed_out => {
                    info!(error = error.message, "the probe failed, trying again");
                    sleep_until(Instant::now() + pause).await;
                }
                (Err(error), _) => return Err(error),
            }
        }
    }

    fn probed(&self, began: Instant, result: Result<Duration, ProbeError>) {
        let mut state = self.lock();
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
        let mut state = self.lock();
        match ended.map_err(|failure| failure.rule().signal) {
            Ok(()) => {
                state.prove(began);
                let slow = state.limit.answered(took);
                state.timing_wanted |= slow || state.limit.has_new_baseline();
            }
            // A chunk that is throttled again and again says so once, so that no single chunk cuts the limit for all.
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

    /// Waits until `look` finds what it looks for.
    async fn when<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn allowed(&self) -> usize {
        match self.circuit {
            Circuit::Closed => self.limit.calls(),
            Circuit::Open { .. } => 0,
        }
    }

    fn is_open(&self) -> Option<Open> {
        match self.circuit {
            Circuit::Closed => None,
            Circuit::Open { until, .. } => {
                Some(Open { pause: until.saturating_duration_since(Instant::now()) })
            }
        }
    }

    fn is_suspected(&self) -> bool {
        self.suspected > self.proven
    }

    fn may_begin(&self) -> bool {
        let suspicious = self.is_suspected() && self.on_suspicion >= self.limit.calls() * CALLS_ON_SUSPICION;
        self.limit.in_flight() < self.allowed() && !suspicious
    }

    fn suspect(&mut self, now: Instant) {
        if !self.is_suspected() {
            self.on_suspicion = 0;
        }
        self.suspected = Some(now);
    }

    /// A call that began then has succeeded.
    fn prove(&mut self, began: Instant) {
        self.proven = self.proven.max(Some(began));
        self.on_suspicion = 0;
    }

    fn probe_begins(&mut self, now: Instant) {
        // Each probe uses up an interval; what was not used is saved up to a burst.
        let saved = now.checked_sub(PROBE_INTERVAL * (PROBE_BURST - 1)).unwrap_or(now);
        self.next_probe = Some(self.next_probe.map_or(saved, |next| next.max(saved)) + PROBE_INTERVAL);
    }

    /// When the next probe should begin, if one is wanted.
    fn probe_due(&self) -> Option<Instant> {
        match self.circuit {
            Circuit::Open { until, .. } => Some(until),
            Circuit::Closed if self.is_suspected() || self.timing_wanted => {
                Some(self.next_probe.unwrap_or_else(Instant::now))
            }
            Circuit::Closed => None,
        }
    }

    fn probe_answered(&mut self, began: Instant, took: Duration) {
        self.prove(began);
        self.problem = None;
        let seconds = took.as_secs_f64();
        match self.circuit {
            Circuit::Open { .. } => {
                info!("the model works again");
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

    fn probe_failed(&mut self, began: Instant, problem: String) {
        self.timing_wanted = false;
        let failures = match self.circuit {
            // Other calls succeed, so the probe's own recording is the problem, or chance.
            Circuit::Closed if self.proven >= Some(began) => {
                warn!(problem, "the probe fails while other calls succeed");
                return;
            }
            Circuit::Closed => 1,
            Circuit::Open { failures, .. } => failures.saturating_add(1),
        };
        let pause = backoff::nth(failures, OPEN_PAUSES.0, OPEN_PAUSES.1);
        warn!(?pause, problem, "the model is down: nothing is sent to it for now");
        self.circuit = Circuit::Open { until: Instant::now() + pause, failures };
        self.problem = Some(problem);
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
    /// The call begins only now: what came before was not the model's time.
    pub fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// How the call ended. `first`: no earlier call for the chunk was throttled.
    pub fn ended(self, ended: Ended, first: bool) {
        self.guard.ended(ended, first, self.began);
    }
}

impl Drop for Permit<'_> {
    /// A call that was cancelled says nothing about the model.
    fn drop(&mut self) {
        self.guard.lock().limit.end();
        self.guard.changed.notify_waiters();
    }
}
