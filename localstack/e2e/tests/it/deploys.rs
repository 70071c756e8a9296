//! Deployments under load: rolling restarts of three workers.

use longhand_e2e::eventually;
use longhand_e2e::processes::{Process, ready};
use longhand_e2e::service::Service;
use longhand_shared::queue::{ChunkQueue, Depth};
use longhand_sim_asr::{Behaviour, Latency, text_for};
use serde_json::json;

use crate::crashes::worker_variables;

async fn worker(service: &Service) -> Process {
    let (variables, address) = worker_variables(service);
    let process = Process::start("longhand-worker", &variables);
    ready(&format!("http://{address}/healthz")).await;
    process
}

#[tokio::test]
async fn rolling_restarts_cost_no_attempt_and_no_dead_letter() {
    let service = Service::start().await;
    service.asr.set(Behaviour::taking(Latency::Uniform { from_ms: 300, to_ms: 3_000 }));
    let names = ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "f.wav"];
    let paths = service.audio(&names).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(worker(&service).await);
    }
    let mut jobs = Vec::new();
    for round in 0..5 {
        for turn in 0..3 {
            jobs.push(service.submit(&format!("user{round}"), &paths).await);
            let old = workers.remove(0);
            old.signal("-TERM").await;
            jobs.push(service.submit(&format!("user{turn}"), &paths).await);
            workers.push(worker(&service).await);
            let status = old.ended().await;
            assert!(status.success(), "round {round}: {status}");
        }
    }
    let expected = json!(names.map(text_for).join(" "));
    for job in &jobs {
        let result = service.ended(job).await;
        assert_eq!((&result["jobStatus"], &result["transcription"]), (&json!("COMPLETED"), &expected));
        for chunk in result["chunks"].as_array().expect("chunks") {
            assert_eq!(chunk["attempts"], 1, "a deployment costs no attempt: {chunk}");
        }
    }
    eventually("empty queues", async || {
        let chunks = service.aws.queue().depth().await.expect("a depth");
        (chunks == Depth::default()).then_some(())
    })
    .await;
    assert_eq!(service.aws.dead_letters().depth().await.expect("a depth"), Depth::default());
}
