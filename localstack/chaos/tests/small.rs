//! A small run of all parts, in the emulator.

use longhand_chaos::run::{Badness, run};
use longhand_chaos::world::Size;
use longhand_sim_asr::Latency;

#[tokio::test]
async fn a_small_run_has_faults_and_no_violations() {
    let logs = std::env::temp_dir().join(format!("longhand-chaos-{}", std::process::id()));
    let size = Size {
        jobs: 5,
        chunks: 2,
        workers: 2,
        apis: 1,
        balanced: false,
        asr_latency: Latency::Uniform { from_ms: 200, to_ms: 600 },
        limit_seconds: 300,
        logs: logs.clone(),
    };
    let badness = Badness {
        kill_every: 500..1_000,
        kill_seconds: 4,
        submit_seconds: 3,
        asr_faults: 0.2,
        aws_faults: 0.05,
    };
    let report = run(&size, &badness, 1, None).await;
    assert!(report.is_good(), "{}", report.text());
    assert_eq!(report.findings.accepted, 5);
    assert!(report.fleet.killed > 0, "{}", report.text());
    assert!(report.aws.faults().values().sum::<u64>() > 0, "{}", report.text());
    assert_eq!(report.findings.completed + report.findings.failed, 5 + report.findings.unasked);
    std::fs::remove_dir_all(logs).expect("the logs were there");
}
