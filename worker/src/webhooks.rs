//! One webhook delivery: check that it is still pending, post the event, record the outcome. Read it top to
//! bottom; the protocol around it is in [`longhand_shared::webhook`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use longhand_shared::Timestamp;
use longhand_shared::domain::job::JobHead;
use longhand_shared::net::outbound::{AllowedHosts, Outbound, PublicUrl, not_public};
use longhand_shared::queue::Delivery;
use longhand_shared::store::{JobStore, StoreError};
use longhand_shared::webhook::signature::MasterSecrets;
use longhand_shared::webhook::{self, Callback, CallbackAttempt, CallbackState, Event, Next, WebhookMessage};
use metrics::counter;
use reqwest::{Method, StatusCode, header};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::asr::answer::retry_after;
use crate::lease::{Lease, Stop};
use crate::runner::{Handler, Outcome, retry_backoff};

/// How long a receiver may take to answer, from the connection to the end of the headers. Nobody reads the rest.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How far the clocks of two workers may be apart: a message that comes this much early is in time.
const SKEW: Duration = Duration::from_secs(30);

/// Tells of the ends of jobs.
#[derive(Debug)]
pub struct Webhooks {
    /// Where jobs are kept.
    pub store: Arc<dyn JobStore>,
    /// What calls receivers.
    pub outbound: Outbound,
    /// Allowed callback hosts.
    pub hosts: AllowedHosts,
    /// What signs.
    pub secrets: MasterSecrets,
    /// The time: [`Timestamp::now`] but for tests.
    pub clock: fn() -> Timestamp,
}

/// What came of a post.
enum PostOutcome {
    Delivered,
    Gone,
    /// To be tried again, if the receiver asked for it after this time.
    Failed(Option<Duration>),
}

#[async_trait]
impl Handler for Webhooks {
    async fn handle(&self, delivery: &Delivery, lease: &Lease) -> Outcome {
        let message = match WebhookMessage::parse(&delivery.body) {
            Ok(message) => message,
            Err(reason) => return Outcome::Reject { reason },
        };
        let job = match self.store.job(message.job_id).await {
            Ok(Some(job)) => job,
            Ok(None) => return Outcome::Done,
            Err(error) => return not_now(delivery, &error),
        };
        let wanted = webhook::pending_event(&job.head)
            .or_else(|| webhook::given_up(&job.head).filter(|_| was_dead(delivery)))
            .filter(|(ended, _)| *ended == message.completed_time);
        let Some((ended, callback)) = wanted else {
            return no_longer_pending(&job.head, message.completed_time);
        };
        let now = (self.clock)();
        if callback.next_try_time.is_some_and(|next| now.plus(SKEW) < next) {
            // A copy of a message that waits for its time, or of one that the sweeper will send.
            return Outcome::Superfluous;
        }
        let (posted, attempt) = tokio::select! {
            biased;
            why = lease.stopped() => return match why {
                Stop::Draining => put_back(delivery, Duration::ZERO),
                Stop::LeaseLost => Outcome::Abandon,
                Stop::Overdue => Outcome::Retry { delay: Duration::ZERO },
            },
            posted = self.post(&job.head, ended, callback, now) => posted,
        };
        report(&job.head, &posted, &attempt, callback.tries + 1);
        let now = (self.clock)();
        let (after, outcome) = match posted {
            PostOutcome::Delivered => (callback.settled(CallbackState::Delivered, attempt), Outcome::Done),
            PostOutcome::Gone => (callback.settled(CallbackState::Gone, attempt), Outcome::Done),
            PostOutcome::Failed(asked) => {
                let (after, next) = callback.tried(attempt, ended, asked, now);
                let outcome = match next {
                    Next::InQueue(delay) => Outcome::Requeue { delay },
                    Next::OnList => Outcome::Done,
                    Next::GivenUp => given_up(&after),
                };
                (after, outcome)
            }
        };
        match self.store.note_callback(job.head.id, ended, &after).await {
            Ok(true) => outcome,
            // Another was quicker, perhaps with this very message, or this note was taken and its answer lost.
            Ok(false) => Outcome::Abandon,
            Err(error) => not_now(delivery, &error),
        }
    }
}

impl Webhooks {
    /// One try.
    async fn post(
        &self,
        job: &JobHead,
        ended: Timestamp,
        callback: &Callback,
        now: Timestamp,
    ) -> (PostOutcome, CallbackAttempt) {
        let began = Instant::now();
        let answer = self.call(job, ended, callback, now).await;
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let attempt = |status, error| CallbackAttempt { time: now, status, milliseconds, error };
        match answer {
            Ok((status, asked)) => {
                let code = Some(status.as_u16());
                let refused = Some(format!("HTTP {}", status.as_u16()));
                match status {
                    _ if status.is_success() => (PostOutcome::Delivered, attempt(code, None)),
                    StatusCode::GONE => (PostOutcome::Gone, attempt(code, None)),
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                        (PostOutcome::Failed(asked), attempt(code, refused))
                    }
                    _ => (PostOutcome::Failed(None), attempt(code, refused)),
                }
            }
            Err(error) => (PostOutcome::Failed(None), attempt(None, Some(error))),
        }
    }

    /// The response status and the receiver's `Retry-After`, or why there is no response.
    async fn call(
        &self,
        job: &JobHead,
        ended: Timestamp,
        callback: &Callback,
        now: Timestamp,
    ) -> Result<(StatusCode, Option<Duration>), String> {
        // The list may have changed since the job was taken.
        let url = PublicUrl::parse(&callback.url, &self.hosts).map_err(|error| format!("the URL {error}"))?;
        let event = Event::new(job, ended);
        let (id, body, timestamp) = (event.id(), event.body(), now.unix());
        let request = self
            .outbound
            .request(Method::POST, &url)
            .timeout(TIMEOUT)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", self.secrets.sign(&job.user, &id, timestamp, &body))
            .body(body);
        match request.send().await {
            Ok(answer) => Ok((answer.status(), retry_after(answer.headers(), SystemTime::now()))),
            // Not the error's own text, which holds the address and more than a client should know.
            Err(error) => Err(if not_public(&error).is_some() {
                "the host has no public address".to_owned()
            } else if error.is_timeout() {
                format!("no answer within {} s", TIMEOUT.as_secs())
            } else if error.is_connect() {
                "no connection".to_owned()
            } else {
                "no HTTP answer".to_owned()
            }),
        }
    }
}

/// Whether a person has sent the message back from the dead letters: it has the reason for which it was rejected
/// still, whichever way it came. What was given up is tried once more then.
fn was_dead(delivery: &Delivery) -> bool {
    delivery.envelope.reason.is_some()
}

/// Its turn comes again, through no fault of its own. A copy would not say any more that it was dead.
fn put_back(delivery: &Delivery, delay: Duration) -> Outcome {
    if was_dead(delivery) { Outcome::Retry { delay } } else { Outcome::Requeue { delay } }
}

/// A message whose webhook is no longer pending.
fn no_longer_pending(job: &JobHead, ended: Timestamp) -> Outcome {
    match webhook::given_up(job) {
        // The worker that gave up may have died before it sent the dead letter. There may be two now.
        Some((at, callback)) if at == ended => given_up(callback),
        _ => Outcome::Done,
    }
}

fn given_up(callback: &Callback) -> Outcome {
    let last = callback.attempts.last().and_then(|attempt| attempt.error.as_deref());
    Outcome::Reject {
        reason: format!("given up after {} tries: {}", callback.tries, last.unwrap_or("unknown")),
    }
}

/// The table does not answer: no fault of the receiver's.
fn not_now(delivery: &Delivery, error: &StoreError) -> Outcome {
    warn!(%error, "the webhook message returns to the queue");
    match error {
        StoreError::Unavailable(_) => {
            put_back(delivery, retry_backoff(delivery.envelope.requeues.saturating_add(1)))
        }
        StoreError::Corrupt(_) => Outcome::Retry { delay: retry_backoff(delivery.receive_count) },
    }
}

fn report(job: &JobHead, posted: &PostOutcome, attempt: &CallbackAttempt, tries: u32) {
    let outcome = match posted {
        PostOutcome::Delivered => "delivered",
        PostOutcome::Gone => "gone",
        PostOutcome::Failed(_) => "failed",
    };
    counter!("longhand_webhooks_total", "outcome" => outcome).increment(1);
    let CallbackAttempt { status, milliseconds, error, .. } = attempt;
    info!(job_id = %job.id, outcome, tries, ?status, milliseconds, error, "webhook");
}
