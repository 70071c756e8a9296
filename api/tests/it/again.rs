//! Asking again: idempotency keys, another try for what failed, and erasing.

use axum::http::Request;
use longhand_shared::domain::id::ChunkRef;
use longhand_shared::domain::job::{ChunkError, ErrorCode, Transcription, Verdict};
use longhand_shared::queue::ChunkQueue;
use longhand_shared::{Attempt, Timestamp};
use serde_json::{Value, json};

use crate::support::{Answer, Api, body_with, good_body};

const UNKNOWN: &str = "0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b";

async fn with_key(api: &Api, key: &str, body: &Value) -> Answer {
    let request = Request::post("/transcribe").header("content-type", "application/json");
    let request = request.header("Idempotency-Key", key).body(body.to_string().into());
    api.send(request.expect("a request")).await
}

async fn waiting(api: &Api) -> u64 {
    api.queue.depth().await.expect("memory").visible
}

/// Settles each chunk of a job: failed where it says so.
async fn settle(api: &Api, job: &str, failed: &[bool]) {
    for (index, failed) in (0..).zip(failed) {
        let index: u64 = index;
        let chunk = ChunkRef { job: job.parse().expect("an id"), index: index.try_into().expect("an index") };
        let verdict = if *failed {
            Verdict::Failed(ChunkError::new(ErrorCode::AsrUnavailable, "down"))
        } else {
            Verdict::Completed(Transcription::new(format!("part {index}"), None, vec![]).expect("small"))
        };
        let (attempt, now) = (Attempt::number(0), Timestamp::now());
        api.lifecycle().settle(chunk, &attempt, &verdict, now).await.expect("memory");
    }
}

async fn job(api: &Api) -> String {
    api.transcribe(&good_body()).await.json(202)["jobId"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn the_same_request_under_a_key_is_one_job() {
    let api = Api::new();
    let first = with_key(&api, "\"key-1\"", &good_body()).await;
    assert_eq!(first.header("idempotency-replayed"), "");
    let sent = waiting(&api).await;
    // Written in another way, it is the same request.
    let mut again = body_with("metadata", json!({}));
    again["userId"] = json!("ana");
    for body in [good_body(), again] {
        let replayed = with_key(&api, "key-1", &body).await;
        assert_eq!(replayed.json(202), first.json(202));
        assert_eq!(replayed.header("idempotency-replayed"), "true");
        assert_eq!(replayed.header("location"), first.header("location"));
    }
    assert_eq!(waiting(&api).await, sent, "nothing is sent again");

    let other = with_key(&api, "key-1", &body_with("language", json!("en"))).await;
    other.problem(422, "IDEMPOTENCY_KEY_REUSED");
    let others = with_key(&api, "key-1", &body_with("userId", json!("bob"))).await;
    assert_ne!(others.json(202)["jobId"], first.json(202)["jobId"], "a key is its user's");
    let next = with_key(&api, "key-2", &good_body()).await;
    assert_ne!(next.json(202)["jobId"], first.json(202)["jobId"]);
}

#[tokio::test]
async fn an_invalid_key_is_refused() {
    let api = Api::new();
    for bad in ["", "a b", &"x".repeat(256)] {
        let answer = with_key(&api, bad, &good_body()).await;
        answer.assert_fault("Idempotency-Key", "must be 1 to 255 visible ASCII characters");
    }
    assert_eq!(waiting(&api).await, 0);
}

#[tokio::test]
async fn only_failed_chunks_are_retried() {
    let api = Api::new();
    let id = job(&api).await;
    let retry = format!("/transcript/{id}/retry");
    api.call("POST", &retry).await.problem(409, "JOB_IN_PROGRESS");
    settle(&api, &id, &[false, true]).await;
    let before = waiting(&api).await;
    let open = api.call("POST", &retry).await.json(202);
    assert_eq!(
        (&open["jobStatus"], &open["transcription"]),
        (&json!("IN_PROGRESS"), &json!("part 0 [chunk 1 pending]"))
    );
    assert_eq!(waiting(&api).await, before + 1);
    api.call("POST", &retry).await.problem(409, "JOB_IN_PROGRESS");

    let good = job(&api).await;
    settle(&api, &good, &[false, false]).await;
    api.call("POST", &format!("/transcript/{good}/retry")).await.problem(409, "NOTHING_FAILED");
    api.call("POST", &format!("/transcript/{UNKNOWN}/retry")).await.problem(404, "JOB_NOT_FOUND");
    api.call("POST", "/transcript/x/retry").await.problem(400, "INVALID_JOB_ID");
}

#[tokio::test]
async fn a_read_during_a_retry_finds_the_job() {
    let api = Api::new();
    let id = job(&api).await;
    let path = format!("/transcript/{id}");
    let retries = async {
        settle(&api, &id, &[false, true]).await;
        let chunk = ChunkRef { job: id.parse().expect("an id"), index: 1.try_into().expect("an index") };
        let failed = Verdict::Failed(ChunkError::new(ErrorCode::AsrUnavailable, "down"));
        for round in 1..=50 {
            api.call("POST", &format!("{path}/retry")).await.json(202);
            let (attempt, now) = (Attempt::number(round), Timestamp::now());
            api.lifecycle().settle(chunk, &attempt, &failed, now).await.expect("memory");
        }
    };
    // The store in memory gives way before each step, so the reads fall between all steps of a retry.
    let reads = async {
        loop {
            for path in [&path, "/transcript/search?userId=ana"] {
                let answer = api.get(path).await.json(200);
                let result = if path.contains("search") { &answer["results"][0] } else { &answer };
                assert_eq!(result["jobId"], id, "{answer}");
            }
        }
    };
    tokio::select! {
        () = retries => {}
        () = reads => {}
    }
}

#[tokio::test]
async fn an_erased_job_is_gone_and_so_is_its_key() {
    let api = Api::new();
    let first = with_key(&api, "key-1", &good_body()).await.json(202);
    let path = format!("/transcript/{}", first["jobId"].as_str().expect("an id"));
    let erased = api.call("DELETE", &path).await;
    assert_eq!((erased.status.as_u16(), erased.text()), (204, ""));
    api.get(&path).await.problem(404, "JOB_NOT_FOUND");
    api.call("DELETE", &path).await.problem(404, "JOB_NOT_FOUND");
    let later = with_key(&api, "key-1", &good_body()).await;
    assert_ne!(later.json(202)["jobId"], first["jobId"]);
}
