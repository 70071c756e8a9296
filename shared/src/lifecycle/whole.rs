//! The end of a job whose chunks were all completed by one worker.

use super::Lifecycle;
use crate::domain::attempt::Attempt;
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId};
use crate::domain::job::{Chunk, ChunkStatus, JobHead, Verdict};
use crate::store::StoreError;

/// A job with all its chunks, which are completed. So they never change, and it does not matter when each was read. They
/// have no segments.
#[derive(Clone, Debug)]
pub struct Whole {
    head: JobHead,
    chunks: Vec<Chunk>,
}

impl Whole {
    /// A job whose chunks were read while the last of them was settled by this attempt. `None` if a chunk is not
    /// completed, since a retry may reopen a failed one, or if another attempt had claimed the last one.
    pub fn new(
        head: JobHead,
        mut chunks: Vec<Chunk>,
        last: ChunkIndex,
        attempt: &Attempt,
        verdict: Verdict,
        at: Timestamp,
    ) -> Option<Self> {
        let chunk = chunks.iter_mut().find(|chunk| chunk.index == last)?;
        if chunk.attempt != attempt.number {
            return None;
        }
        chunk.settle(attempt, verdict, at);
        let chunks: Vec<_> = chunks.into_iter().map(Chunk::without_segments).collect();
        let completed = chunks.iter().all(|chunk| chunk.status() == ChunkStatus::Completed);
        completed.then_some(Self { head, chunks })
    }
}

impl Lifecycle {
    /// Reads a job and its chunks. `None` if that fails.
    pub async fn read_whole(&self, job: JobId) -> Option<(JobHead, Vec<Chunk>)> {
        let (job, chunks) = tokio::try_join!(self.store.job(job), self.store.chunks(job)).ok()?;
        Some((job?.head, chunks))
    }

    /// Like [`Lifecycle::conclude`], but without the removal, unless the job was retried since it was read.
    pub async fn conclude_whole(
        &self,
        Whole { head, chunks }: &Whole,
        settled: &[ChunkIndex],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        Ok(self.finish(head, chunks, now).await? || self.conclude(head.id, settled, now).await?)
    }
}
