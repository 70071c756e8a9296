//! `longhand dlq`: lists and redrives dead letters.
//!
//! SQS can only show messages by receiving them. Browsing hides them for a short time, adds one to their receive counts
//! and releases them. After an interruption they become visible again within [`HOLD`].

mod redrive;
mod row;

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use longhand_shared::Timestamp;
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::queue::{ChunkQueue, QueueError, Receipt};
use longhand_shared::service::settings::environment;
use serde_json::json;
use tokio::time::Instant;

use self::row::{Row, clean, columns};
use super::args::{DeadLetters, Dlq, DlqList, DlqShow, Which};
use super::aws::{Aws, DeadLetter};
use super::rules::DescribeError;
use super::rules::queue::{CHUNKS, Pair, WEBHOOKS};
use crate::Context;
use crate::error::{Exit, Failure};
use crate::output;

/// The visibility timeout while browsing.
const HOLD: Duration = Duration::from_secs(30);

/// Browsing ends before its first messages become visible again.
const BROWSE_LIMIT: Duration = Duration::from_secs(15);

pub(crate) async fn run(context: &Context, command: Dlq) -> Result<(), Failure> {
    let aws = Aws::load().await;
    match command {
        Dlq::List(args) => list(context, &aws, &args).await,
        Dlq::Show(args) => show(context, &aws, &args).await,
        Dlq::Redrive(args) => redrive::run(context, &aws, &args).await,
    }
}

impl Which {
    fn pair(self) -> Pair {
        match self {
            Self::Chunks => CHUNKS,
            Self::Webhooks => WEBHOOKS,
        }
    }
}

impl DeadLetters {
    fn url(&self) -> Result<String, Failure> {
        url(self.dlq_url.as_ref(), "--dlq-url", self.which.pair().dlq_url)
    }
}

/// The URL from the command line, else from the environment.
fn url(given: Option<&String>, option: &str, setting: &str) -> Result<String, Failure> {
    let set = || environment(setting).filter(|url| !url.trim().is_empty());
    given.cloned().or_else(set).ok_or_else(|| {
        let message = format!("no queue: pass {option} or set {setting}");
        Failure::new(Exit::Refused, "USAGE", message)
    })
}

async fn list(context: &Context, aws: &Aws, args: &DlqList) -> Result<(), Failure> {
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let url = args.dlq.url()?;
    let dlq = aws.queue(&url);
    let hidden = hidden(&dlq).await?;
    let letters = browse(aws, &dlq, &url, |letters| letters.len() >= limit).await?;
    let now = Timestamp::now();
    let rows: Vec<_> =
        letters.iter().take(limit).map(|letter| Row::new(args.dlq.which, letter, now)).collect();
    if context.json {
        output::print(&json!({ "messages": rows, "hidden": hidden }).to_string())?;
        return Ok(());
    }
    if !rows.is_empty() {
        let heading = columns(["MESSAGE ID", "JOB ID", "CHUNK", "RECEIVES", "AGE", "REASON"]);
        let lines: Vec<_> = std::iter::once(heading).chain(rows.iter().map(Row::line)).collect();
        output::print(&lines.join("\n"))?;
    }
    output::note(format_args!("longhand: {}", seen(rows.len(), letters.len() >= limit, hidden)));
    Ok(())
}

/// The summary: the messages shown and the number of hidden ones.
fn seen(shown: usize, more: bool, hidden: u64) -> String {
    let mut text = match shown {
        0 => "no visible dead letter".to_owned(),
        1 => "1 dead letter".to_owned(),
        _ => format!("{shown} dead letters"),
    };
    if more {
        text.push_str(", possibly more (raise --limit)");
    }
    if hidden > 0 {
        let _ = write!(
            text,
            "; about {hidden} hidden: held by a worker, or not a message of Longhand and set aside for up to 15 minutes"
        );
    }
    text
}

async fn show(context: &Context, aws: &Aws, args: &DlqShow) -> Result<(), Failure> {
    let url = args.dlq.url()?;
    let dlq = aws.queue(&url);
    let hidden = hidden(&dlq).await?;
    let is_it = |letter: &DeadLetter| letter.delivery.message_id == args.message;
    let letters = browse(aws, &dlq, &url, |letters| letters.iter().any(is_it)).await?;
    let Some(letter) = letters.iter().find(|letter| is_it(letter)) else {
        let message = format!(
            "no dead letter {} among the {} visible ones; {hidden} are hidden",
            args.message,
            letters.len()
        );
        return Err(Failure::new(Exit::NoSuchJob, "NO_SUCH_MESSAGE", message));
    };
    let row = Row::new(args.dlq.which, letter, Timestamp::now());
    if context.json {
        let document = json!({
            "message": row,
            "origin": letter.delivery.origin(),
            "attributes": letter.attributes,
            "system": letter.system,
            "body": letter.delivery.body,
        });
        return output::print(&document.to_string()).map(drop);
    }
    let mut lines = vec![
        format!("message   {}", row.message_id),
        format!("origin    {}", letter.delivery.origin()),
        format!("job       {}", row.job_id.as_deref().unwrap_or("-")),
        format!("chunk     {}", row.chunk_index.map_or_else(|| "-".to_owned(), |index| index.to_string())),
        format!("receives  {}", row.receive_count),
        format!("age       {}", row.age),
        format!("reason    {}", row.reason),
        format!("redrive   {}", if row.foreign { "refused: no worker could read it" } else { "possible" }),
    ];
    for (kind, all) in [("attribute", &letter.attributes), ("system", &letter.system)] {
        lines.extend(all.iter().map(|(name, value)| format!("{kind}  {name} = {value}")));
    }
    lines.push(format!("body      {}", letter.delivery.body));
    output::print(&lines.iter().map(|line| clean(line)).collect::<Vec<_>>().join("\n")).map(drop)
}

/// The approximate number of hidden messages.
async fn hidden(dlq: &SqsQueue) -> Result<u64, Failure> {
    let depth = dlq.depth().await;
    let depth =
        depth.map_err(|error| Failure::new(Exit::Unavailable, "DLQ_UNAVAILABLE", error.to_string()))?;
    Ok(depth.in_flight + depth.delayed)
}

/// Receives messages until there are no more or `enough` returns true, and releases them all.
async fn browse(
    aws: &Aws,
    dlq: &SqsQueue,
    url: &str,
    enough: impl Fn(&[DeadLetter]) -> bool,
) -> Result<Vec<DeadLetter>, Failure> {
    let began = Instant::now();
    let mut seen = HashSet::new();
    let mut letters: Vec<DeadLetter> = Vec::new();
    let mut end = Ok(());
    while !enough(&letters) && began.elapsed() < BROWSE_LIMIT {
        let batch = match aws.receive(url, HOLD).await {
            Ok(batch) if batch.is_empty() => break,
            Ok(batch) => batch,
            Err(why) => {
                end = Err(unavailable(&why));
                break;
            }
        };
        letters.extend(batch.into_iter().filter(|letter| seen.insert(letter.delivery.message_id.clone())));
    }
    release(dlq, letters.iter().map(|letter| letter.delivery.receipt.clone()).collect()).await;
    end.map(|()| letters)
}

async fn release(dlq: &SqsQueue, receipts: Vec<Receipt>) {
    let changes: Vec<_> = receipts.into_iter().map(|receipt| (receipt, Duration::ZERO)).collect();
    let answers = dlq.change_visibility(&changes).await;
    // A lost lease means that the message is visible again or held by another reader.
    let late = answers.iter().filter(|answer| matches!(answer, Err(error) if !is_lost(error))).count();
    if late > 0 {
        let within = HOLD.as_secs();
        output::note(format_args!(
            "longhand: {late} messages could not be released; they become visible again within {within} s"
        ));
    }
}

fn is_lost(error: &QueueError) -> bool {
    matches!(error, QueueError::LeaseLost(_))
}

fn unavailable(why: &DescribeError) -> Failure {
    let message = match why {
        DescribeError::Missing => {
            "this dead-letter queue does not exist: check its URL and AWS_REGION".to_owned()
        }
        DescribeError::Denied(why) => format!("no permission to read the dead-letter queue: {why}"),
        DescribeError::Unreachable(why) => format!("the dead-letter queue cannot be read: {why}"),
    };
    Failure::new(Exit::Unavailable, "DLQ_UNAVAILABLE", message)
}
