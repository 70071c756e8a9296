//! What AWS says of the table, the queues and the bucket, and the dead letters: the only file of
//! these commands that names the SDK.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{KeySchemaElement, KeyType, ProjectionType, TimeToLiveStatus};
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::queue::{Delivery, Depth, Envelope, MAX_BATCH, Receipt};
use longhand_shared::{Timestamp, aws};
use serde_json::Value;

use super::judge::{Index, Keys, Projection, Queue, Redrive, Table, Trouble};
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

    /// Whether an endpoint is set, as for an emulator.
    pub(crate) fn has_own_endpoint(&self) -> bool {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        self.config.endpoint_url().is_some() || set("AWS_ENDPOINT_URL_DYNAMODB")
    }

    /// The endpoint in place of AWS's own.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.config.endpoint_url()
    }

    /// The queue at this URL.
    pub(crate) fn queue(&self, url: &str) -> SqsQueue {
        SqsQueue::new(self.sqs.clone(), url)
    }

    pub(crate) async fn describe_table(&self, name: &str) -> Result<Table, Trouble> {
        let answer = aws::dynamodb(&self.config)
            .describe_table()
            .table_name(name)
            .send()
            .await
            .map_err(|error| trouble(&error))?;
        let table = answer.table.ok_or_else(|| Trouble::Unreachable("the answer is empty".to_owned()))?;
        let indexes = table.global_secondary_indexes.unwrap_or_default().into_iter().map(|index| {
            let projection =
                index.projection.unwrap_or_else(|| aws_sdk_dynamodb::types::Projection::builder().build());
            Index {
                status: index.index_status.map(|status| status.as_str().to_owned()),
                keys: keys(&index.key_schema.unwrap_or_default()),
                projection: match projection.projection_type {
                    Some(ProjectionType::All) => Projection::All,
                    Some(ProjectionType::Include) => {
                        Projection::Include(projection.non_key_attributes.unwrap_or_default())
                    }
                    _ => Projection::KeysOnly,
                },
                name: index.index_name.unwrap_or_default(),
            }
        });
        Ok(Table {
            status: table.table_status.map(|status| status.as_str().to_owned()).unwrap_or_default(),
            keys: keys(&table.key_schema.unwrap_or_default()),
            indexes: indexes.collect(),
        })
    }

    /// The attribute by which items of the table expire; `None` when they do not.
    pub(crate) async fn describe_ttl(&self, table: &str) -> Result<Option<String>, Trouble> {
        let answer = aws::dynamodb(&self.config)
            .describe_time_to_live()
            .table_name(table)
            .send()
            .await
            .map_err(|error| trouble(&error))?;
        let on = answer.time_to_live_description.filter(|ttl| {
            matches!(ttl.time_to_live_status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
        });
        Ok(on.and_then(|ttl| ttl.attribute_name))
    }

    pub(crate) async fn describe_queue(&self, url: &str) -> Result<Queue, Trouble> {
        let answer = self
            .sqs
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .map_err(|error| trouble(&error))?;
        let all = answer.attributes.unwrap_or_default();
        let text = |name: QueueAttributeName| all.get(&name).cloned();
        let number = |name| text(name).and_then(|value| value.parse::<u64>().ok());
        Ok(Queue {
            arn: text(QueueAttributeName::QueueArn).unwrap_or_default(),
            visibility: number(QueueAttributeName::VisibilityTimeout),
            retention: number(QueueAttributeName::MessageRetentionPeriod),
            redrive: text(QueueAttributeName::RedrivePolicy).as_deref().and_then(redrive),
            depth: Depth {
                visible: number(QueueAttributeName::ApproximateNumberOfMessages).unwrap_or(0),
                in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible).unwrap_or(0),
                delayed: number(QueueAttributeName::ApproximateNumberOfMessagesDelayed).unwrap_or(0),
            },
        })
    }

    /// Whether the bucket is there and may be used.
    pub(crate) async fn look_at_bucket(&self, name: &str) -> Result<(), Trouble> {
        let asked = aws::s3(&self.config).head_bucket().bucket(name).send().await;
        asked.map(drop).map_err(|error| trouble(&error))
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

fn keys(schema: &[KeySchemaElement]) -> Keys {
    let of = |kind: &KeyType| {
        let found = schema.iter().find(|element| element.key_type == *kind);
        found.map(|element| element.attribute_name.clone()).unwrap_or_default()
    };
    Keys { partition: of(&KeyType::Hash), sort: of(&KeyType::Range) }
}

/// The count is a number in AWS's own words, a text in some templates' and emulators'.
fn redrive(policy: &str) -> Option<Redrive> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    let count = &policy["maxReceiveCount"];
    Some(Redrive {
        target: policy["deadLetterTargetArn"].as_str()?.to_owned(),
        max_receives: count.as_u64().or_else(|| count.as_str()?.parse().ok())?,
    })
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
    fn a_redrive_policy_is_read_with_its_count_as_number_or_text() {
        for count in ["3", "\"3\""] {
            let policy =
                redrive(&format!(r#"{{"deadLetterTargetArn":"arn:dlq","maxReceiveCount":{count}}}"#));
            let policy = policy.expect("a policy");
            assert_eq!((policy.target.as_str(), policy.max_receives), ("arn:dlq", 3));
        }
        assert!(redrive("").is_none());
        assert!(redrive(r#"{"maxReceiveCount":3}"#).is_none());
    }
}
