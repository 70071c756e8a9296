//! `longhand get`: a job's transcript, as it is or as it ends.

use std::time::Duration;

use crate::Context;
use crate::args::Get;
use crate::client::CALL_TIMEOUT;
use crate::error::Failure;
use crate::wait;

pub(crate) async fn run(context: &Context, args: Get) -> Result<(), Failure> {
    let answer = if args.waiting.wait {
        wait::wait(context, args.job, args.waiting.timeout, None).await?
    } else {
        context.api.transcript(args.job, Duration::ZERO, CALL_TIMEOUT).await?
    };
    wait::show(context, &answer, None, args.output.as_deref()).await
}
