//! Deletes in batches. A message whose delete fails for good comes again, finds its chunk settled,
//! and is deleted then.

use std::sync::Arc;
use std::time::Duration;

use longhand_shared::queue::{ChunkQueue, MAX_BATCH, QueueError, Receipt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::warn;

/// How long the first of a batch waits for the others.
const LINGER: Duration = Duration::from_millis(100);

/// How often a delete is tried.
const TRIES: u32 = 4;

/// Where receipts go to be deleted.
#[derive(Clone, Debug)]
pub(crate) struct Deleter(mpsc::UnboundedSender<Receipt>);

impl Deleter {
    /// A deleter, and the work that must be awaited once every clone of it is gone.
    pub(crate) fn new(queue: Arc<dyn ChunkQueue>) -> (Self, impl Future<Output = ()>) {
        // Bounded by the slots: each puts one receipt in per message.
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), run(queue, receiver))
    }

    /// Deletes the message some time soon.
    pub(crate) fn delete(&self, receipt: Receipt) {
        // The other end outlives every sender; were it gone, the message would come again.
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
    for turn in 1..=TRIES {
        let answers = queue.delete(&batch).await;
        let mut left = Vec::new();
        for (receipt, answer) in batch.into_iter().zip(answers) {
            match answer {
                // The lease is lost: the worker that holds the message now finds the chunk settled.
                Ok(()) | Err(QueueError::LeaseLost(_)) => {}
                Err(error) => {
                    warn!(%error, turn, "message not deleted");
                    left.push(receipt);
                }
            }
        }
        if left.is_empty() {
            return;
        }
        batch = left;
        if turn < TRIES {
            tokio::time::sleep(LINGER * 4u32.pow(turn - 1)).await;
        }
    }
}
