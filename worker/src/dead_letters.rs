//! Dead letters: messages that were handed out three times and never finished. A chunk whose workers
//! were merely lost goes back to the queue, twice; then, or when it was never done in time, it fails,
//! so that its job ends. What is no chunk's message stays in the queue for a person to look at.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::lifecycle::{self, Burial};
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery};
use longhand_shared::store::JobStore;
use longhand_shared::{Timestamp, webhook};
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
    /// Where jobs are kept.
    pub store: Arc<dyn JobStore>,
    /// What carries the word of a job's end.
    pub webhooks: Option<Arc<dyn ChunkQueue>>,
    /// Where chunks that are not to blame go back to.
    pub queue: Arc<dyn ChunkQueue>,
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
                    warn!(%error, reason, "a dead letter that is no chunk's message stays in the queue");
                } else {
                    debug!(%error, "still there");
                }
                return Outcome::Retry { delay: PARKED };
            }
        };
        let (job_id, chunk_index) = (chunk.job, chunk.index);
        let again = Outcome::Retry { delay: retry_backoff(delivery.receive_count) };
        // One that was rejected, and that can be read here: an older worker did not know its version.
        let buried = if delivery.envelope.reason.is_some() {
            Ok(Burial::Blameless)
        } else {
            lifecycle::bury(self.store.as_ref(), chunk, delivery, Timestamp::now()).await
        };
        let outcome = match &buried {
            Ok(Burial::Failed) => "failed",
            Ok(Burial::Stale) => "stale",
            Ok(Burial::Blameless) => "blameless",
            Err(_) => "error",
        };
        counter!("longhand_dead_letters_total", "outcome" => outcome).increment(1);
        match buried {
            Ok(Burial::Failed) => {
                warn!(%job_id, %chunk_index, "a dead letter failed its chunk");
                webhook::announce(self.store.as_ref(), self.webhooks.as_deref(), job_id).await;
                Outcome::Done
            }
            Ok(Burial::Stale) => {
                info!(%job_id, %chunk_index, "a dead letter that says nothing any more");
                Outcome::Done
            }
            Ok(Burial::Blameless) => match self.queue.send(&[delivery.requeued(BACK_IN)]).await.pop() {
                Some(Ok(())) => {
                    warn!(%job_id, %chunk_index, "a dead letter whose chunk is not to blame went back");
                    Outcome::Done
                }
                answer => {
                    warn!(%job_id, %chunk_index, ?answer, "a dead letter could not go back yet");
                    again
                }
            },
            Err(error) => {
                warn!(%job_id, %chunk_index, %error, "dead letter not applied yet");
                again
            }
        }
    }
}
