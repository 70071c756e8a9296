//! The faults of AWS calls, and the answers of each service.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use hyper::{Response, StatusCode};
use rand::RngExt;
use serde::Serialize;
use serde_json::{Value, json};
use strum::VariantArray;

use crate::draw;

/// The delay of a slow answer in milliseconds. An attempt of the services' clients ends after 5 s.
const SLOW_MS: std::ops::RangeInclusive<u64> = 1_000..=8_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    pub service: Service,
    /// AWS's name; for S3 the HTTP method.
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Service {
    Dynamodb,
    Sqs,
    S3,
}

impl Operation {
    /// The operation of a call, by its `X-Amz-Target` and method.
    pub fn of(target: Option<&str>, method: &str) -> Self {
        let (service, name) = match target.and_then(|target| target.split_once('.')) {
            Some(("AmazonSQS", name)) => (Service::Sqs, name),
            Some((_, name)) => (Service::Dynamodb, name),
            None => (Service::S3, method),
        };
        Self { service, name: name.to_owned() }
    }

    /// Whether SQS answers each entry separately.
    fn is_batch(&self) -> bool {
        self.service == Service::Sqs && self.name.ends_with("Batch")
    }

    /// The faults of this operation alone. Each is as frequent as all other faults together.
    fn own_faults(&self) -> &'static [Fault] {
        match (self.service, self.name.as_str()) {
            (Service::Dynamodb, "TransactWriteItems") => &[Fault::TransactionThrottled],
            (Service::Sqs, "ReceiveMessage") => &[Fault::ReceiveLost],
            (Service::S3, "GET") => &[Fault::Forbidden, Fault::BodyStalled, Fault::BodyReset],
            _ => &[],
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service, self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Fault {
    /// The service throttles the call and does nothing.
    Throttled,
    /// The service answers 500 and does nothing.
    ServerError,
    /// The connection is closed before the service gets the call.
    CutBefore,
    /// The call succeeds, and the answer is late.
    Slow,
    /// The call succeeds, and the connection is closed before the answer.
    AnswerLost,
    /// The call succeeds, and one entry of the batch is reported as failed.
    EntryFailed,
    /// `DynamoDB` cancels a transaction because it throttles one of its items.
    TransactionThrottled,
    /// The queue delivers messages, but the answer never arrives: the connection stays open and silent.
    ReceiveLost,
    /// S3 refuses the object: 403.
    Forbidden,
    /// Half of the body from S3 arrives. Then the connection stays open and silent.
    BodyStalled,
    /// Half of the body from S3 arrives. Then the connection is reset.
    BodyReset,
}

impl Fault {
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The faults of every call, and those of a batch.
    const EVERYWHERE: &[Self] = Self::ALL.split_at(5).0;
    const OF_BATCHES: &[Self] = Self::ALL.split_at(6).0;

    /// Draws the fault of the `nth` call of an operation, and a delay. The common faults share `rate` equally; each of
    /// the operation's own faults adds another `rate`.
    pub fn draw(seed: u64, rate: f64, operation: &Operation, nth: u64) -> Option<(Self, Duration)> {
        let mut rng = draw::rng(seed, &[<&str>::from(operation.service), &operation.name, &nth.to_string()]);
        let kinds = if operation.is_batch() { Self::OF_BATCHES } else { Self::EVERYWHERE };
        let own = operation.own_faults();
        let parts = 1 + own.len();
        #[expect(clippy::cast_precision_loss, reason = "four at most")]
        let is_faulty = rng.random_bool((rate * parts as f64).clamp(0.0, 1.0));
        let place = rng.random_range(0..kinds.len() * parts);
        let kind = kinds.get(place).unwrap_or_else(|| &own[place / kinds.len() - 1]);
        let late = Duration::from_millis(rng.random_range(SLOW_MS));
        is_faulty.then_some((*kind, late))
    }
}

/// The answer of a service that throttles the call.
pub fn throttled(operation: &Operation) -> Response<Body> {
    let (kind, message) = match operation.service {
        Service::Dynamodb => (
            "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
            "simulated: the level of configured provisioned throughput was exceeded",
        ),
        Service::Sqs => ("com.amazonaws.sqs#RequestThrottled", "simulated: slow down"),
        Service::S3 => return xml(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
    };
    error(StatusCode::BAD_REQUEST, &json!({"__type": kind, "message": message}))
}

/// The answer of a service with an internal error.
pub fn server_error(operation: &Operation) -> Response<Body> {
    let kind = match operation.service {
        Service::Dynamodb => "com.amazonaws.dynamodb.v20120810#InternalServerError",
        Service::Sqs => "com.amazonaws.sqs#InternalError",
        Service::S3 => return xml(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
    };
    let body = json!({"__type": kind, "message": "simulated: an internal error"});
    error(StatusCode::INTERNAL_SERVER_ERROR, &body)
}

/// `DynamoDB`'s answer if it throttles one item of this transaction. The random `chance` selects the item and the code.
pub fn transaction_throttled(request: &[u8], chance: usize) -> Response<Body> {
    let request: Value = serde_json::from_slice(request).unwrap_or_default();
    let items = request["TransactItems"].as_array().map_or(1, |items| items.len().max(1));
    let (code, message) = [
        (
            "ThrottlingError",
            "Throughput exceeds the current capacity of your table or index. DynamoDB is automatically scaling your \
             table or index so please try again shortly.",
        ),
        (
            "ProvisionedThroughputExceeded",
            "The level of configured provisioned throughput for the table was exceeded. Consider increasing your \
             provisioning level with the UpdateTable API.",
        ),
    ][chance % 2];
    let throttled = chance / 2 % items;
    let codes: Vec<&str> = (0..items).map(|item| if item == throttled { code } else { "None" }).collect();
    let reason = |code: &&str| match *code {
        "None" => json!({"Code": "None"}),
        code => json!({"Code": code, "Message": message}),
    };
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "CancellationReasons": codes.iter().map(reason).collect::<Vec<_>>(),
        "Message": format!(
            "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
            codes.join(", ")
        ),
    });
    error(StatusCode::BAD_REQUEST, &body)
}

/// S3's answer without permission to read the object.
pub fn forbidden() -> Response<Body> {
    xml(StatusCode::FORBIDDEN, "AccessDenied")
}

/// The number of messages in an answer to `ReceiveMessage`.
pub fn messages(answer: &[u8]) -> usize {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    answer["Messages"].as_array().map_or(0, Vec::len)
}

/// The answer to a batch, with one successful entry reported as failed. `None` without a successful entry.
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

fn error(status: StatusCode, body: &Value) -> Response<Body> {
    answer(status, "application/x-amz-json-1.0", body.to_string())
}

fn xml(status: StatusCode, code: &str) -> Response<Body> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>simulated</Message>\
         <RequestId>simulated</RequestId><HostId>simulated</HostId></Error>"
    );
    answer(status, "application/xml", body)
}

fn answer(status: StatusCode, content_type: &str, body: String) -> Response<Body> {
    (status, [("content-type", content_type), ("x-amzn-requestid", "simulated")], body).into_response()
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
        for kind in Fault::OF_BATCHES {
            let count = draws(1).into_iter().flatten().filter(|(fault, _)| fault == kind).count();
            assert!(
                (400..600).contains(&count),
                "{kind:?} was drawn {count} times of 6000, expected about 500"
            );
        }
        let single = Operation::of(Some("AmazonSQS.ReceiveMessage"), "POST");
        let entry = |(fault, _)| fault == Fault::EntryFailed;
        assert!(!(0..6_000).filter_map(|nth| Fault::draw(1, 0.5, &single, nth)).any(entry));
        assert!((0..1_000).all(|nth| Fault::draw(1, 0.0, &send(), nth).is_none()));
    }

    #[test]
    fn own_faults_of_an_operation_have_the_full_rate() {
        for (target, method, own) in [
            (Some("DynamoDB_20120810.TransactWriteItems"), "POST", &Fault::ALL[6..7]),
            (Some("AmazonSQS.ReceiveMessage"), "POST", &Fault::ALL[7..8]),
            (None, "GET", &Fault::ALL[8..]),
            (Some("DynamoDB_20120810.UpdateItem"), "POST", &[]),
            (None, "PUT", &[]),
        ] {
            let operation = Operation::of(target, method);
            let draws: Vec<Fault> =
                (0..20_000).filter_map(|nth| Some(Fault::draw(1, 0.1, &operation, nth)?.0)).collect();
            let count = |wanted: &[Fault]| draws.iter().filter(|fault| wanted.contains(fault)).count();
            for fault in own {
                let hits = count(&[*fault]);
                assert!(
                    (1_800..2_200).contains(&hits),
                    "{operation}: {fault:?} was drawn {hits} times of 20000"
                );
            }
            let everywhere = count(Fault::EVERYWHERE);
            assert!((1_800..2_200).contains(&everywhere), "{operation}: {everywhere} of 20000");
            assert_eq!(everywhere + count(own), draws.len(), "{operation} has no others");
        }
    }

    #[tokio::test]
    async fn a_throttled_transaction_has_a_reason_for_each_item() {
        let request = json!({"TransactItems": [{"Put": {}}, {"Update": {}}, {"Delete": {}}]}).to_string();
        for (chance, throttled, code) in
            [(0, 0, "ThrottlingError"), (3, 1, "ProvisionedThroughputExceeded"), (4, 2, "ThrottlingError")]
        {
            let answer = transaction_throttled(request.as_bytes(), chance);
            assert_eq!(answer.status(), 400);
            let body = axum::body::to_bytes(answer.into_body(), 10_000).await.expect("a body");
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert!(
                body["__type"].as_str().is_some_and(|kind| kind.ends_with("#TransactionCanceledException"))
            );
            let codes: Vec<&str> = body["CancellationReasons"]
                .as_array()
                .expect("reasons")
                .iter()
                .map(|reason| reason["Code"].as_str().expect("a code"))
                .collect();
            let mut expected = ["None"; 3];
            expected[throttled] = code;
            assert_eq!(codes, expected);
        }
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
