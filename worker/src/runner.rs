//! Messages in slots: receive as many as there are free slots, hand each to the handler, keep its
//! lease, and do with the message what the handler says. Knows nothing of what a message means.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use longhand_shared::queue::{ChunkQueue, Delivery, MAX_DELAY, Outgoing, Progress, QueueError};
use metrics::counter;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};

use crate::backoff;
use crate::deleter::Deleter;
use crate::lease::{Lease, Leases, Stop};
pub use crate::pulse::Pulse;
use crate::receiving::{Place, Receiving};
use crate::slots::{Slot, Slots};

/// What becomes of a message once its handler has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything it asked for is done: it is deleted.
    Done,
    /// Another message stands for it: it is deleted if it is still ours, and left alone if not, since it
    /// may be in charge where it is now.
    Superfluous,
    /// A copy of it is sent, with a receive count that starts over, and it is deleted.
    Requeue {
        /// Until it can be received.
        delay: Duration,
    },
    /// The same, and the copy says how far the work has come.
    RequeueWith {
        /// Until it can be received.
        delay: Duration,
        /// How far the work has come.
        progress: Progress,
    },
    /// It is received again, and its receive count counts on towards the dead-letter queue.
    Retry {
        /// Until it can be received.
        delay: Duration,
    },
    /// It may be in the hands of another worker: nothing is done to it, and it comes again when its visibility
    /// runs out.
    Abandon,
    /// The message is invalid: it goes to the dead-letter queue at once.
    Reject {
        /// Why.
        reason: String,
    },
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Superfluous => "superfluous",
            Self::Requeue { .. } | Self::RequeueWith { .. } => "requeue",
            Self::Retry { .. } => "retry",
            Self::Abandon => "abandon",
            Self::Reject { .. } => "reject",
        }
    }
}

/// What is done with each message.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Works on one message. When `lease` says to stop, it stops at the next good place.
    async fn handle(&self, delivery: &Delivery, lease: &Lease) -> Outcome;
}

/// How messages are taken.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages in hand at once.
    pub slots: usize,
    /// How long a receive waits for the first message.
    pub poll: Duration,
    /// How long a message is ours without a renewal.
    pub visibility: Duration,
    /// The longest that any message is kept.
    pub longest: Duration,
    /// How long after the signal to stop everything has ended.
    pub drain: Duration,
}

/// Takes messages from one queue.
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

/// How much longer than its poll a receive may take.
const RECEIVE_GRACE: Duration = Duration::from_secs(5);

/// A part of the worker ended by itself, which none may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} ended by itself")]
pub struct EndedEarly(pub &'static str);

impl Runner {
    /// A runner that has not begun. Messages that the handler rejects go to `dead_letters`.
    pub fn new(
        queue: Arc<dyn ChunkQueue>,
        dead_letters: Option<Arc<dyn ChunkQueue>>,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> Self {
        Self::with_slots(queue, dead_letters, handler, limits, Slots::new(limits.slots))
    }

    /// The same, with slots that somebody else sizes.
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

    /// Signs of life.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Takes messages until `stop`, then drains: what is in hand is finished, or given back when
    /// time is nearly up. Ends within `limits.drain` of `stop`. If a part of it ends by itself, it drains at once.
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
        for place in [Place::First, Place::Second] {
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
            error!(%early, "draining");
        }
        receive_until.cancel();
        let deadline = Instant::now() + this.limits.drain;
        info!(in_hand = this.leases.len(), "draining");
        this.drain(receiving, &tasks, deadline).await;

        renewing.cancel();
        if !keeper.is_finished() {
            let _ = timeout_at(deadline, keeper).await;
        }
        if !deleting.is_finished() && timeout_at(deadline, deleting).await.is_err() {
            warn!(
                "not all deletes were answered in time; those messages will come again, and change nothing"
            );
        }
        ended
    }

    /// Waits for the last receive and for what is in hand; in the last third of the time, tells
    /// what is left to stop.
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
        info!(in_hand = self.leases.len(), "releasing what is not finished");
        self.leases.stop_all(Stop::Draining);
        // Room for the deletes that follow.
        let last = deadline - self.limits.drain / 10;
        if timeout_at(last, &mut ended).await.is_err() {
            error!(
                in_hand = self.leases.len(),
                "not released in time; these messages come again when their visibility runs out"
            );
        }
    }

    async fn receive(
        self: Arc<Self>,
        place: Place,
        tasks: TaskTracker,
        deleter: Deleter,
        stop: CancellationToken,
    ) {
        let mut failures = 0;
        loop {
            let slots = async {
                self.receiving.turn(place, self.limits.poll).await;
                self.slots.take().await
            };
            let free = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                free = slots => free,
            };
            self.pulse.beat();
            let received = self.receive_once(place, free.len()).await;
            // Beat again: the receive and the pause after it may together exceed the health check's limit.
            self.pulse.beat();
            match received {
                Ok(deliveries) => {
                    failures = 0;
                    self.pulse.answered();
                    let outcome = if deliveries.is_empty() { "empty" } else { "messages" };
                    counter!("longhand_receives_total", "outcome" => outcome).increment(1);
                    self.start(deliveries, free, &tasks, &deleter, &stop);
                }
                Err(error) => {
                    failures += 1;
                    counter!("longhand_receives_total", "outcome" => "error").increment(1);
                    let pause = receive_backoff(failures);
                    warn!(%error, failures, ?pause, "cannot receive");
                    drop(free);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// A receive that is not answered in time is given up: its messages, if any, come again when their visibility
    /// runs out. It is never dropped earlier.
    async fn receive_once(&self, place: Place, max: usize) -> Result<Vec<Delivery>, QueueError> {
        self.receiving.begins(place);
        let received = self.queue.receive(max, self.limits.poll, self.limits.visibility);
        let received = timeout(self.limits.poll + RECEIVE_GRACE, received).await.unwrap_or_else(|_| {
            Err(QueueError::Unavailable("a receive was not answered in time".to_owned()))
        });
        let full = received.as_ref().is_ok_and(|deliveries| deliveries.len() >= max);
        self.receiving.ends(place, full);
        received
    }

    fn start(
        self: &Arc<Self>,
        deliveries: Vec<Delivery>,
        mut free: Vec<Slot>,
        tasks: &TaskTracker,
        deleter: &Deleter,
        stop: &CancellationToken,
    ) {
        let received = Instant::now();
        for delivery in deliveries {
            // The same receipt handle twice is one message in hand.
            if self.leases.holds(&delivery.receipt) {
                continue;
            }
            // A queue that hands out more than was asked for would not be SQS; the excess waits
            // for no slot, since it is in hand already.
            let slot = free.pop();
            let lease = self.leases.begin(delivery.receipt.clone(), received);
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

    /// One message from received to dealt with.
    async fn one(self: Arc<Self>, delivery: Delivery, lease: Lease, deleter: Deleter) {
        let handling = AssertUnwindSafe(self.handler.handle(&delivery, &lease)).catch_unwind();
        let outcome = match handling.await {
            Ok(outcome) => outcome,
            Err(panic) => {
                error!(panic = panic_text(panic.as_ref()), "the handler panicked");
                Outcome::Retry { delay: retry_backoff(delivery.receive_count) }
            }
        };
        let ours_until = self.leases.end(&delivery.receipt).await;
        counter!("longhand_messages_total", "outcome" => outcome.name()).increment(1);
        self.dispose(delivery, outcome, ours_until, &deleter).await;
        lease.slot().release();
    }

    /// Does with the message what its handler decided.
    async fn dispose(
        &self,
        delivery: Delivery,
        outcome: Outcome,
        ours_until: Option<Instant>,
        deleter: &Deleter,
    ) {
        let until = match (&outcome, ours_until) {
            (Outcome::Done, _) => return deleter.delete(delivery.receipt),
            (Outcome::Abandon, _) | (_, None) => {
                return warn!("the lease on the message is lost; another worker may have it");
            }
            (_, Some(until)) => until,
        };
        match outcome {
            Outcome::Done | Outcome::Abandon => {}
            Outcome::Superfluous => deleter.delete(delivery.receipt),
            Outcome::Retry { delay } => self.make_visible(&delivery, delay, until).await,
            Outcome::Requeue { delay } => {
                let copy = delivery.requeued(delay);
                self.move_to(self.queue.as_ref(), copy, &delivery, delay, until, deleter).await;
            }
            Outcome::RequeueWith { delay, progress } => {
                let mut copy = delivery.requeued(delay);
                copy.envelope.progress = progress;
                self.move_to(self.queue.as_ref(), copy, &delivery, delay, until, deleter).await;
            }
            Outcome::Reject { reason } => {
                warn!(reason, "message rejected");
                let Some(dead_letters) = &self.dead_letters else {
                    return self.make_visible(&delivery, self.limits.visibility, until).await;
                };
                let wait = retry_backoff(delivery.receive_count);
                let letter = delivery.rejected(reason);
                self.move_to(dead_letters.as_ref(), letter, &delivery, wait, until, deleter).await;
            }
        }
    }

    /// Sends a message on, and deletes the one in hand only when that was done.
    async fn move_to(
        &self,
        queue: &dyn ChunkQueue,
        outgoing: Outgoing,
        delivery: &Delivery,
        otherwise: Duration,
        until: Instant,
        deleter: &Deleter,
    ) {
        match queue.send(&[outgoing]).await.pop() {
            Some(Ok(())) => deleter.delete(delivery.receipt.clone()),
            answer => {
                let error = answer.and_then(Result::err);
                warn!(?error, "the message could not be sent on; it stays where it is");
                self.make_visible(delivery, otherwise, until).await;
            }
        }
    }

    /// Sets when the message comes again, if it is still ours: an old receipt handle may work.
    async fn make_visible(&self, delivery: &Delivery, delay: Duration, until: Instant) {
        if Instant::now() >= until {
            return;
        }
        let change = (delivery.receipt.clone(), delay.min(MAX_DELAY));
        match self.queue.change_visibility(&[change]).await.pop() {
            Some(Ok(()) | Err(QueueError::LeaseLost(_))) | None => {}
            Some(Err(error)) => warn!(%error, "visibility not set; the message comes when it runs out"),
        }
    }
}

/// After the `n`-th failed receive in a row: from half a second to 30 s.
fn receive_backoff(failures: u32) -> Duration {
    backoff::nth(failures, Duration::from_millis(500), Duration::from_secs(30))
}

/// After the `n`-th delivery of a message that could not be dealt with: from 2 s to 5 min.
pub(crate) fn retry_backoff(deliveries: u32) -> Duration {
    backoff::nth(deliveries, Duration::from_secs(2), Duration::from_mins(5))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a text")
}
