//! `longhand watch`: prints each change of a job's chunks on a line, until the job ends.

use std::time::Duration;

use longhand_shared::domain::transcript::{ChunkResult, TranscriptResult};
use serde_json::json;

use crate::chunk::{line, own_name, running_failure};
use crate::context::Context;
use crate::error::Failure;
use crate::follow::{Follow, Update};
use crate::options::duration;
use crate::{output, show};
use clap::Args;
use longhand_shared::JobId;

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Id of the job.
    #[arg(value_name = "JOB_ID")]
    job: JobId,

    /// Longest time to follow the job: 90s, 10m, 2h. Default: no limit.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

pub(crate) async fn run(context: &Context, args: Watch) -> Result<(), Failure> {
    let mut follow = Follow::new(context, args.job, args.timeout.unwrap_or(Duration::MAX));
    let mut before: Option<TranscriptResult> = None;
    loop {
        let (result, ended) = match follow.next().await? {
            Update::InProgress(result) => (*result, false),
            Update::Ended(answer) => (answer.value, true),
            Update::Retrying(line) => {
                output::note(line);
                continue;
            }
        };
        let known = before.as_ref().map_or(&[][..], |before| &before.chunks);
        let changed = result.chunks.iter().enumerate().filter(|(place, chunk)| {
            known.get(*place).is_none_or(|known| {
                known.chunk_status != chunk.chunk_status || running_failure(known) != running_failure(chunk)
            })
        });
        let count = result.chunks.len();
        let mut lines: Vec<String> = changed.map(|(_, chunk)| of_chunk(context, chunk, count)).collect();
        if ended {
            lines.push(of_job(context, &result));
        }
        if !lines.is_empty() && !output::print(&lines.join("\n"))? {
            return Ok(());
        }
        if ended {
            return show::verdict(context, &[&result], None);
        }
        before = Some(result);
    }
}

fn of_chunk(context: &Context, chunk: &ChunkResult, chunks: usize) -> String {
    if !context.json {
        return line(chunk, &own_name(chunk), chunks);
    }
    let mut document = json!({ "chunk": chunk.index, "chunkStatus": chunk.chunk_status });
    if let (Some(_), Some(running)) = (running_failure(chunk), chunk.history.last()) {
        document["asrCalls"] = json!(running.asr_calls);
        document["mostCalls"] = json!(running.most_calls);
        document["code"] = json!(running.code);
    }
    document.to_string()
}

fn of_job(context: &Context, result: &TranscriptResult) -> String {
    if context.json {
        return json!({ "jobId": result.job_id, "jobStatus": result.job_status }).to_string();
    }
    format!("job {} {}", result.job_id, result.job_status)
}
