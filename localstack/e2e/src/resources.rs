//! Resources in the emulator, from the same template as on AWS.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;
use longhand_api::Signer;
use longhand_shared::domain::path::AudioSources;
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::service::aws;
use longhand_shared::store::dynamo::DynamoStore;

use crate::calls::Calls;
use crate::eventually;

const TEMPLATE: &str = include_str!("../../../infra/data.yaml");

/// The retention of items in tests. Recorded jobs of 0.1.0 keep their submission times, so it must be long.
pub const RETENTION: Duration = Duration::from_hours(24 * 3650);

/// A table, four queues and a bucket, for one test.
#[derive(Clone, Debug)]
pub struct Resources {
    /// The prefix of all their names.
    pub name: String,
    /// `LONGHAND_TABLE`.
    pub table: String,
    pub table_arn: String,
    /// `LONGHAND_QUEUE_URL`.
    pub queue_url: String,
    pub queue_arn: String,
    /// `LONGHAND_DLQ_URL`.
    pub dlq_url: String,
    /// `LONGHAND_WEBHOOK_QUEUE_URL`.
    pub webhook_queue_url: String,
    /// `LONGHAND_WEBHOOK_DLQ_URL`.
    pub webhook_dlq_url: String,
    /// One of `LONGHAND_AUDIO_BUCKETS`.
    pub bucket: String,
    pub bucket_arn: String,
}

/// The emulator's address.
///
/// # Panics
/// If `AWS_ENDPOINT_URL` is not set.
pub fn endpoint() -> String {
    std::env::var("AWS_ENDPOINT_URL").expect(
        "AWS_ENDPOINT_URL is not set: these tests need an emulator. Run `make test`, or for some of them: \
         python3 localstack/stack.py test -- cargo test -p longhand-e2e NAME",
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulator {
    /// The default.
    Ministack,
    /// It contains AWS's `DynamoDB` Local.
    LocalStack,
}

/// The emulator that `TESTS_EMULATOR` names.
pub fn emulator() -> Emulator {
    match std::env::var("TESTS_EMULATOR").as_deref() {
        Ok("localstack") => Emulator::LocalStack,
        _ => Emulator::Ministack,
    }
}

impl Resources {
    /// Deploys `infra/data.yaml` with a new name.
    pub async fn deploy() -> Self {
        let name = format!("t{}", &uuid::Uuid::now_v7().simple().to_string()[4..]);
        let outputs = deploy(&name, TEMPLATE, &[("Name", &name)]).await;
        let output = |key: &str| outputs[key].clone();
        Self {
            table: output("TableName"),
            table_arn: output("TableArn"),
            queue_url: output("QueueUrl"),
            queue_arn: output("QueueArn"),
            dlq_url: output("DeadLetterQueueUrl"),
            webhook_queue_url: output("WebhookQueueUrl"),
            webhook_dlq_url: output("WebhookDeadLetterQueueUrl"),
            bucket: output("BucketName"),
            bucket_arn: output("BucketArn"),
            name,
        }
    }

    /// The settings of an api or a worker that uses these resources, without webhooks.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LONGHAND_TABLE", self.table.clone()),
            ("LONGHAND_QUEUE_URL", self.queue_url.clone()),
            ("LONGHAND_DLQ_URL", self.dlq_url.clone()),
            ("LONGHAND_AUDIO_BUCKETS", self.bucket.clone()),
        ]
    }

    /// Clients that count their calls in `calls`. Create them in the runtime that uses them.
    pub async fn clients(&self, calls: &Calls) -> Clients {
        let config = aws::load().await;
        Clients {
            resources: self.clone(),
            dynamodb: aws_sdk_dynamodb::Client::from_conf(
                aws_sdk_dynamodb::config::Builder::from(&config).interceptor(calls.clone()).build(),
            ),
            sqs: aws_sdk_sqs::Client::from_conf(
                aws_sdk_sqs::config::Builder::from(&config).interceptor(calls.clone()).build(),
            ),
            config,
        }
    }
}

/// AWS clients for one set of resources.
#[derive(Clone, Debug)]
pub struct Clients {
    pub resources: Resources,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub sqs: aws_sdk_sqs::Client,
    config: SdkConfig,
}

impl Clients {
    pub fn store(&self) -> Arc<DynamoStore> {
        Arc::new(DynamoStore::new(self.dynamodb.clone(), &self.resources.table, RETENTION))
    }

    /// The chunk queue.
    pub fn queue(&self) -> Arc<SqsQueue> {
        Arc::new(SqsQueue::new(self.sqs.clone(), &self.resources.queue_url))
    }

    /// The chunk queue's dead-letter queue.
    pub fn dead_letters(&self) -> Arc<SqsQueue> {
        Arc::new(SqsQueue::new(self.sqs.clone(), &self.resources.dlq_url))
    }

    /// The webhook queue.
    pub fn webhooks(&self) -> Arc<SqsQueue> {
        Arc::new(SqsQueue::new(self.sqs.clone(), &self.resources.webhook_queue_url))
    }

    /// The webhook queue's dead-letter queue.
    pub fn webhook_dead_letters(&self) -> Arc<SqsQueue> {
        Arc::new(SqsQueue::new(self.sqs.clone(), &self.resources.webhook_dlq_url))
    }

    pub fn s3(&self) -> aws_sdk_s3::Client {
        aws::s3(&self.config)
    }

    /// Signs uploads into the bucket.
    ///
    /// # Panics
    /// If there are no credentials.
    pub fn signer(&self) -> Signer {
        Signer::new(self.s3(), self.config.credentials_provider().expect("credentials"))
    }

    /// The allowed sources of audio.
    pub fn sources(&self) -> AudioSources {
        AudioSources { buckets: vec![self.resources.bucket.clone()], ..AudioSources::default() }
    }

    /// Writes an object into the bucket. Returns its path.
    pub async fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) -> String {
        let put = self.s3().put_object().bucket(&self.resources.bucket).key(key);
        let put = put.body(bytes.into().into()).customize().config_override(unhurried());
        put.send().await.expect("put into the bucket");
        format!("s3://{}/{key}", self.resources.bucket)
    }
}

/// Long timeouts for the preparation of a test: on a loaded machine the emulator is slow.
pub fn unhurried() -> aws_sdk_s3::config::Builder {
    let longest = Duration::from_mins(2);
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(longest).operation_timeout(longest);
    aws_sdk_s3::config::Builder::new().timeout_config(timeouts.build())
}

/// Deploys a template as a new stack. Returns the outputs.
///
/// # Panics
/// If the deployment fails.
pub async fn deploy(name: &str, template: &str, parameters: &[(&str, &str)]) -> HashMap<String, String> {
    let mut call = vec![
        ("Action".to_owned(), "CreateStack"),
        ("StackName".to_owned(), name),
        ("TemplateBody".to_owned(), template),
    ];
    for (number, (key, value)) in (1..).zip(parameters) {
        call.push((format!("Parameters.member.{number}.ParameterKey"), key));
        call.push((format!("Parameters.member.{number}.ParameterValue"), value));
    }
    let call: Vec<(&str, &str)> = call.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let created = cloudformation(&call).await;
    assert!(created.contains("<StackId>"), "the stack was not created: {created}");
    let stack = eventually("the stack", async || {
        let stack = cloudformation(&[("Action", "DescribeStacks"), ("StackName", name)]).await;
        assert!(!stack.contains("FAILED") && !stack.contains("ROLLBACK"), "{stack}");
        stack.contains("CREATE_COMPLETE").then_some(stack)
    })
    .await;
    let between = |text: &str, tag: &str| {
        let (_, after) = text.split_once(&format!("<{tag}>")).expect("an output");
        after.split_once(&format!("</{tag}>")).expect("its end").0.to_owned()
    };
    let outputs = stack.split("<OutputKey>").skip(1).map(|output| format!("<OutputKey>{output}"));
    outputs.map(|output| (between(&output, "OutputKey"), between(&output, "OutputValue"))).collect()
}

/// Calls the query API of `CloudFormation`. An SDK crate for these few calls would cost too much build time.
async fn cloudformation(parameters: &[(&str, &str)]) -> String {
    let scope = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/cloudformation/aws4_request, \
                 SignedHeaders=host, Signature=unchecked";
    let parameters: Vec<_> = parameters.iter().chain(&[("Version", "2010-05-15")]).collect();
    let request = reqwest::Client::new().post(endpoint()).header("authorization", scope).form(&parameters);
    request.send().await.expect("the emulator answers").text().await.expect("a text")
}
