//! The examples of the description. Tests send them to the router and parse them as the types of answers.

use serde_json::{Value, json};

pub(crate) const JOB: &str = "01a20607-e751-70db-85cd-062fea803fda";

/// Where the recordings of the examples are in the committed description. A running service replaces it with a place
/// of its own.
pub(crate) const SAMPLES: &str = "s3://audio/samples/";

/// The recordings of the job in the examples.
const FILES: [&str; 2] = ["lv_0870.wav", "lv_0880.wav"];

fn path(index: usize) -> String {
    format!("{SAMPLES}{}", FILES[index])
}

pub(crate) fn new_job() -> Value {
    json!({
        "userId": "ana",
        "language": "en",
        "audioChunkPaths": [path(0), path(1)],
        "metadata": {"title": "Sense and Sensibility"},
    })
}

pub(crate) fn accepted() -> Value {
    json!({
        "jobId": JOB,
        "jobStatus": "IN_PROGRESS",
        "userId": "ana",
        "submittedTime": "2026-11-23T01:31:50.993Z",
        "chunkCount": 2,
    })
}

pub(crate) fn result() -> Value {
    let chunk = |index: usize, seconds: f64, completed: &str| {
        json!({
            "index": index,
            "audioChunkPath": path(index),
            "chunkStatus": "COMPLETED",
            "attempts": 1,
            "history": [{
                "startedTime": "2026-11-23T01:31:51.210Z",
                "worker": "worker-1",
                "outcome": "COMPLETED",
                "seconds": 1.7,
                "asrCalls": 1,
            }],
            "completedTime": completed,
            "durationSeconds": seconds,
        })
    };
    json!({
        "jobId": JOB,
        "userId": "ana",
        "jobStatus": "COMPLETED",
        "submittedTime": "2026-11-23T01:31:50.993Z",
        "completedTime": "2026-11-23T01:31:53.090Z",
        "transcription": "And Mr. John Dashwood had then leisure to consider how much there might be prudently in \
            his power to do for them. He was not an ill-disposed young man.",
        "partial": false,
        "metadata": {"title": "Sense and Sensibility"},
        "chunks": [
            chunk(0, 7.1, "2026-11-23T01:31:53.090Z"),
            chunk(1, 2.99, "2026-11-23T01:31:52.916Z"),
        ],
    })
}

/// The job after a retry of its second chunk.
pub(crate) fn retried() -> Value {
    let mut result = result();
    result["jobStatus"] = json!("IN_PROGRESS");
    result["completedTime"] = Value::Null;
    result["transcription"] = json!(
        "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do \
         for them. [chunk 1 pending]"
    );
    result["partial"] = json!(true);
    result["chunks"][1] = json!({
        "index": 1, "audioChunkPath": path(1), "chunkStatus": "PENDING", "attempts": 0,
    });
    result
}

pub(crate) fn page() -> Value {
    json!({"results": [result()], "nextCursor": null})
}

pub(crate) fn new_uploads() -> Value {
    json!({"userId": "ana", "files": [{"name": "part1.wav", "contentType": "audio/wav", "bytes": 95724}]})
}

pub(crate) fn uploads() -> Value {
    let path = "uploads/ana/01a2066e-b4ab-7592-8eea-8bac81bede1f/part1.wav";
    json!({"uploads": [{
        "audioChunkPath": format!("s3://audio/{path}"),
        "url": format!("https://audio.s3.eu-central-1.amazonaws.com/{path}?x-id=PutObject&X-Amz-Expires=900"),
        "method": "PUT",
        "headers": {"content-length": "95724", "content-type": "audio/wav"},
        "expiresTime": "2026-11-23T03:39:08.235Z",
    }]})
}
