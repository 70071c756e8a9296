//! A handler that does as a closure says and remembers what it was given, and a runner in a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use longhand_shared::queue::{ChunkQueue, Delivery};
use longhand_worker::lease::Lease;
use longhand_worker::runner::{EndedEarly, Handler, Limits, Outcome, Pulse, Runner};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{FOREVER, FaultyQueue, secs};

/// The usual limits, with so many slots.
pub(crate) fn limits(slots: usize) -> Limits {
    Limits { slots, poll: secs(5), visibility: secs(30), longest: secs(300), drain: secs(24) }
}

type Work = Box<dyn Fn(Delivery, Lease) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// A handler by script.
pub(crate) struct Script {
    work: Work,
    in_hand: AtomicUsize,
    most: AtomicUsize,
    begun: Mutex<Vec<(Instant, Delivery)>>,
    ended: Mutex<Vec<(Instant, Delivery)>>,
}

/// A handler that does this with every message.
pub(crate) fn script<F: Future<Output = Outcome> + Send + 'static>(
    work: impl Fn(Delivery, Lease) -> F + Send + Sync + 'static,
) -> Arc<Script> {
    Arc::new(Script {
        work: Box::new(move |delivery, lease| work(delivery, lease).boxed()),
        in_hand: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        begun: Mutex::default(),
        ended: Mutex::default(),
    })
}

impl Script {
    /// The most messages that were in hand at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// What was begun, and when.
    pub(crate) fn begun(&self) -> Vec<(Instant, Delivery)> {
        self.begun.lock().clone()
    }

    /// What was ended, and when.
    pub(crate) fn ended(&self) -> Vec<(Instant, Delivery)> {
        self.ended.lock().clone()
    }

    /// The receive counts of one message's deliveries, in order.
    pub(crate) fn receive_counts(&self, body: &str) -> Vec<u32> {
        let begun = self.begun();
        begun.iter().filter(|(_, it)| it.body == body).map(|(_, it)| it.receive_count).collect()
    }
}

struct InHand<'a>(&'a Script);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Handler for Script {
    async fn handle(&self, delivery: &Delivery, lease: &Lease) -> Outcome {
        let now = self.in_hand.fetch_add(1, Ordering::SeqCst) + 1;
        let _in_hand = InHand(self);
        self.most.fetch_max(now, Ordering::SeqCst);
        let note = |list: &Mutex<Vec<_>>| {
            list.lock().push((Instant::now(), delivery.clone()));
        };
        note(&self.begun);
        let outcome = (self.work)(delivery.clone(), lease.clone()).await;
        note(&self.ended);
        outcome
    }
}

/// A runner at work.
pub(crate) struct Running {
    pub(crate) stop: CancellationToken,
    pub(crate) pulse: Arc<Pulse>,
    task: JoinHandle<Result<(), EndedEarly>>,
}

impl Running {
    /// Starts one.
    pub(crate) fn start(
        queue: &Arc<FaultyQueue>,
        dead_letters: Option<&Arc<FaultyQueue>>,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> Self {
        let queue: Arc<dyn ChunkQueue> = Arc::clone(queue) as _;
        let dead_letters = dead_letters.map(|dead_letters| Arc::clone(dead_letters) as _);
        let runner = Runner::new(queue, dead_letters, handler, limits);
        let (stop, pulse) = (CancellationToken::new(), runner.pulse());
        Self { task: tokio::spawn(runner.run(stop.clone())), stop, pulse }
    }

    /// Stops it; how long it took to end.
    pub(crate) async fn stop(self) -> Duration {
        let began = Instant::now();
        self.stop.cancel();
        let ended = timeout(FOREVER, self.task).await.expect("the runner ends");
        ended.expect("the runner does not panic").expect("it ends when it is asked to");
        began.elapsed()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}
