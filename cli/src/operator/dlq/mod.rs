//! `longhand dlq`: what is in the dead-letter queue, and back to work with it.
//!
//! SQS has no way to look without receiving: a look takes the messages in hand for a short while,
//! adds one to their receive counts, and gives them back. What a look leaves behind when it is
//! broken off comes back by itself within [`IN_HAND`].

mod redrive;
mod row;

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use longhand_shared::Timestamp;
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::queue::{ChunkQueue, QueueError, Receipt};
use longhand_shared::settings::environment;
use serde_json::json;
use tokio::time::Instant;

use self::row::{Row, clean, columns};
use super::args::{DeadLetters, Dlq, DlqList, DlqShow, Which};
use super::aws::{Aws, Letter};
use super::judge::Trouble;
use super::judge::queue::{CHUNKS, Pair, WEBHOOKS};
use crate::Context;
use crate::error::{Exit, Failure};
use crate::output;

/// How long a look holds the messages, unless it gives them back before.
const IN_HAND: Duration = Duration::from_secs(30);

/// A look ends before its first messages come back.
const LOOK: Duration = Duration::from_secs(15);

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

/// What the command line says, else the environment.
fn url(given: Option<&String>, option: &str, setting: &str) -> Result<String, Failure> {
    let set = || environment(setting).filter(|url| !url.trim().is_empty());
    given.cloned().or_else(set).ok_or_else(|| {
        let message = format!("no queue is named: give {option}, or set {setting}");
        Failure::new(Exit::Refused, "USAGE", message)
    })
}

async fn list(context: &Context, aws: &Aws, args: &DlqList) -> Result<(), Failure> {
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let url = args.dlq.url()?;
    let dlq = aws.queue(&url);
    let hidden = hidden(&dlq).await?;
    let letters = look(aws, &dlq, &url, |letters| letters.len() >= limit).await?;
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

/// What a look saw, and what it could not see.
fn seen(shown: usize, more: bool, hidden: u64) -> String {
    let mut text = match shown {
        0 => "no dead letter to be seen".to_owned(),
        1 => "1 dead letter".to_owned(),
        _ => format!("{shown} dead letters"),
    };
    if more {
        text.push_str(", perhaps more (--limit)");
    }
    if hidden > 0 {
        let _ = write!(
            text,
            "; about {hidden} hidden: in a worker's hands, or parked by one for up to 15 minutes because not Longhand's"
        );
    }
    text
}

async fn show(context: &Context, aws: &Aws, args: &DlqShow) -> Result<(), Failure> {
    let url = args.dlq.url()?;
    let dlq = aws.queue(&url);
    let hidden = hidden(&dlq).await?;
    let is_it = |letter: &Letter| letter.delivery.message_id == args.message;
    let letters = look(aws, &dlq, &url, |letters| letters.iter().any(is_it)).await?;
    let Some(letter) = letters.iter().find(|letter| is_it(letter)) else {
        let message = format!(
            "there is no dead letter {} among the {} seen; {hidden} are hidden",
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

/// About how many messages a look cannot see.
async fn hidden(dlq: &SqsQueue) -> Result<u64, Failure> {
    let depth = dlq.depth().await;
    let depth =
        depth.map_err(|error| Failure::new(Exit::Unavailable, "DLQ_UNAVAILABLE", error.to_string()))?;
    Ok(depth.in_flight + depth.delayed)
}

/// Looks at messages until there are no more or `enough` says so, and gives all of them back.
async fn look(
    aws: &Aws,
    dlq: &SqsQueue,
    url: &str,
    enough: impl Fn(&[Letter]) -> bool,
) -> Result<Vec<Letter>, Failure> {
    let began = Instant::now();
    let mut seen = HashSet::new();
    let mut letters: Vec<Letter> = Vec::new();
    let mut end = Ok(());
    while !enough(&letters) && began.elapsed() < LOOK {
        let batch = match aws.receive(url, IN_HAND).await {
            Ok(batch) if batch.is_empty() => break,
            Ok(batch) => batch,
            Err(why) => {
                end = Err(unavailable(&why));
                break;
            }
        };
        letters.extend(batch.into_iter().filter(|letter| seen.insert(letter.delivery.message_id.clone())));
    }
    give_back(dlq, letters.iter().map(|letter| letter.delivery.receipt.clone()).collect()).await;
    end.map(|()| letters)
}

async fn give_back(dlq: &SqsQueue, receipts: Vec<Receipt>) {
    let changes: Vec<_> = receipts.into_iter().map(|receipt| (receipt, Duration::ZERO)).collect();
    let answers = dlq.change_visibility(&changes).await;
    // One that is no longer ours to give back is back already, or in other hands.
    let late = answers.iter().filter(|answer| matches!(answer, Err(error) if !is_lost(error))).count();
    if late > 0 {
        let within = IN_HAND.as_secs();
        output::note(format_args!(
            "longhand: {late} could not be given back; they can be seen again within {within} s"
        ));
    }
}

fn is_lost(error: &QueueError) -> bool {
    matches!(error, QueueError::LeaseLost(_))
}

fn unavailable(why: &Trouble) -> Failure {
    let message = match why {
        Trouble::Missing => "there is no such dead-letter queue: check its URL and AWS_REGION".to_owned(),
        Trouble::Denied(why) => format!("the dead-letter queue may not be read: {why}"),
        Trouble::Unreachable(why) => format!("the dead-letter queue cannot be read: {why}"),
    };
    Failure::new(Exit::Unavailable, "DLQ_UNAVAILABLE", message)
}
