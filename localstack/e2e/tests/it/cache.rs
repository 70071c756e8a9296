//! Results cached in Redis: writes, reads, and outages of Redis.

use std::sync::{Arc, Mutex};

use longhand_e2e::eventually;
use longhand_e2e::processes::{Process, free_address, ready};
use longhand_e2e::redis::RedisServer;
use longhand_e2e::relay::Relay;
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::cache::remote::{Notification, Redis};
use longhand_shared::cache::{Cache, Change};
use longhand_shared::domain::job::{Metadata, NewJob, TranscribeOptions, Transcription, Verdict};
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::store::JobStore;
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::{Attempt, ChunkRef, JobId, Timestamp};
use longhand_sim_asr::Answer;
use reqwest::StatusCode;
use serde_json::json;

fn id(job: &str) -> JobId {
    job.parse().expect("a job id")
}

async fn in_redis(redis: &RedisServer, job: &str) -> bool {
    redis.ask(&format!("EXISTS longhand:v1:result:{job}")).await.as_deref() == Some(":1\r\n")
}

/// Waits for the job's end in the table, so that no read through the api fills the cache.
async fn ended_in_table(service: &Service, job: &str) {
    let store = service.aws.store();
    eventually("the end of the job", async || {
        longhand_shared::store::read(&*store, id(job)).await.expect("read").expect("there").completed_time
    })
    .await;
}

#[tokio::test]
async fn a_cached_result_is_read_without_the_table() {
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

    // After Redis lost the result, it is read from the table once.
    redis.ask("FLUSHALL").await;
    assert_eq!(service.read(&job).await, json!(from_table));
    assert_eq!(service.read(&job).await, json!(from_table));
    assert_eq!((service.calls.of("GetItem"), service.calls.of("BatchGetItem")), (1, 1));
}

#[tokio::test]
async fn the_api_reads_results_that_the_worker_cached() {
    let redis = RedisServer::start().await;
    let service = Service::start().await;
    let resources = &service.aws.resources;
    let address = free_address();
    let settings = [
        ("LONGHAND_TABLE", resources.table.clone()),
        ("LONGHAND_QUEUE_URL", resources.queue_url.clone()),
        ("LONGHAND_DLQ_URL", resources.dlq_url.clone()),
        ("LONGHAND_AUDIO_BUCKETS", resources.bucket.clone()),
        ("LONGHAND_LISTEN", address.clone()),
        ("LONGHAND_HEALTH_LISTEN", free_address()),
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
    assert_eq!(subscribed.as_deref(), Some(":1\r\n"), "the api has one subscription");
}

#[tokio::test]
async fn a_retried_job_is_not_served_from_the_cache() {
    let redis = RedisServer::start().await;
    let service = Service::start_cached(redis.cache()).await;
    service.asr.script("b.wav", [400, 400].map(Answer::status));
    let paths = service.audio(&["a.wav", "b.wav"]).await;
    let job = service.submit("ana", &paths).await;
    let worker = service.work(LIMITS);
    assert_eq!(service.ended(&job).await["jobStatus"], "FAILED");
    assert!(!in_redis(&redis, &job).await, "only final results are cached");
    worker.stop().await;
    // A process without Redis, such as the CLI, retries the job.
    let lifecycle = Lifecycle::new(service.aws.store(), service.aws.queue());
    lifecycle.retry(id(&job), Timestamp::now()).await.expect("retried");
    assert_eq!(service.read(&job).await["jobStatus"], "IN_PROGRESS");
    let _worker = service.work(LIMITS);
    let answer = service.http.get(format!("{}/transcript/{job}", service.url)).header("prefer", "wait=25");
    let answer: serde_json::Value = answer.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer["jobStatus"], "COMPLETED");
}

#[tokio::test]
async fn an_erased_job_is_not_cached_again() {
    let mut redis = RedisServer::start().await;
    let service = Service::start_cached(redis.cache()).await;
    let job = service.submit("ana", &service.audio(&["a.wav"]).await).await;
    let _worker = service.work(LIMITS);
    service.ended(&job).await;
    let (here, elsewhere) = (redis.cache(), redis.cache());
    let result = eventually("the result in Redis", async || elsewhere.get(id(&job)).await).await;
    here.erased(id(&job)).await;
    assert_eq!(elsewhere.get(id(&job)).await, None);
    // A late write by a worker or a reader.
    elsewhere.put(&result).await;
    assert_eq!(elsewhere.get(id(&job)).await, None);

    // Redis is down when the job is erased, and a late write is the first after its restart.
    redis.kill().await;
    here.erased(id(&job)).await;
    redis.start_again().await;
    elsewhere.put(&result).await;
    eventually("the mark of erasure", async || {
        let length = redis.ask(&format!("STRLEN longhand:v1:result:{job}")).await;
        let there = in_redis(&redis, &job).await;
        (there && length.as_deref() == Some(":0\r\n")).then_some(())
    })
    .await;
    assert_eq!(redis.cache().get(id(&job)).await, None);
}

#[tokio::test]
async fn clients_do_not_notice_an_outage_of_redis() {
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
            (answer["status"] == status && answer["missing"] == missing).then_some(())
        })
        .await;
    };
    round("Redis is up").await;
    readiness("ready", json!([])).await;
    redis.signal("STOP").await;
    round("Redis hangs").await;
    readiness("degraded", json!(["redis"])).await;
    redis.signal("CONT").await;
    round("Redis responds again").await;
    redis.kill().await;
    round("Redis is down").await;
    readiness("degraded", json!(["redis"])).await;
    redis.start_again().await;
    readiness("ready", json!([])).await;
    round("Redis is up again").await;
    eventually("the cache is used again", async || {
        service.read(&done).await;
        in_redis(&redis, &done).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn waits_and_streams_survive_an_outage_of_redis() {
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
    let events = stream.text().await.expect("the stream ends with the job");
    assert!(events.contains("event: job\ndata: {\"jobId\":"), "{events}");
    assert!(events.contains("\"jobStatus\":\"COMPLETED\""), "{events}");
}

#[tokio::test]
async fn ten_servers_share_one_rate_limit() {
    let redis = RedisServer::start().await;
    let servers: Vec<_> = (0..10).map(|_| redis.cache()).collect();
    let user = "ana".parse().expect("a user");
    let other = "bob".parse().expect("a user");
    let redis_of = |cache: &Cache| cache.redis().cloned().expect("in Redis");
    for cache in &servers {
        eventually("a connection", async || cache.ping().await.ok()).await;
    }
    let mut admitted = 0;
    for _ in 0..2 {
        for cache in &servers {
            let room = redis_of(cache).take("submits", &user, 6).await.expect("Redis answers");
            admitted += usize::from(room >= 1.0);
        }
    }
    assert_eq!(admitted, 6, "of 20 requests at ten servers");
    assert_eq!(redis_of(&servers[0]).take("submits", &other, 6).await, Some(6.0));
}

fn client(url: &str) -> Redis {
    Redis::new(url.parse().expect("a URL")).expect("a client")
}

/// A job of one chunk that is completed by a process with this cache.
async fn completed_job(cache: &Cache) -> JobId {
    let store = Arc::new(MemoryStore::new());
    let lifecycle = Lifecycle::new(store.clone(), Arc::new(MemoryQueue::new())).with_cache(cache.clone());
    let (user, path) = ("ana".parse().expect("a user"), "a.wav".parse().expect("a path"));
    let job = NewJob::new(user, vec![path], TranscribeOptions::default(), Metadata::new(), Timestamp::now());
    let job = job.expect("one chunk");
    store.create(&job, Timestamp::now()).await.expect("in memory");
    let chunk = ChunkRef { job: job.id, index: 0.try_into().expect("small") };
    let verdict = Verdict::Completed(Transcription::new("hello", None, vec![]).expect("small"));
    let settled = lifecycle.settle(chunk, &Attempt::number(0), &verdict, Timestamp::now()).await;
    settled.expect("in memory");
    job.id
}

/// Collects what a subscriber at this server reads.
async fn subscriber(url: &str) -> impl Fn() -> Vec<Notification> + use<> {
    let read = Arc::new(Mutex::new(Vec::new()));
    let (redis, sink) = (client(url), Arc::clone(&read));
    tokio::spawn(async move { redis.listen(|event| sink.lock().expect("no panic").push(event)).await });
    let all = move || read.lock().expect("no panic").clone();
    eventually("a subscription", async || all().contains(&Notification::Connected).then_some(())).await;
    all
}

/// The primary becomes a replica and still answers, and the address forwards to another server. The next write is refused
/// and repeated at the new primary by a new connection.
#[tokio::test]
async fn a_failover_moves_results_and_changes_to_the_new_primary() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let endpoint = Relay::start(old.address()).await;
    let cache = Cache::shared(client(&format!("redis://{}", endpoint.address())));
    eventually("a result at the old primary", async || {
        let job = completed_job(&cache).await;
        in_redis(&old, &job.to_string()).await.then_some(())
    })
    .await;
    let events = subscriber(&new.url()).await;
    endpoint.set(Some(new.address()));
    old.replicate(&new).await;
    eventually("a result and its event at the new primary", async || {
        let job = completed_job(&cache).await;
        let published = events().contains(&Notification::Changed(job, Change::Job));
        (in_redis(&new, &job.to_string()).await && published).then_some(())
    })
    .await;
    // A rate is written by another command.
    let redis = cache.redis().cloned().expect("in Redis");
    let user = "ana".parse().expect("a user");
    eventually("a rate", async || redis.take("submits", &user, 6).await).await;
}

/// While the address leads to the replica, refused writes do not open a new connection each.
#[tokio::test]
async fn a_replica_in_place_of_a_primary_gets_few_connections() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let cache = old.cache();
    eventually("a connection", async || cache.ping().await.ok()).await;
    let connections = async || {
        let info = old.ask("INFO stats").await.expect("an answer");
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.and_then(|count| count.parse::<u64>().ok()).expect("a number")
    };
    old.replicate(&new).await;
    let began = tokio::time::Instant::now();
    let before = connections().await;
    for _ in 0..50 {
        completed_job(&cache).await;
    }
    let seconds = began.elapsed().as_secs();
    // The second `INFO` has a connection of its own.
    let opened = connections().await - before - 1;
    assert!(opened <= 2 + seconds, "{opened} connections in {seconds} s");
}

/// A full Redis refuses results, but publishes changes.
#[tokio::test]
async fn waiters_learn_of_the_end_if_redis_is_full() {
    let redis = RedisServer::start().await;
    redis.ask("CONFIG SET maxmemory 1").await;
    let cache = redis.cache();
    let events = subscriber(&redis.url()).await;
    eventually("the end of a job", async || {
        let job = completed_job(&cache).await;
        assert!(!in_redis(&redis, &job.to_string()).await, "it is full");
        events().contains(&Notification::Changed(job, Change::Job)).then_some(())
    })
    .await;
}

/// After a refused password the client connects again.
#[tokio::test]
async fn a_password_that_becomes_valid_is_used_again() {
    let redis = RedisServer::start().await;
    redis.ask("CONFIG SET requirepass other").await;
    let cache = Cache::shared(client(&redis.url().replace("redis://", "redis://:secret@")));
    eventually("a refusal", async || {
        cache.ping().await.err().filter(|error| error.contains("AuthenticationFailed"))
    })
    .await;
    redis.ask("AUTH other\r\nCONFIG SET requirepass secret").await;
    eventually("an answer", async || cache.ping().await.ok()).await;
}
