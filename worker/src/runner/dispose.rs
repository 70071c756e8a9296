//! What happens to a message after its handler has returned.

use std::time::Duration;

use longhand_shared::queue::{ChunkQueue, Delivery, MAX_DELAY, Outgoing, QueueError};
use tokio::time::Instant;
use tracing::warn;

use super::Runner;
use crate::deleter::Deleter;
use crate::handler::{Outcome, retry_backoff};

impl Runner {
    /// Does what the handler decided. `leased_until` is `None` if the lease is lost.
    pub(super) async fn dispose(
        &self,
        delivery: Delivery,
        outcome: Outcome,
        leased_until: Option<Instant>,
        deleter: &Deleter,
    ) {
        let until = match (&outcome, leased_until) {
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

    /// Sends a copy to `queue` and then deletes the message. If the copy cannot be sent, the message becomes visible
    /// after the delay `otherwise`.
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
                warn!(?error, "the message cannot be moved; it stays in its queue");
                self.make_visible(delivery, otherwise, until).await;
            }
        }
    }

    /// Makes the message visible after `delay`. Only while its lease is held, since an old receipt handle may still work.
    async fn make_visible(&self, delivery: &Delivery, delay: Duration, until: Instant) {
        if Instant::now() >= until {
            return;
        }
        let change = (delivery.receipt.clone(), delay.min(MAX_DELAY));
        match self.queue.change_visibility(&[change]).await.pop() {
            Some(Ok(()) | Err(QueueError::LeaseLost(_))) | None => {}
            Some(Err(error)) => {
                warn!(%error, "cannot change the visibility timeout; the message is delivered again when it ends");
            }
        }
    }
}
