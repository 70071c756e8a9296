//! The sweeper: checks jobs that are open for long or have a pending webhook, and does what a crash left undone. Every
//! worker has one. They share the work by postponing each job's next check.

use std::time::Duration;

use futures::{StreamExt, stream};
use longhand_shared::Timestamp;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::service::settings::Reader;
use longhand_shared::store::StoreError;
use metrics::gauge;
use rand::RngExt;
use tracing::warn;

/// The maximum number of jobs in a sweep.
const BATCH: usize = 100;

/// The number of concurrent checks.
const AT_ONCE: usize = 4;

#[derive(Clone, Copy, Debug)]
pub struct SweepSettings {
    /// The time from one sweep to the next.
    pub every: Duration,
}

impl SweepSettings {
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        let about = "seconds between sweeps, which continue jobs and webhooks that a crash interrupted";
        let every = r.within("LONGHAND_SWEEP_SECONDS", 15, 1..=3600, about);
        Self { every: Duration::from_secs(every) }
    }
}

#[derive(Clone, Debug)]
pub struct Sweeper {
    pub lifecycle: Lifecycle,
    pub settings: SweepSettings,
    /// The age of a claim whose message counts as lost.
    pub claim_timeout: Duration,
}

impl Sweeper {
    /// Sweeps repeatedly, for the first time at once. Never ends.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.sweep(Timestamp::now()).await {
                warn!(%error, "sweep failed; the next sweep continues");
            }
            // Workers that start together should not sweep together.
            let pause = self.settings.every.mul_f64(rand::rng().random_range(0.75..1.25));
            tokio::time::sleep(pause).await;
        }
    }

    /// Checks up to 100 jobs that are due at `now`, the earliest first. Returns how many needed a repair.
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, StoreError> {
        // Without the depth, repairs cannot send messages either.
        let depth = match self.lifecycle.queue().depth().await {
            Ok(depth) => depth,
            Err(error) => {
                warn!(%error, "no sweep: the queue does not answer; the next sweep tries again");
                return Ok(0);
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "a number of messages is far below 2^52")]
        for (state, count) in
            [("visible", depth.visible), ("in_flight", depth.in_flight), ("delayed", depth.delayed)]
        {
            gauge!("longhand_queue_messages", "state" => state).set(count as f64);
        }
        let due = self.lifecycle.store().due(now, BATCH).await?;
        let looks = stream::iter(due)
            .map(async |due| (due.job, self.lifecycle.repair(&due, depth, self.claim_timeout, now).await));
        let mut repaired = 0;
        let mut looks = looks.buffer_unordered(AT_ONCE);
        while let Some((job, look)) = looks.next().await {
            match look {
                Ok(repair) => repaired += usize::from(!repair.is_empty()),
                Err(error) => warn!(job_id = %job, %error, "cannot repair a job; a later sweep tries again"),
            }
        }
        Ok(repaired)
    }
}
