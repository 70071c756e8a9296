//! Webhook delivery: posts the end of a job to the client's `callbackUrl`. Delivery is at-least-once.
//!
//! The job's item holds the delivery state. The transaction that ends the job leaves it on the sweeper's list until
//! the delivery has succeeded or is given up. So a crash never loses a webhook, and a lost queue message only
//! delays it.
//!
//! ```text
//! finish    status, transcript; the job stays on the sweeper's list         one transaction
//! announce  the process that ended the job sends a message                  else the sweeper does
//! attempt   POST, then store the outcome in the job's item                  the worker's `webhooks.rs`
//! retry     up to 15 minutes: a delayed message in the queue; longer: the sweeper's list
//! ```
//!
//! A crash between the POST and the storing of its outcome repeats the POST with the same `webhook-id`.

pub mod signature;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::clock::Timestamp;
use crate::domain::id::{JobId, UserId};
use crate::domain::job::{JobHead, JobState, JobStatus, Metadata};
use crate::net::outbound::AllowedHosts;
use crate::queue::{Envelope, MAX_DELAY, Outgoing};
use crate::service::settings::{HttpUrl, Reader};

/// How long after a job's end its webhook is retried.
pub const GIVEN_UP_AFTER: Duration = Duration::from_hours(24);

/// The maximum number of attempts that are kept and shown. Older ones are dropped, but counted.
pub const MAX_ATTEMPTS_SHOWN: usize = 10;

/// How long the sweeper waits for an expected message before it sends another.
const GRACE: Duration = Duration::from_mins(5);

/// The backoff after each of the first failed attempts. The last one applies to all further attempts.
const PAUSES: [Duration; 9] = [
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
    /// The HTTP status of the response.
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

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The message waits in the queue with this delay.
    InQueue(Duration),
    /// The sweeper sends a message when the next attempt is due.
    OnList,
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

    /// The callback after one more attempt, which failed at `now`. The job ended at `ended`. `asked` is the delay
    /// that the receiver requested.
    pub fn tried(
        &self,
        attempt: CallbackAttempt,
        ended: Timestamp,
        asked: Option<Duration>,
        now: Timestamp,
    ) -> (Self, Next) {
        let last = ended.plus(GIVEN_UP_AFTER);
        if now >= last {
            return (self.settled(CallbackState::Failed, attempt), Next::GivenUp);
        }
        let index = usize::try_from(self.tries).unwrap_or(usize::MAX).min(PAUSES.len() - 1);
        let pause = PAUSES[index].max(asked.unwrap_or_default()).min(last.since(now));
        let next_try_time = Some(now.plus(pause));
        let after = Self { next_try_time, ..self.settled(CallbackState::Pending, attempt) };
        (after, if pause <= MAX_DELAY { Next::InQueue(pause) } else { Next::OnList })
    }

    /// When the sweeper checks the callback; `None` before the first attempt and after the last.
    pub fn next_check(&self) -> Option<Timestamp> {
        let next = self.next_try_time.filter(|_| self.state == CallbackState::Pending)?;
        let last = self.attempts.last()?;
        let pause = next.since(last.time.plus(Duration::from_millis(last.milliseconds)));
        // One second of tolerance between the end of the attempt and the storing of its outcome.
        Some(if pause <= MAX_DELAY + Duration::from_secs(1) { next.plus(GRACE) } else { next })
    }
}

/// When the sweeper checks a job again after it has sent a message. The interval grows with the time since the end.
pub(crate) fn next_reminder(ended: Timestamp, now: Timestamp) -> Timestamp {
    now.plus(now.since(ended).clamp(GRACE, Duration::from_hours(1)))
}

/// The end of a job whose webhook is not delivered yet, and its callback.
pub fn pending_event(head: &JobHead) -> Option<(Timestamp, &Callback)> {
    match (head.state, &head.callback) {
        (JobState::Ended { at, .. }, Some(callback)) if callback.state == CallbackState::Pending => {
            Some((at, callback))
        }
        _ => None,
    }
}

/// The end of a job whose webhook delivery has failed for good, and its callback.
pub fn given_up(head: &JobHead) -> Option<(Timestamp, &Callback)> {
    match (head.state, &head.callback) {
        (JobState::Ended { at, .. }, Some(callback)) if callback.state == CallbackState::Failed => {
            Some((at, callback))
        }
        _ => None,
    }
}

/// The version of the message format.
const VERSION: u64 = 1;

/// The body of a queue message: one end of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookMessage {
    version: u64,
    /// The job.
    pub job_id: JobId,
    /// When the job ended. A retried job ends again, at another time.
    pub completed_time: Timestamp,
}

impl WebhookMessage {
    /// Parses a body. The error describes the problem.
    pub fn parse(body: &str) -> Result<Self, String> {
        let message: Self =
            serde_json::from_str(body).map_err(|error| format!("not a webhook's message: {error}"))?;
        if message.version == VERSION {
            Ok(message)
        } else {
            Err(format!("version {} of the webhook's message is not known here", message.version))
        }
    }

    pub(crate) fn outgoing(job: &JobHead, completed_time: Timestamp) -> Outgoing {
        let message = Self { version: VERSION, job_id: job.id, completed_time };
        Outgoing {
            body: serde_json::to_string(&message).expect("only strings and numbers, and string keys"),
            group: Some(job.user.to_string()),
            envelope: Envelope::default(),
            delay: Duration::ZERO,
        }
    }
}

/// The event that is posted to the receiver. It contains no part of the transcript: receivers may log it, and a
/// transcript can exceed the size that they accept.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    r#type: &'static str,
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    job_id: JobId,
    user_id: &'a UserId,
    job_status: JobStatus,
    submitted_time: Timestamp,
    completed_time: Timestamp,
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    metadata: &'a Metadata,
    /// The transcript's path on this service.
    transcript_path: String,
}

impl<'a> Event<'a> {
    /// The event for a job that ended at `ended`. The same end always gives the same bytes.
    pub fn new(job: &'a JobHead, ended: Timestamp) -> Self {
        let status = job.status();
        Self {
            r#type: if status == JobStatus::Completed { "transcript.completed" } else { "transcript.failed" },
            timestamp: ended,
            data: Data {
                job_id: job.id,
                user_id: &job.user,
                job_status: status,
                submitted_time: job.submitted,
                completed_time: ended,
                metadata: &job.metadata,
                transcript_path: format!("/transcript/{}", job.id),
            },
        }
    }

    /// The `webhook-id`: the same for every attempt for this end, and different for the next end of the same job.
    pub fn id(&self) -> String {
        // No dots: they separate the signed parts.
        format!("{}_{}", self.data.job_id, self.timestamp.millis_since(Timestamp::from_unix(0)))
    }

    /// The body of the request.
    pub fn body(&self) -> String {
        serde_json::to_string(self).expect("only strings and numbers, and string keys")
    }
}

/// The callback settings that api and worker share.
#[derive(Clone, Debug, Default)]
pub struct CallbackSettings {
    /// `LONGHAND_WEBHOOK_QUEUE_URL`.
    pub queue_url: Option<String>,
    /// `LONGHAND_CALLBACK_HOSTS`: the hosts that may receive webhooks.
    pub hosts: AllowedHosts,
}

impl CallbackSettings {
    /// Reads the settings.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        const HOSTS: &str = "LONGHAND_CALLBACK_HOSTS";
        const QUEUE: &str = "LONGHAND_WEBHOOK_QUEUE_URL";
        let queue_url: Option<HttpUrl> =
            reader.optional(QUEUE, "URL of the SQS queue for webhooks; without it webhooks are disabled");
        let hosts: AllowedHosts = reader
            .optional(
                HOSTS,
                "hosts for callbackUrl, separated by commas; *.example.com allows all subdomains",
            )
            .unwrap_or_default();
        if !hosts.is_empty() && queue_url.is_none() {
            reader.fault(HOSTS, format_args!("is set, but {QUEUE} is not: webhooks cannot be delivered"));
        }
        Self { queue_url: queue_url.map(|HttpUrl(url)| url), hosts }
    }
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
    fn tries_come_ever_rarer_for_a_day_and_end() {
        let (mut callback, mut now, mut tries) = (Callback::new("https://a.example/"), at(0), vec![]);
        loop {
            tries.push(now.since(at(0)).as_secs());
            let (after, next) = callback.tried(attempt(now), at(0), None, now);
            callback = after;
            let Some(next_try) = callback.next_try_time else {
                assert_eq!(next, Next::GivenUp);
                break;
            };
            let pause = next_try.since(now);
            assert_eq!(next, if pause <= MAX_DELAY { Next::InQueue(pause) } else { Next::OnList });
            let check = callback.next_check().expect("it is pending");
            assert_eq!(check, if pause <= MAX_DELAY { next_try.plus(GRACE) } else { next_try });
            now = next_try;
        }
        assert_eq!(tries, [0, 5, 35, 155, 755, 2555, 6155, 13_355, 27_755, 56_555, 85_355, 86_400]);
        assert_eq!((callback.state, callback.next_check()), (CallbackState::Failed, None));
        assert_eq!((callback.tries, callback.attempts.len()), (12, MAX_ATTEMPTS_SHOWN));
        assert_eq!(callback.attempts[9].time, at(86_400));
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_but_not_for_less_and_not_for_ever() {
        let pause = |asked: u64| {
            let asked = Some(Duration::from_secs(asked));
            let (after, _) = Callback::new("https://a.example/").tried(attempt(at(9)), at(0), asked, at(9));
            after.next_try_time.expect("it is pending").since(at(9)).as_secs()
        };
        assert_eq!((pause(0), pause(60), pause(7200), pause(1_000_000)), (5, 60, 7200, 86_400 - 9));
    }

    #[test]
    fn a_message_is_read_again_and_others_are_not() {
        let body = r#"{"version":1,"jobId":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","completedTime":"2025-11-22T23:00:00.000Z"}"#;
        let message = WebhookMessage::parse(body).expect("ours");
        assert_eq!(serde_json::to_string(&message).expect("JSON"), body);
        for other in ["", "{}", "[]", &body.replace(":1,", ":2,"), &body.replace("11-22", "13-22")] {
            assert!(WebhookMessage::parse(other).is_err(), "{other}");
        }
    }
}
