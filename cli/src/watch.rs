//! `longhand watch`: each change of a job's chunks, one a line, until the job has ended.

use std::time::Duration;

use longhand_shared::transcript::{ChunkResult, TranscriptResult};
use serde_json::json;

use crate::Context;
use crate::args::Watch;
use crate::error::Failure;
use crate::follow::{Follow, News};
use crate::{output, wait};

pub(crate) async fn run(context: &Context, args: Watch) -> Result<(), Failure> {
    let mut follow = Follow::new(context, args.job, args.timeout.unwrap_or(Duration::MAX));
    let mut before: Option<TranscriptResult> = None;
    loop {
        let (result, ended) = match follow.next().await? {
            News::Stands(result) => (*result, false),
            News::Ended(answer) => (answer.value, true),
            News::Trouble(line) => {
                output::note(line);
                continue;
            }
        };
        let known = before.as_ref().map_or(&[][..], |before| &before.chunks);
        let changed = result.chunks.iter().enumerate().filter(|(place, chunk)| {
            known.get(*place).is_none_or(|known| known.chunk_status != chunk.chunk_status)
        });
        let mut lines: Vec<String> = changed.map(|(_, chunk)| of_chunk(context, chunk)).collect();
        if ended {
            lines.push(of_job(context, &result));
        }
        if !lines.is_empty() && !output::print(&lines.join("\n"))? {
            return Ok(());
        }
        if ended {
            return wait::verdict(&result, None);
        }
        before = Some(result);
    }
}

fn of_chunk(context: &Context, chunk: &ChunkResult) -> String {
    if context.json {
        return json!({ "chunk": chunk.index, "chunkStatus": chunk.chunk_status }).to_string();
    }
    let name = chunk.audio_chunk_path.file_name();
    format!("chunk {} {}  {name}", chunk.index, chunk.chunk_status.as_str())
}

fn of_job(context: &Context, result: &TranscriptResult) -> String {
    if context.json {
        return json!({ "jobId": result.job_id, "jobStatus": result.job_status }).to_string();
    }
    format!("job {} {}", result.job_id, result.job_status)
}
