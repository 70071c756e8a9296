//! What an operator sees of a worker that runs: its health and its metrics.

use longhand_e2e::eventually;
use longhand_e2e::processes::{Process, ready};
use longhand_e2e::service::Service;
use longhand_sim_asr::Answer;
use serde_json::Value;

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
        "longhand_asr_calls_total{outcome=\"answered\"} 2",
        "longhand_messages_total{outcome=\"done\"} 2",
        "longhand_job_turnaround_seconds_count{status=\"FAILED\"} 1",
        "longhand_asr_circuit_open 0",
        "longhand_slots 32",
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
