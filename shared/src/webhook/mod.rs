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

use crate::domain::callback::MAX_MESSAGE_DELAY;
use crate::domain::clock::Timestamp;
use crate::domain::id::{JobId, UserId};
use crate::domain::job::{JobHead, JobStatus, Metadata};
use crate::domain::url::AllowedHosts;
use crate::queue::{Envelope, MAX_DELAY, Outgoing};
use crate::service::settings::{HttpUrl, Reader};

const _: () =
    assert!(MAX_MESSAGE_DELAY.as_secs() <= MAX_DELAY.as_secs(), "the queue cannot delay a message so long");

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
            serde_json::from_str(body).map_err(|error| format!("not a webhook message: {error}"))?;
        if message.version == VERSION {
            Ok(message)
        } else {
            Err(format!(
                "unsupported version {} of the webhook message: only {VERSION} is supported",
                message.version
            ))
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
                "hosts for callbackUrl, separated by commas; *.example.com allows all subdomains; without it webhooks are \
                 disabled; needs LONGHAND_WEBHOOK_QUEUE_URL",
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

    #[test]
    fn only_messages_of_this_version_are_parsed() {
        let body = r#"{"version":1,"jobId":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","completedTime":"2025-11-22T23:00:00.000Z"}"#;
        let message = WebhookMessage::parse(body).expect("ours");
        assert_eq!(serde_json::to_string(&message).expect("JSON"), body);
        for other in ["", "{}", "[]", &body.replace(":1,", ":2,"), &body.replace("11-22", "13-22")] {
            assert!(WebhookMessage::parse(other).is_err(), "{other}");
        }
    }
}
