//! Where jobs are kept. Each method is one step that is safe to repeat; a condition that does not
//! hold is an outcome, not an error. How the steps make a whole is in [`crate::lifecycle`].

pub mod dynamo;
mod item;
pub mod memory;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::attempt::{Attempt, Claimant};
use crate::clock::Timestamp;
use crate::id::{ChunkIndex, ChunkRef, JobId, UserId};
use crate::job::{Chunk, Job, JobHead, JobStatus, NewJob, Verdict};
use crate::transcript::TranscriptResult;
use crate::webhook::Callback;

/// Why a step did not happen, or may not have.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The table did not answer, or asked for patience. The step may have happened all the same.
    #[error("the table cannot be reached: {0}")]
    Unavailable(String),
    /// What the table holds cannot be read, or it refused what was sent: a fault of our own.
    #[error("the table does not hold what was expected: {0}")]
    Corrupt(String),
}

/// The outcome of [`JobStore::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The job is there.
    New,
    /// It is not: the same was asked for before under the same idempotency key, and this job made.
    Replayed(JobId),
    /// It is not: something else was asked for before under the same idempotency key.
    Mismatch,
}

/// The outcome of [`JobStore::claim`].
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// The chunk is the caller's.
    Claimed(Attempt),
    /// It is claimed for another message, which is in charge of it.
    Busy,
    /// It is over already.
    Settled,
    /// There is no such chunk: the job was erased.
    Gone,
}

/// The outcome of [`JobStore::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// The verdict stands.
    Settled,
    /// An earlier verdict stands.
    AlreadySettled,
    /// The chunk was claimed again since; a failure is no longer the caller's to tell.
    Superseded,
    /// There is no such chunk: the job was erased.
    Gone,
}

/// The outcome of [`JobStore::strike`].
#[derive(Clone, Debug, PartialEq)]
pub enum Strike {
    /// Other chunks are not settled yet.
    Remaining,
    /// None is left: the job wants finishing.
    AllSettled(Box<JobHead>),
    /// The job has ended.
    Ended,
    /// There is no such job.
    Gone,
}

/// The outcome of [`JobStore::finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The job ended, by this call.
    Finished,
    /// It had ended before, or was erased.
    NotOpen,
}

/// What is known of a job beyond its head.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// It has ended, with this.
    Ended(Box<TranscriptResult>),
    /// Its chunks as they stand, in order of index.
    Chunks(Vec<Chunk>),
}

/// One page of one user's jobs, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// Whose.
    pub user: UserId,
    /// Only those of this status.
    pub status: Option<JobStatus>,
    /// Only those submitted at or after this.
    pub from: Option<Timestamp>,
    /// Only those submitted before this.
    pub until: Option<Timestamp>,
    /// How many at most: 1 to 100.
    pub limit: usize,
    /// Where the last page ended.
    pub after: Option<SearchPosition>,
    /// When it is asked: what was submitted in the minute before is read from the table itself.
    pub now: Timestamp,
}

impl Search {
    /// The first page of all jobs of a user.
    pub fn all(user: UserId, limit: usize, now: Timestamp) -> Self {
        Self { user, status: None, from: None, until: None, limit, after: None, now }
    }

    /// Whether a job belongs to the pages that are left.
    pub fn wants(&self, head: &JobHead) -> bool {
        let position = SearchPosition { submitted: head.submitted, job: head.id };
        head.user == self.user
            && self.status.is_none_or(|status| head.status() == status)
            && self.from.is_none_or(|from| head.submitted >= from)
            && self.until.is_none_or(|until| head.submitted < until)
            && self.after.is_none_or(|after| position < after)
    }
}

/// A job's place in a listing: newest first, ties by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SearchPosition {
    /// When the job was asked for.
    pub submitted: Timestamp,
    /// Its name.
    pub job: JobId,
}

/// The outcome of [`JobStore::search`].
#[derive(Clone, Debug, PartialEq)]
pub struct SearchPage {
    /// Newest first.
    pub jobs: Vec<JobHead>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<SearchPosition>,
}

/// A job that the sweeper should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueJob {
    /// Which.
    pub job: JobId,
    /// When it was due; names this turn of the sweep among others.
    pub next_check: Timestamp,
}

/// The store.
#[async_trait]
pub trait JobStore: Send + Sync + Debug {
    /// Makes the job, its chunks and the record of its idempotency key, all or nothing. Doing it again
    /// changes nothing. It is first due for the sweeper at `next_check`.
    async fn create(&self, job: &NewJob, next_check: Timestamp) -> Result<Created, StoreError>;

    /// Takes a chunk that is not settled. A chunk that is claimed for another message is not taken,
    /// unless that claim is older than `silence`: nobody works that long, so the message behind it is
    /// lost. One that is claimed for the same message (or a copy of it: what counts is the origin) is:
    /// the message was handed out again, so whoever had it has lost it.
    async fn claim(
        &self,
        chunk: ChunkRef,
        by: Claimant<'_>,
        now: Timestamp,
        silence: Duration,
    ) -> Result<Claim, StoreError>;

    /// Gives a claim back, as if it had not been, unless [`Attempt::counts`]. Nothing happens when
    /// another has been made since or the chunk is settled.
    async fn release(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<(), StoreError>;

    /// Settles a chunk that is not settled. A failure counts only while `attempt` is the newest
    /// claim (0 when there has been none); a transcription is true whoever brings it.
    async fn settle(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Settle, StoreError>;

    /// Strikes a settled chunk off the job's set of unsettled ones.
    async fn strike(&self, chunk: ChunkRef) -> Result<Strike, StoreError>;

    /// Ends an open job with its result, both or neither. One that was reopened since `head` was read
    /// is not ended: the result is of the time before. One whose end somebody is to be told of stays due for
    /// the sweeper, [`FIRST_CHECK`](crate::lifecycle::FIRST_CHECK) after its end.
    async fn finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError>;

    /// Opens a job that ended as failed, and its `failed` chunks, all or nothing; its result goes. `false`
    /// when it has changed since `head` was read.
    async fn reopen(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        now: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Notes how far the telling of a job's end has come, by one more try. The job is due for the sweeper at
    /// the callback's next check, or no more. `false` when that end is no longer the job's, or another try
    /// was noted first.
    async fn note_callback(
        &self,
        id: JobId,
        ended: Timestamp,
        callback: &Callback,
    ) -> Result<bool, StoreError>;

    /// A job, as of now.
    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// All chunks of a job, in order, as of now. Empty when there is no such job.
    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError>;

    /// For each job, its result or its chunks, in few calls. `None` for one that is gone.
    async fn details(&self, jobs: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError>;

    /// A page of a listing. It may lag behind the other calls by a moment; what was submitted within the
    /// minute before is as it stands on the first page.
    async fn search(&self, search: &Search) -> Result<SearchPage, StoreError>;

    /// Jobs that are open, or whose end is yet to be told, and whose next check is at or before `now`: the
    /// longest due first, `limit` at most.
    /// It may lag behind the other calls by a moment.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueJob>, StoreError>;

    /// Puts such a job's next check off. `false` when there is nothing to do for it any more, or another has
    /// done so first.
    async fn postpone(&self, due: &DueJob, next_check: Timestamp) -> Result<bool, StoreError>;

    /// Erases a job with all that belongs to it, its idempotency key too. `false` when there is none. What
    /// runs on it finds it gone.
    async fn erase(&self, id: JobId) -> Result<bool, StoreError>;

    /// Whether the table can be read. For readiness.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// Reads one job as a client sees it.
pub async fn read(store: &dyn JobStore, id: JobId) -> Result<Option<TranscriptResult>, StoreError> {
    match store.job(id).await? {
        Some(job) => read_job(store, &job).await,
        None => Ok(None),
    }
}

/// The rest of [`read`], for who has looked at the job already.
pub async fn read_job(store: &dyn JobStore, job: &Job) -> Result<Option<TranscriptResult>, StoreError> {
    let details = store.details(std::slice::from_ref(&job.head)).await?;
    let detail = details.into_iter().flatten().next();
    // What was kept with the end of the job knows nothing of what came after.
    Ok(detail
        .map(|detail| TranscriptResult { callback: job.head.callback.clone(), ..result(&job.head, detail) }))
}

/// Reads a page of a listing as a client sees it.
pub async fn read_page(
    store: &dyn JobStore,
    search: &Search,
) -> Result<(Vec<TranscriptResult>, Option<SearchPosition>), StoreError> {
    let page = store.search(search).await?;
    let details = store.details(&page.jobs).await?;
    let results =
        page.jobs.iter().zip(details).filter_map(|(head, detail)| Some(result(head, detail?))).collect();
    Ok((results, page.next))
}

fn result(head: &JobHead, detail: Detail) -> TranscriptResult {
    match detail {
        Detail::Ended(result) => *result,
        Detail::Chunks(chunks) => TranscriptResult::new(head, &chunks),
    }
}
