//! A scheduler of futures that does nothing by itself: whoever holds it says which task goes on,
//! which of its calls fail, and which task dies. No clock, no threads.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::FutureExt;
use longhand_shared::Timestamp;
use tokio::runtime::Runtime;

/// What goes wrong with the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done, and the caller is told so.
    NotDone,
    /// It is done, but the answer is lost.
    NotAnswered,
}

/// The network: every call to the table and the queue goes over it, one call in one step.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    fault: Mutex<Option<Fault>>,
    writes: AtomicUsize,
    calls: AtomicUsize,
    /// Whether somebody wants to know what calls are answered, and what the last one was.
    overheard: AtomicBool,
    heard: Mutex<Option<String>>,
}

impl Wire {
    /// Gives way to the other tasks once; then whatever comes is done at once. The fault, if any,
    /// is the one set before this step.
    pub(crate) async fn call(&self) -> Option<Fault> {
        tokio::task::yield_now().await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes what a call is answered: all that its caller knows of the world.
    pub(crate) fn answer(&self, answer: &impl fmt::Debug) {
        if self.overheard.load(Ordering::Relaxed) {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{answer:?}"));
        }
    }

    /// From now on answers are listened to, or not.
    pub(crate) fn overhear(&self, overheard: bool) {
        self.overheard.store(overheard, Ordering::Relaxed);
    }

    /// How many calls were made.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// What was answered since this was last asked, if a call was made.
    pub(crate) fn heard(&self) -> Option<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Counts a call that writes.
    pub(crate) fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// How many calls wrote.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

/// Runs what never waits for another: the store in memory gives way, and is then done.
pub(crate) fn now<T>(act: impl Future<Output = T>) -> T {
    let mut act = pin!(act);
    let _time = runtime().enter();
    loop {
        if let Some(answer) = act.as_mut().now_or_never() {
            return answer;
        }
    }
}

/// Timeouts want one to be made. Nobody runs it, so that none of them ever strikes: when a process
/// gives up or dies is for the test to say.
fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("no threads, no sockets")
    });
    &RUNTIME
}

/// Tasks under way. Dropping one is its process dying.
#[derive(Default)]
pub(crate) struct Tasks(Vec<Pin<Box<dyn Future<Output = ()>>>>);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks", self.0.len())
    }
}

impl Tasks {
    /// Begins a task and brings it to its first call, which is not made yet.
    pub(crate) fn begin(&mut self, task: impl Future<Output = ()> + 'static) {
        let mut task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(task);
        if !poll(&mut task) {
            self.0.push(task);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Lets one task make one call, and run on to its next.
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

    /// A process dies.
    pub(crate) fn crash(&mut self, pick: usize) {
        if !self.0.is_empty() {
            drop(self.0.remove(pick % self.0.len()));
        }
    }

    /// All processes die.
    pub(crate) fn crash_all(&mut self) {
        self.0.clear();
    }
}

/// Whether it has ended.
fn poll(task: &mut Pin<Box<dyn Future<Output = ()>>>) -> bool {
    let _time = runtime().enter();
    task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Time, which passes when it is told to.
#[derive(Debug)]
pub(crate) struct Clock(Mutex<Timestamp>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Timestamp::from_unix(1_700_000_000)))
    }

    /// What a process reads whose clock is this many seconds ahead.
    pub(crate) fn read(&self, ahead: i8) -> Timestamp {
        let by = Duration::from_secs(u64::from(ahead.unsigned_abs()));
        let now = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead < 0 { now.minus(by) } else { now.plus(by) }
    }

    pub(crate) fn pass(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.plus(by);
    }
}
