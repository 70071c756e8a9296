//! The sweeper: looks at jobs that have been open for a while, or whose webhook is still pending, and
//! repairs what a crash left half-done. Every worker runs one; they share the work by postponing each
//! job's next check.

use std::time::Duration;

use futures::{StreamExt, stream};
use longhand_shared::Timestamp;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::store::StoreError;
use metrics::gauge;
use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Jobs looked at in one go.
const BATCH: usize = 100;

/// Jobs looked at at once.
const AT_ONCE: usize = 4;

/// Repairs open jobs.
#[derive(Clone, Debug)]
pub struct Sweeper {
    pub lifecycle: Lifecycle,
    /// From one sweep to the next.
    pub every: Duration,
    /// How long a claimed chunk may be silent before its message is taken for lost.
    pub claim_timeout: Duration,
}

impl Sweeper {
    /// Sweeps at once and then every so often, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.sweep(Timestamp::now()).await {
                warn!(%error, "sweep failed; the next one will go on");
            }
            // Workers that were started together should not sweep together.
            let pause = self.every.mul_f64(rand::rng().random_range(0.75..1.25));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks at all jobs that are due at `now`; how many needed a repair.
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, StoreError> {
        // A queue that cannot say what is waiting cannot be sent to either; the next sweep goes on.
        let depth = self
            .lifecycle
            .queue()
            .depth()
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        #[expect(clippy::cast_precision_loss, reason = "a number of messages is far below 2^52")]
        for (state, count) in
            [("visible", depth.visible), ("in_flight", depth.in_flight), ("delayed", depth.delayed)]
        {
            gauge!("longhand_queue_messages", "state" => state).set(count as f64);
        }
        let due = self.lifecycle.store().due(now, BATCH).await?;
        let looks = stream::iter(due)
            .map(async |due| self.lifecycle.repair(&due, depth, self.claim_timeout, now).await);
        let mut repaired = 0;
        let mut looks = looks.buffer_unordered(AT_ONCE);
        while let Some(look) = looks.next().await {
            match look {
                Ok(repair) => repaired += usize::from(!repair.is_empty()),
                Err(error) => warn!(%error, "a job could not be repaired yet"),
            }
        }
        Ok(repaired)
    }
}
