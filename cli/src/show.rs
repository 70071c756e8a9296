//! Prints the transcript of a job, or of the jobs of one recording.

use std::path::Path;

use longhand_shared::domain::job::{ChunkStatus, JobStatus};
use longhand_shared::domain::transcript::{ChunkResult, TranscriptResult};

use crate::chunk::{own_name, own_names, settled};
use crate::client::Answer;
use crate::context::{Context, listed};
use crate::error::{Exit, Failure, Fault};
use crate::options::Format;
use crate::{joined, output};

/// Prints the text to `file` or stdout, and the state of the jobs to stderr. `names` are the files of a single job as the
/// user gave them.
pub(crate) async fn show(
    context: &Context,
    answers: &[Answer<TranscriptResult>],
    names: Option<&[String]>,
    words: bool,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let results: Vec<_> = answers.iter().map(|answer| &answer.value).collect();
    let text = match (context.format, answers) {
        (Format::Json, [answer]) => Some(answer.raw.clone()),
        (Format::Json, _) => Some(joined::json(context, &results, words).await?),
        (Format::Text, _) => joined::text(context, &results).await?,
        (Format::Srt | Format::Vtt, _) => Some(joined::captions(context, &results).await?),
    };
    if let Some(text) = text {
        output::write(&text, file).map_err(|failure| failure.of_job(results[0].job_id))?;
    }
    if !context.json {
        notes(context, &results);
    }
    verdict(context, &results, names)
}

/// Writes to stderr what the text does not show.
fn notes(context: &Context, results: &[&TranscriptResult]) {
    let silent = |result: &&TranscriptResult| {
        result.transcription.as_deref().is_some_and(|text| text.trim().is_empty())
            && result.job_status == JobStatus::Completed
    };
    if results.iter().all(silent) {
        output::note("longhand: no speech found");
    }
    for chunk in results.iter().flat_map(|result| &result.chunks) {
        for warning in &chunk.warnings {
            output::note(format_args!("longhand: {}: {}", own_name(chunk), warning.message));
        }
    }
    let jobs: Vec<_> = results.iter().map(|result| result.job_id).collect();
    for result in results.iter().filter(|result| result.job_status == JobStatus::InProgress) {
        output::note(format_args!(
            "longhand: job {} is in progress, {} of {} chunks are done. Wait for it with: {}",
            result.job_id,
            settled(&result.chunks),
            result.chunks.len(),
            context.get_command(&jobs)
        ));
    }
}

/// A failed job is a failed command. A job in progress is not.
pub(crate) fn verdict(
    context: &Context,
    results: &[&TranscriptResult],
    names: Option<&[String]>,
) -> Result<(), Failure> {
    let failed: Vec<_> = results.iter().filter(|result| result.job_status == JobStatus::Failed).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let faults: Vec<_> =
        failed.iter().flat_map(|result| chunk_faults(result, names, results.len() > 1)).collect();
    let all: usize = results.iter().map(|result| result.chunks.len()).sum();
    let jobs: Vec<_> = failed.iter().map(|result| result.job_id).collect();
    let what = if jobs.len() == 1 { "job" } else { "jobs" };
    let retry: Vec<_> = jobs.iter().map(|job| format!("{} retry {job}", context.command)).collect();
    let message = format!(
        "{what} {} failed: {} of {all} chunks could not be transcribed. Retry what failed with: {}",
        listed(&jobs, ", "),
        faults.len(),
        retry.join("; ")
    );
    Err(Failure::new(Exit::Failed, "JOB_FAILED", message).of_job(first.job_id).with_faults(faults))
}

fn chunk_faults(result: &TranscriptResult, names: Option<&[String]>, name_job: bool) -> Vec<Fault> {
    let own = own_names(result);
    let names = names.unwrap_or(&own);
    let failed = result.chunks.iter().filter(|chunk| chunk.chunk_status == ChunkStatus::Failed);
    let fault = |chunk: &ChunkResult| Fault {
        job_id: name_job.then_some(result.job_id),
        file: names.get(usize::from(chunk.index.get())).cloned(),
        chunk: Some(chunk.index.get()),
        chunks: result.chunks.len(),
        code: chunk.error.as_ref().map(|error| error.code.as_str().to_owned()),
        detail: chunk.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
        ..Fault::default()
    };
    failed.map(fault).collect()
}
