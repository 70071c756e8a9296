//! What comes through API Gateway, which passes on no streams and no long answers.

use axum::body::Body;
use axum::http::Request;
use axum::http::request::Builder;
use longhand_api::{AppState, Origins};
use longhand_shared::JobId;
use serde_json::json;

use crate::jobs::{chunk, job_id, settle, words};
use crate::support::Api;

#[tokio::test]
async fn answers_through_api_gateway_respect_its_limits() {
    let api = Api::new();
    let through_gateway = async |path: &str| {
        let request = Request::get(path).header("longhand-gateway", "vpclink").body(Body::empty());
        api.send(request.expect("a request")).await
    };
    let id = JobId::random();
    let refused = through_gateway(&format!("/transcript/{id}/events")).await;
    refused.problem(406, "STREAMS_NOT_SUPPORTED");
    api.get(&format!("/transcript/{id}/events")).await.problem(404, "JOB_NOT_FOUND");
    through_gateway("/metrics").await.problem(404, "ROUTE_NOT_FOUND");
    assert_eq!(api.get("/metrics").await.status, 200);
    assert_eq!(through_gateway("/healthz").await.status, 200);

    let job = long_job(&api).await;
    for path in [format!("/transcript/{job}"), "/transcript/search?userId=ana".to_owned()] {
        assert_eq!(api.get(&path).await.status, 200);
        through_gateway(&path).await.problem(406, "ANSWER_TOO_LARGE");
    }
}

fn long_submit() -> Builder {
    Request::post("/transcribe").header("content-type", "application/json").header("idempotency-key", "long")
}

/// A job that has ended, of 15 chunks with 380,000 bytes each: it is longer than any of its texts may be.
async fn long_job(api: &Api) -> JobId {
    let job = job_id(&api.send(long_body(long_submit())).await.json(202));
    for index in 0..15 {
        settle(api, chunk(job, index), words(&"long ".repeat(76_000))).await;
    }
    job
}

fn long_body(request: Builder) -> Request<Body> {
    let body = json!({"userId": "ana", "audioChunkPaths": vec!["a.wav"; 15]});
    request.body(body.to_string().into()).expect("a request")
}

#[tokio::test]
async fn a_submit_whose_result_is_too_large_is_still_accepted() {
    let api = Api::new();
    let job = long_job(&api).await;
    let waiting = || long_submit().header("prefer", "wait=5");
    assert_eq!(api.send(long_body(waiting())).await.json(200)["jobStatus"], "COMPLETED");
    let answer = api.send(long_body(waiting().header("longhand-gateway", "lambda"))).await;
    assert_eq!(job_id(&answer.json(202)), job);
    assert_eq!(answer.header("location"), format!("/transcript/{job}"));
    assert_eq!(answer.header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn a_page_can_read_why_an_answer_is_missing() {
    let origins: Origins = "https://app.example".parse().expect("an origin");
    let api = Api::with(|state| AppState { origins, ..state });
    let job = long_job(&api).await;
    let request = Request::get(format!("/transcript/{job}")).header("longhand-gateway", "lambda");
    let request = request.header("origin", "https://app.example").body(Body::empty());
    let answer = api.send(request.expect("a request")).await;
    answer.problem(406, "ANSWER_TOO_LARGE");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
}
