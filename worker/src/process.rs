//! One chunk, from message to settled: parse, claim, transcribe, settle. Read it top to bottom.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use longhand_shared::attempt::{Attempt, AttemptOutcome, Claimant};
use longhand_shared::job::{ChunkError, ErrorCode, Verdict};
use longhand_shared::lifecycle::{self, MOST_REQUEUES, Settled};
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery};
use longhand_shared::store::{Claim, JobStore, StoreError};
use longhand_shared::{ChunkRef, Timestamp, trace, webhook};
use metrics::{counter, histogram};
use tokio::time::Instant;
use tracing::{Instrument, error, field, info, info_span, warn};

use crate::asr::{Asr, TranscribeError};
use crate::audio::AudioStore;
use crate::lease::{Lease, Stop};
use crate::runner::{Handler, Outcome, retry_backoff};

/// How often settling is tried while the table does not answer: a transcription is too dear to throw
/// away for a hiccup. After that the message goes back and the model is asked once more.
const SETTLE_TRIES: u32 = 5;

/// Transcribes chunks.
#[derive(Debug)]
pub struct Processor {
    /// Where jobs are kept.
    pub store: Arc<dyn JobStore>,
    /// What carries the word of a job's end.
    pub webhooks: Option<Arc<dyn ChunkQueue>>,
    /// Where audio is read from.
    pub audio: AudioStore,
    /// The model.
    pub asr: Asr,
    /// How long a claim keeps other messages off. Longer than any chunk is worked on.
    pub silence: Duration,
    /// This worker's name, for the history of the chunks it tries.
    pub name: String,
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
        let now = Timestamp::now();
        let by =
            Claimant { origin: delivery.origin(), message: &delivery.message_id, worker: self.name.as_str() };
        let attempt = match self.store.claim(chunk, by, now, self.silence).await {
            Ok(Claim::Claimed(attempt)) => attempt,
            Ok(Claim::Settled) => return self.conclude(chunk, delivery).await,
            Ok(Claim::Gone) => {
                info!("the job is gone");
                return Outcome::Done;
            }
            Ok(Claim::Busy) => {
                // That one settles the chunk, or comes again itself, or becomes a dead letter.
                info!("another message is in charge of the chunk");
                return Outcome::Superfluous;
            }
            Err(error) => return blameless(delivery, &error),
        };

        let began = Instant::now();
        let calls = AtomicU32::new(0);
        let transcribing = self.asr.transcribe(
            &self.audio,
            message.path(),
            message.options(),
            delivery.envelope.traceparent.as_deref(),
            &calls,
        );
        let heard = tokio::select! {
            biased;
            why = lease.stopped() => {
                return self.give_back(chunk, &attempt, why, calls.load(Ordering::Relaxed), delivery).await;
            }
            heard = transcribing => heard,
        };
        let calls = calls.load(Ordering::Relaxed);
        let mut verdict = match heard {
            Ok(transcription) => Verdict::Completed(transcription),
            Err(TranscribeError::Permanent(error)) => Verdict::Failed(error),
            Err(TranscribeError::Transient { message, .. })
                if delivery.envelope.requeues >= MOST_REQUEUES =>
            {
                let message = format!("given up after {MOST_REQUEUES} turns: {message}");
                Verdict::Failed(ChunkError::new(ErrorCode::AsrUnavailable, message))
            }
            Err(TranscribeError::Transient { why, message, pause }) => {
                warn!(attempt = attempt.number, ?why, message, "put back: what the chunk needs is down");
                self.release(chunk, &attempt.ended(why, Timestamp::now(), calls)).await;
                let backoff = retry_backoff(delivery.envelope.requeues.saturating_add(1));
                return Outcome::Requeue { delay: pause.map_or(backoff, |pause| pause.max(backoff)) };
            }
        };

        let took = began.elapsed();
        let mut settled = self.settle(chunk, &attempt, &verdict, calls).await;
        if let (Err(StoreError::Corrupt(error)), Verdict::Completed(_)) = (&settled, &verdict) {
            // The same answer would be refused again.
            error!(error, "the table does not take this transcription");
            let error = ChunkError::new(ErrorCode::Internal, "the transcription could not be kept");
            verdict = Verdict::Failed(error);
            settled = self.settle(chunk, &attempt, &verdict, calls).await;
        }
        match settled {
            Ok(settled) => {
                report(&verdict, settled, attempt.number, calls, took);
                if matches!(settled, Settled::Done { finished: true, .. }) {
                    webhook::announce(self.store.as_ref(), self.webhooks.as_deref(), chunk.job).await;
                }
                match settled {
                    Settled::Done { .. } | Settled::Gone => Outcome::Done,
                    // The chunk is not settled, and this may be the only message that it has.
                    Settled::Superseded => Outcome::Retry { delay: retry_backoff(delivery.receive_count) },
                }
            }
            Err(error) => blameless(delivery, &error),
        }
    }

    /// The chunk was settled before. Whoever did it may have died before the job could end.
    async fn conclude(&self, chunk: ChunkRef, delivery: &Delivery) -> Outcome {
        match lifecycle::conclude(self.store.as_ref(), chunk, Timestamp::now()).await {
            Ok(finished) => {
                info!(finished, "settled before");
                if finished {
                    webhook::announce(self.store.as_ref(), self.webhooks.as_deref(), chunk.job).await;
                }
                Outcome::Done
            }
            Err(error) => blameless(delivery, &error),
        }
    }

    async fn settle(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        calls: u32,
    ) -> Result<Settled, StoreError> {
        let attempt = attempt.settled(verdict, Timestamp::now(), calls);
        let mut turn = 1;
        loop {
            let now = Timestamp::now();
            let answer = lifecycle::settle(self.store.as_ref(), chunk, &attempt, verdict, now).await;
            match answer {
                Err(StoreError::Unavailable(error)) if turn < SETTLE_TRIES => {
                    warn!(turn, error, "not settled yet");
                    tokio::time::sleep(Duration::from_millis(250) * 2u32.pow(turn)).await;
                    turn += 1;
                }
                other => return other,
            }
        }
    }

    /// Stops without a verdict. The claim is given back, so that the next one need not wait for it.
    async fn give_back(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        why: Stop,
        calls: u32,
        delivery: &Delivery,
    ) -> Outcome {
        warn!(attempt = attempt.number, calls, ?why, "stopped before it was done");
        let outcome = match why {
            Stop::Draining => AttemptOutcome::Drained,
            Stop::LeaseLost => AttemptOutcome::LeaseLost,
            Stop::Overdue => AttemptOutcome::Overdue,
        };
        self.release(chunk, &attempt.ended(outcome, Timestamp::now(), calls)).await;
        match why {
            Stop::Draining => Outcome::Requeue { delay: Duration::ZERO },
            Stop::LeaseLost => Outcome::Retry { delay: Duration::ZERO },
            // The chunk itself may be to blame: this attempt counts, and the third one is the last.
            Stop::Overdue => Outcome::Retry { delay: retry_backoff(delivery.receive_count) },
        }
    }

    async fn release(&self, chunk: ChunkRef, attempt: &Attempt) {
        if let Err(error) = self.store.release(chunk, attempt).await {
            warn!(%error, "claim not given back; it runs out by itself");
        }
    }
}

/// The table does not answer: no fault of the chunk's.
fn blameless(delivery: &Delivery, error: &StoreError) -> Outcome {
    warn!(%error, "put back");
    match error {
        StoreError::Unavailable(_) => {
            Outcome::Requeue { delay: retry_backoff(delivery.envelope.requeues.saturating_add(1)) }
        }
        // Somebody should look at it: three tries, then it is a dead letter.
        StoreError::Corrupt(_) => Outcome::Retry { delay: retry_backoff(delivery.receive_count) },
    }
}

fn report(verdict: &Verdict, settled: Settled, attempt: u32, calls: u32, took: Duration) {
    let (code, reason): (Option<ErrorCode>, &str) = match verdict {
        Verdict::Completed(_) => (None, ""),
        Verdict::Failed(error) => (Some(error.code), &error.message),
    };
    let outcome = code.map_or("completed", ErrorCode::as_str);
    histogram!("longhand_chunk_seconds", "outcome" => outcome).record(took);
    let asr_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match (settled, code) {
        (Settled::Done { mine: true, .. }, None) => info!(attempt, calls, asr_ms, "chunk completed"),
        (Settled::Done { mine: true, .. }, Some(code)) => {
            warn!(attempt, calls, asr_ms, ?code, reason, "chunk failed");
        }
        (Settled::Done { mine: false, .. } | Settled::Superseded | Settled::Gone, _) => {
            counter!("longhand_settle_conflicts_total").increment(1);
            info!(attempt, calls, asr_ms, ?settled, "another settled the chunk first");
        }
    }
}
