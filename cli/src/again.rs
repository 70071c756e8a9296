//! `longhand retry` and `longhand delete`: what is done to a job that is there.

use std::io::{self, BufRead, IsTerminal};

use serde_json::json;

use crate::Context;
use crate::args::{Delete, Retry};
use crate::error::{Exit, Failure};
use crate::output;

pub(crate) async fn retry(context: &Context, args: Retry) -> Result<(), Failure> {
    let answer = context.api.retry(args.job).await?;
    if context.json {
        return output::print(&answer.raw).map(drop);
    }
    output::print(&format!("job {} is in progress again", args.job))?;
    output::note(format_args!("longhand: get the transcript with: {}", context.how_to_get(args.job)));
    Ok(())
}

pub(crate) async fn delete(context: &Context, args: Delete) -> Result<(), Failure> {
    let job = args.job;
    if !args.yes && !confirmed(&format!("Erase job {job} with its transcript? [y/N] ")).await? {
        return Err(Failure::new(Exit::Refused, "NOT_CONFIRMED", "nothing was erased").of_job(job));
    }
    context.api.delete(job).await?;
    if context.json {
        output::print(&json!({ "jobId": job, "erased": true }).to_string()).map(drop)
    } else {
        output::print(&format!("job {job} is erased")).map(drop)
    }
}

/// Whether the person at the terminal says yes.
async fn confirmed(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let message = "there is nobody to ask whether the job may be erased: say --yes";
        return Err(Failure::new(Exit::Refused, "USAGE", message));
    }
    output::ask(question);
    // On a thread of its own, so that Ctrl-C is heard.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    Ok(answer.is_ok_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes" | "Yes")))
}
