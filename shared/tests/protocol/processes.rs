//! The processes that die: the worker, the dead letters' worker and the sweeper, as the worker's
//! `process.rs`, `runner.rs`, `dead_letters.rs` and `sweeper.rs` have them, without the model,
//! the pauses and the leases: here a lease may be lost at any moment, without anybody's knowing.

use std::sync::Arc;
use std::time::Duration;

use longhand_shared::attempt::{Attempt, AttemptOutcome as Told, Claimant};
use longhand_shared::job::{ChunkError, ChunkState, ErrorCode, Transcription, Verdict};
use longhand_shared::lifecycle::{self, Burial, Settled};
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery, Depth};
use longhand_shared::store::{Claim, JobStore, StoreError};
use longhand_shared::{ChunkIndex, ChunkRef, Timestamp};

use crate::post::{AtWork, Handed, Post};
use crate::sim::Clock;
use crate::table::{Flaw, Table};

/// For how long a claim keeps other messages off: after that, the one behind it is taken for lost.
pub(crate) const SILENCE: Duration = Duration::from_secs(330);

/// How often settling is tried.
const SETTLE_TRIES: u32 = 5;

/// What comes of asking the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A transcription, which names the chunk and the claim.
    Words,
    /// The audio is no good.
    Refusal,
    /// The model is down: the claim is given back, and the message sent anew.
    Nothing,
    /// The message is another's: the claim is given back, the message left alone.
    LeaseLost,
    /// It took too long: the message is left to come again.
    Overdue,
}

/// One process's view of the world.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) table: Arc<Table>,
    pub(crate) post: Arc<Post>,
    pub(crate) clock: Arc<Clock>,
    /// By how many seconds its clock is ahead of the others'.
    pub(crate) ahead: i8,
    pub(crate) flaw: Option<Flaw>,
}

enum Outcome {
    Done,
    Superfluous,
    Requeue,
    Retry,
}

/// What a claim's transcription says.
pub(crate) fn words(index: ChunkIndex, attempt: u32) -> String {
    format!("chunk-{index}-claim-{attempt}")
}

fn failed(code: ErrorCode) -> Verdict {
    Verdict::Failed(ChunkError::new(code, "no reason is ever good enough"))
}

impl Process {
    /// One message, from received to dealt with.
    pub(crate) async fn work(self, handed: Handed, heard: Heard) {
        let delivery = &handed.delivery;
        let receipt = std::slice::from_ref(&delivery.receipt);
        let mut again = delivery.requeued(Duration::ZERO);
        if self.flaw == Some(Flaw::ForgetsTheOrigin) {
            again.envelope.origin = None;
        }
        match self.chunk(delivery, &handed.lease, heard).await {
            Outcome::Done => drop(self.post.delete(receipt).await),
            Outcome::Superfluous => self.post.delete_if_in_hand(&handed).await,
            Outcome::Requeue if self.flaw == Some(Flaw::DeletesBeforeRequeue) => {
                self.post.delete(receipt).await;
                self.post.send(&[again]).await;
            }
            Outcome::Requeue => {
                let answers = self.post.send(&[again]).await;
                if answers.iter().all(Result::is_ok) {
                    self.post.delete(receipt).await;
                }
            }
            Outcome::Retry => {}
        }
    }

    async fn chunk(&self, delivery: &Delivery, lease: &Arc<()>, heard: Heard) -> Outcome {
        let chunk = ChunkMessage::parse(&delivery.body).expect("only chunks are sent here").chunk();
        let table = self.table.as_ref();
        if self.flaw == Some(Flaw::DeletesEarly) {
            self.post.delete(std::slice::from_ref(&delivery.receipt)).await;
        }
        let (origin, now) = (delivery.origin(), self.clock.read(self.ahead));
        let by = Claimant { origin, message: &delivery.message_id, worker: "w" };
        let attempt = match table.claim(chunk, by, now, SILENCE).await {
            Ok(Claim::Claimed(attempt)) => attempt,
            Ok(Claim::Settled) if self.flaw == Some(Flaw::LeavesSettledAlone) => return Outcome::Done,
            Ok(Claim::Settled) => {
                let concluded = lifecycle::conclude(table, chunk, self.clock.read(self.ahead)).await;
                return concluded.map_or_else(|error| self.blameless(&error), |_| Outcome::Done);
            }
            Ok(Claim::Gone) => return Outcome::Done,
            Ok(Claim::Busy) => {
                self.note_dropped(chunk, origin);
                return Outcome::Superfluous;
            }
            Err(error) => return self.blameless(&error),
        };
        self.check_taken(chunk, attempt.number, origin, now);
        let _at_work = self.post.begin(AtWork {
            chunk,
            attempt: attempt.number,
            claimed: now,
            message_id: delivery.message_id.clone(),
            origin: origin.to_owned(),
            lease: Arc::clone(lease),
        });
        // The model takes its time: whatever may happen meanwhile happens.
        tokio::task::yield_now().await;
        let verdict = match heard {
            Heard::Words => {
                let words = Transcription::new(words(chunk.index, attempt.number), None, vec![]);
                Verdict::Completed(words.expect("a few bytes"))
            }
            Heard::Refusal => failed(ErrorCode::AsrRejected),
            Heard::Nothing | Heard::LeaseLost => {
                // Not given back, it runs out by itself.
                let why = if heard == Heard::Nothing { Told::ModelDown } else { Told::LeaseLost };
                let _ = table.release(chunk, &attempt.ended(why, now, 1)).await;
                return if heard == Heard::Nothing { Outcome::Requeue } else { Outcome::Retry };
            }
            Heard::Overdue => {
                let _ = table.release(chunk, &attempt.ended(Told::Overdue, now, 1)).await;
                return Outcome::Retry;
            }
        };
        match self.settle(chunk, &attempt.settled(&verdict, now, 1), &verdict).await {
            // Another has the chunk, perhaps by this very message: it is not done.
            Ok(Settled::Superseded) if self.flaw != Some(Flaw::DeletesWhenSuperseded) => Outcome::Retry,
            Ok(_) => Outcome::Done,
            Err(error) => self.blameless(&error),
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
            let table = self.table.as_ref();
            match lifecycle::settle(table, chunk, attempt, verdict, now).await {
                Err(StoreError::Unavailable(_)) if turn < SETTLE_TRIES => turn += 1,
                other => return other,
            }
        }
    }

    fn blameless(&self, error: &StoreError) -> Outcome {
        match error {
            StoreError::Unavailable(_) => Outcome::Requeue,
            StoreError::Corrupt(what) => {
                self.table.complain(what);
                Outcome::Retry
            }
        }
    }

    /// One dead letter.
    pub(crate) async fn bury(self, handed: Handed) {
        let delivery = &handed.delivery;
        let chunk = ChunkMessage::parse(&delivery.body).expect("only chunks are sent here").chunk();
        let now = self.clock.read(self.ahead);
        let mut letter = delivery.clone();
        if let Some(ChunkState::InProgress { by, message, .. }) =
            self.table.peek_chunk(chunk).map(|chunk| chunk.state)
            && self.flaw == Some(Flaw::BuriesAnothers)
        {
            (letter.envelope.origin, letter.message_id) = (Some(by), message);
        }
        match lifecycle::bury(self.table.as_ref(), chunk, &letter, now).await {
            Ok(Burial::Failed) => {
                self.table.count("burial: failed");
                self.check_buried(chunk, delivery);
            }
            Ok(Burial::Stale) => {
                self.table.count("burial: stale");
                self.note_dropped(chunk, delivery.origin());
            }
            Ok(Burial::Blameless) => {
                self.table.count("burial: blameless");
                if self.flaw != Some(Flaw::BuriesTheBlameless) {
                    let answers = self.post.send(&[delivery.requeued(Duration::ZERO)]).await;
                    if answers.iter().any(Result::is_err) {
                        return;
                    }
                }
            }
            Err(error) => {
                self.blameless(&error);
                return;
            }
        }
        self.post.delete(std::slice::from_ref(&delivery.receipt)).await;
    }

    /// Another message is in charge of the chunk, so this one is deleted.
    fn note_dropped(&self, chunk: ChunkRef, origin: &str) {
        match self.table.peek_chunk(chunk).map(|chunk| chunk.state) {
            // No excuse for what follows.
            Some(ChunkState::InProgress { by, .. }) if by == origin => {}
            Some(ChunkState::InProgress { .. }) => self.table.dropped(chunk, origin),
            Some(ChunkState::Pending | ChunkState::Settled { .. }) | None => {}
        }
    }

    /// What is claimed must not be taken from a living worker for another message, before its time.
    fn check_taken(&self, chunk: ChunkRef, attempt: u32, origin: &str, now: Timestamp) {
        for other in self.post.living(chunk) {
            let newest = other.attempt + 1 == attempt;
            if newest && other.origin != origin && other.claimed > now.minus(SILENCE) {
                let what = format!("{chunk}: claim {} was taken from a living worker", other.attempt);
                self.table.complain(what);
            }
        }
    }

    /// A dead letter must not fail what a living worker has claimed for another message.
    fn check_buried(&self, chunk: ChunkRef, delivery: &Delivery) {
        let newest = self.table.peek_chunk(chunk).map(|chunk| chunk.attempt);
        for other in self.post.living(chunk) {
            if Some(other.attempt) != newest || other.message_id == delivery.message_id {
                continue;
            }
            if other.origin == delivery.origin() {
                self.table.count("burial: failed a copy's");
            } else {
                self.table.complain(format!("{chunk}: another's dead letter failed a living worker's chunk"));
            }
        }
    }

    /// One sweep. `depth` is what the queue says of itself, rightly or not.
    pub(crate) async fn sweep(self, depth: Depth) {
        let now = self.clock.read(self.ahead);
        let Ok(due) = self.table.due(now, 100).await else { return };
        for due in due {
            let (table, post) = (self.table.as_ref(), self.post.as_ref());
            let repaired = lifecycle::repair(table, post, &due, depth, SILENCE, now).await;
            if let Err(error) = repaired {
                self.blameless(&error);
            }
        }
    }
}
