//! Clients for AWS, as the SDK's own variables say (`AWS_REGION`, `AWS_ENDPOINT_URL`, credentials). They count
//! their calls.

mod calls;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

use calls::CountCalls;

/// One try of one call. All calls but a long poll answer in milliseconds; what takes longer than
/// this is better tried again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The same for a call of `DynamoDB`, which a client waits for, and all its tries together.
const TABLE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
const TABLE_TIMEOUT: Duration = Duration::from_secs(8);

/// Reads the SDK's variables. Each call is tried up to three times, with the SDK's own backoff.
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

/// A client for `DynamoDB`.
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

/// A client for SQS.
pub fn sqs(config: &SdkConfig) -> aws_sdk_sqs::Client {
    let config = aws_sdk_sqs::config::Builder::from(config).interceptor(CountCalls).build();
    aws_sdk_sqs::Client::from_conf(config)
}

/// A client for S3. Buckets are named in the path wherever an endpoint is set, since emulators
/// have no name for each bucket.
pub fn s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    let own_endpoint = config.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some();
    let config = aws_sdk_s3::config::Builder::from(config)
        .interceptor(CountCalls)
        .force_path_style(own_endpoint)
        // The audio is bounded by its size instead: a body may take longer than an attempt.
        .build();
    aws_sdk_s3::Client::from_conf(config)
}
