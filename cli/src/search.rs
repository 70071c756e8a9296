//! `longhand search`: lists a user's jobs, newest first.

use serde_json::{Value, json};

use crate::Context;
use crate::args::Search;
use crate::client::{ListedJob, Query};
use crate::error::{Exit, Failure};
use crate::output;

pub(crate) async fn run(context: &Context, args: Search) -> Result<(), Failure> {
    let mut query = Query {
        user_id: args.user,
        job_status: args.status,
        submitted_after: args.after,
        submitted_before: args.before,
        limit: args.limit,
        cursor: args.cursor,
        // The printed table needs no texts.
        fields: (!context.json).then_some("summary"),
    };
    let mut collected: Vec<Value> = Vec::new();
    let mut rows = 0;
    loop {
        let page = match context.api.search(&query).await {
            // A server of version 0.1.0 does not know the parameter.
            Err(failure) if query.fields.is_some() && failure.is_about("fields") => {
                query.fields = None;
                continue;
            }
            page => page?,
        };
        if context.json && !args.all {
            output::print(&page.raw)?;
            return Ok(());
        }
        if context.json {
            // From the original text, to keep fields of newer versions.
            let mut raw: Value = serde_json::from_str(&page.raw).unwrap_or_default();
            if let Some(results) = raw["results"].as_array_mut() {
                collected.append(results);
            }
        } else {
            let heading = (rows == 0 && !page.value.results.is_empty()).then(heading);
            let lines: Vec<_> = heading.into_iter().chain(page.value.results.iter().map(row)).collect();
            rows += page.value.results.len();
            if !lines.is_empty() && !output::print(&lines.join("\n"))? {
                return Ok(());
            }
        }
        match page.value.next_cursor {
            Some(next) if args.all && query.cursor.as_ref() == Some(&next) => {
                let message = "the service returned the same page twice";
                return Err(Failure::new(Exit::Unavailable, "PROTOCOL", message));
            }
            Some(next) if args.all => query.cursor = Some(next),
            Some(next) => {
                output::note(format_args!("longhand: there are more jobs: pass --cursor {next} or --all"));
                return Ok(());
            }
            None => break,
        }
    }
    if context.json {
        output::print(&json!({ "results": collected, "nextCursor": null }).to_string())?;
    } else if rows == 0 {
        output::note("longhand: no jobs found");
    }
    Ok(())
}

fn heading() -> String {
    line("JOB ID", "SUBMITTED", "STATUS", "CHUNKS")
}

fn row(job: &ListedJob) -> String {
    line(
        &job.job_id.to_string(),
        &job.submitted_time.to_string(),
        job.job_status.as_str(),
        &job.chunk_count().to_string(),
    )
}

fn line(job: &str, submitted: &str, status: &str, chunks: &str) -> String {
    format!("{job:<36}  {submitted:<24}  {status:<11}  {chunks:>6}")
}
