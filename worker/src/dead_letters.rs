//! Dead letters: messages that were rejected, or received three times without a result. A chunk whose workers were lost
//! returns to the queue, twice. After that, or if its attempts took too long, the chunk fails, so that its job ends. An
//! invalid message stays in the dead-letter queue for an operator.

use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::lifecycle::{DeadLetter, Lifecycle};
use longhand_shared::queue::{ChunkMessage, Delivery};
use longhand_shared::{ChunkRef, Timestamp};
use metrics::counter;
use tracing::{debug, info, warn};

use crate::handler::{Handler, Outcome, retry_backoff};
use crate::lease::Lease;

/// How long an invalid message stays invisible.
const PARKED: Duration = Duration::from_mins(15);

/// The delay of a redriven message. It slows down the exchange of a message that older workers reject during a
/// deployment.
const BACK_IN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct DeadLetters {
    pub lifecycle: Lifecycle,
}

#[async_trait]
impl Handler for DeadLetters {
    async fn handle(&self, delivery: &Delivery, _lease: &Lease) -> Outcome {
        let chunk = match ChunkMessage::parse(&delivery.body) {
            Ok(message) => message.chunk(),
            Err(error) => {
                if delivery.receive_count == 1 {
                    counter!("longhand_dead_letters_total", "outcome" => "foreign").increment(1);
                    let reason = delivery.envelope.reason.as_deref().unwrap_or_default();
                    warn!(%error, reason, "an invalid dead letter stays in the queue");
                } else {
                    debug!(%error, "the invalid dead letter is still in the queue");
                }
                return Outcome::Retry { delay: PARKED };
            }
        };
        let (job_id, chunk_index) = (chunk.job, chunk.index);
        // An older worker rejected the message's version, which this worker supports.
        let applied = if delivery.envelope.reason.is_some() {
            Ok(DeadLetter::Redrive)
        } else {
            self.lifecycle.dead_letter(chunk, delivery, Timestamp::now()).await
        };
        let outcome = match &applied {
            Ok(DeadLetter::Failed) => "failed",
            Ok(DeadLetter::Stale) => "stale",
            Ok(DeadLetter::Redrive) => "blameless",
            Err(_) => "error",
        };
        counter!("longhand_dead_letters_total", "outcome" => outcome).increment(1);
        match applied {
            Ok(DeadLetter::Failed) => {
                warn!(dead_lettered = 1, %job_id, %chunk_index, "the chunk of a dead letter has failed");
                Outcome::Done
            }
            Ok(DeadLetter::Stale) => {
                info!(%job_id, %chunk_index, "a stale dead letter was deleted");
                Outcome::Done
            }
            Ok(DeadLetter::Redrive) => self.redrive(chunk, delivery).await,
            Err(error) => {
                warn!(%job_id, %chunk_index, %error, "cannot process the dead letter yet");
                later(delivery)
            }
        }
    }
}

impl DeadLetters {
    async fn redrive(&self, ChunkRef { job, index }: ChunkRef, delivery: &Delivery) -> Outcome {
        match self.lifecycle.queue().send(&[delivery.requeued(BACK_IN)]).await.pop() {
            Some(Ok(())) => {
                warn!(job_id = %job, chunk_index = %index, "a dead letter returned to the queue");
                Outcome::Done
            }
            answer => {
                warn!(job_id = %job, chunk_index = %index, ?answer, "cannot return a dead letter to the queue yet");
                later(delivery)
            }
        }
    }
}

fn later(delivery: &Delivery) -> Outcome {
    Outcome::Retry { delay: retry_backoff(delivery.receive_count) }
}
