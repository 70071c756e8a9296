//! One webhook delivery: check that it is still pending, post the event, record the outcome. Read it top to
//! bottom; the protocol around it is in [`longhand_shared::webhook`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use longhand_shared::Timestamp;
use longhand_shared::domain::callback::{Callback, CallbackAttempt, CallbackState, NextAttempt};
use longhand_shared::domain::job::JobHead;
use longhand_shared::domain::url::{AllowedHosts, PublicUrl};
use longhand_shared::net::outbound::{NotPublic, Outbound, cause};
use longhand_shared::queue::Delivery;
use longhand_shared::store::{JobStore, StoreError};
use longhand_shared::webhook::signature::MasterSecrets;
use longhand_shared::webhook::{Event, WebhookMessage};
use metrics::counter;
use reqwest::{Method, StatusCode, header};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::asr::answer::retry_after;
use crate::handler::{Handler, Outcome, retry_backoff};
use crate::lease::{Lease, Stop};

/// The timeout from the connection to the end of the response's headers. The body is not read.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum clock difference between two workers. A message that is early by less is on time.
const SKEW: Duration = Duration::from_secs(30);

/// Delivers webhooks.
#[derive(Debug)]
pub struct Webhooks {
    pub store: Arc<dyn JobStore>,
    pub outbound: Outbound,
    /// The hosts that may receive webhooks.
    pub hosts: AllowedHosts,
    pub secrets: MasterSecrets,
    /// [`Timestamp::now`], except in tests.
    pub clock: fn() -> Timestamp,
}

enum PostOutcome {
    Delivered,
    Gone,
    /// With the receiver's `Retry-After`.
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
        let wanted = job
            .head
            .ended_with(CallbackState::Pending)
            .or_else(|| job.head.ended_with(CallbackState::Failed).filter(|_| was_redriven(delivery)))
            .filter(|(ended, _)| *ended == message.completed_time);
        let Some((ended, callback)) = wanted else {
            return no_longer_pending(&job.head, message.completed_time);
        };
        let now = (self.clock)();
        if callback.next_try_time.is_some_and(|next| now.plus(SKEW) < next) {
            // The next attempt has a message of its own, or the sweeper will send one.
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
        let (after, outcome) = match posted {
            PostOutcome::Delivered => (callback.settled(CallbackState::Delivered, attempt), Outcome::Done),
            PostOutcome::Gone => (callback.settled(CallbackState::Gone, attempt), Outcome::Done),
            PostOutcome::Failed(retry_after) => {
                let (after, next) = callback.after_failure(attempt, ended, retry_after, (self.clock)());
                let outcome = after_failure(&after, next);
                (after, outcome)
            }
        };
        match self.store.note_callback(job.head.id, ended, &after).await {
            Ok(true) => outcome,
            // Another worker stored an attempt first, or this one is stored and the response was lost.
            Ok(false) => Outcome::Abandon,
            Err(error) => not_now(delivery, &error),
        }
    }
}

impl Webhooks {
    /// One attempt.
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
        // The allowed hosts may have changed since the job was submitted.
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
            // The error's own text would show internals to the client.
            Err(error) => Err(if cause::<NotPublic>(&error).is_some() {
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

/// Whether an operator has redriven the message: it still has the reason of its rejection. A failed delivery is then
/// attempted once more.
fn was_redriven(delivery: &Delivery) -> bool {
    delivery.envelope.reason.is_some()
}

/// The message returns to the queue. A redriven one is not copied, since a copy has no reason.
fn put_back(delivery: &Delivery, delay: Duration) -> Outcome {
    if was_redriven(delivery) { Outcome::Retry { delay } } else { Outcome::Requeue { delay } }
}

/// A message whose webhook is no longer pending.
fn no_longer_pending(job: &JobHead, ended: Timestamp) -> Outcome {
    match job.ended_with(CallbackState::Failed) {
        // The worker that gave up may have crashed before it sent the dead letter. A second one is possible.
        Some((at, callback)) if at == ended => given_up(callback),
        _ => Outcome::Done,
    }
}

fn after_failure(callback: &Callback, next: NextAttempt) -> Outcome {
    match next {
        NextAttempt::Queued(delay) => Outcome::Requeue { delay },
        NextAttempt::Scheduled => Outcome::Done,
        NextAttempt::GivenUp => given_up(callback),
    }
}

fn given_up(callback: &Callback) -> Outcome {
    let last = callback.attempts.last().and_then(|attempt| attempt.error.as_deref());
    Outcome::Reject {
        reason: format!("gave up after {} attempts: {}", callback.tries, last.unwrap_or("unknown")),
    }
}

/// The outcome after an error of the table.
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
    info!(job_id = %job.id, outcome, tries, ?status, milliseconds, error, "webhook attempt ended");
}
