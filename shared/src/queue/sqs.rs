//! The SQS queue. It reads every entry of every batch response.

mod batch;
mod message;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{BuildError, DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, MessageSystemAttributeName,
    QueueAttributeName, SendMessageBatchRequestEntry,
};

pub use message::delivery;

use super::acceptance::{Acceptance, refuses_group};
use super::{ChunkQueue, Delivery, Depth, MAX_BATCH, MAX_DELAY, Outgoing, QueueError, Receipt, Standing};

/// One result per entry of a batch. A macro, since the responses to different batches share no trait.
macro_rules! results {
    ($entries:expr, $answer:expr) => {
        match $answer {
            Ok(answer) => {
                let successful = answer.successful().iter().map(|entry| entry.id.as_str());
                batch::results($entries, successful, answer.failed())
            }
            Err(error) => vec![Err(unavailable(&error)); $entries],
        }
    };
}

#[derive(Clone, Debug)]
pub struct SqsQueue {
    client: Client,
    url: String,
    acceptance: Arc<Acceptance>,
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
        let entries = messages.iter().enumerate().map(|(place, outgoing)| {
            SendMessageBatchRequestEntry::builder()
                .id(place.to_string())
                .message_body(&outgoing.body)
                .set_message_group_id(outgoing.group.clone().filter(|_| groups))
                .set_message_attributes(message::attributes(&outgoing.envelope)?)
                .delay_seconds(seconds(outgoing.delay.min(MAX_DELAY)))
                .build()
        });
        let entries = match entries.collect::<Result<Vec<_>, BuildError>>() {
            Ok(entries) => entries,
            Err(error) => return vec![Err(QueueError::Refused(error.to_string())); messages.len()],
        };
        let answer =
            self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries)).send().await;
        let answers = results!(messages.len(), &answer);
        match answer {
            Ok(_) => self.acceptance.answered(&self.url, &answers),
            Err(error) => {
                if let Some(code) = refusal(&error).filter(|_| !answers.iter().any(refuses_group)) {
                    self.acceptance.refused(&self.url, code);
                }
            }
        }
        answers
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

#[async_trait]
impl ChunkQueue for SqsQueue {
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        let mut answers = Vec::with_capacity(messages.len());
        for batch in batch::split(messages) {
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
            all.extend(results!(batch.len(), request.send().await));
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
            all.extend(results!(batch.len(), request.send().await));
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

    fn url(&self) -> Option<&str> {
        Some(&self.url)
    }

    fn standing(&self) -> Standing {
        self.acceptance.standing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(seconds(Duration::ZERO), 0);
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(3)), 3);
    }
}
