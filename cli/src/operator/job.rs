//! `longhand job retry`: retries the failed chunks of a job without the api.

use std::sync::Arc;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use longhand_shared::JobId;
use longhand_shared::lifecycle::{Lifecycle, Retry};
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::{Timestamp, service::aws};
use serde_json::json;

use super::aws::Aws;
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::options::AFTER_HELP;
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Retry the failed chunks of a finished job.
    #[command(after_help = AFTER_HELP)]
    Retry(JobRetry),
}

#[derive(Debug, Args)]
pub(crate) struct JobRetry {
    /// Id of the job.
    #[arg(value_name = "JOB_ID")]
    job: JobId,

    /// Name of the table of jobs.
    #[arg(
        long,
        value_name = "NAME",
        env = "LONGHAND_TABLE",
        hide_env_values = true,
        value_parser = NonEmptyStringValueParser::new()
    )]
    table: String,

    /// URL of the queue of chunks.
    #[arg(
        long,
        value_name = "URL",
        env = "LONGHAND_QUEUE_URL",
        hide_env_values = true,
        value_parser = NonEmptyStringValueParser::new()
    )]
    queue_url: String,
}

pub(crate) async fn run(context: &Context, command: JobCommand) -> Result<(), Failure> {
    let JobCommand::Retry(JobRetry { job, table, queue_url }) = command;
    let aws = Aws::load().await;
    // The retention is for new jobs, which this command does not create.
    let store = DynamoStore::new(aws::dynamodb(&aws.config), &table, Duration::ZERO);
    let lifecycle = Lifecycle::new(Arc::new(store), Arc::new(aws.queue(&queue_url)));
    let (exit, code, message) = match lifecycle.retry(job, Timestamp::now()).await {
        Ok(Retry::Retried(chunks)) => {
            let noun = if chunks == 1 { "chunk" } else { "chunks" };
            let text = format!("job {job} is in progress again: retrying {chunks} failed {noun}");
            return output::print_either(context.json, &json!({ "jobId": job, "chunks": chunks }), &text);
        }
        Ok(Retry::InProgress) => {
            (Exit::Refused, "JOB_IN_PROGRESS", format!("job {job} is in progress; nothing was changed"))
        }
        Ok(Retry::NothingFailed) => {
            (Exit::Refused, "NOTHING_FAILED", format!("job {job} has no failed chunk"))
        }
        Ok(Retry::Gone) => (
            Exit::NoSuchJob,
            "NOT_FOUND",
            format!("job {job} is not in the table: it was erased or has expired"),
        ),
        Err(error) => (Exit::Unavailable, "UNAVAILABLE", error.to_string()),
    };
    Err(Failure::new(exit, code, message).of_job(job))
}
