//! `longhand dlq`: what is in the dead-letter queue, and back to work with it.
//!
//! SQS has no way to look without receiving: a look takes the messages in hand for a short while,
//! adds one to their receive counts, and gives them back. What a look leaves behind when it is
//! broken off comes back by itself within [`IN_HAND`].

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery, Outgoing, QueueError, Receipt};
use longhand_shared::{JobId, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::args::{Dlq, DlqList, DlqRedrive, DlqShow};
use super::aws::{Aws, Letter};
use super::judge::{Trouble, age};
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
        Dlq::Redrive(args) => redrive(context, &aws, &args).await,
    }
}

/// One message, as a list shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    message_id: String,
    job_id: Option<String>,
    chunk_index: Option<u64>,
    receive_count: u32,
    sent_time: Option<Timestamp>,
    #[serde(skip)]
    age: String,
    /// Why it is here.
    reason: String,
    /// Whether it is no chunk's message, and so cannot go back.
    foreign: bool,
}

impl Row {
    fn new(letter: &Letter, now: Timestamp) -> Self {
        let Letter { delivery, .. } = letter;
        let sent = &delivery.sent;
        let foreign = ChunkMessage::parse(&delivery.body).err();
        let reason = match (&delivery.envelope.reason, &foreign) {
            (Some(reason), _) => reason.clone(),
            (None, Some(error)) => error.to_string(),
            (None, None) => "received too often, never finished".to_owned(),
        };
        // A message of another version is not ours, but its job may still be told.
        let body: Value = serde_json::from_str(&delivery.body).unwrap_or_default();
        Self {
            message_id: delivery.message_id.clone(),
            job_id: body["jobId"].as_str().map(str::to_owned),
            chunk_index: body["chunkIndex"].as_u64(),
            receive_count: delivery.receive_count,
            sent_time: *sent,
            age: sent.map_or_else(|| "-".to_owned(), |sent| age(now.since(sent).as_secs())),
            reason,
            foreign: foreign.is_some(),
        }
    }

    fn line(&self) -> String {
        let chunk = self.chunk_index.map_or_else(|| "-".to_owned(), |index| index.to_string());
        let receives = self.receive_count.to_string();
        let job = self.job_id.as_deref().unwrap_or("-");
        columns([&self.message_id, job, &chunk, &receives, &self.age, &self.reason])
    }
}

fn columns([message, job, chunk, receives, age, reason]: [&str; 6]) -> String {
    let line = format!("{message:<36}  {job:<36}  {chunk:>5}  {receives:>8}  {age:>7}  {reason}");
    clean(line.trim_end())
}

/// Bodies come from anywhere; they must not steer the terminal.
fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

async fn list(context: &Context, aws: &Aws, args: &DlqList) -> Result<(), Failure> {
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let dlq = aws.queue(&args.dlq.dlq_url);
    let hidden = hidden(&dlq).await?;
    let letters = look(aws, &dlq, &args.dlq.dlq_url, |letters| letters.len() >= limit).await?;
    let now = Timestamp::now();
    let rows: Vec<_> = letters.iter().take(limit).map(|letter| Row::new(letter, now)).collect();
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
    let dlq = aws.queue(&args.dlq.dlq_url);
    let hidden = hidden(&dlq).await?;
    let is_it = |letter: &Letter| letter.delivery.message_id == args.message;
    let letters = look(aws, &dlq, &args.dlq.dlq_url, |letters| letters.iter().any(is_it)).await?;
    let Some(letter) = letters.iter().find(|letter| is_it(letter)) else {
        let message = format!(
            "there is no dead letter {} among the {} seen; {hidden} are hidden",
            args.message,
            letters.len()
        );
        return Err(Failure::new(Exit::NoSuchJob, "NO_SUCH_MESSAGE", message));
    };
    let row = Row::new(letter, Timestamp::now());
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
        format!("redrive   {}", if row.foreign { "refused: no chunk's message" } else { "possible" }),
    ];
    for (kind, all) in [("attribute", &letter.attributes), ("system", &letter.system)] {
        lines.extend(all.iter().map(|(name, value)| format!("{kind}  {name} = {value}")));
    }
    lines.push(format!("body      {}", letter.delivery.body));
    output::print(&lines.iter().map(|line| clean(line)).collect::<Vec<_>>().join("\n")).map(drop)
}

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome {
    /// A copy is in the queue of chunks, and it is gone from here.
    Redriven,
    /// It would have been, but for --dry-run.
    Would,
    /// It stays, and would the next time.
    Refused,
    /// Something did not answer; another try may help.
    Failed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    #[serde(flatten)]
    row: Row,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
}

impl Done {
    fn line(&self) -> String {
        let word = match self.outcome {
            Outcome::Redriven => "redriven",
            Outcome::Would => "would redrive",
            Outcome::Refused => "refused",
            Outcome::Failed => "FAILED",
        };
        let mut line = format!("{word}  {}", self.row.message_id);
        if let (Some(job), Some(chunk)) = (&self.row.job_id, self.row.chunk_index) {
            let _ = write!(line, "  job {job} chunk {chunk}");
        }
        if let Some(because) = &self.because {
            let _ = write!(line, ": {because}");
        }
        clean(&line)
    }
}

async fn redrive(context: &Context, aws: &Aws, args: &DlqRedrive) -> Result<(), Failure> {
    let (url, dlq) = (&args.dlq.dlq_url, aws.queue(&args.dlq.dlq_url));
    if *url == args.queue.queue_url {
        let message = "the queue of chunks and the dead-letter queue are the same: check the two URLs";
        return Err(Failure::new(Exit::Refused, "SAME_QUEUE", message));
    }
    let queue = aws.queue(&args.queue.queue_url);
    let hidden = hidden(&dlq).await?;
    let mut all = Vec::new();
    let mut origins = HashSet::new();
    let mut keep = Vec::new();
    let end = loop {
        let letters = match aws.receive(url, IN_HAND).await {
            Ok(letters) => letters,
            Err(why) => break Err(unavailable(&why)),
        };
        // What was seen before has come back: of what there was at the start, all has been looked at.
        let (new, old): (Vec<_>, Vec<_>) =
            letters.into_iter().partition(|letter| origins.insert(letter.delivery.origin().to_owned()));
        keep.extend(old.into_iter().map(|letter| letter.delivery.receipt));
        if new.is_empty() {
            break Ok(());
        }
        let now = Timestamp::now();
        let rows = new.into_iter().map(|letter| (Row::new(&letter, now), letter.delivery));
        let (ours, others): (Vec<_>, Vec<_>) = rows.partition(|(row, _)| is_meant(row, args.job));
        keep.extend(others.into_iter().map(|(_, delivery)| delivery.receipt));
        let (done, kept) = put_back(&queue, &dlq, ours, args.dry_run).await;
        all.extend(done);
        keep.extend(kept);
    };
    give_back(&dlq, keep).await;
    tell(context, &all, hidden)?;
    end?;
    let failed = all.iter().filter(|done| done.outcome == Outcome::Failed).count();
    if failed > 0 {
        let message = format!("{failed} of {} could not go back; try again", all.len());
        return Err(Failure::new(Exit::Unavailable, "NOT_REDRIVEN", message));
    }
    Ok(())
}

fn is_meant(row: &Row, job: Option<JobId>) -> bool {
    let of_row = || row.job_id.as_ref().and_then(|id| id.parse::<JobId>().ok());
    job.is_none_or(|job| of_row() == Some(job))
}

/// The copy that starts over. It is a chunk's message, so what it was once rejected for is over.
fn copy(delivery: &Delivery) -> Outgoing {
    let mut copy = delivery.requeued(Duration::ZERO);
    copy.envelope.reason = None;
    copy
}

/// Sends copies, and deletes each message whose copy was sent. What is still in hand comes back
/// with what became of each.
async fn put_back(
    queue: &dyn ChunkQueue,
    dlq: &dyn ChunkQueue,
    letters: Vec<(Row, Delivery)>,
    dry_run: bool,
) -> (Vec<Done>, Vec<Receipt>) {
    let (mut done, mut keep, mut going) = (Vec::new(), Vec::new(), Vec::new());
    for (row, delivery) in letters {
        if row.foreign {
            keep.push(delivery.receipt);
            let because = Some(format!("no worker could read it: {}", row.reason));
            done.push(Done { row, outcome: Outcome::Refused, because });
        } else if dry_run {
            keep.push(delivery.receipt);
            done.push(Done { row, outcome: Outcome::Would, because: None });
        } else {
            going.push((row, delivery));
        }
    }
    let copies: Vec<_> = going.iter().map(|(_, delivery)| copy(delivery)).collect();
    let mut sent = Vec::new();
    for ((row, delivery), answer) in going.into_iter().zip(queue.send(&copies).await) {
        match answer {
            Ok(()) => sent.push((row, delivery.receipt)),
            Err(error) => {
                keep.push(delivery.receipt);
                let outcome =
                    if matches!(error, QueueError::Refused(_)) { Outcome::Refused } else { Outcome::Failed };
                done.push(Done { row, outcome, because: Some(error.to_string()) });
            }
        }
    }
    let receipts: Vec<_> = sent.iter().map(|(_, receipt)| receipt.clone()).collect();
    for ((row, receipt), answer) in sent.into_iter().zip(dlq.delete(&receipts).await) {
        done.push(match answer {
            Ok(()) => Done { row, outcome: Outcome::Redriven, because: None },
            Err(error) => {
                keep.push(receipt);
                let because =
                    format!("its copy went back, which does no harm twice, but it is still here: {error}");
                Done { row, outcome: Outcome::Failed, because: Some(because) }
            }
        });
    }
    (done, keep)
}

fn tell(context: &Context, all: &[Done], hidden: u64) -> Result<(), Failure> {
    if context.json {
        return output::print(&json!({ "messages": all, "hidden": hidden }).to_string()).map(drop);
    }
    if !all.is_empty() {
        output::print(&all.iter().map(Done::line).collect::<Vec<_>>().join("\n"))?;
    }
    output::note(format_args!("longhand: {}", seen(all.len(), false, hidden)));
    Ok(())
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
        Trouble::Missing => {
            "there is no such dead-letter queue: check LONGHAND_DLQ_URL and AWS_REGION".to_owned()
        }
        Trouble::Denied(why) => format!("the dead-letter queue may not be read: {why}"),
        Trouble::Unreachable(why) => format!("the dead-letter queue cannot be read: {why}"),
    };
    Failure::new(Exit::Unavailable, "DLQ_UNAVAILABLE", message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longhand_shared::queue::Envelope;

    use super::*;

    const BODY: &str = r#"{"version":1,"jobId":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","chunkIndex":7,"audioChunkPath":"s3://audio/a.wav"}"#;

    fn letter(body: &str, reason: Option<&str>) -> Letter {
        let envelope = Envelope { reason: reason.map(str::to_owned), requeues: 2, ..Envelope::default() };
        Letter {
            delivery: Delivery {
                body: body.to_owned(),
                receipt: Receipt("r".to_owned()),
                message_id: "m".to_owned(),
                receive_count: 4,
                sent: Some(Timestamp::from_unix(100)),
                group: Some("ana".to_owned()),
                envelope,
            },
            attributes: BTreeMap::new(),
            system: BTreeMap::new(),
        }
    }

    #[test]
    fn a_row_says_what_the_message_is_and_why_it_is_here() {
        let now = Timestamp::from_unix(100 + 3 * 3600);
        let ours = Row::new(&letter(BODY, None), now);
        assert_eq!((ours.foreign, ours.chunk_index, ours.age.as_str()), (false, Some(7), "3 h"));
        assert_eq!(ours.reason, "received too often, never finished");
        let foreign = Row::new(&letter("\u{1b}[2J", None), now);
        assert!(foreign.foreign && foreign.reason.starts_with("not a chunk message"), "{}", foreign.reason);
        assert!(!foreign.line().contains('\u{1b}'));
        let rejected = Row::new(&letter("x", Some("unreadable")), now);
        assert_eq!(rejected.reason, "unreadable");
    }

    #[test]
    fn a_job_s_messages_are_meant_whatever_their_version() {
        let job = "0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b".parse().ok();
        let other = "0198c1d2-7a3e-7cc0-8000-000000000000".parse().ok();
        let now = Timestamp::from_unix(200);
        let newer = BODY.replace("\"version\":1", "\"version\":2");
        for body in [BODY, &newer] {
            let row = Row::new(&letter(body, None), now);
            assert!(is_meant(&row, job) && is_meant(&row, None) && !is_meant(&row, other), "{body}");
        }
        let foreign = Row::new(&letter("x", None), now);
        assert!(is_meant(&foreign, None) && !is_meant(&foreign, job));
    }

    #[test]
    fn a_copy_starts_over_but_keeps_its_origin() {
        let copy = copy(&letter(BODY, Some("once unreadable")).delivery);
        let envelope = Envelope { origin: Some("m".to_owned()), requeues: 3, ..Envelope::default() };
        assert_eq!((copy.envelope, copy.group.as_deref()), (envelope, Some("ana")));
    }
}
