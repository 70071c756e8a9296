//! The store in memory behind the wire, watched: what no single state of the table can show (who
//! was told what) is checked here, call by call. It can be given a flaw, to see that it is found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::job::{Chunk, ChunkState, Job, JobHead, JobState, NewJob, Verdict};
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::store::{
    Claim, Created, Detail, DueJob, Finish, JobStore, Search, SearchPage, Settle, StoreError, Strike,
};
use longhand_shared::transcript::TranscriptResult;
use longhand_shared::webhook::Callback;
use longhand_shared::{Attempt, ChunkIndex, ChunkRef, Claimant, JobId, Timestamp};

use crate::sim::{Fault, Wire, now};

/// What a wrong store or a wrong worker would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The store settles a chunk that is settled.
    SettlesTwice,
    /// The store does not ask whose failure it is.
    HearsTheSuperseded,
    /// The store lets any message take a chunk that another message is in charge of.
    ClaimsForAnyone,
    /// The store keeps a chunk even from the message that is in charge of it.
    BusyForItsOwn,
    /// The store counts down instead of striking off.
    CountsDown,
    /// The store ends a job without asking whether it is open.
    EndsTwice,
    /// The worker deletes the message before what it asked for is done.
    DeletesEarly,
    /// The worker deletes the message when another has the chunk.
    DeletesWhenSuperseded,
    /// The worker deletes the message it should send anew, before it does.
    DeletesBeforeRequeue,
    /// The worker puts a message back as if it were a new one.
    ForgetsTheOrigin,
    /// A dead letter fails a chunk that another message is in charge of.
    BuriesAnothers,
    /// A dead letter whose chunk is not to blame is deleted, and no message sent in its place.
    BuriesTheBlameless,
    /// The worker does not look whether the job could end when it finds the chunk settled.
    LeavesSettledAlone,
}

/// The table, as the processes see it.
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
    /// Messages, by their origin, that were found superfluous while another was in charge.
    dropped: BTreeSet<(ChunkRef, String)>,
    /// Chunks that were claimed for such a message all the same: it came twice.
    orphans: BTreeSet<ChunkRef>,
    /// The turns of the sweep that somebody took.
    turns: BTreeSet<Timestamp>,
    wrong: Option<String>,
    /// For [`Flaw::SettlesTwice`]: what stands instead.
    overwritten: BTreeMap<ChunkRef, ChunkState>,
    /// For [`Flaw::CountsDown`]: how often something was struck off.
    strikes: usize,
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

    /// Notes what should not have happened; the first counts.
    pub(crate) fn complain(&self, what: impl Into<String>) {
        self.seen().wrong.get_or_insert(what.into());
    }

    /// What should not have happened.
    pub(crate) fn wrong(&self) -> Option<String> {
        self.seen().wrong.clone()
    }

    /// How often a call was answered with `Finished`, heard or not.
    pub(crate) fn finished(&self) -> usize {
        self.seen().finished
    }

    /// How often each outcome was met.
    pub(crate) fn outcomes(&self) -> BTreeMap<&'static str, usize> {
        self.seen().outcomes.clone()
    }

    /// Notes what was met.
    pub(crate) fn count(&self, outcome: &'static str) {
        self.seen().count(outcome);
    }

    /// Notes that this message is about to be deleted, since another is in charge.
    pub(crate) fn dropped(&self, at: ChunkRef, origin: &str) {
        self.seen().dropped.insert((at, origin.to_owned()));
    }

    /// Chunks that were claimed for a message that others have deleted, or will.
    pub(crate) fn orphans(&self) -> BTreeSet<ChunkRef> {
        self.seen().orphans.clone()
    }

    /// A chunk, read in no time.
    pub(crate) fn peek_chunk(&self, at: ChunkRef) -> Option<Chunk> {
        let (_, chunks) = self.peek(at.job)?;
        chunks.into_iter().find(|chunk| chunk.index == at.index)
    }

    pub(crate) fn expire(&self, id: JobId) {
        self.memory.expire(id);
    }

    /// The job and its chunks, read in no time by one who stands outside.
    pub(crate) fn peek(&self, id: JobId) -> Option<(Job, Vec<Chunk>)> {
        let job = now(self.memory.job(id)).expect("memory never fails")?;
        Some((job, now(self.read_chunks(id)).expect("memory never fails")))
    }

    /// The job's transcript, if it has one.
    pub(crate) fn peek_transcript(&self, head: &JobHead) -> Option<TranscriptResult> {
        let details = now(self.memory.details(std::slice::from_ref(head))).expect("memory never fails");
        match details.into_iter().flatten().next()? {
            Detail::Ended(result) => Some(*result),
            Detail::Chunks(_) => None,
        }
    }

    /// All that is there, and all that is remembered of what was, but for the counts.
    pub(crate) fn fingerprint(&self, id: JobId) -> String {
        let far = Timestamp::from_unix(u32::MAX);
        let due = now(self.memory.due(far, 100)).expect("memory never fails");
        let there = self.peek(id);
        let seen = self.seen();
        let seen = (&seen.settled, seen.finished, &seen.dropped, &seen.orphans, &seen.turns, seen.strikes);
        format!("{there:?} {due:?} {seen:?}")
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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
        let answer = self.call_unheard(act, note).await;
        self.wire.answer(&answer);
        answer
    }

    async fn call_unheard<T>(
        &self,
        act: impl Future<Output = Result<T, StoreError>>,
        note: impl FnOnce(&mut Seen, &T),
    ) -> Result<T, StoreError> {
        let fault = self.wire.call().await;
        if fault == Some(Fault::NotDone) {
            return Err(StoreError::Unavailable("not done".to_owned()));
        }
        let answer = now(act)?;
        // What was done was done, whether the caller hears of it or not.
        note(&mut self.seen(), &answer);
        match fault {
            None => Ok(answer),
            Some(_) => Err(StoreError::Unavailable("done, but not answered".to_owned())),
        }
    }

    async fn flawed_claim(
        &self,
        at: ChunkRef,
        by: Claimant<'_>,
        time: Timestamp,
        silence: Duration,
    ) -> Result<Claim, StoreError> {
        match self.flaw {
            Some(Flaw::ClaimsForAnyone) => self.memory.claim(at, by, time, Duration::ZERO).await,
            Some(Flaw::BusyForItsOwn) => match self.peek_chunk(at).map(|chunk| chunk.state) {
                Some(ChunkState::InProgress { claimed, .. }) if claimed > time.minus(silence) => {
                    Ok(Claim::Busy)
                }
                _ => self.memory.claim(at, by, time, silence).await,
            },
            _ => self.memory.claim(at, by, time, silence).await,
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
        let hears = newest.filter(|_| self.flaw == Some(Flaw::HearsTheSuperseded));
        let attempt = hears.map_or_else(|| attempt.clone(), Attempt::number);
        let answer = self.memory.settle(at, &attempt, verdict, time).await?;
        if answer == Settle::AlreadySettled && self.flaw == Some(Flaw::SettlesTwice) {
            let state = ChunkState::Settled { at: time, verdict: verdict.clone() };
            self.seen().overwritten.insert(at, state);
            return Ok(Settle::Settled);
        }
        Ok(answer)
    }

    async fn flawed_strike(&self, at: ChunkRef) -> Result<Strike, StoreError> {
        let answer = self.memory.strike(at).await?;
        if self.flaw != Some(Flaw::CountsDown) || answer != Strike::Remaining {
            return Ok(answer);
        }
        let Some(job) = self.memory.job(at.job).await? else {
            return Ok(Strike::Gone);
        };
        let mut seen = self.seen();
        seen.strikes += 1;
        Ok(if seen.strikes < job.head.chunk_count {
            Strike::Remaining
        } else {
            Strike::AllSettled(Box::new(job.head))
        })
    }

    async fn flawed_finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        let answer = self.memory.finish(head, result).await?;
        Ok(if self.flaw == Some(Flaw::EndsTwice) { Finish::Finished } else { answer })
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

    async fn claim(
        &self,
        at: ChunkRef,
        by: Claimant<'_>,
        time: Timestamp,
        silence: Duration,
    ) -> Result<Claim, StoreError> {
        self.write(self.flawed_claim(at, by, time, silence), |seen, claim| match claim {
            Claim::Claimed(Attempt { number: attempt, .. }) => {
                seen.count("claim: claimed");
                let before = seen.newest.insert(at, *attempt);
                if before.is_some_and(|before| before >= *attempt) {
                    seen.wrong.get_or_insert(format!("{at}: claim {attempt} after {before:?}"));
                }
                if seen.dropped.contains(&(at, by.origin.to_owned())) {
                    seen.orphans.insert(at);
                }
            }
            Claim::Busy => seen.count("claim: busy"),
            Claim::Settled => seen.count("claim: settled"),
            Claim::Gone => seen.count("claim: gone"),
        })
        .await
    }

    async fn release(&self, at: ChunkRef, attempt: &Attempt) -> Result<(), StoreError> {
        let release = async {
            let before = self.memory.chunks(at.job).await?;
            self.memory.release(at, attempt).await?;
            Ok(before != self.memory.chunks(at.job).await?)
        };
        self.write(release, |seen, changed| {
            seen.count(if *changed { "release: released" } else { "release: nothing" });
            if *changed && seen.newest.get(&at) != Some(&attempt.number) {
                seen.wrong.get_or_insert(format!("{at}: claim {} gave back another's", attempt.number));
            }
        })
        .await
        .map(|_| ())
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
                    seen.wrong.get_or_insert(what);
                }
                if !seen.settled.insert(at) {
                    seen.wrong.get_or_insert(format!("{at}: settled twice"));
                }
            }
            Settle::AlreadySettled => seen.count("settle: already settled"),
            Settle::Superseded => seen.count("settle: superseded"),
            Settle::Gone => seen.count("settle: gone"),
        })
        .await
    }

    async fn strike(&self, at: ChunkRef) -> Result<Strike, StoreError> {
        self.write(self.flawed_strike(at), |seen, answer| match answer {
            Strike::Remaining => seen.count("strike: remaining"),
            Strike::AllSettled(head) => {
                seen.count("strike: all settled");
                if head.state != JobState::Open {
                    seen.wrong.get_or_insert(format!("{at}: told to finish what has ended"));
                }
            }
            Strike::Ended => seen.count("strike: ended"),
            Strike::Gone => seen.count("strike: gone"),
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

    async fn postpone(&self, due: &DueJob, next_check: Timestamp) -> Result<bool, StoreError> {
        self.write(self.memory.postpone(due, next_check), |seen, mine| {
            seen.count(if *mine { "postpone: mine" } else { "postpone: another's" });
            if *mine && !seen.turns.insert(due.next_check) {
                seen.wrong.get_or_insert(format!("two sweepers took the turn of {}", due.next_check));
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
