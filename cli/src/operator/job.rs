//! `longhand job retry`: retries the failed chunks of a job without the api.

use std::sync::Arc;
use std::time::Duration;

use longhand_shared::lifecycle::{Lifecycle, Retry};
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::{Timestamp, service::aws};
use serde_json::json;

use super::args::{JobCommand, JobRetry};
use super::aws::Aws;
use crate::Context;
use crate::error::{Exit, Failure};
use crate::output;

pub(crate) async fn run(context: &Context, command: JobCommand) -> Result<(), Failure> {
    let JobCommand::Retry(args) = command;
    retry(context, &args).await
}

async fn retry(context: &Context, args: &JobRetry) -> Result<(), Failure> {
    let aws = Aws::load().await;
    // Only new jobs are given this retention, and none is made here.
    let store = DynamoStore::new(aws::dynamodb(aws.config()), &args.table, Duration::ZERO);
    let queue = aws.queue(&args.queue.queue_url);
    let failure = |exit, code: &str, message: String| Err(Failure::new(exit, code, message).of_job(args.job));
    let lifecycle = Lifecycle::new(Arc::new(store), Arc::new(queue));
    match lifecycle.retry(args.job, Timestamp::now()).await {
        Ok(Retry::Retried(chunks)) if context.json => {
            output::print(&json!({ "jobId": args.job, "chunks": chunks }).to_string()).map(drop)
        }
        Ok(Retry::Retried(chunks)) => {
            let chunks =
                if chunks == 1 { "1 failed chunk".to_owned() } else { format!("{chunks} failed chunks") };
            output::print(&format!("job {} is in progress again: retrying {chunks}", args.job)).map(drop)
        }
        Ok(Retry::InProgress) => {
            let message = format!("job {} is in progress; nothing was changed", args.job);
            failure(Exit::Refused, "JOB_IN_PROGRESS", message)
        }
        Ok(Retry::NothingFailed) => {
            let message = format!("job {} has no failed chunk", args.job);
            failure(Exit::Refused, "NOTHING_FAILED", message)
        }
        Ok(Retry::Gone) => failure(Exit::NoSuchJob, "NOT_FOUND", format!("there is no job {}", args.job)),
        Err(error) => failure(Exit::Unavailable, "UNAVAILABLE", error.to_string()),
    }
}
