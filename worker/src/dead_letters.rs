//! Dead letters: a chunk that was handed out three times and never finished fails, so that its job
//! ends. What is no chunk's message stays in the queue for a person to look at.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::Timestamp;
use longhand_shared::job::{ChunkError, ErrorCode, Verdict};
use longhand_shared::lifecycle;
use longhand_shared::queue::{ChunkMessage, Delivery};
use longhand_shared::store::JobStore;
use tracing::{debug, warn};

use crate::lease::Lease;
use crate::runner::{Handler, Outcome, retry_backoff};

/// How long a message that is not ours is left alone before it is looked at again.
const PARKED: Duration = Duration::from_mins(15);

/// Settles dead letters.
#[derive(Debug)]
pub struct DeadLetters {
    /// Where jobs are kept.
    pub store: Arc<dyn JobStore>,
}

#[async_trait]
impl Handler for DeadLetters {
    async fn handle(&self, delivery: &Delivery, _lease: &Lease) -> Outcome {
        let chunk = match ChunkMessage::parse(&delivery.body) {
            Ok(message) => message.chunk(),
            Err(error) => {
                if delivery.receive_count == 1 {
                    let reason = delivery.envelope.reason.as_deref().unwrap_or_default();
                    warn!(%error, reason, "a dead letter that is no chunk's message stays in the queue");
                } else {
                    debug!(%error, "still there");
                }
                return Outcome::Retry { delay: PARKED };
            }
        };
        let message = "the chunk was handed to a worker three times and never finished";
        let verdict = Verdict::Failed(ChunkError::new(ErrorCode::DeadLettered, message));
        match lifecycle::settle(self.store.as_ref(), chunk, None, &verdict, Timestamp::now()).await {
            Ok(settled) => {
                warn!(job_id = %chunk.job, chunk_index = %chunk.index, ?settled, "dead letter applied");
                Outcome::Done
            }
            Err(error) => {
                warn!(job_id = %chunk.job, chunk_index = %chunk.index, %error, "dead letter not applied yet");
                Outcome::Retry { delay: retry_backoff(delivery.receive_count) }
            }
        }
    }
}
