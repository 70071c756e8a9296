//! What handlers do with messages, and what the runner then does with each message.

use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::net::backoff;
use longhand_shared::queue::{Delivery, Progress};
use strum::IntoStaticStr;

use crate::lease::Lease;

/// What happens to a message after its handler has returned. The names are labels in metrics.
#[derive(Clone, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Outcome {
    /// The work is stored. The message is deleted.
    Done,
    /// Another message for the same work exists. The message is deleted if its lease is still held. Otherwise it may
    /// hold the claim in another worker, and is left alone.
    Superfluous,
    /// A copy is sent, whose receive count starts again, and the message is deleted.
    Requeue { delay: Duration },
    /// The same; the copy has this progress.
    #[strum(serialize = "requeue")]
    RequeueWith { delay: Duration, progress: Progress },
    /// The message becomes visible again after `delay`. Its receive count grows towards the dead-letter queue.
    Retry { delay: Duration },
    /// Another worker may hold the message. Nothing is done to it; it is delivered again when its visibility timeout
    /// ends.
    Abandon,
    /// The message goes to the dead-letter queue: it is invalid, or the delivery of its webhook was given up.
    Reject { reason: String },
}

#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles one message. Stops at the next safe point once `lease` is stopped.
    async fn handle(&self, delivery: &Delivery, lease: &Lease) -> Outcome;
}

/// The backoff after the `n`-th delivery of a message that could not be handled: from 2 s to 5 min.
pub(crate) fn retry_backoff(deliveries: u32) -> Duration {
    backoff::nth(deliveries, Duration::from_secs(2), Duration::from_mins(5))
}
