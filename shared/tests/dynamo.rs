//! The `DynamoDB` store against scripted responses that the real service sends and an emulator does not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use longhand_shared::Timestamp;
use longhand_shared::domain::job::{Metadata, NewJob, TranscribeOptions};
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::store::{Created, JobStore, StoreError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A table that returns these responses in turn and then empty ones, and its number of calls.
async fn table(answers: Vec<(u16, Value)>) -> (DynamoStore, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let calls = Arc::new(AtomicUsize::new(0));
    let answers = Arc::new(Mutex::new(answers.into_iter()));
    tokio::spawn({
        let calls = Arc::clone(&calls);
        async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = vec![0; 256 * 1024];
                if socket.read(&mut request).await.unwrap_or(0) == 0 {
                    continue;
                }
                calls.fetch_add(1, Ordering::Relaxed);
                let answer = answers.lock().expect("not poisoned").next();
                let (status, body) = answer.unwrap_or((200, json!({})));
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-type: application/x-amz-json-1.0\r\n\
                     content-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(head.as_bytes()).await;
            }
        }
    });
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("a", "b", None, None, "test"))
        .endpoint_url(endpoint)
        .build();
    let client = aws_sdk_dynamodb::Client::from_conf(config);
    (DynamoStore::new(client, "jobs", Duration::from_hours(1)), calls)
}

/// `DynamoDB`'s response for a cancelled transaction, with a reason for each write.
fn cancelled(reason: &str) -> (u16, Value) {
    let reasons = [json!({"Code": "None"}), json!({"Code": reason, "Message": "x"})];
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": format!("Transaction cancelled, please refer cancellation reasons for specific reasons [None, {reason}]"),
        "CancellationReasons": reasons,
    });
    (400, body)
}

fn job() -> NewJob {
    let paths = vec!["a.wav".parse().expect("a path")];
    let user = "ana".parse().expect("a user");
    let now = Timestamp::from_unix(1_000);
    NewJob::new(user, paths, TranscribeOptions::default(), Metadata::new(), now).expect("a job")
}

#[tokio::test]
async fn a_throttled_transaction_is_repeated() {
    for reason in ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"] {
        let (store, calls) = table(vec![cancelled(reason), cancelled(reason)]).await;
        let created = store.create(&job(), Timestamp::from_unix(2_000)).await.expect(reason);
        assert_eq!((created, calls.load(Ordering::Relaxed)), (Created::New, 3), "{reason}");
    }
}

#[tokio::test]
async fn retries_of_a_throttled_transaction_are_bounded() {
    let (store, calls) = table(vec![cancelled("ThrottlingError"); 50]).await;
    let created = store.create(&job(), Timestamp::from_unix(2_000)).await;
    assert!(matches!(created, Err(StoreError::Unavailable(_))), "{created:?}");
    assert!(calls.load(Ordering::Relaxed) < 10);
}
