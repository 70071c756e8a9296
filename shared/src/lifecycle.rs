//! The protocol between the table and the queue. The table is the truth; a message is only a
//! reminder that a chunk wants work, and any number of them, late or twice, change nothing.
//!
//! ```text
//! submit   create the job -> send a message for each chunk
//! settle   chunk settled -> struck off the job's unsettled set -> if that was the last: finish
//! finish   read the chunks -> stitch -> transcript and job status, in one transaction
//! repair   what a crash left between any two of these, found by the sweeper
//! ```
//!
//! Every arrow is a place to die at. Each step is safe to repeat, and whoever comes next (a
//! redelivery, the sweeper) takes the remaining ones.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::attempt::{Attempt, AttemptOutcome};
use crate::clock::Timestamp;
use crate::id::{ChunkIndex, ChunkRef, JobId};
use crate::job::{
    Chunk, ChunkError, ChunkState, ChunkStatus, ErrorCode, Job, JobHead, JobState, NewJob, Verdict,
};
use crate::queue::{ChunkMessage, ChunkQueue, Delivery, Depth, MAX_DELAY, QueueError};
use crate::store::{Created, DueJob, Finish, JobStore, Settle, StoreError, Strike};
use crate::transcript::TranscriptResult;
use crate::webhook;

/// How long a client waits for its job's messages to be sent. Its job is safe either way.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// How long a new job is left alone by the sweeper. Longer than a chunk takes when all is well.
pub const FIRST_CHECK: Duration = Duration::from_secs(30);

/// The longest time between two looks of the sweeper at one job.
pub const LONGEST_CHECK: Duration = Duration::from_mins(10);

/// How old a job is when a message is first sent for an unclaimed chunk whatever the queue's depth.
pub const LONGEST_SILENCE: Duration = Duration::from_mins(5);

/// How often a chunk goes back to the queue because something is down or its workers were lost: about a
/// day, at five minutes each. No outage is waited out for ever, since a job must end.
pub const MOST_REQUEUES: u32 = 300;

/// How often a chunk's worker may be lost before the chunk is taken for what kills it. Three receives
/// make a dead letter, so it goes back twice.
pub const MOST_LOST: u32 = 9;

/// Makes a job and sends its messages. `New` means that the job is durable: it will end, even if no
/// message could be sent or this process dies before it sends them, since the sweeper finds it.
pub async fn submit(
    store: &dyn JobStore,
    queue: &dyn ChunkQueue,
    new: &NewJob,
    traceparent: Option<&str>,
) -> Result<Created, StoreError> {
    let created = store.create(new, new.submitted.plus(FIRST_CHECK)).await?;
    if created != Created::New {
        return Ok(created);
    }
    let (job, chunks) = (new.job(), new.chunks());
    if timeout(SEND_PATIENCE, send(queue, &job, &chunks, traceparent)).await.is_err() {
        warn!(job_id = %new.id, "the queue did not answer in time; the sweeper will send what is missing");
    }
    Ok(Created::New)
}

/// Sends a message for each of `chunks`. What could not be sent is the sweeper's.
async fn send(queue: &dyn ChunkQueue, job: &Job, chunks: &[Chunk], traceparent: Option<&str>) -> Sent {
    let messages: Vec<_> =
        chunks.iter().map(|chunk| ChunkMessage::outgoing(job, chunk, traceparent)).collect();
    let answers = queue.send(&messages).await;
    let mut sent = Sent::default();
    for (chunk, answer) in chunks.iter().zip(answers) {
        let Err(error) = answer else {
            sent.count += 1;
            continue;
        };
        warn!(job_id = %job.head.id, chunk_index = %chunk.index, %error, "message not sent; the sweeper will send it");
        if let QueueError::Refused(why) = error {
            sent.refused.push((chunk.index, chunk.attempt, why));
        }
    }
    sent
}

#[derive(Default)]
struct Sent {
    count: usize,
    /// Chunks whose message the queue does not take, with their newest claim and the reason.
    refused: Vec<(ChunkIndex, u32, String)>,
}

/// What came of settling a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The verdict stands (this one or an earlier one), and all that follows from it was done.
    Done {
        /// Whether this verdict is the one that stands.
        mine: bool,
        /// Whether this call ended the job.
        finished: bool,
    },
    /// A failure told by one who no longer had the chunk. Nothing changed.
    Superseded,
    /// The job is gone.
    Gone,
}

/// Settles a chunk and does all that follows. Safe to repeat after a crash anywhere inside.
pub async fn settle(
    store: &dyn JobStore,
    chunk: ChunkRef,
    attempt: &Attempt,
    verdict: &Verdict,
    now: Timestamp,
) -> Result<Settled, StoreError> {
    let mine = match store.settle(chunk, attempt, verdict, now).await? {
        Settle::Settled => true,
        Settle::AlreadySettled => false,
        Settle::Superseded => return Ok(Settled::Superseded),
        Settle::Gone => return Ok(Settled::Gone),
    };
    let finished = conclude(store, chunk, now).await?;
    Ok(Settled::Done { mine, finished })
}

/// Does what follows from a chunk's being settled; whether that ended the job. For a chunk that
/// may have been settled by one who died right after.
pub async fn conclude(store: &dyn JobStore, chunk: ChunkRef, now: Timestamp) -> Result<bool, StoreError> {
    match store.strike(chunk).await? {
        Strike::AllSettled(head) => {
            let chunks = store.chunks(chunk.job).await?;
            finish(store, &head, &chunks, now).await
        }
        Strike::Remaining | Strike::Ended | Strike::Gone => Ok(false),
    }
}

/// Ends a job whose chunks are all settled; whether this call did it.
async fn finish(
    store: &dyn JobStore,
    head: &JobHead,
    chunks: &[Chunk],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let Some(result) = TranscriptResult::ended(head, chunks, now) else {
        // Erased, or struck off by one who knew the chunk before it was given another try: its verdict
        // comes yet, and with it the end.
        return Ok(false);
    };
    let finished = store.finish(head, &result).await? == Finish::Finished;
    if finished {
        ::metrics::histogram!("longhand_job_turnaround_seconds", "status" => result.job_status.as_str())
            .record(now.since(head.since()));
        info!(
            job_id = %head.id,
            job_status = %result.job_status,
            chunks = head.chunk_count,
            turnaround_ms = now.millis_since(head.since()),
            "job ended"
        );
    }
    Ok(finished)
}

/// What became of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burial {
    /// Its chunk failed with [`ErrorCode::DeadLettered`], and all that follows was done.
    Failed,
    /// Its chunk was settled before, or is in the charge of another message, or is gone: the dead letter
    /// says nothing any more.
    Stale,
    /// Its chunk is not to blame, as far as can be told: it wants a new message.
    Blameless,
}

/// Applies a dead letter: a message that was handed out as often as may be and never finished.
///
/// Hosts die and deploys go wrong, so a chunk that was merely lost goes back, but not for ever: what
/// kills worker after worker must not go on. One that has taken longer than any work may has had its say.
pub async fn bury(
    store: &dyn JobStore,
    chunk: ChunkRef,
    letter: &Delivery,
    now: Timestamp,
) -> Result<Burial, StoreError> {
    let chunks = store.chunks(chunk.job).await?;
    let Some(standing) = chunks.into_iter().find(|standing| standing.index == chunk.index) else {
        return Ok(Burial::Stale);
    };
    match &standing.state {
        ChunkState::Settled { .. } => {
            conclude(store, chunk, now).await?;
            return Ok(Burial::Stale);
        }
        ChunkState::InProgress { by, .. } if by != letter.origin() => return Ok(Burial::Stale),
        ChunkState::InProgress { .. } | ChunkState::Pending => {}
    }
    // A copy of this message has the chunk, or had it and could not say so when it was put back.
    let copy =
        matches!(&standing.state, ChunkState::InProgress { message, .. } if *message != letter.message_id);
    let since_verdict = standing.history.iter().rev().take_while(|a| a.outcome != AttemptOutcome::Failed);
    let overdue = since_verdict.filter(|attempt| attempt.outcome == AttemptOutcome::Overdue).count();
    let attempts = standing.attempts();
    let had_its_say = overdue > 0 || attempts >= MOST_LOST;
    if (copy || !had_its_say) && letter.envelope.requeues < MOST_REQUEUES {
        return Ok(Burial::Blameless);
    }
    let reason = if overdue > 0 {
        format!("it was never done in time, {overdue} times of {attempts}")
    } else {
        format!("it was handed out again and again and never finished; its workers died {attempts} times")
    };
    let verdict = Verdict::Failed(ChunkError::new(ErrorCode::DeadLettered, reason));
    Ok(match settle(store, chunk, &Attempt::number(standing.attempt), &verdict, now).await? {
        Settled::Done { mine: true, .. } => Burial::Failed,
        // Claimed since, perhaps for a copy of this very message, and perhaps given back again.
        Settled::Superseded => Burial::Blameless,
        Settled::Done { mine: false, .. } | Settled::Gone => Burial::Stale,
    })
}

/// What came of giving a job another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// This many failed chunks are tried anew; the job is open again.
    Retried(usize),
    /// The job is in progress, perhaps since another has just given it another try.
    InProgress,
    /// The job ended without a failure.
    NothingFailed,
    /// The job is gone.
    Gone,
}

/// Has the failed chunks of an ended job tried anew, only those. `Ok(Retried)` means that it is durable.
pub async fn retry(
    store: &dyn JobStore,
    queue: &dyn ChunkQueue,
    id: JobId,
    now: Timestamp,
) -> Result<Retry, StoreError> {
    let Some(job) = store.job(id).await? else {
        return Ok(Retry::Gone);
    };
    match job.head.state {
        JobState::Open => return Ok(Retry::InProgress),
        JobState::Ended { completely: true, .. } => return Ok(Retry::NothingFailed),
        JobState::Ended { completely: false, .. } => {}
    }
    let mut chunks = store.chunks(id).await?;
    chunks.retain(|chunk| chunk.status() == ChunkStatus::Failed);
    let failed: Vec<ChunkIndex> = chunks.iter().map(|chunk| chunk.index).collect();
    if !store.reopen(&job.head, &failed, now, now.plus(FIRST_CHECK)).await? {
        return Ok(Retry::InProgress);
    }
    if timeout(SEND_PATIENCE, send(queue, &job, &chunks, None)).await.is_err() {
        warn!(job_id = %id, "the queue did not answer in time; the sweeper will send what is missing");
    }
    info!(job_id = %id, chunks = failed.len(), "another try for the failed chunks");
    Ok(Retry::Retried(failed.len()))
}

/// What the sweeper did for one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Messages sent again.
    pub sent: usize,
    /// Chunks struck off that a crash had left in the set.
    pub struck: usize,
    /// Chunks failed whose message the queue does not take.
    pub failed: usize,
    /// Whether the job was ended.
    pub finished: bool,
    /// Whether it had ended before, and its end is yet to be told ([`webhook::announce`]).
    pub untold: bool,
}

impl Repair {
    /// Whether nothing was amiss.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Looks at one due job and does whatever a crash left undone. Safe in any number of workers at
/// once: putting the next check off decides who does it.
///
/// `depth` is the queue's, read before. `silence` is the one that workers claim with: how long a
/// claimed chunk may be silent before the message behind it is taken for lost.
pub async fn repair(
    store: &dyn JobStore,
    queue: &dyn ChunkQueue,
    due: &DueJob,
    depth: Depth,
    silence: Duration,
    now: Timestamp,
) -> Result<Repair, StoreError> {
    let job = match store.job(due.job).await {
        Ok(Some(job)) => job,
        Ok(None) => return Ok(Repair::default()),
        Err(error) => {
            // One that cannot be read must not stand before the others for ever.
            if matches!(error, StoreError::Corrupt(_)) {
                store.postpone(due, now.plus(LONGEST_CHECK)).await?;
            }
            return Err(error);
        }
    };
    if let Some((ended, _)) = webhook::untold(&job.head) {
        let untold = store.postpone(due, webhook::next_reminder(ended, now)).await?;
        return Ok(Repair { untold, ..Repair::default() });
    }
    if job.head.state != JobState::Open {
        // The index lags behind the table; the job's item leaves it by itself.
        return Ok(Repair::default());
    }
    let age = now.since(job.head.since());
    let next_check = next_check(&job.head, depth, now);
    if !store.postpone(due, next_check).await? {
        return Ok(Repair::default());
    }
    let chunks = store.chunks(due.job).await?;
    let mut repair = Repair::default();

    let left_behind: BTreeSet<_> = chunks
        .iter()
        .filter(|chunk| chunk.is_settled() && job.unsettled.contains(&chunk.index))
        .map(|chunk| chunk.index)
        .collect();
    for index in &left_behind {
        repair.struck += 1;
        repair.finished |= conclude(store, ChunkRef { job: due.job, index: *index }, now).await?;
    }
    if chunks.iter().all(Chunk::is_settled) && left_behind.is_empty() {
        repair.finished |= finish(store, &job.head, &chunks, now).await?;
    }

    let unheard: Vec<Chunk> = chunks
        .into_iter()
        .filter(|chunk| match chunk.state {
            // Waiting is no fault while the queue has messages that may be this chunk's. But a
            // queue that is never empty must not hide a message that was never sent.
            ChunkState::Pending => match chunk.last_claim {
                None => (depth.visible == 0 && depth.delayed == 0) || is_turn(&job.head, due, now),
                // Given back: its message waits out a delay, which is not for ever.
                Some(last) => now.since(last) >= MAX_DELAY + LONGEST_SILENCE,
            },
            ChunkState::InProgress { claimed, .. } => now.since(claimed) >= silence,
            ChunkState::Settled { .. } => false,
        })
        .collect();
    if !unheard.is_empty() {
        let sent = send(queue, &job, &unheard, None).await;
        repair.sent = sent.count;
        // What the queue has refused for minutes it will always refuse, and a job must end.
        for (index, attempt, why) in sent.refused.into_iter().filter(|_| age >= LONGEST_SILENCE) {
            let error =
                ChunkError::new(ErrorCode::Internal, format!("the queue does not take its message: {why}"));
            let (at, attempt) = (ChunkRef { job: due.job, index }, Attempt::number(attempt));
            let settled = settle(store, at, &attempt, &Verdict::Failed(error), now).await?;
            repair.failed += 1;
            repair.finished |= matches!(settled, Settled::Done { finished: true, .. });
        }
    }
    if !repair.is_empty() {
        report(due.job, repair);
    }
    Ok(repair)
}

/// When to look again. The longer a job waits the less often, and the more messages there are the less
/// often, so that all sweeps together look at a few jobs a second however many wait. But never past the
/// next of its turns.
fn next_check(job: &JobHead, depth: Depth, now: Timestamp) -> Timestamp {
    let age = now.since(job.since());
    let messages = depth.visible.saturating_add(depth.in_flight).saturating_add(depth.delayed);
    let crowd = u32::try_from(messages / 100).unwrap_or(u32::MAX);
    let pause =
        age.clamp(FIRST_CHECK, LONGEST_CHECK).min(FIRST_CHECK.saturating_mul(crowd.saturating_add(1)));
    let turn = turns().find(|turn| *turn > age).unwrap_or(Duration::MAX);
    now.plus(pause).min(job.since().plus(turn))
}

/// The ages at which a message is sent for an unclaimed chunk whatever the queue says: five minutes, and
/// twice that, and twice that again. So what waits in a long queue gets ever fewer copies.
fn turns() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(LONGEST_SILENCE), |turn| turn.checked_mul(2))
}

/// Whether one of the job's turns has come between the time for which this look was put down and now.
fn is_turn(job: &JobHead, due: &DueJob, now: Timestamp) -> bool {
    let (from, to) = (due.next_check.since(job.since()), now.since(job.since()));
    turns().take_while(|turn| *turn <= to).any(|turn| turn >= from)
}

fn report(job: JobId, repair: Repair) {
    let Repair { sent, struck, failed, finished, untold: _ } = repair;
    let kinds = [("sent", sent), ("struck", struck), ("failed", failed), ("finished", usize::from(finished))];
    for (kind, count) in kinds {
        ::metrics::counter!("longhand_sweep_repairs_total", "kind" => kind).increment(count as u64);
    }
    warn!(job_id = %job, sent, struck, failed, finished, "repaired a job that something had left half-done");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Metadata, TranscribeOptions};

    fn job() -> JobHead {
        let user = "ana".parse().expect("a user");
        let paths = vec!["a.wav".parse().expect("a path")];
        let (options, metadata) = (TranscribeOptions::default(), Metadata::new());
        NewJob::new(user, paths, options, metadata, Timestamp::from_unix(1_000)).expect("a job").job().head
    }

    /// The ages, in seconds, at which a job is looked at within a day, each with whether it is its turn.
    fn looks(depth: Depth) -> Vec<(u64, bool)> {
        let job = job();
        let mut due = DueJob { job: job.id, next_check: job.submitted.plus(FIRST_CHECK) };
        let mut looks = Vec::new();
        while due.next_check < job.submitted.plus(Duration::from_hours(24)) {
            // A sweep comes a little later.
            let now = due.next_check.plus(Duration::from_millis(7_001));
            looks.push((now.since(job.submitted).as_secs(), is_turn(&job, &due, now)));
            due.next_check = next_check(&job, depth, now);
        }
        looks
    }

    #[test]
    fn what_waits_in_a_long_queue_gets_ever_fewer_copies_and_looks() {
        for visible in [0, 50, 700, 1_000_000] {
            let looks = looks(Depth { visible, ..Depth::default() });
            let turns: Vec<_> = looks.iter().filter(|(_, turn)| *turn).map(|(age, _)| age / 60).collect();
            assert_eq!(turns, [5, 10, 20, 40, 80, 160, 320, 640, 1280], "{visible}");
        }
        let a_day = |visible| looks(Depth { visible, ..Depth::default() }).len();
        assert!(a_day(1_000_000) < 170, "{}", a_day(1_000_000));
        assert!(a_day(0) < 24 * 120, "{}", a_day(0));
    }

    #[test]
    fn a_job_is_looked_at_soon_again_while_little_is_going_on() {
        let (job, hour) = (job(), Duration::from_hours(1));
        let idle = Depth { visible: 7, ..Depth::default() };
        let now = job.submitted.plus(hour);
        assert_eq!(next_check(&job, idle, now), now.plus(FIRST_CHECK));
        let crowd = Depth { in_flight: 100_000, ..Depth::default() };
        assert_eq!(next_check(&job, crowd, now), now.plus(LONGEST_CHECK));
    }
}
