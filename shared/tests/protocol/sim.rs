//! A scheduler of futures that the test drives: the test decides which task continues, which of its calls fail, and
//! which task crashes. There is no real clock and no thread.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::FutureExt;
use longhand_shared::Timestamp;
use parking_lot::Mutex;
use tokio::runtime::Runtime;

/// A fault of the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call has no effect and returns an error.
    NotDone,
    /// The call has its effect, but the answer is lost.
    NotAnswered,
}

/// The network: every call to the table and the queue goes through it, one call per step.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    fault: Mutex<Option<Fault>>,
    writes: AtomicUsize,
    calls: AtomicUsize,
    /// Whether answers are recorded.
    recording: AtomicBool,
    last_answer: Mutex<Option<String>>,
}

impl Wire {
    /// Yields to the other tasks once. The rest of the call happens in one step. Returns the fault that the test set
    /// for this step.
    pub(crate) async fn call(&self) -> Option<Fault> {
        tokio::task::yield_now().await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.fault.lock().take()
    }

    /// Records the answer to a call: the only information that its caller gets.
    pub(crate) fn answer(&self, answer: &impl fmt::Debug) {
        if self.recording.load(Ordering::Relaxed) {
            *self.last_answer.lock() = Some(format!("{answer:?}"));
        }
    }

    /// Sets whether answers are recorded.
    pub(crate) fn record_answers(&self, recording: bool) {
        self.recording.store(recording, Ordering::Relaxed);
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Takes the last recorded answer, if a call was made since.
    pub(crate) fn take_answer(&self) -> Option<String> {
        self.last_answer.lock().take()
    }

    /// Counts a write.
    pub(crate) fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock() = fault;
    }
}

/// Runs a future that waits for no other task, such as a call of the in-memory store.
pub(crate) fn now<T>(act: impl Future<Output = T>) -> T {
    let mut act = pin!(act);
    let _time = runtime().enter();
    loop {
        if let Some(answer) = act.as_mut().now_or_never() {
            return answer;
        }
    }
}

/// Timeouts need a runtime. It never runs, so no timeout ever ends: the test decides when a call fails.
fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("no threads, no sockets")
    });
    &RUNTIME
}

/// Running tasks. To drop a task is to crash its process.
#[derive(Default)]
pub(crate) struct Tasks(Vec<Pin<Box<dyn Future<Output = ()>>>>);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks", self.0.len())
    }
}

impl Tasks {
    /// Starts a task and runs it until just before its first call.
    pub(crate) fn begin(&mut self, task: impl Future<Output = ()> + 'static) {
        let mut task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(task);
        if !poll(&mut task) {
            self.0.push(task);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Lets a task make one call and run until its next call.
    pub(crate) fn step(&mut self, pick: usize, wire: &Wire, fault: Option<Fault>) {
        if self.0.is_empty() {
            return;
        }
        let pick = pick % self.0.len();
        wire.set(fault);
        if poll(&mut self.0[pick]) {
            drop(self.0.remove(pick));
        }
        wire.set(None);
    }

    /// Crashes one process.
    pub(crate) fn crash(&mut self, pick: usize) {
        if !self.0.is_empty() {
            drop(self.0.remove(pick % self.0.len()));
        }
    }

    /// Crashes all processes.
    pub(crate) fn crash_all(&mut self) {
        self.0.clear();
    }
}

/// Polls a task. Returns whether it has ended.
fn poll(task: &mut Pin<Box<dyn Future<Output = ()>>>) -> bool {
    let _time = runtime().enter();
    task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// A clock that the test sets.
#[derive(Debug)]
pub(crate) struct Clock(Mutex<Timestamp>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Timestamp::from_unix(1_700_000_000)))
    }

    /// The time on a clock that is `ahead` seconds ahead.
    pub(crate) fn read(&self, ahead: i8) -> Timestamp {
        let by = Duration::from_secs(u64::from(ahead.unsigned_abs()));
        let now = *self.0.lock();
        if ahead < 0 { now.minus(by) } else { now.plus(by) }
    }

    pub(crate) fn pass(&self, by: Duration) {
        let mut now = self.0.lock();
        *now = now.plus(by);
    }
}
