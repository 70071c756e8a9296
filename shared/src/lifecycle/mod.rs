//! The job protocol between the table and the queue. The table holds the truth. A message only says that a chunk
//! may need work: any number of messages, late or duplicate, changes nothing.
//!
//! ```text
//! submit   create the job -> send a message for each chunk
//! settle   store the chunk's verdict -> remove it from the job's unsettled set -> if it was the last: finish
//! finish   read the chunks -> stitch -> store transcript and job status in one transaction -> announce
//! repair   what a crash left undone between any two of these steps, found by the sweeper
//! ```
//!
//! A process can die after every step. Each step is safe to repeat, and a redelivery or the sweeper does the others.

mod repair;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::cache::{Cache, Change};
use crate::domain::attempt::{Attempt, AttemptOutcome, Claimant};
use crate::domain::callback::CallbackState;
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, ChunkRef, JobId};
use crate::domain::job::{
    Chunk, ChunkError, ChunkState, ChunkStatus, ErrorCode, Job, JobHead, JobState, NewJob, Verdict,
};
use crate::domain::transcript::TranscriptResult;
use crate::queue::{ChunkMessage, ChunkQueue, Delivery, QueueError};
use crate::store::{Claim, Created, FIRST_CHECK, Finish, JobStore, RemoveUnsettled, Settle, StoreError};
use crate::webhook::WebhookMessage;

pub use repair::{MAX_CHECK_INTERVAL, RESEND_AFTER, Repair};
pub use whole::Whole;

/// How long a step waits for messages to be sent. The sweeper sends what is missing.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a chunk goes back to the queue because something is down or its workers were lost: about a
/// day, at up to five minutes each. The number is bounded, since every job must end.
pub const MAX_REQUEUES: u32 = 300;

/// How often a chunk's worker may be lost before the chunk is blamed for it. Three receives make a dead
/// letter, so a chunk goes back twice.
pub const MAX_LOST_ATTEMPTS: u32 = 9;

/// The owner of the job protocol: every step that changes a job goes through it, except the result of a webhook call.
/// It updates the cache and announces webhooks after the step in the table. Their failures never fail the step.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    store: Arc<dyn JobStore>,
    queue: Arc<dyn ChunkQueue>,
    webhooks: Option<Arc<dyn ChunkQueue>>,
    cache: Option<Cache>,
}

/// The outcome of [`Lifecycle::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// A verdict stands, and everything that follows from it is done.
    Done {
        /// Whether it is this call's verdict, not an earlier one.
        mine: bool,
        /// Whether this call ended the job.
        finished: bool,
    },
    /// A failure reported by a worker that no longer owns the chunk. Nothing changed.
    Superseded,
    /// The job was erased.
    Gone,
}

/// The outcome of [`Lifecycle::dead_letter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetter {
    /// Its chunk failed with [`ErrorCode::DeadLettered`], and everything that follows is done.
    Failed,
    /// Its chunk is settled, owned by another message, or gone: the dead letter is not needed.
    Stale,
    /// Its chunk is probably not to blame: it needs a new message.
    Redrive,
}

/// The outcome of [`Lifecycle::retry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The job is open again, with this many failed chunks to transcribe.
    Retried(usize),
    /// The job is in progress, perhaps because of a concurrent retry.
    InProgress,
    /// No chunk of the job failed.
    NothingFailed,
    /// The job does not exist.
    Gone,
}

/// What became of sent messages.
#[derive(Default)]
struct Sent {
    count: usize,
    /// Chunks whose message the queue refuses, with their newest claim and the reason.
    refused: Vec<(ChunkIndex, u32, String)>,
}

impl Lifecycle {
    pub fn new(store: Arc<dyn JobStore>, queue: Arc<dyn ChunkQueue>) -> Self {
        Self { store, queue, webhooks: None, cache: None }
    }

    /// Announces the ends of jobs on this queue. Without one, the sweeper of a worker that has one does.
    #[must_use]
    pub fn with_webhooks(self, webhooks: Option<Arc<dyn ChunkQueue>>) -> Self {
        Self { webhooks, ..self }
    }

    /// Keeps results in this cache, and publishes changes through it.
    #[must_use]
    pub fn with_cache(self, cache: Cache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    pub fn store(&self) -> &Arc<dyn JobStore> {
        &self.store
    }

    pub fn queue(&self) -> &Arc<dyn ChunkQueue> {
        &self.queue
    }

    /// Creates a job and sends its messages. `New` means that the job is durable: it will end even if no
    /// message could be sent or this process dies before it sends them, since the sweeper finds it.
    pub async fn submit(&self, new: &NewJob, traceparent: Option<&str>) -> Result<Created, StoreError> {
        let created = self.store.create(new, new.submitted.plus(FIRST_CHECK)).await?;
        if created == Created::New {
            self.send_in_time(&new.job(), &new.chunks(), traceparent).await;
        }
        Ok(created)
    }

    async fn send_in_time(&self, job: &Job, chunks: &[Chunk], traceparent: Option<&str>) {
        if timeout(SEND_TIMEOUT, self.send(job, chunks, traceparent)).await.is_err() {
            warn!(job_id = %job.head.id, "the queue did not answer in time; the sweeper will send what is missing");
        }
    }

    /// Sends a message for each of `chunks`.
    async fn send(&self, job: &Job, chunks: &[Chunk], traceparent: Option<&str>) -> Sent {
        let messages: Vec<_> =
            chunks.iter().map(|chunk| ChunkMessage::outgoing(job, chunk, traceparent)).collect();
        let answers = self.queue.send(&messages).await;
        let mut sent = Sent::default();
        for (chunk, answer) in chunks.iter().zip(answers) {
            let Err(error) = answer else {
                sent.count += 1;
                continue;
            };
            warn!(job_id = %job.head.id, chunk_index = %chunk.index, %error, "message not sent; the sweeper tries again, for 5 minutes if the queue refuses it");
            if let QueueError::Refused(why) = error {
                sent.refused.push((chunk.index, chunk.attempt, why));
            }
        }
        sent
    }

    /// Claims a chunk: see [`JobStore::claim`].
    pub async fn claim(
        &self,
        chunk: ChunkRef,
        by: Claimant<'_>,
        now: Timestamp,
        claim_timeout: Duration,
    ) -> Result<Claim, StoreError> {
        let claim = self.store.claim(chunk, by, now, claim_timeout).await?;
        if matches!(claim, Claim::Claimed(_)) {
            self.publish(chunk.job, Change::Chunk).await;
        }
        Ok(claim)
    }

    /// See [`JobStore::release`].
    pub async fn release(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        let released = self.store.release(chunk, attempt).await?;
        if released {
            self.publish(chunk.job, Change::Chunk).await;
        }
        Ok(released)
    }

    /// Stores what is known of a running claim: see [`JobStore::note`].
    pub async fn note(&self, chunk: ChunkRef, attempt: &Attempt) -> Result<(), StoreError> {
        self.store.note(chunk, attempt).await?;
        self.publish(chunk.job, Change::Chunk).await;
        Ok(())
    }

    /// Settles a chunk and does everything that follows. Safe to repeat after a crash anywhere inside.
    pub async fn settle(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Settled, StoreError> {
        match self.store_verdict(chunk, attempt, verdict, now).await? {
            Settle::Superseded => Ok(Settled::Superseded),
            Settle::Gone => Ok(Settled::Gone),
            stored @ (Settle::Settled | Settle::AlreadySettled) => {
                let finished = self.conclude(chunk.job, &[chunk.index], now).await?;
                Ok(Settled::Done { mine: stored == Settle::Settled, finished })
            }
        }
    }

    /// Stores a chunk's verdict and no more. [`Lifecycle::conclude`] must follow if the chunk is settled.
    pub async fn store_verdict(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Settle, StoreError> {
        let stored = self.store.settle(chunk, attempt, verdict, now).await?;
        if stored == Settle::Settled {
            self.publish(chunk.job, Change::Chunk).await;
        }
        Ok(stored)
    }

    /// Does what follows from settled chunks, perhaps settled by a process that died right after. `true` if that
    /// ended the job.
    pub async fn conclude(
        &self,
        job: JobId,
        settled: &[ChunkIndex],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let RemoveUnsettled::AllSettled(head) = self.store.remove_unsettled(job, settled).await? else {
            return Ok(false);
        };
        let chunks = self.store.chunks(job).await?;
        self.finish(&head, &chunks, now).await
    }

    /// Ends a job whose chunks are all settled. `true` if this call ended it.
    async fn finish(&self, head: &JobHead, chunks: &[Chunk], now: Timestamp) -> Result<bool, StoreError> {
        let Some(result) = TranscriptResult::ended(head, chunks, now) else {
            // The job was erased. Or a chunk that is being retried was removed from the unsettled set by a
            // process that knew its old verdict: its new verdict ends the job.
            return Ok(false);
        };
        if self.store.finish(head, &result).await? == Finish::NotOpen {
            return Ok(false);
        }
        ::metrics::histogram!("longhand_job_turnaround_seconds", "status" => result.job_status.as_str())
            .record(now.since(head.since()));
        info!(
            job_id = %head.id,
            job_status = %result.job_status,
            chunks = head.chunk_count,
            turnaround_ms = now.millis_since(head.since()),
            "job ended"
        );
        // The state of a webhook is part of a result, and still changes.
        if let Some(cache) = &self.cache {
            cache.put_and_publish(&result, head.callback.is_none()).await;
        }
        if head.callback.is_some() {
            self.announce(head.id).await;
        }
        Ok(true)
    }

    /// Sends the webhook message of an ended job if its client asked for one. The sweeper sends what cannot be sent now.
    pub async fn announce(&self, id: JobId) {
        let Some(webhooks) = &self.webhooks else { return };
        let sending = async {
            let job = self.store.job(id).await.map_err(|error| error.to_string())?;
            let head = job.as_ref().map(|job| &job.head);
            let Some((ended, _)) = head.and_then(|head| head.ended_with(CallbackState::Pending)) else {
                return Ok(());
            };
            let message = head.map(|head| WebhookMessage::outgoing(head, ended));
            for answer in webhooks.send(message.as_slice()).await {
                answer.map_err(|error| error.to_string())?;
            }
            debug!(job_id = %id, "webhook message sent");
            Ok(())
        };
        let sent = timeout(SEND_TIMEOUT, sending).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            warn!(job_id = %id, error, "webhook message not sent; the sweeper will send it");
        }
    }

    /// Applies a dead letter: a message that was received as often as allowed and never finished.
    ///
    /// A chunk whose workers were merely lost goes back to the queue: hosts die and deployments go wrong. But a
    /// chunk that kills worker after worker, or takes longer than any chunk may, fails.
    pub async fn dead_letter(
        &self,
        chunk: ChunkRef,
        letter: &Delivery,
        now: Timestamp,
    ) -> Result<DeadLetter, StoreError> {
        let chunks = self.store.chunks(chunk.job).await?;
        let Some(stored) = chunks.into_iter().find(|stored| stored.index == chunk.index) else {
            return Ok(DeadLetter::Stale);
        };
        match &stored.state {
            ChunkState::Settled { .. } => {
                self.conclude(chunk.job, &[chunk.index], now).await?;
                return Ok(DeadLetter::Stale);
            }
            // The owning message, or a later copy of it, is delivered again.
            ChunkState::InProgress { by, .. }
                if by.origin != letter.origin() || !letter.claimant("").follows(by) =>
            {
                return Ok(DeadLetter::Stale);
            }
            ChunkState::InProgress { .. } | ChunkState::Pending => {}
        }
        let since_verdict = stored.history.iter().rev().take_while(|a| a.outcome != AttemptOutcome::Failed);
        let overdue = since_verdict.filter(|attempt| attempt.outcome == AttemptOutcome::Overdue).count();
        let attempts = stored.attempts();
        // Claimed for an earlier copy of this message, whose claim could not be released.
        let by_copy =
            matches!(&stored.state, ChunkState::InProgress { by, .. } if by.message != letter.message_id);
        let to_blame = (overdue > 0 || attempts >= MAX_LOST_ATTEMPTS) && !by_copy;
        if !to_blame && letter.envelope.requeues < MAX_REQUEUES {
            return Ok(DeadLetter::Redrive);
        }
        let reason = if overdue > 0 {
            format!("{overdue} of {attempts} attempts took longer than LONGHAND_MAX_CHUNK_SECONDS")
        } else {
            format!("none of {attempts} attempts finished: the workers crashed or lost contact")
        };
        let verdict = Verdict::Failed(ChunkError::new(ErrorCode::DeadLettered, reason));
        Ok(match self.settle(chunk, &Attempt::number(stored.attempt), &verdict, now).await? {
            Settled::Done { mine: true, .. } => DeadLetter::Failed,
            // Claimed since, perhaps for a copy of this message, and perhaps released again.
            Settled::Superseded => DeadLetter::Redrive,
            Settled::Done { mine: false, .. } | Settled::Gone => DeadLetter::Stale,
        })
    }

    /// Retries the failed chunks of a finished job. `Ok(Retried)` means that the retry is durable.
    pub async fn retry(&self, id: JobId, now: Timestamp) -> Result<Retry, StoreError> {
        let Some(job) = self.store.job(id).await? else {
            return Ok(Retry::Gone);
        };
        match job.head.state {
            JobState::Open => return Ok(Retry::InProgress),
            JobState::Ended { completely: true, .. } => return Ok(Retry::NothingFailed),
            JobState::Ended { completely: false, .. } => {}
        }
        let mut chunks = self.store.chunks(id).await?;
        chunks.retain(|chunk| chunk.status() == ChunkStatus::Failed);
        let failed: Vec<ChunkIndex> = chunks.iter().map(|chunk| chunk.index).collect();
        if !self.store.reopen(&job.head, &failed, now, now.plus(FIRST_CHECK)).await? {
            return Ok(Retry::InProgress);
        }
        // The cache holds no result of a failed job.
        self.publish(id, Change::Job).await;
        self.send_in_time(&job, &chunks, None).await;
        info!(job_id = %id, chunks = failed.len(), "retrying the failed chunks");
        Ok(Retry::Retried(failed.len()))
    }

    /// Erases a job: see [`JobStore::erase`].
    pub async fn erase(&self, id: JobId) -> Result<bool, StoreError> {
        let erased = self.store.erase(id).await?;
        if erased {
            if let Some(cache) = &self.cache {
                cache.erased(id).await;
            }
            self.publish(id, Change::Job).await;
        }
        Ok(erased)
    }

    async fn publish(&self, id: JobId, change: Change) {
        if let Some(cache) = &self.cache {
            cache.publish(id, change).await;
        }
    }
}
