//! Submitting at a rate, and looking at how the jobs ended.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use longhand_shared::JobId;
use longhand_shared::job::{JobStatus, TranscribeOptions};
use longhand_shared::transcript::TranscriptResult;
use tokio::time::{Instant, sleep, sleep_until};

use super::plan::{Job, Plan};
use crate::Context;
use crate::client::{CALL_TIMEOUT, NewTranscription};
use crate::error::{Exit, Failure};
use crate::progress;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One job, submitted.
#[derive(Debug)]
pub(super) struct Submitted<'a> {
    pub(super) job: &'a Job,
    /// From when it was due to its answer: a generator that cannot keep up shows here.
    pub(super) latency: Duration,
    pub(super) answer: Result<JobId, Failure>,
}

/// How an accepted job was last seen.
#[derive(Debug)]
pub(super) enum Seen {
    /// `COMPLETED` or `FAILED`.
    Ended(Box<TranscriptResult>),
    /// The service has no such job.
    Lost,
    /// It goes on, or nobody could be asked.
    Unfinished,
}

/// How all accepted jobs were last seen, in their order, and how many looks that took.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) jobs: Vec<Seen>,
    pub(super) looks: u64,
}

/// Submits every job when it is due, however long the answers to those before it take. In order of jobs.
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
        user_id: &job.user,
        audio_chunk_paths: &paths,
        options: TranscribeOptions::default(),
    };
    let answer = context.api.submit(&new, None).await.map(|answer| answer.value.job_id);
    Submitted { job, latency: due.elapsed(), answer }
}

/// Looks at one job after the other until it has ended: what ends meanwhile is seen at the first look, so
/// there are few. After `timeout` each of the rest gets one look. An `Err` when what answers is no Longhand.
pub(super) async fn wait(context: &Context, ids: &[JobId], timeout: Duration) -> Result<Looked, Failure> {
    let deadline = Instant::now() + timeout;
    let progress = progress::steps("waiting for jobs", ids.len());
    let mut looked = Looked::default();
    let mut reachable = true;
    for id in ids {
        let mut pause = FIRST_PAUSE;
        let seen = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !reachable {
                break Seen::Unfinished;
            }
            looked.looks += 1;
            let patience = left.clamp(Duration::from_secs(1), CALL_TIMEOUT);
            let mut hint = Duration::ZERO;
            match context.api.transcript(*id, Duration::ZERO, patience).await {
                Ok(answer) if answer.value.job_status != JobStatus::InProgress => {
                    reachable = true;
                    break Seen::Ended(Box::new(answer.value));
                }
                Ok(_) => reachable = true,
                Err(failure) if failure.exit == Exit::NoSuchJob => break Seen::Lost,
                Err(failure) => {
                    let Some(retry_after) = failure.passing else { return Err(failure) };
                    hint = retry_after.unwrap_or_default();
                    reachable = false;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Seen::Unfinished;
            }
            sleep(pause.max(hint).min(left)).await;
            pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
        };
        progress.inc(1);
        looked.jobs.push(seen);
    }
    Ok(looked)
}
