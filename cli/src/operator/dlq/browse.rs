//! Reads dead letters. SQS can only show messages by receiving them: browsing hides them for a short time, adds one to
//! their receive counts and releases them. After an interruption they become visible again within [`HOLD`].

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::queue::{ChunkQueue, QueueError, Receipt};
use tokio::time::Instant;

use super::args::Which;
use crate::error::{Exit, Failure};
use crate::operator::aws::{Aws, DeadLetter, DescribeError};
use crate::output;

/// The visibility timeout while browsing.
pub(super) const HOLD: Duration = Duration::from_secs(30);

/// Browsing ends before its first messages become visible again.
const BROWSE_LIMIT: Duration = Duration::from_secs(15);

/// The summary: the messages shown and the number of hidden ones.
pub(super) fn seen(which: Which, shown: usize, more: bool, hidden: u64) -> String {
    let mut text = match shown {
        0 => "no visible dead letter".to_owned(),
        1 => "1 dead letter".to_owned(),
        _ => format!("{shown} dead letters"),
    };
    if more {
        text.push_str(", possibly more (raise --limit)");
    }
    if hidden > 0 {
        let why = match which {
            Which::Chunks => "a worker processes them, or they are invalid and hidden for up to 15 minutes",
            Which::Webhooks => "another reader holds them, such as `longhand dlq` or the SQS console",
        };
        let _ = write!(text, "; about {hidden} hidden: {why}");
    }
    text
}

/// The approximate number of hidden messages.
pub(super) async fn hidden(dlq: &SqsQueue) -> Result<u64, Failure> {
    let depth = dlq.depth().await;
    let depth =
        depth.map_err(|error| Failure::new(Exit::Unavailable, "DLQ_UNAVAILABLE", error.to_string()))?;
    Ok(depth.in_flight + depth.delayed)
}

/// Receives messages until there are no more or `enough` returns true, and releases them all.
pub(super) async fn browse(
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

pub(super) async fn release(dlq: &SqsQueue, receipts: Vec<Receipt>) {
    let changes: Vec<_> = receipts.into_iter().map(|receipt| (receipt, Duration::ZERO)).collect();
    let answers = dlq.change_visibility(&changes).await;
    // A lost lease means that the message is visible again or held by another reader.
    let late =
        answers.iter().filter(|answer| !matches!(answer, Ok(()) | Err(QueueError::LeaseLost(_)))).count();
    if late > 0 {
        let within = HOLD.as_secs();
        output::note(format_args!(
            "longhand: messages that could not be released: {late}. They become visible again within {within} s"
        ));
    }
}

pub(super) fn unavailable(why: &DescribeError) -> Failure {
    let message = match why {
        DescribeError::Missing => {
            "this dead-letter queue does not exist: check its URL and AWS_REGION".to_owned()
        }
        DescribeError::Denied(why) => format!("no permission to read the dead-letter queue: {why}"),
        DescribeError::Unreachable(why) => format!("the dead-letter queue cannot be read: {why}"),
    };
    Failure::new(Exit::Unavailable, "DLQ_UNAVAILABLE", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_who_hides_messages() {
        assert_eq!(seen(Which::Chunks, 2, false, 0), "2 dead letters");
        let chunks = seen(Which::Chunks, 0, false, 1);
        assert!(chunks.starts_with("no visible dead letter; about 1 hidden: a worker"), "{chunks}");
        // No worker reads this queue.
        let webhooks = seen(Which::Webhooks, 1, true, 3);
        assert!(
            webhooks.contains("; about 3 hidden: another reader") && !webhooks.contains("worker"),
            "{webhooks}"
        );
    }
}
