//! What AWS says of the table, the queues and the bucket (`describe.rs`, `bucket.rs`), and the dead letters: the only
//! folder of these commands that names the SDK.

mod bucket;
mod describe;

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::queue::{Delivery, Envelope, MAX_BATCH, Receipt};
use longhand_shared::{Timestamp, aws};

use super::judge::Trouble;
use crate::error::chain;

/// AWS, as the SDK's variables say.
pub(crate) struct Aws {
    config: SdkConfig,
    sqs: aws_sdk_sqs::Client,
}

/// A dead letter in hand.
pub(crate) struct Letter {
    /// The message as a worker would see it.
    pub(crate) delivery: Delivery,
    /// Its own attributes, as they came.
    pub(crate) attributes: BTreeMap<String, String>,
    /// What SQS says of it.
    pub(crate) system: BTreeMap<String, String>,
}

impl Aws {
    pub(crate) async fn load() -> Self {
        let config = aws::load().await;
        let sqs = aws::sqs(&config);
        Self { config, sqs }
    }

    /// What the clients are made of.
    pub(crate) fn config(&self) -> &SdkConfig {
        &self.config
    }

    /// Whether `service`, as the SDK's variables call it, is an emulator: at an address that is not AWS's.
    pub(crate) fn is_emulator(&self, service: &str) -> bool {
        let own = std::env::var(format!("AWS_ENDPOINT_URL_{service}")).ok().filter(|url| !url.is_empty());
        own.as_deref().or(self.endpoint()).is_some_and(is_elsewhere)
    }

    /// The first part of ARNs after `arn:`.
    pub(crate) fn partition(&self) -> &'static str {
        match self.config.region().map_or("", |region| region.as_ref()) {
            china if china.starts_with("cn-") => "aws-cn",
            government if government.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }

    /// The endpoint in place of AWS's own.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.config.endpoint_url()
    }

    /// The queue at this URL.
    pub(crate) fn queue(&self, url: &str) -> SqsQueue {
        SqsQueue::new(self.sqs.clone(), url)
    }

    /// Takes a batch of messages in hand for `visibility`, with everything that is known of them.
    pub(crate) async fn receive(&self, url: &str, visibility: Duration) -> Result<Vec<Letter>, Trouble> {
        let answer = self
            .sqs
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(MAX_BATCH).unwrap_or(10))
            // A short poll asks only some of the queue's servers.
            .wait_time_seconds(1)
            .visibility_timeout(i32::try_from(visibility.as_secs()).unwrap_or(30))
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .send()
            .await
            .map_err(|error| trouble(&error))?;
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(letter).collect())
    }
}

/// Endpoints of a VPC have addresses of their own, under AWS's names.
fn is_elsewhere(url: &str) -> bool {
    let url = reqwest::Url::parse(url).ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
    ![".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|end| host.ends_with(end))
}

fn letter(message: Message) -> Option<Letter> {
    let attributes: BTreeMap<_, _> = message
        .message_attributes
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name, value.string_value.unwrap_or_else(|| "(binary)".to_owned())))
        .collect();
    let system: BTreeMap<_, _> = message
        .attributes
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name.as_str().to_owned(), value))
        .collect();
    let own = |name: &str| attributes.get(name).cloned();
    let number = |name: MessageSystemAttributeName| system.get(name.as_str())?.parse::<u64>().ok();
    let envelope = Envelope {
        traceparent: own("traceparent"),
        origin: own("origin"),
        requeues: own("requeues").and_then(|count| count.parse().ok()).unwrap_or(0),
        reason: own("reason"),
    };
    let receives = number(MessageSystemAttributeName::ApproximateReceiveCount);
    let sent = number(MessageSystemAttributeName::SentTimestamp);
    Some(Letter {
        delivery: Delivery {
            body: message.body.unwrap_or_default(),
            receipt: Receipt(message.receipt_handle?),
            message_id: message.message_id.unwrap_or_default(),
            receive_count: receives.and_then(|count| u32::try_from(count).ok()).unwrap_or(1),
            sent: sent.map(|millis| Timestamp::from_unix(0).plus(Duration::from_millis(millis))),
            group: system.get(MessageSystemAttributeName::MessageGroupId.as_str()).cloned(),
            envelope,
        },
        attributes,
        system,
    })
}

fn trouble<E>(error: &SdkError<E, HttpResponse>) -> Trouble
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let said = error.as_service_error();
    let code = said.and_then(ProvideErrorMetadata::code).unwrap_or_default();
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let missing = ["NotFound", "NonExistentQueue", "QueueDoesNotExist", "NoSuchBucket"];
    if status == Some(404) || missing.iter().any(|part| code.contains(part)) {
        return Trouble::Missing;
    }
    let why = match said.and_then(|said| said.code().zip(said.message())) {
        Some((code, message)) => format!("{code}: {message}"),
        // Answers to HEAD have no body that could say more.
        None => status.map_or_else(|| chain(error), |status| format!("the answer is {status}")),
    };
    if status == Some(403) || code.contains("AccessDenied") {
        Trouble::Denied(why)
    } else {
        Trouble::Unreachable(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_of_a_vpc_is_no_emulator() {
        for elsewhere in
            ["http://127.0.0.1:4566", "http://emulator:4566", "https://amazonaws.com.example", ""]
        {
            assert!(is_elsewhere(elsewhere), "{elsewhere}");
        }
        for aws in
            ["https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com", "https://sqs.cn-north-1.amazonaws.com.cn/"]
        {
            assert!(!is_elsewhere(aws), "{aws}");
        }
    }
}
