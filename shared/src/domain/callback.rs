//! The webhook of a job: its delivery state, and when the next attempt is due.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::clock::Timestamp;

/// How long after a job's end its webhook is retried.
pub const GIVEN_UP_AFTER: Duration = Duration::from_hours(24);

/// The maximum number of attempts that are kept and shown. Older ones are dropped, but counted.
pub const MAX_ATTEMPTS_SHOWN: usize = 10;

/// An attempt that is due within this time waits as a delayed message in the queue, a later one on the sweeper's list.
pub const MAX_MESSAGE_DELAY: Duration = Duration::from_mins(15);

/// How long the sweeper waits for an expected message before it sends another.
const GRACE: Duration = Duration::from_mins(5);

/// The backoff after each of the first failed attempts. The last one applies to all further attempts.
const BACKOFF: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_mins(30),
    Duration::from_hours(1),
    Duration::from_hours(2),
    Duration::from_hours(4),
    Duration::from_hours(8),
];

/// The state of a webhook delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CallbackState {
    /// The job has not ended, or the webhook is not delivered yet.
    Pending,
    /// The receiver answered with a 2xx status.
    Delivered,
    /// All attempts within [`GIVEN_UP_AFTER`] failed.
    Failed,
    /// The receiver answered with 410, which ends the attempts.
    Gone,
}

/// One attempt to deliver a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallbackAttempt {
    /// When the attempt began.
    pub time: Timestamp,
    /// The HTTP status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The duration of the attempt.
    pub milliseconds: u64,
    /// Why the attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The webhook of a job and the state of its delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Callback {
    /// The URL as the client sent it.
    pub url: String,
    /// The state of the delivery.
    pub state: CallbackState,
    /// The number of attempts since the job ended.
    pub tries: u32,
    /// When the next attempt is due. Missing before the first attempt and after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_time: Option<Timestamp>,
    /// The latest attempts, at most 10, the newest last.
    pub attempts: Vec<CallbackAttempt>,
}

/// How the next attempt is triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextAttempt {
    /// The message waits in the queue with this delay.
    Queued(Duration),
    /// The sweeper sends a message when the next attempt is due.
    Scheduled,
    /// There are no more attempts.
    GivenUp,
}

impl Callback {
    /// A callback without attempts.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            state: CallbackState::Pending,
            tries: 0,
            next_try_time: None,
            attempts: Vec::new(),
        }
    }

    /// The same URL without attempts, for a job that is reopened.
    #[must_use]
    pub fn reset(&self) -> Self {
        Self::new(&self.url)
    }

    /// The callback after one more attempt, in `state` and without a next attempt.
    #[must_use]
    pub fn settled(&self, state: CallbackState, attempt: CallbackAttempt) -> Self {
        let mut attempts = self.attempts.clone();
        attempts.push(attempt);
        attempts.drain(..attempts.len().saturating_sub(MAX_ATTEMPTS_SHOWN));
        Self { url: self.url.clone(), state, tries: self.tries + 1, next_try_time: None, attempts }
    }

    /// The callback after one more attempt, which failed at `now`. The job ended at `ended`. `retry_after` is the
    /// delay that the receiver requested.
    pub fn after_failure(
        &self,
        attempt: CallbackAttempt,
        ended: Timestamp,
        retry_after: Option<Duration>,
        now: Timestamp,
    ) -> (Self, NextAttempt) {
        let last = ended.plus(GIVEN_UP_AFTER);
        if now >= last {
            return (self.settled(CallbackState::Failed, attempt), NextAttempt::GivenUp);
        }
        let index = usize::try_from(self.tries).unwrap_or(usize::MAX).min(BACKOFF.len() - 1);
        let pause = BACKOFF[index].max(retry_after.unwrap_or_default()).min(last.since(now));
        let next_try_time = Some(now.plus(pause));
        let after = Self { next_try_time, ..self.settled(CallbackState::Pending, attempt) };
        (after, if pause <= MAX_MESSAGE_DELAY { NextAttempt::Queued(pause) } else { NextAttempt::Scheduled })
    }

    /// When the sweeper checks the callback; `None` before the first attempt and after the last.
    pub fn next_check(&self) -> Option<Timestamp> {
        let next = self.next_try_time.filter(|_| self.state == CallbackState::Pending)?;
        let last = self.attempts.last()?;
        let pause = next.since(last.time.plus(Duration::from_millis(last.milliseconds)));
        // One second of tolerance between the end of the attempt and the storing of its outcome.
        Some(if pause <= MAX_MESSAGE_DELAY + Duration::from_secs(1) { next.plus(GRACE) } else { next })
    }
}

/// When the sweeper checks a job again after it has sent a message. The interval grows with the time since the end.
pub(crate) fn next_reminder(ended: Timestamp, now: Timestamp) -> Timestamp {
    now.plus(now.since(ended).clamp(GRACE, Duration::from_hours(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(1_000_000).plus(Duration::from_secs(seconds))
    }

    fn attempt(time: Timestamp) -> CallbackAttempt {
        CallbackAttempt { time, status: Some(500), milliseconds: 3, error: Some("HTTP 500".to_owned()) }
    }

    #[test]
    fn attempts_back_off_for_a_day_and_then_end() {
        let (mut callback, mut now, mut times) = (Callback::new("https://a.example/"), at(0), vec![]);
        loop {
            times.push(now.since(at(0)).as_secs());
            let (after, next) = callback.after_failure(attempt(now), at(0), None, now);
            callback = after;
            let Some(next_try) = callback.next_try_time else {
                assert_eq!(next, NextAttempt::GivenUp);
                break;
            };
            let pause = next_try.since(now);
            assert_eq!(
                next,
                if pause <= MAX_MESSAGE_DELAY { NextAttempt::Queued(pause) } else { NextAttempt::Scheduled }
            );
            let check = callback.next_check().expect("it is pending");
            assert_eq!(check, if pause <= MAX_MESSAGE_DELAY { next_try.plus(GRACE) } else { next_try });
            now = next_try;
        }
        assert_eq!(times, [0, 5, 35, 155, 755, 2555, 6155, 13_355, 27_755, 56_555, 85_355, 86_400]);
        assert_eq!((callback.state, callback.next_check()), (CallbackState::Failed, None));
        assert_eq!((callback.tries, callback.attempts.len()), (12, MAX_ATTEMPTS_SHOWN));
        assert_eq!(callback.attempts[9].time, at(86_400));
    }

    #[test]
    fn retry_after_extends_the_backoff_within_limits() {
        let pause = |asked: u64| {
            let asked = Some(Duration::from_secs(asked));
            let (after, _) =
                Callback::new("https://a.example/").after_failure(attempt(at(9)), at(0), asked, at(9));
            after.next_try_time.expect("it is pending").since(at(9)).as_secs()
        };
        assert_eq!((pause(0), pause(60), pause(7200), pause(1_000_000)), (5, 60, 7200, 86_400 - 9));
    }
}
