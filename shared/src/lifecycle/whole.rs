//! The end of a job whose chunks were all completed by one worker.

use super::Lifecycle;
use crate::domain::attempt::Attempt;
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId};
use crate::domain::job::{Chunk, ChunkStatus, JobHead, Verdict};
use crate::store::StoreError;

/// A job and all its chunks, to end the job without the removal. They may have been read at different times, before the
/// last chunk was settled: a completed chunk never changes, and a job that was retried since does not end.
#[derive(Clone, Debug)]
pub struct Whole {
    pub head: JobHead,
    pub chunks: Vec<Chunk>,
}

impl Whole {
    /// Adds the verdict that was stored for the last chunk.
    #[must_use]
    pub fn with(mut self, index: ChunkIndex, attempt: &Attempt, verdict: Verdict, at: Timestamp) -> Self {
        if let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.index == index) {
            chunk.settle(attempt, verdict, at);
        }
        self
    }
}

impl Lifecycle {
    /// Reads a job and its chunks. `None` if that fails: then the removal is needed.
    pub async fn read_whole(&self, job: JobId) -> Option<Whole> {
        let (job, chunks) = tokio::try_join!(self.store.job(job), self.store.chunks(job)).ok()?;
        Some(Whole { head: job?.head, chunks })
    }

    /// Like [`Lifecycle::conclude`], without the removal if all chunks are completed and the job was not retried since.
    pub async fn conclude_whole(
        &self,
        whole: &Whole,
        settled: &[ChunkIndex],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let Whole { head, chunks } = whole;
        let completed = chunks.iter().all(|chunk| chunk.status() == ChunkStatus::Completed);
        let ended = completed && self.finish(head, chunks, now).await?;
        Ok(ended || self.conclude(head.id, settled, now).await?)
    }
}
