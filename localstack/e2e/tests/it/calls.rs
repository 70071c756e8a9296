//! The number of AWS calls and write units of a job with six chunks, without faults. Each costs money.

use std::ops::RangeInclusive;
use std::time::Duration;

use longhand_e2e::resources::{Emulator, emulator};
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::JobId;
use longhand_worker::runner::Limits;

/// The units of the default emulator, which computes them by size. `DynamoDB` Local, which `LocalStack` uses, counts more.
#[track_caller]
fn check_units(write_units: f64, expected: RangeInclusive<f64>) {
    if emulator() == Emulator::Ministack {
        assert!(expected.contains(&write_units), "{write_units} write units, expected {expected:?}");
    }
}

#[tokio::test]
async fn a_job_of_six_chunks_has_a_fixed_number_of_aws_calls() {
    let service = Service::start().await;
    let paths = service.audio(&["0.wav", "1.wav", "2.wav", "3.wav", "4.wav", "5.wav"]).await;
    service.calls.reset();
    let job = service.submit("ana", &paths).await;
    let calls = service.calls.counts();
    assert_eq!(calls.get("TransactWriteItems"), Some(&1), "{calls:?}");
    assert_eq!(calls.get("SendMessageBatch"), Some(&1), "{calls:?}");
    assert_eq!(calls.len(), 2, "no other calls: {calls:?}");
    // A transaction costs twice for the job, six chunks and the entry of recent jobs. Two index entries cost once each.
    check_units(service.calls.write_units(), 18.0..=18.0);

    service.calls.reset();
    // Long enough that no message is renewed, even on a slow machine.
    let worker = service.work(Limits { visibility: Duration::from_mins(1), ..LIMITS });
    // Other clients read the table, so that only the worker's calls are counted.
    let watching = service.aws.resources.clients(&longhand_e2e::calls::Calls::default()).await.store();
    let id: JobId = job.parse().expect("a job id");
    longhand_e2e::eventually("the end of the job", async || {
        let result = longhand_shared::store::read(watching.as_ref(), id).await.expect("read").expect("there");
        result.completed_time
    })
    .await;
    worker.stop().await;

    let calls = service.calls.counts();
    let write_units = service.calls.write_units();
    // For each chunk: claim and settle. The removal from the unsettled set is needed only if the worker did not have all
    // chunks in hand.
    assert!((12..=18).contains(&calls["UpdateItem"]), "{calls:?}");
    // Once for the job: one read of it while its last chunk is settled, one read of the chunks, one write of the end.
    assert!(calls.get("GetItem").is_none_or(|reads| *reads <= 1), "{calls:?}");
    assert_eq!(calls.get("TransactWriteItems"), Some(&1), "{calls:?}");
    // One unit for each update, since these items have at most 1 KB, and 11 for the transaction and the indexes.
    check_units(write_units, 23.0..=29.0);
    let reads_for_the_end = 1;
    // The sweeper queries each of the four shards: every second here, every 15 s in production.
    let sweeps = calls["Query"] - reads_for_the_end;
    assert_eq!(sweeps % 4, 0, "{calls:?}");
    // Chunks that end together are deleted together. On a slow machine each ends alone.
    assert!(calls["DeleteMessageBatch"] <= 6, "{calls:?}");
    assert!(!calls.contains_key("ChangeMessageVisibilityBatch"), "no renewals: {calls:?}");
    assert!(!calls.contains_key("BatchGetItem"), "{calls:?}");
    assert!(!calls.contains_key("SendMessageBatch"), "{calls:?}");
}
