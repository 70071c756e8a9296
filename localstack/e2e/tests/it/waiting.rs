//! Requests that wait for a job, and event streams.

use longhand_e2e::eventually;
use longhand_e2e::gateway::ApiMode;
use longhand_e2e::redis::RedisServer;
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::domain::job::{Transcription, Verdict};
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::{Attempt, ChunkRef, JobId, Timestamp};
use longhand_sim_asr::{Behaviour, Latency, text_for};
use reqwest::StatusCode;
use serde_json::{Value, json};

in_each_mode! {
    a_submit_with_a_wait_returns_the_result
    a_gateway_refuses_streams_and_supports_waits
}

async fn a_submit_with_a_wait_returns_the_result(mode: ApiMode) {
    let service = Service::start_in(mode).await;
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

/// A server supports event streams. API Gateway does not: the api refuses them at once. Both support many concurrent
/// waits.
async fn a_gateway_refuses_streams_and_supports_waits(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    let job = service.submit("ana", &service.audio(&["a.wav"]).await).await;
    let get = |path: &str| service.http.get(format!("{}/transcript/{job}{path}", service.url));
    if mode == ApiMode::Gateway {
        let (status, refused) = service.get(&format!("/transcript/{job}/events")).await;
        assert_eq!((status, &refused["code"]), (StatusCode::NOT_ACCEPTABLE, &json!("STREAMS_NOT_SUPPORTED")));
        assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("wait=25")), "{refused}");
    } else {
        let stream = get("/events").send().await.expect("an answer");
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
    }
    let waits: Vec<_> = (0..12).map(|_| tokio::spawn(get("").header("prefer", "wait=60").send())).collect();
    // Other requests are served meanwhile.
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
async fn a_change_in_redis_ends_a_wait() {
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
    eventually("the first read", async || (service.calls.of("GetItem") == 1).then_some(())).await;
    service.calls.reset();

    // Another process, with connections of its own, ends the job.
    let lifecycle = Lifecycle::new(service.aws.store(), service.aws.queue()).with_cache(redis.cache());
    let job_id: JobId = job.parse().expect("a job id");
    let words = Verdict::Completed(Transcription::new("hello", None, vec![]).expect("small"));
    for index in 0..2_u64 {
        let chunk = ChunkRef { job: job_id, index: index.try_into().expect("small") };
        let settled = lifecycle.settle(chunk, &Attempt::number(0), &words, Timestamp::now()).await;
        settled.expect("settled");
    }
    let answer = waiting.await.expect("no panic").expect("an answer");
    let result: Value = answer.json().await.expect("JSON");
    assert_eq!(result["transcription"], "hello hello");
    // Neither a poll of the job's item nor a read of its result.
    assert_eq!((service.calls.of("GetItem"), service.calls.of("BatchGetItem")), (0, 0));
}

#[tokio::test]
async fn a_stream_shows_the_workers_progress() {
    let redis = RedisServer::start().await;
    for cache in [redis.cache(), longhand_shared::cache::Cache::local()] {
        let service = Service::start_cached(cache).await;
        let paths = service.audio(&["a.wav", "b.wav", "c.wav"]).await;
        let job = service.submit("ana", &paths).await;
        let stream = service.http.get(format!("{}/transcript/{job}/events", service.url)).send();
        let stream = stream.await.expect("an answer");
        let _worker = service.work(LIMITS);
        let events = stream.text().await.expect("the stream ends with the job");
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
