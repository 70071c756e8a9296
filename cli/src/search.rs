//! `longhand search`: a user's jobs, newest first.

use longhand_shared::job::ChunkStatus;
use longhand_shared::transcript::TranscriptResult;
use serde_json::{Value, json};

use crate::Context;
use crate::args::Search;
use crate::client::Query;
use crate::error::{Exit, Failure};
use crate::output;

/// How much of a transcript the table shows, in characters.
const FIRST_WORDS: usize = 48;

pub(crate) async fn run(context: &Context, args: Search) -> Result<(), Failure> {
    let mut query = Query {
        user_id: args.user,
        job_status: args.status,
        submitted_after: args.after,
        submitted_before: args.before,
        limit: args.limit,
        cursor: args.cursor,
    };
    let mut collected: Vec<Value> = Vec::new();
    let mut rows = 0;
    loop {
        let page = context.api.search(&query).await?;
        if context.json && !args.all {
            output::print(&page.raw)?;
            return Ok(());
        }
        if context.json {
            // From the text as it came: fields that are new to this version are kept.
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
                let message = "the service gives the same page again and again";
                return Err(Failure::new(Exit::Unavailable, "PROTOCOL", message));
            }
            Some(next) if args.all => query.cursor = Some(next),
            Some(next) => {
                output::note(format_args!("longhand: there are more: --cursor {next}, or --all"));
                return Ok(());
            }
            None => break,
        }
    }
    if context.json {
        output::print(&json!({ "results": collected, "nextCursor": null }).to_string())?;
    } else if rows == 0 {
        output::note("longhand: no such jobs");
    }
    Ok(())
}

fn heading() -> String {
    line("JOB ID", "SUBMITTED", "STATUS", "CHUNKS", "TEXT")
}

fn row(job: &TranscriptResult) -> String {
    let completed = job.chunks.iter().filter(|chunk| chunk.chunk_status == ChunkStatus::Completed).count();
    line(
        &job.job_id.to_string(),
        &job.submitted_time.to_string(),
        job.job_status.as_str(),
        &format!("{completed}/{}", job.chunks.len()),
        &first_words(job.transcription.as_deref().unwrap_or_default()),
    )
}

fn line(job: &str, submitted: &str, status: &str, chunks: &str, text: &str) -> String {
    format!("{job:<36}  {submitted:<24}  {status:<11}  {chunks:>6}  {text}").trim_end().to_owned()
}

/// The beginning of a text on one line.
fn first_words(text: &str) -> String {
    let clean = text.replace(char::is_control, " ");
    let words = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(FIRST_WORDS) {
        Some((end, _)) => format!("{}…", words[..end].trim_end()),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_words_are_one_short_line() {
        assert_eq!(first_words("And so,\n my\tfellow\u{1b}[31m"), "And so, my fellow [31m");
        assert_eq!(first_words(&"語".repeat(60)), format!("{}…", "語".repeat(FIRST_WORDS)));
        assert_eq!(first_words(""), "");
    }
}
