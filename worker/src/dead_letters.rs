//! Dead letters: messages that were handed out three times and never finished. A chunk whose workers
//! were merely lost goes back to the queue, twice; then, or when it was never done in time, it fails,
//! so that its job ends. An invalid message stays in the queue for an operator to look at.

use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::Timestamp;
use longhand_shared::lifecycle::{DeadLetter, Lifecycle};
use longhand_shared::queue::{ChunkMessage, Delivery};
use metrics::counter;
use tracing::{debug, info, warn};

use crate::lease::Lease;
use crate::runner::{Handler, Outcome, retry_backoff};

/// How long a message that is not ours is left alone before it is looked at again.
const PARKED: Duration = Duration::from_mins(15);

/// How long a chunk that is not to blame waits before it is handed out again. While old and new
/// workers run side by side, this keeps a message that the old reject from going back and forth.
const BACK_IN: Duration = Duration::from_secs(10);

/// Settles dead letters.
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
                    debug!(%error, "still there");
                }
                return Outcome::Retry { delay: PARKED };
            }
        };
        let (job_id, chunk_index) = (chunk.job, chunk.index);
        let again = Outcome::Retry { delay: retry_backoff(delivery.receive_count) };
        // One that was rejected, and that can be read here: an older worker did not know its version.
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
                warn!(dead_lettered = 1, %job_id, %chunk_index, "a dead letter failed its chunk");
                Outcome::Done
            }
            Ok(DeadLetter::Stale) => {
                info!(%job_id, %chunk_index, "a dead letter that says nothing any more");
                Outcome::Done
            }
            Ok(DeadLetter::Redrive) => {
                match self.lifecycle.queue().send(&[delivery.requeued(BACK_IN)]).await.pop() {
                    Some(Ok(())) => {
                        warn!(%job_id, %chunk_index, "a dead letter whose chunk is not to blame went back");
                        Outcome::Done
                    }
                    answer => {
                        warn!(%job_id, %chunk_index, ?answer, "a dead letter could not go back yet");
                        again
                    }
                }
            }
            Err(error) => {
                warn!(%job_id, %chunk_index, %error, "dead letter not applied yet");
                again
            }
        }
    }
}
