//! One chunk's life while the table or the model is down: nothing is lost, nothing is held against the chunk.

use longhand_shared::domain::attempt::AttemptOutcome;
use longhand_shared::domain::job::{ChunkStatus, ErrorCode, JobStatus};
use longhand_shared::queue::Delivery;
use longhand_sim_asr::{Answer, Behaviour, Latency, Schedule, Step, text_for};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::support::{Kind, Op, StoreFault, World, eventually, message, secs, unavailable};

#[tokio::test(start_paused = true)]
async fn a_table_that_is_down_at_the_claim_costs_the_message_nothing() {
    let world = World::new(Behaviour::default()).await;
    let job = world.submit(&["a.wav"]).await;
    world.store.fault_next(Op::Claim, StoreFault::Fail, 6);
    let running = world.work();
    let result = world.ended(job).await;
    running.stop().await;
    assert_eq!((result.job_status, world.store.count(Op::Claim)), (JobStatus::Completed, 7));
    assert_eq!((result.chunks[0].attempts, world.dead.len().await), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_only_takes_longer() {
    let world = World::new(Behaviour::default()).await;
    let job = world.submit(&["a.wav"]).await;
    world.store.fault_next(Op::Claim, StoreFault::LostAnswer, 1);
    let began = Instant::now();
    let running = world.work();
    let result = world.ended(job).await;
    assert!(began.elapsed() < secs(25), "{:?}", began.elapsed());
    running.stop().await;
    assert_eq!((result.job_status, world.sim.books().calls), (JobStatus::Completed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_transcription_outlives_a_hiccup_of_the_table() {
    for op in [Op::Job, Op::Settle, Op::RemoveUnsettled, Op::Chunks, Op::Finish] {
        for fault in [StoreFault::Fail, StoreFault::LostAnswer] {
            let world = World::new(Behaviour::default()).await;
            let job = world.submit(&["a.wav"]).await;
            let mut times = 4;
            world.store.fault(move |step| match step {
                // Without the job, the worker removes the chunk from the unsettled set.
                Op::Job if op == Op::RemoveUnsettled => StoreFault::Fail,
                step if step == op && times > 0 => {
                    times -= 1;
                    fault
                }
                _ => StoreFault::None,
            });
            let running = world.work();
            let result = world.ended(job).await;
            world.emptied().await;
            assert!(world.store.count(op) > 0, "{op:?}");
            running.stop().await;
            assert_eq!(result.transcription, Some(text_for("a.wav")), "{op:?} {fault:?}");
            assert_eq!(world.sim.books().calls, 1, "{op:?} {fault:?}: the model is asked once");
            assert_eq!(world.dead.len().await, 0, "{op:?} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_transcription_that_the_table_rejects_fails_its_chunk() {
    let world = World::new(Behaviour::default()).await;
    let job = world.submit(&["a.wav"]).await;
    world.store.fault_next(Op::Settle, StoreFault::Corrupt, 1);
    let running = world.work();
    let result = world.ended(job).await;
    world.emptied().await;
    running.stop().await;
    assert_eq!((result.job_status, result.transcription), (JobStatus::Failed, None));
    let chunk = &result.chunks[0];
    assert_eq!(chunk.error.as_ref().map(|error| error.code), Some(ErrorCode::Internal));
    let history: Vec<_> =
        chunk.history.iter().map(|attempt| (attempt.outcome, attempt.code, attempt.asr_calls)).collect();
    assert_eq!(history, [(AttemptOutcome::Failed, Some(ErrorCode::Internal), Some(1))]);
    assert_eq!((world.sim.books().calls, world.dead.len().await), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_stays_down_sends_the_message_back_until_it_is_up() {
    let world = World::new(Behaviour::default()).await;
    let job = world.submit(&["a.wav"]).await;
    world.store.fault(|op| if op == Op::Settle { StoreFault::Fail } else { StoreFault::None });
    let running = world.work();
    sleep(secs(300)).await;
    assert!(world.store.count(Op::Settle) > 5);
    world.store.heal();
    let result = world.ended(job).await;
    running.stop().await;
    assert_eq!((result.job_status, world.dead.len().await), (JobStatus::Completed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_fails_a_quarter_of_all_steps_ends_every_job() {
    let world = World::new(Behaviour::taking(Latency::Fixed(2_000))).await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(world.submit(&["a.wav", "b.wav", "c.wav"]).await);
    }
    let mut dice = StdRng::seed_from_u64(7);
    world.store.fault(move |_| match dice.random_range(0..8) {
        0 => StoreFault::Fail,
        1 => StoreFault::LostAnswer,
        _ => StoreFault::None,
    });
    let running = [world.work(), world.work()];
    for job in jobs {
        assert_eq!(world.ended(job).await.job_status, JobStatus::Completed);
    }
    for running in running {
        running.stop().await;
    }
    assert_eq!(world.dead.len().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_the_table_cannot_read_ends_among_the_dead_letters() {
    let world = World::new(Behaviour::default()).await;
    world.submit(&["a.wav"]).await;
    world.store.fault(|op| if op == Op::Claim { StoreFault::Corrupt } else { StoreFault::None });
    let running = world.work();
    sleep(secs(120)).await;
    running.stop().await;
    assert_eq!((world.store.count(Op::Claim), world.sim.books().calls), (3, 0));
    assert_eq!(world.dead.len().await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_model_fails_no_job_and_burns_no_attempt() {
    let world = World::new(Behaviour::answering(Answer::status(503))).await;
    world.sim.schedule(Schedule(vec![Step::new(600_000, Behaviour::default())]));
    let job = world.submit(&["a.wav", "b.wav"]).await;
    let running = world.work_probing();
    sleep(secs(550)).await;
    let chunk = world.chunk(job, 0).await;
    assert_eq!(chunk.attempt - chunk.released, u32::from(chunk.status() == ChunkStatus::InProgress));
    let calls = world.sim.books().calls;
    assert!(calls <= 2 * 4 * 12, "{calls} calls in ten minutes: the pauses grow");
    let result = world.ended(job).await;
    running.stop().await;
    assert_eq!(result.job_status, JobStatus::Completed);
    assert!(result.chunks.iter().all(|chunk| chunk.attempts == 1));
    assert_eq!(world.dead.len().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_sends_the_message_back_for_that_long() {
    let world = World::new(Behaviour::default()).await;
    world.sim.script("a.wav", [Answer::status_retry_after(429, "600")]);
    let job = world.submit(&["a.wav"]).await;
    let began = Instant::now();
    let running = world.work();
    sleep(secs(60)).await;
    assert_eq!((running.pulse.in_hand(), world.queue.held().await.delayed), (0, 1));
    let result = world.ended(job).await;
    let took = began.elapsed();
    running.stop().await;
    assert!((600..=602).contains(&took.as_secs()), "{took:?}");
    assert_eq!((result.job_status, world.sim.books().calls), (JobStatus::Completed, 2));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_the_model_always_fails_on_fails_once_and_for_all() {
    let world = World::new(Behaviour::answering(Answer::status(500))).await;
    let job = world.submit(&["a.wav"]).await;
    let running = world.work();
    let result = world.ended(job).await;
    world.emptied().await;
    running.stop().await;
    let error = result.chunks[0].error.as_ref().expect("it failed");
    assert_eq!((error.code, world.sim.books().calls), (ErrorCode::AsrUnavailable, 4));
    assert_eq!((result.job_status, result.transcription), (JobStatus::Failed, None));
}

#[tokio::test(start_paused = true)]
async fn poison_whose_delete_failed_is_not_processed_again() {
    let world = World::new(Behaviour::answering(Answer::status(400))).await;
    let job = world.submit(&["poison.wav"]).await;
    world.queue.fail(Kind::Delete, unavailable());
    let (running, consumer) = (world.work(), world.consume_dead_letters());
    let failed = world.ended(job).await;
    assert_eq!(failed.job_status, JobStatus::Failed);
    eventually("it came again", || world.store.count(Op::Claim) == 2).await;
    world.queue.heal();
    world.emptied().await;
    running.stop().await;
    consumer.stop().await;
    assert_eq!((world.sim.books().calls, world.result(job).await), (2, failed));
    assert_eq!((world.store.count(Op::Settle), world.dead.len().await), (1, 0));
}

/// An invalid message is moved and not processed; a delete that fails costs a copy for each receive.
#[tokio::test(start_paused = true)]
async fn garbage_whose_deletes_fail_leaves_the_queue_after_three_receives() {
    let world = World::new(Behaviour::default()).await;
    world.queue.put(&[message("garbage")]).await;
    world.queue.fail(Kind::Delete, unavailable());
    let running = world.work();
    sleep(secs(300)).await;
    running.stop().await;
    assert_eq!((world.queue.len().await, world.dead.len().await), (0, 4));
    let has_reason = |letter: &Delivery| letter.envelope.reason.is_some();
    assert_eq!(world.dead.drain().await.iter().filter(|letter| has_reason(letter)).count(), 3);
}
