//! What operators see and do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longhand_api::AppState;
use longhand_shared::Timestamp;
use longhand_shared::domain::worker_state::{Minute, WorkerState};
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::queue::{ChunkQueue, Outgoing};
use longhand_shared::store::JobStore;
use serde_json::{Value, json};

use crate::issuer::{api_by_secret, claims, token_by_secret};
use crate::support::{Api, good_body};

fn report(name: &str, minutes: Vec<Minute>, ago: Duration) -> WorkerState {
    let now = Timestamp::now();
    WorkerState {
        name: name.to_owned(),
        started: now.minus(Duration::from_hours(1)),
        reported: now.minus(ago),
        slots: 4,
        ceiling: 8,
        in_hand: 2,
        circuit_open: false,
        problem: None,
        last_minute: now.unix() / 60,
        minutes,
        failures: BTreeMap::from([("AUDIO_NOT_FOUND".to_owned(), 2)]),
    }
}

#[tokio::test]
async fn reports_of_workers_are_added_up() {
    let api = Api::new();
    let minute = Minute { completed: 3, failed: 1, calls: 4, call_ms: 6000, received: 2, wait_ms: 500 };
    for (name, ago) in [("one", 1), ("two", 20), ("gone", 90)] {
        let report = report(name, vec![minute, Minute::default(), minute], Duration::from_secs(ago));
        api.store.report(&report).await.expect("a store in memory");
    }
    api.transcribe(&good_body()).await.json(202);
    let state = api.get("/operations").await.json(200);
    assert_eq!(state["queue"], json!({"visible": 2, "inFlight": 0, "delayed": 0}));
    assert_eq!(state["deadLetters"], Value::Null, "not configured");
    let names: Vec<_> =
        state["workers"].as_array().expect("workers").iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!((&state["workers"][0]["slots"], &state["workers"][0]["limit"]), (&json!(4), &json!(8)));
    let minutes = state["minutes"].as_array().expect("minutes");
    assert_eq!(minutes.len(), 30);
    let all = |field: &str| -> u64 { minutes.iter().filter_map(|minute| minute[field].as_u64()).sum() };
    assert_eq!((all("completed"), all("failed"), all("modelCalls")), (12, 4, 16));
    let with = minutes.iter().find(|minute| minute["completed"] == 6).expect("a minute");
    assert_eq!((&with["modelSeconds"], &with["waitSeconds"]), (&json!(1.5), &json!(0.25)));
    assert_eq!(state["failures"], json!({"AUDIO_NOT_FOUND": 4}));
}

#[tokio::test]
async fn operations_are_for_operators() {
    let api = api_by_secret();
    let mut operator = claims("ops");
    operator["scope"] = json!("longhand:operator");
    for (method, path) in
        [("GET", "/operations"), ("GET", "/operations?x=1"), ("POST", "/operations/redrive")]
    {
        api.call(method, path).await.problem(401, "UNAUTHORIZED");
        api.call_as(&token_by_secret(&claims("ana")), method, path, "").await.problem(403, "OPERATORS_ONLY");
    }
    api.call_as(&token_by_secret(&operator), "GET", "/operations", "").await.json(200);
    let none = api.call_as(&token_by_secret(&operator), "POST", "/operations/redrive", "").await;
    none.problem(404, "NO_DEAD_LETTER_QUEUE");
    api.call_as(&token_by_secret(&operator), "GET", "/operations?x=1", "")
        .await
        .assert_fault("?x", "is unknown");
}

#[tokio::test]
async fn dead_letters_are_listed_and_redriven() {
    let letters = Arc::new(MemoryQueue::new());
    let queue: Arc<dyn ChunkQueue> = letters.clone();
    let api = Api::with(|state| AppState { dead_letters: Some(queue), ..state });
    let job = api.transcribe(&good_body()).await.json(202)["jobId"].clone();
    // One of the job's two messages, and one of another sender.
    let ours = api.queue.receive(1, Duration::ZERO, Duration::from_mins(1)).await.expect("a message");
    let foreign = Outgoing { body: "hello".to_owned(), ..ours[0].rejected("not a chunk message") };
    letters.send(&[ours[0].rejected("tried too often"), foreign]).await;

    let state = api.get("/operations").await.json(200);
    assert_eq!(state["deadLetters"], json!({"visible": 2, "hidden": 0, "messages": []}));
    // Twice: listing hides nothing for long.
    for _ in 0..2 {
        let state = api.get("/operations?deadLetters=true").await.json(200);
        let mut messages = state["deadLetters"]["messages"].as_array().expect("messages").clone();
        messages.sort_by_key(|message| message["jobId"].is_null());
        assert_eq!(messages.len(), 2, "{state}");
        assert_eq!((&messages[0]["jobId"], &messages[0]["reason"]), (&job, &json!("tried too often")));
        assert_eq!(messages[1]["jobId"], Value::Null);
    }
    let waiting = api.queue.depth().await.expect("a depth").visible;
    let done = api.call("POST", "/operations/redrive").await.json(200);
    assert_eq!(done, json!({"redriven": 1, "kept": 1}));
    assert_eq!(api.queue.depth().await.expect("a depth").visible, waiting + 1);
    assert_eq!(letters.depth().await.expect("a depth").visible, 1);
}
