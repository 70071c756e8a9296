//! A store that puts what it ends into the cache, and tells others of what it changes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Cache, Change};
use crate::attempt::{Attempt, Claimant};
use crate::clock::Timestamp;
use crate::id::{ChunkIndex, ChunkRef, JobId};
use crate::job::{Chunk, Job, JobHead, NewJob, Verdict};
use crate::store::{
    Claim, Created, Detail, DueJob, Finish, JobStore, Search, SearchPage, Settle, StoreError, Strike,
};
use crate::transcript::TranscriptResult;
use crate::webhook::Callback;

/// Another store, observed. What is done with the cache comes after the step itself, and never fails it.
#[derive(Debug)]
pub struct ObservedStore {
    inner: Arc<dyn JobStore>,
    cache: Cache,
}

impl ObservedStore {
    /// `inner`, observed.
    pub fn new(inner: Arc<dyn JobStore>, cache: Cache) -> Self {
        Self { inner, cache }
    }
}

#[async_trait]
impl JobStore for ObservedStore {
    async fn create(&self, job: &NewJob, next_check: Timestamp) -> Result<Created, StoreError> {
        self.inner.create(job, next_check).await
    }

    async fn claim(
        &self,
        chunk: ChunkRef,
        by: Claimant<'_>,
        now: Timestamp,
        silence: Duration,
    ) -> Result<Claim, StoreError> {
        let claim = self.inner.claim(chunk, by, now, silence).await?;
        if matches!(claim, Claim::Claimed(_)) {
            self.cache.publish(chunk.job, Change::Chunk).await;
        }
        Ok(claim)
    }

    async fn release(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<(), StoreError> {
        self.inner.release(chunk, attempt).await?;
        self.cache.publish(chunk.job, Change::Chunk).await;
        Ok(())
    }

    async fn settle(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Settle, StoreError> {
        let settle = self.inner.settle(chunk, attempt, verdict, now).await?;
        if settle == Settle::Settled {
            self.cache.publish(chunk.job, Change::Chunk).await;
        }
        Ok(settle)
    }

    async fn strike(&self, chunk: ChunkRef) -> Result<Strike, StoreError> {
        self.inner.strike(chunk).await
    }

    async fn finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        let finish = self.inner.finish(head, result).await?;
        if finish == Finish::Finished {
            // First the result, then the word: who hears it looks there. How far the telling of the end has
            // come is not in it, and changes yet.
            if head.callback.is_none() {
                self.cache.put(&Arc::new(result.clone())).await;
            }
            self.cache.publish(head.id, Change::Job).await;
        }
        Ok(finish)
    }

    async fn reopen(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        now: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError> {
        let reopened = self.inner.reopen(head, failed, now, next_check).await?;
        if reopened {
            // Nothing has to be forgotten: a failed job is not kept.
            self.cache.publish(head.id, Change::Job).await;
        }
        Ok(reopened)
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.inner.job(id).await
    }

    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        self.inner.chunks(id).await
    }

    async fn details(&self, jobs: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
        self.inner.details(jobs).await
    }

    async fn search(&self, search: &Search) -> Result<SearchPage, StoreError> {
        self.inner.search(search).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueJob>, StoreError> {
        self.inner.due(now, limit).await
    }

    async fn postpone(&self, due: &DueJob, next_check: Timestamp) -> Result<bool, StoreError> {
        self.inner.postpone(due, next_check).await
    }

    async fn erase(&self, id: JobId) -> Result<bool, StoreError> {
        let erased = self.inner.erase(id).await?;
        if erased {
            self.cache.erased(id).await;
            self.cache.publish(id, Change::Job).await;
        }
        Ok(erased)
    }

    async fn note_callback(
        &self,
        id: JobId,
        ended: Timestamp,
        callback: &Callback,
    ) -> Result<bool, StoreError> {
        self.inner.note_callback(id, ended, callback).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }
}
