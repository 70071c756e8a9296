//! The current programs read and finish the jobs that 0.1.0 left in the table, the queues and Redis.

use longhand_e2e::eventually;
use longhand_e2e::processes::{Process, free_address, ready};
use longhand_e2e::redis::RedisServer;
use longhand_e2e::service::{LIMITS, Service};
use longhand_e2e::written::Written;
use longhand_shared::store::JobStore;
use longhand_sim_asr::text_for;
use serde_json::{Value, json};

async fn start() -> (Service, Written) {
    let service = Service::start().await;
    let written = Written::restore(&service).await;
    (service, written)
}

/// Asserts that a response has every field of 0.1.0's response with the same value. New fields are allowed. Workers'
/// names are excluded, since they are opaque now.
#[track_caller]
fn holds(new: &Value, old: &Value, place: &str) {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            for (name, old) in old.iter().filter(|(name, _)| *name != "worker") {
                holds(new.get(name).unwrap_or(&Value::Null), old, &format!("{place}/{name}"));
            }
        }
        (Value::Array(new), Value::Array(old)) => {
            assert_eq!(new.len(), old.len(), "{place}");
            for (index, (new, old)) in new.iter().zip(old).enumerate() {
                holds(new, old, &format!("{place}/{index}"));
            }
        }
        _ => assert_eq!(new, old, "{place}"),
    }
}

fn outcomes(chunk: &Value) -> Vec<&str> {
    let history = chunk["history"].as_array().expect("a history");
    history.iter().map(|attempt| attempt["outcome"].as_str().expect("an outcome")).collect()
}

#[tokio::test]
async fn jobs_of_0_1_0_have_the_same_fields_and_values() {
    let (service, written) = start().await;
    for name in written.names() {
        holds(&service.read(written.job(name)).await, written.answer(name), name);
    }
}

#[tokio::test]
async fn searches_have_the_same_pages_and_old_cursors_work() {
    let (service, written) = start().await;
    for search in written.searches() {
        let query = search["query"].as_str().expect("a query");
        for page in search["pages"].as_array().expect("pages") {
            let cursor =
                page["cursor"].as_str().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let (status, found) = service.get(&format!("/transcript/search?{query}&limit=2{cursor}")).await;
            assert_eq!(status, 200, "{found}");
            let found = found["results"].as_array().expect("results").iter();
            let found: Vec<Value> = found.map(|job| job["jobId"].clone()).collect();
            assert_eq!(json!(found), page["jobs"], "{query}{cursor}");
        }
    }
}

#[tokio::test]
async fn a_worker_finishes_the_chunks_that_0_1_0_left() {
    let (service, written) = start().await;
    for name in ["waiting", "stopped", "throttled", "killed"] {
        written.send_chunks(&service.aws, name).await;
    }
    let _worker = service.work(LIMITS);
    for (name, files, history) in [
        ("waiting", &["waiting.wav", "second.wav"][..], &["COMPLETED"][..]),
        ("stopped", &["stopped.wav"], &["DRAINED", "COMPLETED"]),
        ("throttled", &["throttled.wav"], &["THROTTLED", "COMPLETED"]),
        ("killed", &["killed.wav"], &["LOST", "LOST", "COMPLETED"]),
    ] {
        let result = service.ended(written.job(name)).await;
        let text = files.iter().map(|file| text_for(file)).collect::<Vec<_>>().join(" ");
        assert_eq!(result["transcription"], json!(text), "{name}: {result}");
        assert_eq!(outcomes(&result["chunks"][0]), history, "{name}");
        for file in files {
            assert_eq!(service.asr.books().file(file).calls, 1, "{file}");
        }
    }
}

#[tokio::test]
async fn the_failed_chunk_of_a_job_of_0_1_0_is_retried() {
    let (service, written) = start().await;
    let job = written.job("failed");
    assert_eq!(service.read(job).await["jobStatus"], "FAILED");
    let retry = service.http.post(format!("{}/transcript/{job}/retry", service.url)).send().await;
    assert_eq!(retry.expect("an answer").status(), 202);
    let _worker = service.work(LIMITS);
    let result = service.ended(job).await;
    assert_eq!(result["jobStatus"], "COMPLETED", "{result}");
    assert_eq!(result["transcription"], json!(["good.wav", "bad.wav"].map(text_for).join(" ")));
    assert_eq!(service.asr.books().file("good.wav").calls, 0, "it was settled by 0.1.0");
}

#[tokio::test]
async fn the_sweeper_sends_the_lost_messages_of_0_1_0_again() {
    let (service, written) = start().await;
    let job = written.job("lost");
    service.make_due(job).await;
    let _worker = service.work(LIMITS);
    let result = service.ended(job).await;
    assert_eq!(result["transcription"], json!(["lost.wav", "lost-too.wav"].map(text_for).join(" ")));
}

#[tokio::test]
async fn an_undelivered_webhook_of_0_1_0_is_delivered() {
    let (service, written) = start().await;
    let job = written.job("undelivered");
    assert_eq!(service.read(job).await["callback"]["state"], "PENDING");
    written.send_webhooks(&service.aws, "undelivered").await;
    let _worker = service.work_with_webhooks(LIMITS);
    let callback = eventually("the end of the delivery", async || {
        let callback = service.read(job).await["callback"].clone();
        (callback["state"] != "PENDING").then_some(callback)
    })
    .await;
    let before = written.answer("undelivered")["callback"]["tries"].as_u64().expect("a number");
    assert_eq!(callback["state"], "DELIVERED", "{callback}");
    assert_eq!(callback["tries"], json!(before + 1), "{callback}");
    assert_eq!(service.receiver.events(job).len(), 1);
}

#[tokio::test]
async fn an_idempotency_key_of_0_1_0_gives_the_same_job() {
    let (service, written) = start().await;
    // The request names the bucket of the recording.
    let path = format!("s3://{}/third-of-three.wav", written.bucket);
    let listen = free_address();
    let resources = &service.aws.resources;
    let _api = Process::start(
        "longhand-api",
        &[
            ("LONGHAND_LISTEN", listen.clone()),
            ("LONGHAND_TABLE", resources.table.clone()),
            ("LONGHAND_QUEUE_URL", resources.queue_url.clone()),
            ("LONGHAND_AUDIO_BUCKETS", written.bucket.clone()),
        ],
    );
    ready(&format!("http://{listen}/healthz")).await;
    let submit = async |user: &str| {
        let post = service.http.post(format!("http://{listen}/transcribe"));
        let post = post.header("idempotency-key", "key-of-third");
        post.json(&json!({"userId": user, "audioChunkPaths": [path]})).send().await.expect("an answer")
    };
    let again = submit("ana").await;
    assert_eq!((again.status().as_u16(), again.headers().contains_key("idempotency-replayed")), (202, true));
    let again: Value = again.json().await.expect("JSON");
    assert_eq!(again["jobId"], written.job("third"));
    assert!(!submit("bob").await.headers().contains_key("idempotency-replayed"), "another user's key");
}

#[tokio::test]
async fn a_result_that_0_1_0_cached_in_redis_is_served() {
    let redis = RedisServer::start().await;
    let service = Service::start_cached(redis.cache()).await;
    let written = Written::restore(&service).await;
    for (key, value) in &written.redis {
        redis.set(key, value).await;
    }
    // The table alone does not have them.
    let kept: Vec<&str> = written
        .names()
        .filter(|name| written.redis.contains_key(&format!("longhand:v1:result:{}", written.job(name))))
        .collect();
    assert!(kept.contains(&"completed"), "{kept:?}");
    for name in kept {
        let job = written.job(name).parse().expect("a job id");
        assert!(service.aws.store().erase(job).await.expect("an answer"));
        holds(&service.read(written.job(name)).await, written.answer(name), name);
    }
}

#[tokio::test]
async fn a_job_of_0_1_0_is_erased_with_its_upload() {
    let (service, written) = start().await;
    let job = written.job("completed");
    let (bucket, key) =
        written.uploaded().strip_prefix("s3://").and_then(|rest| rest.split_once('/')).expect("an object");
    let there = async || service.aws.s3().head_object().bucket(bucket).key(key).send().await.is_ok();
    assert!(there().await);
    let erase = service.http.delete(format!("{}/transcript/{job}?audio=true", service.url));
    assert_eq!(erase.send().await.expect("an answer").status(), 204);
    assert_eq!(service.get(&format!("/transcript/{job}")).await.0, 404);
    assert!(!there().await, "the upload is gone too");
}
