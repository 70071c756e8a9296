//! The store in memory: for tests of logic. No setting chooses it. It is held to the same contract
//! suite as the real one, and gives way to other tasks before every step, so that a test that polls
//! tasks in a chosen order decides how their steps interleave.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::yield_now;

use super::{
    Claim, Created, Detail, DueJob, Finish, JobStore, Search, SearchPage, SearchPosition, Settle, StoreError,
    Strike,
};
use crate::attempt::{Attempt, AttemptRecord, Claimant};
use crate::clock::Timestamp;
use crate::id::{ChunkIndex, ChunkRef, JobId};
use crate::idempotency::{Idempotency, KEPT};
use crate::job::{Chunk, ChunkState, Job, JobHead, JobState, JobStatus, NewJob, Verdict};
use crate::lifecycle::FIRST_CHECK;
use crate::transcript::TranscriptResult;
use crate::webhook::{self, Callback};

/// The store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    jobs: Mutex<BTreeMap<JobId, Entry>>,
    reads: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Entry {
    job: Job,
    next_check: Timestamp,
    chunks: Vec<Chunk>,
    transcript: Option<TranscriptResult>,
    idempotency: Option<Idempotency>,
}

impl Entry {
    fn chunk(&mut self, chunk: ChunkRef) -> Option<&mut Chunk> {
        self.chunks.get_mut(usize::from(chunk.index.get()))
    }

    /// Whether it is on the sweeper's list.
    fn is_listed(&self) -> bool {
        self.job.head.state == JobState::Open || webhook::untold(&self.job.head).is_some()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often jobs and details were read: each is a call of the real table.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Removes a job at once, as its time to live would.
    pub fn expire(&self, id: JobId) {
        self.lock().remove(&id);
    }

    async fn step(&self) -> MutexGuard<'_, BTreeMap<JobId, Entry>> {
        yield_now().await;
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Entry>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps what an attempt has to tell.
fn tell(chunk: &mut Chunk, attempt: &Attempt) {
    if !attempt.history.is_empty() {
        chunk.history.clone_from(&attempt.history);
    }
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn create(&self, job: &NewJob, next_check: Timestamp) -> Result<Created, StoreError> {
        let mut jobs = self.step().await;
        if let Some(asked) = &job.idempotency {
            let earlier = jobs.values().find(|entry| {
                let (head, theirs) = (&entry.job.head, entry.idempotency.as_ref());
                let kept = head.submitted.plus(KEPT) > job.submitted;
                kept && head.user == job.user && theirs.is_some_and(|theirs| theirs.key == asked.key)
            });
            match earlier {
                Some(entry) if entry.job.head.id == job.id => return Ok(Created::New),
                Some(entry) if entry.idempotency.as_ref() == Some(asked) => {
                    return Ok(Created::Replayed(entry.job.head.id));
                }
                Some(_) => return Ok(Created::Mismatch),
                None => {}
            }
        }
        jobs.entry(job.id).or_insert_with(|| Entry {
            job: job.job(),
            next_check,
            chunks: job.chunks(),
            transcript: None,
            idempotency: job.idempotency.clone(),
        });
        Ok(Created::New)
    }

    async fn claim(
        &self,
        at: ChunkRef,
        by: Claimant<'_>,
        now: Timestamp,
        silence: Duration,
    ) -> Result<Claim, StoreError> {
        let mut jobs = self.step().await;
        let Some(chunk) = jobs.get_mut(&at.job).and_then(|entry| entry.chunk(at)) else {
            return Ok(Claim::Gone);
        };
        match &chunk.state {
            ChunkState::Settled { .. } => return Ok(Claim::Settled),
            ChunkState::InProgress { claimed, by: other, .. }
                if other != by.origin && *claimed > now.minus(silence) =>
            {
                return Ok(Claim::Busy);
            }
            ChunkState::InProgress { .. } | ChunkState::Pending => {}
        }
        chunk.attempt += 1;
        chunk.last_claim = Some(now);
        let (origin, message) = (by.origin.to_owned(), by.message.to_owned());
        chunk.state = ChunkState::InProgress { claimed: now, by: origin, message };
        chunk.history.push(AttemptRecord::begun(by, now));
        Ok(Claim::Claimed(Attempt { number: chunk.attempt, history: chunk.history.clone() }))
    }

    async fn release(&self, at: ChunkRef, attempt: &Attempt) -> Result<(), StoreError> {
        let mut jobs = self.step().await;
        if let Some(chunk) = jobs.get_mut(&at.job).and_then(|entry| entry.chunk(at))
            && chunk.attempt == attempt.number
            && matches!(chunk.state, ChunkState::InProgress { .. })
        {
            chunk.released += u32::from(!attempt.counts());
            chunk.state = ChunkState::Pending;
            tell(chunk, attempt);
        }
        Ok(())
    }

    async fn settle(
        &self,
        at: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Settle, StoreError> {
        let mut jobs = self.step().await;
        let Some(chunk) = jobs.get_mut(&at.job).and_then(|entry| entry.chunk(at)) else {
            return Ok(Settle::Gone);
        };
        if chunk.is_settled() {
            return Ok(Settle::AlreadySettled);
        }
        let failure = matches!(verdict, Verdict::Failed(_));
        if failure && attempt.number != chunk.attempt {
            return Ok(Settle::Superseded);
        }
        chunk.state = ChunkState::Settled { at: now, verdict: verdict.clone() };
        tell(chunk, attempt);
        Ok(Settle::Settled)
    }

    async fn strike(&self, at: ChunkRef) -> Result<Strike, StoreError> {
        let mut jobs = self.step().await;
        let Some(entry) = jobs.get_mut(&at.job) else {
            return Ok(Strike::Gone);
        };
        entry.job.unsettled.remove(&at.index);
        Ok(match (entry.job.head.state, entry.job.unsettled.is_empty()) {
            (JobState::Ended { .. }, _) => Strike::Ended,
            (JobState::Open, true) => Strike::AllSettled(Box::new(entry.job.head.clone())),
            (JobState::Open, false) => Strike::Remaining,
        })
    }

    async fn finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        let mut jobs = self.step().await;
        let Some(entry) = jobs.get_mut(&result.job_id) else {
            return Ok(Finish::NotOpen);
        };
        let (JobState::Open, Some(at)) = (entry.job.head.state, result.completed_time) else {
            return Ok(Finish::NotOpen);
        };
        if entry.job.head.retried != head.retried {
            return Ok(Finish::NotOpen);
        }
        let completely = result.job_status == JobStatus::Completed;
        entry.job.head.state = JobState::Ended { completely, at };
        entry.transcript = Some(result.clone());
        if entry.job.head.callback.is_some() {
            entry.next_check = at.plus(FIRST_CHECK);
        }
        Ok(Finish::Finished)
    }

    async fn reopen(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        now: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut jobs = self.step().await;
        let Some(entry) = jobs.get_mut(&head.id) else {
            return Ok(false);
        };
        if entry.job.head.state != head.state || entry.job.head.status() != JobStatus::Failed {
            return Ok(false);
        }
        for index in failed {
            let chunk = &mut entry.chunks[usize::from(index.get())];
            chunk.attempt += 1;
            chunk.released = chunk.attempt;
            chunk.last_claim = None;
            chunk.state = ChunkState::Pending;
        }
        entry.job.head.state = JobState::Open;
        entry.job.head.retried = Some(now);
        entry.job.head.callback = head.callback.as_ref().map(Callback::anew);
        entry.job.unsettled = failed.iter().copied().collect();
        entry.next_check = next_check;
        entry.transcript = None;
        Ok(true)
    }

    async fn note_callback(
        &self,
        id: JobId,
        ended: Timestamp,
        callback: &Callback,
    ) -> Result<bool, StoreError> {
        let mut jobs = self.step().await;
        let Some(entry) = jobs.get_mut(&id) else {
            return Ok(false);
        };
        let head = &mut entry.job.head;
        let standing = head.callback.as_ref().map(|callback| callback.tries + 1);
        let same_end = matches!(head.state, JobState::Ended { at, .. } if at == ended);
        if !same_end || standing != Some(callback.tries) {
            return Ok(false);
        }
        head.callback = Some(callback.clone());
        if let Some(next_check) = callback.next_check() {
            entry.next_check = next_check;
        }
        Ok(true)
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Ok(self.step().await.get(&id).map(|entry| entry.job.clone()))
    }

    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        Ok(self.step().await.get(&id).map(|entry| entry.chunks.clone()).unwrap_or_default())
    }

    async fn details(&self, heads: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let jobs = self.step().await;
        let detail = |head: &JobHead| {
            let entry = jobs.get(&head.id)?;
            Some(match (&entry.transcript, head.state) {
                (Some(result), JobState::Ended { .. }) => Detail::Ended(Box::new(result.clone())),
                _ => Detail::Chunks(entry.chunks.clone()),
            })
        };
        Ok(heads.iter().map(detail).collect())
    }

    async fn search(&self, search: &Search) -> Result<SearchPage, StoreError> {
        let position = |head: &JobHead| SearchPosition { submitted: head.submitted, job: head.id };
        let jobs = self.step().await;
        let mut found: Vec<JobHead> =
            jobs.values().map(|entry| &entry.job.head).filter(|head| search.wants(head)).cloned().collect();
        found.sort_by_key(|head| std::cmp::Reverse(position(head)));
        let more = found.len() > search.limit;
        found.truncate(search.limit);
        let next = found.last().filter(|_| more).map(position);
        Ok(SearchPage { jobs: found, next })
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueJob>, StoreError> {
        let jobs = self.step().await;
        let mut due: Vec<DueJob> = jobs
            .iter()
            .filter(|(_, entry)| entry.is_listed() && entry.next_check <= now)
            .map(|(id, entry)| DueJob { job: *id, next_check: entry.next_check })
            .collect();
        due.sort_by_key(|due| due.next_check);
        due.truncate(limit);
        Ok(due)
    }

    async fn postpone(&self, due: &DueJob, next_check: Timestamp) -> Result<bool, StoreError> {
        let mut jobs = self.step().await;
        let Some(entry) = jobs.get_mut(&due.job) else {
            return Ok(false);
        };
        let mine = entry.is_listed() && entry.next_check == due.next_check;
        if mine {
            entry.next_check = next_check;
        }
        Ok(mine)
    }

    async fn erase(&self, id: JobId) -> Result<bool, StoreError> {
        Ok(self.step().await.remove(&id).is_some())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
