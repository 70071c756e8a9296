//! The in-memory store, for tests only. It passes the same contract suite as the real store. Each step yields first, so
//! a test that polls tasks in a chosen order determines how their steps interleave.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::task::yield_now;

use super::{
    Claim, Created, Detail, DueJob, FIRST_CHECK, Finish, JobStore, RemoveUnsettled, Search, SearchPage,
    SearchPosition, Settle, StoreError,
};
use crate::domain::attempt::{Attempt, AttemptRecord, Claimant, Holder};
use crate::domain::callback::{Callback, CallbackState};
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, ChunkRef, JobId, UserId};
use crate::domain::idempotency::{Idempotency, KEPT};
use crate::domain::job::{Chunk, ChunkState, Job, JobHead, JobState, JobStatus, NewJob, Verdict};
use crate::domain::transcript::TranscriptResult;
use crate::domain::worker_state::WorkerState;

#[derive(Debug, Default)]
pub struct MemoryStore {
    jobs: Mutex<Jobs>,
    reads: AtomicUsize,
    reports: Mutex<BTreeMap<String, WorkerState>>,
    /// `None`: unlimited.
    retention: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Entry {
    job: Job,
    next_check: Timestamp,
    chunks: Vec<Chunk>,
    transcript: Option<TranscriptResult>,
    idempotency: Option<Idempotency>,
    expires: Option<Timestamp>,
    /// The message that each chunk was last claimed for.
    holders: BTreeMap<ChunkIndex, Holder>,
}

impl Entry {
    /// The answer to another request with the same idempotency key.
    fn answer_again(&self, asked: &Idempotency) -> Created {
        if self.idempotency.as_ref() == Some(asked) {
            Created::Replayed(self.job.head.id)
        } else {
            Created::Mismatch
        }
    }

    fn is_live(&self) -> bool {
        self.expires.is_none_or(|expires| expires.unix() >= Timestamp::now().unix())
    }

    /// Whether the sweeper checks the job.
    fn is_listed(&self) -> bool {
        self.job.head.state == JobState::Open || self.job.head.ended_with(CallbackState::Pending).is_some()
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that keeps a job for this long after it was submitted or retried.
    pub fn with_retention(retention: Duration) -> Self {
        Self { retention: Some(retention), ..Self::default() }
    }

    /// How often jobs and details were read. Each read is a call of the real table.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Removes a job, as its expiry would.
    pub fn expire(&self, id: JobId) {
        self.jobs.lock().remove(&id);
    }

    async fn step(&self) -> MutexGuard<'_, Jobs> {
        yield_now().await;
        self.jobs.lock()
    }
}

/// The user's earlier job with this idempotency key.
fn earlier<'a>(jobs: &'a Jobs, user: &UserId, asked: &Idempotency, now: Timestamp) -> Option<&'a Entry> {
    jobs.values().find(|entry| {
        let (head, theirs) = (&entry.job.head, entry.idempotency.as_ref());
        let kept = head.submitted.plus(KEPT) > now;
        kept && head.user == *user && theirs.is_some_and(|theirs| theirs.key == asked.key)
    })
}

type Jobs = BTreeMap<JobId, Entry>;

fn chunk(jobs: &mut Jobs, at: ChunkRef) -> Option<&mut Chunk> {
    jobs.get_mut(&at.job)?.chunks.get_mut(usize::from(at.index.get()))
}

/// The chunk if `attempt` is its newest claim, and was neither released nor settled.
fn claimed<'a>(jobs: &'a mut Jobs, at: ChunkRef, attempt: &Attempt) -> Option<&'a mut Chunk> {
    let chunk = chunk(jobs, at).filter(|chunk| chunk.attempt == attempt.number);
    chunk.filter(|chunk| matches!(chunk.state, ChunkState::InProgress { .. }))
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn create(&self, job: &NewJob, next_check: Timestamp) -> Result<Created, StoreError> {
        let mut jobs = self.step().await;
        if let Some(asked) = &job.idempotency {
            match earlier(&jobs, &job.user, asked, job.submitted) {
                Some(entry) if entry.job.head.id == job.id => return Ok(Created::New),
                Some(entry) => return Ok(entry.answer_again(asked)),
                None => {}
            }
        }
        jobs.entry(job.id).or_insert_with(|| Entry {
            job: job.job(),
            next_check,
            chunks: job.chunks(),
            transcript: None,
            idempotency: job.idempotency.clone(),
            expires: self.retention.map(|retention| job.submitted.plus(retention)),
            holders: BTreeMap::new(),
        });
        Ok(Created::New)
    }

    async fn earlier(
        &self,
        user: &UserId,
        asked: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<Created>, StoreError> {
        Ok(earlier(&*self.step().await, user, asked, now).map(|entry| entry.answer_again(asked)))
    }

    async fn claim(
        &self,
        at: ChunkRef,
        by: Claimant<'_>,
        now: Timestamp,
        claim_timeout: Duration,
    ) -> Result<Claim, StoreError> {
        let mut jobs = self.step().await;
        let Some(entry) = jobs.get_mut(&at.job).filter(|entry| entry.is_live()) else {
            return Ok(Claim::Gone);
        };
        let last = entry.holders.get(&at.index).cloned();
        let same_origin = last.as_ref().is_some_and(|last| last.origin == by.origin);
        let follows = last.is_some_and(|last| by.follows(&last));
        let Some(chunk) = entry.chunks.get_mut(usize::from(at.index.get())) else {
            return Ok(Claim::Gone);
        };
        let may = match &chunk.state {
            ChunkState::Settled { .. } => return Ok(Claim::Settled),
            ChunkState::InProgress { claimed, .. } => {
                *claimed <= now.minus(claim_timeout) || (same_origin && follows)
            }
            ChunkState::Pending => !same_origin || follows,
        };
        if !may {
            return Ok(Claim::Busy);
        }
        chunk.attempt += 1;
        chunk.last_claim = Some(now);
        chunk.state = ChunkState::InProgress { claimed: now, by: by.into() };
        chunk.history.push(AttemptRecord::begun(by, now));
        let claimed = Attempt { number: chunk.attempt, history: chunk.history.clone() };
        entry.holders.insert(at.index, by.into());
        Ok(Claim::Claimed(claimed))
    }

    async fn release(&self, at: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        let mut jobs = self.step().await;
        if let Some(chunk) = claimed(&mut jobs, at, attempt) {
            chunk.released += u32::from(!attempt.counts());
            chunk.state = ChunkState::Pending;
            chunk.note(attempt);
        }
        let chunk = chunk(&mut jobs, at).filter(|chunk| chunk.attempt == attempt.number);
        Ok(chunk.is_some_and(|chunk| !chunk.is_settled()))
    }

    async fn is_claimed_by(&self, at: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        Ok(claimed(&mut *self.step().await, at, attempt).is_some())
    }

    async fn note(&self, at: ChunkRef, attempt: &Attempt) -> Result<(), StoreError> {
        if let Some(chunk) = claimed(&mut *self.step().await, at, attempt) {
            chunk.note(attempt);
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
        let Some(chunk) = chunk(&mut jobs, at) else {
            return Ok(Settle::Gone);
        };
        if chunk.is_settled() {
            return Ok(Settle::AlreadySettled);
        }
        let failure = matches!(verdict, Verdict::Failed(_));
        if failure && attempt.number != chunk.attempt {
            return Ok(Settle::Superseded);
        }
        chunk.settle(attempt, verdict.clone(), now);
        Ok(Settle::Settled)
    }

    async fn remove_unsettled(
        &self,
        job: JobId,
        settled: &[ChunkIndex],
    ) -> Result<RemoveUnsettled, StoreError> {
        let mut jobs = self.step().await;
        let Some(entry) = jobs.get_mut(&job) else {
            return Ok(RemoveUnsettled::Gone);
        };
        entry.job.unsettled.retain(|index| !settled.contains(index));
        Ok(RemoveUnsettled::of(&entry.job))
    }

    async fn finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        let mut jobs = self.step().await;
        let entry = jobs.get_mut(&result.job_id).filter(|entry| entry.job.head.retried == head.retried);
        let (Some(entry), Some(at)) = (entry, result.completed_time) else {
            return Ok(Finish::NotOpen);
        };
        if entry.job.head.state != JobState::Open {
            return Ok(Finish::NotOpen);
        }
        let completely = result.job_status == JobStatus::Completed;
        entry.job.head.state = JobState::Ended { completely, at };
        entry.job.unsettled.clear();
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
        let entry = jobs.get_mut(&head.id).filter(|entry| entry.job.head.state == head.state);
        let Some(entry) = entry.filter(|entry| entry.job.head.status() == JobStatus::Failed) else {
            return Ok(false);
        };
        for index in failed {
            let chunk = &mut entry.chunks[usize::from(index.get())];
            chunk.attempt += 1;
            chunk.released = chunk.attempt;
            chunk.last_claim = None;
            chunk.state = ChunkState::Pending;
        }
        let since = entry.job.head.since();
        entry.expires = entry.expires.map(|expires| now.plus(expires.since(since)));
        entry.job.head.state = JobState::Open;
        entry.job.head.retried = Some(now);
        entry.job.head.callback = head.callback.as_ref().map(Callback::reset);
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
        Ok(self.step().await.get(&id).filter(|entry| entry.is_live()).map(|entry| entry.job.clone()))
    }

    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        let jobs = self.step().await;
        let live = jobs.get(&id).filter(|entry| entry.is_live());
        Ok(live.map(|entry| entry.chunks.clone()).unwrap_or_default())
    }

    async fn details(&self, heads: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let jobs = self.step().await;
        let detail = |head: &JobHead| {
            let entry = jobs.get(&head.id).filter(|entry| entry.is_live())?;
            let chunks = || entry.chunks.iter().cloned().map(Chunk::without_segments).collect();
            match head.state {
                JobState::Open => Some(Detail::Chunks(chunks())),
                JobState::Ended { .. } => {
                    entry.transcript.as_ref().map(|result| Detail::Ended(Box::new(result.clone())))
                }
            }
        };
        Ok(heads.iter().map(detail).collect())
    }

    async fn search(&self, search: &Search) -> Result<SearchPage, StoreError> {
        let jobs = self.step().await;
        let live = jobs.values().filter(|entry| entry.is_live()).map(|entry| &entry.job.head);
        let mut found: Vec<JobHead> = live.filter(|head| search.wants(head)).cloned().collect();
        found.sort_by_key(|head| std::cmp::Reverse(SearchPosition::of(head)));
        Ok(SearchPage::cut(found, search.limit, None))
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

    async fn postpone(
        &self,
        due: &DueJob,
        next_check: Timestamp,
        check_from: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let mut jobs = self.step().await;
        let Some(entry) = jobs.get_mut(&due.job) else {
            return Ok(false);
        };
        let mine = entry.is_listed() && entry.next_check == due.next_check;
        if mine {
            entry.next_check = next_check;
            entry.job.check_from = check_from;
        }
        Ok(mine)
    }

    async fn erase(&self, id: JobId) -> Result<bool, StoreError> {
        Ok(self.step().await.remove(&id).is_some())
    }

    async fn report(&self, state: &WorkerState) -> Result<(), StoreError> {
        let mut reports = self.reports.lock();
        reports.insert(state.name.clone(), state.clone());
        Ok(())
    }

    async fn reports(&self, now: Timestamp) -> Result<Vec<WorkerState>, StoreError> {
        let reports = self.reports.lock();
        Ok(reports.values().filter(|report| report.is_current(now)).cloned().collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
