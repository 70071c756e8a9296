//! Messages in slots: receive as many as there are free slots, hand each to the handler, keep its
//! lease, and do with the message what the handler says. Knows nothing of what a message means.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use longhand_shared::queue::{ChunkQueue, Delivery, MAX_DELAY, Outgoing, QueueError};
use metrics::counter;
use rand::RngExt;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};

use crate::deleter::Deleter;
use crate::lease::{Lease, Leases, Stop};
use crate::slots::{Slot, Slots};

/// What becomes of a message once its handler has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything it asked for is done: it is deleted.
    Done,
    /// Another message stands for it: it is deleted if it is still ours, and left alone if not, since it
    /// may be in charge where it is now.
    Superfluous,
    /// It is not to blame: it is sent anew, with a receive count that starts over, and deleted.
    Requeue {
        /// Until it can be received.
        delay: Duration,
    },
    /// It is received again, and its receive count counts on towards the dead-letter queue.
    Retry {
        /// Until it can be received.
        delay: Duration,
    },
    /// It is none of ours: it goes to the dead-letter queue at once.
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
            Self::Requeue { .. } => "requeue",
            Self::Retry { .. } => "retry",
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
}

/// Signs of life, for health checks.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// Milliseconds after `began`.
    last_poll: AtomicU64,
    answered: AtomicU64,
    leases: Arc<Leases>,
}

impl Pulse {
    /// How long ago the queue was last asked for messages, or last answered.
    pub fn last_poll_age(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.last_poll.load(Ordering::Relaxed)))
    }

    /// Receives that the queue has answered so far, with messages or without.
    pub fn polls(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Messages in hand.
    pub fn in_hand(&self) -> usize {
        self.leases.len()
    }

    fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_poll.store(now, Ordering::Relaxed);
    }
}

impl Runner {
    /// A runner that has not begun. Messages that the handler rejects go to `dead_letters`.
    pub fn new(
        queue: Arc<dyn ChunkQueue>,
        dead_letters: Option<Arc<dyn ChunkQueue>>,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> Self {
        let leases = Arc::new(Leases::new(Arc::clone(&queue), limits.visibility, limits.longest));
        let pulse = Arc::new(Pulse {
            began: Instant::now(),
            last_poll: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            leases: Arc::clone(&leases),
        });
        let slots = Slots::new(limits.slots);
        Self { queue, dead_letters, handler, limits, slots, leases, pulse }
    }

    /// The same, but with slots that somebody else sizes.
    #[must_use]
    pub fn with_slots(self, slots: Arc<Slots>) -> Self {
        Self { slots, ..self }
    }

    /// Signs of life.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Takes messages until `stop`, then drains: what is in hand is finished, or given back when
    /// time is nearly up. Ends within `limits.drain` of `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let (deleter, deleting) = Deleter::new(Arc::clone(&self.queue));
        let deleting = tokio::spawn(deleting);
        let renewing = CancellationToken::new();
        let keeper = tokio::spawn({
            let (leases, renewing) = (Arc::clone(&self.leases), renewing.clone());
            async move { leases.keep(&renewing).await }
        });
        let this = Arc::new(self);

        let receiving = tokio::spawn(Arc::clone(&this).receive(tasks.clone(), deleter, stop.clone()));
        stop.cancelled().await;
        let deadline = Instant::now() + this.limits.drain;
        info!(in_hand = this.leases.len(), "draining");
        this.drain(receiving, &tasks, deadline).await;

        renewing.cancel();
        let _ = timeout_at(deadline, keeper).await;
        if timeout_at(deadline, deleting).await.is_err() {
            warn!(
                "not all deletes were answered in time; those messages will come again, and change nothing"
            );
        }
    }

    /// Waits for the last receive and for what is in hand; in the last third of the time, tells
    /// what is left to stop.
    async fn drain(&self, receiving: tokio::task::JoinHandle<()>, tasks: &TaskTracker, deadline: Instant) {
        let ended = async {
            let _ = receiving.await;
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

    async fn receive(self: Arc<Self>, tasks: TaskTracker, deleter: Deleter, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let free = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                free = self.slots.take() => free,
            };
            self.pulse.beat();
            // Never dropped half-way: its messages would be in hand with nobody knowing.
            let received = self.queue.receive(free.len(), self.limits.poll, self.limits.visibility).await;
            // However long it took: a pause may follow, and both together are no sign of death.
            self.pulse.beat();
            match received {
                Ok(deliveries) => {
                    failures = 0;
                    self.pulse.answered.fetch_add(1, Ordering::Relaxed);
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
            if stop.is_cancelled() {
                lease.stop(Stop::Draining);
            }
            let span = info_span!("message", id = %delivery.message_id, receives = delivery.receive_count);
            let work = Arc::clone(self).one(delivery, lease, deleter.clone());
            tasks.spawn(
                async move {
                    work.await;
                    drop(slot);
                }
                .instrument(span),
            );
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
        let ours = self.leases.end(&delivery.receipt).await;
        counter!("longhand_messages_total", "outcome" => outcome.name()).increment(1);
        match outcome {
            Outcome::Done => deleter.delete(delivery.receipt),
            _ if !ours => warn!("the message is no longer ours; whoever has it now goes on"),
            Outcome::Superfluous => deleter.delete(delivery.receipt),
            Outcome::Retry { delay } => self.make_visible(&delivery, delay.min(MAX_DELAY)).await,
            Outcome::Requeue { delay } => {
                self.move_to(self.queue.as_ref(), delivery.requeued(delay), &delivery, delay, &deleter).await;
            }
            Outcome::Reject { reason } => {
                warn!(reason, "message rejected");
                let Some(dead_letters) = &self.dead_letters else {
                    return self.make_visible(&delivery, self.limits.visibility).await;
                };
                let wait = retry_backoff(delivery.receive_count);
                self.move_to(dead_letters.as_ref(), delivery.rejected(reason), &delivery, wait, &deleter)
                    .await;
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
        deleter: &Deleter,
    ) {
        match queue.send(&[outgoing]).await.pop() {
            Some(Ok(())) => deleter.delete(delivery.receipt.clone()),
            answer => {
                let error = answer.and_then(Result::err);
                warn!(?error, "the message could not be sent on; it stays where it is");
                self.make_visible(delivery, otherwise.min(MAX_DELAY)).await;
            }
        }
    }

    async fn make_visible(&self, delivery: &Delivery, delay: Duration) {
        let change = (delivery.receipt.clone(), delay);
        match self.queue.change_visibility(&[change]).await.pop() {
            Some(Ok(()) | Err(QueueError::LeaseLost(_))) | None => {}
            Some(Err(error)) => warn!(%error, "visibility not set; the message comes when it runs out"),
        }
    }
}

/// After the `n`-th failed receive in a row: from half a second, doubled, to 30 s, half of it at random.
fn receive_backoff(failures: u32) -> Duration {
    half_random(Duration::from_millis(500) * 2u32.pow(failures.clamp(1, 7) - 1), Duration::from_secs(30))
}

/// After the `n`-th delivery of a message that could not be dealt with: from 2 s, doubled, to 5 min.
pub(crate) fn retry_backoff(deliveries: u32) -> Duration {
    half_random(Duration::from_secs(2) * 2u32.pow(deliveries.clamp(1, 9) - 1), Duration::from_mins(5))
}

fn half_random(longest: Duration, cap: Duration) -> Duration {
    longest.min(cap).mul_f64(rand::rng().random_range(0.5..=1.0))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a text")
}
