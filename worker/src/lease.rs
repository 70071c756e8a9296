//! Leases on messages in hand. The visibility timeout is renewed in batches after half of it has passed. The renewal
//! of a message ends, or is given up, before the message is deleted or released.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use longhand_shared::queue::{ChunkQueue, MAX_BATCH, QueueError, Receipt};
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::slots::HeldSlot;

/// Why a handler must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Another worker may have received the message.
    LeaseLost,
    /// The message has been in hand for `LONGHAND_MAX_CHUNK_SECONDS`.
    Overdue,
    /// The worker is shutting down.
    Draining,
}

/// A handler's view of its lease. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    token: CancellationToken,
    why: Arc<OnceLock<Stop>>,
    slot: Arc<HeldSlot>,
}

impl Lease {
    /// Waits until the handler must stop, and returns the reason.
    pub async fn stopped(&self) -> Stop {
        self.token.cancelled().await;
        self.why.get().copied().unwrap_or(Stop::Draining)
    }

    /// Stops the handler. Only the first reason counts.
    pub fn stop(&self, why: Stop) {
        // Readers of the token expect a reason.
        let _ = self.why.set(why);
        self.token.cancel();
    }

    /// The slot that the message is in.
    pub fn slot(&self) -> &HeldSlot {
        &self.slot
    }

    fn is_lost(&self) -> bool {
        self.why.get() == Some(&Stop::LeaseLost)
    }

    /// Whether the message is in use. A draining worker still returns it to the queue.
    fn is_renewed(&self) -> bool {
        matches!(self.why.get(), None | Some(Stop::Draining))
    }
}

/// The leases of one consumer.
#[derive(Debug)]
pub struct Leases {
    queue: Arc<dyn ChunkQueue>,
    visibility: Duration,
    longest: Duration,
    held: Mutex<HashMap<Receipt, Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    lease: Lease,
    since: Instant,
    /// Locked during a renewal.
    term: Arc<AsyncMutex<Term>>,
}

impl Held {
    /// When the visibility timeout ends, or `None` if the lease is lost. Waits for a renewal that is in progress.
    async fn until(&self) -> Option<Instant> {
        let term = self.term.lock().await;
        (!self.lease.is_lost() && Instant::now() < term.ends).then_some(term.ends)
    }
}

/// Leases to renew with one request, with their locked terms.
type Batch = Vec<(Receipt, Held, OwnedMutexGuard<Term>)>;

#[derive(Debug)]
struct Term {
    /// When the visibility timeout ends. Only a successful renewal changes it.
    ends: Instant,
    /// When the next renewal is due.
    renew: Instant,
}

impl Leases {
    /// Each lease lasts for `visibility` without a renewal, and for `longest` in total.
    pub fn new(queue: Arc<dyn ChunkQueue>, visibility: Duration, longest: Duration) -> Self {
        Self { queue, visibility, longest, held: Mutex::default() }
    }

    /// Starts the lease of a message that was delivered at `delivered`. The visibility timeout starts then, not at the
    /// beginning of the long poll.
    pub fn begin(&self, receipt: Receipt, delivered: Instant) -> Lease {
        let lease = Lease::default();
        let term = Term { ends: delivered + self.visibility, renew: delivered + self.visibility / 2 };
        let held =
            Held { lease: lease.clone(), since: Instant::now(), term: Arc::new(AsyncMutex::new(term)) };
        self.held.lock().insert(receipt, held);
        lease
    }

    pub fn holds(&self, receipt: &Receipt) -> bool {
        self.held.lock().contains_key(receipt)
    }

    /// Ends a lease and waits for a renewal that is in progress. Returns the time at which the visibility timeout ends, or
    /// `None` if the lease is lost.
    pub async fn end(&self, receipt: &Receipt) -> Option<Instant> {
        let held = self.held.lock().remove(receipt)?;
        held.until().await
    }

    /// Whether the lease is held. Waits for a renewal that is in progress.
    pub(crate) async fn is_held(&self, receipt: &Receipt) -> bool {
        let held = self.held.lock().get(receipt).cloned();
        match held {
            Some(held) => held.until().await.is_some(),
            None => false,
        }
    }

    /// Stops all handlers.
    pub fn stop_all(&self, why: Stop) {
        for held in self.held.lock().values() {
            held.lease.stop(why);
        }
    }

    /// The number of messages in hand.
    pub fn in_hand(&self) -> usize {
        self.held.lock().len()
    }

    /// Renews due leases until `stop`.
    pub async fn keep(&self, stop: &CancellationToken) {
        let tick = (self.visibility / 12).max(Duration::from_millis(20));
        let mut ticks = tokio::time::interval(tick);
        let mut renewals = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => renewals.extend(self.due(tick).into_iter().map(|batch| self.renew(batch, tick))),
                // A slow renewal does not delay those of other leases.
                Some(()) = renewals.next() => {}
            }
        }
    }

    /// Stops leases that must not continue, and returns batches of those to renew.
    fn due(&self, tick: Duration) -> Vec<Batch> {
        let now = Instant::now();
        let mut due = Batch::new();
        for (receipt, held) in self.held.lock().iter() {
            if now - held.since >= self.longest {
                held.lease.stop(Stop::Overdue);
            }
            // A locked term is being renewed.
            let Ok(term) = Arc::clone(&held.term).try_lock_owned() else { continue };
            // The next look would be too late.
            if term.ends <= now + tick {
                held.lease.stop(Stop::LeaseLost);
            } else if term.renew <= now + tick / 2 && held.lease.is_renewed() {
                due.push((receipt.clone(), held.clone(), term));
            }
        }
        // A request is cut at the end of its first lease, so those that end soon share one.
        due.sort_by_key(|(_, _, term)| term.ends);
        let mut batches = Vec::new();
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(MAX_BATCH));
            batches.push(std::mem::replace(&mut due, rest));
        }
        batches
    }

    async fn renew(&self, mut batch: Batch, tick: Duration) {
        let asked = Instant::now();
        let changes: Vec<_> =
            batch.iter().map(|(receipt, _, _)| (receipt.clone(), self.visibility)).collect();
        // A call that is never answered must not block the expiry of these leases.
        let deadline =
            batch.iter().map(|(_, _, term)| term.ends - tick).fold(asked + self.visibility / 4, Instant::min);
        let answers =
            timeout_at(deadline, self.queue.change_visibility(&changes)).await.unwrap_or_else(|_| {
                let error = QueueError::Unavailable("a renewal was not answered in time".to_owned());
                vec![Err(error); changes.len()]
            });
        debug!(entries = changes.len(), "renewal ended");
        for ((_, held, term), answer) in batch.iter_mut().zip(answers) {
            let outcome = match &answer {
                Ok(()) => "ok",
                Err(QueueError::LeaseLost(_)) => "lost",
                Err(QueueError::Unavailable(_) | QueueError::Refused(_)) => "error",
            };
            counter!("longhand_renewals_total", "outcome" => outcome).increment(1);
            match answer {
                Ok(()) => {
                    term.ends = asked + self.visibility;
                    term.renew = asked + self.visibility / 2;
                }
                Err(QueueError::LeaseLost(what)) => {
                    warn!(what, "the lease on a message is lost; another worker may have the message");
                    // The handler may have been stopped for another reason.
                    term.ends = asked;
                    held.lease.stop(Stop::LeaseLost);
                }
                Err(error) if term.ends <= Instant::now() + tick => {
                    warn!(%error, "cannot renew the lease on a message; the lease is given up");
                    held.lease.stop(Stop::LeaseLost);
                }
                Err(error) => {
                    warn!(%error, "cannot renew the lease on a message; trying again");
                    term.renew = Instant::now() + self.visibility / 10;
                }
            }
        }
    }
}
