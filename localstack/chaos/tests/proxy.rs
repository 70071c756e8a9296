//! The proxy in front of a small server: its faults, and the ledger of writes whose answers are lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use longhand_chaos::fault::{Fault, Operation};
use longhand_chaos::proxy::{AppBook, Proxy};
use longhand_e2e::eventually;
use reqwest::{Client, Response};
use serde_json::{Value, json};

/// The requests that the server received: path, host, body.
type Got = Arc<Mutex<Vec<(String, String, Bytes)>>>;

async fn echo(State(got): State<Got>, uri: Uri, headers: HeaderMap, body: Bytes) -> Bytes {
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    got.lock().unwrap_or_else(PoisonError::into_inner).push((uri.to_string(), host, body.clone()));
    body
}

/// A server that echoes requests, and a proxy in front of it.
async fn start(rate: f64) -> (Proxy, Got) {
    let got = Got::default();
    let listener =
        tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    let upstream = format!("http://{}", listener.local_addr().expect("an address"));
    let limit = axum::extract::DefaultBodyLimit::disable();
    let router = Router::new().fallback(echo).layer(limit).with_state(Arc::clone(&got));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Proxy::start(&upstream, 1, rate).await.expect("a port"), got)
}

async fn call(proxy: &Proxy, target: &str, body: Vec<u8>) -> Result<Response, reqwest::Error> {
    let client = Client::builder().timeout(Duration::from_secs(30)).build().expect("a client");
    client.post(format!("{}/queue?x=1", proxy.url())).header("x-amz-target", target).body(body).send().await
}

fn seen(got: &Got) -> usize {
    got.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// Calls until each fault has occurred. Returns what the client and the server received for each.
async fn until_all_occurred(
    target: &str,
    body: &Value,
    expected: &[Fault],
) -> BTreeMap<Fault, (Result<u16, ()>, usize, Bytes)> {
    let (proxy, got) = start(1.0).await;
    let operation = Operation::of(Some(target), "POST");
    let mut seen_faults = BTreeMap::new();
    for nth in 1..200 {
        if expected.iter().all(|fault| seen_faults.contains_key(fault)) {
            break;
        }
        let (fault, _) = Fault::draw(1, 1.0, &operation, nth).expect("a rate of 1 always strikes");
        let before = seen(&got);
        let answer = call(&proxy, target, body.to_string().into_bytes()).await;
        let (status, answered) = match answer {
            Ok(answer) => (Ok(answer.status().as_u16()), answer.bytes().await.unwrap_or_default()),
            Err(_) => (Err(()), Bytes::new()),
        };
        seen_faults.insert(fault, (status, seen(&got) - before, answered));
    }
    let counted: u64 = proxy.books().faults().values().sum();
    assert_eq!(counted, proxy.books().operations[&operation].calls, "every call was seen_faults");
    seen_faults
}

#[tokio::test]
async fn each_fault_has_its_effect() {
    let body = json!({"Successful": [{"Id": "0"}, {"Id": "1"}]});
    let seen_faults = until_all_occurred("AmazonSQS.SendMessageBatch", &body, &Fault::ALL[..6]).await;
    let (status, reached, answered) = &seen_faults[&Fault::Throttled];
    assert_eq!((status, reached), (&Ok(400), &0));
    assert!(String::from_utf8_lossy(answered).contains("RequestThrottled"));
    assert_eq!((&seen_faults[&Fault::ServerError].0, seen_faults[&Fault::ServerError].1), (&Ok(500), 0));
    assert_eq!((&seen_faults[&Fault::CutBefore].0, seen_faults[&Fault::CutBefore].1), (&Err(()), 0));
    assert_eq!((&seen_faults[&Fault::Slow].0, seen_faults[&Fault::Slow].1), (&Ok(200), 1));
    assert_eq!(
        (&seen_faults[&Fault::AnswerLost].0, seen_faults[&Fault::AnswerLost].1),
        (&Err(()), 1),
        "done, and not answered"
    );
    let (status, reached, answered) = &seen_faults[&Fault::EntryFailed];
    assert_eq!((status, reached), (&Ok(200), &1));
    let answered: Value = serde_json::from_slice(answered).expect("JSON");
    assert_eq!(answered["Successful"], json!([{"Id": "0"}]));
    assert_eq!(answered["Failed"][0]["Id"], "1");
}

#[tokio::test]
async fn the_ledger_has_exactly_the_executed_writes() {
    let (proxy, got) = start(1.0).await;
    let target = "DynamoDB_20120810.UpdateItem";
    let operation = Operation::of(Some(target), "POST");
    let (mut unanswered, mut done) = (0, 0);
    for nth in 1..40 {
        let (fault, _) = Fault::draw(1, 1.0, &operation, nth).expect("a rate of 1 always strikes");
        if fault == Fault::Slow {
            // A slow call is forwarded like any other. This client does not wait for it.
            let body = json!({}).to_string().into_bytes();
            let before = seen(&got);
            let taken = async || (seen(&got) > before).then_some(());
            tokio::select! {
                _ = call(&proxy, target, body) => {}
                () = eventually("the call at the server", taken) => {}
            }
            continue;
        }
        let request = json!({
            "Key": {"jobId": {"S": "j"}, "item": {"S": format!("chunk#{nth:02}")}},
            "UpdateExpression": "SET chunkStatus = :status",
            "ExpressionAttributeValues": {":status": {"S": "COMPLETED"}},
        });
        let before = seen(&got);
        let answer = call(&proxy, target, request.to_string().into_bytes()).await;
        let ledger = proxy.books().ledger;
        let noted = ledger.outcomes.contains_key(&("j".to_owned(), format!("chunk#{nth:02}")));
        assert_eq!(noted, seen(&got) > before, "{fault:?}");
        unanswered += usize::from(noted && answer.is_err());
        done += usize::from(noted);
    }
    assert!(unanswered > 0 && done == unanswered, "{unanswered} of {done}: only lost answers are done here");
}

#[tokio::test]
async fn without_faults_calls_are_forwarded_unchanged() {
    let (proxy, got) = start(0.0).await;
    let big = vec![7; 16 * 1024 * 1024];
    let answer = call(&proxy, "AmazonSQS.SendMessageBatch", big.clone()).await.expect("an answer");
    assert_eq!(answer.bytes().await.expect("a body"), big);
    let got = got.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (path, host, _) = &got[0];
    assert_eq!(path, "/queue?x=1");
    assert_eq!(format!("http://{host}"), proxy.url(), "the host is the one that was signed");
    assert!(proxy.books().faults().is_empty());
}

/// The emulator executes a call although its client has died, so the ledger must have it.
#[tokio::test]
async fn a_write_of_a_dead_client_is_recorded() {
    let (proxy, got) = start(0.0).await;
    proxy.set_rate(1.0);
    let target = "DynamoDB_20120810.UpdateItem";
    let operation = Operation::of(Some(target), "POST");
    let slow = (1..1_000).find(|nth| matches!(Fault::draw(1, 1.0, &operation, *nth), Some((Fault::Slow, _))));
    for _ in 1..slow.expect("it strikes some time") {
        let _ = call(&proxy, target, Vec::new()).await;
    }
    let before = seen(&got);
    let request = json!({
        "Key": {"jobId": {"S": "j"}, "item": {"S": "chunk#00"}},
        "UpdateExpression": "SET chunkStatus = :status",
        "ExpressionAttributeValues": {":status": {"S": "FAILED"}},
    });
    let calling = tokio::spawn({
        let url = proxy.url();
        async move {
            let post = Client::new().post(url).header("x-amz-target", target).body(request.to_string());
            post.send().await
        }
    });
    eventually("the call at the server", async || (seen(&got) > before).then_some(())).await;
    calling.abort();
    eventually("the verdict in the ledger", async || {
        (proxy.books().ledger.outcomes.len() == 1).then_some(())
    })
    .await;
}

/// Calls this operation until its next call will have this fault.
async fn next_is(proxy: &Proxy, operation: &Operation, fault: Fault) {
    let made = proxy.books().operations.get(operation).map_or(0, |book| book.calls);
    let strikes = |nth| Fault::draw(1, 1.0, operation, nth).is_some_and(|(drawn, _)| drawn == fault);
    let nth = (made + 1..made + 1_000).find(|nth| strikes(*nth)).expect("it strikes some time");
    proxy.set_rate(0.0);
    let target = format!("AmazonSQS.{}", operation.name);
    for _ in made + 1..nth {
        let passed = if operation.name == "GET" {
            Client::new().get(proxy.url()).body("0123456789").send().await
        } else {
            call(proxy, &target, Vec::new()).await
        };
        passed.expect("an answer").bytes().await.expect("a body");
    }
    proxy.set_rate(1.0);
}

fn seen_faults(proxy: &Proxy, fault: Fault) -> u64 {
    proxy.books().faults().get(&fault).copied().unwrap_or_default()
}

#[tokio::test]
async fn half_of_a_body_arrives_before_it_stalls_or_is_reset() {
    let (proxy, got) = start(0.0).await;
    let operation = Operation::of(None, "GET");
    for fault in [Fault::BodyStalled, Fault::BodyReset] {
        next_is(&proxy, &operation, fault).await;
        let url = format!("{}/bucket/a.wav?x-id=GetObject", proxy.url());
        let mut answer = Client::new().get(url).body("0123456789").send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(10)));
        let first = answer.chunk().await.expect("the first half");
        assert_eq!(first.as_deref(), Some(&b"01234"[..]));
        assert_eq!((seen_faults(&proxy, fault), got.lock().is_ok()), (1, true));
        let mut second_half = Box::pin(answer.chunk());
        if fault == Fault::BodyStalled {
            let other = call(&proxy, "AmazonSQS.SendMessageBatch", Vec::new());
            tokio::select! {
                biased;
                more = &mut second_half => panic!("the body continues: {more:?}"),
                _ = other => {}
            }
            continue;
        }
        let error = second_half.await.expect_err("the connection was reset");
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        let mut is_reset = false;
        while let Some(error) = cause {
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            is_reset |= kind == Some(std::io::ErrorKind::ConnectionReset);
            cause = error.source();
        }
        assert!(is_reset, "{error:?}");
    }
}

#[tokio::test]
async fn s3_refuses_a_file_and_the_books_say_which() {
    let (proxy, got) = start(0.0).await;
    next_is(&proxy, &Operation::of(None, "GET"), Fault::Forbidden).await;
    let before = seen(&got);
    let answer = Client::new().get(format!("{}/bucket/a.wav?x-id=GetObject", proxy.url())).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 403);
    let text = answer.text().await.expect("a body");
    assert!(text.contains("<Code>AccessDenied</Code>"), "{text}");
    assert_eq!(seen(&got), before);
    assert_eq!(proxy.books().forbidden, [("a.wav".to_owned(), 1)].into());
    assert_eq!(proxy.books().faults(), [(Fault::Forbidden, 1)].into());
}

#[tokio::test]
async fn only_a_receive_with_messages_is_lost() {
    let (proxy, got) = start(0.0).await;
    let operation = Operation::of(Some("AmazonSQS.ReceiveMessage"), "POST");
    next_is(&proxy, &operation, Fault::ReceiveLost).await;
    let answer = call(&proxy, "AmazonSQS.ReceiveMessage", b"{}".to_vec()).await.expect("an answer");
    assert_eq!(answer.bytes().await.expect("a body").as_ref(), b"{}");
    assert_eq!((seen_faults(&proxy, Fault::ReceiveLost), proxy.books().messages_lost), (0, 0));

    next_is(&proxy, &operation, Fault::ReceiveLost).await;
    let before = seen(&got);
    let body = json!({"Messages": [{"Body": "a"}, {"Body": "b"}]}).to_string().into_bytes();
    let lost = async || (proxy.books().messages_lost == 2).then_some(());
    tokio::select! {
        answer = call(&proxy, "AmazonSQS.ReceiveMessage", body) => panic!("it was answered: {answer:?}"),
        () = eventually("two lost messages", lost) => {}
    }
    assert_eq!(
        (seen_faults(&proxy, Fault::ReceiveLost), seen(&got) - before),
        (1, 1),
        "the queue handed them out"
    );
}

#[tokio::test]
async fn a_throttled_transaction_does_not_reach_the_table() {
    let body = json!({"TransactItems": [{"Put": {}}, {"Update": {}}]});
    let target = "DynamoDB_20120810.TransactWriteItems";
    let seen_faults = until_all_occurred(target, &body, &[Fault::TransactionThrottled]).await;
    let (status, reached, answered) = &seen_faults[&Fault::TransactionThrottled];
    assert_eq!((status, reached), (&Ok(400), &0));
    let answered: Value = serde_json::from_slice(answered).expect("JSON");
    assert_eq!(answered["CancellationReasons"].as_array().map(Vec::len), Some(2), "{answered}");
}

#[tokio::test]
async fn the_books_distinguish_programs_by_app_id() {
    let (proxy, _) = start(0.0).await;
    let settle = json!({
        "Key": {"jobId": {"S": "j"}, "item": {"S": "chunk#00"}},
        "UpdateExpression": "SET chunkStatus = :status",
        "ExpressionAttributeValues": {":status": {"S": "FAILED"}},
    });
    for app in ["old-worker", "new-worker"] {
        let post = Client::new().post(proxy.url()).header("x-amz-target", "DynamoDB_20120810.UpdateItem");
        let post = post.header("user-agent", format!("aws-sdk-rust/1.3 os/linux app/{app}"));
        post.body(settle.to_string()).send().await.expect("an answer");
    }
    let book = AppBook { calls: 1, transactions: 0, settled: 1 };
    assert_eq!(proxy.books().apps, ["new-worker", "old-worker"].map(|app| (app.to_owned(), book)).into());
}
