//! The consumer of one queue: receives as many messages as there are free slots, holds a lease on each while its handler
//! works, and then does with the message what the handler decided.

mod dispose;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use longhand_shared::net::backoff;
use longhand_shared::queue::{ChunkQueue, Delivery, MAX_BATCH, QueueError};
use metrics::counter;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};

use crate::deleter::Deleter;
use crate::handler::retry_backoff;
pub use crate::handler::{Handler, Outcome};
use crate::lease::{Lease, Leases, Stop};
pub use crate::pulse::Pulse;
use crate::receiving::{LOOPS, Receiving};
use crate::slots::{Slot, Slots};

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum number of slots. A message that waits without a slot is in hand, too.
    pub slots: usize,
    /// How long a receive waits for the first message.
    pub poll: Duration,
    /// The visibility timeout.
    pub visibility: Duration,
    /// How long a message is kept in hand, at most.
    pub longest: Duration,
    /// The maximum duration of a drain.
    pub drain: Duration,
}

pub struct Runner {
    queue: Arc<dyn ChunkQueue>,
    dead_letters: Option<Arc<dyn ChunkQueue>>,
    handler: Arc<dyn Handler>,
    limits: Limits,
    slots: Arc<Slots>,
    leases: Arc<Leases>,
    pulse: Arc<Pulse>,
    receiving: Receiving,
}

/// How much longer than its poll a receive may take, at most.
const RECEIVE_GRACE: Duration = Duration::from_secs(5);

/// A part of the worker stopped unexpectedly, which is a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} stopped unexpectedly")]
pub struct EndedEarly(pub &'static str);

impl Runner {
    /// Messages that the handler rejects go to `dead_letters`.
    pub fn new(
        queue: Arc<dyn ChunkQueue>,
        dead_letters: Option<Arc<dyn ChunkQueue>>,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> Self {
        Self::with_slots(queue, dead_letters, handler, limits, Slots::new(limits.slots))
    }

    /// The same, with slots whose number the caller changes.
    pub fn with_slots(
        queue: Arc<dyn ChunkQueue>,
        dead_letters: Option<Arc<dyn ChunkQueue>>,
        handler: Arc<dyn Handler>,
        limits: Limits,
        slots: Arc<Slots>,
    ) -> Self {
        let leases = Arc::new(Leases::new(Arc::clone(&queue), limits.visibility, limits.longest));
        let pulse = Arc::new(Pulse::new(Arc::clone(&leases), Arc::clone(&slots)));
        Self { queue, dead_letters, handler, limits, slots, leases, pulse, receiving: Receiving::default() }
    }

    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Handles messages until `stop`, then drains: messages in hand are finished, or released if they take too long.
    /// Ends within `limits.drain` of `stop`. If a part ends by itself, drains at once.
    pub async fn run(self, stop: CancellationToken) -> Result<(), EndedEarly> {
        let tasks = TaskTracker::new();
        let (deleter, deleting) = Deleter::new(Arc::clone(&self.queue));
        let mut deleting = tokio::spawn(deleting);
        let renewing = CancellationToken::new();
        let mut keeper = tokio::spawn({
            let (leases, renewing) = (Arc::clone(&self.leases), renewing.clone());
            async move { leases.keep(&renewing).await }
        });
        let this = Arc::new(self);
        // A child token: if a loop ends early, only the loops stop. The caller stops the other parts.
        let receive_until = stop.child_token();
        let mut receiving = JoinSet::new();
        for place in 0..LOOPS {
            let (this, until) = (Arc::clone(&this), receive_until.clone());
            receiving.spawn(this.receive(place, tasks.clone(), deleter.clone(), until));
        }
        drop(deleter);
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            _ = &mut keeper => Err(EndedEarly("the lease keeper")),
            _ = receiving.join_next() => Err(EndedEarly("a receive loop")),
            _ = &mut deleting => Err(EndedEarly("the deleter")),
        };
        if let Err(early) = ended {
            error!(%early, "a part of the worker ended unexpectedly");
        }
        receive_until.cancel();
        let deadline = Instant::now() + this.limits.drain;
        info!(in_hand = this.leases.in_hand(), "draining");
        this.drain(receiving, &tasks, deadline).await;

        renewing.cancel();
        if !keeper.is_finished() {
            let _ = timeout_at(deadline, keeper).await;
        }
        if !deleting.is_finished() && timeout_at(deadline, deleting).await.is_err() {
            warn!("some deletes got no answer in time; their messages are redelivered, without effect");
        }
        ended
    }

    /// Waits for the last receive and for the messages in hand. In the last third of the time, stops the handlers.
    async fn drain(&self, mut receiving: JoinSet<()>, tasks: &TaskTracker, deadline: Instant) {
        let ended = async {
            while receiving.join_next().await.is_some() {}
            tasks.close();
            tasks.wait().await;
        };
        tokio::pin!(ended);
        let grace = self.limits.drain * 2 / 3;
        if timeout(grace, &mut ended).await.is_ok() {
            return;
        }
        info!(in_hand = self.leases.in_hand(), "releasing unfinished messages");
        self.leases.stop_all(Stop::Draining);
        // Leaves time for the deletes.
        let last = deadline - self.limits.drain / 10;
        if timeout_at(last, &mut ended).await.is_err() {
            error!(
                in_hand = self.leases.in_hand(),
                "not released in time; these messages are delivered again when their visibility timeout ends"
            );
        }
    }

    async fn receive(
        self: Arc<Self>,
        place: usize,
        tasks: TaskTracker,
        deleter: Deleter,
        stop: CancellationToken,
    ) {
        let mut failures = 0;
        loop {
            let slots = async {
                let poll = self.receiving.turn(place, self.limits.poll).await;
                (poll, self.slots.take().await)
            };
            let (poll, free) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                taken = slots => taken,
            };
            self.pulse.beat();
            let asked = Instant::now();
            let received = self.receive_once(place, free.len(), poll).await;
            // A receive counts as activity when it begins and when it ends.
            self.pulse.beat();
            match received {
                Ok(deliveries) => {
                    failures = 0;
                    self.pulse.answered();
                    let outcome = if deliveries.is_empty() { "empty" } else { "messages" };
                    counter!("longhand_receives_total", "outcome" => outcome).increment(1);
                    // SQS delivers before the long poll ends. The answer may arrive later.
                    let delivered = Instant::now().min(asked + poll);
                    self.start(deliveries, delivered, free, &tasks, &deleter, &stop);
                }
                Err(error) => {
                    failures += 1;
                    counter!("longhand_receives_total", "outcome" => "error").increment(1);
                    let pause = receive_backoff(failures);
                    warn!(queue = self.queue.url(), %error, failures, ?pause, "cannot receive messages");
                    drop(free);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// Gives up a receive without an answer in time, but never earlier: its messages, if any, would be delivered again
    /// only when their visibility timeout ends.
    async fn receive_once(
        &self,
        place: usize,
        max: usize,
        poll: Duration,
    ) -> Result<Vec<Delivery>, QueueError> {
        self.receiving.begins(place);
        let received = self.queue.receive(max, poll, self.limits.visibility);
        let received = timeout(poll + RECEIVE_GRACE, received).await.unwrap_or_else(|_| {
            Err(QueueError::Unavailable("a receive was not answered in time".to_owned()))
        });
        let full = received.as_ref().is_ok_and(|deliveries| deliveries.len() >= max);
        self.receiving.ends(place, full && self.slots.free() >= MAX_BATCH);
        received
    }

    fn start(
        self: &Arc<Self>,
        deliveries: Vec<Delivery>,
        delivered: Instant,
        mut free: Vec<Slot>,
        tasks: &TaskTracker,
        deleter: &Deleter,
        stop: &CancellationToken,
    ) {
        for delivery in deliveries {
            // A repeated receipt handle is the same delivery.
            if self.leases.holds(&delivery.receipt) {
                continue;
            }
            // SQS never returns more messages than requested. An excess message would be handled without a slot.
            let slot = free.pop();
            let lease = self.leases.begin(delivery.receipt.clone(), delivered);
            if let Some(slot) = slot {
                lease.slot().hold(slot);
            }
            if stop.is_cancelled() {
                lease.stop(Stop::Draining);
            }
            let span = info_span!("message", id = %delivery.message_id, receives = delivery.receive_count);
            tasks.spawn(Arc::clone(self).one(delivery, lease, deleter.clone()).instrument(span));
        }
    }

    /// Handles one message, from its delivery to its outcome.
    async fn one(self: Arc<Self>, delivery: Delivery, lease: Lease, deleter: Deleter) {
        let handling = AssertUnwindSafe(self.handler.handle(&delivery, &lease)).catch_unwind();
        let outcome = match handling.await {
            Ok(outcome) => outcome,
            Err(panic) => {
                error!(panic = panic_text(panic.as_ref()), "the handler panicked");
                Outcome::Retry { delay: retry_backoff(delivery.receive_count) }
            }
        };
        counter!("longhand_messages_total", "outcome" => <&str>::from(&outcome)).increment(1);
        self.dispose(delivery, outcome, &deleter).await;
        lease.slot().release();
    }
}

/// The backoff after the `n`-th failed receive in a row: from 0.5 s to 30 s.
fn receive_backoff(failures: u32) -> Duration {
    backoff::nth(failures, Duration::from_millis(500), Duration::from_secs(30))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
