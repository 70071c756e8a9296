//! The in-memory store behind the wire. It checks each call for violations that the state of the table does not show.
//! It can have a flaw, to test that the checks find it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::domain::callback::Callback;
use longhand_shared::domain::idempotency::Idempotency;
use longhand_shared::domain::job::{Chunk, ChunkState, Job, JobHead, JobState, NewJob, Verdict};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::store::{
    Claim, Created, Detail, DueJob, Finish, JobStore, RemoveUnsettled, Search, SearchPage, Settle, StoreError,
};
use longhand_shared::{Attempt, ChunkIndex, ChunkRef, Claimant, JobId, Timestamp, UserId};
use parking_lot::{Mutex, MutexGuard};

use crate::sim::{Fault, Wire, now};

/// A deliberate fault of the store or of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The store settles a settled chunk again.
    SettlesTwice,
    /// The store accepts a failure from an old claim.
    AcceptsSuperseded,
    /// The store lets any message claim a chunk that is claimed for another message.
    ClaimsForAnyMessage,
    /// The store refuses a claim even to the message that the chunk is claimed for.
    RefusesOwnMessage,
    /// The store counts settled chunks instead of removing them from the set.
    CountsChunks,
    /// The store finishes a job without checking that it is open.
    FinishesTwice,
    /// The worker deletes the message before the work is done.
    DeletesEarly,
    /// The worker deletes the messages of settled chunks before it removes these from the unsettled set.
    DeletesBeforeRemoval,
    /// The worker deletes the message if its claim is superseded.
    DeletesWhenSuperseded,
    /// The worker deletes a message before it requeues it.
    DeletesBeforeRequeue,
    /// The worker requeues a message without its origin.
    DropsOrigin,
    /// A dead letter fails a chunk that is claimed for another message.
    FailsClaimedByOther,
    /// A dead letter that should be requeued is deleted.
    SkipsRequeue,
    /// The worker does not check whether the job can end if it finds the chunk settled.
    SkipsConclude,
}

/// The table that the processes use.
#[derive(Debug)]
pub(crate) struct Table {
    memory: MemoryStore,
    wire: Arc<Wire>,
    flaw: Option<Flaw>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    outcomes: BTreeMap<&'static str, usize>,
    newest: BTreeMap<ChunkRef, u32>,
    settled: BTreeSet<ChunkRef>,
    finished: usize,
    /// Messages that were superfluous at a delivery.
    dropped: BTreeSet<(ChunkRef, String)>,
    /// Chunks that were claimed for such a message nevertheless, at another delivery.
    orphans: BTreeSet<ChunkRef>,
    /// The due times of checks that a sweeper has taken.
    turns: BTreeSet<Timestamp>,
    violation: Option<String>,
    /// For [`Flaw::SettlesTwice`]: the overwritten states.
    overwritten: BTreeMap<ChunkRef, ChunkState>,
    /// For [`Flaw::CountsChunks`]: how often a chunk was removed from the set.
    removals: usize,
}

impl Seen {
    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }
}

impl Table {
    pub(crate) fn new(wire: Arc<Wire>, flaw: Option<Flaw>) -> Self {
        Self { memory: MemoryStore::new(), wire, flaw, seen: Mutex::default() }
    }

    /// Reports a violation. Only the first one is kept.
    pub(crate) fn report(&self, what: impl Into<String>) {
        self.seen().violation.get_or_insert(what.into());
    }

    /// The first violation.
    pub(crate) fn violation(&self) -> Option<String> {
        self.seen().violation.clone()
    }

    /// How often a call returned `Finished`, including lost answers.
    pub(crate) fn finished(&self) -> usize {
        self.seen().finished
    }

    pub(crate) fn outcomes(&self) -> BTreeMap<&'static str, usize> {
        self.seen().outcomes.clone()
    }

    /// Counts an outcome.
    pub(crate) fn count(&self, outcome: &'static str) {
        self.seen().count(outcome);
    }

    /// Records that a worker is about to delete this superfluous message.
    pub(crate) fn dropped(&self, at: ChunkRef, message: &str) {
        self.seen().dropped.insert((at, message.to_owned()));
    }

    /// Chunks that were claimed for a message that another worker deletes as superfluous.
    pub(crate) fn orphans(&self) -> BTreeSet<ChunkRef> {
        self.seen().orphans.clone()
    }

    /// Reads a chunk without a step.
    pub(crate) fn peek_chunk(&self, at: ChunkRef) -> Option<Chunk> {
        let (_, chunks) = self.peek(at.job)?;
        chunks.into_iter().find(|chunk| chunk.index == at.index)
    }

    pub(crate) fn expire(&self, id: JobId) {
        self.memory.expire(id);
    }

    /// Reads the job and its chunks without a step.
    pub(crate) fn peek(&self, id: JobId) -> Option<(Job, Vec<Chunk>)> {
        let job = now(self.memory.job(id)).expect("memory never fails")?;
        Some((job, now(self.read_chunks(id)).expect("memory never fails")))
    }

    /// Reads the job's transcript without a step.
    pub(crate) fn peek_transcript(&self, head: &JobHead) -> Option<TranscriptResult> {
        let details = now(self.memory.details(std::slice::from_ref(head))).expect("memory never fails");
        match details.into_iter().flatten().next()? {
            Detail::Ended(result) => Some(*result),
            Detail::Chunks(_) => None,
        }
    }

    /// The state of the table and the history, without the counts.
    pub(crate) fn fingerprint(&self, id: JobId) -> String {
        let far = Timestamp::from_unix(u32::MAX);
        let due = now(self.memory.due(far, 100)).expect("memory never fails");
        let there = self.peek(id);
        let seen = self.seen();
        let seen = (&seen.settled, seen.finished, &seen.dropped, &seen.orphans, &seen.turns, seen.removals);
        format!("{there:?} {due:?} {seen:?}")
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock()
    }

    async fn read<T: Debug>(
        &self,
        act: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.call(act, |_, _| {}).await
    }

    async fn write<T: Debug>(
        &self,
        act: impl Future<Output = Result<T, StoreError>>,
        note: impl FnOnce(&mut Seen, &T),
    ) -> Result<T, StoreError> {
        let note = |seen: &mut Seen, answer: &T| {
            self.wire.wrote();
            note(seen, answer);
        };
        self.call(act, note).await
    }

    async fn call<T: Debug>(
        &self,
        act: impl Future<Output = Result<T, StoreError>>,
        note: impl FnOnce(&mut Seen, &T),
    ) -> Result<T, StoreError> {
        let answer = self.call_unrecorded(act, note).await;
        self.wire.answer(&answer);
        answer
    }

    async fn call_unrecorded<T>(
        &self,
        act: impl Future<Output = Result<T, StoreError>>,
        note: impl FnOnce(&mut Seen, &T),
    ) -> Result<T, StoreError> {
        let fault = self.wire.call().await;
        if fault == Some(Fault::NotDone) {
            return Err(StoreError::Unavailable("not done".to_owned()));
        }
        let answer = now(act)?;
        // The call has had its effect, even if the answer is lost.
        note(&mut self.seen(), &answer);
        match fault {
            None => Ok(answer),
            Some(_) => Err(StoreError::Unavailable("the answer is lost".to_owned())),
        }
    }

    async fn flawed_claim(
        &self,
        at: ChunkRef,
        by: Claimant<'_>,
        time: Timestamp,
        claim_timeout: Duration,
    ) -> Result<Claim, StoreError> {
        match self.flaw {
            Some(Flaw::ClaimsForAnyMessage) => self.memory.claim(at, by, time, Duration::ZERO).await,
            Some(Flaw::RefusesOwnMessage) => match self.peek_chunk(at).map(|chunk| chunk.state) {
                Some(ChunkState::InProgress { claimed, .. }) if claimed > time.minus(claim_timeout) => {
                    Ok(Claim::Busy)
                }
                _ => self.memory.claim(at, by, time, claim_timeout).await,
            },
            _ => self.memory.claim(at, by, time, claim_timeout).await,
        }
    }

    async fn flawed_settle(
        &self,
        at: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        time: Timestamp,
    ) -> Result<Settle, StoreError> {
        let newest = self.peek_chunk(at).map(|chunk| chunk.attempt);
        let accepted = newest.filter(|_| self.flaw == Some(Flaw::AcceptsSuperseded));
        let attempt = accepted.map_or_else(|| attempt.clone(), Attempt::number);
        let answer = self.memory.settle(at, &attempt, verdict, time).await?;
        if answer == Settle::AlreadySettled && self.flaw == Some(Flaw::SettlesTwice) {
            let state = ChunkState::Settled { at: time, verdict: verdict.clone() };
            self.seen().overwritten.insert(at, state);
            return Ok(Settle::Settled);
        }
        Ok(answer)
    }

    async fn flawed_remove_unsettled(
        &self,
        job: JobId,
        settled: &[ChunkIndex],
    ) -> Result<RemoveUnsettled, StoreError> {
        let answer = self.memory.remove_unsettled(job, settled).await?;
        if self.flaw != Some(Flaw::CountsChunks) || answer != RemoveUnsettled::Remaining {
            return Ok(answer);
        }
        let Some(job) = self.memory.job(job).await? else {
            return Ok(RemoveUnsettled::Gone);
        };
        let mut seen = self.seen();
        seen.removals += settled.len();
        Ok(if seen.removals < job.head.chunk_count {
            RemoveUnsettled::Remaining
        } else {
            RemoveUnsettled::AllSettled(Box::new(job.head))
        })
    }

    async fn flawed_finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        let answer = self.memory.finish(head, result).await?;
        Ok(if self.flaw == Some(Flaw::FinishesTwice) { Finish::Finished } else { answer })
    }

    async fn read_chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        let mut chunks = self.memory.chunks(id).await?;
        for chunk in &mut chunks {
            if let Some(state) = self.seen().overwritten.get(&ChunkRef { job: id, index: chunk.index }) {
                chunk.state = state.clone();
            }
        }
        Ok(chunks)
    }
}

#[async_trait]
impl JobStore for Table {
    async fn create(&self, job: &NewJob, next_check: Timestamp) -> Result<Created, StoreError> {
        self.write(self.memory.create(job, next_check), |_, _| {}).await
    }

    async fn earlier(
        &self,
        user: &UserId,
        asked: &Idempotency,
        time: Timestamp,
    ) -> Result<Option<Created>, StoreError> {
        self.read(self.memory.earlier(user, asked, time)).await
    }

    async fn claim(
        &self,
        at: ChunkRef,
        by: Claimant<'_>,
        time: Timestamp,
        claim_timeout: Duration,
    ) -> Result<Claim, StoreError> {
        self.write(self.flawed_claim(at, by, time, claim_timeout), |seen, claim| match claim {
            Claim::Claimed(Attempt { number: attempt, .. }) => {
                seen.count("claim: claimed");
                let before = seen.newest.insert(at, *attempt);
                if before.is_some_and(|before| before >= *attempt) {
                    seen.violation.get_or_insert(format!("{at}: claim {attempt} after {before:?}"));
                }
                if seen.dropped.contains(&(at, by.message.to_owned())) {
                    seen.orphans.insert(at);
                }
            }
            Claim::Busy => seen.count("claim: busy"),
            Claim::Settled => seen.count("claim: settled"),
            Claim::Gone => seen.count("claim: gone"),
        })
        .await
    }

    async fn release(&self, at: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        self.write(self.memory.release(at, attempt), |seen, changed| {
            seen.count(if *changed { "release: released" } else { "release: nothing" });
            if *changed && seen.newest.get(&at) != Some(&attempt.number) {
                seen.violation
                    .get_or_insert(format!("{at}: claim {} released another claim", attempt.number));
            }
        })
        .await
    }

    async fn is_claimed_by(&self, at: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        self.read(self.memory.is_claimed_by(at, attempt)).await
    }

    async fn note(&self, at: ChunkRef, attempt: &Attempt) -> Result<(), StoreError> {
        self.memory.note(at, attempt).await
    }

    async fn settle(
        &self,
        at: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        time: Timestamp,
    ) -> Result<Settle, StoreError> {
        self.write(self.flawed_settle(at, attempt, verdict, time), |seen, answer| match answer {
            Settle::Settled => {
                seen.count("settle: settled");
                let newest = seen.newest.get(&at).copied().unwrap_or(0);
                if matches!(verdict, Verdict::Failed(_)) && attempt.number != newest {
                    let what =
                        format!("{at}: claim {} failed the chunk, which is {newest}'s", attempt.number);
                    seen.violation.get_or_insert(what);
                }
                if !seen.settled.insert(at) {
                    seen.violation.get_or_insert(format!("{at}: settled twice"));
                }
            }
            Settle::AlreadySettled => seen.count("settle: already settled"),
            Settle::Superseded => seen.count("settle: superseded"),
            Settle::Gone => seen.count("settle: gone"),
        })
        .await
    }

    async fn remove_unsettled(
        &self,
        job: JobId,
        settled: &[ChunkIndex],
    ) -> Result<RemoveUnsettled, StoreError> {
        self.write(self.flawed_remove_unsettled(job, settled), |seen, answer| match answer {
            RemoveUnsettled::Remaining => seen.count("remove unsettled: remaining"),
            RemoveUnsettled::AllSettled(head) => {
                seen.count("remove unsettled: all settled");
                if head.state != JobState::Open {
                    seen.violation.get_or_insert(format!("{job}: AllSettled for an ended job"));
                }
                let stored = now(self.memory.job(job)).expect("memory never fails");
                if stored.is_some_and(|job| !job.unsettled.is_empty()) {
                    seen.violation.get_or_insert(format!("{job}: AllSettled with a non-empty unsettled set"));
                }
            }
            RemoveUnsettled::Ended => seen.count("remove unsettled: ended"),
            RemoveUnsettled::Gone => seen.count("remove unsettled: gone"),
        })
        .await
    }

    async fn finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        self.write(self.flawed_finish(head, result), |seen, answer| match answer {
            Finish::Finished => {
                seen.count("finish: finished");
                seen.finished += 1;
            }
            Finish::NotOpen => seen.count("finish: not open"),
        })
        .await
    }

    async fn note_callback(
        &self,
        id: JobId,
        ended: Timestamp,
        callback: &Callback,
    ) -> Result<bool, StoreError> {
        self.write(self.memory.note_callback(id, ended, callback), |_, _| {}).await
    }

    async fn reopen(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        time: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(self.memory.reopen(head, failed, time, next_check), |_, _| {}).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.read(self.memory.job(id)).await
    }

    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        self.read(self.read_chunks(id)).await
    }

    async fn details(&self, heads: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
        self.read(self.memory.details(heads)).await
    }

    async fn search(&self, search: &Search) -> Result<SearchPage, StoreError> {
        self.read(self.memory.search(search)).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueJob>, StoreError> {
        self.read(self.memory.due(now, limit)).await
    }

    async fn postpone(
        &self,
        due: &DueJob,
        next_check: Timestamp,
        check_from: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        self.write(self.memory.postpone(due, next_check, check_from), |seen, mine| {
            seen.count(if *mine { "postpone: mine" } else { "postpone: another's" });
            if *mine && !seen.turns.insert(due.next_check) {
                seen.violation.get_or_insert(format!("two sweepers took the check of {}", due.next_check));
            }
            if *mine {
                // An earlier check may have been due at the same time.
                seen.turns.remove(&next_check);
            }
        })
        .await
    }

    async fn erase(&self, id: JobId) -> Result<bool, StoreError> {
        self.write(self.memory.erase(id), |_, _| {}).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(self.memory.ping()).await
    }
}
