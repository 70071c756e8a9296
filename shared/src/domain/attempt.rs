//! The attempts of a chunk and their outcomes.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::domain::clock::Timestamp;
use crate::domain::verdict::{ErrorCode, Verdict};

/// How many attempts a chunk's history keeps. Older ones are dropped.
pub const MAX_HISTORY: usize = 10;

/// The message and the worker that claim a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant<'a> {
    /// The message's origin (`Delivery::origin`), the same for all copies of a message.
    pub origin: &'a str,
    /// The message's own id, different for each copy.
    pub message: &'a str,
    /// How often the message was requeued (`Envelope::requeues`). Each copy has one more.
    pub generation: u32,
    /// Whether the message or an earlier copy of it was delivered before. Then the chunk may be settled already.
    pub redelivered: bool,
    /// The worker's name, for display.
    pub worker: &'a str,
}

impl Claimant<'_> {
    /// Whether this message may claim a chunk whose last claim was for a message of the same origin.
    /// It may if it is the same message, delivered again, or a later copy. An earlier copy may not: the later one is
    /// delivered again itself. At the highest generation, copies may follow each other, since the number cannot grow.
    pub fn follows(&self, last: &Holder) -> bool {
        self.message == last.message || self.generation > last.generation || self.generation == u32::MAX
    }
}

/// The message that a chunk was last claimed for. The fields are those of [`Claimant`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub origin: String,
    pub message: String,
    pub generation: u32,
}

impl From<Claimant<'_>> for Holder {
    fn from(by: Claimant<'_>) -> Self {
        Self { origin: by.origin.to_owned(), message: by.message.to_owned(), generation: by.generation }
    }
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AttemptOutcome {
    /// The attempt continues. After a failed call of the model, `code` says why, `asrCalls` is the number of
    /// calls so far, and `mostCalls` the maximum.
    Running,
    /// The chunk was transcribed.
    Completed,
    /// The chunk failed; `code` says why.
    Failed,
    /// The model answered 429, or the concurrency limit permitted no call in time; the chunk was returned to the queue.
    Throttled,
    /// The model was down; the chunk was returned to the queue.
    ModelDown,
    /// The audio was not at its URL yet, S3 refused access to it, or S3 or the host of the URL was down; the chunk was
    /// returned to the queue.
    AudioDown,
    /// The worker was stopped; the chunk was returned to the queue.
    Drained,
    /// The worker lost its lease on the message; the message is delivered again.
    LeaseLost,
    /// The attempt took longer than `LONGHAND_MAX_CHUNK_SECONDS`.
    Overdue,
    /// The worker reported no outcome: it crashed or could not reach the table.
    Lost,
}

/// One attempt, as stored and as shown to clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// When the chunk was claimed.
    pub started_time: Timestamp,
    /// The worker's opaque name.
    pub worker: String,
    /// The outcome.
    pub outcome: AttemptOutcome,
    /// Why the chunk failed. While the attempt runs: why the last model call failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// The time from claim to outcome, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The number of model calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asr_calls: Option<u32>,
    /// The maximum number of model calls. Shown only after a failed call, while the attempt runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_calls: Option<u32>,
}

impl AttemptRecord {
    /// A running attempt that starts at `now`.
    pub fn begun(by: Claimant<'_>, now: Timestamp) -> Self {
        Self {
            started_time: now,
            worker: by.worker.to_owned(),
            outcome: AttemptOutcome::Running,
            code: None,
            seconds: None,
            asr_calls: None,
            most_calls: None,
        }
    }
}

/// A claim on a chunk: its unique number, and the chunk's history up to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Counts from 1. 0 stands for no claim, to fail a chunk that was never claimed.
    pub number: u32,
    /// The newest last. If empty, the stored history stays as it is.
    pub history: Vec<AttemptRecord>,
}

impl Attempt {
    /// A claim without a history.
    pub fn number(number: u32) -> Self {
        Self { number, history: Vec::new() }
    }

    /// The same attempt, still running after `calls` of at most `most` model calls. The last call failed with `code`.
    #[must_use]
    pub fn retrying(&self, code: ErrorCode, calls: u32, most: u32) -> Self {
        let mut retrying = self.clone();
        if let Some(record) = retrying.history.last_mut() {
            (record.code, record.asr_calls, record.most_calls) = (Some(code), Some(calls), Some(most));
        }
        retrying
    }

    /// The same attempt with its outcome after `asr_calls` model calls.
    #[must_use]
    pub fn ended(&self, outcome: AttemptOutcome, now: Timestamp, asr_calls: u32) -> Self {
        let mut ended = self.clone();
        if let Some(record) = ended.history.last_mut() {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of one attempt are far below 2^52")]
            let seconds = now.millis_since(record.started_time) as f64 / 1000.0;
            record.outcome = outcome;
            record.seconds = Some(seconds);
            record.asr_calls = Some(asr_calls);
            (record.code, record.most_calls) = (None, None);
        }
        mark_lost(&mut ended.history, true);
        let spare = ended.history.len().saturating_sub(MAX_HISTORY);
        ended.history.drain(..spare);
        ended
    }

    /// The same attempt with the outcome of `verdict`.
    #[must_use]
    pub fn settled(&self, verdict: &Verdict, now: Timestamp, asr_calls: u32) -> Self {
        let (outcome, code) = match verdict {
            Verdict::Completed(_) => (AttemptOutcome::Completed, None),
            Verdict::Failed(error) => (AttemptOutcome::Failed, Some(error.code)),
        };
        let mut ended = self.ended(outcome, now, asr_calls);
        if let Some(record) = ended.history.last_mut() {
            record.code = code;
        }
        ended
    }

    /// Whether the attempt counts against the chunk although it was released.
    pub fn counts(&self) -> bool {
        self.history.last().is_some_and(|record| record.outcome == AttemptOutcome::Overdue)
    }
}

/// A name for a worker that reveals no host and no process. The same worker always gets the same name.
pub(crate) fn opaque_worker(name: &str) -> String {
    const PREFIX: &str = "worker-";
    let digits = name.strip_prefix(PREFIX).unwrap_or_default();
    if digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return name.to_owned();
    }
    let digest = Sha256::digest(name);
    format!("{PREFIX}{}", hex::encode(&digest[..6]))
}

/// Marks attempts without an outcome as lost. The last one is not marked if it may still be `running`.
pub(crate) fn mark_lost(history: &mut [AttemptRecord], running: bool) {
    let ended = if running { history.len().saturating_sub(1) } else { history.len() };
    for record in &mut history[..ended] {
        if record.outcome == AttemptOutcome::Running {
            record.outcome = AttemptOutcome::Lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::transcription::Transcription;
    use crate::domain::verdict::ChunkError;

    const BY: Claimant<'_> =
        Claimant { origin: "o", message: "m", generation: 0, redelivered: false, worker: "w-1" };

    fn claimed(times: u32) -> Attempt {
        let at = |n| Timestamp::from_unix(n * 100);
        Attempt { number: times, history: (1..=times).map(|n| AttemptRecord::begun(BY, at(n))).collect() }
    }

    #[test]
    fn attempts_without_an_outcome_are_lost() {
        let now = Timestamp::from_unix(200).plus(Duration::from_millis(1500));
        let words = Transcription::new("x", None, vec![]).expect("a byte");
        let done = claimed(2).settled(&Verdict::Completed(words), now, 3);
        let outcomes: Vec<_> = done.history.iter().map(|record| record.outcome).collect();
        assert_eq!(outcomes, [AttemptOutcome::Lost, AttemptOutcome::Completed]);
        let last = done.history.last().expect("two");
        assert_eq!((last.seconds, last.asr_calls, last.code), (Some(1.5), Some(3), None));

        let error = ChunkError::new(ErrorCode::AsrRejected, "no");
        let failed = claimed(1).settled(&Verdict::Failed(error), now, 1);
        assert_eq!(failed.history[0].code, Some(ErrorCode::AsrRejected));
    }

    #[test]
    fn the_last_ten_are_kept() {
        let ended = claimed(25).ended(AttemptOutcome::Drained, Timestamp::from_unix(9999), 0);
        assert_eq!(ended.history.len(), MAX_HISTORY);
        assert_eq!(ended.history[0].started_time, Timestamp::from_unix(1600));
        assert_eq!(ended.number, 25);
    }

    #[test]
    fn only_overdue_releases_count() {
        let now = Timestamp::from_unix(1000);
        assert!(claimed(1).ended(AttemptOutcome::Overdue, now, 1).counts());
        assert!(!claimed(1).ended(AttemptOutcome::Drained, now, 1).counts());
        assert!(!Attempt::number(3).counts());
    }
}
