//! Submits at a rate, then polls the jobs until they end.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use longhand_shared::JobId;
use longhand_shared::domain::job::{JobStatus, Metadata, TranscribeOptions};
use longhand_shared::domain::transcript::TranscriptResult;
use tokio::time::{Instant, sleep, sleep_until};

use super::plan::{Job, Plan};
use crate::bodies::NewTranscription;
use crate::client::CALL_TIMEOUT;
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::progress;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Submitted<'a> {
    pub(super) job: &'a Job,
    /// From the due time of the submit to its answer, so that it also shows a generator that cannot keep up.
    pub(super) latency: Duration,
    pub(super) answer: Result<JobId, Failure>,
}

/// The last known state of an accepted job.
#[derive(Debug)]
pub(super) enum LastState {
    /// `COMPLETED` or `FAILED`.
    Ended(Box<TranscriptResult>),
    /// The service has no such job.
    Lost,
    /// In progress, or unknown since the service could not be reached.
    Unfinished,
}

/// The last states of all accepted jobs, in order, and the number of polls.
#[derive(Debug, Default)]
pub(super) struct Polled {
    pub(super) jobs: Vec<LastState>,
    pub(super) looks: u64,
}

/// Submits each job at its due time, independent of earlier answers. Returns them in order.
pub(super) async fn submit<'a>(context: &Context, plan: &'a Plan, rate: f64) -> Vec<Submitted<'a>> {
    let began = Instant::now();
    let mut due = Duration::ZERO;
    let gap = if rate > 0.0 { Duration::from_secs_f64(rate.recip()) } else { Duration::ZERO };
    let mut calls = FuturesUnordered::new();
    for (number, job) in plan.jobs.iter().enumerate() {
        let at = began + due;
        due += gap;
        calls.push(async move {
            sleep_until(at).await;
            (number, submit_one(context, plan, job, at).await)
        });
    }
    let progress = progress::steps("submitting jobs", plan.jobs.len());
    let mut all = Vec::new();
    while let Some(submitted) = calls.next().await {
        progress.inc(1);
        all.push(submitted);
    }
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, submitted)| submitted).collect()
}

async fn submit_one<'a>(context: &Context, plan: &Plan, job: &'a Job, due: Instant) -> Submitted<'a> {
    let paths: Vec<String> = job.files.iter().map(|file| plan.path(file)).collect();
    let new = NewTranscription {
        user_id: Some(&job.user),
        audio_chunk_paths: &paths,
        options: TranscribeOptions::default(),
        metadata: Metadata::new(),
        callback_url: None,
        start_offset: 0.0,
    };
    let answer = context.api.submit(&new, None).await.map(|answer| answer.value.job_id);
    Submitted { job, latency: due.elapsed(), answer }
}

/// Polls one job after the other until it ends. Later jobs have often ended by their first poll, so there are few polls.
/// After `timeout` each remaining job is polled once. Fails if the server is not Longhand.
pub(super) async fn wait(context: &Context, ids: &[JobId], timeout: Duration) -> Result<Polled, Failure> {
    let deadline = Instant::now() + timeout;
    let progress = progress::steps("waiting for jobs", ids.len());
    let mut polled = Polled::default();
    let mut reachable = true;
    for id in ids {
        let mut pause = FIRST_PAUSE;
        let seen = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !reachable {
                break LastState::Unfinished;
            }
            polled.looks += 1;
            let limit = left.clamp(Duration::from_secs(1), CALL_TIMEOUT);
            let mut hint = Duration::ZERO;
            match context.api.transcript(*id, Duration::ZERO, limit).await {
                Ok(answer) if answer.value.job_status != JobStatus::InProgress => {
                    reachable = true;
                    break LastState::Ended(Box::new(answer.value));
                }
                Ok(_) => reachable = true,
                Err(failure) if failure.exit == Exit::NoSuchJob => break LastState::Lost,
                Err(failure) => {
                    let Some(retry_after) = failure.retryable else { return Err(failure) };
                    hint = retry_after.unwrap_or_default();
                    reachable = false;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break LastState::Unfinished;
            }
            sleep(pause.max(hint).min(left)).await;
            pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
        };
        progress.inc(1);
        polled.jobs.push(seen);
    }
    Ok(polled)
}
