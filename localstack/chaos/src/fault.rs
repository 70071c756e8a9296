//! What can go wrong with one call of AWS, and how each service says so.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use hyper::{Response, StatusCode};
use rand::RngExt;
use serde::Serialize;
use serde_json::{Value, json};

use crate::draw;

/// Milliseconds that a slow answer is held back. An attempt of the services' clients ends after 5 s.
const SLOW_MS: std::ops::RangeInclusive<u64> = 1_000..=8_000;

/// What is called: its service and operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    /// Whose it is.
    pub service: Service,
    /// Its name, as AWS writes it; for S3 the HTTP method.
    pub name: String,
}

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The table.
    Dynamodb,
    /// The queues.
    Sqs,
    /// The bucket.
    S3,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Dynamodb => "dynamodb",
            Self::Sqs => "sqs",
            Self::S3 => "s3",
        }
    }
}

impl Operation {
    /// What a call is, by its `X-Amz-Target` and method.
    pub fn of(target: Option<&str>, method: &str) -> Self {
        let (service, name) = match target.and_then(|target| target.split_once('.')) {
            Some(("AmazonSQS", name)) => (Service::Sqs, name),
            Some((_, name)) => (Service::Dynamodb, name),
            None => (Service::S3, method),
        };
        Self { service, name: name.to_owned() }
    }

    /// Whether SQS answers it entry by entry.
    fn is_batch(&self) -> bool {
        self.service == Service::Sqs && self.name.ends_with("Batch")
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service.name(), self.name)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The service asks for patience; nothing was done.
    Throttled,
    /// 500; nothing was done.
    ServerError,
    /// The connection is closed before the service got the call.
    CutBefore,
    /// It was done, and the answer comes late.
    Slow,
    /// It was done, and the connection is closed instead of an answer.
    AnswerLost,
    /// It was done, and one entry of the batch is said to have failed.
    EntryFailed,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Throttled,
        Self::ServerError,
        Self::CutBefore,
        Self::Slow,
        Self::AnswerLost,
        Self::EntryFailed,
    ];

    /// As it stands in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::ServerError => "server error",
            Self::CutBefore => "cut before",
            Self::Slow => "slow",
            Self::AnswerLost => "answer lost",
            Self::EntryFailed => "entry failed",
        }
    }

    /// What chance has in store for the `nth` call of an operation: each fault has an equal share of `rate`.
    pub fn draw(seed: u64, rate: f64, operation: &Operation, nth: u64) -> Option<(Self, Duration)> {
        let mut rng = draw::rng(seed, &[operation.service.name(), &operation.name, &nth.to_string()]);
        let kinds = if operation.is_batch() { &Self::ALL[..] } else { &Self::ALL[..5] };
        let struck = rng.random_bool(rate.clamp(0.0, 1.0));
        let kind = kinds[rng.random_range(0..kinds.len())];
        let late = Duration::from_millis(rng.random_range(SLOW_MS));
        struck.then_some((kind, late))
    }
}

/// The answer of a service that asks for patience.
pub fn throttled(operation: &Operation) -> Response<Body> {
    match operation.service {
        Service::Dynamodb => error(
            StatusCode::BAD_REQUEST,
            "application/x-amz-json-1.0",
            &json!({
                "__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
                "message": "simulated: the level of configured provisioned throughput was exceeded",
            }),
        ),
        Service::Sqs => error(
            StatusCode::BAD_REQUEST,
            "application/x-amz-json-1.0",
            &json!({"__type": "com.amazonaws.sqs#RequestThrottled", "message": "simulated: slow down"}),
        ),
        Service::S3 => xml(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
    }
}

/// The answer of a service that has failed.
pub fn server_error(operation: &Operation) -> Response<Body> {
    let kind = match operation.service {
        Service::Dynamodb => "com.amazonaws.dynamodb.v20120810#InternalServerError",
        Service::Sqs => "com.amazonaws.sqs#InternalError",
        Service::S3 => return xml(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
    };
    let body = json!({"__type": kind, "message": "simulated: an internal error"});
    error(StatusCode::INTERNAL_SERVER_ERROR, "application/x-amz-json-1.0", &body)
}

/// A batch's answer with one entry moved from the successful to the failed. `None` if there is none to move.
pub fn with_failed_entry(answer: &[u8]) -> Option<Vec<u8>> {
    let mut answer: Value = serde_json::from_slice(answer).ok()?;
    let id = answer.get_mut("Successful")?.as_array_mut()?.pop()?.get("Id")?.clone();
    let failed = json!({"Id": id, "Code": "InternalError", "Message": "simulated", "SenderFault": false});
    match answer.get_mut("Failed").and_then(Value::as_array_mut) {
        Some(entries) => entries.push(failed),
        None => answer["Failed"] = json!([failed]),
    }
    Some(answer.to_string().into_bytes())
}

fn error(status: StatusCode, content_type: &str, body: &Value) -> Response<Body> {
    answer(status, content_type, body.to_string())
}

fn xml(status: StatusCode, code: &str) -> Response<Body> {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>simulated</Message></Error>");
    answer(status, "application/xml", body)
}

fn answer(status: StatusCode, content_type: &str, body: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .header("x-amzn-requestid", "simulated")
        .body(Body::from(body))
        .expect("a status and two headers without control characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send() -> Operation {
        Operation::of(Some("AmazonSQS.SendMessageBatch"), "POST")
    }

    #[test]
    fn a_call_is_known_by_its_target() {
        assert_eq!(send().to_string(), "sqs SendMessageBatch");
        assert_eq!(
            Operation::of(Some("DynamoDB_20120810.UpdateItem"), "POST").to_string(),
            "dynamodb UpdateItem"
        );
        assert_eq!(Operation::of(None, "GET").to_string(), "s3 GET");
    }

    #[test]
    fn the_draw_is_repeatable_and_gives_every_fault_its_share() {
        let draws = |seed| (0..6_000).map(|nth| Fault::draw(seed, 0.5, &send(), nth)).collect::<Vec<_>>();
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        for kind in Fault::ALL {
            let count = draws(1).into_iter().flatten().filter(|(fault, _)| *fault == kind).count();
            assert!((400..600).contains(&count), "{kind:?} struck {count} times of 6000, expected about 500");
        }
        let single = Operation::of(Some("AmazonSQS.ReceiveMessage"), "POST");
        let entry = |(fault, _)| fault == Fault::EntryFailed;
        assert!(!(0..6_000).filter_map(|nth| Fault::draw(1, 0.5, &single, nth)).any(entry));
        assert!((0..1_000).all(|nth| Fault::draw(1, 0.0, &send(), nth).is_none()));
    }

    #[test]
    fn one_entry_of_a_batch_fails() {
        let answer = br#"{"Successful":[{"Id":"0","MessageId":"a"},{"Id":"1","MessageId":"b"}]}"#;
        let answer: Value =
            serde_json::from_slice(&with_failed_entry(answer).expect("two entries")).expect("JSON");
        assert_eq!(answer["Successful"], json!([{"Id": "0", "MessageId": "a"}]));
        assert_eq!(answer["Failed"][0]["Id"], "1");
        assert_eq!(with_failed_entry(br#"{"Successful":[]}"#), None);
        assert_eq!(with_failed_entry(b"<xml/>"), None);
    }
}
