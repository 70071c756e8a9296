//! Submits at a rate, and waits for each job's end as a client does.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use longhand_shared::domain::job::{JobStatus, Metadata, TranscribeOptions};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::{JobId, Timestamp};
use tokio::time::{Instant, sleep, sleep_until};

use super::plan::{Job, Plan};
use crate::bodies::NewTranscription;
use crate::client::CALL_TIMEOUT;
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::progress;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long one request waits for the end of a job.
const WAIT: Duration = Duration::from_secs(25);

#[derive(Debug)]
pub(super) struct Driven<'a> {
    pub(super) job: &'a Job,
    /// When the submit was due.
    pub(super) due: Timestamp,
    /// From the due time of the submit to its answer, so that it also shows a generator that cannot keep up.
    pub(super) latency: Duration,
    pub(super) answer: Result<Accepted, Failure>,
}

/// An accepted job.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) id: JobId,
    pub(super) last: LastState,
    /// The number of requests for its result.
    pub(super) looks: u64,
}

/// The last known state of an accepted job.
#[derive(Debug)]
pub(super) enum LastState {
    /// `COMPLETED` or `FAILED`, and the time from the planned submit until the result arrived.
    Ended(Box<TranscriptResult>, Duration),
    /// The service has no such job.
    Lost,
    /// In progress, or unknown since the service could not be reached.
    Unfinished,
}

/// Submits each job at its due time, independent of earlier answers, and waits for its end, at most until `timeout` after
/// the last submit. Returns the jobs in order. Fails if a wait fails and a retry would not help.
pub(super) async fn drive<'a>(
    context: &Context,
    plan: &'a Plan,
    rate: f64,
    timeout: Duration,
) -> Result<Vec<Driven<'a>>, Failure> {
    let (began, now) = (Instant::now(), Timestamp::now());
    let gap = if rate > 0.0 { Duration::from_secs_f64(rate.recip()) } else { Duration::ZERO };
    let dues = (0..).map(|number| gap.saturating_mul(number));
    let deadline = began + dues.clone().take(plan.jobs.len()).last().unwrap_or_default() + timeout;
    let mut jobs: FuturesUnordered<_> = plan
        .jobs
        .iter()
        .zip(dues)
        .enumerate()
        .map(|(number, (job, due))| async move {
            let at = began + due;
            sleep_until(at).await;
            let answer = submit(context, plan, job).await;
            let latency = at.elapsed();
            let answer = match answer {
                Ok(id) => Ok(follow(context, id, at, deadline).await?),
                Err(failure) => Err(failure),
            };
            Ok((number, Driven { job, due: now.plus(due), latency, answer }))
        })
        .collect();
    let progress = progress::steps("jobs", plan.jobs.len());
    let mut all = Vec::new();
    while let Some(driven) = jobs.next().await {
        progress.inc(1);
        all.push(driven?);
    }
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, driven)| driven).collect())
}

async fn submit(context: &Context, plan: &Plan, job: &Job) -> Result<JobId, Failure> {
    let paths: Vec<String> = job.files.iter().map(|file| plan.path(file)).collect();
    let new = NewTranscription {
        user_id: Some(&job.user),
        audio_chunk_paths: &paths,
        options: TranscribeOptions::default(),
        metadata: Metadata::new(),
        callback_url: None,
        start_offset: None,
    };
    context.api.submit(&new, None).await.map(|answer| answer.value.job_id)
}

/// Waits for the end of a job with long requests. It polls if the service refuses them or answers too early.
async fn follow(context: &Context, id: JobId, due: Instant, deadline: Instant) -> Result<Accepted, Failure> {
    let mut pause = FIRST_PAUSE;
    let mut wait = WAIT;
    let mut looks = 0;
    let last = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait_now = wait.min(left);
        looks += 1;
        let asked = Instant::now();
        let hint = match context.api.transcript(id, wait_now, wait_now + CALL_TIMEOUT).await {
            Ok(answer) if answer.value.job_status != JobStatus::InProgress => {
                break LastState::Ended(Box::new(answer.value), due.elapsed());
            }
            Ok(_) => {
                if asked.elapsed() < wait_now / 2 {
                    wait = Duration::ZERO;
                }
                None
            }
            Err(failure) if failure.exit == Exit::NoSuchJob => break LastState::Lost,
            Err(failure) => {
                let Some(retry_after) = failure.retryable else { return Err(failure) };
                wait = Duration::ZERO;
                retry_after
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break LastState::Unfinished;
        }
        if wait.is_zero() {
            sleep(pause.max(hint.unwrap_or_default()).min(left)).await;
            pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
        }
    };
    Ok(Accepted { id, last, looks })
}
