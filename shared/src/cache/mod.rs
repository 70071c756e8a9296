//! Finished results, kept where they are read sooner and at less cost than from the table.
//!
//! Only the results of jobs that completed are kept. Such a job never changes again: all that can still
//! happen to it is to be erased. A failed job may be given another try, and is always read from the table,
//! so a retried job is never shown as it was. What an erased job may still be shown by, and for how
//! long, is said at [`Cache::erased`].
//!
//! Either Redis (or Valkey) keeps them, for all processes, or this process does, for a few seconds: never
//! both, since a second copy in each process would outlive the first one's erasure.

pub mod observed;
pub mod remote;

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;

use crate::id::JobId;
use crate::job::JobStatus;
use crate::store::{self, JobStore, StoreError};
use crate::transcript::TranscriptResult;
use crate::webhook::CallbackState;
use remote::Redis;

/// How long Redis keeps a result.
pub const SHARED_TTL: Duration = Duration::from_mins(5);

/// How long this process keeps a result where there is no Redis.
pub const LOCAL_TTL: Duration = Duration::from_secs(5);

/// What this process keeps at most, in bytes.
const LOCAL_BYTES: u64 = 32 * 1024 * 1024;

/// What changed about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One of its chunks was claimed, given back or settled.
    Chunk,
    /// It ended, was opened again or was erased.
    Job,
}

/// Where finished results are kept. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Cache(Kept);

#[derive(Clone, Debug)]
enum Kept {
    Here(moka::sync::Cache<JobId, Arc<TranscriptResult>>),
    InRedis(Redis),
}

impl Cache {
    /// In this process alone.
    pub fn local() -> Self {
        let weight = |_: &JobId, result: &Arc<TranscriptResult>| {
            let text = result.transcription.as_ref().map_or(0, String::len);
            u32::try_from(text + 1024 * result.chunks.len()).unwrap_or(u32::MAX)
        };
        let builder = moka::sync::Cache::builder();
        Self(Kept::Here(builder.max_capacity(LOCAL_BYTES).weigher(weight).time_to_live(LOCAL_TTL).build()))
    }

    /// In Redis, for all processes.
    pub fn shared(redis: Redis) -> Self {
        Self(Kept::InRedis(redis))
    }

    /// Redis, where results are kept there.
    pub fn redis(&self) -> Option<&Redis> {
        match &self.0 {
            Kept::Here(_) => None,
            Kept::InRedis(redis) => Some(redis),
        }
    }

    /// A job as a client sees it: from the cache, or else from `store`.
    ///
    /// A result that was read from the table is kept too. That cannot bring back an erased job: see
    /// [`Cache::erased`].
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

    /// The result, where it is kept. Never fails: what cannot be read is not there.
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

    /// Keeps the result of a job that completed and of which nobody is yet to be told; others may change.
    pub async fn put(&self, result: &Arc<TranscriptResult>) {
        let telling =
            result.callback.as_ref().is_some_and(|callback| callback.state == CallbackState::Pending);
        if result.job_status != JobStatus::Completed || telling {
            return;
        }
        match &self.0 {
            Kept::Here(results) => results.insert(result.job_id, Arc::clone(result)),
            Kept::InRedis(redis) => redis.put(result).await,
        }
    }

    /// Forgets an erased job. To be called once it is gone from the table.
    ///
    /// - In Redis a mark takes the result's place, which no result replaces: not that of a worker that was
    ///   slow to put it there, nor that of a reader who had read it from the table before. So it is
    ///   shown no more from here on. If Redis does not take the mark, this process tries again every
    ///   second; if it ends before that, Redis shows the job until [`SHARED_TTL`] is over.
    /// - Without Redis, other processes (and a reader of this one who had read it from the table before)
    ///   show it for [`LOCAL_TTL`] at most.
    pub async fn erased(&self, id: JobId) {
        match &self.0 {
            Kept::Here(results) => results.invalidate(&id),
            Kept::InRedis(redis) => redis.erased(id).await,
        }
    }

    /// Tells all processes that wait for the job that it has changed. May be lost: whoever waits looks for
    /// itself too, now and then.
    pub async fn publish(&self, id: JobId, change: Change) {
        if let Kept::InRedis(redis) = &self.0 {
            redis.publish(id, change).await;
        }
    }

    /// Whether Redis, if there is one, answers. For readiness.
    pub async fn ping(&self) -> Result<(), String> {
        match &self.0 {
            Kept::Here(_) => Ok(()),
            Kept::InRedis(redis) => redis.ping().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkRef;
    use crate::job::{ChunkError, ErrorCode, Metadata, NewJob, TranscribeOptions, Transcription, Verdict};
    use crate::store::memory::MemoryStore;
    use crate::{Attempt, Timestamp, lifecycle};

    async fn ended(store: &MemoryStore, verdict: Verdict) -> JobId {
        let (user, path) = ("ana".parse().expect("a user"), "a.wav".parse().expect("a path"));
        let now = Timestamp::from_unix(1);
        let job = NewJob::new(user, vec![path], TranscribeOptions::default(), Metadata::new(), now);
        let job = job.expect("one chunk");
        store.create(&job, now).await.expect("in memory");
        let chunk = ChunkRef { job: job.id, index: 0.try_into().expect("small") };
        let settled = lifecycle::settle(store, chunk, &Attempt::number(0), &verdict, now).await;
        settled.expect("in memory");
        job.id
    }

    #[tokio::test]
    async fn only_what_completed_is_kept() {
        let (store, cache) = (MemoryStore::new(), Cache::local());
        let words = Transcription::new("hello", None, vec![]).expect("small");
        let completed = ended(&store, Verdict::Completed(words)).await;
        let failed = ended(&store, Verdict::Failed(ChunkError::new(ErrorCode::AsrRejected, "no"))).await;
        for id in [completed, failed] {
            assert!(cache.read(&store, id).await.expect("in memory").is_some());
        }
        assert!(cache.get(completed).await.is_some());
        assert!(cache.get(failed).await.is_none(), "it may be given another try");
        store.expire(completed);
        assert!(cache.read(&store, completed).await.expect("in memory").is_some(), "not asked");
        cache.erased(completed).await;
        assert!(cache.read(&store, completed).await.expect("in memory").is_none());
    }
}
