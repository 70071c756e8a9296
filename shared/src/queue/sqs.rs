//! The queue in SQS: the only file that names it. Every entry of every batch answer is read.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{BuildError, DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};

use crate::clock::Timestamp;
use crate::trace::TRACEPARENT;

use super::{ChunkQueue, Delivery, Depth, Envelope, MAX_BATCH, MAX_DELAY, Outgoing, QueueError, Receipt};

/// SQS: what the bodies and attributes of one batch may weigh together, with some room left.
const MAX_BATCH_BYTES: usize = 250 * 1024;

const ORIGIN: &str = "origin";
const REQUEUES: &str = "requeues";
const REASON: &str = "reason";

/// A queue in SQS.
#[derive(Clone)]
pub struct SqsQueue {
    client: Client,
    url: String,
}

impl fmt::Debug for SqsQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsQueue").field("url", &self.url).finish_non_exhaustive()
    }
}

/// One answer for each entry of a batch.
struct Answers(Vec<Result<(), QueueError>>);

impl Answers {
    /// Nothing is known until the queue has said so.
    fn new(entries: usize) -> Self {
        let unanswered = QueueError::Unavailable("the batch's answer does not name this entry".to_owned());
        Self(vec![Err(unanswered); entries])
    }

    /// What a batch's answer says of each of its entries.
    fn of<'a>(
        entries: usize,
        successful: impl Iterator<Item = &'a str>,
        failed: &[BatchResultErrorEntry],
    ) -> Vec<Result<(), QueueError>> {
        let mut answers = Self::new(entries);
        for id in successful {
            answers.set(id, Ok(()));
        }
        answers.failed(failed);
        answers.0
    }

    fn all(entries: usize, error: &QueueError) -> Vec<Result<(), QueueError>> {
        vec![Err(error.clone()); entries]
    }

    /// Ids are the entries' places in the batch; one that we never sent is passed over.
    fn set(&mut self, id: &str, answer: Result<(), QueueError>) {
        if let Some(place) = id.parse().ok().and_then(|place: usize| self.0.get_mut(place)) {
            *place = answer;
        }
    }

    fn failed(&mut self, failed: &[BatchResultErrorEntry]) {
        for entry in failed {
            let what = format!("{}: {}", entry.code(), entry.message().unwrap_or_default());
            let error = if !entry.sender_fault() {
                QueueError::Unavailable(what)
            } else if is_lease_lost(entry.code(), entry.message()) {
                QueueError::LeaseLost(what)
            } else {
                QueueError::Refused(what)
            };
            self.set(entry.id(), Err(error));
        }
    }
}

/// SQS says so in one of three ways, the last of them for a message that was deleted or has
/// become visible again.
fn is_lease_lost(code: &str, message: Option<&str>) -> bool {
    code.contains("ReceiptHandleIsInvalid")
        || code.contains("MessageNotInflight")
        || (code.contains("InvalidParameterValue")
            && message.is_some_and(|text| text.contains("not available for visibility timeout change")))
}

impl SqsQueue {
    /// The queue at `url`.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self { client, url: url.into() }
    }

    async fn send_batch(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        let entries = messages.iter().enumerate().map(|(place, message)| {
            SendMessageBatchRequestEntry::builder()
                .id(place.to_string())
                .message_body(&message.body)
                .set_message_group_id(message.group.clone())
                .set_message_attributes(attributes(&message.envelope)?)
                .delay_seconds(seconds(message.delay.min(MAX_DELAY)))
                .build()
        });
        let entries = match entries.collect::<Result<Vec<_>, BuildError>>() {
            Ok(entries) => entries,
            Err(error) => return Answers::all(messages.len(), &QueueError::Refused(error.to_string())),
        };
        let answer =
            self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries)).send().await;
        match answer {
            Ok(answer) => Answers::of(
                messages.len(),
                answer.successful().iter().map(|entry| entry.id.as_str()),
                answer.failed(),
            ),
            Err(error) => Answers::all(messages.len(), &unavailable(&error)),
        }
    }
}

/// Whole seconds, never fewer than asked for.
fn seconds(duration: Duration) -> i32 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(whole).unwrap_or(i32::MAX)
}

fn attributes(envelope: &Envelope) -> Result<Option<HashMap<String, MessageAttributeValue>>, BuildError> {
    let text = |value: &str| MessageAttributeValue::builder().data_type("String").string_value(value).build();
    let mut attributes = HashMap::new();
    if let Some(traceparent) = &envelope.traceparent {
        attributes.insert(TRACEPARENT.to_owned(), text(traceparent)?);
    }
    if let Some(origin) = &envelope.origin {
        attributes.insert(ORIGIN.to_owned(), text(origin)?);
    }
    if let Some(reason) = &envelope.reason {
        attributes.insert(REASON.to_owned(), text(reason)?);
    }
    if envelope.requeues > 0 {
        let count = MessageAttributeValue::builder()
            .data_type("Number")
            .string_value(envelope.requeues.to_string())
            .build()?;
        attributes.insert(REQUEUES.to_owned(), count);
    }
    Ok(Some(attributes).filter(|attributes| !attributes.is_empty()))
}

fn unavailable<E: Error + ProvideErrorMetadata + Send + Sync + 'static>(
    error: &SdkError<E, HttpResponse>,
) -> QueueError {
    let what = DisplayErrorContext(error).to_string();
    // What is wrong with the queue or our rights may be mended; what is wrong with the messages may not.
    let ours = ["InvalidMessageContents", "BatchRequestTooLong"];
    if error.code().is_some_and(|code| ours.iter().any(|ours| code.contains(ours))) {
        QueueError::Refused(what)
    } else {
        QueueError::Unavailable(what)
    }
}

fn delivery(message: Message) -> Option<Delivery> {
    let attribute = |name: &str| {
        let value = message.message_attributes.as_ref()?.get(name)?;
        value.string_value.clone()
    };
    let system = |name: MessageSystemAttributeName| message.attributes.as_ref()?.get(&name).cloned();
    let envelope = Envelope {
        traceparent: attribute(TRACEPARENT),
        origin: attribute(ORIGIN),
        requeues: attribute(REQUEUES).and_then(|count| count.parse().ok()).unwrap_or(0),
        reason: attribute(REASON),
    };
    let receive_count = system(MessageSystemAttributeName::ApproximateReceiveCount);
    Some(Delivery {
        receive_count: receive_count.and_then(|count| count.parse().ok()).unwrap_or(1),
        sent: system(MessageSystemAttributeName::SentTimestamp)
            .and_then(|millis| millis.parse().ok())
            .map(|millis| Timestamp::from_unix(0).plus(Duration::from_millis(millis))),
        group: system(MessageSystemAttributeName::MessageGroupId),
        envelope,
        message_id: message.message_id.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        // Without a receipt handle there is nothing that could be done about the message.
        receipt: Receipt(message.receipt_handle?),
    })
}

/// Batches of up to [`MAX_BATCH`] messages and [`MAX_BATCH_BYTES`].
fn batches(messages: &[Outgoing]) -> Vec<&[Outgoing]> {
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

#[async_trait]
impl ChunkQueue for SqsQueue {
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        let mut answers = Vec::with_capacity(messages.len());
        for batch in batches(messages) {
            answers.extend(self.send_batch(batch).await);
        }
        answers
    }

    async fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Delivery>, QueueError> {
        // A long poll takes as long as it is told to; the usual limit on a try counts from there.
        let patience =
            TimeoutConfig::builder().operation_attempt_timeout(wait + Duration::from_secs(5)).build();
        let answer = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(max.clamp(1, MAX_BATCH)).unwrap_or(1))
            .wait_time_seconds(seconds(wait))
            .visibility_timeout(seconds(visibility))
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId)
            .customize()
            .config_override(aws_sdk_sqs::config::Builder::new().timeout_config(patience))
            .send()
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(delivery).collect())
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let mut all = Vec::with_capacity(receipts.len());
        for batch in receipts.chunks(MAX_BATCH) {
            let entries = batch.iter().enumerate().map(|(place, receipt)| {
                DeleteMessageBatchRequestEntry::builder()
                    .id(place.to_string())
                    .receipt_handle(&receipt.0)
                    .build()
            });
            let request = self
                .client
                .delete_message_batch()
                .queue_url(&self.url)
                .set_entries(Some(entries.filter_map(Result::ok).collect()));
            all.extend(match request.send().await {
                Ok(answer) => Answers::of(
                    batch.len(),
                    answer.successful().iter().map(|entry| entry.id.as_str()),
                    answer.failed(),
                ),
                Err(error) => Answers::all(batch.len(), &unavailable(&error)),
            });
        }
        all
    }

    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        let mut all = Vec::with_capacity(changes.len());
        for batch in changes.chunks(MAX_BATCH) {
            let entries = batch.iter().enumerate().map(|(place, (receipt, visibility))| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(place.to_string())
                    .receipt_handle(&receipt.0)
                    .visibility_timeout(seconds(*visibility))
                    .build()
            });
            let request = self
                .client
                .change_message_visibility_batch()
                .queue_url(&self.url)
                .set_entries(Some(entries.filter_map(Result::ok).collect()));
            all.extend(match request.send().await {
                Ok(answer) => Answers::of(
                    batch.len(),
                    answer.successful().iter().map(|entry| entry.id.as_str()),
                    answer.failed(),
                ),
                Err(error) => Answers::all(batch.len(), &unavailable(&error)),
            });
        }
        all
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let answer = self
            .client
            .get_queue_attributes()
            .queue_url(&self.url)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed)
            .send()
            .await
            .map_err(|error| unavailable(&error))?;
        let count = |name: QueueAttributeName| {
            let value = answer.attributes.as_ref().and_then(|all| all.get(&name));
            value.and_then(|count| count.parse().ok()).unwrap_or(0)
        };
        Ok(Depth {
            visible: count(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            delayed: count(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn sends_of_25_go_in_10_10_5() {
        let sizes = |all: &[Outgoing]| batches(all).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&messages(25, 10)), [10, 10, 5]);
        assert_eq!(sizes(&messages(10, 10)), [10]);
        assert_eq!(sizes(&messages(0, 10)), [] as [usize; 0]);
        assert_eq!(sizes(&messages(3, 100 * 1024)), [2, 1]);
        assert_eq!(sizes(&messages(2, 300 * 1024)), [1, 1]);
    }

    #[test]
    fn an_answer_that_names_no_entry_of_ours_is_passed_over() {
        let mut answers = Answers::new(2);
        answers.set("1", Ok(()));
        answers.set("7", Ok(()));
        answers.set("x", Ok(()));
        assert!(matches!(answers.0[0], Err(QueueError::Unavailable(_))));
        assert_eq!(answers.0[1], Ok(()));
    }

    #[test]
    fn delays_are_never_cut_short() {
        assert_eq!(seconds(Duration::ZERO), 0);
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(3)), 3);
    }
}
