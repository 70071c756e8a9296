//! `longhand delete`: erases a job after a confirmation.

use std::io::{self, BufRead, IsTerminal};

use serde_json::json;

use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::output;
use clap::Args;
use longhand_shared::JobId;

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Id of the job.
    #[arg(value_name = "JOB_ID")]
    job: JobId,

    /// Also erase the job's recordings in its user's folder of uploads/ in the service's first bucket. Others stay, such
    /// as those that transcribe --bucket uploaded to recordings/ or to another bucket.
    #[arg(long)]
    audio: bool,

    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(context: &Context, args: Delete) -> Result<(), Failure> {
    let job = args.job;
    let what = if args.audio { "its transcript and its recordings in uploads/" } else { "its transcript" };
    if !args.yes && !confirm(&format!("Erase job {job} with {what}? [y/N] ")).await? {
        return Err(Failure::new(Exit::Refused, "NOT_CONFIRMED", "nothing was erased").of_job(job));
    }
    context.api.delete(job, args.audio).await?;
    let document = json!({ "jobId": job, "erased": true });
    output::print_either(context.json, &document, &format!("job {job} is erased"))
}

async fn confirm(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let message = "stdin is not a terminal; pass --yes to confirm";
        return Err(Failure::usage(message));
    }
    output::ask(question);
    // On a separate thread, so that Ctrl-C works meanwhile.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    Ok(answer.is_ok_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes" | "Yes")))
}
