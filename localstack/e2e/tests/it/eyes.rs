//! What an operator sees of a service that runs: a worker's health and metrics, and the trace of a job.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;

use longhand_e2e::eventually;
use longhand_e2e::processes::{Process, free_port, ready};
use longhand_e2e::service::Service;
use longhand_sim_asr::Answer;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::crashes::worker_variables;

#[tokio::test]
async fn a_worker_tells_how_it_goes() {
    let service = Service::start().await;
    service.asr.script("bad.wav", [Answer::status(400)]);
    let (variables, address) = worker_variables(&service);
    let _worker = Process::start("longhand-worker", &variables);
    ready(&format!("http://{address}/healthz")).await;
    let paths = service.audio(&["good.wav", "bad.wav"]).await;
    let job = service.submit("ana", &paths).await;
    service.ended(&job).await;

    let get = async |path: &str| {
        let answer = service.http.get(format!("http://{address}{path}")).send().await.expect("an answer");
        answer.text().await.expect("a text")
    };
    let expected = [
        "longhand_chunk_seconds_count{outcome=\"completed\"} 1",
        "longhand_chunk_seconds_count{outcome=\"ASR_REJECTED\"} 1",
        "longhand_asr_calls_total{outcome=\"answered\"} 1",
        "longhand_asr_calls_total{outcome=\"refused\"} 1",
        "longhand_messages_total{outcome=\"done\"} 2",
        "longhand_job_turnaround_seconds_count{status=\"FAILED\"} 1",
        "longhand_asr_circuit_open 0",
        "longhand_slots 32",
        "longhand_queue_wait_seconds_count 2",
        "longhand_receives_total{outcome=\"empty\"}",
        "longhand_queue_messages{state=\"visible\"} 0",
    ];
    eventually("all of it in the metrics", async || {
        let metrics = get("/metrics").await;
        expected.iter().all(|line| metrics.contains(line)).then_some(())
    })
    .await;
    let health: Value = serde_json::from_str(&get("/healthz").await).expect("JSON");
    assert_eq!((&health["status"], &health["model"]), (&"ok".into(), &"called".into()));
}

/// A span and the program that it comes from.
type Told = (String, Span);

/// A collector of traces; its address and what it was told.
async fn collector() -> (String, Arc<Mutex<Vec<Told>>>) {
    let told: Arc<Mutex<Vec<Told>>> = Arc::default();
    let hear = {
        let told = Arc::clone(&told);
        async move |body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
            let mut told = told.lock().expect("nobody panics with it");
            for resource in request.resource_spans {
                let attributes = resource.resource.expect("who speaks").attributes;
                let name = attributes.into_iter().find(|pair| pair.key == "service.name").expect("a name");
                let Some(Attribute::StringValue(service)) = name.value.and_then(|value| value.value) else {
                    panic!("the name is a text");
                };
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                told.extend(spans.map(|span| (service.clone(), span)));
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("its address"));
    let router = Router::new().route("/v1/traces", post(hear));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
    (address, told)
}

#[tokio::test]
async fn one_trace_shows_a_job() {
    let service = Service::start().await;
    service.asr.script("b.wav", [Answer::status(500)]);
    let (collector, told) = collector().await;
    let tracing = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned())];
    let (variables, address) = worker_variables(&service);
    let _worker = Process::start("longhand-worker", &[variables.as_slice(), &tracing].concat());
    let (listen, resources) = (format!("127.0.0.1:{}", free_port()), &service.aws.resources);
    let variables = [
        ("LONGHAND_LISTEN", listen.clone()),
        ("LONGHAND_TABLE", resources.table.clone()),
        ("LONGHAND_QUEUE_URL", resources.queue_url.clone()),
        ("LONGHAND_AUDIO_BUCKETS", resources.bucket.clone()),
    ];
    let _api = Process::start("longhand-api", &[variables.as_slice(), &tracing].concat());
    ready(&format!("http://{address}/healthz")).await;
    ready(&format!("http://{listen}/healthz")).await;

    let (trace, caller) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let body = json!({"userId": "ana", "audioChunkPaths": service.audio(&["a.wav", "b.wav"]).await});
    let request = service.http.post(format!("http://{listen}/transcribe")).json(&body);
    let request = request.header("traceparent", format!("00-{trace}-{caller}-01"));
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    service.ended(answer["jobId"].as_str().expect("a job id")).await;

    // The request, two chunks, three calls of the model.
    let spans = eventually("six spans of the trace", async || {
        let mut spans = told.lock().expect("nobody panics with it").clone();
        spans.retain(|(_, span)| hex(&span.trace_id) == trace);
        (spans.len() >= 6).then_some(spans)
    })
    .await;
    let children = |parent: &str| -> Vec<&Told> {
        spans.iter().filter(|(_, span)| hex(&span.parent_span_id) == parent).collect()
    };
    let names = |told: &[&Told]| -> Vec<String> {
        told.iter().map(|(service, span)| format!("{service}: {}", span.name)).collect()
    };
    let request = children(caller);
    assert_eq!(names(&request), ["longhand-api: POST /transcribe"]);
    let chunks = children(&hex(&request[0].1.span_id));
    assert_eq!(names(&chunks), ["longhand-worker: chunk"; 2]);
    let mut calls: Vec<_> = chunks.iter().map(|(_, span)| names(&children(&hex(&span.span_id)))).collect();
    calls.sort();
    let call = || "longhand-worker: asr call".to_owned();
    assert_eq!(calls, [vec![call()], vec![call(), call()]]);
    assert_eq!(spans.len(), 6);
}

/// Ids as W3C writes them.
fn hex(bytes: &[u8]) -> String {
    let number = bytes.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    format!("{number:0width$x}", width = bytes.len() * 2)
}
