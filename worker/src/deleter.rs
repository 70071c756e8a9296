//! Deletes messages in batches. A message that cannot be deleted is delivered again, which is harmless: its chunk is
//! settled, or a copy of the message has replaced it (see [`longhand_shared::lifecycle`]).

use std::sync::Arc;
use std::time::Duration;

use longhand_shared::net::backoff::backoff;
use longhand_shared::queue::{ChunkQueue, MAX_BATCH, QueueError, Receipt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::warn;

/// How long the first of a batch waits for the others.
const LINGER: Duration = Duration::from_millis(100);

/// How often a failed delete is repeated.
const RETRIES: usize = 3;

/// The pause before the first repetition.
const PAUSE: Duration = Duration::from_millis(200);

/// Accepts receipts of messages to delete.
#[derive(Clone, Debug)]
pub(crate) struct Deleter(mpsc::UnboundedSender<Receipt>);

impl Deleter {
    /// A deleter, and the future that deletes. It ends after all clones of the deleter are dropped.
    pub(crate) fn new(queue: Arc<dyn ChunkQueue>) -> (Self, impl Future<Output = ()>) {
        // Bounded by the messages in hand, each of which sends one receipt.
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), run(queue, receiver))
    }

    /// Deletes the message soon.
    pub(crate) fn delete(&self, receipt: Receipt) {
        // The receiver outlives every sender.
        let _ = self.0.send(receipt);
    }
}

async fn run(queue: Arc<dyn ChunkQueue>, mut receiver: mpsc::UnboundedReceiver<Receipt>) {
    let flushes = TaskTracker::new();
    while let Some(first) = receiver.recv().await {
        let mut batch = vec![first];
        let until = Instant::now() + LINGER;
        while batch.len() < MAX_BATCH {
            match timeout_at(until, receiver.recv()).await {
                Ok(Some(receipt)) => batch.push(receipt),
                Ok(None) | Err(_) => break,
            }
        }
        flushes.spawn(flush(Arc::clone(&queue), batch));
    }
    flushes.close();
    flushes.wait().await;
}

async fn flush(queue: Arc<dyn ChunkQueue>, mut batch: Vec<Receipt>) {
    let mut pauses = backoff(PAUSE, PAUSE * 16).take(RETRIES);
    loop {
        let answers = queue.delete(&batch).await;
        let mut left = Vec::new();
        for (receipt, answer) in batch.into_iter().zip(answers) {
            match answer {
                // The lease is lost: the message is delivered again, without effect.
                Ok(()) | Err(QueueError::LeaseLost(_)) => {}
                Err(error) => {
                    warn!(%error, "cannot delete a message; if retries fail, it is delivered again, without effect");
                    left.push(receipt);
                }
            }
        }
        let Some(pause) = pauses.next().filter(|_| !left.is_empty()) else { return };
        batch = left;
        tokio::time::sleep(pause).await;
    }
}
