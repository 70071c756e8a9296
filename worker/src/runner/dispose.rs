//! What happens to a message after its handler has returned.

use std::time::Duration;

use longhand_shared::queue::{ChunkQueue, Delivery, MAX_DELAY, Outgoing, QueueError};
use tokio::time::Instant;
use tracing::warn;

use super::Runner;
use crate::deleter::Deleter;
use crate::handler::{Outcome, retry_backoff};

/// What is left to do when the lease has ended.
enum Ending {
    /// Delete the message, also if another worker has received it.
    Delete,
    /// Delete the message if the lease was held to its end.
    DeleteIfHeld,
    /// Make the message visible after this time, if the lease was held to its end.
    Show(Duration),
    /// Leave the message alone: the lease is lost.
    Nothing,
}

impl Runner {
    /// Does what the handler decided.
    pub(super) async fn dispose(&self, delivery: Delivery, outcome: Outcome, deleter: &Deleter) {
        let ending = match outcome {
            Outcome::Done => Ending::Delete,
            Outcome::Superfluous => Ending::DeleteIfHeld,
            Outcome::Retry { delay } => Ending::Show(delay),
            Outcome::Abandon => Ending::Nothing,
            _ if !self.leases.is_held(&delivery.receipt).await => Ending::Nothing,
            Outcome::Requeue { delay } => {
                self.move_to(self.queue.as_ref(), delivery.requeued(delay), delay).await
            }
            Outcome::RequeueWith { delay, progress } => {
                let mut copy = delivery.requeued(delay);
                copy.envelope.progress = progress;
                self.move_to(self.queue.as_ref(), copy, delay).await
            }
            Outcome::Reject { reason } => {
                warn!(reason, "message rejected: it goes to the dead-letter queue");
                match &self.dead_letters {
                    Some(dead_letters) => {
                        let wait = retry_backoff(delivery.receive_count);
                        self.move_to(dead_letters.as_ref(), delivery.rejected(reason), wait).await
                    }
                    None => Ending::Show(self.limits.visibility),
                }
            }
        };
        // No renewal may follow a delete or a change of the visibility.
        let leased_until = self.leases.end(&delivery.receipt).await;
        match (ending, leased_until) {
            (Ending::Delete, _) | (Ending::DeleteIfHeld, Some(_)) => deleter.delete(delivery.receipt),
            (Ending::Show(delay), Some(until)) => self.make_visible(&delivery, delay, until).await,
            (Ending::Nothing, _) | (_, None) => {
                warn!("the message is left in the queue; another worker may have it");
            }
        }
    }

    /// Sends a copy to `queue`, which replaces the message. The message is renewed meanwhile. If the copy cannot be sent,
    /// the message becomes visible after the delay `otherwise`.
    async fn move_to(&self, queue: &dyn ChunkQueue, copy: Outgoing, otherwise: Duration) -> Ending {
        match queue.send(&[copy]).await.pop() {
            Some(Ok(())) => Ending::Delete,
            answer => {
                let error = answer.and_then(Result::err);
                warn!(?error, "the message cannot be moved; it stays in its queue");
                Ending::Show(otherwise)
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
