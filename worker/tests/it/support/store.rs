//! A store in memory that counts its calls, fails on request, and uses tokio's clock: a claim ages with
//! the paused clock, although the worker reads the system clock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::domain::callback::Callback;
use longhand_shared::domain::idempotency::Idempotency;
use longhand_shared::domain::job::{Chunk, Job, JobHead, NewJob, Verdict};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::store::{
    Claim, Created, Detail, DueJob, Finish, JobStore, RemoveUnsettled, Search, SearchPage, Settle, StoreError,
};
use longhand_shared::{Attempt, ChunkIndex, ChunkRef, Claimant, JobId, Timestamp, UserId};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A step of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Claim,
    Release,
    Note,
    IsClaimed,
    Settle,
    RemoveUnsettled,
    Finish,
    NoteCallback,
    Job,
    Chunks,
    Due,
    Postpone,
    Other,
}

/// What happens to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreFault {
    /// Nothing.
    None,
    /// It is not done.
    Fail,
    /// It is done, but the answer is lost.
    LostAnswer,
    /// It is not done, and would never be.
    Corrupt,
}

type Rule = Box<dyn FnMut(Op) -> StoreFault + Send>;

/// The store.
pub(crate) struct FaultyStore {
    pub(crate) inner: Arc<MemoryStore>,
    born: Instant,
    rule: Mutex<Rule>,
    log: Mutex<Vec<Op>>,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").finish_non_exhaustive()
    }
}

impl FaultyStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(MemoryStore::new()),
            born: Instant::now(),
            rule: Mutex::new(Box::new(|_| StoreFault::None)),
            log: Mutex::default(),
        })
    }

    /// From now on, steps meet what this says.
    pub(crate) fn fault(&self, rule: impl FnMut(Op) -> StoreFault + Send + 'static) {
        *self.rule.lock() = Box::new(rule);
    }

    /// The next `times` steps of this kind meet this.
    pub(crate) fn fault_next(&self, op: Op, fault: StoreFault, mut times: usize) {
        self.fault(move |step| {
            if step != op || times == 0 {
                return StoreFault::None;
            }
            times -= 1;
            fault
        });
    }

    /// No more faults.
    pub(crate) fn heal(&self) {
        self.fault(|_| StoreFault::None);
    }

    /// How often a step was taken.
    pub(crate) fn count(&self, op: Op) -> usize {
        self.log.lock().iter().filter(|step| **step == op).count()
    }

    async fn step<T>(
        &self,
        op: Op,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.log.lock().push(op);
        let fault = (self.rule.lock())(op);
        let unavailable = || Err(StoreError::Unavailable("as the test wants it".to_owned()));
        match fault {
            StoreFault::None => work.await,
            StoreFault::Fail => unavailable(),
            StoreFault::LostAnswer => work.await.and_then(|_| unavailable()),
            StoreFault::Corrupt => Err(StoreError::Corrupt("as the test wants it".to_owned())),
        }
    }
}

#[async_trait]
impl JobStore for FaultyStore {
    async fn create(&self, job: &NewJob, next_check: Timestamp) -> Result<Created, StoreError> {
        self.step(Op::Create, self.inner.create(job, next_check)).await
    }

    async fn earlier(
        &self,
        user: &UserId,
        asked: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<Created>, StoreError> {
        self.step(Op::Other, self.inner.earlier(user, asked, now)).await
    }

    async fn claim(
        &self,
        chunk: ChunkRef,
        by: Claimant<'_>,
        now: Timestamp,
        silence: Duration,
    ) -> Result<Claim, StoreError> {
        let now = now.plus(self.born.elapsed());
        self.step(Op::Claim, self.inner.claim(chunk, by, now, silence)).await
    }

    async fn release(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        self.step(Op::Release, self.inner.release(chunk, attempt)).await
    }

    async fn note(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<(), StoreError> {
        self.step(Op::Note, self.inner.note(chunk, attempt)).await
    }

    async fn is_claimed_by(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        self.step(Op::IsClaimed, self.inner.is_claimed_by(chunk, attempt)).await
    }

    async fn settle(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Settle, StoreError> {
        self.step(Op::Settle, self.inner.settle(chunk, attempt, verdict, now)).await
    }

    async fn remove_unsettled(
        &self,
        job: JobId,
        settled: &[ChunkIndex],
    ) -> Result<RemoveUnsettled, StoreError> {
        self.step(Op::RemoveUnsettled, self.inner.remove_unsettled(job, settled)).await
    }

    async fn finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        self.step(Op::Finish, self.inner.finish(head, result)).await
    }

    async fn note_callback(
        &self,
        id: JobId,
        ended: Timestamp,
        callback: &Callback,
    ) -> Result<bool, StoreError> {
        self.step(Op::NoteCallback, self.inner.note_callback(id, ended, callback)).await
    }

    async fn reopen(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        now: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError> {
        self.step(Op::Other, self.inner.reopen(head, failed, now, next_check)).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.step(Op::Job, self.inner.job(id)).await
    }

    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        self.step(Op::Chunks, self.inner.chunks(id)).await
    }

    async fn details(&self, jobs: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
        self.step(Op::Other, self.inner.details(jobs)).await
    }

    async fn search(&self, search: &Search) -> Result<SearchPage, StoreError> {
        self.step(Op::Other, self.inner.search(search)).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueJob>, StoreError> {
        self.step(Op::Due, self.inner.due(now, limit)).await
    }

    async fn postpone(
        &self,
        due: &DueJob,
        next_check: Timestamp,
        check_from: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        self.step(Op::Postpone, self.inner.postpone(due, next_check, check_from)).await
    }

    async fn erase(&self, id: JobId) -> Result<bool, StoreError> {
        self.step(Op::Other, self.inner.erase(id)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.step(Op::Other, self.inner.ping()).await
    }
}
