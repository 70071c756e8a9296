//! `Prefer: wait=n`, without Redis: clients that wait poll the table, together.

use std::io::{Seek, read_to_string};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use longhand_api::AppState;
use longhand_api::waiting::Waiting;
use longhand_shared::JobId;
use longhand_shared::Timestamp;
use longhand_shared::cache::Cache;
use longhand_shared::domain::job::{ChunkError, ErrorCode, Verdict};
use longhand_shared::lifecycle::Retry;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::jobs::{chunk, job_id, settle, words};
use crate::support::{Answer, Api, good_body};

pub(crate) async fn submitted(api: &Api) -> JobId {
    job_id(&api.transcribe(&good_body()).await.json(202))
}

fn request(job: JobId, prefer: &str) -> Request<Body> {
    let request = Request::get(format!("/transcript/{job}")).header("prefer", prefer);
    request.body(Body::empty()).expect("a request")
}

fn post(prefer: &str) -> Request<Body> {
    let request = Request::post("/transcribe").header("content-type", "application/json");
    request.header("prefer", prefer).body(good_body().to_string().into()).expect("a request")
}

/// The newest job, once it is there.
pub(crate) async fn newest(api: &Api) -> JobId {
    let far = Timestamp::now().plus(Duration::from_hours(1));
    loop {
        let due = longhand_shared::store::JobStore::due(&*api.store, far, 1000).await.expect("in memory");
        if let Some(due) = due.last() {
            return due.job;
        }
        tokio::task::yield_now().await;
    }
}

fn send(api: &Arc<Api>, request: Request<Body>) -> JoinHandle<Answer> {
    let api = Arc::clone(api);
    tokio::spawn(async move { api.send(request).await })
}

pub(crate) async fn complete(api: &Api, job: JobId, text: &str) {
    for index in 0..2 {
        settle(api, chunk(job, index), words(text)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_submit_that_waits_is_answered_with_the_result() {
    let api = Arc::new(Api::new());
    let began = Instant::now();
    let waiting = send(&api, post("wait=15"));
    let job = newest(&api).await;
    sleep(Duration::from_secs(5)).await;
    complete(&api, job, "hello").await;
    let answer = waiting.await.expect("an answer");
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    let result = answer.json(200);
    assert_eq!(
        (&result["jobStatus"], &result["transcription"]),
        (&"COMPLETED".into(), &"hello hello".into())
    );
    assert_eq!(answer.header("preference-applied"), "wait=15");
    assert_eq!(answer.header("content-location"), format!("/transcript/{job}"));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_over_is_answered_with_the_current_state() {
    let api = Api::new();
    let began = Instant::now();
    let answer = api.send(post("wait=60")).await;
    assert_eq!(began.elapsed().as_secs(), 25, "capped");
    assert_eq!(answer.header("preference-applied"), "wait=25");
    let job = job_id(&answer.json(202));
    assert_eq!(answer.header("location"), format!("/transcript/{job}"));
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_the_end_or_for_its_time() {
    let api = Arc::new(Api::new());
    let job = submitted(&api).await;
    let began = Instant::now();
    let waiting = send(&api, request(job, "wait=4"));
    sleep(Duration::from_secs(3)).await;
    settle(&api, chunk(job, 0), words("hello")).await;
    let answer = waiting.await.expect("an answer");
    assert_eq!(began.elapsed().as_secs(), 4);
    let result = answer.json(200);
    assert_eq!(
        result["chunks"][0]["chunkStatus"], "COMPLETED",
        "the current state, not the earlier one: {result}"
    );
    assert_eq!(answer.header("preference-applied"), "wait=4");

    let waiting = send(&api, request(job, "wait=20"));
    sleep(Duration::from_secs(10)).await;
    settle(&api, chunk(job, 1), words("world")).await;
    let ended = Instant::now();
    let result = waiting.await.expect("an answer").json(200);
    assert_eq!(result["transcription"], "hello world");
    assert!(ended.elapsed() <= Duration::from_secs(1), "{:?}", ended.elapsed());

    // A finished job is not waited for, and an invalid wait is ignored.
    let now = Instant::now();
    assert_eq!(api.send(request(job, "wait=20")).await.json(200), result);
    assert_eq!(api.send(request(job, "wait=soon")).await.header("preference-applied"), "");
    assert_eq!(
        api.send(request(submitted(&api).await, "wait=0")).await.header("preference-applied"),
        "wait=0"
    );
    assert_eq!(now.elapsed(), Duration::ZERO);
}

/// With `most` places for streams and waits, and streams of this age.
pub(crate) fn with_room(most: usize, age: Duration) -> Api {
    Api::with(|state| {
        let (store, stop) = (state.lifecycle.store().clone(), state.stop.clone());
        let waiting = Waiting::bounded(store, Cache::local(), stop, most, age);
        AppState { waiting, ..state }
    })
}

#[tokio::test(start_paused = true)]
async fn a_job_has_a_twentieth_of_the_waits() {
    let api = Arc::new(with_room(40, Duration::from_mins(15)));
    let (job, other) = (submitted(&api).await, submitted(&api).await);
    let waits: Vec<_> = (0..2).map(|_| send(&api, request(job, "wait=20"))).collect();
    sleep(Duration::from_secs(1)).await;
    let refused = api.send(request(job, "wait=20")).await;
    refused.problem(429, "TOO_MANY_WAITING");
    assert_eq!(refused.header("retry-after"), "2");
    // Another job of the same user, and the same one without a wait, are read.
    api.send(request(other, "wait=1")).await.json(200);
    api.get(&format!("/transcript/{job}")).await.json(200);
    for wait in waits {
        wait.await.expect("a wait").json(200);
    }
    api.send(request(job, "wait=1")).await.json(200);
}

#[tokio::test(start_paused = true)]
async fn a_submit_without_room_to_wait_is_accepted_at_once() {
    let api = Arc::new(with_room(10, Duration::from_mins(15)));
    let waiting = send(&api, post("wait=20"));
    let _ = newest(&api).await;
    sleep(Duration::from_secs(1)).await;
    let taken = api.send(post("wait=20")).await;
    taken.json(202);
    assert_eq!(taken.header("preference-applied"), "");
    waiting.await.expect("a wait").json(202);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waits_for_one_job_cost_as_much_as_one() {
    let api = Arc::new(with_room(20_000, Duration::from_mins(15)));
    for clients in [1, 1000] {
        let job = submitted(&api).await;
        let before = api.store.reads();
        let mut waiting = JoinSet::new();
        for _ in 0..clients {
            let api = Arc::clone(&api);
            waiting.spawn(async move { api.send(request(job, "wait=15")).await });
        }
        sleep(Duration::from_millis(14_999)).await;
        complete(&api, job, "hello").await;
        let answers = waiting.join_all().await;
        assert_eq!(answers.len(), clients);
        assert!(answers.iter().all(|answer| answer.json(200)["jobStatus"] == "COMPLETED"));
        let reads = api.store.reads() - before;
        assert_eq!(reads, 19, "for {clients}: one at first, 16 looks, two at the end");
    }
}

#[tokio::test(start_paused = true)]
async fn polling_ends_when_all_clients_have_left() {
    let api = Arc::new(Api::new());
    let job = submitted(&api).await;
    let waiting = send(&api, request(job, "wait=20"));
    sleep(Duration::from_secs(2)).await;
    waiting.abort();
    sleep(Duration::from_secs(1)).await;
    let before = api.store.reads();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(api.store.reads(), before);
}

#[tokio::test(start_paused = true)]
async fn waits_end_at_once_when_the_process_stops() {
    let api = Arc::new(Api::new());
    let job = submitted(&api).await;
    let (reading, submitting) = (send(&api, request(job, "wait=20")), send(&api, post("wait=20")));
    sleep(Duration::from_secs(2)).await;
    let stopped = Instant::now();
    api.stop.cancel();
    assert_eq!(reading.await.expect("an answer").json(200)["jobStatus"], "IN_PROGRESS");
    submitting.await.expect("an answer").json(202);
    assert_eq!(stopped.elapsed(), Duration::ZERO);
    // Those who come in the last moment are answered too.
    assert_eq!(api.send(request(job, "wait=20")).await.json(200)["jobStatus"], "IN_PROGRESS");
    assert_eq!(stopped.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_missing_job_is_not_waited_for() {
    let api = Arc::new(Api::new());
    let began = Instant::now();
    api.send(request(JobId::random(), "wait=20")).await.problem(404, "JOB_NOT_FOUND");
    assert_eq!(began.elapsed(), Duration::ZERO);
    let job = submitted(&api).await;
    let waiting = send(&api, request(job, "wait=20"));
    sleep(Duration::from_secs(5)).await;
    api.store.expire(job);
    waiting.await.expect("an answer").problem(404, "JOB_NOT_FOUND");
    assert!(began.elapsed() < Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_retried_job_is_never_shown_as_finished() {
    let api = Arc::new(Api::new());
    let job = submitted(&api).await;
    settle(&api, chunk(job, 0), words("hello")).await;
    settle(&api, chunk(job, 1), Verdict::Failed(ChunkError::new(ErrorCode::AsrRejected, "no"))).await;
    let uri = format!("/transcript/{job}");
    assert_eq!(api.get(&uri).await.json(200)["jobStatus"], "FAILED");
    assert_eq!(api.get(&uri).await.header("cache-control"), "private, no-cache");
    let retried = api.lifecycle().retry(job, Timestamp::now()).await;
    assert_eq!(retried.expect("in memory"), Retry::Retried(1));
    assert_eq!(api.get(&uri).await.json(200)["jobStatus"], "IN_PROGRESS");
    let waiting = send(&api, request(job, "wait=20"));
    sleep(Duration::from_secs(3)).await;
    assert!(!waiting.is_finished(), "it waits for the new end");
    settle(&api, chunk(job, 1), words("world")).await;
    assert_eq!(waiting.await.expect("an answer").json(200)["transcription"], "hello world");
}

#[tokio::test]
async fn a_client_with_the_current_etag_gets_304() {
    let api = Api::new();
    let job = submitted(&api).await;
    let uri = format!("/transcript/{job}");
    let first = api.get(&uri).await;
    assert_eq!(first.header("cache-control"), "private, no-cache");
    let tag = first.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 20, "{tag}");
    let with = async |tag: &str| {
        let request = Request::get(&uri).header("if-none-match", tag).body(Body::empty());
        api.send(request.expect("a request")).await
    };
    for same in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let answer = with(&same).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (304, ""), "{same}");
        assert_eq!((answer.header("etag"), answer.header("content-type")), (tag.as_str(), ""));
        assert_eq!(answer.header("cache-control"), "private, no-cache");
    }
    with(&tag.replace('"', "")).await.json(200);
    settle(&api, chunk(job, 0), words("hello")).await;
    assert_ne!(with(&tag).await.header("etag"), tag);
    settle(&api, chunk(job, 1), words("hello")).await;
    let ended = with(&tag).await;
    assert_eq!(ended.json(200)["jobStatus"], "COMPLETED");
    assert_eq!(ended.header("cache-control"), "private, max-age=10");
    // From the table and from the cache it is the same, to the byte.
    assert_eq!(with(ended.header("etag")).await.status, 304);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_logged_with_its_own_time_and_its_code() {
    let log = Arc::new(tempfile::tempfile().expect("a file"));
    // With one alone, events that another test's thread is first to come by would be off for all threads.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(Arc::clone(&log)).finish();
    let _logging = tracing::subscriber::set_default(lines);
    let api = Api::new();
    let job = submitted(&api).await;
    api.send(request(job, "wait=10")).await.json(200);
    api.get("/transcript/x").await.problem(400, "INVALID_JOB_ID");
    (&*log).rewind().expect("a file");
    let text = read_to_string(log.as_ref()).expect("a file");
    let requests: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [post, get, bad] = &requests[..] else { panic!("{text}") };
    assert_eq!((&post["message"], &post["status"]), (&json!("request"), &json!(202)), "{text}");
    assert_eq!((&get["route"], &get["ms"]), (&json!("/transcript/{jobId}"), &json!(10_000)), "{text}");
    assert_eq!((&get["own_ms"], get.get("code")), (&json!(0), None), "{text}");
    assert_eq!(bad["code"], "INVALID_JOB_ID", "{text}");
}
