//! Counts AWS calls.

use aws_sdk_dynamodb::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use metrics::counter;
use serde::Deserialize;

/// Counts each finished attempt of each call in `longhand_aws_calls_total`. A call with three attempts
/// counts three. A cancelled attempt (a receive at the end of a drain) is not counted.
#[derive(Debug)]
pub(super) struct CountCalls;

impl Intercept for CountCalls {
    fn name(&self) -> &'static str {
        "CountCalls"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(call) = cfg.load::<Metadata>() else { return Ok(()) };
        // A presigned request has neither.
        let Some(end) = context.output_or_error() else { return Ok(()) };
        let outcome = if end.is_ok() {
            "ok"
        } else {
            let answer = context.response();
            outcome(
                answer.map(|answer| answer.status().as_u16()),
                answer.and_then(|answer| answer.body().bytes()).unwrap_or_default(),
            )
        };
        counter!(
            "longhand_aws_calls_total",
            "service" => call.service().to_lowercase(),
            "operation" => call.name().to_owned(),
            "outcome" => outcome
        )
        .increment(1);
        Ok(())
    }
}

/// The error body of `DynamoDB` and SQS.
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(rename = "__type")]
    code: String,
}

/// The class of a failed attempt. There are too many error codes for a label.
fn outcome(status: Option<u16>, body: &[u8]) -> &'static str {
    // `DynamoDB` and SQS throttle with status 400 and one of these codes, S3 with status 503.
    const THROTTLING: [&str; 6] = [
        "Throttl",
        "ThroughputExceeded",
        "RequestLimitExceeded",
        "TooManyRequests",
        "SlowDown",
        "ReduceYourRequestRate",
    ];
    match status {
        // No connection, no response in time, or an incomplete response.
        None | Some(..400) => "no_answer",
        Some(429) => "throttled",
        Some(400) => {
            let code = serde_json::from_slice::<ErrorBody>(body).map(|body| body.code).unwrap_or_default();
            if THROTTLING.iter().any(|part| code.contains(part)) { "throttled" } else { "refused" }
        }
        Some(401..500) => "refused",
        Some(_) => "failed",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_config::retry::RetryConfig;
    use aws_config::{BehaviorVersion, Region, SdkConfig};
    use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Sends one response to each connection, and closes it.
    async fn answer_in_turn(listener: TcpListener, answers: Vec<(u16, &str)>) {
        for (status, body) in answers {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            // A small request arrives in one piece.
            let read = connection.read(&mut [0; 16_384]).await.expect("a request");
            assert!(read > 0, "no request");
            let answer = format!(
                "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            connection.write_all(answer.as_bytes()).await.expect("written");
        }
    }

    #[tokio::test]
    async fn every_attempt_is_counted_as_it_ended() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let _counting = metrics::set_default_local_recorder(&recorder);

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let retries = RetryConfig::standard().with_max_attempts(4);
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "a", "b", None, None, "test",
            )))
            .retry_config(retries.with_initial_backoff(Duration::from_millis(1)))
            .endpoint_url(endpoint)
            .build();
        let sqs = crate::service::aws::sqs(&config);
        let answers = vec![
            (503, ""),
            (400, r#"{"__type":"com.amazonaws.sqs#RequestThrottled"}"#),
            (500, ""),
            (200, "{}"),
            (400, r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist"}"#),
        ];
        let server = tokio::spawn(answer_in_turn(listener, answers));
        let delete = || sqs.delete_message().queue_url("http://queue").receipt_handle("r").send();
        delete().await.expect("the fourth attempt succeeds");
        delete().await.expect_err("the queue does not exist");
        server.await.expect("all responses were sent");
        delete().await.expect_err("the server has stopped");

        let text = handle.render();
        for (outcome, count) in [("ok", 1), ("throttled", 1), ("failed", 2), ("refused", 1), ("no_answer", 4)]
        {
            let line = format!(
                "longhand_aws_calls_total{{service=\"sqs\",operation=\"DeleteMessage\",outcome=\"{outcome}\"}} {count}\n"
            );
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn failed_attempts_are_classified_by_status_and_code() {
        let throttled =
            br#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}"#;
        let condition = br#"{"__type":"com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
                             "message":"Throttling is not it"}"#;
        let sqs = br#"{"__type":"com.amazonaws.sqs#RequestThrottled"}"#;
        for (status, body, expected) in [
            (None, &b""[..], "no_answer"),
            (Some(200), b"", "no_answer"),
            (Some(400), &throttled[..], "throttled"),
            (Some(400), &condition[..], "refused"),
            (Some(400), &sqs[..], "throttled"),
            (Some(400), b"<html>", "refused"),
            (Some(403), b"", "refused"),
            (Some(404), b"", "refused"),
            (Some(429), b"", "throttled"),
            (Some(500), b"", "failed"),
            (Some(503), b"", "failed"),
        ] {
            assert_eq!(outcome(status, body), expected, "{status:?} {}", String::from_utf8_lossy(body));
        }
    }
}
