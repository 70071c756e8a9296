//! `longhand doctor` against correct and faulty resources.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::{
    BillingMode, DeleteGlobalSecondaryIndexAction, GlobalSecondaryIndexUpdate,
    PointInTimeRecoverySpecification, ProvisionedThroughput, SseSpecification, TableStatus,
    TimeToLiveSpecification,
};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, CorsConfiguration, CorsRule, ExpirationStatus, LifecycleExpiration,
    LifecycleRule, LifecycleRuleFilter,
};
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use longhand_e2e::eventually;
use longhand_e2e::resources::{Emulator, emulator};
use longhand_e2e::service::Service;

use crate::command::longhand;

/// The verdict of each check.
type Verdicts = BTreeMap<String, String>;

async fn verdicts(service: &Service, changes: &[(&str, &str)]) -> Verdicts {
    let ran = longhand(service, changes, &["doctor", "--json"]).await.json();
    let checks = ran["checks"].as_array().expect("checks").iter();
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    checks.map(|found| (text(&found["check"]), text(&found["verdict"]))).collect()
}

/// A deployed stack and the verdicts before the next change to it.
struct Stack {
    service: Service,
    before: Verdicts,
}

impl Stack {
    async fn new() -> Self {
        let service = Service::start().await;
        let before = verdicts(&service, &[]).await;
        Self { service, before }
    }

    /// Asserts that the last change affects this check and no other.
    async fn assert_change(&mut self, check: &str, verdict: &str) {
        let after = verdicts(&self.service, &[]).await;
        let changed: Vec<_> =
            after.iter().filter(|(check, found)| self.before.get(*check) != Some(found)).collect();
        assert_eq!(changed, [(&check.to_owned(), &verdict.to_owned())], "{after:?}");
        self.before = after;
    }

    async fn attribute(&self, url: &str, name: Attribute, value: &str) {
        let set = self.service.aws.sqs.set_queue_attributes().queue_url(url).attributes(name, value);
        set.send().await.expect("the attribute is set");
    }
}

#[tokio::test]
async fn a_new_stack_has_no_faults() {
    let service = Service::start().await;
    let ran = longhand(&service, &[], &["doctor"]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    // A feature that the emulator does not support is a warning, not a fault.
    let not_applied: &[&str] = match emulator() {
        Emulator::Ministack => &["table encryption", "ttl", "table recovery", "bucket lifecycle"],
        Emulator::LocalStack => &["table recovery", "bucket lifecycle"],
    };
    let mut count = 0;
    for line in ran.stdout.lines() {
        let expected = if line.contains("Nothing to do on an emulator") { "warning  " } else { "ok       " };
        assert!(line.starts_with(expected), "{line}");
        count += 1;
    }
    assert_eq!(
        ran.stdout.matches("Nothing to do on an emulator").count(),
        not_applied.len(),
        "{}",
        ran.stdout
    );
    for &check in not_applied {
        assert!(ran.stdout.contains(&format!("\nwarning  {check:<24}  ")), "{check}: {}", ran.stdout);
    }
    // Checks of the table, of each queue with its dead-letter queue, of the bucket, and of model, api and clock.
    assert_eq!(count, 8 + 2 * 13 + 5 + 3, "{}", ran.stdout);
}

#[tokio::test]
async fn each_fault_of_the_table_is_found() {
    let mut stack = Stack::new().await;
    let dynamodb = stack.service.aws.dynamodb.clone();
    let table = stack.service.aws.resources.table.clone();
    let recovery = async |on: bool| {
        let specification =
            PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(on).build();
        let update = dynamodb.update_continuous_backups().table_name(&table);
        update.point_in_time_recovery_specification(specification.expect("whole")).send().await.expect("set");
    };
    recovery(true).await;
    stack.assert_change("table recovery", "ok").await;
    recovery(false).await;
    stack.assert_change("table recovery", "warning").await;

    let expiry = async |attribute: &str, on: bool| {
        let ttl = TimeToLiveSpecification::builder().attribute_name(attribute).enabled(on).build();
        let update = dynamodb.update_time_to_live().table_name(&table);
        update.time_to_live_specification(ttl.expect("whole")).send().await.expect("set");
    };
    if emulator() == Emulator::Ministack {
        // Ministack ignores both settings in the template, and lets the TTL attribute be replaced.
        let encryption = SseSpecification::builder().enabled(true).build();
        dynamodb.update_table().table_name(&table).sse_specification(encryption).send().await.expect("set");
        stack.assert_change("table encryption", "ok").await;
    } else {
        expiry("ttl", false).await;
        stack.assert_change("ttl", "warning").await;
    }
    expiry("expires", true).await;
    stack.assert_change("ttl", "fault").await;

    for index in ["userId-jobStatus", "openJobs"] {
        let delete = DeleteGlobalSecondaryIndexAction::builder().index_name(index).build().expect("whole");
        let update = GlobalSecondaryIndexUpdate::builder().delete(delete).build();
        let updating = dynamodb.update_table().table_name(&table).global_secondary_index_updates(update);
        updating.send().await.expect("deleted");
        // The deletion runs in the background. Until its end the table accepts no other change.
        eventually("the index is deleted", || async {
            let described = dynamodb.describe_table().table_name(&table).send().await.expect("described");
            let described = described.table.expect("a table");
            let names = described.global_secondary_indexes().iter().filter_map(|left| left.index_name());
            let settled = described.table_status() == Some(&TableStatus::Active);
            (settled && !names.into_iter().any(|name| name == index)).then_some(())
        })
        .await;
        stack.assert_change(&format!("index {index}"), "fault").await;
    }

    let capacity = ProvisionedThroughput::builder()
        .read_capacity_units(1)
        .write_capacity_units(1)
        .build()
        .expect("whole");
    let update = dynamodb.update_table().table_name(&table).billing_mode(BillingMode::Provisioned);
    update.provisioned_throughput(capacity).send().await.expect("set");
    stack.assert_change("table billing", "warning").await;
}

#[tokio::test]
async fn each_fault_of_the_queues_is_found() {
    let mut stack = Stack::new().await;
    let resources = stack.service.aws.resources.clone();
    for (name, queue, dlq_name, dlq) in [
        ("queue", &resources.queue_url, "dlq", &resources.dlq_url),
        ("webhook queue", &resources.webhook_queue_url, "webhook dlq", &resources.webhook_dlq_url),
    ] {
        let same = [
            (Attribute::ReceiveMessageWaitTimeSeconds, "0", "polling", "warning"),
            (Attribute::SqsManagedSseEnabled, "false", "encryption", "warning"),
            (Attribute::Policy, "", "TLS", "warning"),
        ];
        let of_dlq = [
            (Attribute::MessageRetentionPeriod, "86400", "retention", "fault"),
            (Attribute::RedriveAllowPolicy, r#"{"redrivePermission":"allowAll"}"#, "sources", "warning"),
            (Attribute::RedriveAllowPolicy, r#"{"redrivePermission":"denyAll"}"#, "sources", "fault"),
        ];
        for (attribute, value, check, verdict) in of_dlq.iter().chain(&same) {
            stack.attribute(dlq, attribute.clone(), value).await;
            stack.assert_change(&format!("{dlq_name} {check}"), verdict).await;
        }
        // The dead-letter queue of the other queue.
        let other = if dlq == &resources.dlq_url { &resources.webhook_dlq_url } else { &resources.dlq_url };
        let other = other.rsplit('/').next().expect("a name");
        let elsewhere = format!(
            r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:{other}","maxReceiveCount":"3"}}"#
        );
        let of_queue = [
            (Attribute::VisibilityTimeout, "7", "visibility", "warning"),
            (Attribute::RedrivePolicy, elsewhere.as_str(), "redrive", "fault"),
        ];
        for (attribute, value, check, verdict) in of_queue.iter().chain(&same) {
            stack.attribute(queue, attribute.clone(), value).await;
            stack.assert_change(&format!("{name} {check}"), verdict).await;
        }
        let send = stack.service.aws.sqs.send_message().queue_url(dlq).message_body("a message");
        send.send().await.expect("sent");
        stack.assert_change(dlq_name, "warning").await;
    }
    // A missing redrive policy and a short retention.
    stack.attribute(&resources.queue_url, Attribute::RedrivePolicy, "").await;
    stack.attribute(&resources.queue_url, Attribute::MessageRetentionPeriod, "3600").await;
    let found = verdicts(&stack.service, &[]).await;
    assert_eq!((found["queue redrive"].as_str(), found["queue retention"].as_str()), ("fault", "warning"));
}

#[tokio::test]
async fn each_fault_of_the_bucket_is_found() {
    let mut stack = Stack::new().await;
    let (s3, bucket) = (stack.service.aws.s3(), stack.service.aws.resources.bucket.clone());
    let rule = LifecycleRule::builder()
        .id("expire")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix("").build())
        .expiration(LifecycleExpiration::builder().days(30).build());
    let rules = BucketLifecycleConfiguration::builder().rules(rule.build().expect("whole")).build();
    let put = s3.put_bucket_lifecycle_configuration().bucket(&bucket);
    put.lifecycle_configuration(rules.expect("whole")).send().await.expect("set");
    stack.assert_change("bucket lifecycle", "ok").await;
    s3.delete_bucket_lifecycle().bucket(&bucket).send().await.expect("deleted");
    stack.assert_change("bucket lifecycle", "warning").await;
    s3.delete_public_access_block().bucket(&bucket).send().await.expect("deleted");
    stack.assert_change("bucket public access", "fault").await;
    s3.delete_bucket_policy().bucket(&bucket).send().await.expect("deleted");
    stack.assert_change("bucket TLS", "warning").await;

    // If pages of other origins may call the api, they should be able to upload.
    let pages = [("LONGHAND_CORS_ORIGINS", "https://app.example")];
    let found = verdicts(&stack.service, &pages).await;
    assert_eq!(found["bucket CORS"], "warning");
    let rule =
        CorsRule::builder().allowed_origins("https://*.example").allowed_methods("PUT").allowed_headers("*");
    let rules = CorsConfiguration::builder().cors_rules(rule.build().expect("whole")).build().expect("whole");
    s3.put_bucket_cors().bucket(&bucket).cors_configuration(rules).send().await.expect("set");
    let found = verdicts(&stack.service, &pages).await;
    assert_eq!(found["bucket CORS"], "ok");
}

#[tokio::test]
async fn all_faults_are_reported_at_once() {
    let service = Service::start().await;
    // No server listens on port 1.
    let closed_port = "http://127.0.0.1:1";
    let changes = [
        ("LONGHAND_TABLE", "no-such-table"),
        ("LONGHAND_AUDIO_BUCKETS", "no-such-bucket"),
        ("LONGHAND_WEBHOOK_SECRET", ""),
        ("LONGHAND_URL", closed_port),
        ("ASR_BASE_URL", closed_port),
    ];
    let ran = longhand(&service, &changes, &["doctor", "--json"]).await;
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.json()["verdict"], "fault");
    for fault in ["table", "bucket", "LONGHAND_WEBHOOK_SECRET", "model", "api"] {
        assert_eq!(ran.verdict(fault), "fault", "{fault}: {}", ran.stdout);
    }
    assert_eq!((ran.verdict("queue"), ran.verdict("clock")), ("ok".to_owned(), "ok".to_owned()));

    // Without an emulator the checks of table, queues and bucket fail, and none hangs.
    let nowhere = [("AWS_ENDPOINT_URL", closed_port), ("LONGHAND_QUEUE_URL", "")];
    let ran = longhand(&service, &nowhere, &["doctor", "--json"]).await;
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    for fault in [
        "table",
        "ttl",
        "table recovery",
        "LONGHAND_QUEUE_URL",
        "dlq",
        "webhook queue",
        "webhook dlq",
        "bucket",
    ] {
        assert_eq!(ran.verdict(fault), "fault", "{fault}: {}", ran.stdout);
    }
    assert_eq!((ran.verdict("model"), ran.verdict("api")), ("ok".to_owned(), "ok".to_owned()));
}

/// Refuses every call except the check that the bucket exists.
async fn forbids(request: Request) -> impl IntoResponse {
    if request.method() == Method::HEAD {
        return (StatusCode::OK, [("content-type", "application/xml")], String::new());
    }
    if request.headers().contains_key("x-amz-target") {
        let body = r#"{"__type":"AccessDeniedException","message":"not for you"}"#;
        return (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.0")], body.to_owned());
    }
    let body = "<Error><Code>AccessDenied</Code><Message>not for you</Message></Error>";
    (StatusCode::FORBIDDEN, [("content-type", "application/xml")], body.to_owned())
}

#[tokio::test]
async fn the_doctor_names_each_missing_permission() {
    let service = Service::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async { axum::serve(listener, Router::new().fallback(forbids)).await });
    let changes = [("AWS_ENDPOINT_URL", url.as_str()), ("LONGHAND_CORS_ORIGINS", "*")];
    let ran = longhand(&service, &changes, &["doctor", "--json"]).await;
    for (check, permission) in [
        ("table", "dynamodb:DescribeTable"),
        ("ttl", "dynamodb:DescribeTimeToLive"),
        ("table recovery", "dynamodb:DescribeContinuousBackups"),
        ("queue", "sqs:GetQueueAttributes"),
        ("dlq", "sqs:GetQueueAttributes"),
        ("webhook queue", "sqs:GetQueueAttributes"),
        ("webhook dlq", "sqs:GetQueueAttributes"),
        ("bucket public access", "s3:GetBucketPublicAccessBlock"),
        ("bucket encryption", "s3:GetEncryptionConfiguration"),
        ("bucket lifecycle", "s3:GetLifecycleConfiguration"),
        ("bucket TLS", "s3:GetBucketPolicy"),
        ("bucket CORS", "s3:GetBucketCORS"),
    ] {
        let found = ran.finding(check);
        assert_eq!(found["verdict"], "fault", "{found}");
        let remedy = found["remedy"].as_str().expect("a remedy");
        assert!(remedy.contains(&format!("Allow {permission} ")), "{found}");
    }
}
