//! How work travels: messages, and the queues that carry them.
//!
//! A message is in hand from `receive` until it is deleted or its visibility timeout runs out.
//! Batches are answered entry by entry, and every entry's answer is given to the caller.

pub mod memory;
pub mod message;
pub mod sqs;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;

pub use message::{ChunkMessage, InvalidMessage};

/// SQS: the most entries of any batch.
pub const MAX_BATCH: usize = 10;

/// SQS: the longest delay of a message.
pub const MAX_DELAY: Duration = Duration::from_mins(15);

/// Why something was not done, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The queue did not answer, or asked for patience. It may have done it all the same.
    #[error("the queue cannot be reached: {0}")]
    Unavailable(String),
    /// The receipt handle no longer holds the message: it was deleted, or ran out and is anybody's.
    #[error("the message is no longer in hand: {0}")]
    LeaseLost(String),
    /// The queue refused what was sent, and would again.
    #[error("the queue refused: {0}")]
    Refused(String),
}

/// What a message says beside its body. Each is a message attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// W3C Trace Context of whoever caused the message.
    pub traceparent: Option<String>,
    /// The `message_id` of the first message, where this is a copy of one that was put back.
    pub origin: Option<String>,
    /// How often the message was put back with a fresh receive count, through no fault of its own.
    pub requeues: u32,
    /// Why the message was rejected, on its way to the dead-letter queue.
    pub reason: Option<String>,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The body.
    pub body: String,
    /// `MessageGroupId`: whose message it is. SQS fair queues keep one group's backlog from
    /// delaying the others.
    pub group: Option<String>,
    /// What it says beside the body.
    pub envelope: Envelope,
    /// How long until it can be received; [`MAX_DELAY`] at most, whole seconds.
    pub delay: Duration,
}

/// Proof that a message is in hand: SQS's receipt handle.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub String);

/// A message in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The body.
    pub body: String,
    /// What deletes it and extends it.
    pub receipt: Receipt,
    /// The queue's name for the message; the same at every delivery, and among the dead letters.
    pub message_id: String,
    /// Which delivery this is, from 1.
    pub receive_count: u32,
    /// When it was sent, where the queue says so.
    pub sent: Option<Timestamp>,
    /// Whose message it is.
    pub group: Option<String>,
    /// What it says beside the body.
    pub envelope: Envelope,
}

impl Delivery {
    /// What the message and all copies of it that were put back have in common.
    pub fn origin(&self) -> &str {
        self.envelope.origin.as_deref().unwrap_or(&self.message_id)
    }

    /// The same message, to be sent again with a receive count that starts over.
    pub fn requeued(&self, delay: Duration) -> Outgoing {
        Outgoing {
            body: self.body.clone(),
            group: self.group.clone(),
            envelope: Envelope {
                origin: Some(self.origin().to_owned()),
                requeues: self.envelope.requeues.saturating_add(1),
                reason: None,
                ..self.envelope.clone()
            },
            delay,
        }
    }

    /// The same message, to be sent to the dead-letter queue.
    pub fn rejected(&self, reason: impl Into<String>) -> Outgoing {
        let mut outgoing = self.requeued(Duration::ZERO);
        outgoing.envelope.requeues = self.envelope.requeues;
        outgoing.envelope.reason = Some(reason.into());
        outgoing
    }
}

/// About how many messages a queue has. SQS counts approximately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Waiting to be received.
    pub visible: u64,
    /// In hand.
    pub in_flight: u64,
    /// Sent with a delay that has not passed.
    pub delayed: u64,
}

/// A queue.
#[async_trait]
pub trait ChunkQueue: Send + Sync + Debug {
    /// Sends any number of messages, [`MAX_BATCH`] a call. One answer for each message, in order;
    /// a failed batch does not keep the next from being tried.
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>>;

    /// Takes up to `max` (1 to [`MAX_BATCH`]) messages in hand for `visibility` (whole seconds),
    /// waiting up to `wait` (20 s at most) for the first.
    async fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Delivery>, QueueError>;

    /// Deletes any number of messages. One answer for each, in order.
    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>>;

    /// Sets how long from now until each message can be received again, in whole seconds.
    /// One answer for each, in order.
    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>>;

    /// About how many messages there are.
    async fn depth(&self) -> Result<Depth, QueueError>;
}
