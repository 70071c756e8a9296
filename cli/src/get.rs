//! `longhand get`: prints a job's transcript.

use std::time::Duration;

use crate::bodies::Segment;
use crate::client::CALL_TIMEOUT;
use crate::context::Context;
use crate::error::Failure;
use crate::options::Waiting;
use crate::{output, wait};
use clap::Args;
use longhand_shared::JobId;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Id of the job.
    #[arg(value_name = "JOB_ID")]
    job: JobId,

    /// Write the transcript to this file instead of stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print each segment of the text with its times, in seconds from the beginning of the job.
    #[arg(long)]
    pub(crate) segments: bool,

    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) async fn run(context: &Context, args: Get) -> Result<(), Failure> {
    let waited = if args.waiting.wait {
        Some(wait::wait(context, args.job, args.waiting.timeout, None).await?)
    } else {
        None
    };
    if args.segments {
        return segments(context, &args).await;
    }
    let answer = match waited {
        Some(answer) => answer,
        None => context.api.transcript(args.job, Duration::ZERO, CALL_TIMEOUT).await?,
    };
    wait::show(context, &answer, None, args.output.as_deref()).await
}

/// Prints one segment a line, or the service's answer as JSON.
async fn segments(context: &Context, args: &Get) -> Result<(), Failure> {
    let answer = context.api.segments(args.job).await?;
    let text = if context.json {
        answer.raw
    } else {
        let line =
            |segment: &Segment| format!("[{:.3} - {:.3}] {}", segment.start, segment.end, segment.text);
        answer.value.segments.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    output::write(&text, args.output.as_deref()).map_err(|failure| failure.of_job(args.job))?;
    wait::verdict(&answer.value.result, None)
}
