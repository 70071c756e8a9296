//! Messages and queues.
//!
//! A received message is in hand until it is deleted or its visibility timeout ends. Batch calls return
//! one result per entry.

mod acceptance;
pub mod memory;
pub mod message;
pub mod sqs;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::attempt::Claimant;
use crate::domain::clock::Timestamp;

pub use message::{ChunkMessage, InvalidMessage};

/// SQS's maximum number of entries per batch.
pub const MAX_BATCH: usize = 10;

/// SQS's maximum delay of a message.
pub const MAX_DELAY: Duration = Duration::from_mins(15);

/// The name of the HTTP header and of the message attribute with the trace context.
pub const TRACEPARENT: &str = "traceparent";

/// Why a queue operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The queue did not answer or throttled the call. The operation may still have taken effect.
    #[error("the queue cannot be reached: {0}")]
    Unavailable(String),
    /// The receipt handle is invalid: the message was deleted, or its visibility timeout ended.
    #[error("the lease on the message is lost: {0}")]
    LeaseLost(String),
    /// The queue refused the message. A retry would fail too.
    #[error("the queue refused the message: {0}")]
    Refused(String),
}

/// Counts of failures that belong to a chunk, over all deliveries of its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Failed model calls that count against the chunk.
    pub tries: u32,
    /// Outages of the model that began while the chunk was in flight.
    pub outages: u32,
    /// How often the chunk went back to the queue because its audio was missing or could not be read.
    pub audio: u32,
}

/// A message's attributes. `progress` is stored as three attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// W3C Trace Context of the sender.
    pub traceparent: Option<String>,
    /// For a requeued copy: the `message_id` of the first message.
    pub origin: Option<String>,
    /// How often the message was requeued, which resets its receive count.
    pub requeues: u32,
    /// Why a worker sent the message to the dead-letter queue.
    pub reason: Option<String>,
    pub progress: Progress,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub body: String,
    /// `MessageGroupId`: the user's id. With fair queues, SQS keeps one group's backlog from
    /// delaying the others.
    pub group: Option<String>,
    pub envelope: Envelope,
    /// The time until the message can be received: at most [`MAX_DELAY`], in whole seconds.
    pub delay: Duration,
}

/// SQS's receipt handle: it identifies a delivery, and is needed to delete the message or to extend its timeout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub String);

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub body: String,
    pub receipt: Receipt,
    /// The queue's id of the message: the same for all deliveries, and in the dead-letter queue.
    pub message_id: String,
    /// The number of this delivery, from 1.
    pub receive_count: u32,
    /// When the message was sent, if the queue returns it.
    pub sent: Option<Timestamp>,
    /// `MessageGroupId`: the user's id.
    pub group: Option<String>,
    pub envelope: Envelope,
}

impl Delivery {
    /// The id of the first message, which the message and all its requeued copies share.
    pub fn origin(&self) -> &str {
        self.envelope.origin.as_deref().unwrap_or(&self.message_id)
    }

    /// The claimant for this message and a worker.
    pub fn claimant<'a>(&'a self, worker: &'a str) -> Claimant<'a> {
        let (origin, message) = (self.origin(), self.message_id.as_str());
        let generation = self.envelope.requeues;
        let redelivered = self.receive_count > 1 || generation > 0;
        Claimant { origin, message, generation, redelivered, worker }
    }

    /// A copy of the message to send again. Its receive count starts at zero.
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

    /// A copy of the message for the dead-letter queue.
    pub fn rejected(&self, reason: impl Into<String>) -> Outgoing {
        let mut outgoing = self.requeued(Duration::ZERO);
        outgoing.envelope.requeues = self.envelope.requeues;
        outgoing.envelope.reason = Some(reason.into());
        outgoing
    }
}

/// The approximate number of messages in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that can be received.
    pub visible: u64,
    /// Messages in hand.
    pub in_flight: u64,
    /// Messages whose delay has not passed.
    pub delayed: u64,
}

/// A queue's recent refusals of this process' messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether the queue refuses `MessageGroupId`, so that messages are sent without it. Some emulators refuse it on
    /// standard queues.
    pub groups_refused: bool,
    /// The code of the last refusal for another reason, if that was less than five minutes ago and no message was
    /// accepted since.
    pub refused: Option<String>,
}

#[async_trait]
pub trait ChunkQueue: Send + Sync + Debug {
    /// Sends any number of messages in batches of [`MAX_BATCH`]. Returns one result per message, in order.
    /// After a failed batch the next one is still sent.
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>>;

    /// Receives up to `max` (1 to [`MAX_BATCH`]) messages with the visibility timeout `visibility` (whole seconds).
    /// Waits up to `wait` (at most 20 s) for the first message.
    async fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Delivery>, QueueError>;

    /// Deletes any number of messages. Returns one result per message, in order.
    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>>;

    /// Sets each message's visibility timeout from now, in whole seconds. Returns one result per message, in order.
    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>>;

    async fn depth(&self) -> Result<Depth, QueueError>;

    /// For logs. Queues in memory have none.
    fn url(&self) -> Option<&str> {
        None
    }

    /// The queue's recent refusals, from memory without a call.
    fn standing(&self) -> Standing {
        Standing::default()
    }
}
