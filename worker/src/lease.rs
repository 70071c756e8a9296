//! Leases on messages in hand: visibility is renewed while the work goes on, in batches, at a third
//! of its timeout, and the renewal has ended before the message is deleted or released.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use longhand_shared::queue::{ChunkQueue, MAX_BATCH, QueueError, Receipt};
use metrics::counter;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::slots::HeldSlot;

/// Why work on a message should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The message is somebody else's now, or may be.
    LeaseLost,
    /// The work has taken longer than any work may.
    Overdue,
    /// This worker is stopping.
    Draining,
}

/// What a handler watches while it works.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    token: CancellationToken,
    why: Arc<OnceLock<Stop>>,
    slot: Arc<HeldSlot>,
}

impl Lease {
    /// Ends when the work should stop, with the reason.
    pub async fn stopped(&self) -> Stop {
        self.token.cancelled().await;
        self.why()
    }

    /// Asks the work to stop. Only the first reason counts.
    pub fn stop(&self, why: Stop) {
        // The reason is there before the token says so.
        let _ = self.why.set(why);
        self.token.cancel();
    }

    /// The slot that the message is in.
    pub fn slot(&self) -> &HeldSlot {
        &self.slot
    }

    fn why(&self) -> Stop {
        self.why.get().copied().unwrap_or(Stop::Draining)
    }

    fn is_lost(&self) -> bool {
        self.why.get() == Some(&Stop::LeaseLost)
    }
}

/// The leases of one worker.
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

#[derive(Debug)]
struct Term {
    /// When SQS will hand the message to another, as far as we know. Moved only by a renewal that
    /// was answered with success.
    ends: Instant,
    /// When to renew next.
    renew: Instant,
}

impl Leases {
    /// Leases of `visibility` each, none held for longer than `longest`.
    pub fn new(queue: Arc<dyn ChunkQueue>, visibility: Duration, longest: Duration) -> Self {
        Self { queue, visibility, longest, held: Mutex::default() }
    }

    /// Begins to keep a message that arrived at `received`. A long poll may have begun long before:
    /// visibility counts from when the message is handed out, not from when it was asked for.
    pub fn begin(&self, receipt: Receipt, received: Instant) -> Lease {
        let lease = Lease::default();
        let term = Term { ends: received + self.visibility, renew: received + self.visibility / 3 };
        let held =
            Held { lease: lease.clone(), since: Instant::now(), term: Arc::new(AsyncMutex::new(term)) };
        self.lock().insert(receipt, held);
        lease
    }

    /// Whether this message is in hand.
    pub fn holds(&self, receipt: &Receipt) -> bool {
        self.lock().contains_key(receipt)
    }

    /// Ends a lease. When this returns no renewal of the message is running and none will begin.
    /// Until when the message is ours; `None` if it is not any more.
    pub async fn end(&self, receipt: &Receipt) -> Option<Instant> {
        let held = self.lock().remove(receipt)?;
        let term = held.term.lock().await;
        (!held.lease.is_lost() && Instant::now() < term.ends).then_some(term.ends)
    }

    /// Tells everyone who holds a lease to stop.
    pub fn stop_all(&self, why: Stop) {
        for held in self.lock().values() {
            held.lease.stop(why);
        }
    }

    /// How many messages are in hand.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no message is in hand.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Renews what is due, until cancelled.
    pub async fn keep(&self, stop: &CancellationToken) {
        let tick = (self.visibility / 12).max(Duration::from_millis(20));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(tick) => self.renew_due(tick).await,
            }
        }
    }

    async fn renew_due(&self, tick: Duration) {
        let now = Instant::now();
        let mut due: Vec<(Receipt, Held, OwnedMutexGuard<Term>)> = Vec::new();
        for (receipt, held) in self.lock().iter() {
            if now - held.since >= self.longest {
                held.lease.stop(Stop::Overdue);
            }
            // A locked term is being renewed.
            let Ok(term) = Arc::clone(&held.term).try_lock_owned() else { continue };
            if term.ends <= now {
                held.lease.stop(Stop::LeaseLost);
            } else if term.renew <= now + tick / 2 && held.lease.why.get().is_none() {
                due.push((receipt.clone(), held.clone(), term));
            }
        }
        let mut batches = Vec::new();
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(MAX_BATCH));
            batches.push(self.renew(std::mem::replace(&mut due, rest)));
        }
        join_all(batches).await;
    }

    async fn renew(&self, mut batch: Vec<(Receipt, Held, OwnedMutexGuard<Term>)>) {
        let asked = Instant::now();
        let changes: Vec<_> =
            batch.iter().map(|(receipt, _, _)| (receipt.clone(), self.visibility)).collect();
        // A call that is never answered must not block the renewal or the expiry of other leases.
        let deadline =
            batch.iter().map(|(_, _, term)| term.ends).fold(asked + self.visibility / 3, Instant::min);
        let answers =
            timeout_at(deadline, self.queue.change_visibility(&changes)).await.unwrap_or_else(|_| {
                let error = QueueError::Unavailable("a renewal was not answered in time".to_owned());
                vec![Err(error); changes.len()]
            });
        debug!(entries = changes.len(), "visibility renewed");
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
                    term.renew = asked + self.visibility / 3;
                }
                Err(QueueError::LeaseLost(what)) => {
                    warn!(what, "lease lost");
                    held.lease.stop(Stop::LeaseLost);
                }
                Err(error) => {
                    warn!(%error, "renewal failed, trying again");
                    term.renew = Instant::now() + self.visibility / 10;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Receipt, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
