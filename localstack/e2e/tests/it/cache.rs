//! Results in a real Redis: who writes them, who reads them, and what happens without it.

use longhand_e2e::eventually;
use longhand_e2e::processes::{Process, free_port, ready};
use longhand_e2e::redis::RedisServer;
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::{JobId, Timestamp, lifecycle};
use longhand_sim_asr::Answer;
use reqwest::StatusCode;
use serde_json::json;

fn id(job: &str) -> JobId {
    job.parse().expect("a job id")
}

async fn in_redis(redis: &RedisServer, job: &str) -> bool {
    redis.ask(&format!("EXISTS longhand:v1:result:{job}")).await.as_deref() == Some(":1\r\n")
}

/// Waits for the end in the table, so that it is not a reader who fills the cache.
async fn ended_in_table(service: &Service, job: &str) {
    let store = service.aws.store();
    eventually("the end of the job", async || {
        longhand_shared::store::read(&*store, id(job)).await.expect("read").expect("there").completed_time
    })
    .await;
}

#[tokio::test]
async fn what_the_worker_finished_is_read_without_the_table() {
    let redis = RedisServer::start().await;
    let service = Service::start_cached(redis.cache()).await;
    let paths = service.audio(&["a.wav", "b.wav"]).await;
    let worker = service.work(LIMITS);
    let job = service.submit("ana", &paths).await;
    ended_in_table(&service, &job).await;
    eventually("the result in Redis", async || in_redis(&redis, &job).await.then_some(())).await;
    let ttl = redis.ask(&format!("TTL longhand:v1:result:{job}")).await.expect("an answer");
    let ttl: u32 = ttl.trim_start_matches(':').trim().parse().expect("seconds");
    assert!((1..=300).contains(&ttl), "{ttl}");
    worker.stop().await;

    let from_table = longhand_shared::store::read(&*service.aws.store(), id(&job)).await.expect("read");
    service.calls.reset();
    for _ in 0..10 {
        assert_eq!(service.read(&job).await, json!(from_table));
    }
    assert_eq!(service.calls.counts().len(), 0, "{:?}", service.calls.counts());

    // Others, whose results Redis has lost, are read from the table, once.
    redis.ask("FLUSHALL").await;
    assert_eq!(service.read(&job).await, json!(from_table));
    assert_eq!(service.read(&job).await, json!(from_table));
    assert_eq!((service.calls.of("GetItem"), service.calls.of("BatchGetItem")), (1, 1));
}

#[tokio::test]
async fn the_programs_share_it() {
    let redis = RedisServer::start().await;
    let service = Service::start().await;
    let resources = &service.aws.resources;
    let address = format!("127.0.0.1:{}", free_port());
    let settings = [
        ("LONGHAND_TABLE", resources.table.clone()),
        ("LONGHAND_QUEUE_URL", resources.queue_url.clone()),
        ("LONGHAND_DLQ_URL", resources.dlq_url.clone()),
        ("LONGHAND_AUDIO_BUCKETS", resources.bucket.clone()),
        ("LONGHAND_LISTEN", address.clone()),
        ("LONGHAND_HEALTH_LISTEN", format!("127.0.0.1:{}", free_port())),
        ("ASR_BASE_URL", service.asr.base_url()),
        ("REDIS_URL", redis.url()),
    ];
    let _api = Process::start("longhand-api", &settings);
    let _worker = Process::start("longhand-worker", &settings);
    ready(&format!("http://{address}/readyz")).await;
    let job = service.submit("ana", &service.audio(&["a.wav"]).await).await;
    ended_in_table(&service, &job).await;
    eventually("the result in Redis", async || in_redis(&redis, &job).await.then_some(())).await;
    let read =
        service.http.get(format!("http://{address}/transcript/{job}")).send().await.expect("an answer");
    assert_eq!(read.status(), StatusCode::OK);
    let metrics = service.http.get(format!("http://{address}/metrics")).send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a text");
    assert!(metrics.contains("longhand_cache_total{outcome=\"hit\"} 1"), "{metrics}");
    let subscribed = redis.ask("PUBSUB NUMPAT").await;
    assert_eq!(subscribed.as_deref(), Some(":1\r\n"), "the api listens, once");
}

#[tokio::test]
async fn a_retried_job_is_not_shown_as_it_was() {
    let redis = RedisServer::start().await;
    let service = Service::start_cached(redis.cache()).await;
    service.asr.script("b.wav", [Answer::status(400)]);
    let paths = service.audio(&["a.wav", "b.wav"]).await;
    let job = service.submit("ana", &paths).await;
    let worker = service.work(LIMITS);
    assert_eq!(service.ended(&job).await["jobStatus"], "FAILED");
    assert!(!in_redis(&redis, &job).await, "only what cannot change any more is kept");
    worker.stop().await;
    // By one who knows nothing of Redis, as the command line is.
    let (store, queue) = (service.aws.store(), service.aws.queue());
    lifecycle::retry(&*store, &*queue, id(&job), Timestamp::now()).await.expect("retried");
    assert_eq!(service.read(&job).await["jobStatus"], "IN_PROGRESS");
    let _worker = service.work(LIMITS);
    let answer = service.http.get(format!("{}/transcript/{job}", service.url)).header("prefer", "wait=25");
    let answer: serde_json::Value = answer.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer["jobStatus"], "COMPLETED");
}

#[tokio::test]
async fn an_erased_job_stays_forgotten() {
    let mut redis = RedisServer::start().await;
    let service = Service::start_cached(redis.cache()).await;
    let job = service.submit("ana", &service.audio(&["a.wav"]).await).await;
    let _worker = service.work(LIMITS);
    service.ended(&job).await;
    let (here, elsewhere) = (redis.cache(), redis.cache());
    let result = eventually("the result in Redis", async || elsewhere.get(id(&job)).await).await;
    here.erased(id(&job)).await;
    assert_eq!(elsewhere.get(id(&job)).await, None);
    // A worker, or a reader, that was slow.
    elsewhere.put(&result).await;
    assert_eq!(elsewhere.get(id(&job)).await, None);

    // Redis is not there when the job is erased, and a slow worker comes first when it is back.
    redis.kill().await;
    here.erased(id(&job)).await;
    redis.start_again().await;
    elsewhere.put(&result).await;
    eventually("the mark", async || {
        let length = redis.ask(&format!("STRLEN longhand:v1:result:{job}")).await;
        let there = in_redis(&redis, &job).await;
        (there && length.as_deref() == Some(":0\r\n")).then_some(())
    })
    .await;
    assert_eq!(redis.cache().get(id(&job)).await, None);
}

#[tokio::test]
async fn no_client_sees_that_redis_stops() {
    let mut redis = RedisServer::start().await;
    let service = Service::start_cached(redis.cache()).await;
    let paths = service.audio(&["a.wav", "b.wav"]).await;
    let _worker = service.work(LIMITS);
    let done = service.submit("ana", &paths).await;
    let expected = service.ended(&done).await;
    let round = async |what: &str| {
        for _ in 0..5 {
            assert_eq!(service.read(&done).await, expected, "{what}");
        }
        let body = json!({"userId": "ana", "audioChunkPaths": paths});
        let submit = service.http.post(format!("{}/transcribe", service.url)).header("prefer", "wait=25");
        let answer = submit.json(&body).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{what}");
    };
    let readiness = async |status: &str, missing: serde_json::Value| {
        eventually(status, async || {
            let (code, answer) = service.get("/readyz").await;
            assert_eq!(code, StatusCode::OK);
            (answer == json!({"status": status, "missing": missing})).then_some(())
        })
        .await;
    };
    round("all is well").await;
    readiness("ready", json!([])).await;
    redis.signal("STOP").await;
    round("it hangs").await;
    readiness("degraded", json!(["redis"])).await;
    redis.signal("CONT").await;
    round("it goes on").await;
    redis.kill().await;
    round("it is gone").await;
    readiness("degraded", json!(["redis"])).await;
    redis.start_again().await;
    readiness("ready", json!([])).await;
    round("it is back").await;
    eventually("the cache is used again", async || {
        service.read(&done).await;
        in_redis(&redis, &done).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn waits_and_streams_outlive_redis() {
    let mut redis = RedisServer::start().await;
    let service = Service::start_cached(redis.cache()).await;
    let job = service.submit("ana", &service.audio(&["a.wav", "b.wav"]).await).await;
    let get = |path: &str| service.http.get(format!("{}/transcript/{job}{path}", service.url));
    let waits: Vec<_> = (0..5).map(|_| tokio::spawn(get("").header("prefer", "wait=25").send())).collect();
    let stream = get("/events").send().await.expect("an answer");
    assert_eq!(stream.status(), StatusCode::OK);
    eventually("a subscription", async || {
        redis.ask("PUBSUB NUMPAT").await.filter(|answer| answer == ":1\r\n")
    })
    .await;
    redis.signal("STOP").await;
    redis.kill().await;
    let _worker = service.work(LIMITS);
    for wait in waits {
        let answer = wait.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let result: serde_json::Value = answer.json().await.expect("JSON");
        assert_eq!(result["jobStatus"], "COMPLETED");
    }
    let events = stream.text().await.expect("it is closed at the end of the job");
    assert!(events.contains("event: job\ndata: {\"jobId\":"), "{events}");
    assert!(events.contains("\"jobStatus\":\"COMPLETED\""), "{events}");
}
