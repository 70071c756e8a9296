//! One call that waits for a job, and streams that follow it.

use longhand_e2e::eventually;
use longhand_e2e::gateway::Door;
use longhand_e2e::redis::RedisServer;
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::cache::observed::ObservedStore;
use longhand_shared::job::{Transcription, Verdict};
use longhand_shared::{Attempt, ChunkRef, JobId, Timestamp, lifecycle};
use longhand_sim_asr::{Behaviour, Latency, text_for};
use reqwest::StatusCode;
use serde_json::{Value, json};

through_each_door! {
    six_chunks_of_five_seconds_are_one_call
    what_a_wait_is_and_what_a_stream_is
}

async fn six_chunks_of_five_seconds_are_one_call(door: Door) {
    let service = Service::through(door).await;
    service.asr.set(Behaviour::taking(Latency::Fixed(5000)));
    let names = ["0.wav", "1.wav", "2.wav", "3.wav", "4.wav", "5.wav"];
    let paths = service.audio(&names).await;
    let _worker = service.work(LIMITS);
    let request = service.http.post(format!("{}/transcribe", service.url)).header("prefer", "wait=15");
    let answer = request.json(&json!({"userId": "ana", "audioChunkPaths": paths})).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["preference-applied"], "wait=15");
    let result: Value = answer.json().await.expect("JSON");
    let expected: Vec<String> = names.iter().map(|name| text_for(name)).collect();
    assert_eq!(
        (&result["jobStatus"], &result["transcription"]),
        (&json!("COMPLETED"), &json!(expected.join(" ")))
    );
}

/// A server streams. Through API Gateway nothing does: that is said at once, and a wait does instead, many of them at
/// the same time too.
async fn what_a_wait_is_and_what_a_stream_is(door: Door) {
    let service = Service::through(door).await;
    let job = service.submit("ana", &service.audio(&["a.wav"]).await).await;
    let get = |path: &str| service.http.get(format!("{}/transcript/{job}{path}", service.url));
    if door == Door::Gateway {
        let (status, refused) = service.get(&format!("/transcript/{job}/events")).await;
        assert_eq!(
            (status, &refused["code"]),
            (StatusCode::NOT_IMPLEMENTED, &json!("STREAMS_NOT_SUPPORTED"))
        );
        assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("wait=25")), "{refused}");
    } else {
        let stream = get("/events").send().await.expect("an answer");
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
    }
    let waits: Vec<_> = (0..12).map(|_| tokio::spawn(get("").header("prefer", "wait=60").send())).collect();
    // Meanwhile others are answered.
    assert_eq!(service.read(&job).await["jobStatus"], "IN_PROGRESS");
    let _worker = service.work(LIMITS);
    for wait in waits {
        let answer = wait.await.expect("no panic").expect("an answer");
        assert_eq!(
            (answer.status(), &answer.headers()["preference-applied"]),
            (StatusCode::OK, &"wait=25".parse().expect("a value"))
        );
        let result: Value = answer.json().await.expect("JSON");
        assert_eq!(result["transcription"], text_for("a.wav"));
    }
}

#[tokio::test]
async fn redis_wakes_who_waits() {
    let redis = RedisServer::start().await;
    let service = Service::start_cached(redis.cache()).await;
    let job = service.submit("ana", &service.audio(&["a.wav", "b.wav"]).await).await;
    eventually("a subscription", async || {
        redis.ask("PUBSUB NUMPAT").await.filter(|answer| answer == ":1\r\n")
    })
    .await;
    let get = |path: &str| service.http.get(format!("{}/transcript/{job}{path}", service.url));
    service.calls.reset();
    let waiting = tokio::spawn(get("").header("prefer", "wait=25").send());
    eventually("the first look", async || (service.calls.of("BatchGetItem") == 1).then_some(())).await;
    service.calls.reset();

    // Another process, with connections of its own, ends the job.
    let store = ObservedStore::new(service.aws.store(), redis.cache());
    let job_id: JobId = job.parse().expect("a job id");
    let words = Verdict::Completed(Transcription::new("hello", None, vec![]).expect("small"));
    for index in 0..2_u64 {
        let chunk = ChunkRef { job: job_id, index: index.try_into().expect("small") };
        let settled = lifecycle::settle(&store, chunk, &Attempt::number(0), &words, Timestamp::now()).await;
        settled.expect("settled");
    }
    let answer = waiting.await.expect("no panic").expect("an answer");
    let result: Value = answer.json().await.expect("JSON");
    assert_eq!(result["transcription"], "hello hello");
    // A poll would have read the job's item, and the table would have been asked for the result.
    assert_eq!((service.calls.of("GetItem"), service.calls.of("BatchGetItem")), (0, 0));
}

#[tokio::test]
async fn a_stream_tells_what_the_workers_do() {
    let redis = RedisServer::start().await;
    for cache in [redis.cache(), longhand_shared::cache::Cache::local()] {
        let service = Service::start_cached(cache).await;
        let paths = service.audio(&["a.wav", "b.wav", "c.wav"]).await;
        let job = service.submit("ana", &paths).await;
        let stream = service.http.get(format!("{}/transcript/{job}/events", service.url)).send();
        let stream = stream.await.expect("an answer");
        let _worker = service.work(LIMITS);
        let events = stream.text().await.expect("it ends with the job");
        let data: Vec<Value> = events
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).expect("JSON"))
            .collect();
        assert_eq!(data[0]["jobStatus"], "IN_PROGRESS", "{events}");
        for index in 0..3 {
            let of_chunk: Vec<_> = data.iter().filter(|data| data["index"] == index).collect();
            assert_eq!(of_chunk.first().expect("a first")["chunkStatus"], "PENDING", "{events}");
            assert_eq!(of_chunk.last().expect("a last")["chunkStatus"], "COMPLETED", "{events}");
        }
        assert_eq!(data.last(), Some(&service.read(&job).await));
    }
}
