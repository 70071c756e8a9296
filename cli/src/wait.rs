//! Waiting for a job, and showing how it ended.

use std::time::Duration;

use tokio::time::Instant;

use longhand_shared::JobId;
use longhand_shared::job::{ChunkStatus, JobStatus};
use longhand_shared::transcript::TranscriptResult;

use crate::Context;
use crate::client::{Answer, CALL_TIMEOUT};
use crate::error::{Exit, Failure, Fault};
use crate::output;
use crate::progress::{Progress, settled};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a service that has never answered may stay silent. Later on only the user's own limit
/// counts: the job is there, and outages pass.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Asks for the job until it has ended, through failures that pass. `names` are the files as the
/// user knows them, when the job was submitted here; without them the job's own are shown.
pub(crate) async fn wait(
    context: &Context,
    job: JobId,
    timeout: Duration,
    names: Option<&[String]>,
) -> Result<Answer<TranscriptResult>, Failure> {
    let began = Instant::now();
    let mut progress = names.map(|names| Progress::new(names.to_vec()));
    let mut pause = FIRST_PAUSE;
    let mut trouble: Option<Failure> = None;
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        // The last look gets a moment too.
        let patience = left.clamp(Duration::from_secs(1), CALL_TIMEOUT);
        let mut hint = None;
        match context.api.transcript(job, patience).await {
            Ok(answer) => {
                trouble = None;
                let _ = context.job.set(job);
                let result = &answer.value;
                let progress = progress.get_or_insert_with(|| Progress::new(own_names(result)));
                progress.show(result);
                if result.job_status != JobStatus::InProgress {
                    return Ok(answer);
                }
            }
            Err(failure) => {
                let Some(retry_after) = failure.passing else { return Err(failure) };
                hint = retry_after;
                if trouble.is_none() {
                    let line = format!("{failure}; trying again");
                    progress.as_ref().map_or_else(|| output::note(&line), |progress| progress.note(&line));
                }
                trouble = Some(failure);
            }
        }
        let seen = context.job.get().is_some();
        let limit = if seen { timeout } else { timeout.min(FIRST_ANSWER) };
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(match trouble {
                // Whether there is such a job was never learnt.
                Some(failure) if !seen => failure,
                trouble => gave_up(context, job, began.elapsed(), trouble),
            });
        }
        let next = pause.mul_f64(rand::random_range(0.8..1.2)).max(hint.unwrap_or_default());
        tokio::time::sleep(next.min(left)).await;
        pause = pause.mul_f64(1.25).min(LONGEST_PAUSE);
    }
}

/// Prints what is known of a job, and says how it stands.
pub(crate) fn show(
    context: &Context,
    answer: &Answer<TranscriptResult>,
    names: Option<&[String]>,
) -> Result<(), Failure> {
    let result = &answer.value;
    if context.json {
        output::print(&answer.raw)?;
    } else if let Some(text) = &result.transcription {
        output::print(text)?;
    }
    match result.job_status {
        JobStatus::Completed => Ok(()),
        JobStatus::Failed => Err(failed(result, names)),
        JobStatus::InProgress => {
            if !context.json {
                output::note(format_args!(
                    "longhand: job {} is in progress, {} of {} chunks are done. Wait for it with: {}",
                    result.job_id,
                    settled(&result.chunks),
                    result.chunks.len(),
                    context.how_to_get(result.job_id)
                ));
            }
            Ok(())
        }
    }
}

fn failed(result: &TranscriptResult, names: Option<&[String]>) -> Failure {
    let own = own_names(result);
    let names = names.unwrap_or(&own);
    let failed = result.chunks.iter().filter(|chunk| chunk.chunk_status == ChunkStatus::Failed);
    let faults: Vec<_> = failed
        .map(|chunk| Fault {
            file: names.get(usize::from(chunk.index.get())).cloned(),
            chunk: Some(chunk.index.get()),
            // As it stands in JSON: codes have no other text.
            code: chunk
                .error
                .as_ref()
                .and_then(|error| serde_json::to_value(error.code).ok()?.as_str().map(str::to_owned)),
            detail: chunk.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
            ..Fault::default()
        })
        .collect();
    let (count, all) = (faults.len(), result.chunks.len());
    let message = format!("job {} failed: {count} of {all} chunks could not be transcribed", result.job_id);
    Failure::new(Exit::Failed, "JOB_FAILED", message).of_job(result.job_id).with_faults(faults)
}

fn gave_up(context: &Context, job: JobId, waited: Duration, trouble: Option<Failure>) -> Failure {
    let mut message = format!(
        "gave up waiting after {:.0} s; job {job} goes on. Get it with: {}",
        waited.as_secs_f64(),
        context.how_to_get(job)
    );
    if let Some(trouble) = trouble {
        message = format!("{message} (the last time it was asked for: {})", trouble.message);
    }
    Failure::new(Exit::GaveUp, "GAVE_UP", message).of_job(job)
}

fn own_names(result: &TranscriptResult) -> Vec<String> {
    result.chunks.iter().map(|chunk| chunk.audio_chunk_path.file_name().to_owned()).collect()
}
