//! What was tried for one chunk, claim by claim, and what came of each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::job::{ErrorCode, Verdict};

/// How many of a chunk's attempts are kept: the last ones.
pub const MAX_HISTORY: usize = 10;

/// Who asks for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant<'a> {
    /// The message's origin ([`crate::queue::Delivery::origin`]): copies of one message have the same.
    pub origin: &'a str,
    /// The message's own id: no copy has the same.
    pub message: &'a str,
    /// The worker's name, for people.
    pub worker: &'a str,
}

/// What came of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AttemptOutcome {
    /// A worker is at it.
    Running,
    /// The chunk was transcribed.
    Completed,
    /// The chunk failed, with the record's `code`.
    Failed,
    /// Given back: the model has too much to do.
    Throttled,
    /// Given back: the model is down.
    ModelDown,
    /// Given back: the audio's store is down.
    AudioDown,
    /// Given back: the worker was told to stop.
    Drained,
    /// Given back: the message was another worker's by then.
    LeaseLost,
    /// It took longer than any work may. Counts against the chunk.
    Overdue,
    /// Its worker never told: it crashed, or could not reach the table.
    Lost,
}

/// One attempt, as it is kept and as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// When the chunk was claimed.
    pub started_time: Timestamp,
    /// The worker's name.
    pub worker: String,
    /// What came of it.
    pub outcome: AttemptOutcome,
    /// Why the chunk failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// From claim to outcome, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Calls of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asr_calls: Option<u32>,
}

impl AttemptRecord {
    /// One that has just begun.
    pub fn begun(by: Claimant<'_>, now: Timestamp) -> Self {
        Self {
            started_time: now,
            worker: by.worker.to_owned(),
            outcome: AttemptOutcome::Running,
            code: None,
            seconds: None,
            asr_calls: None,
        }
    }
}

/// A claim that was made: its number, which tells it from every other, and what is known of it and of
/// those before.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// From 1. 0 for one who fails a chunk that nobody has claimed.
    pub number: u32,
    /// The newest last. Empty for one who has nothing to tell: what is kept then stays as it is.
    pub history: Vec<AttemptRecord>,
}

impl Attempt {
    /// A claim by its number alone.
    pub fn number(number: u32) -> Self {
        Self { number, history: Vec::new() }
    }

    /// The same, with what came of it after `asr_calls` calls of the model.
    #[must_use]
    pub fn ended(&self, outcome: AttemptOutcome, now: Timestamp, asr_calls: u32) -> Self {
        let mut ended = self.clone();
        if let Some(record) = ended.history.last_mut() {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of one attempt are far below 2^52")]
            let seconds = now.millis_since(record.started_time) as f64 / 1000.0;
            record.outcome = outcome;
            record.seconds = Some(seconds);
            record.asr_calls = Some(asr_calls);
        }
        mark_lost(&mut ended.history, true);
        let spare = ended.history.len().saturating_sub(MAX_HISTORY);
        ended.history.drain(..spare);
        ended
    }

    /// The same, ended with a verdict.
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

    /// Whether giving it back counts against the chunk.
    pub fn counts(&self) -> bool {
        self.history.last().is_some_and(|record| record.outcome == AttemptOutcome::Overdue)
    }
}

/// Who was followed by another without a word is lost; the last one too, unless it may be `running`.
pub(crate) fn mark_lost(history: &mut [AttemptRecord], running: bool) {
    let told = if running { history.len().saturating_sub(1) } else { history.len() };
    for record in &mut history[..told] {
        if record.outcome == AttemptOutcome::Running {
            record.outcome = AttemptOutcome::Lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::{ChunkError, Transcription};

    const BY: Claimant<'_> = Claimant { origin: "o", message: "m", worker: "w-1" };

    fn claimed(times: u32) -> Attempt {
        let at = |n| Timestamp::from_unix(n * 100);
        Attempt { number: times, history: (1..=times).map(|n| AttemptRecord::begun(BY, at(n))).collect() }
    }

    #[test]
    fn who_never_told_is_lost_and_the_last_says_how_it_ended() {
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
    fn only_what_took_too_long_counts() {
        let now = Timestamp::from_unix(1000);
        assert!(claimed(1).ended(AttemptOutcome::Overdue, now, 1).counts());
        assert!(!claimed(1).ended(AttemptOutcome::Drained, now, 1).counts());
        assert!(!Attempt::number(3).counts());
    }
}
