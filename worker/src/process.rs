//! Handles one chunk: parse, claim, transcribe, settle. Read it from top to bottom.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use longhand_shared::domain::attempt::Attempt;
use longhand_shared::domain::job::{Chunk, ChunkError, ErrorCode, JobHead, Verdict};
use longhand_shared::lifecycle::{Lifecycle, MAX_REQUEUES, Whole};
use longhand_shared::net::backoff::backoff;
use longhand_shared::queue::{ChunkMessage, Delivery, Progress};
use longhand_shared::store::{Claim, Settle, StoreError};
use longhand_shared::{AudioPath, ChunkRef, Timestamp, service::trace};
use metrics::{counter, histogram};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{Instrument, error, field, info, info_span, warn};

use crate::asr::{Asr, ChunkRequest, FailedCall, TranscribeError};
use crate::audio::{AudioStore, ChunkAudio};
use crate::failure::{Failure, Next};
use crate::handler::{Handler, Outcome, retry_backoff};
use crate::lease::{Lease, Stop};
use crate::siblings::{Member, Siblings, Turn};

/// How often the steps of settling are repeated in all while the table does not answer. Then the message returns to the
/// queue. If the verdict is not stored, the model is called again, which is expensive.
const SETTLE_RETRIES: usize = 4;

/// The first pause of the backoff.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Processor {
    pub lifecycle: Lifecycle,
    pub audio: AudioStore,
    pub asr: Arc<Asr>,
    /// How long a claim blocks other messages: longer than any attempt takes.
    pub claim_timeout: Duration,
    /// The worker's name in the history of chunks.
    pub name: String,
    pub siblings: Siblings,
}

#[async_trait]
impl Handler for Processor {
    async fn handle(&self, delivery: &Delivery, lease: &Lease) -> Outcome {
        let message = match ChunkMessage::parse(&delivery.body) {
            Ok(message) => message,
            Err(error) => return Outcome::Reject { reason: error.to_string() },
        };
        if let (1, Some(sent)) = (delivery.receive_count, delivery.sent) {
            histogram!("longhand_queue_wait_seconds").record(Timestamp::now().since(sent));
        }
        let ChunkRef { job, index } = message.chunk();
        let span = info_span!("chunk", job_id = %job, chunk_index = %index, trace_id = field::Empty, otel.kind = "consumer");
        trace::adopt(&span, delivery.envelope.traceparent.as_deref());
        self.chunk(&message, delivery, lease).instrument(span).await
    }
}

impl Processor {
    async fn chunk(&self, message: &ChunkMessage, delivery: &Delivery, lease: &Lease) -> Outcome {
        let chunk = message.chunk();
        let claimant = delivery.claimant(&self.name);
        let audio = ChunkAudio::new(&self.audio, message.path());
        if !claimant.redelivered && self.asr.guard().is_closed() {
            audio.begin();
        }
        let attempt = match self.lifecycle.claim(chunk, claimant, Timestamp::now(), self.claim_timeout).await
        {
            Ok(Claim::Claimed(attempt)) => attempt,
            Ok(Claim::Settled) => return self.conclude(chunk, delivery).await,
            Ok(Claim::Gone) => {
                info!("the job does not exist; it was erased or has expired");
                return Outcome::Done;
            }
            Ok(Claim::Busy) => {
                // The other message settles the chunk, is delivered again, or becomes a dead letter.
                info!("another message holds the claim of the chunk");
                return Outcome::Superfluous;
            }
            Err(error) => return after_store_error(delivery, &error),
        };

        let member = self.siblings.join(chunk, message.chunk_count());
        let began = Instant::now();
        match self.transcribe(message, &attempt, &audio, delivery, lease).await {
            Ok(found) => self.finish(member, &attempt, found, began.elapsed(), delivery, lease).await,
            Err(outcome) => outcome,
        }
    }

    /// The chunk's verdict and the number of model calls, or the outcome of a message without a verdict.
    async fn transcribe(
        &self,
        message: &ChunkMessage,
        attempt: &Attempt,
        audio: &ChunkAudio<'_>,
        delivery: &Delivery,
        lease: &Lease,
    ) -> Result<(Verdict, u32), Outcome> {
        let chunk = message.chunk();
        let calls = AtomicU32::new(0);
        let failed = watch::Sender::new(None);
        let envelope = &delivery.envelope;
        let request = ChunkRequest {
            audio,
            options: message.options(),
            traceparent: envelope.traceparent.as_deref(),
            progress: envelope.progress,
            first_delivery: envelope.requeues == 0,
            slot: lease.slot(),
            calls: &calls,
            failed: &failed,
            still_ours: &|| self.is_ours(chunk, attempt).boxed(),
        };
        let noting = self.note_failures(chunk, attempt, failed.subscribe());
        let result = tokio::select! {
            biased;
            why = lease.stopped() => {
                return Err(self.stopped(chunk, attempt, why, calls.load(Ordering::Relaxed), delivery).await);
            }
            result = self.asr.transcribe(&request) => result,
            never = noting => match never {},
        };
        let calls = calls.load(Ordering::Relaxed);
        match result {
            Ok(transcription) => Ok((Verdict::Completed(transcription), calls)),
            Err(TranscribeError::Failed(error)) => Ok((Verdict::Failed(error), calls)),
            Err(TranscribeError::Superseded) => {
                info!(attempt = attempt.number, calls, "a newer attempt has claimed the chunk");
                Err(Outcome::Abandon)
            }
            Err(TranscribeError::GivenBack { failure, error, pause, progress }) => {
                if let Some(error) = failed_at_last(failure, &error, delivery) {
                    warn_if_forbidden(message.path(), &error);
                    return Ok((Verdict::Failed(error), calls));
                }
                warn!(
                    attempt = attempt.number,
                    ?failure,
                    error = error.message,
                    "the message returns to the queue"
                );
                let ended = attempt.ended(failure.rule().recorded, Timestamp::now(), calls);
                let audio = progress.audio.saturating_add(u32::from(failure == Failure::AudioNotYet));
                let delay = requeue_backoff(delivery).max(pause.unwrap_or_default());
                let requeue = Outcome::RequeueWith { delay, progress: Progress { audio, ..progress } };
                Err(self.release_for(chunk, &ended, requeue).await)
            }
        }
    }

    /// Stores the verdict and does everything that follows. `took`: the time since the claim.
    async fn finish(
        &self,
        member: Member,
        attempt: &Attempt,
        (mut verdict, calls): (Verdict, u32),
        took: Duration,
        delivery: &Delivery,
        lease: &Lease,
    ) -> Outcome {
        let mut pauses = backoff(SETTLE_PAUSE, SETTLE_PAUSE * 32).take(SETTLE_RETRIES);
        let (chunk, now) = (member.chunk(), Timestamp::now());
        let mut ended = attempt.settled(&verdict, now, calls);
        let storing = self.store(chunk, &ended, &verdict, now, lease, &mut pauses);
        let (mut stored, read) = tokio::join!(storing, self.read_for_last(&member, &verdict));
        if let (Err(StoreError::Corrupt(error)), Verdict::Completed(_)) = (&stored, &verdict) {
            // The table would reject it again.
            error!(error, "the table rejected the transcription");
            let error = ChunkError::new(ErrorCode::Internal, "the transcription could not be stored");
            verdict = Verdict::Failed(error);
            ended = attempt.settled(&verdict, now, calls);
            stored = self.store(chunk, &ended, &verdict, now, lease, &mut pauses).await;
        }
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => return after_store_error(delivery, &error),
        };
        report(&verdict, stored, attempt.number, calls, took);
        // Without it, the transcription is dropped here: it may be large, and the chunk may wait for its siblings.
        let whole = read
            .filter(|_| stored == Settle::Settled)
            .and_then(|(head, chunks)| Whole::new(head, chunks, chunk.index, &ended, verdict, now));
        match stored {
            Settle::Settled | Settle::AlreadySettled => {
                let concluded = self.conclude_together(member, whole, &mut pauses).await;
                concluded.map_or_else(|error| after_store_error(delivery, &error), |()| Outcome::Done)
            }
            Settle::Gone => Outcome::Done,
            // The chunk is not settled, and this may be its only message. The claim of the next delivery decides
            // whether it is needed.
            Settle::Superseded => Outcome::Abandon,
        }
    }

    /// Stores the verdict. What follows needs no slot: it may wait for siblings.
    async fn store(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
        lease: &Lease,
        pauses: &mut impl Iterator<Item = Duration>,
    ) -> Result<Settle, StoreError> {
        let stored = again(pauses, || self.lifecycle.store_verdict(chunk, attempt, verdict, now)).await;
        if let Ok(Settle::Settled | Settle::AlreadySettled) = stored {
            lease.slot().release();
        }
        stored
    }

    /// The job and its chunks if this is the last one, to end the job after it. Read while the chunk is settled.
    async fn read_for_last(&self, member: &Member, verdict: &Verdict) -> Option<(JobHead, Vec<Chunk>)> {
        let ends = member.is_last() && matches!(verdict, Verdict::Completed(_));
        if ends { self.lifecycle.read_whole(member.chunk().job).await } else { None }
    }

    /// Does what follows from a settled chunk, together with its siblings. `whole`: the job and its chunks if this is the
    /// last one.
    async fn conclude_together(
        &self,
        member: Member,
        whole: Option<Whole>,
        pauses: &mut impl Iterator<Item = Duration>,
    ) -> Result<(), StoreError> {
        let job = member.chunk().job;
        if let Turn::Remove(removal) = member.settled().await {
            let settled = &removal.chunks;
            again(pauses, async || {
                let now = Timestamp::now();
                match &whole {
                    Some(whole) => self.lifecycle.conclude_whole(whole, settled, now).await,
                    None => self.lifecycle.conclude(job, settled, now).await,
                }
            })
            .await?;
            removal.done();
        }
        Ok(())
    }

    /// Repeats the steps after a settled chunk, since the worker that settled it may have crashed before them.
    async fn conclude(&self, chunk: ChunkRef, delivery: &Delivery) -> Outcome {
        match self.lifecycle.conclude(chunk.job, &[chunk.index], Timestamp::now()).await {
            Ok(finished) => {
                info!(finished, "the chunk is already settled");
                Outcome::Done
            }
            Err(error) => after_store_error(delivery, &error),
        }
    }

    /// Ends an attempt without a verdict. Releases the claim, so that the next delivery need not wait.
    async fn stopped(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        why: Stop,
        calls: u32,
        delivery: &Delivery,
    ) -> Outcome {
        warn!(attempt = attempt.number, calls, ?why, "stopped before the chunk was settled");
        let (failure, outcome) = match why {
            Stop::Draining => (Failure::Draining, Outcome::Requeue { delay: Duration::ZERO }),
            Stop::LeaseLost => (Failure::LeaseLost, Outcome::Abandon),
            Stop::Overdue => (Failure::Overdue, after(Failure::Overdue, delivery)),
        };
        let ended = attempt.ended(failure.rule().recorded, Timestamp::now(), calls);
        self.release_for(chunk, &ended, outcome).await
    }

    /// Stores failed calls that are followed by retries, for clients. Never ends.
    async fn note_failures(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        mut failed: watch::Receiver<Option<FailedCall>>,
    ) -> Infallible {
        while failed.changed().await.is_ok() {
            let Some(FailedCall { code, calls, most }) = *failed.borrow_and_update() else { continue };
            if let Err(error) = self.lifecycle.note(chunk, &attempt.retrying(code, calls, most)).await {
                warn!(%error, "cannot store that a call of the model failed; clients do not see it");
            }
        }
        std::future::pending().await
    }

    async fn is_ours(&self, chunk: ChunkRef, attempt: &Attempt) -> bool {
        // Continue if the table does not answer.
        self.lifecycle.store().is_claimed_by(chunk, attempt).await.unwrap_or(true)
    }

    /// Releases the claim. If there is a newer claim, the message may have been delivered again: then it is left alone,
    /// even if its old receipt handle still works. Otherwise `outcome` follows.
    async fn release_for(&self, chunk: ChunkRef, attempt: &Attempt, outcome: Outcome) -> Outcome {
        match self.lifecycle.release(chunk, attempt).await {
            Ok(true) => outcome,
            Ok(false) => Outcome::Abandon,
            Err(error) => {
                warn!(%error, "cannot release the claim; it will expire");
                outcome
            }
        }
    }
}

/// Raises the alarm for forbidden audio in S3. The operator configures the allowed buckets, so a policy is wrong.
fn warn_if_forbidden(path: &AudioPath, error: &ChunkError) {
    if error.code == ErrorCode::AudioForbidden && matches!(path, AudioPath::S3 { .. }) {
        error!(audio_forbidden = 1, reason = error.message, "no permission to read the audio");
    }
}

/// The chunk's error if its message has returned to the queue as often as this failure allows.
fn failed_at_last(failure: Failure, error: &ChunkError, delivery: &Delivery) -> Option<ChunkError> {
    let turns = match failure {
        // Returns for other reasons, such as throttling, say nothing about the audio.
        Failure::AudioNotYet => delivery.envelope.progress.audio,
        _ => delivery.envelope.requeues,
    };
    match failure.rule().next {
        Next::GiveBack(most) if turns >= most => {}
        // Every call was throttled, which does not count.
        Next::Retry if turns >= MAX_REQUEUES => {}
        Next::GiveBack(_) | Next::Retry | Next::Redeliver | Next::Fail => return None,
    }
    Some(ChunkError::new(
        error.code,
        format!("gave up after returning the message to the queue {turns} times: {}", error.message),
    ))
}

/// The outcome of a message after a failure outside the model.
fn after(failure: Failure, delivery: &Delivery) -> Outcome {
    match failure.rule().next {
        Next::GiveBack(_) => Outcome::Requeue { delay: requeue_backoff(delivery) },
        Next::Retry | Next::Redeliver | Next::Fail => {
            Outcome::Retry { delay: retry_backoff(delivery.receive_count) }
        }
    }
}

fn after_store_error(delivery: &Delivery, error: &StoreError) -> Outcome {
    warn!(%error, "the message returns to the queue");
    match error {
        StoreError::Unavailable(_) => after(Failure::TableUnavailable, delivery),
        StoreError::Corrupt(_) => after(Failure::TableCorrupt, delivery),
    }
}

fn requeue_backoff(delivery: &Delivery) -> Duration {
    retry_backoff(delivery.envelope.requeues.saturating_add(1))
}

/// Repeats a step while the table does not answer and there are pauses left.
async fn again<T, F: Future<Output = Result<T, StoreError>>>(
    pauses: &mut impl Iterator<Item = Duration>,
    step: impl Fn() -> F,
) -> Result<T, StoreError> {
    loop {
        match (step().await, pauses.next()) {
            (Err(StoreError::Unavailable(error)), Some(pause)) => {
                warn!(error, "cannot settle the chunk; trying again");
                tokio::time::sleep(pause).await;
            }
            (answer, _) => return answer,
        }
    }
}

fn report(verdict: &Verdict, stored: Settle, attempt: u32, calls: u32, took: Duration) {
    let (code, reason): (Option<ErrorCode>, &str) = match verdict {
        Verdict::Completed(_) => (None, ""),
        Verdict::Failed(error) => (Some(error.code), &error.message),
    };
    let outcome = code.map_or("completed", ErrorCode::as_str);
    histogram!("longhand_chunk_seconds", "outcome" => outcome).record(took);
    let asr_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match (stored, code) {
        (Settle::Settled, None) => info!(attempt, calls, asr_ms, "chunk completed"),
        (Settle::Settled, Some(code)) => {
            warn!(attempt, calls, asr_ms, code = code.as_str(), reason, "chunk failed");
        }
        (Settle::AlreadySettled | Settle::Superseded | Settle::Gone, _) => {
            counter!("longhand_settle_conflicts_total").increment(1);
            info!(attempt, calls, asr_ms, ?stored, "the outcome was not stored; `stored` says why");
        }
    }
}
