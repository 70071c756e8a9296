//! Descriptions of the table and the queues.

use aws_sdk_dynamodb::types::{
    BillingMode, KeySchemaElement, KeyType, PointInTimeRecoveryStatus, ProjectionType, SseStatus,
    TimeToLiveStatus,
};
use aws_sdk_sqs::types::QueueAttributeName;
use longhand_shared::queue::Depth;
use longhand_shared::service::aws;
use serde_json::Value;

use super::super::rules::DescribeError;
use super::super::rules::queue::{Queue, Redrive, Sources};
use super::super::rules::table::{Index, Keys, Projection, Table};
use super::{Aws, describe_error};

impl Aws {
    pub(crate) async fn describe_table(&self, name: &str) -> Result<Table, DescribeError> {
        let answer = aws::dynamodb(&self.config)
            .describe_table()
            .table_name(name)
            .send()
            .await
            .map_err(|error| describe_error(&error))?;
        let table =
            answer.table.ok_or_else(|| DescribeError::Unreachable("the answer is empty".to_owned()))?;
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
        // Both are absent for a provisioned table with a key that AWS owns.
        let billing = table.billing_mode_summary.and_then(|summary| summary.billing_mode);
        let encryption = table.sse_description.and_then(|encryption| encryption.status);
        Ok(Table {
            status: table.table_status.map(|status| status.as_str().to_owned()).unwrap_or_default(),
            keys: keys(&table.key_schema.unwrap_or_default()),
            indexes: indexes.collect(),
            on_demand: billing == Some(BillingMode::PayPerRequest),
            own_key: matches!(
                encryption,
                Some(SseStatus::Enabled | SseStatus::Enabling | SseStatus::Updating)
            ),
            protected: table.deletion_protection_enabled.unwrap_or(false),
        })
    }

    /// The TTL attribute; `None` if items do not expire.
    pub(crate) async fn describe_ttl(&self, table: &str) -> Result<Option<String>, DescribeError> {
        let answer = aws::dynamodb(&self.config)
            .describe_time_to_live()
            .table_name(table)
            .send()
            .await
            .map_err(|error| describe_error(&error))?;
        let on = answer.time_to_live_description.filter(|ttl| {
            matches!(ttl.time_to_live_status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
        });
        Ok(on.and_then(|ttl| ttl.attribute_name))
    }

    /// Whether point-in-time recovery is on.
    pub(crate) async fn describe_recovery(&self, table: &str) -> Result<bool, DescribeError> {
        let answer = aws::dynamodb(&self.config)
            .describe_continuous_backups()
            .table_name(table)
            .send()
            .await
            .map_err(|error| describe_error(&error))?;
        let status = answer
            .continuous_backups_description
            .and_then(|backups| backups.point_in_time_recovery_description)
            .and_then(|recovery| recovery.point_in_time_recovery_status);
        Ok(status == Some(PointInTimeRecoveryStatus::Enabled))
    }

    pub(crate) async fn describe_queue(&self, url: &str) -> Result<Queue, DescribeError> {
        let answer = self
            .sqs
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .map_err(|error| describe_error(&error))?;
        let all = answer.attributes.unwrap_or_default();
        let text = |name: QueueAttributeName| all.get(&name).cloned().filter(|text| !text.is_empty());
        let number = |name| text(name).and_then(|value| value.parse::<u64>().ok());
        Ok(Queue {
            arn: text(QueueAttributeName::QueueArn).unwrap_or_default(),
            visibility: number(QueueAttributeName::VisibilityTimeout),
            retention: number(QueueAttributeName::MessageRetentionPeriod),
            wait: number(QueueAttributeName::ReceiveMessageWaitTimeSeconds),
            encrypted: text(QueueAttributeName::KmsMasterKeyId).is_some()
                || text(QueueAttributeName::SqsManagedSseEnabled).as_deref() == Some("true"),
            policy: text(QueueAttributeName::Policy),
            redrive: text(QueueAttributeName::RedrivePolicy).as_deref().and_then(redrive),
            sources: sources(text(QueueAttributeName::RedriveAllowPolicy).as_deref()),
            depth: Depth {
                visible: number(QueueAttributeName::ApproximateNumberOfMessages).unwrap_or(0),
                in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible).unwrap_or(0),
                delayed: number(QueueAttributeName::ApproximateNumberOfMessagesDelayed).unwrap_or(0),
            },
        })
    }
}

fn keys(schema: &[KeySchemaElement]) -> Keys {
    let of = |kind: &KeyType| {
        let found = schema.iter().find(|element| element.key_type == *kind);
        found.map(|element| element.attribute_name.clone()).unwrap_or_default()
    };
    Keys { partition: of(&KeyType::Hash), sort: of(&KeyType::Range) }
}

/// The count is a number on AWS, a string with some templates and emulators.
fn redrive(policy: &str) -> Option<Redrive> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    let count = &policy["maxReceiveCount"];
    Some(Redrive {
        target: policy["deadLetterTargetArn"].as_str()?.to_owned(),
        max_receives: count.as_u64().or_else(|| count.as_str()?.parse().ok())?,
    })
}

/// Without a policy, SQS accepts dead letters from every queue.
fn sources(policy: Option<&str>) -> Sources {
    let policy: Value = policy.and_then(|policy| serde_json::from_str(policy).ok()).unwrap_or_default();
    match policy["redrivePermission"].as_str() {
        Some("denyAll") => Sources::None,
        Some("byQueue") => {
            let arns = policy["sourceQueueArns"].as_array().into_iter().flatten();
            Sources::These(arns.filter_map(|arn| arn.as_str().map(str::to_owned)).collect())
        }
        _ => Sources::Any,
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

    #[test]
    fn a_redrive_allow_policy_is_read() {
        let these = r#"{"redrivePermission":"byQueue","sourceQueueArns":["arn:a","arn:b"]}"#;
        let both = Sources::These(vec!["arn:a".to_owned(), "arn:b".to_owned()]);
        assert_eq!(sources(Some(these)), both);
        assert_eq!(sources(Some(r#"{"redrivePermission":"denyAll"}"#)), Sources::None);
        assert_eq!(sources(Some(r#"{"redrivePermission":"allowAll"}"#)), Sources::Any);
        assert_eq!(sources(None), Sources::Any);
    }
}
