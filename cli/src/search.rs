//! `longhand search`: lists a user's jobs, newest first.

use serde_json::{Value, json};

use crate::bodies::{ListedJob, Page, Query};
use crate::client::Answer;
use crate::context::Context;
use crate::error::Failure;
use crate::output;
use clap::Args;
use longhand_shared::domain::job::JobStatus;
use longhand_shared::{Timestamp, UserId};

#[derive(Debug, Args)]
pub(crate) struct Search {
    /// The owner of the jobs. Default: the user of the token. Required without a token.
    #[arg(long, value_name = "USER")]
    user: Option<UserId>,

    #[arg(
        long,
        value_name = "STATUS",
        help = "Only jobs with this status: IN_PROGRESS, COMPLETED or FAILED"
    )]
    status: Option<JobStatus>,

    /// Only jobs submitted at or after this time: 2026-11-22 or 2026-11-22T23:10:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    after: Option<Timestamp>,

    /// Only jobs submitted before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    before: Option<Timestamp>,

    /// Maximum number of jobs on a page.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Cursor of the next page, as printed with the page before it.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,

    /// All pages.
    #[arg(long)]
    all: bool,
}

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
        let page = page(context, &mut query).await?;
        if context.json && !args.all {
            return output::print(&page.raw).map(drop);
        }
        if context.json {
            // From the original text, to keep fields of newer versions.
            let mut raw: Value = serde_json::from_str(&page.raw).unwrap_or_default();
            collected.append(raw["results"].as_array_mut().unwrap_or(&mut Vec::new()));
        } else if !print_rows(&page.value.results, rows == 0)? {
            return Ok(());
        }
        rows += page.value.results.len();
        match page.value.next_cursor {
            Some(next) if args.all && query.cursor.as_ref() == Some(&next) => {
                return Err(Failure::protocol("the service returned the same page twice"));
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

async fn page(context: &Context, query: &mut Query) -> Result<Answer<Page>, Failure> {
    match context.api.search(query).await {
        // A server of version 0.1.0 does not know the parameter.
        Err(failure) if query.fields.is_some() && failure.is_about("fields") => {
            query.fields = None;
            context.api.search(query).await
        }
        page => page,
    }
}

/// Prints a page of the table. Returns false if the reader has closed the pipe.
fn print_rows(jobs: &[ListedJob], with_heading: bool) -> Result<bool, Failure> {
    let heading = (with_heading && !jobs.is_empty()).then(|| line("JOB ID", "SUBMITTED", "STATUS", "CHUNKS"));
    let lines: Vec<_> = heading.into_iter().chain(jobs.iter().map(row)).collect();
    if lines.is_empty() { Ok(true) } else { output::print(&lines.join("\n")) }
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

/// A day means its beginning in UTC.
fn moment(text: &str) -> Result<Timestamp, &'static str> {
    let moment = text.parse().or_else(|_| format!("{text}T00:00:00Z").parse());
    moment.map_err(|_| "expected a time such as 2026-11-22 or 2026-11-22T23:10:00Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_moments_are_read() {
        assert_eq!(moment("2026-11-22").map(|m| m.to_string()), Ok("2026-11-22T00:00:00.000Z".to_owned()));
        let moved = moment("2026-11-22T01:00:00+02:00").map(|m| m.to_string());
        assert_eq!(moved, Ok("2026-11-21T23:00:00.000Z".to_owned()));
        assert!(moment("yesterday").is_err());
    }
}
