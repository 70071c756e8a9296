//! The processes that may crash: the worker, the dead-letter worker and the sweeper. They follow the worker's
//! `process.rs`, `runner.rs`, `dead_letters.rs` and `sweeper.rs`, without the model, the pauses and the leases. A lease
//! may be lost at any time without notice.

use std::sync::Arc;
use std::time::Duration;

use longhand_shared::domain::attempt::{Attempt, AttemptOutcome, Claimant};
use longhand_shared::domain::job::{
    Chunk, ChunkError, ChunkState, ErrorCode, JobHead, Transcription, Verdict,
};
use longhand_shared::lifecycle::{DeadLetter, Lifecycle, Settled, Whole};
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery, Depth};
use longhand_shared::store::{Claim, JobStore, Settle, StoreError};
use longhand_shared::{ChunkIndex, ChunkRef, JobId, Timestamp};

use crate::queue::{ActiveClaim, Queue, Received};
use crate::sim::Clock;
use crate::table::{Flaw, Table};

/// How long a claim excludes other messages. After that its message counts as lost.
pub(crate) const CLAIM_TIMEOUT: Duration = Duration::from_secs(330);

/// How often a settle is tried.
const SETTLE_TRIES: u32 = 5;

/// The result of a model call, or of the time around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelResult {
    /// A transcription that contains the chunk's index and the attempt's number.
    Transcribed,
    /// The model rejects the audio.
    Rejected,
    /// The model is down: the worker releases the claim and requeues the message.
    Down,
    /// The lease is lost: the worker releases the claim and leaves the message.
    LeaseLost,
    /// The work takes too long: the worker leaves the message to be delivered again.
    Overdue,
}

/// The dependencies of one process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) table: Arc<Table>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) clock: Arc<Clock>,
    /// How many seconds its clock is ahead.
    pub(crate) ahead: i8,
    pub(crate) flaw: Option<Flaw>,
}

enum Outcome {
    Done,
    Superfluous,
    Requeue,
    /// The worker leaves the message. It is delivered again later.
    Abandon,
}

/// The text of an attempt's transcription.
pub(crate) fn words(index: ChunkIndex, attempt: u32) -> String {
    format!("chunk-{index}-claim-{attempt}")
}

fn failed(code: ErrorCode) -> Verdict {
    Verdict::Failed(ChunkError::new(code, "the reason"))
}

impl Process {
    pub(crate) fn lifecycle(&self) -> Lifecycle {
        Lifecycle::new(self.table.clone(), self.queue.clone())
    }

    /// Handles one received message.
    pub(crate) async fn work(self, received: Received, model: ModelResult) {
        let delivery = &received.delivery;
        let receipt = std::slice::from_ref(&delivery.receipt);
        let mut again = delivery.requeued(Duration::ZERO);
        if self.flaw == Some(Flaw::DropsOrigin) {
            again.envelope.origin = None;
        }
        match self.chunk(delivery, &received.lease, model).await {
            Outcome::Done => drop(self.queue.delete(receipt).await),
            Outcome::Superfluous => self.queue.delete_if_in_hand(&received).await,
            Outcome::Requeue if self.flaw == Some(Flaw::DeletesBeforeRequeue) => {
                self.queue.delete(receipt).await;
                self.queue.send(&[again]).await;
            }
            Outcome::Requeue => {
                let answers = self.queue.send(&[again]).await;
                if answers.iter().all(Result::is_ok) {
                    self.queue.delete(receipt).await;
                }
            }
            Outcome::Abandon => {}
        }
    }

    /// Handles messages of one job together: settles each chunk, then ends the job if these are all of its chunks, or else
    /// removes them from the unsettled set in one write, then deletes their messages. The worker reads the job and its
    /// chunks while it settles the last one. Here the reads come first, since they are oldest then.
    pub(crate) async fn work_together(self, received: Vec<Received>) {
        let (mut settled, mut whole) = (Vec::new(), None);
        let parse =
            |it: &Received| ChunkMessage::parse(&it.delivery.body).expect("only chunks are sent here");
        let job = parse(received.first().expect("at least one message")).chunk().job;
        for (place, received) in received.iter().enumerate() {
            let (message, delivery) = (parse(received), &received.delivery);
            let (chunk, now) = (message.chunk(), self.clock.read(self.ahead));
            let claim = self.table.claim(chunk, delivery.claimant("w"), now, CLAIM_TIMEOUT).await;
            let stored = match claim {
                Ok(Claim::Claimed(attempt)) => {
                    let words = Transcription::new(words(chunk.index, attempt.number), None, vec![]);
                    let verdict = Verdict::Completed(words.expect("a few bytes"));
                    let attempt = attempt.settled(&verdict, now, 1);
                    let is_last = message.chunk_count().is_some_and(|count| count == place + 1);
                    let read = if is_last && settled.len() == place { self.read(job).await } else { None };
                    let stored = self.lifecycle().store_verdict(chunk, &attempt, &verdict, now).await;
                    if matches!(stored, Ok(Settle::Settled)) {
                        whole = read.and_then(|(head, chunks)| {
                            Whole::new(head, chunks, chunk.index, &attempt, verdict, now)
                        });
                    }
                    stored
                }
                Ok(Claim::Settled) => Ok(Settle::AlreadySettled),
                Ok(Claim::Gone | Claim::Busy) | Err(_) => continue,
            };
            if let Ok(Settle::Settled | Settle::AlreadySettled) = stored {
                settled.push((chunk.index, delivery.receipt.clone()));
            }
        }
        if settled.is_empty() {
            return;
        }
        let (chunks, receipts): (Vec<_>, Vec<_>) = settled.into_iter().unzip();
        if self.flaw == Some(Flaw::DeletesBeforeRemoval) {
            self.queue.delete(&receipts).await;
        }
        let concluded = match whole {
            Some(whole) => {
                self.lifecycle().conclude_whole(&whole, &chunks, self.clock.read(self.ahead)).await
            }
            None => self.conclude(job, &chunks).await,
        };
        if concluded.is_ok() {
            self.queue.delete(&receipts).await;
        }
    }

    async fn read(&self, job: JobId) -> Option<(JobHead, Vec<Chunk>)> {
        let chunks = self.table.chunks(job).await.ok()?;
        Some((self.table.job(job).await.ok()??.head, chunks))
    }

    async fn chunk(&self, delivery: &Delivery, lease: &Arc<()>, model: ModelResult) -> Outcome {
        let chunk = ChunkMessage::parse(&delivery.body).expect("only chunks are sent here").chunk();
        let table = self.table.as_ref();
        if self.flaw == Some(Flaw::DeletesEarly) {
            self.queue.delete(std::slice::from_ref(&delivery.receipt)).await;
        }
        let now = self.clock.read(self.ahead);
        let attempt = match table.claim(chunk, delivery.claimant("w"), now, CLAIM_TIMEOUT).await {
            Ok(Claim::Claimed(attempt)) => attempt,
            Ok(Claim::Settled) if self.flaw == Some(Flaw::SkipsConclude) => return Outcome::Done,
            Ok(Claim::Settled) => {
                let concluded = self.conclude(chunk.job, &[chunk.index]).await;
                return concluded.map_or_else(|error| self.after_error(&error), |_| Outcome::Done);
            }
            Ok(Claim::Gone) => return Outcome::Done,
            Ok(Claim::Busy) => {
                self.table.dropped(chunk, &delivery.message_id);
                return Outcome::Superfluous;
            }
            Err(error) => return self.after_error(&error),
        };
        self.check_taken(chunk, attempt.number, delivery.claimant("w"), now);
        let _active = self.queue.begin(ActiveClaim {
            chunk,
            attempt: attempt.number,
            claimed: now,
            holder: delivery.claimant("w").into(),
            lease: Arc::clone(lease),
        });
        // The model call takes time, in which other tasks run.
        tokio::task::yield_now().await;
        let verdict = match model {
            ModelResult::Transcribed => {
                let words = Transcription::new(words(chunk.index, attempt.number), None, vec![]);
                Verdict::Completed(words.expect("a few bytes"))
            }
            ModelResult::Rejected => failed(ErrorCode::AsrRejected),
            ModelResult::Down | ModelResult::LeaseLost => {
                // A failed release does no harm: the claim times out.
                let why = if model == ModelResult::Down {
                    AttemptOutcome::ModelDown
                } else {
                    AttemptOutcome::LeaseLost
                };
                let released = table.release(chunk, &attempt.ended(why, now, 1)).await.unwrap_or(true);
                return if model == ModelResult::Down && released {
                    Outcome::Requeue
                } else {
                    Outcome::Abandon
                };
            }
            ModelResult::Overdue => {
                let _ = table.release(chunk, &attempt.ended(AttemptOutcome::Overdue, now, 1)).await;
                return Outcome::Abandon;
            }
        };
        match self.settle(chunk, &attempt.settled(&verdict, now, 1), &verdict).await {
            // Another worker has claimed the chunk, perhaps for the same message, so the work is not done.
            Ok(Settled::Superseded) if self.flaw != Some(Flaw::DeletesWhenSuperseded) => Outcome::Abandon,
            Ok(_) => Outcome::Done,
            Err(error) => self.after_error(&error),
        }
    }

    async fn settle(
        &self,
        chunk: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
    ) -> Result<Settled, StoreError> {
        let mut turn = 1;
        loop {
            let now = self.clock.read(self.ahead);
            match self.lifecycle().settle(chunk, attempt, verdict, now).await {
                Err(StoreError::Unavailable(_)) if turn < SETTLE_TRIES => turn += 1,
                other => return other,
            }
        }
    }

    async fn conclude(&self, job: JobId, settled: &[ChunkIndex]) -> Result<bool, StoreError> {
        self.lifecycle().conclude(job, settled, self.clock.read(self.ahead)).await
    }

    fn after_error(&self, error: &StoreError) -> Outcome {
        match error {
            StoreError::Unavailable(_) => Outcome::Requeue,
            StoreError::Corrupt(what) => {
                self.table.report(what);
                Outcome::Abandon
            }
        }
    }

    /// Handles one dead letter.
    pub(crate) async fn handle_dead_letter(self, received: Received) {
        let delivery = &received.delivery;
        let chunk = ChunkMessage::parse(&delivery.body).expect("only chunks are sent here").chunk();
        let now = self.clock.read(self.ahead);
        let mut message = delivery.clone();
        if let Some(ChunkState::InProgress { by, .. }) = self.table.peek_chunk(chunk).map(|chunk| chunk.state)
            && self.flaw == Some(Flaw::FailsClaimedByOther)
        {
            (message.envelope.origin, message.message_id) = (Some(by.origin), by.message);
        }
        match self.lifecycle().dead_letter(chunk, &message, now).await {
            Ok(DeadLetter::Failed) => {
                self.table.count("dead letter: failed");
                self.check_failed(chunk, delivery);
            }
            Ok(DeadLetter::Stale) => {
                self.table.count("dead letter: stale");
                self.table.dropped(chunk, &delivery.message_id);
            }
            Ok(DeadLetter::Redrive) => {
                self.table.count("dead letter: requeue");
                if self.flaw != Some(Flaw::SkipsRequeue) {
                    let answers = self.queue.send(&[delivery.requeued(Duration::ZERO)]).await;
                    if answers.iter().any(Result::is_err) {
                        return;
                    }
                }
            }
            Err(error) => {
                self.after_error(&error);
                return;
            }
        }
        self.queue.delete(std::slice::from_ref(&delivery.receipt)).await;
    }

    /// Before its timeout, a running worker's claim must not be taken by another message, except by a later copy.
    fn check_taken(&self, chunk: ChunkRef, attempt: u32, by: Claimant<'_>, now: Timestamp) {
        for other in self.queue.active_claims(chunk) {
            let newest = other.attempt + 1 == attempt;
            let other_message = other.holder.origin != by.origin || !by.follows(&other.holder);
            if newest && other_message && other.claimed > now.minus(CLAIM_TIMEOUT) {
                let what = format!("{chunk}: claim {} was taken from a running worker", other.attempt);
                self.table.report(what);
            }
        }
    }

    /// A dead letter must not fail a chunk that a running worker has claimed for another message.
    fn check_failed(&self, chunk: ChunkRef, delivery: &Delivery) {
        let newest = self.table.peek_chunk(chunk).map(|chunk| chunk.attempt);
        for other in self.queue.active_claims(chunk) {
            if Some(other.attempt) != newest || other.holder.message == delivery.message_id {
                continue;
            }
            if other.holder.origin == delivery.origin() {
                self.table.count("dead letter: failed a copy's");
            } else {
                self.table.report(format!(
                    "{chunk}: another message's dead letter failed a running worker's chunk"
                ));
            }
        }
    }

    /// One sweep. `depth` is the queue's reported depth, which may be wrong.
    pub(crate) async fn sweep(self, depth: Depth) {
        let now = self.clock.read(self.ahead);
        let Ok(due) = self.table.due(now, 100).await else { return };
        for due in due {
            let repaired = self.lifecycle().repair(&due, depth, CLAIM_TIMEOUT, now).await;
            if let Err(error) = repaired {
                self.after_error(&error);
            }
        }
    }
}
