//! The cache of finished results. It saves reads of the table.
//!
//! It holds only the results of completed jobs, because these change only by erasure. A failed job can be retried,
//! so it is always read from the table. [`Cache::erased`] describes how long an erased job can still be served.
//!
//! The cache is either in Redis (or Valkey), shared by all processes, or in this process, for a few seconds. It is
//! never in both: a local copy would outlive the erasure in Redis.

mod connection;
mod rate;
pub mod remote;

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;

use crate::domain::callback::CallbackState;
use crate::domain::id::JobId;
pub use crate::domain::job::Change;
use crate::domain::job::JobStatus;
use crate::domain::transcript::TranscriptResult;
use crate::store::{self, JobStore, StoreError};
use remote::Redis;
pub use remote::SHARED_TTL;

/// How long this process keeps a result without Redis.
pub const LOCAL_TTL: Duration = Duration::from_secs(5);

/// The maximum size of the cache in this process, in bytes.
const LOCAL_BYTES: u64 = 32 * 1024 * 1024;

/// The cache of finished results. Clones share it.
#[derive(Clone, Debug)]
pub struct Cache(Kept);

#[derive(Clone, Debug)]
enum Kept {
    Here(moka::sync::Cache<JobId, Arc<TranscriptResult>>),
    InRedis(Redis),
}

impl Cache {
    /// A cache in this process.
    pub fn local() -> Self {
        let weight =
            |_: &JobId, result: &Arc<TranscriptResult>| u32::try_from(result.weight()).unwrap_or(u32::MAX);
        let builder = moka::sync::Cache::builder();
        Self(Kept::Here(builder.max_capacity(LOCAL_BYTES).weigher(weight).time_to_live(LOCAL_TTL).build()))
    }

    /// A cache in Redis, shared by all processes.
    pub fn shared(redis: Redis) -> Self {
        Self(Kept::InRedis(redis))
    }

    /// The Redis client, if the cache is in Redis.
    pub fn redis(&self) -> Option<&Redis> {
        match &self.0 {
            Kept::Here(_) => None,
            Kept::InRedis(redis) => Some(redis),
        }
    }

    /// Reads a job in the form that clients receive, from the cache or else from `store`.
    ///
    /// A final result from `store` is added to the cache. For the effect on an erased job see [`Cache::erased`].
    pub async fn read(
        &self,
        store: &dyn JobStore,
        id: JobId,
    ) -> Result<Option<Arc<TranscriptResult>>, StoreError> {
        if let Some(result) = self.get(id).await {
            return Ok(Some(result));
        }
        let Some(result) = store::read(store, id).await?.map(Arc::new) else {
            return Ok(None);
        };
        self.put(&result).await;
        Ok(Some(result))
    }

    /// Reads a result from the cache. A failed read is a miss.
    pub async fn get(&self, id: JobId) -> Option<Arc<TranscriptResult>> {
        let (found, outcome) = match &self.0 {
            Kept::Here(results) => {
                let found = results.get(&id);
                let outcome = if found.is_some() { "hit" } else { "miss" };
                (found, outcome)
            }
            Kept::InRedis(redis) => match redis.get(id).await {
                Ok(Some(result)) => (Some(Arc::new(result)), "hit"),
                Ok(None) => (None, "miss"),
                Err(_) => (None, "error"),
            },
        };
        counter!("longhand_cache_total", "outcome" => outcome).increment(1);
        found
    }

    /// Adds the result of a completed job without a pending webhook. Other results can change and are ignored.
    pub async fn put(&self, result: &Arc<TranscriptResult>) {
        if !is_final(result) {
            return;
        }
        match &self.0 {
            Kept::Here(results) => results.insert(result.job_id, Arc::clone(result)),
            Kept::InRedis(redis) => redis.put(result).await,
        }
    }

    /// Adds the result of a job that has just ended, as [`Cache::put`] does, and then publishes its end. Processes
    /// that wait for the job read the result from here. `kept` is false if a webhook is pending.
    pub async fn put_and_publish(&self, result: &TranscriptResult, kept: bool) {
        let kept = (kept && is_final(result)).then_some(result);
        match &self.0 {
            Kept::Here(results) => {
                if let Some(result) = kept {
                    results.insert(result.job_id, Arc::new(result.clone()));
                }
            }
            Kept::InRedis(redis) => redis.put_and_publish(result.job_id, kept).await,
        }
    }

    /// Removes an erased job. Call it after the erasure from the table.
    ///
    /// - In Redis, a mark replaces the result, and no result replaces the mark: neither one from a slow
    ///   worker nor one from a reader that read the table before the erasure. The job is not served any more. If
    ///   writing the mark fails, this process retries every second. If the process ends before it succeeds,
    ///   Redis serves the job until [`SHARED_TTL`] has passed.
    /// - Without Redis, other processes, and readers in this process that read the table before the erasure, serve
    ///   the job for [`LOCAL_TTL`] at most.
    pub async fn erased(&self, id: JobId) {
        match &self.0 {
            Kept::Here(results) => results.invalidate(&id),
            Kept::InRedis(redis) => redis.erased(id).await,
        }
    }

    /// Notifies all processes that wait for the job of a change. A notification can be lost, so the processes also
    /// poll.
    pub async fn publish(&self, id: JobId, change: Change) {
        if let Kept::InRedis(redis) = &self.0 {
            redis.publish(id, change).await;
        }
    }

    /// Checks that Redis answers, for readiness. Always succeeds without Redis.
    pub async fn ping(&self) -> Result<(), String> {
        match &self.0 {
            Kept::Here(_) => Ok(()),
            Kept::InRedis(redis) => redis.ping().await,
        }
    }
}

/// Whether a result is final: it changes only by erasure.
fn is_final(result: &TranscriptResult) -> bool {
    let pending = result.callback.as_ref().is_some_and(|callback| callback.state == CallbackState::Pending);
    result.job_status == JobStatus::Completed && !pending
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::ChunkRef;
    use crate::domain::job::{
        ChunkError, ErrorCode, Metadata, NewJob, TranscribeOptions, Transcription, Verdict,
    };
    use crate::lifecycle::Lifecycle;
    use crate::queue::memory::MemoryQueue;
    use crate::store::memory::MemoryStore;
    use crate::{Attempt, Timestamp};

    async fn ended(store: &Arc<MemoryStore>, verdict: Verdict) -> JobId {
        let (user, path) = ("ana".parse().expect("a user"), "a.wav".parse().expect("a path"));
        let now = Timestamp::from_unix(1);
        let job = NewJob::new(user, vec![path], TranscribeOptions::default(), Metadata::new(), now);
        let job = job.expect("one chunk");
        store.create(&job, now).await.expect("in memory");
        let chunk = ChunkRef { job: job.id, index: 0.try_into().expect("small") };
        let lifecycle = Lifecycle::new(Arc::clone(store) as _, Arc::new(MemoryQueue::new()));
        let settled = lifecycle.settle(chunk, &Attempt::number(0), &verdict, now).await;
        settled.expect("in memory");
        job.id
    }

    #[tokio::test]
    async fn only_what_completed_is_kept() {
        let (store, cache) = (Arc::new(MemoryStore::new()), Cache::local());
        let words = Transcription::new("hello", None, vec![]).expect("small");
        let completed = ended(&store, Verdict::Completed(words)).await;
        let failed = ended(&store, Verdict::Failed(ChunkError::new(ErrorCode::AsrRejected, "no"))).await;
        for id in [completed, failed] {
            assert!(cache.read(&*store, id).await.expect("in memory").is_some());
        }
        assert!(cache.get(completed).await.is_some());
        assert!(cache.get(failed).await.is_none(), "it may be given another try");
        store.expire(completed);
        assert!(cache.read(&*store, completed).await.expect("in memory").is_some(), "not asked");
        cache.erased(completed).await;
        assert!(cache.read(&*store, completed).await.expect("in memory").is_none());
    }
}
