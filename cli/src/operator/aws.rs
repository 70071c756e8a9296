//! The calls of AWS that the operator's commands share.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use longhand_shared::queue::sqs::{SqsQueue, delivery};
use longhand_shared::queue::{Delivery, MAX_BATCH};
use longhand_shared::service::aws;
use tokio::time::timeout;

use crate::error::chain;

/// The time limit of each check of the doctor.
pub(crate) const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Aws {
    pub(crate) config: SdkConfig,
    pub(crate) sqs: aws_sdk_sqs::Client,
}

/// Why a resource could not be described or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DescribeError {
    /// It does not exist.
    Missing,
    /// No permission.
    Denied(String),
    /// No answer, or an unexpected one.
    Unreachable(String),
}

pub(crate) type Described<T> = Result<T, DescribeError>;

/// A received dead letter.
pub(crate) struct DeadLetter {
    /// The message as a worker would see it.
    pub(crate) delivery: Delivery,
    /// The message's attributes.
    pub(crate) attributes: BTreeMap<String, String>,
    /// The attributes that SQS adds.
    pub(crate) system: BTreeMap<String, String>,
}

impl Aws {
    pub(crate) async fn load() -> Self {
        let config = aws::load().await;
        let sqs = aws::sqs(&config);
        Self { config, sqs }
    }

    /// Whether `service` (as in `AWS_ENDPOINT_URL_SERVICE`) has an endpoint outside AWS: an emulator.
    pub(crate) fn is_emulator(&self, service: &str) -> bool {
        let own = std::env::var(format!("AWS_ENDPOINT_URL_{service}")).ok().filter(|url| !url.is_empty());
        own.as_deref().or(self.config.endpoint_url()).is_some_and(is_elsewhere)
    }

    /// The partition in ARNs: `aws`, `aws-cn` or `aws-us-gov`.
    pub(crate) fn partition(&self) -> &'static str {
        match self.config.region().map_or("", |region| region.as_ref()) {
            china if china.starts_with("cn-") => "aws-cn",
            government if government.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }

    pub(crate) fn queue(&self, url: &str) -> SqsQueue {
        SqsQueue::new(self.sqs.clone(), url)
    }

    /// Receives a batch of messages with all their attributes.
    pub(crate) async fn receive(&self, url: &str, visibility: Duration) -> Described<Vec<DeadLetter>> {
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
            .map_err(|error| describe_error(&error))?;
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(letter).collect())
    }
}

/// Interface endpoints of a VPC have AWS's domain names.
fn is_elsewhere(url: &str) -> bool {
    let url = reqwest::Url::parse(url).ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
    ![".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|end| host.ends_with(end))
}

fn letter(message: Message) -> Option<DeadLetter> {
    let attributes = message.message_attributes.iter().flatten();
    let attributes = attributes.map(|(name, value)| {
        let text = value.string_value.clone();
        (name.clone(), text.unwrap_or_else(|| "(binary)".to_owned()))
    });
    let attributes = attributes.collect();
    let system = message.attributes.iter().flatten();
    let system = system.map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect();
    Some(DeadLetter { delivery: delivery(message)?, attributes, system })
}

/// Makes a call that describes a resource, within [`CHECK_TIMEOUT`].
pub(crate) async fn describe<T, E>(
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Described<T>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match timeout(CHECK_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| describe_error(&error)),
        Err(_) => Err(DescribeError::Unreachable(format!("no answer within {} s", CHECK_TIMEOUT.as_secs()))),
    }
}

fn describe_error<E>(error: &SdkError<E, HttpResponse>) -> DescribeError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let service_error = error.as_service_error();
    let code = service_error.and_then(ProvideErrorMetadata::code).unwrap_or_default();
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let missing = ["NotFound", "NonExistentQueue", "QueueDoesNotExist", "NoSuchBucket"];
    if status == Some(404) || missing.iter().any(|part| code.contains(part)) {
        return DescribeError::Missing;
    }
    let why = match service_error.and_then(|error| error.code().zip(error.message())) {
        Some((code, message)) => format!("{code}: {message}"),
        // An answer to HEAD has no body.
        None => status.map_or_else(|| chain(error), |status| format!("the answer is {status}")),
    };
    if status == Some(403) || code.contains("AccessDenied") {
        DescribeError::Denied(why)
    } else {
        DescribeError::Unreachable(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_of_a_vpc_is_not_an_emulator() {
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
