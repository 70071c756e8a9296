//! The service on an emulator that refuses `MessageGroupId` on standard queues.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use longhand_e2e::calls::Calls;
use longhand_e2e::resources::{Resources, endpoint};
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::cache::Cache;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::command::longhand;

/// Starts a proxy of the emulator's SQS that refuses `MessageGroupId`. Returns its address.
async fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let http = reqwest::Client::new();
    let router = Router::new()
        .fallback(async move |headers: HeaderMap, body: Bytes| answer(&http, headers, body).await);
    tokio::spawn(async { axum::serve(listener, router).await });
    url
}

async fn answer(http: &reqwest::Client, mut headers: HeaderMap, body: Bytes) -> impl IntoResponse + use<> {
    let is_send = headers.get("x-amz-target").is_some_and(|target| target == "AmazonSQS.SendMessageBatch");
    let call: Value = serde_json::from_slice(&body).expect("JSON");
    let refused: Vec<Value> = call["Entries"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| is_send && entry["MessageGroupId"].is_string())
        .map(|entry| {
            json!({
                "Id": entry["Id"], "SenderFault": true, "Code": "InvalidParameterValue",
                "Message": "Value ana for parameter MessageGroupId is invalid. Reason: The request include parameter \
                            that is not valid for this queue type",
            })
        })
        .collect();
    let json = [("content-type", "application/x-amz-json-1.0")];
    if !refused.is_empty() {
        // All messages of a job have a group.
        let text = json!({"Successful": [], "Failed": refused}).to_string();
        return (StatusCode::OK, json, Bytes::from(text));
    }
    headers.remove("host");
    let answer =
        http.post(endpoint()).headers(headers).body(body).send().await.expect("the emulator answers");
    (answer.status(), json, answer.bytes().await.expect("a body"))
}

#[tokio::test]
async fn jobs_complete_on_a_queue_that_refuses_groups() {
    let calls = Calls::default();
    let mut aws = Resources::deploy().await.clients(&calls).await;
    let config = aws.sqs.config().to_builder().endpoint_url(refusing().await);
    aws.sqs = aws_sdk_sqs::Client::from_conf(config.build());
    let (store, queue) = (aws.store(), aws.queue());
    let service = Service::start_with(aws, calls, store, queue, Cache::local()).await;
    let working = service.work(LIMITS);

    let paths = service.audio(&["a.wav", "b.wav"]).await;
    for _ in 0..2 {
        let job = service.submit("ana", &paths).await;
        let ended = service.ended(&job).await;
        assert_eq!(ended["jobStatus"], "COMPLETED", "{ended}");
    }
    let (status, ready) = service.get("/readyz").await;
    assert_eq!(
        (status, ready),
        (StatusCode::OK, json!({"status": "ready", "missing": [], "messageGroups": false}))
    );
    let doctor = longhand(&service, &[], &["doctor", "--json"]).await;
    assert_eq!(
        (doctor.code, doctor.verdict("queue groups")),
        (Some(0), "warning".to_owned()),
        "{}",
        doctor.stdout
    );
    working.stop().await;
}
