//! The job store. Each method is one idempotent step. A condition that does not hold is an outcome, not an
//! error. [`crate::lifecycle`] combines the steps.

pub(crate) mod codes;
pub mod dynamo;
mod item;
pub mod memory;
mod results;

pub use results::{read, read_job, read_page};

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::attempt::{Attempt, Claimant};
use crate::domain::callback::Callback;
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, ChunkRef, JobId, UserId};
use crate::domain::idempotency::Idempotency;
use crate::domain::job::{Chunk, Job, JobHead, JobState, JobStatus, NewJob, Verdict};
use crate::domain::transcript::TranscriptResult;
use crate::domain::worker_state::WorkerState;

/// How long the sweeper leaves a new job alone. Longer than a chunk takes when all is well.
pub const FIRST_CHECK: Duration = Duration::from_secs(30);

/// Why a step failed, or may have failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The table did not answer, or throttled the request. The step may have taken effect.
    #[error("the table cannot be reached: {0}")]
    Unavailable(String),
    /// A stored item cannot be parsed, or the table rejected the request. Both are bugs in this service.
    #[error("unexpected data or answer from the table: {0}")]
    Corrupt(String),
}

/// The outcome of [`JobStore::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The job was created.
    New,
    /// Nothing was created: an earlier request with this idempotency key and the same content created this job.
    Replayed(JobId),
    /// Nothing was created: an earlier request with this idempotency key has other content.
    Mismatch,
}

/// The outcome of [`JobStore::claim`].
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// The caller holds the claim.
    Claimed(Attempt),
    /// Another message holds the claim, or held it and will be delivered again.
    Busy,
    /// The chunk is already settled.
    Settled,
    /// The chunk does not exist: the job was erased.
    Gone,
}

/// The outcome of [`JobStore::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// The verdict was stored.
    Settled,
    /// An earlier verdict is stored. It does not change.
    AlreadySettled,
    /// The chunk has a newer claim, so the failure of this attempt does not count.
    Superseded,
    /// The chunk does not exist: the job was erased.
    Gone,
}

/// The outcome of [`JobStore::remove_unsettled`].
#[derive(Clone, Debug, PartialEq)]
pub enum RemoveUnsettled {
    /// Other chunks are not settled yet.
    Remaining,
    /// All chunks are settled. The job can be finished.
    AllSettled(Box<JobHead>),
    /// The job has ended.
    Ended,
    /// The job does not exist.
    Gone,
}

impl RemoveUnsettled {
    /// The outcome for a job from whose set the chunks were removed.
    fn of(job: &Job) -> Self {
        match (job.head.state, job.unsettled.is_empty()) {
            (JobState::Ended { .. }, _) => Self::Ended,
            (JobState::Open, true) => Self::AllSettled(Box::new(job.head.clone())),
            (JobState::Open, false) => Self::Remaining,
        }
    }
}

/// The outcome of [`JobStore::finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// This call ended the job.
    Finished,
    /// The job had already ended, was reopened, or was erased.
    NotOpen,
}

/// The part of a job that its head does not contain.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// The result of a job that has ended.
    Ended(Box<TranscriptResult>),
    /// The current chunks of an open job, ordered by index.
    Chunks(Vec<Chunk>),
}

/// The query for one page of one user's jobs, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The user.
    pub user: UserId,
    /// Only jobs with this status.
    pub status: Option<JobStatus>,
    /// Only jobs submitted at or after this time.
    pub from: Option<Timestamp>,
    /// Only jobs submitted before this time.
    pub until: Option<Timestamp>,
    /// The maximum number of jobs: 1 to 100.
    pub limit: usize,
    /// The position of the last job of the previous page.
    pub after: Option<SearchPosition>,
    /// The current time. Jobs submitted in the minute before it are read from the table, not from the index.
    pub now: Timestamp,
}

impl Search {
    /// The first page of all jobs of a user.
    pub fn all(user: UserId, limit: usize, now: Timestamp) -> Self {
        Self { user, status: None, from: None, until: None, limit, after: None, now }
    }

    /// Whether a job belongs to this page or a later one.
    pub fn wants(&self, head: &JobHead) -> bool {
        let position = SearchPosition::of(head);
        head.user == self.user
            && self.status.is_none_or(|status| head.status() == status)
            && self.from.is_none_or(|from| head.submitted >= from)
            && self.until.is_none_or(|until| head.submitted < until)
            && self.after.is_none_or(|after| position < after)
    }
}

/// The maximum size of one page of a listing, in bytes. A page always contains at least one job.
pub const MAX_PAGE_BYTES: usize = 2_000_000;

/// A job's position in a listing: newest first, ties by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SearchPosition {
    /// When the job was submitted.
    pub submitted: Timestamp,
    /// The job's id.
    pub job: JobId,
}

impl SearchPosition {
    /// The position of a job.
    pub fn of(head: &JobHead) -> Self {
        Self { submitted: head.submitted, job: head.id }
    }
}

/// The outcome of [`JobStore::search`].
#[derive(Clone, Debug, PartialEq)]
pub struct SearchPage {
    /// The jobs, newest first.
    pub jobs: Vec<JobHead>,
    /// The cursor of the next page; `None` on the last page.
    pub next: Option<SearchPosition>,
}

impl SearchPage {
    /// Builds a page from as many of `jobs` (newest first) as fit. `read_to` is set when jobs older than that
    /// position were not read: they belong to a later page.
    fn cut(mut jobs: Vec<JobHead>, limit: usize, read_to: Option<SearchPosition>) -> Self {
        jobs.retain(|head| read_to.is_none_or(|read_to| SearchPosition::of(head) >= read_to));
        let mut bytes = 0;
        let fit = jobs.iter().take(limit).take_while(|head| {
            let first = bytes == 0;
            bytes += head.weight();
            first || bytes <= MAX_PAGE_BYTES
        });
        let fit = fit.count();
        let more = fit < jobs.len();
        jobs.truncate(fit);
        let next = if more { jobs.last().map(SearchPosition::of) } else { read_to };
        Self { jobs, next }
    }
}

/// A job that is due for a check by the sweeper.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct DueJob {
    #[serde(rename = "jobId")]
    pub job: JobId,
    /// When the check was due. [`JobStore::postpone`] uses it to detect another sweeper's update.
    #[serde(rename = "nextCheckTime")]
    pub next_check: Timestamp,
}

/// The store. A job whose time to live has expired is hidden from [`JobStore::claim`] and from all reads except
/// [`JobStore::due`], although the table may keep the item for days.
#[async_trait]
pub trait JobStore: Send + Sync + Debug {
    /// Creates the job, its chunks and the record of its idempotency key in one transaction. A repetition changes
    /// nothing. The sweeper's first check is due at `next_check`.
    async fn create(&self, job: &NewJob, next_check: Timestamp) -> Result<Created, StoreError>;

    /// Looks up an earlier request of the same user with the same idempotency key, and returns what
    /// [`JobStore::create`] would return for it. `None` if there was no such request.
    async fn earlier(
        &self,
        user: &UserId,
        asked: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<Created>, StoreError>;

    /// Claims a chunk that is not settled.
    ///
    /// A claim for another message blocks this one, unless it is older than `claim_timeout`: no attempt takes that
    /// long, so that message is lost. A redelivery of the same message and a later copy of it
    /// ([`Claimant::follows`]) can claim the chunk again: the worker with the earlier claim has lost the message or
    /// released it. For a pending chunk that was claimed before, the same rules apply among messages of one origin,
    /// and a message of another origin can claim it.
    async fn claim(
        &self,
        chunk: ChunkRef,
        by: Claimant<'_>,
        now: Timestamp,
        claim_timeout: Duration,
    ) -> Result<Claim, StoreError>;

    /// Releases a claim. The attempt counts only if [`Attempt::counts`]. Does nothing and returns `false` if the
    /// chunk has a newer claim, or is settled or gone.
    async fn release(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError>;

    /// Whether `attempt` is the newest claim and was neither released nor settled.
    async fn is_claimed_by(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError>;

    /// Stores the history of an attempt that is still running. Does nothing if the chunk has a newer claim or is
    /// settled.
    async fn note(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<(), StoreError>;

    /// Settles a chunk that is not settled. A failure counts only while `attempt` is the newest claim (number 0 if
    /// the chunk was never claimed). A transcription counts from any attempt. After it the chunk never changes.
    async fn settle(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Settle, StoreError>;

    /// Removes settled chunks, at least one, from the job's set of unsettled chunks.
    async fn remove_unsettled(
        &self,
        job: JobId,
        settled: &[ChunkIndex],
    ) -> Result<RemoveUnsettled, StoreError>;

    /// Ends an open job and stores its result in one transaction. Does not end a job that was reopened after `head`
    /// was read, because the result is outdated. A job with a callback stays on the sweeper's list, due
    /// [`FIRST_CHECK`] after its end.
    async fn finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError>;

    /// Reopens a failed job and its `failed` chunks, and deletes its result, in one transaction. The retention
    /// period starts again. `false` if the job has changed since `head` was read.
    async fn reopen(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        now: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Stores the state of the webhook delivery after one more attempt. The sweeper's next check of the job becomes
    /// the callback's next check; without one, the job leaves the sweeper's list. `false` if the job did not end at
    /// `ended`, or another attempt was stored first.
    async fn note_callback(
        &self,
        id: JobId,
        ended: Timestamp,
        callback: &Callback,
    ) -> Result<bool, StoreError>;

    /// Reads a job, strongly consistent.
    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// Reads all chunks of a job, ordered by index, strongly consistent. Empty if the job does not exist.
    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError>;

    /// Reads each job's result or, if the job is open, its chunks without segments. `None` for a job that is gone or
    /// no longer matches its head.
    async fn details(&self, jobs: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError>;

    /// Reads a page of a listing, of at most [`MAX_PAGE_BYTES`]. Eventually consistent, except that the first page
    /// shows the current state of the jobs submitted in the last minute.
    async fn search(&self, search: &Search) -> Result<SearchPage, StoreError>;

    /// Lists at most `limit` jobs that are open or have a webhook to deliver, and whose next check is due at `now`.
    /// The earliest due comes first. Eventually consistent.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueJob>, StoreError>;

    /// Postpones a job's next check. `check_from` stores since when a check is due that has not completed. `false` if
    /// the job needs no more checks, or another sweeper postponed it first.
    async fn postpone(
        &self,
        due: &DueJob,
        next_check: Timestamp,
        check_from: Option<Timestamp>,
    ) -> Result<bool, StoreError>;

    /// Erases a job and everything that belongs to it, including its idempotency key. `false` if the job does not
    /// exist. Later claims and settlements of its chunks return `Gone`.
    async fn erase(&self, id: JobId) -> Result<bool, StoreError>;

    /// Replaces a worker's report.
    async fn report(&self, _: &WorkerState) -> Result<(), StoreError> {
        Ok(())
    }

    /// The reports of the workers that still report, by name.
    async fn reports(&self, _now: Timestamp) -> Result<Vec<WorkerState>, StoreError> {
        Ok(Vec::new())
    }

    /// Checks that the table can be read, for readiness.
    async fn ping(&self) -> Result<(), StoreError>;
}
