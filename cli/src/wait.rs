//! Waits for a job and prints its result.

use std::path::Path;
use std::time::Duration;

use longhand_shared::JobId;
use longhand_shared::domain::job::{ChunkStatus, JobStatus};
use longhand_shared::domain::transcript::TranscriptResult;

use crate::chunk::{own_name, settled};
use crate::client::Answer;
use crate::context::Context;
use crate::error::{Exit, Failure, Fault};
use crate::follow::{Follow, Update};
use crate::options::Format;
use crate::output;
use crate::progress::Progress;

/// Shows the job's progress until it ends. `names` are the files as the user gave them; without them the job's own
/// names are shown.
pub(crate) async fn wait(
    context: &Context,
    job: JobId,
    timeout: Duration,
    names: Option<&[String]>,
) -> Result<Answer<TranscriptResult>, Failure> {
    let mut follow = Follow::new(context, job, timeout);
    let mut progress = names.map(|names| Progress::new(names.to_vec()));
    loop {
        match follow.next().await? {
            Update::InProgress(result) => {
                progress.get_or_insert_with(|| Progress::new(own_names(&result))).show(&result);
            }
            Update::Ended(answer) => {
                let result = &answer.value;
                progress.get_or_insert_with(|| Progress::new(own_names(result))).show(result);
                return Ok(*answer);
            }
            Update::Retrying(line) => {
                progress.as_ref().map_or_else(|| output::note(&line), |progress| progress.note(&line));
            }
        }
    }
}

/// Prints the job's text to `file` or stdout, and its state to stderr.
pub(crate) async fn show(
    context: &Context,
    answer: &Answer<TranscriptResult>,
    names: Option<&[String]>,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let result = &answer.value;
    let captions;
    let text = match context.format {
        Format::Json => Some(&answer.raw),
        Format::Text => result.transcription.as_ref(),
        Format::Srt | Format::Vtt => {
            let vtt = context.format == Format::Vtt;
            let media_type = if vtt { "text/vtt" } else { "application/x-subrip" };
            captions = context.api.captions(result.job_id, media_type, context.max_line_chars).await?;
            if !captions.times_exact {
                let what = "some times are estimated: an earlier chunk has no measured length";
                output::note(format_args!("longhand: {what}, or is missing"));
            }
            Some(&captions.text)
        }
    };
    if let Some(text) = text {
        output::write(text, file).map_err(|failure| failure.of_job(result.job_id))?;
    }
    let silent = result.transcription.as_deref().is_some_and(|text| text.trim().is_empty());
    if silent && result.job_status == JobStatus::Completed && !context.json {
        output::note("longhand: no speech found");
    }
    if result.job_status == JobStatus::InProgress && !context.json {
        output::note(format_args!(
            "longhand: job {} is in progress, {} of {} chunks are done. Wait for it with: {}",
            result.job_id,
            settled(&result.chunks),
            result.chunks.len(),
            context.get_command(result.job_id)
        ));
    }
    verdict(result, names)
}

/// A failed job is a failed command. A job in progress is not.
pub(crate) fn verdict(result: &TranscriptResult, names: Option<&[String]>) -> Result<(), Failure> {
    if result.job_status == JobStatus::Failed { Err(failed(result, names)) } else { Ok(()) }
}

fn failed(result: &TranscriptResult, names: Option<&[String]>) -> Failure {
    let own = own_names(result);
    let names = names.unwrap_or(&own);
    let failed = result.chunks.iter().filter(|chunk| chunk.chunk_status == ChunkStatus::Failed);
    let faults: Vec<_> = failed
        .map(|chunk| Fault {
            file: names.get(usize::from(chunk.index.get())).cloned(),
            chunk: Some(chunk.index.get()),
            chunks: result.chunks.len(),
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

fn own_names(result: &TranscriptResult) -> Vec<String> {
    result.chunks.iter().map(own_name).collect()
}
