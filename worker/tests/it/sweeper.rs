//! The sweeper: what it repairs, what it leaves alone, and that two of them do it once.

use longhand_shared::domain::job::{ErrorCode, JobStatus, NewJob, Transcription, Verdict};
use longhand_shared::lifecycle::{MAX_CHECK_INTERVAL, RESEND_AFTER};
use longhand_shared::queue::QueueError;
use longhand_shared::store::FIRST_CHECK;
use longhand_shared::store::JobStore;
use longhand_shared::{Attempt, JobId, Timestamp};
use longhand_sim_asr::Behaviour;
use longhand_worker::sweeper::{SweepSettings, Sweeper};
use tokio::time::sleep;

use crate::support::{CLAIM_TIMEOUT, Kind, Op, StoreFault, World, by, chunk_of, message, secs, unavailable};

fn sweeper(world: &World) -> Sweeper {
    Sweeper {
        lifecycle: world.lifecycle(),
        settings: SweepSettings { every: secs(15) },
        claim_timeout: CLAIM_TIMEOUT,
    }
}

/// A job whose maker died before it sent a message.
async fn unsent(world: &World, files: &[&str]) -> (JobId, Timestamp) {
    let new = world.job(files, true);
    create(world, &new).await;
    (new.id, new.submitted)
}

async fn create(world: &World, new: &NewJob) {
    world.store.inner.create(new, new.submitted.plus(FIRST_CHECK)).await.expect("memory answers");
}

async fn settle(world: &World, job: JobId, index: u64, at: Timestamp) {
    let (store, chunk) = (&world.store.inner, chunk_of(job, index));
    store.claim(chunk, by("a"), at, CLAIM_TIMEOUT).await.expect("memory answers");
    let verdict = Verdict::Completed(Transcription::new("words", None, vec![]).expect("small"));
    store.settle(chunk, &Attempt::number(1), &verdict, at).await.expect("memory answers");
}

/// How many jobs a sweep repaired.
async fn swept(world: &World, now: Timestamp) -> usize {
    sweeper(world).sweep(now).await.expect("nothing is down")
}

#[tokio::test(start_paused = true)]
async fn a_job_without_messages_is_sent_when_its_time_has_come() {
    let world = World::new(Behaviour::default()).await;
    let (job, submitted) = unsent(&world, &["a.wav", "b.wav", "c.wav"]).await;
    assert_eq!(swept(&world, submitted.plus(secs(29))).await, 0);
    assert_eq!(world.queue.len().await, 0);
    assert_eq!(swept(&world, submitted.plus(FIRST_CHECK)).await, 1);
    assert_eq!(world.queue.len().await, 3);
    let running = world.work();
    assert_eq!(world.ended(job).await.job_status, JobStatus::Completed);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_sweepers_at_once_send_once() {
    let world = World::new(Behaviour::default()).await;
    let (_, submitted) = unsent(&world, &["a.wav", "b.wav"]).await;
    let now = submitted.plus(secs(31));
    let (one, other) = (sweeper(&world), sweeper(&world));
    let (one, other) = tokio::join!(one.sweep(now), other.sweep(now));
    assert_eq!(one.expect("up") + other.expect("up"), 1);
    assert_eq!(world.queue.len().await, 2);
    assert_eq!(world.store.count(Op::Due), 2, "both saw it");
}

#[tokio::test(start_paused = true)]
async fn a_young_job_waits_while_the_queue_has_messages() {
    let world = World::new(Behaviour::default()).await;
    let (_, submitted) = unsent(&world, &["a.wav"]).await;
    world.queue.put(&[message("of another")]).await;
    let mut now = submitted.plus(FIRST_CHECK);
    while now < submitted.plus(RESEND_AFTER) {
        assert_eq!(swept(&world, now).await, 0);
        now = now.plus(secs(10));
    }
    assert_eq!(world.queue.len().await, 1);
}

#[tokio::test(start_paused = true)]
async fn messages_put_off_count_as_waiting() {
    let world = World::new(Behaviour::default()).await;
    let (_, submitted) = unsent(&world, &["a.wav"]).await;
    world.queue.put(&[longhand_shared::queue::Outgoing { delay: secs(600), ..message("later") }]).await;
    assert_eq!(swept(&world, submitted.plus(secs(60))).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_never_empty_does_not_hide_a_job_for_ever() {
    let world = World::new(Behaviour::default()).await;
    let (_, submitted) = unsent(&world, &["a.wav"]).await;
    world.queue.put(&[message("of another")]).await;
    let mut age = FIRST_CHECK;
    while swept(&world, submitted.plus(age)).await == 0 {
        age += secs(15);
        assert!(age <= RESEND_AFTER + MAX_CHECK_INTERVAL, "hidden for {age:?}");
    }
    assert!(age >= RESEND_AFTER);
    assert_eq!(world.queue.len().await, 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_left_between_two_writes_is_finished() {
    // Settled, not struck; settled and struck, not finished.
    for struck in [false, true] {
        let world = World::new(Behaviour::default()).await;
        let (job, submitted) = unsent(&world, &["a.wav", "b.wav"]).await;
        for index in 0..2 {
            settle(&world, job, index, submitted).await;
            if struck {
                world
                    .store
                    .inner
                    .remove_unsettled(job, &[chunk_of(job, index).index])
                    .await
                    .expect("memory answers");
            }
        }
        assert_eq!(swept(&world, submitted.plus(secs(40))).await, 1, "struck: {struck}");
        let result = world.result(job).await;
        assert_eq!(result.transcription.as_deref(), Some("words words"));
        assert_eq!((result.job_status, world.queue.len().await), (JobStatus::Completed, 0));
        assert_eq!(swept(&world, submitted.plus(secs(4000))).await, 0, "and then it is left alone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_queue_will_never_take_fails_its_chunk_in_the_end() {
    let world = World::new(Behaviour::default()).await;
    let (job, submitted) = unsent(&world, &["a.wav"]).await;
    world.queue.fail(Kind::Send, QueueError::Refused("InvalidMessageContents".to_owned()));
    let mut age = FIRST_CHECK;
    while world.result(job).await.job_status == JobStatus::InProgress {
        swept(&world, submitted.plus(age)).await;
        age += secs(15);
        assert!(age <= RESEND_AFTER + MAX_CHECK_INTERVAL, "not failed after {age:?}");
    }
    assert!(age >= RESEND_AFTER, "refused for minutes, not once");
    let error = world.result(job).await.chunks.remove(0).error.expect("it failed");
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(error.message.contains("InvalidMessageContents"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_not_settled_is_sent() {
    let world = World::new(Behaviour::default()).await;
    let (job, submitted) = unsent(&world, &["a.wav", "b.wav", "c.wav"]).await;
    settle(&world, job, 1, submitted).await;
    assert_eq!(swept(&world, submitted.plus(secs(40))).await, 1);
    let bodies: Vec<String> = world.queue.drain().await.into_iter().map(|it| it.body).collect();
    assert_eq!(bodies.len(), 2);
    assert!(bodies.iter().all(|body| !body.contains("b.wav")));
}

#[tokio::test(start_paused = true)]
async fn a_claimed_chunk_is_sent_again_only_when_it_has_long_been_silent() {
    let world = World::new(Behaviour::default()).await;
    let (job, submitted) = unsent(&world, &["a.wav"]).await;
    let claimed = submitted.plus(secs(20));
    world.store.inner.claim(chunk_of(job, 0), by("a"), claimed, CLAIM_TIMEOUT).await.expect("memory answers");
    let mut age = FIRST_CHECK;
    while swept(&world, submitted.plus(age)).await == 0 {
        age += secs(15);
        assert!(age <= secs(350) + MAX_CHECK_INTERVAL, "forgotten for {age:?}");
    }
    assert!(age >= secs(350), "sent after {age:?}, while its worker may be at it");
    assert_eq!(world.queue.len().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_settled_chunk_that_waits_for_its_siblings_is_not_repaired() {
    let world = World::new(Behaviour::default()).await;
    let (job, submitted) = unsent(&world, &["a.wav", "b.wav"]).await;
    let settled = submitted.plus(secs(25));
    settle(&world, job, 0, settled).await;
    world.store.inner.claim(chunk_of(job, 1), by("b"), settled, CLAIM_TIMEOUT).await.expect("memory answers");
    let mut age = FIRST_CHECK;
    while swept(&world, submitted.plus(age)).await == 0 {
        age += secs(15);
        assert!(age <= secs(300), "forgotten for {age:?}");
    }
    assert!(age >= secs(85), "repaired after {age:?}, while its worker may wait");
}

#[tokio::test(start_paused = true)]
async fn an_ended_job_is_not_touched() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["a.wav"], true);
    let job = world.send(&new).await;
    let running = world.work();
    let before = world.ended(job).await;
    running.stop().await;
    assert_eq!(swept(&world, new.submitted.plus(secs(10_000))).await, 0);
    assert_eq!((world.result(job).await, world.queue.len().await), (before, 0));
}

#[tokio::test(start_paused = true)]
async fn a_job_erased_meanwhile_is_passed_over() {
    let world = World::new(Behaviour::default()).await;
    let (gone, submitted) = unsent(&world, &["a.wav"]).await;
    let (_, _) = unsent(&world, &["b.wav"]).await;
    let due = world.store.due(submitted.plus(secs(60)), 10).await.expect("up");
    assert_eq!(due.len(), 2);
    world.store.inner.expire(gone);
    for due in &due {
        let now = submitted.plus(secs(60));
        let depth = world.queue.held().await;
        let repair = world.lifecycle().repair(due, depth, CLAIM_TIMEOUT, now).await;
        assert_eq!(repair.expect("up").sent, usize::from(due.job != gone));
    }
}

#[tokio::test(start_paused = true)]
async fn one_job_in_trouble_does_not_keep_the_others_from_repair() {
    let world = World::new(Behaviour::default()).await;
    let mut last = None;
    for _ in 0..5 {
        last = Some(unsent(&world, &["a.wav"]).await.1);
    }
    world.store.fault_next(Op::Chunks, StoreFault::Fail, 1);
    let now = last.expect("five").plus(secs(60));
    assert_eq!(swept(&world, now).await, 4);
    assert_eq!(world.queue.len().await, 4);
    // The queue has messages now, so the fifth waits until it has been silent for long.
    assert_eq!(swept(&world, now.plus(RESEND_AFTER)).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_send_that_fails_is_made_good_at_a_later_sweep() {
    let world = World::new(Behaviour::default()).await;
    let (_, submitted) = unsent(&world, &["a.wav"]).await;
    world.queue.fail(Kind::Send, unavailable());
    swept(&world, submitted.plus(secs(60))).await;
    world.queue.heal();
    assert_eq!(world.queue.len().await, 0);
    assert_eq!(swept(&world, submitted.plus(secs(121))).await, 1);
    assert_eq!(world.queue.len().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_sweeper_outlives_a_table_and_a_queue_that_are_down() {
    let world = World::new(Behaviour::default()).await;
    let mut new = world.job(&["a.wav"], true);
    new.submitted = new.submitted.minus(secs(60));
    create(&world, &new).await;
    world.store.fault(|op| if op == Op::Due { StoreFault::Fail } else { StoreFault::None });
    let running = tokio::spawn(sweeper(&world).run());
    sleep(secs(100)).await;
    let sweeps = world.store.count(Op::Due);
    assert!((5..=10).contains(&sweeps), "{sweeps} sweeps in 100 s of 15 s pauses");
    world.store.heal();
    world.queue.fail(Kind::Depth, unavailable());
    sleep(secs(100)).await;
    assert_eq!(world.queue.len().await, 0);
    world.queue.heal();
    sleep(secs(20)).await;
    assert_eq!(world.queue.len().await, 1);
    assert!(!running.is_finished());
}
