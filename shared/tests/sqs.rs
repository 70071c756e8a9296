//! The SQS queue against scripted responses that SQS sends and an emulator does not.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Region};
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::queue::{ChunkQueue, Envelope, Outgoing, QueueError, Receipt, Standing};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The response to one call.
enum Reply {
    Status(u16, Value),
    /// The connection closes in the middle of the response.
    Cut,
    /// The response is not JSON.
    Garbage,
}

fn ok(body: Value) -> Reply {
    Reply::Status(200, body)
}

/// A server whose responses come from a closure of the operation and the entries.
struct Sqs {
    queue: SqsQueue,
    /// The number of entries of each call.
    sizes: Arc<Mutex<Vec<usize>>>,
}

impl Sqs {
    async fn answering(reply: impl Fn(&str, &[Value]) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
        let seen = Arc::clone(&sizes);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                // The client may open a connection and not use it.
                let Some((operation, body)) = request(&mut socket).await else { continue };
                let none = vec![];
                let entries = body["Entries"].as_array().unwrap_or(&none);
                seen.lock().push(entries.len());
                let (status, text) = match reply(&operation, entries) {
                    Reply::Status(status, body) => (status, body.to_string()),
                    Reply::Garbage => (200, "<html>".to_owned()),
                    Reply::Cut => {
                        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{").await;
                        continue;
                    }
                };
                let head = format!(
                    "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.0\r\n\
                     Content-Length: {}\r\n\r\n{text}",
                    text.len()
                );
                let _ = socket.write_all(head.as_bytes()).await;
            }
        });
        Self { queue: queue(&url), sizes }
    }

    fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().clone()
    }
}

/// A client without retries.
fn queue(endpoint: &str) -> SqsQueue {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .allow_no_auth()
        .retry_config(RetryConfig::disabled())
        .build();
    SqsQueue::new(aws_sdk_sqs::Client::from_conf(config), format!("{endpoint}/000000000000/chunks"))
}

/// The operation's name and the body of the next request.
async fn request(socket: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let length: usize = header("content-length:")?.parse().ok()?;
            if bytes.len() >= end + 4 + length {
                let operation = header("x-amz-target:")?.rsplit('.').next()?.to_owned();
                return Some((operation, serde_json::from_slice(&bytes[end + 4..]).ok()?));
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn message(body: String) -> Outgoing {
    Outgoing { body, group: None, envelope: Envelope::default(), delay: Duration::ZERO }
}

fn messages(count: usize) -> Vec<Outgoing> {
    (0..count).map(|number| message(number.to_string())).collect()
}

fn receipts(count: usize) -> Vec<Receipt> {
    (0..count).map(|number| Receipt(number.to_string())).collect()
}

/// A response in which all entries succeed.
fn all_succeed(entries: &[Value]) -> Reply {
    let passed =
        entries.iter().map(|entry| json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": ""}));
    ok(json!({"Successful": passed.collect::<Vec<_>>(), "Failed": []}))
}

/// The three batch calls with `count` entries each.
async fn all_batches(queue: &SqsQueue, count: usize) -> [Vec<Result<(), QueueError>>; 3] {
    let renewals: Vec<_> = receipts(count).into_iter().map(|it| (it, Duration::from_secs(30))).collect();
    [
        queue.send(&messages(count)).await,
        queue.delete(&receipts(count)).await,
        queue.change_visibility(&renewals).await,
    ]
}

fn places<T>(answers: &[T], is: impl Fn(&T) -> bool) -> Vec<usize> {
    (0..answers.len()).filter(|place| is(&answers[*place])).collect()
}

#[tokio::test]
async fn calls_for_25_messages_use_batches_of_10_10_and_5() {
    let sqs = Sqs::answering(|_, entries| all_succeed(entries)).await;
    for answers in all_batches(&sqs.queue, 25).await {
        assert_eq!(answers, vec![Ok(()); 25]);
    }
    assert_eq!(sqs.sizes(), [10, 10, 5].repeat(3));
}

#[tokio::test]
async fn a_failed_batch_does_not_affect_the_other_batches() {
    let sqs = Sqs::answering(|_, entries| {
        // Ids are positions in a batch, so the content identifies the second batch.
        let second = entries.iter().any(|entry| {
            [&entry["MessageBody"], &entry["ReceiptHandle"]].into_iter().any(|value| value == "10")
        });
        if second { Reply::Status(500, json!({"__type": "InternalError"})) } else { all_succeed(entries) }
    })
    .await;
    for answers in all_batches(&sqs.queue, 25).await {
        assert_eq!(places(&answers, Result::is_err), (10..20).collect::<Vec<_>>());
        assert!(matches!(answers[10], Err(QueueError::Unavailable(_))), "{:?}", answers[10]);
    }
    assert_eq!(sqs.sizes(), [10, 10, 5].repeat(3));
}

#[tokio::test]
async fn failed_entries_of_a_batch_have_their_own_errors() {
    let sqs = Sqs::answering(|_, _| {
        ok(json!({
            "Successful": [{"Id": "0"}, {"Id": "4"}],
            "Failed": [
                {"Id": "1", "SenderFault": false, "Code": "InternalError", "Message": "try again"},
                {"Id": "2", "SenderFault": true, "Code": "ReceiptHandleIsInvalid", "Message": "it ran out"},
                {"Id": "3", "SenderFault": true, "Code": "InvalidMessageContents"},
                // LocalStack.
                {"Id": "5", "SenderFault": false, "Code": "InvalidParameterValueException",
                 "Message": "Value x for parameter ReceiptHandle is invalid. Reason: Message does not exist or is \
                             not available for visibility timeout change."},
            ],
        }))
    })
    .await;
    for answers in all_batches(&sqs.queue, 6).await {
        let as_expected = [
            answers[0] == Ok(()),
            matches!(&answers[1], Err(QueueError::Unavailable(what)) if what.contains("try again")),
            matches!(&answers[2], Err(QueueError::LeaseLost(what)) if what.contains("it ran out")),
            matches!(&answers[3], Err(QueueError::Refused(what)) if what.contains("InvalidMessageContents")),
            answers[4] == Ok(()),
            matches!(answers[5], Err(QueueError::LeaseLost(_))),
        ];
        assert_eq!(as_expected, [true; 6], "{answers:?}");
    }
}

/// Messages of the user `ana`.
fn grouped(count: usize) -> Vec<Outgoing> {
    messages(count).into_iter().map(|message| Outgoing { group: Some("ana".to_owned()), ..message }).collect()
}

/// The error message of `LocalStack` before 4.7.
const NO_GROUPS: &str = "Value ana for parameter MessageGroupId is invalid. Reason: The request include parameter that \
                         is not valid for this queue type";

#[tokio::test]
async fn messages_are_sent_without_a_group_if_the_queue_refuses_it() {
    // The queue refuses each message, or the whole call.
    let each: fn(&[Value]) -> Reply = |entries| {
        let of = |grouped: bool| {
            let chosen = entries.iter().filter(move |entry| entry["MessageGroupId"].is_string() == grouped);
            chosen.map(|entry| {
                json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "", "SenderFault": true,
                       "Code": "InvalidParameterValue", "Message": NO_GROUPS})
            })
        };
        ok(json!({"Successful": of(false).collect::<Vec<_>>(), "Failed": of(true).collect::<Vec<_>>()}))
    };
    let whole: fn(&[Value]) -> Reply = |entries| {
        if entries.iter().any(|entry| entry["MessageGroupId"].is_string()) {
            return Reply::Status(400, json!({"__type": "InvalidParameterValue", "message": NO_GROUPS}));
        }
        all_succeed(entries)
    };
    for (reply, mixed) in [(each, vec![3, 2, 3]), (whole, vec![3, 3, 3])] {
        let sqs = Sqs::answering(move |_, entries| reply(entries)).await;
        let mut three = grouped(2);
        three.extend(messages(1));
        assert_eq!(sqs.queue.send(&three).await, vec![Ok(()); 3]);
        // A clone shares the state.
        assert_eq!(sqs.queue.clone().send(&grouped(3)).await, vec![Ok(()); 3]);
        // After the refusal of a whole batch, all its messages are sent again.
        assert_eq!(sqs.sizes(), mixed);
        assert_eq!(sqs.queue.standing(), Standing { groups_refused: true, refused: None });
    }
}

#[tokio::test]
async fn a_refusal_is_reported_until_a_message_is_accepted() {
    for (status, code, refused) in [
        (403, "com.amazonaws.sqs#AccessDenied", Some("AccessDenied")),
        (400, "com.amazonaws.sqs#KmsDisabled", Some("KmsDisabled")),
        (400, "com.amazonaws.sqs#InvalidMessageContents", Some("InvalidMessageContents")),
        (400, "com.amazonaws.sqs#RequestThrottled", None),
        (500, "InternalError", None),
    ] {
        let calls = Mutex::new(0);
        let sqs = Sqs::answering(move |_, entries| {
            let mut calls = calls.lock();
            *calls += 1;
            if *calls == 1 { Reply::Status(status, json!({"__type": code})) } else { all_succeed(entries) }
        })
        .await;
        assert!(sqs.queue.send(&grouped(1)).await[0].is_err());
        let expected = Standing { groups_refused: false, refused: refused.map(str::to_owned) };
        assert_eq!(sqs.queue.standing(), expected, "{code}");
        assert!(sqs.queue.send(&grouped(1)).await[0].is_ok());
        assert_eq!(sqs.queue.standing(), Standing::default());
    }
}

#[tokio::test]
async fn unknown_ids_in_a_batch_response_are_ignored() {
    let sqs = Sqs::answering(|_, _| {
        let fault = |id: &str| json!({"Id": id, "SenderFault": true, "Code": "ReceiptHandleIsInvalid"});
        ok(json!({
            "Successful": [{"Id": "1"}, {"Id": "7"}, {"Id": "x"}, {"Id": "-1"}, {"Id": ""}],
            "Failed": [fault("9"), fault("18446744073709551616"), fault("é")],
        }))
    })
    .await;
    for answers in all_batches(&sqs.queue, 3).await {
        assert_eq!(answers[1], Ok(()));
        for unnamed in [&answers[0], &answers[2]] {
            assert!(matches!(unnamed, Err(QueueError::Unavailable(_))), "unanswered: {unnamed:?}");
        }
    }
}

#[tokio::test]
async fn an_oversize_message_fails_alone() {
    let sqs = Sqs::answering(|_, entries| {
        let bytes: usize =
            entries.iter().filter_map(|entry| entry["MessageBody"].as_str()).map(str::len).sum();
        if bytes > 1024 * 1024 {
            return Reply::Status(400, json!({"__type": "com.amazonaws.sqs#BatchRequestTooLong"}));
        }
        all_succeed(entries)
    })
    .await;
    let sent = [message("a".to_owned()), message("x".repeat(1024 * 1024 + 1)), message("b".to_owned())];
    let answers = sqs.queue.send(&sent).await;
    assert_eq!(places(&answers, Result::is_ok), [0, 2], "{answers:?}");
    assert_eq!(sqs.sizes(), [1, 1, 1], "it is in a batch of its own");
}

#[tokio::test]
async fn every_failure_of_a_receive_is_an_error() {
    let failures: [fn() -> Reply; 7] = [
        || Reply::Status(403, json!({"__type": "com.amazonaws.sqs#AccessDenied"})),
        || Reply::Status(400, json!({"__type": "com.amazonaws.sqs#RequestThrottled"})),
        || Reply::Status(400, json!({"__type": "com.amazonaws.sqs#QueueDoesNotExist"})),
        || Reply::Status(500, json!({})),
        || Reply::Status(503, json!({"__type": "ServiceUnavailable"})),
        || Reply::Cut,
        || Reply::Garbage,
    ];
    let receive =
        async |queue: &SqsQueue| queue.receive(10, Duration::from_secs(1), Duration::from_secs(30)).await;
    for (number, failure) in failures.into_iter().enumerate() {
        let sqs = Sqs::answering(move |_, _| failure()).await;
        let answer = receive(&sqs.queue).await;
        assert!(matches!(answer, Err(QueueError::Unavailable(_))), "failure {number}: {answer:?}");
    }
    // A closed port, and an unknown host.
    for endpoint in ["http://127.0.0.1:1", "http://nowhere.invalid"] {
        let answer = receive(&queue(endpoint)).await;
        assert!(matches!(answer, Err(QueueError::Unavailable(_))), "{endpoint}: {answer:?}");
    }
}

#[tokio::test]
async fn malformed_attributes_are_ignored() {
    let sqs = Sqs::answering(|_, _| {
        let binary = json!({"DataType": "Binary", "BinaryValue": "AAEC"});
        let text = |value: &str| json!({"DataType": "String", "StringValue": value});
        let message = |receipt: Option<&str>, count: &str, attributes: Value| {
            json!({
                "MessageId": "m", "Body": "b", "ReceiptHandle": receipt, "MessageAttributes": attributes,
                "Attributes": {"ApproximateReceiveCount": count},
            })
        };
        ok(json!({"Messages": [
            message(Some("1"), "2", json!({"requeues": binary, "origin": binary, "reason": binary, "traceparent": binary})),
            message(Some("2"), "-1", json!({"requeues": text("-1")})),
            message(Some("3"), "", json!({"requeues": text("99999999999999999999"), "unknown": text("x")})),
            message(None, "1", json!({})),
        ]}))
    })
    .await;
    let received = sqs.queue.receive(10, Duration::ZERO, Duration::from_secs(30)).await.expect("an answer");
    let handles: Vec<&str> = received.iter().map(|delivery| delivery.receipt.0.as_str()).collect();
    assert_eq!(handles, ["1", "2", "3"], "messages without a receipt handle are ignored");
    assert!(received.iter().all(|delivery| delivery.envelope == Envelope::default()), "{received:?}");
    assert_eq!(received.iter().map(|delivery| delivery.receive_count).collect::<Vec<_>>(), [2, 1, 1]);
}
