//! `longhand get`: prints a job's transcript.

use std::time::Duration;

use crate::Context;
use crate::args::Get;
use crate::client::{CALL_TIMEOUT, Segment};
use crate::error::Failure;
use crate::{output, wait};

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
