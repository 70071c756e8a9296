//! Retries of the failed chunks of ended jobs, and late calls from before the retry.

use std::sync::Arc;
use std::time::Duration;

use longhand_shared::domain::attempt::AttemptOutcome;
use longhand_shared::domain::job::{ChunkError, ChunkStatus, ErrorCode, JobStatus, Transcription, Verdict};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::lifecycle::{Lifecycle, Retry, Whole};
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::queue::{ChunkQueue, Depth};
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::store::{Claim, Finish, JobStore, Settle, read};
use longhand_shared::{Attempt, ChunkRef, Claimant, JobId, Timestamp};

use crate::world::new_job;

struct World {
    store: Arc<MemoryStore>,
    lifecycle: Lifecycle,
    queue: Arc<MemoryQueue>,
    job: JobId,
    chunks: Vec<ChunkRef>,
}

fn at(seconds: u32) -> Timestamp {
    Timestamp::from_unix(1_000_000 + seconds)
}

fn words(text: &str) -> Verdict {
    Verdict::Completed(Transcription::new(text, None, vec![]).expect("a few bytes"))
}

fn refusal() -> Verdict {
    Verdict::Failed(ChunkError::new(ErrorCode::AudioNotFound, "not found"))
}

impl World {
    /// An ended job with three chunks, of which the middle one failed.
    async fn ended() -> Self {
        let new = new_job(3, at(0));
        let (store, queue) = (Arc::new(MemoryStore::new()), Arc::new(MemoryQueue::new()));
        let lifecycle = Lifecycle::new(store.clone(), queue.clone());
        lifecycle.submit(&new, None).await.expect("memory");
        let chunks = new.chunks().iter().map(|chunk| ChunkRef { job: new.id, index: chunk.index }).collect();
        let world = Self { store, queue, lifecycle, job: new.id, chunks };
        assert_eq!(world.take_all().await, 3);
        for (place, verdict) in [words("one"), refusal(), words("three")].iter().enumerate() {
            world.work(place, verdict, at(1)).await;
        }
        assert_eq!(world.result().await.job_status, JobStatus::Failed);
        world
    }

    async fn claim(&self, place: usize, now: Timestamp) -> Attempt {
        let by = Claimant { origin: "m", message: "m", generation: 0, redelivered: false, worker: "w" };
        let claim = self.store.claim(self.chunks[place], by, now, Duration::from_mins(5)).await;
        match claim.expect("memory") {
            Claim::Claimed(attempt) => attempt,
            other => panic!("not claimed: {other:?}"),
        }
    }

    async fn work(&self, place: usize, verdict: &Verdict, now: Timestamp) {
        let attempt = self.claim(place, now).await.settled(verdict, now, 1);
        self.lifecycle.settle(self.chunks[place], &attempt, verdict, now).await.expect("memory");
    }

    async fn retry(&self, now: Timestamp) -> Retry {
        self.lifecycle.retry(self.job, now).await.expect("memory")
    }

    async fn result(&self) -> TranscriptResult {
        read(&*self.store, self.job).await.expect("memory").expect("there")
    }

    /// Receives and deletes all messages. Returns their number.
    async fn take_all(&self) -> usize {
        let taken = self.queue.receive(10, Duration::ZERO, Duration::from_secs(30)).await.expect("memory");
        let receipts: Vec<_> = taken.iter().map(|delivery| delivery.receipt.clone()).collect();
        self.queue.delete(&receipts).await;
        taken.len()
    }
}

#[tokio::test]
async fn a_retry_covers_only_failed_chunks_and_keeps_the_history() {
    let world = World::ended().await;
    assert_eq!(world.retry(at(10)).await, Retry::Retried(1));
    let open = world.result().await;
    assert_eq!((open.job_status, open.completed_time), (JobStatus::InProgress, None));
    let statuses: Vec<_> = open.chunks.iter().map(|chunk| chunk.chunk_status).collect();
    assert_eq!(statuses, [ChunkStatus::Completed, ChunkStatus::Pending, ChunkStatus::Completed]);
    assert_eq!((open.chunks[1].attempts, open.chunks[1].error.as_ref()), (0, None));
    assert_eq!(world.retry(at(11)).await, Retry::InProgress);
    assert_eq!(world.take_all().await, 1, "one message for the failed chunk");

    world.work(1, &words("two"), at(12)).await;
    let done = world.result().await;
    assert_eq!(
        (done.job_status, done.transcription.as_deref()),
        (JobStatus::Completed, Some("one two three"))
    );
    assert_eq!(done.submitted_time, at(0));
    let history: Vec<_> =
        done.chunks[1].history.iter().map(|attempt| (attempt.outcome, attempt.code)).collect();
    let failed = (AttemptOutcome::Failed, Some(ErrorCode::AudioNotFound));
    assert_eq!(history, [failed, (AttemptOutcome::Completed, None)]);
    assert_eq!(done.chunks[1].attempts, 1, "the count starts again");
    assert_eq!(world.retry(at(13)).await, Retry::NothingFailed);
    let gone = world.lifecycle.retry(JobId::random(), at(13)).await;
    assert_eq!(gone.expect("memory"), Retry::Gone);
}

#[tokio::test]
async fn a_late_finish_does_not_end_a_retried_job() {
    let world = World::ended().await;
    let head = world.store.job(world.job).await.expect("memory").expect("there").head;
    let late = world.result().await;
    world.retry(at(10)).await;
    assert_eq!(world.store.finish(&head, &late).await.expect("memory"), Finish::NotOpen);
    assert_eq!(world.result().await.job_status, JobStatus::InProgress);
}

#[tokio::test]
async fn a_worker_that_read_the_job_before_a_retry_ends_the_retried_job() {
    let world = World::ended().await;
    let (before, _) = world.lifecycle.read_whole(world.job).await.expect("there");
    world.retry(at(10)).await;
    let last = world.claim(1, at(11)).await.settled(&words("two"), at(12), 1);
    let (_, chunks) = world.lifecycle.read_whole(world.job).await.expect("there");
    world.store.settle(world.chunks[1], &last, &words("two"), at(12)).await.expect("memory");
    let whole = Whole::new(before, chunks, world.chunks[1].index, &last, words("two"), at(12));
    let whole = whole.expect("all are completed");
    let all: Vec<_> = world.chunks.iter().map(|chunk| chunk.index).collect();
    let conclude = async |now| world.lifecycle.conclude_whole(&whole, &all, at(now)).await.expect("memory");
    assert!(conclude(13).await);
    assert_eq!(world.result().await.transcription.as_deref(), Some("one two three"));
    assert!(!conclude(14).await, "it has ended");
}

#[tokio::test]
async fn a_job_needs_the_removal_if_a_chunk_failed_or_another_worker_claimed_the_last_one() {
    let world = World::ended().await;
    let whole = async |place: usize, later: u32, verdict| {
        let (head, chunks) = world.lifecycle.read_whole(world.job).await.expect("there");
        let attempt = Attempt::number(chunks[place].attempt - later);
        Whole::new(head, chunks, world.chunks[place].index, &attempt, verdict, at(2))
    };
    assert!(whole(1, 0, words("two")).await.is_some());
    assert!(whole(0, 0, words("one")).await.is_none(), "chunk 1 has failed");
    assert!(whole(1, 0, refusal()).await.is_none(), "the last one has failed");
    assert!(whole(1, 1, words("two")).await.is_none(), "a later claim");
}

#[tokio::test]
async fn a_late_failure_does_not_settle_a_retried_chunk() {
    let world = World::ended().await;
    world.retry(at(10)).await;
    let late = world.store.settle(world.chunks[1], &Attempt::number(1), &refusal(), at(11)).await;
    assert_eq!(late.expect("memory"), Settle::Superseded);
}

#[tokio::test]
async fn a_late_removal_from_the_set_does_not_block_the_end() {
    let world = World::ended().await;
    world.retry(at(10)).await;
    let late = world.chunks[1];
    let early = world.lifecycle.conclude(late.job, &[late.index], at(11)).await.expect("memory never fails");
    assert!(!early, "the chunk is not settled");
    world.work(1, &words("two"), at(12)).await;
    assert_eq!(world.result().await.job_status, JobStatus::Completed);
}

#[tokio::test]
async fn the_sweeper_sends_missing_messages_after_a_retry() {
    let world = World::ended().await;
    let job = world.store.job(world.job).await.expect("memory").expect("there");
    // Days later, the process that reopens the job crashes before it sends the message.
    let now = at(500_000);
    let failed = [world.chunks[1].index];
    assert!(world.store.reopen(&job.head, &failed, now, now).await.expect("memory"));
    let mut sent = 0;
    for turn in 0..20 {
        let now = now.plus(Duration::from_secs(30 * turn));
        for due in world.store.due(now, 10).await.expect("memory") {
            // The queue is never empty.
            let depth = Depth { visible: 7, ..Depth::default() };
            let silence = Duration::from_mins(5);
            let repair = world.lifecycle.repair(&due, depth, silence, now).await;
            sent += repair.expect("memory").sent;
        }
    }
    assert!(sent >= 1, "the age counts from the retry");
    assert_eq!(world.take_all().await, sent);
}
