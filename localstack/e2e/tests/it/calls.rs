//! Calls are cost: what a job of six chunks may call on the happy path, and no more.

use std::time::Duration;

use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::JobId;
use longhand_worker::runner::Limits;

#[tokio::test]
async fn a_job_of_six_chunks_calls_aws_no_more_than_this() {
    let service = Service::start().await;
    let paths = service.audio(&["0.wav", "1.wav", "2.wav", "3.wav", "4.wav", "5.wav"]).await;
    service.calls.reset();
    let job = service.submit("ana", &paths).await;
    let calls = service.calls.counts();
    assert_eq!(calls.get("TransactWriteItems"), Some(&1), "{calls:?}");
    assert_eq!(calls.get("SendMessageBatch"), Some(&1), "{calls:?}");
    assert_eq!(calls.len(), 2, "nothing else: {calls:?}");

    service.calls.reset();
    // Long enough that nothing is renewed on a busy machine either.
    let worker = service.work(Limits { visibility: Duration::from_mins(1), ..LIMITS });
    // Watched in the table with clients that do not count, so that only the worker's calls do.
    let watching = service.aws.resources.clients(&longhand_e2e::calls::Calls::default()).await.store();
    let id: JobId = job.parse().expect("a job id");
    longhand_e2e::eventually("the end of the job", async || {
        let result = longhand_shared::store::read(watching.as_ref(), id).await.expect("read").expect("there");
        result.completed_time
    })
    .await;
    worker.stop().await;

    let calls = service.calls.counts();
    // Each chunk: a claim, the verdict, struck off.
    assert_eq!(calls.get("UpdateItem"), Some(&18), "{calls:?}");
    // Once for the job: its chunks are read, its end is written.
    assert_eq!(calls.get("TransactWriteItems"), Some(&1), "{calls:?}");
    let reads_for_the_end = 1;
    // The sweeper's look at each of the four shards, once a second here, every 15 s in production.
    let sweeps = calls["Query"] - reads_for_the_end;
    assert_eq!(sweeps % 4, 0, "{calls:?}");
    // One batch in, and what came before and after it was empty; deletes in one or two batches.
    assert!(calls["DeleteMessageBatch"] <= 3, "{calls:?}");
    assert!(!calls.contains_key("ChangeMessageVisibilityBatch"), "nothing was renewed: {calls:?}");
    assert!(!calls.contains_key("GetItem") && !calls.contains_key("BatchGetItem"), "{calls:?}");
    assert!(!calls.contains_key("SendMessageBatch"), "{calls:?}");
}
