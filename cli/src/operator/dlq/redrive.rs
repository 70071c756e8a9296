//! `longhand dlq redrive`.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use longhand_shared::queue::{ChunkQueue, Delivery, Outgoing, QueueError, Receipt};
use longhand_shared::{JobId, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::args::{DlqRedrive, Which, url};
use super::browse::{HOLD, hidden, release, seen, unavailable};
use super::row::{Row, clean};
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::operator::aws::Aws;
use crate::output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome {
    /// Its copy is in the source queue, and it is deleted.
    Redriven,
    /// Not sent because of --dry-run.
    #[serde(rename = "would")]
    WouldRedrive,
    /// It stays: another attempt would be refused, too.
    Refused,
    /// A call failed; another attempt may help.
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
            Outcome::WouldRedrive => "would redrive",
            Outcome::Refused => "refused",
            Outcome::Failed => "FAILED",
        };
        let mut line = format!("{word}  {}", self.row.message_id);
        if let Some(job) = &self.row.job_id {
            let _ = write!(line, "  job {job}");
        }
        if let Some(chunk) = self.row.chunk_number() {
            let _ = write!(line, " chunk {chunk}");
        }
        if let Some(because) = &self.because {
            let _ = write!(line, ": {because}");
        }
        clean(&line)
    }
}

pub(super) async fn run(context: &Context, aws: &Aws, args: &DlqRedrive) -> Result<(), Failure> {
    let which = args.dlq.which;
    let from = args.dlq.url()?;
    let to = url(args.queue_url.as_ref(), "--queue-url", which.pair().queue_url)?;
    if from == to {
        let message = "the queue and its dead-letter queue are the same: check the two URLs";
        return Err(Failure::new(Exit::Refused, "SAME_QUEUE", message));
    }
    let (dlq, queue) = (aws.queue(&from), aws.queue(&to));
    let hidden = hidden(&dlq).await?;
    let mut all = Vec::new();
    let (mut seen_ids, mut origins) = (HashSet::new(), HashSet::new());
    let mut keep = Vec::new();
    let end = loop {
        let letters = match aws.receive(&from, HOLD).await {
            Ok(letters) => letters,
            Err(why) => break Err(unavailable(&why)),
        };
        // Messages that have become visible again are kept. A batch of only these, or an empty one, ends the run.
        let (fresh, back): (Vec<_>, Vec<_>) =
            letters.into_iter().partition(|letter| seen_ids.insert(letter.delivery.message_id.clone()));
        keep.extend(back.into_iter().map(|letter| letter.delivery.receipt));
        if fresh.is_empty() {
            break Ok(());
        }
        // Dead letters with the same origin are copies of one message. A run redrives only the first of them.
        let (new, copies): (Vec<_>, Vec<_>) =
            fresh.into_iter().partition(|letter| origins.insert(letter.delivery.origin().to_owned()));
        keep.extend(copies.into_iter().map(|letter| letter.delivery.receipt));
        let now = Timestamp::now();
        let rows = new.into_iter().map(|letter| (Row::new(which, &letter, now), letter.delivery));
        let (ours, others): (Vec<_>, Vec<_>) = rows.partition(|(row, _)| is_selected(row, args.job));
        keep.extend(others.into_iter().map(|(_, delivery)| delivery.receipt));
        let (done, kept) = put_back(which, &queue, &dlq, ours, args.dry_run).await;
        all.extend(done);
        keep.extend(kept);
    };
    release(&dlq, keep).await;
    print_report(context, args, &all, hidden)?;
    end?;
    let failed = all.iter().filter(|done| done.outcome == Outcome::Failed).count();
    if failed > 0 {
        let message = format!("{failed} of {} could not be redriven; run the command again", all.len());
        return Err(Failure::new(Exit::Unavailable, "NOT_REDRIVEN", message));
    }
    Ok(())
}

fn is_selected(row: &Row, job: Option<JobId>) -> bool {
    let of_row = || row.job_id.as_ref().and_then(|id| id.parse::<JobId>().ok());
    job.is_none_or(|job| of_row() == Some(job))
}

/// The copy with a new receive count. A webhook's copy keeps its `reason`, so that a worker repeats a delivery that was
/// given up.
fn copy(which: Which, row: &Row, delivery: &Delivery) -> Outgoing {
    let mut copy = delivery.requeued(Duration::ZERO);
    copy.envelope.reason = (which == Which::Webhooks).then(|| row.reason.clone());
    copy
}

/// Sends copies and deletes each message whose copy was sent. Returns the outcomes and the receipts to release.
async fn put_back(
    which: Which,
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
            done.push(Done { row, outcome: Outcome::WouldRedrive, because: None });
        } else {
            going.push((row, delivery));
        }
    }
    let copies: Vec<_> = going.iter().map(|(row, delivery)| copy(which, row, delivery)).collect();
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
                    format!("its copy was sent, but the message could not be deleted ({error}); a second copy is harmless");
                Done { row, outcome: Outcome::Failed, because: Some(because) }
            }
        });
    }
    (done, keep)
}

fn print_report(context: &Context, args: &DlqRedrive, all: &[Done], hidden: u64) -> Result<(), Failure> {
    if context.json {
        return output::print(&json!({ "messages": all, "hidden": hidden }).to_string()).map(drop);
    }
    if !all.is_empty() {
        output::print(&all.iter().map(Done::line).collect::<Vec<_>>().join("\n"))?;
    }
    let of_job = args.job.map(|job| format!("job {job}: ")).unwrap_or_default();
    output::note(format_args!("longhand: {of_job}{}", seen(args.dlq.which, all.len(), false, hidden)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use longhand_shared::queue::Envelope;

    use super::super::row::tests::{BODY, letter};
    use super::*;

    #[test]
    fn a_jobs_messages_are_selected_in_every_version() {
        let job = "0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b".parse().ok();
        let other = "0198c1d2-7a3e-7cc0-8000-000000000000".parse().ok();
        let now = Timestamp::from_unix(200);
        let newer = BODY.replace("\"version\":1", "\"version\":2");
        for body in [BODY, &newer] {
            let row = Row::new(Which::Chunks, &letter(body, None), now);
            assert!(is_selected(&row, job) && is_selected(&row, None) && !is_selected(&row, other), "{body}");
        }
        let foreign = Row::new(Which::Chunks, &letter("x", None), now);
        assert!(is_selected(&foreign, None) && !is_selected(&foreign, job));
    }

    #[test]
    fn a_copy_has_a_new_count_and_keeps_its_origin() {
        let letter = letter(BODY, Some("once unreadable"));
        let row = Row::new(Which::Chunks, &letter, Timestamp::from_unix(200));
        let chunk = copy(Which::Chunks, &row, &letter.delivery);
        let envelope = Envelope { origin: Some("m".to_owned()), requeues: 3, ..Envelope::default() };
        assert_eq!((&chunk.envelope, chunk.group.as_deref()), (&envelope, Some("ana")));
        let webhook = copy(Which::Webhooks, &row, &letter.delivery);
        assert_eq!(webhook.envelope, Envelope { reason: Some("once unreadable".to_owned()), ..envelope });
    }
}
