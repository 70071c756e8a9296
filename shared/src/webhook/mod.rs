//! Webhooks: telling the one whom a client named (`callbackUrl`) that its job has ended.
//!
//! The wish to tell stands in the job's item, and the transaction that ends the job leaves the job on the
//! sweeper's list until somebody has told. So an end is never without its telling, whatever dies in between;
//! a message is a reminder here too.
//!
//! ```text
//! finish    status, transcript; the job stays on the sweeper's list         one transaction
//! announce  whoever ended it sends a message                                else the sweeper does
//! try       post, and note what came of it in the job's item                the worker's `webhooks.rs`
//! again     a pause of at most 15 minutes waits in the queue, a longer one on the sweeper's list
//! ```
//!
//! Dying between the post and its note means that it is posted again, under the same `webhook-id`.

pub mod signature;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{debug, warn};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::id::{JobId, UserId};
use crate::job::{JobHead, JobState, JobStatus, Metadata};
use crate::outbound::AllowedHosts;
use crate::queue::{ChunkQueue, Envelope, MAX_DELAY, Outgoing};
use crate::settings::{HttpUrl, Reader};
use crate::store::JobStore;

/// For how long after a job's end it is tried to tell of it.
pub const GIVEN_UP_AFTER: Duration = Duration::from_hours(24);

/// The most tries that are shown; older ones are forgotten, but counted.
pub const MAX_ATTEMPTS_SHOWN: usize = 10;

/// How long a message that should be on its way is waited for before the sweeper sends another.
const GRACE: Duration = Duration::from_mins(5);

/// How long sending a message may take. It is the sweeper's then.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// The pauses after the first tries that came to nothing; after all further ones it is the last of them.
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

/// Where the telling stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CallbackState {
    /// The job has not ended, or nobody has taken the word yet.
    Pending,
    /// The receiver has answered with a 2xx.
    Delivered,
    /// Nobody took it for [`GIVEN_UP_AFTER`].
    Failed,
    /// The receiver has answered with 410: it wants no more.
    Gone,
}

/// One try to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallbackAttempt {
    /// When it began.
    pub time: Timestamp,
    /// The HTTP status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How long it took.
    pub milliseconds: u64,
    /// Why it came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whom to tell of a job's end, and how far that has come. As the table has it and as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Callback {
    /// The address, as the client gave it.
    pub url: String,
    /// Where it stands.
    pub state: CallbackState,
    /// How often it was tried since the job ended.
    pub tries: u32,
    /// When it is tried again; not before the second try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_time: Option<Timestamp>,
    /// The last [`MAX_ATTEMPTS_SHOWN`] tries, the newest last.
    pub attempts: Vec<CallbackAttempt>,
}

/// What follows from a try that came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The message waits in the queue for so long.
    InQueue(Duration),
    /// It is the sweeper's to send when the time has come.
    OnList,
    /// It was the last.
    GivenUp,
}

impl Callback {
    /// A callback that was not tried yet.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            state: CallbackState::Pending,
            tries: 0,
            next_try_time: None,
            attempts: Vec::new(),
        }
    }

    /// The same for a job that is in progress again.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::new(&self.url)
    }

    /// After one more try, which brought it to an end.
    #[must_use]
    pub fn settled(&self, state: CallbackState, attempt: CallbackAttempt) -> Self {
        let mut attempts = self.attempts.clone();
        attempts.push(attempt);
        attempts.drain(..attempts.len().saturating_sub(MAX_ATTEMPTS_SHOWN));
        Self { url: self.url.clone(), state, tries: self.tries + 1, next_try_time: None, attempts }
    }

    /// After one more try, which came to nothing at `now`; the job ended at `ended`, and the receiver asked
    /// to be left alone for `asked`.
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

    /// When the sweeper should look at it; `None` when there is nothing left to do.
    pub fn next_check(&self) -> Option<Timestamp> {
        let next = self.next_try_time.filter(|_| self.state == CallbackState::Pending)?;
        let last = self.attempts.last()?;
        let pause = next.since(last.time.plus(Duration::from_millis(last.milliseconds)));
        // A second for what lies between the end of the try and its note.
        Some(if pause <= MAX_DELAY + Duration::from_secs(1) { next.plus(GRACE) } else { next })
    }
}

/// When the sweeper looks at a job again whose message it has just sent: the later, the rarer.
pub(crate) fn next_reminder(ended: Timestamp, now: Timestamp) -> Timestamp {
    now.plus(now.since(ended).clamp(GRACE, Duration::from_hours(1)))
}

/// The end of a job that somebody is to be told of, which nobody has yet.
pub fn untold(head: &JobHead) -> Option<(Timestamp, &Callback)> {
    match (head.state, &head.callback) {
        (JobState::Ended { at, .. }, Some(callback)) if callback.state == CallbackState::Pending => {
            Some((at, callback))
        }
        _ => None,
    }
}

/// The end of a job that nobody took the word of, until it was given up.
pub fn given_up(head: &JobHead) -> Option<(Timestamp, &Callback)> {
    match (head.state, &head.callback) {
        (JobState::Ended { at, .. }, Some(callback)) if callback.state == CallbackState::Failed => {
            Some((at, callback))
        }
        _ => None,
    }
}

/// The version of the message that is written and read here.
const VERSION: u64 = 1;

/// The body of a message: which end of which job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookMessage {
    version: u64,
    /// The job.
    pub job_id: JobId,
    /// When it ended; a job that was given another try ends again.
    pub completed_time: Timestamp,
}

impl WebhookMessage {
    /// Reads a body; says what it is not.
    pub fn parse(body: &str) -> Result<Self, String> {
        let message: Self =
            serde_json::from_str(body).map_err(|error| format!("not a webhook's message: {error}"))?;
        if message.version == VERSION {
            Ok(message)
        } else {
            Err(format!("version {} of the webhook's message is not known here", message.version))
        }
    }

    fn outgoing(job: &JobHead, completed_time: Timestamp) -> Outgoing {
        let message = Self { version: VERSION, job_id: job.id, completed_time };
        Outgoing {
            body: serde_json::to_string(&message).expect("only strings and numbers, and string keys"),
            group: Some(job.user.to_string()),
            envelope: Envelope::default(),
            delay: Duration::ZERO,
        }
    }
}

/// Sends a message for a job that has ended, if there is anybody to tell. What cannot be sent is the sweeper's.
/// Without a queue it is the sweeper's of a worker that has one.
pub async fn announce(store: &dyn JobStore, webhooks: Option<&dyn ChunkQueue>, id: JobId) {
    let Some(webhooks) = webhooks else { return };
    let sending = async {
        let job = store.job(id).await.map_err(|error| error.to_string())?;
        let head = job.as_ref().map(|job| &job.head);
        let Some((ended, _)) = head.and_then(untold) else {
            return Ok(());
        };
        let message = head.map(|head| WebhookMessage::outgoing(head, ended));
        for answer in webhooks.send(message.as_slice()).await {
            answer.map_err(|error| error.to_string())?;
        }
        debug!(job_id = %id, "the end of the job is to be told");
        Ok(())
    };
    let sent = timeout(SEND_PATIENCE, sending).await;
    if let Err(error) = sent.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
        warn!(job_id = %id, error, "no message to tell of the job's end; the sweeper will send it");
    }
}

/// What a receiver is told. Small, and without a word of the transcript: it is one more place where people's
/// words would be kept (the receiver's logs), and a transcript may be larger than receivers take.
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
    /// Where the transcript is, at the service.
    transcript_path: String,
}

impl<'a> Event<'a> {
    /// The end of a job, at `ended`. Always the same bytes for the same end.
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

    /// `webhook-id`: the same for every try to tell of this end, and another for the next end of the same job.
    pub fn id(&self) -> String {
        // No dots: they part what is signed.
        format!("{}_{}", self.data.job_id, self.timestamp.millis_since(Timestamp::from_unix(0)))
    }

    /// The body of the request.
    pub fn body(&self) -> String {
        serde_json::to_string(self).expect("only strings and numbers, and string keys")
    }
}

/// What api and worker both know of callbacks.
#[derive(Clone, Debug, Default)]
pub struct CallbackSettings {
    /// `LONGHAND_WEBHOOK_QUEUE_URL`.
    pub queue_url: Option<String>,
    /// `LONGHAND_CALLBACK_HOSTS`: who may be told.
    pub hosts: AllowedHosts,
}

impl CallbackSettings {
    /// Reads them.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        const HOSTS: &str = "LONGHAND_CALLBACK_HOSTS";
        const QUEUE: &str = "LONGHAND_WEBHOOK_QUEUE_URL";
        let queue_url: Option<HttpUrl> = reader.optional(QUEUE, "the SQS queue of webhooks");
        let hosts: AllowedHosts = reader
            .optional(
                HOSTS,
                "hosts that callbackUrl may name, commas between; *.example.com for those under it",
            )
            .unwrap_or_default();
        if !hosts.is_empty() && queue_url.is_none() {
            reader.fault(HOSTS, format_args!("is set, but {QUEUE} is not: nobody would be told"));
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
