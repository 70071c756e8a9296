//! Batches: their size, and the result of each entry.

use aws_sdk_sqs::types::BatchResultErrorEntry;

use super::super::{MAX_BATCH, Outgoing, QueueError};

/// The maximum size of a batch's bodies and attributes, in bytes. It leaves room to SQS's limit, since sizes are
/// estimates.
const MAX_BATCH_BYTES: usize = 250 * 1024;

/// The results in a batch response. An entry's id is its position in the batch; unknown ids are ignored.
pub(super) fn results<'a>(
    entries: usize,
    successful: impl Iterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
) -> Vec<Result<(), QueueError>> {
    let unanswered = QueueError::Unavailable("the batch response does not contain this entry".to_owned());
    let mut results = vec![Err(unanswered); entries];
    let successful = successful.map(|id| (id, Ok(())));
    for (id, result) in successful.chain(failed.iter().map(|entry| (entry.id(), Err(error(entry))))) {
        if let Some(place) = id.parse().ok().and_then(|place: usize| results.get_mut(place)) {
            *place = result;
        }
    }
    results
}

fn error(entry: &BatchResultErrorEntry) -> QueueError {
    let what = format!("{}: {}", entry.code(), entry.message().unwrap_or_default());
    // LocalStack marks a lost lease as its own fault.
    if is_lease_lost(entry.code(), entry.message()) {
        QueueError::LeaseLost(what)
    } else if !entry.sender_fault() {
        QueueError::Unavailable(what)
    } else {
        QueueError::Refused(what)
    }
}

/// SQS reports a lost lease in one of three ways. The last one is for a message that was deleted or became
/// visible again.
fn is_lease_lost(code: &str, message: Option<&str>) -> bool {
    code.contains("ReceiptHandleIsInvalid")
        || code.contains("MessageNotInflight")
        || (code.contains("InvalidParameterValue")
            && message.is_some_and(|text| text.contains("not available for visibility timeout change")))
}

/// Batches of up to [`MAX_BATCH`] messages and [`MAX_BATCH_BYTES`].
pub(super) fn split(messages: &[Outgoing]) -> Vec<&[Outgoing]> {
    let weight = |message: &Outgoing| message.body.len() + 1024;
    let mut batches = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (place, message) in messages.iter().enumerate() {
        if place > start && (place - start == MAX_BATCH || bytes + weight(message) > MAX_BATCH_BYTES) {
            batches.push(&messages[start..place]);
            start = place;
            bytes = 0;
        }
        bytes += weight(message);
    }
    if start < messages.len() {
        batches.push(&messages[start..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::super::super::Envelope;
    use super::*;
    use std::time::Duration;

    fn messages(count: usize, bytes: usize) -> Vec<Outgoing> {
        let message = Outgoing {
            body: "x".repeat(bytes),
            group: None,
            envelope: Envelope::default(),
            delay: Duration::ZERO,
        };
        vec![message; count]
    }

    #[test]
    fn batches_respect_the_limits_of_count_and_size() {
        let sizes = |all: &[Outgoing]| split(all).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&messages(25, 10)), [10, 10, 5]);
        assert_eq!(sizes(&messages(10, 10)), [10]);
        assert_eq!(sizes(&messages(0, 10)), [] as [usize; 0]);
        assert_eq!(sizes(&messages(3, 100 * 1024)), [2, 1]);
        assert_eq!(sizes(&messages(2, 300 * 1024)), [1, 1]);
    }

    #[test]
    fn unknown_ids_in_a_response_are_ignored() {
        let results = results(2, ["1", "7", "x"].into_iter(), &[]);
        assert!(matches!(results[..], [Err(QueueError::Unavailable(_)), Ok(())]));
    }
}
