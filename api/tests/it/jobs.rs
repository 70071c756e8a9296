//! Submitting and reading, when all is well.

use std::time::Duration;

use axum::http::Request;
use longhand_shared::domain::id::ChunkRef;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::{ChunkError, ErrorCode, Transcription, Verdict};
use longhand_shared::queue::{ChunkMessage, ChunkQueue};
use longhand_shared::store::JobStore;
use longhand_shared::{Attempt, Claimant, JobId, Timestamp};
use serde_json::{Value, json};

use crate::support::{Answer, Api, body_with, good_body};

const BY: Claimant<'_> =
    Claimant { origin: "message", message: "message", generation: 0, redelivered: false, worker: "w" };

pub(crate) fn job_id(accepted: &Value) -> JobId {
    accepted["jobId"].as_str().expect("text").parse().expect("a job id")
}

pub(crate) fn chunk(job: JobId, index: u64) -> ChunkRef {
    ChunkRef { job, index: index.try_into().expect("an index") }
}

pub(crate) async fn settle(api: &Api, chunk: ChunkRef, verdict: Verdict) {
    let now = Timestamp::now();
    let settled = api.lifecycle().settle(chunk, &Attempt::number(0), &verdict, now).await;
    settled.expect("a store in memory");
}

pub(crate) fn words(text: &str) -> Verdict {
    Verdict::Completed(Transcription::new(text, Some(1.5), vec![]).expect("small"))
}

/// The status and attempts of each chunk.
fn chunks(result: &Value) -> Vec<String> {
    let chunks = result["chunks"].as_array().expect("chunks").iter();
    chunks
        .map(|chunk| format!("{} {}", chunk["chunkStatus"].as_str().expect("text"), chunk["attempts"]))
        .collect()
}

#[tokio::test]
async fn a_job_is_accepted() {
    let api = Api::new();
    let before = Timestamp::now();
    let answer = api.transcribe(&good_body()).await;
    let accepted = answer.json(202);
    let id = job_id(&accepted);
    assert!(answer.text().starts_with(&format!("{{\"jobId\":\"{id}\"")), "{}", answer.text());
    assert_eq!(answer.header("location"), format!("/transcript/{id}"));
    let submitted: Timestamp = accepted["submittedTime"].as_str().expect("text").parse().expect("a time");
    assert!(submitted >= before && submitted <= Timestamp::now());
    let expected = json!({
        "jobId": id.to_string(),
        "jobStatus": "IN_PROGRESS",
        "userId": "ana",
        "submittedTime": submitted.to_string(),
        "chunkCount": 2,
    });
    assert_eq!(accepted, expected);

    let messages =
        api.queue.receive(10, Duration::ZERO, Duration::from_secs(30)).await.expect("a queue in memory");
    let sent: Vec<_> = messages
        .iter()
        .map(|message| {
            assert_eq!(message.envelope.traceparent, None);
            let message = ChunkMessage::parse(&message.body).expect("ours");
            (message.chunk(), message.path().to_string())
        })
        .collect();
    assert_eq!(sent, [(chunk(id, 0), "s3://audio/a.wav".to_owned()), (chunk(id, 1), "a.wav".to_owned())]);

    let read = api.get(answer.header("location")).await.json(200);
    let chunk = |index: u32, path: &str| json!({"index": index, "audioChunkPath": path, "chunkStatus": "PENDING", "attempts": 0});
    let expected = json!({
        "jobId": id.to_string(),
        "userId": "ana",
        "jobStatus": "IN_PROGRESS",
        "submittedTime": submitted.to_string(),
        "completedTime": null,
        "transcription": null,
        "partial": true,
        "chunks": [chunk(0, "s3://audio/a.wav"), chunk(1, "a.wav")],
    });
    assert_eq!(read, expected);
}

#[tokio::test]
async fn options_and_trace_reach_the_workers_and_metadata_comes_back() {
    let api = Api::new();
    let mut body = good_body();
    body["language"] = json!("pt-BR");
    body["prompt"] = json!("Longhand, Ana");
    body["timestamps"] = json!("word");
    body["translate"] = json!(true);
    body["startOffset"] = json!(12.5);
    body["metadata"] = json!({"order": "7", "note": "é", "empty": ""});
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = Request::post("/transcribe").header("traceparent", trace).body(body.to_string().into());
    let answer = api.send(request.expect("a request")).await;
    answer.json(202);
    for message in
        api.queue.receive(10, Duration::ZERO, Duration::from_secs(30)).await.expect("a queue in memory")
    {
        assert_eq!(message.envelope.traceparent.as_deref(), Some(trace));
        assert_eq!(message.group.as_deref(), Some("ana"));
        let message = ChunkMessage::parse(&message.body).expect("ours");
        let options =
            json!({"language": "pt-BR", "prompt": "Longhand, Ana", "timestamps": "word", "translate": true});
        assert_eq!(json!(message.options()), options);
    }
    let read = api.get(answer.header("location")).await.json(200);
    assert_eq!((&read["metadata"], &read["startOffset"]), (&body["metadata"], &body["startOffset"]));
}

#[tokio::test]
async fn one_and_24_chunks_and_the_largest_good_body() {
    let api = Api::new();
    for count in [1, MAX_CHUNKS] {
        let paths: Vec<String> = (0..count).map(|i| format!("s3://audio/{i:0>1013}")).collect();
        let mut body = body_with("audioChunkPaths", json!(paths));
        body["userId"] = json!("u".repeat(128));
        body["prompt"] = json!("p".repeat(1000));
        let pair = |i: u32| (format!("{i:0>512}"), json!("v".repeat(512)));
        body["metadata"] = (0..16).map(pair).collect::<serde_json::Map<_, _>>().into();
        let answer = api.transcribe(&body).await;
        assert_eq!(answer.json(202)["chunkCount"], count);
        let read = api.get(answer.header("location")).await.json(200);
        let read: Vec<_> = read["chunks"].as_array().expect("chunks").iter().collect();
        assert_eq!(read.len(), count);
        assert!(read.iter().zip(&paths).all(|(chunk, path)| chunk["audioChunkPath"] == **path));
    }
}

#[tokio::test]
async fn null_is_the_same_as_absent_for_optional_fields() {
    let mut body = good_body();
    for name in ["language", "prompt", "timestamps", "translate", "startOffset", "metadata"] {
        body[name] = Value::Null;
    }
    Api::new().transcribe(&body).await.json(202);
}

#[tokio::test]
async fn reading_while_the_chunks_move() {
    let api = Api::new();
    let paths = json!(["s3://audio/0", "s3://audio/1", "s3://audio/2"]);
    let answer = api.transcribe(&body_with("audioChunkPaths", paths)).await;
    let id = job_id(&answer.json(202));
    let read = async || -> Answer { api.get(&format!("/transcript/{id}")).await };
    let lease = Duration::from_secs(30);

    api.store.claim(chunk(id, 2), BY, Timestamp::now(), lease).await.expect("a store in memory");
    let result = read().await.json(200);
    assert_eq!(chunks(&result), ["PENDING 0", "PENDING 0", "IN_PROGRESS 1"]);
    assert_eq!((&result["transcription"], &result["partial"]), (&Value::Null, &json!(true)));

    settle(&api, chunk(id, 2), words("and the end.")).await;
    api.store.claim(chunk(id, 0), BY, Timestamp::now(), lease).await.expect("a store in memory");
    let result = read().await.json(200);
    assert_eq!(chunks(&result), ["IN_PROGRESS 1", "PENDING 0", "COMPLETED 1"]);
    assert_eq!(result["jobStatus"], "IN_PROGRESS");
    assert_eq!(result["transcription"], "[chunk 0 pending] [chunk 1 pending] and the end.");
    assert_eq!(result["chunks"][2]["durationSeconds"], 1.5);
    assert!(result["chunks"][2]["completedTime"].is_string());

    settle(&api, chunk(id, 0), words("The beginning,")).await;
    settle(&api, chunk(id, 1), words("the middle")).await;
    let result = read().await.json(200);
    assert_eq!(result["jobStatus"], "COMPLETED");
    assert_eq!(result["transcription"], "The beginning, the middle and the end.");
    assert_eq!(result["partial"], false);
    assert!(result["completedTime"].is_string());
    // An id is one job in either spelling.
    let upper = api.get(&format!("/transcript/{}", id.to_string().to_uppercase())).await.json(200);
    assert_eq!(upper, result);
}

#[tokio::test]
async fn a_failed_chunk_gives_its_reason_and_the_rest_of_the_text() {
    let api = Api::new();
    let accepted = api.transcribe(&good_body()).await.json(202);
    let id = job_id(&accepted);
    settle(&api, chunk(id, 0), words("Kept.")).await;
    let error = ChunkError::new(ErrorCode::AudioNotFound, "there is no a.wav");
    settle(&api, chunk(id, 1), Verdict::Failed(error)).await;
    let result = api.get(&format!("/transcript/{id}")).await.json(200);
    assert_eq!(result["jobStatus"], "FAILED");
    assert_eq!(result["transcription"], "Kept. [chunk 1 failed]");
    assert_eq!(result["partial"], true);
    let error = json!({"code": "AUDIO_NOT_FOUND", "message": "there is no a.wav"});
    assert_eq!(result["chunks"][1]["error"], error);

    let found = api.get("/transcript/search?userId=ana&jobStatus=FAILED").await.json(200);
    assert_eq!(found, json!({"results": [result], "nextCursor": null}));
    let open = api.get("/transcript/search?userId=ana&jobStatus=IN_PROGRESS").await.json(200);
    assert_eq!(open["results"], json!([]));
}
