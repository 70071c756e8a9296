//! What each user may do at most.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use longhand_api::reads::Reads;
use longhand_api::{AppState, Limits};
use longhand_shared::cache::remote::Redis;
use longhand_shared::domain::id::ChunkRef;
use longhand_shared::domain::job::{ChunkError, ErrorCode, Verdict};
use longhand_shared::{Attempt, ChunkIndex, JobId, Timestamp};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};
use tower::ServiceExt;

use crate::jobs::{chunk, settle};
use crate::support::{Answer, Api, good_body};
use crate::waiting::{complete, newest, submitted};

fn api(per_minute: u32, max_open: usize) -> Api {
    Api::with(|state| AppState { limits: Arc::new(Limits::new(per_minute, max_open)), ..state })
}

async fn submit(api: &Api, user: &str) -> Answer {
    api.transcribe(&json!({"userId": user, "audioChunkPaths": ["s3://audio/a"]})).await
}

#[tokio::test(start_paused = true)]
async fn a_user_who_is_too_fast_gets_retry_after() {
    let api = api(6, 0);
    for left in (0..6).rev() {
        let answer = submit(&api, "ana").await;
        answer.json(202);
        assert_eq!(answer.header("ratelimit-policy"), "\"submits\";q=6;w=60");
        assert_eq!(answer.header("ratelimit"), format!("\"submits\";r={left};t={}", (6 - left) * 10));
        assert_eq!(answer.header("retry-after"), "");
    }
    let answer = submit(&api, "ana").await;
    let problem = answer.problem(429, "RATE_LIMITED");
    let detail = "the user makes more than 6 submits, uploads and retries a minute: try again in 10 s";
    assert_eq!(problem["detail"], detail);
    assert_eq!(answer.header("retry-after"), "10");
    assert_eq!(answer.header("ratelimit"), "\"submits\";r=0;t=60");
    // Others are not held up, and neither are other calls.
    submit(&api, "bob").await.json(202);
    let read = api.get("/transcript/search?userId=ana&jobStatus=FAILED").await;
    read.json(200);
    assert_eq!(read.header("ratelimit"), "");

    // Exactly after that time: a refused request does not extend it.
    advance(Duration::from_secs(9)).await;
    assert_eq!(submit(&api, "ana").await.header("retry-after"), "1");
    advance(Duration::from_secs(1)).await;
    submit(&api, "ana").await.json(202);
    submit(&api, "ana").await.problem(429, "RATE_LIMITED");
    // It fills up to what it was, whatever time passes.
    advance(Duration::from_hours(5)).await;
    assert_eq!(submit(&api, "ana").await.header("ratelimit"), "\"submits\";r=5;t=10");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_before_does_not_count() {
    let api = api(1, 0);
    let bad = api.transcribe(&json!({"userId": "ana"})).await;
    bad.problem(400, "INVALID_REQUEST");
    assert_eq!(bad.header("ratelimit"), "");
    submit(&api, "ana").await.json(202);
}

#[tokio::test]
async fn without_limits_there_are_no_headers_of_limits() {
    let answer = submit(&api(0, 0), "ana").await;
    answer.json(202);
    assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), ("", ""));
}

async fn fail(api: &Api, accepted: &Value) {
    let job: JobId = accepted["jobId"].as_str().expect("text").parse().expect("an id");
    let chunk = ChunkRef { job, index: ChunkIndex::try_from(0).expect("the first") };
    let verdict = Verdict::Failed(ChunkError::new(ErrorCode::AudioEmpty, "nothing"));
    let settled = api.lifecycle().settle(chunk, &Attempt::number(0), &verdict, Timestamp::now()).await;
    settled.expect("a store in memory");
}

#[tokio::test(start_paused = true)]
async fn open_jobs_are_bounded() {
    let api = api(0, 3);
    let first = submit(&api, "ana").await.json(202);
    submit(&api, "ana").await.json(202);
    submit(&api, "ana").await.json(202);
    let answer = submit(&api, "ana").await;
    let problem = answer.problem(429, "TOO_MANY_OPEN_JOBS");
    assert_eq!(
        problem["detail"],
        "the user has 3 jobs or more in progress: submit again after some have ended"
    );
    assert_eq!(answer.header("retry-after"), "10");
    submit(&api, "bob").await.json(202);
    // One has ended: seen a second later.
    fail(&api, &first).await;
    advance(Duration::from_secs(1)).await;
    submit(&api, "ana").await.json(202);
    submit(&api, "ana").await.problem(429, "TOO_MANY_OPEN_JOBS");
}

#[tokio::test(start_paused = true)]
async fn open_jobs_that_came_by_other_servers_count_too() {
    let shared = api(0, 0);
    for _ in 0..120 {
        submit(&shared, "ana").await.json(202);
    }
    let limited = |most: usize| {
        let lifecycle = shared.lifecycle();
        Api::with(|state| AppState { lifecycle, limits: Arc::new(Limits::new(0, most)), ..state })
    };
    // More than one page of them.
    submit(&limited(120), "ana").await.problem(429, "TOO_MANY_OPEN_JOBS");
    let api = limited(121);
    submit(&api, "ana").await.json(202);
    submit(&api, "ana").await.problem(429, "TOO_MANY_OPEN_JOBS");
}

async fn submit_again(api: &Api, key: &str, audio: &str) -> Answer {
    let body = json!({"userId": "ana", "audioChunkPaths": [audio]}).to_string();
    let request = Request::post("/transcribe").header("content-type", "application/json");
    api.send(request.header("idempotency-key", key).body(body.into()).expect("a request")).await
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_answered_at_any_limit_and_uses_up_nothing() {
    for api in [api(1, 0), api(0, 1)] {
        let first = submit_again(&api, "k", "s3://audio/a").await.json(202);
        for _ in 0..5 {
            let replay = submit_again(&api, "k", "s3://audio/a").await;
            assert_eq!(replay.json(202), first);
            assert_eq!((replay.header("idempotency-replayed"), replay.header("ratelimit")), ("true", ""));
        }
        submit_again(&api, "k", "s3://audio/b").await.problem(422, "IDEMPOTENCY_KEY_REUSED");
        assert_eq!(submit_again(&api, "other", "s3://audio/a").await.status, 429);
    }
}

#[tokio::test(start_paused = true)]
async fn reads_have_a_rate_of_their_own() {
    let reads = Limits::new(1, 0).with_reads(3, Reads::default());
    let api = Api::with(|state| AppState { limits: Arc::new(reads), ..state });
    let search = async |user: &str| api.get(&format!("/transcript/search?userId={user}")).await;
    for _ in 0..3 {
        search("ana").await.json(200);
    }
    let refused = search("ana").await;
    let problem = refused.problem(429, "RATE_LIMITED");
    assert_eq!(problem["detail"], "the user reads more than 3 times a minute: try again in 20 s");
    assert_eq!(refused.header("retry-after"), "20");
    search("bob").await.json(200);
    submit(&api, "ana").await.json(202);
    advance(Duration::from_secs(20)).await;
    search("ana").await.json(200);
}

/// A server that reads one result at a time, and two clients that keep all memory for answers by not reading theirs.
async fn full() -> (Arc<Api>, JobId, [Response; 2]) {
    let limits = Limits::new(0, 0).with_reads(0, Reads::new(1, 1));
    let api = Arc::new(Api::with(|state| AppState { limits: Arc::new(limits), ..state }));
    let job = submitted(&api).await;
    complete(&api, job, &long()).await;
    let unread = [large(&api, job).await, large(&api, job).await];
    (api, job, unread)
}

fn long() -> String {
    "a".repeat(380_000)
}

async fn large(api: &Api, job: JobId) -> Response {
    let request = Request::get(format!("/transcript/{job}")).body(Body::empty()).expect("a request");
    api.router.clone().oneshot(request).await.expect("the router never fails")
}

fn read_later(api: &Arc<Api>, job: JobId) -> JoinHandle<Response> {
    let api = Arc::clone(api);
    tokio::spawn(async move { large(&api, job).await })
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_does_not_begin_a_retry() {
    let (api, job, unread) = full().await;
    let failed = submitted(&api).await;
    for index in 0..2 {
        let error = ChunkError::new(ErrorCode::AudioEmpty, "nothing");
        settle(&api, chunk(failed, index), Verdict::Failed(error)).await;
    }
    // Each waits for five seconds for memory, and the second for the first.
    let first = read_later(&api, job);
    sleep(Duration::from_secs(3)).await;
    let second = read_later(&api, job);
    sleep(Duration::from_secs(1)).await;
    let retry = format!("/transcript/{failed}/retry");
    api.call("POST", &retry).await.problem(503, "BUSY");
    for read in [first, second] {
        assert_eq!(read.await.expect("an answer").status(), 503);
    }
    drop(unread);
    assert_eq!(api.get(&format!("/transcript/{failed}")).await.json(200)["jobStatus"], "FAILED");
    api.call("POST", &retry).await.json(202);
}

#[tokio::test(start_paused = true)]
async fn a_submit_gets_202_if_its_result_cannot_be_sent() {
    let (api, _, unread) = full().await;
    let submit = |api: &Arc<Api>| {
        let api = Arc::clone(api);
        let request = Request::post("/transcribe").header("content-type", "application/json");
        let request = request.header("prefer", "wait=15").body(good_body().to_string().into());
        tokio::spawn(async move { api.send(request.expect("a request")).await })
    };
    let refused = submit(&api);
    complete(&api, newest(&api).await, &long()).await;
    refused.await.expect("an answer").json(202);
    drop(unread);
    let answered = submit(&api);
    complete(&api, newest(&api).await, &long()).await;
    answered.await.expect("an answer").json(200);
}

#[tokio::test(start_paused = true)]
async fn while_redis_hangs_a_server_counts_alone() {
    // It accepts connections and answers nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    let redis = Redis::new(url.parse().expect("a URL")).expect("a client");
    let api =
        Api::with(|state| AppState { limits: Arc::new(Limits::new(2, 0).shared(Some(redis))), ..state });
    for _ in 0..2 {
        submit(&api, "ana").await.json(202);
    }
    submit(&api, "ana").await.problem(429, "RATE_LIMITED");
    submit(&api, "bob").await.json(202);
}
