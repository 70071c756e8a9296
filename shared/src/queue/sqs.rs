//! The SQS queue, the only file with SQS types. It reads every entry of every batch response.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
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

use crate::domain::clock::Timestamp;

use super::acceptance::{Acceptance, refuses_group};
use super::{
    ChunkQueue, Delivery, Depth, Envelope, MAX_BATCH, MAX_DELAY, Outgoing, Progress, QueueError, Receipt,
    Standing, TRACEPARENT,
};

/// The maximum size of a batch's bodies and attributes, in bytes. It leaves room to SQS's limit, since sizes are
/// estimates.
const MAX_BATCH_BYTES: usize = 250 * 1024;

const ORIGIN: &str = "origin";
const REQUEUES: &str = "requeues";
const REASON: &str = "reason";
const TRIES: &str = "tries";
const OUTAGES: &str = "outages";
const AUDIO: &str = "audio";

#[derive(Clone)]
pub struct SqsQueue {
    client: Client,
    url: String,
    acceptance: Arc<Acceptance>,
}

impl fmt::Debug for SqsQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsQueue").field("url", &self.url).finish_non_exhaustive()
    }
}

/// One result per entry of a batch.
struct Answers(Vec<Result<(), QueueError>>);

impl Answers {
    /// All entries count as unanswered at first.
    fn new(entries: usize) -> Self {
        let unanswered = QueueError::Unavailable("the batch response does not contain this entry".to_owned());
        Self(vec![Err(unanswered); entries])
    }

    /// The results in a batch response.
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

    /// An id is the entry's position in the batch. Unknown ids are ignored.
    fn set(&mut self, id: &str, answer: Result<(), QueueError>) {
        if let Some(place) = id.parse().ok().and_then(|place: usize| self.0.get_mut(place)) {
            *place = answer;
        }
    }

    fn failed(&mut self, failed: &[BatchResultErrorEntry]) {
        for entry in failed {
            let what = format!("{}: {}", entry.code(), entry.message().unwrap_or_default());
            // LocalStack marks a lost lease as its own fault.
            let error = if is_lease_lost(entry.code(), entry.message()) {
                QueueError::LeaseLost(what)
            } else if !entry.sender_fault() {
                QueueError::Unavailable(what)
            } else {
                QueueError::Refused(what)
            };
            self.set(entry.id(), Err(error));
        }
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

impl SqsQueue {
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self { client, url: url.into(), acceptance: Arc::default() }
    }

    /// Sends a batch. Messages that the queue refuses because of their `MessageGroupId` are sent again without it.
    async fn send_batch(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        let groups = self.acceptance.wants_groups() && messages.iter().any(|message| message.group.is_some());
        let mut answers = self.send_entries(messages, groups).await;
        if groups {
            let refused: Vec<usize> =
                (0..answers.len()).filter(|place| refuses_group(&answers[*place])).collect();
            if !refused.is_empty() || answers.iter().any(Result::is_ok) {
                self.acceptance.groups(&self.url, !refused.is_empty());
            }
            let without: Vec<Outgoing> = refused.iter().map(|place| messages[*place].clone()).collect();
            if !without.is_empty() {
                for (place, answer) in refused.into_iter().zip(self.send_entries(&without, false).await) {
                    answers[place] = answer;
                }
            }
        }
        answers
    }

    async fn send_entries(&self, messages: &[Outgoing], groups: bool) -> Vec<Result<(), QueueError>> {
        let entries = messages.iter().enumerate().map(|(place, message)| {
            SendMessageBatchRequestEntry::builder()
                .id(place.to_string())
                .message_body(&message.body)
                .set_message_group_id(message.group.clone().filter(|_| groups))
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
            Ok(answer) => {
                let accepted = answer.successful().iter().map(|entry| entry.id.as_str());
                let answers = Answers::of(messages.len(), accepted, answer.failed());
                self.acceptance.answered(&self.url, &answers);
                answers
            }
            Err(error) => {
                let answers = Answers::all(messages.len(), &unavailable(&error));
                if let Some(code) = refusal(&error).filter(|_| !answers.iter().any(refuses_group)) {
                    self.acceptance.refused(&self.url, code);
                }
                answers
            }
        }
    }
}

/// The error code of a refused call: for example missing permissions, or a wrong KMS key or queue name.
fn refusal<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    let refused = error.raw_response().is_some_and(|answer| answer.status().is_client_error());
    let code = error.code().filter(|_| refused)?;
    let throttled = ["Throttl", "OverLimit", "RequestLimit"].iter().any(|part| code.contains(part));
    (!throttled).then_some(code)
}

/// Rounds up to whole seconds.
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
    let Progress { tries, outages, audio } = envelope.progress;
    for (name, count) in [(REQUEUES, envelope.requeues), (TRIES, tries), (OUTAGES, outages), (AUDIO, audio)] {
        if count > 0 {
            let number = MessageAttributeValue::builder().data_type("Number");
            attributes.insert(name.to_owned(), number.string_value(count.to_string()).build()?);
        }
    }
    Ok(Some(attributes).filter(|attributes| !attributes.is_empty()))
}

fn unavailable<E: Error + ProvideErrorMetadata + Send + Sync + 'static>(
    error: &SdkError<E, HttpResponse>,
) -> QueueError {
    let what = DisplayErrorContext(error).to_string();
    // An operator can repair queues and permissions, so those errors are worth a retry. Invalid messages stay invalid.
    let permanent = ["InvalidMessageContents", "BatchRequestTooLong"];
    if error.code().is_some_and(|code| permanent.iter().any(|part| code.contains(part))) {
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
    let count = |name| attribute(name).and_then(|count| count.parse().ok()).unwrap_or(0);
    let envelope = Envelope {
        traceparent: attribute(TRACEPARENT),
        origin: attribute(ORIGIN),
        requeues: count(REQUEUES),
        reason: attribute(REASON),
        progress: Progress { tries: count(TRIES), outages: count(OUTAGES), audio: count(AUDIO) },
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
        // A message without a receipt handle cannot be deleted or extended, so it is ignored.
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
        // The attempt timeout counts from the end of the long poll.
        let timeouts =
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
            .config_override(aws_sdk_sqs::config::Builder::new().timeout_config(timeouts))
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

    fn standing(&self) -> Standing {
        self.acceptance.standing()
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
    fn batches_respect_the_limits_of_count_and_size() {
        let sizes = |all: &[Outgoing]| batches(all).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&messages(25, 10)), [10, 10, 5]);
        assert_eq!(sizes(&messages(10, 10)), [10]);
        assert_eq!(sizes(&messages(0, 10)), [] as [usize; 0]);
        assert_eq!(sizes(&messages(3, 100 * 1024)), [2, 1]);
        assert_eq!(sizes(&messages(2, 300 * 1024)), [1, 1]);
    }

    #[test]
    fn unknown_ids_in_a_response_are_ignored() {
        let mut answers = Answers::new(2);
        answers.set("1", Ok(()));
        answers.set("7", Ok(()));
        answers.set("x", Ok(()));
        assert!(matches!(answers.0[0], Err(QueueError::Unavailable(_))));
        assert_eq!(answers.0[1], Ok(()));
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(seconds(Duration::ZERO), 0);
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(3)), 3);
    }
}
