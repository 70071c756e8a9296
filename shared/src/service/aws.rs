//! AWS clients, configured by the SDK's own variables (`AWS_REGION`, `AWS_ENDPOINT_URL`, credentials).
//! They count their calls.

mod calls;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

use calls::CountCalls;

/// The timeout of one attempt of a call. All calls but a long poll normally return in milliseconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The timeout of one attempt of a `DynamoDB` call. It is shorter because a client waits for it.
const TABLE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of a `DynamoDB` call with all its attempts.
const TABLE_TIMEOUT: Duration = Duration::from_secs(8);

/// Reads the SDK's variables. Each call has up to three attempts, with the SDK's own backoff.
pub async fn load() -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build();
    aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard())
        .timeout_config(timeouts)
        .load()
        .await
}

pub fn dynamodb(config: &SdkConfig) -> aws_sdk_dynamodb::Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(TABLE_ATTEMPT_TIMEOUT)
        .operation_timeout(TABLE_TIMEOUT)
        .build();
    let config = aws_sdk_dynamodb::config::Builder::from(config)
        .timeout_config(timeouts)
        .interceptor(CountCalls)
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

pub fn sqs(config: &SdkConfig) -> aws_sdk_sqs::Client {
    let config = aws_sdk_sqs::config::Builder::from(config).interceptor(CountCalls).build();
    aws_sdk_sqs::Client::from_conf(config)
}

/// An S3 client with this endpoint, to presign URLs for clients.
pub fn s3_at(config: &SdkConfig, endpoint: &str) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(config)
        .interceptor(CountCalls)
        .endpoint_url(endpoint)
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// An S3 client. With an endpoint of its own it puts the bucket into the path, since emulators have no
/// host name for each bucket.
pub fn s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    let own_endpoint = config.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some();
    let config = aws_sdk_s3::config::Builder::from(config)
        .interceptor(CountCalls)
        .force_path_style(own_endpoint)
        // The attempt timeout does not cover the body; the size limit bounds it.
        .build();
    aws_sdk_s3::Client::from_conf(config)
}
