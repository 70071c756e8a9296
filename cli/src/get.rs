//! `longhand get`: prints the transcript of a job, or of the jobs of one recording.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use longhand_shared::JobId;
use tokio::time::Instant;

use crate::bodies::{Segment, Word};
use crate::client::CALL_TIMEOUT;
use crate::context::Context;
use crate::error::Failure;
use crate::options::Waiting;
use crate::{joined, output, show, wait};

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Ids of the job, or of all jobs of one recording.
    #[arg(value_name = "JOB_ID", required = true)]
    jobs: Vec<JobId>,

    /// Write the transcript to this file instead of stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print each segment of the text with its times, in seconds from the beginning of the recording.
    #[arg(long)]
    pub(crate) segments: bool,

    /// Print each word with its times. The job needs `transcribe --timestamps word`.
    #[arg(long)]
    pub(crate) words: bool,

    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) async fn run(context: &Context, args: Get) -> Result<(), Failure> {
    let until = Instant::now() + args.waiting.limit(Duration::ZERO);
    let mut answers = Vec::new();
    if args.waiting.wait {
        for job in &args.jobs {
            let left = until.saturating_duration_since(Instant::now());
            answers.push(wait::wait(context, *job, left, None).await?);
        }
    }
    // Of several jobs, the JSON always has segments.
    if (args.segments || args.words) && !(context.json && args.jobs.len() > 1) {
        return segments(context, &args).await;
    }
    if !args.waiting.wait {
        for job in &args.jobs {
            answers.push(context.api.transcript(*job, Duration::ZERO, CALL_TIMEOUT).await?);
        }
    }
    joined::in_order(&mut answers, |answer| &answer.value)?;
    show::show(context, &answers, None, args.words, args.output.as_deref()).await
}

/// Prints one segment or word a line, or the service's answer as JSON.
async fn segments(context: &Context, args: &Get) -> Result<(), Failure> {
    let mut answers = Vec::new();
    for job in &args.jobs {
        answers.push(context.api.segments(*job, args.words).await?);
    }
    joined::in_order(&mut answers, |answer| &answer.value.result)?;
    let (mut lines, mut results) = (Vec::new(), Vec::new());
    for mut answer in answers {
        let segments = &mut answer.value.segments;
        for segment in segments.iter_mut() {
            segment.text = joined::named_marks(&answer.value.result, &segment.text);
        }
        if context.json {
            lines.push(answer.raw);
        } else if args.words {
            lines.extend(segments.iter().flat_map(|segment| &segment.words).map(word_line));
        } else {
            lines.extend(segments.iter().map(segment_line));
        }
        results.push(answer.value.result);
    }
    let results: Vec<_> = results.iter().collect();
    if args.words && lines.is_empty() {
        output::note(
            "longhand: there are no words with times. The job needs --timestamps word, and a model that returns words",
        );
    }
    output::write(&lines.join("\n"), args.output.as_deref())
        .map_err(|failure| failure.of_job(results[0].job_id))?;
    show::verdict(context, &results, None)
}

fn segment_line(segment: &Segment) -> String {
    let speaker = segment.speaker.as_ref().map(|speaker| format!("{speaker}: ")).unwrap_or_default();
    format!("[{:.3} - {:.3}] {speaker}{}", segment.start, segment.end, segment.text)
}

fn word_line(word: &Word) -> String {
    format!("[{:.3} - {:.3}] {}", word.start, word.end, word.text)
}
