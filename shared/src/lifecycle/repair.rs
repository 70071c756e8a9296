//! The sweeper's check of a job, which does what a crash left undone.

use std::time::Duration;

use tracing::warn;

use super::{Lifecycle, Settled};
use crate::domain::attempt::Attempt;
use crate::domain::callback::{self, CallbackState};
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, ChunkRef, JobId};
use crate::domain::job::{Chunk, ChunkError, ChunkState, ErrorCode, Job, JobHead, JobState, Verdict};
use crate::queue::{Depth, MAX_DELAY};
use crate::store::{DueJob, FIRST_CHECK, StoreError};

/// The maximum duration of a check. A check that is not complete by then is due again.
const CHECK_TIMEOUT: Duration = Duration::from_mins(1);

/// The maximum time between two checks of a job.
pub const MAX_CHECK_INTERVAL: Duration = Duration::from_mins(10);

/// The age of a job at which a message is first sent for an unclaimed chunk regardless of the queue's depth.
pub const RESEND_AFTER: Duration = Duration::from_mins(5);

/// How long a settled chunk may be in its job's unsettled set while others are not settled: its worker may wait for them.
const LEFT_BEHIND_AFTER: Duration = Duration::from_mins(1);

/// What the sweeper did for one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Messages sent again.
    pub sent: usize,
    /// Settled chunks that were still in the job's unsettled set.
    pub struck: usize,
    /// Chunks that failed because the queue refuses their message.
    pub failed: usize,
    /// Whether the job ended.
    pub finished: bool,
    /// Whether the message of a pending webhook was sent again.
    pub announced: bool,
}

impl Repair {
    /// Whether nothing had to be done.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn report(self, job: JobId) {
        let Self { sent, struck, failed, finished, announced: _ } = self;
        let kinds =
            [("sent", sent), ("struck", struck), ("failed", failed), ("finished", usize::from(finished))];
        for (kind, count) in kinds {
            ::metrics::counter!("longhand_sweep_repairs_total", "kind" => kind).increment(count as u64);
        }
        warn!(job_id = %job, sent, settled = struck, failed, finished, "the sweeper repaired a job");
    }
}

impl Lifecycle {
    /// Checks one due job and does what a crash left undone. Any number of workers may call it at once: the worker that
    /// postpones the next check does the work.
    ///
    /// `depth` is the queue's, read before. `claim_timeout` is the one that workers claim with: how long a claimed
    /// chunk may be silent before the message behind it counts as lost.
    pub async fn repair(
        &self,
        due: &DueJob,
        depth: Depth,
        claim_timeout: Duration,
        now: Timestamp,
    ) -> Result<Repair, StoreError> {
        let job = match self.store.job(due.job).await {
            Ok(Some(job)) => job,
            Ok(None) => return Ok(Repair::default()),
            Err(error) => {
                // A job that cannot be read must not delay the others.
                if matches!(error, StoreError::Corrupt(_)) {
                    self.store.postpone(due, now.plus(MAX_CHECK_INTERVAL), None).await?;
                }
                return Err(error);
            }
        };
        if let Some((ended, _)) = job.head.ended_with(CallbackState::Pending) {
            return self.remind(due, ended, now).await;
        }
        if job.head.state != JobState::Open {
            // The index lags behind the table. The job's item leaves the index by itself.
            return Ok(Repair::default());
        }
        // After a crash from here on, a later sweep repeats the check.
        let look = DueJob { job: due.job, next_check: now.plus(CHECK_TIMEOUT) };
        let since = job.check_from.unwrap_or(due.next_check);
        if !self.store.postpone(due, look.next_check, Some(since)).await? {
            return Ok(Repair::default());
        }
        let repair = self.look(&job, since, depth, claim_timeout, now).await?;
        if !repair.finished {
            self.store.postpone(&look, next_check(&job.head, depth, now), None).await?;
        }
        if !repair.is_empty() {
            repair.report(due.job);
        }
        Ok(repair)
    }

    /// Sends the message of a pending webhook again. The job ended at `ended`.
    async fn remind(&self, due: &DueJob, ended: Timestamp, now: Timestamp) -> Result<Repair, StoreError> {
        let announced = self.store.postpone(due, callback::next_reminder(ended, now), None).await?;
        if announced && self.webhooks.is_none() {
            warn!(job_id = %due.job, "cannot deliver a webhook: LONGHAND_WEBHOOK_QUEUE_URL is not set");
        } else if announced {
            self.announce(due.job).await;
        }
        Ok(Repair { announced, ..Repair::default() })
    }

    /// Does what a crash left undone for an open job. The check has been due since `since`.
    async fn look(
        &self,
        job: &Job,
        since: Timestamp,
        depth: Depth,
        claim_timeout: Duration,
        now: Timestamp,
    ) -> Result<Repair, StoreError> {
        let id = job.head.id;
        let chunks = self.store.chunks(id).await?;
        let mut repair = Repair::default();

        let all_settled = chunks.iter().all(Chunk::is_settled);
        let left_behind = left_behind(job, &chunks, all_settled, now);
        if !left_behind.is_empty() {
            repair.struck += left_behind.len();
            repair.finished |= self.conclude(id, &left_behind, now).await?;
        }
        if all_settled && left_behind.is_empty() {
            repair.finished |= self.finish(&job.head, &chunks, now).await?;
        }

        let is_turn = is_turn(&job.head, since, now);
        let lost: Vec<Chunk> =
            chunks.into_iter().filter(|chunk| is_lost(chunk, depth, is_turn, claim_timeout, now)).collect();
        if lost.is_empty() {
            return Ok(repair);
        }
        let sent = self.send(job, &lost, None).await;
        repair.sent = sent.count;
        // The queue has refused these messages for minutes, and every job must end.
        if now.since(job.head.since()) >= RESEND_AFTER {
            for refused in sent.refused {
                repair.failed += 1;
                repair.finished |= self.fail_refused(id, refused, now).await?;
            }
        }
        Ok(repair)
    }

    /// Fails a chunk whose message the queue refuses. `true` if that ended the job.
    async fn fail_refused(
        &self,
        job: JobId,
        (index, attempt, why): (ChunkIndex, u32, String),
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let error = ChunkError::new(ErrorCode::Internal, format!("the queue refuses its message: {why}"));
        let (chunk, attempt) = (ChunkRef { job, index }, Attempt::number(attempt));
        let settled = self.settle(chunk, &attempt, &Verdict::Failed(error), now).await?;
        Ok(matches!(settled, Settled::Done { finished: true, .. }))
    }
}

/// The settled chunks that are still in the job's unsettled set, without those that may wait for others.
fn left_behind(job: &Job, chunks: &[Chunk], all_settled: bool, now: Timestamp) -> Vec<ChunkIndex> {
    let is_left = |chunk: &&Chunk| match chunk.state {
        ChunkState::Settled { at, .. } => all_settled || now.since(at) >= LEFT_BEHIND_AFTER,
        ChunkState::Pending | ChunkState::InProgress { .. } => false,
    };
    let unsettled = chunks.iter().filter(|chunk| job.unsettled.contains(&chunk.index));
    unsettled.filter(is_left).map(|chunk| chunk.index).collect()
}

/// Whether a chunk needs a new message. With `is_turn`, the queue's depth does not matter.
fn is_lost(chunk: &Chunk, depth: Depth, is_turn: bool, claim_timeout: Duration, now: Timestamp) -> bool {
    match chunk.state {
        // The chunk's message may be among those in the queue. But a queue that is never empty must not hide a
        // message that was never sent.
        ChunkState::Pending => match chunk.last_claim {
            None => (depth.visible == 0 && depth.delayed == 0) || is_turn,
            // Released: its message is delayed, for a bounded time.
            Some(last) => now.since(last) >= MAX_DELAY + RESEND_AFTER,
        },
        ChunkState::InProgress { claimed, .. } => now.since(claimed) >= claim_timeout,
        ChunkState::Settled { .. } => false,
    }
}

/// The time of the next check. Checks are rarer for older jobs and for longer queues, so that all sweeps together check
/// a few jobs per second. At the latest at the job's next turn.
fn next_check(job: &JobHead, depth: Depth, now: Timestamp) -> Timestamp {
    let age = now.since(job.since());
    let messages = depth.visible.saturating_add(depth.in_flight).saturating_add(depth.delayed);
    let crowd = u32::try_from(messages / 100).unwrap_or(u32::MAX);
    let pause =
        age.clamp(FIRST_CHECK, MAX_CHECK_INTERVAL).min(FIRST_CHECK.saturating_mul(crowd.saturating_add(1)));
    let turn = turns().find(|turn| *turn > age).unwrap_or(Duration::MAX);
    now.plus(pause).min(job.since().plus(turn))
}

/// The ages of a job at which a message is sent for an unclaimed chunk regardless of the queue's depth: five minutes,
/// doubled each time, so that a long queue gets few copies.
fn turns() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(RESEND_AFTER), |turn| turn.checked_mul(2))
}

/// Whether a turn of the job is between the time when this check was due and now.
fn is_turn(job: &JobHead, due: Timestamp, now: Timestamp) -> bool {
    let (from, to) = (due.since(job.since()), now.since(job.since()));
    turns().take_while(|turn| *turn <= to).any(|turn| turn >= from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::{Metadata, NewJob, TranscribeOptions};

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
            looks.push((now.since(job.submitted).as_secs(), is_turn(&job, due.next_check, now)));
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
        assert_eq!(next_check(&job, crowd, now), now.plus(MAX_CHECK_INTERVAL));
    }
}
