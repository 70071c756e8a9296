use longhand_shared::domain::job::{ChunkError, ErrorCode, Metadata, NewJob, TranscribeOptions, Verdict};
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::{Attempt, ChunkRef, Timestamp};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_client_that_finds_the_job_ended_takes_no_announcement_from_others() {
    let store = Arc::new(MemoryStore::new());
    let (user, path) = ("ana".parse().expect("a user"), "a.wav".parse().expect("a path"));
    let now = Timestamp::now();
    let job = NewJob::new(user, vec![path], TranscribeOptions::default(), Metadata::new(), now);
    let job = job.expect("one chunk");
    store.create(&job, now).await.expect("in memory");
    let waiting = Waiting::new(Arc::clone(&store) as _, Cache::local(), CancellationToken::new());
    waiting.announce(Notification::Connected);
    let began = Instant::now();
    // Two clients wait. One of them has not read the job.
    let mut submitter = waiting.watch(job.id, Detail::End);
    let ended = tokio::spawn(async move { submitter.end(began + Duration::from_secs(20)).await });
    tokio::task::yield_now().await;

    let chunk = ChunkRef { job: job.id, index: 0.try_into().expect("small") };
    let failed = Verdict::Failed(ChunkError::new(ErrorCode::AsrRejected, "no"));
    let lifecycle = Lifecycle::new(Arc::clone(&store) as _, Arc::new(MemoryQueue::new()));
    lifecycle.settle(chunk, &Attempt::number(0), &failed, now).await.expect("in memory");
    let reader = waiting.watch(job.id, Detail::End);
    assert!(matches!(reader.first().await, Ok(Some((_, true)))));
    drop(reader);
    waiting.announce(Notification::Changed(job.id, Change::Job));
    assert!(matches!(ended.await.expect("no panic"), Ok(Waited::Ended(_))));
    assert_eq!(began.elapsed(), Duration::ZERO, "without a poll");
}
