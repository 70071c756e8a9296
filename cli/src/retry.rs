//! `longhand retry`: retries the failed chunks of a finished job.

use crate::context::Context;
use crate::error::Failure;
use crate::output;
use clap::Args;
use longhand_shared::JobId;

#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Id of the job.
    #[arg(value_name = "JOB_ID")]
    job: JobId,
}

pub(crate) async fn run(context: &Context, args: Retry) -> Result<(), Failure> {
    let answer = context.api.retry(args.job).await?;
    if context.json {
        return output::print(&answer.raw).map(drop);
    }
    output::print(&format!("job {} is in progress again", args.job))?;
    output::note(format_args!("longhand: get the transcript with: {}", context.get_command(&[args.job])));
    Ok(())
}
