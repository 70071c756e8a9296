//! `longhand load` against the real api and worker.

use std::time::Duration;

use longhand_e2e::processes::{Process, binary, ready};
use longhand_e2e::service::Service;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::crashes::worker_variables;
use crate::inputs::server;

#[tokio::test]
async fn the_report_of_a_small_load_is_complete() {
    let service = Service::start().await;
    let resources = &service.aws.resources;
    let (variables, worker_address) = worker_variables(&service);
    let _worker = Process::start("longhand-worker", &variables);
    let (url, _api) = server(&service, "").await;
    ready(&format!("http://{worker_address}/healthz")).await;

    let ran = Command::new(binary("longhand"))
        .args(["load", "--jobs", "3", "--chunks", "2", "--rate", "0", "--timeout", "50s", "--json"])
        .env("LONGHAND_URL", &url)
        .env("LONGHAND_AUDIO_BUCKETS", &resources.bucket)
        .env("LONGHAND_HEALTH_LISTEN", &worker_address)
        .env("ASR_BASE_URL", service.asr.base_url())
        .kill_on_drop(true)
        .output();
    let ran =
        tokio::time::timeout(Duration::from_mins(1), ran).await.expect("in time").expect("the command runs");
    assert!(ran.status.success(), "{ran:?}");
    let report: Value = serde_json::from_slice(&ran.stdout).expect("one document");

    assert_eq!((&report["jobs"]["completed"], &report["notes"]), (&json!(3), &json!([])), "{report}");
    let model = &report["model"];
    assert_eq!((&model["calls"], &model["mostCallsPerChunk"]), (&json!(6), &json!(1)), "{report}");
    assert_eq!((&model["transcriptsRight"], &model["transcriptsWrong"]), (&json!(3), &json!(0)), "{report}");
    for figure in ["/model/overheadSeconds/p99", "/turnaroundSeconds/max", "/submitLatencySeconds/p50"] {
        let found = report.pointer(figure).and_then(Value::as_f64);
        assert!(found.is_some_and(|seconds| seconds > 0.0), "{figure}: {report}");
    }
    // At least the calls of ARCHITECTURE.md. A sweep adds to some of them.
    let calls = |process: &str, operation: &str| {
        let found =
            report["awsCalls"].as_array().expect("calls").iter().find(|calls| {
                (&calls["process"], &calls["operation"]) == (&json!(process), &json!(operation))
            });
        found.and_then(|calls| calls["calls"].as_f64()).unwrap_or_default()
    };
    assert!(calls("api", "TransactWriteItems") >= 3.0, "{report}");
    assert!(calls("api", "SendMessageBatch") >= 3.0, "{report}");
    assert!(calls("worker", "UpdateItem") >= 12.0, "{report}");
    assert!(calls("worker", "GetObject") >= 6.0, "{report}");
    assert!(calls("worker", "ReceiveMessage") >= 1.0, "{report}");
    for process in report["processes"].as_array().expect("processes") {
        // A plausible range: megabytes, not kilobytes and not gigabytes.
        let peak = process["peakMemoryBytes"].as_f64().expect("a peak");
        assert!((1e6..1e9).contains(&peak), "{process}");
        assert_eq!(process["restarted"], json!(false), "{process}");
    }
    assert_eq!(report["processes"].as_array().map(Vec::len), Some(2), "{report}");
}
