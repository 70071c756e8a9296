//! Health, metrics and traces of a running service.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;

use longhand_e2e::eventually;
use longhand_e2e::processes::{Process, free_address, ready};
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
async fn a_worker_serves_health_and_metrics() {
    let service = Service::start().await;
    service.asr.script("bad.wav", [400, 400].map(Answer::status));
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
        "longhand_asr_calls_total{outcome=\"refused\"} 2",
        "longhand_messages_total{outcome=\"done\"} 2",
        "longhand_job_turnaround_seconds_count{status=\"FAILED\"} 1",
        "longhand_asr_circuit_open 0",
        "longhand_slots 32",
        "longhand_queue_wait_seconds_count 2",
        "longhand_receives_total{outcome=\"empty\"}",
        "longhand_queue_messages{state=\"visible\"} 0",
    ];
    eventually("all expected metrics", async || {
        let metrics = get("/metrics").await;
        expected.iter().all(|line| metrics.contains(line)).then_some(())
    })
    .await;
    let health: Value = serde_json::from_str(&get("/healthz").await).expect("JSON");
    assert_eq!((&health["status"], &health["model"]), (&"ok".into(), &"called".into()));
}

/// A program's name and a span of it.
type ServiceSpan = (String, Span);

/// A collector of traces: its address and the received spans.
async fn collector() -> (String, Arc<Mutex<Vec<ServiceSpan>>>) {
    let spans: Arc<Mutex<Vec<ServiceSpan>>> = Arc::default();
    let export = {
        let spans = Arc::clone(&spans);
        async move |body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
            let mut spans = spans.lock().expect("not poisoned");
            for resource in request.resource_spans {
                let attributes = resource.resource.expect("a resource").attributes;
                let name = attributes.into_iter().find(|pair| pair.key == "service.name").expect("a name");
                let Some(Attribute::StringValue(service)) = name.value.and_then(|value| value.value) else {
                    panic!("the name is not a text");
                };
                let received = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(received.map(|span| (service.clone(), span)));
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let router = Router::new().route("/v1/traces", post(export));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("the collector serves") });
    (address, spans)
}

#[tokio::test]
async fn a_job_has_one_trace() {
    let service = Service::start().await;
    service.asr.script("b.wav", [Answer::status(500)]);
    let (collector, spans) = collector().await;
    let tracing = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned())];
    let (variables, address) = worker_variables(&service);
    let _worker = Process::start("longhand-worker", &[variables.as_slice(), &tracing].concat());
    let (listen, resources) = (free_address(), &service.aws.resources);
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

    // The request, two chunks, three model calls.
    let spans = eventually("six spans of the trace", async || {
        let mut spans = spans.lock().expect("not poisoned").clone();
        spans.retain(|(_, span)| hex(&span.trace_id) == trace);
        (spans.len() >= 6).then_some(spans)
    })
    .await;
    let children = |parent: &str| -> Vec<&ServiceSpan> {
        spans.iter().filter(|(_, span)| hex(&span.parent_span_id) == parent).collect()
    };
    let names = |spans: &[&ServiceSpan]| -> Vec<String> {
        spans.iter().map(|(service, span)| format!("{service}: {}", span.name)).collect()
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

/// An id in the notation of W3C Trace Context.
fn hex(bytes: &[u8]) -> String {
    let number = bytes.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    format!("{number:0width$x}", width = bytes.len() * 2)
}
