//! The history of a chunk's attempts: when, by which worker, how long, and the outcome.

use std::time::Duration;

use longhand_shared::domain::attempt::AttemptOutcome;
use longhand_shared::domain::job::{ErrorCode, JobStatus};
use longhand_sim_asr::{Answer, Behaviour, Latency};
use longhand_worker::runner::Limits;
use tokio::time::sleep;

use crate::support::{World, limits, secs};

/// The outcomes of the first chunk's attempts, with the model's calls in each.
async fn records(world: &World, job: longhand_shared::JobId) -> Vec<(AttemptOutcome, Option<u32>)> {
    let history = world.result(job).await.chunks.remove(0).history;
    history.iter().map(|attempt| (attempt.outcome, attempt.asr_calls)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_goes_well_has_one_attempt_to_tell() {
    let world = World::new(Behaviour::default()).await;
    world.sim.script("a.wav", [Answer::status(500), Answer::Echo]);
    let job = world.submit(&["a.wav"]).await;
    let running = world.work();
    let mut result = world.ended(job).await;
    running.stop().await;
    let attempt = result.chunks[0].history.remove(0);
    assert_eq!((attempt.outcome, attempt.asr_calls), (AttemptOutcome::Completed, Some(2)));
    assert_eq!(attempt.code, None);
    assert!(attempt.worker.starts_with("worker-") && !attempt.worker.contains("w-1"), "{}", attempt.worker);
    assert!(attempt.seconds.is_some() && result.chunks[0].history.is_empty());
}

#[tokio::test(start_paused = true)]
async fn calls_that_failed_show_while_others_follow() {
    let world = World::new(Behaviour::default()).await;
    world.sim.script("a.wav", [Answer::Hang, Answer::status_retry_after(500, "15"), Answer::Echo]);
    let job = world.submit(&["a.wav"]).await;
    let mut asr = crate::support::asr_settings(world.sim.base_url());
    asr.timeout = secs(5);
    let running = world.work_with(world.processor_with(asr), limits(8));
    let mut seen = Vec::new();
    let ended = loop {
        let result = world.result(job).await;
        let last = result.chunks[0].history.last().cloned();
        if let Some((code, calls, most)) =
            last.and_then(|last| Some((last.code?, last.asr_calls?, last.most_calls?)))
            && seen.last() != Some(&(code, calls, most))
        {
            seen.push((code, calls, most));
        }
        if result.completed_time.is_some() {
            break result;
        }
        sleep(Duration::from_millis(50)).await;
    };
    running.stop().await;
    assert_eq!(seen, [(ErrorCode::AsrTimeout, 1, 4), (ErrorCode::AsrUnavailable, 2, 4)]);
    let last = &ended.chunks[0].history[0];
    assert_eq!((last.outcome, last.asr_calls, last.code), (AttemptOutcome::Completed, Some(3), None));
    assert_eq!(last.most_calls, None);
}

#[tokio::test(start_paused = true)]
async fn throttling_and_an_outage_are_distinct_and_use_no_attempt() {
    let world = World::new(Behaviour::default()).await;
    world.sim.script("a.wav", [Answer::status_retry_after(429, "60"), Answer::status_retry_after(503, "60")]);
    let job = world.submit(&["a.wav"]).await;
    let running = world.work();
    let result = world.ended(job).await;
    running.stop().await;
    assert_eq!(result.chunks[0].attempts, 1);
    let once = Some(1);
    let (throttled, down) = (AttemptOutcome::Throttled, AttemptOutcome::ModelDown);
    assert_eq!(
        records(&world, job).await,
        [(throttled, once), (down, once), (AttemptOutcome::Completed, once)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_says_so_and_the_next_one_goes_on() {
    let world = World::new(Behaviour::taking(Latency::Fixed(300_000))).await;
    let job = world.submit(&["a.wav"]).await;
    let first = world.work();
    sleep(secs(1)).await;
    assert_eq!(records(&world, job).await, [(AttemptOutcome::Running, None)]);
    first.stop().await;
    world.sim.set(Behaviour::default());
    let second = world.work();
    let result = world.ended(job).await;
    second.stop().await;
    assert_eq!(result.chunks[0].attempts, 1);
    let once = Some(1);
    assert_eq!(
        records(&world, job).await,
        [(AttemptOutcome::Drained, once), (AttemptOutcome::Completed, once)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_never_done_in_time_fails_with_its_history() {
    let world = World::new(Behaviour::taking(Latency::Fixed(3_600_000))).await;
    let job = world.submit(&["a.wav"]).await;
    let mut asr = crate::support::asr_settings(world.sim.base_url());
    asr.timeout = secs(1_000);
    let longest = Limits { longest: secs(60), ..limits(8) };
    let running = world.work_with(world.processor_with(asr), longest);
    let consumer = world.consume_dead_letters();
    let result = world.ended(job).await;
    running.stop().await;
    consumer.stop().await;
    assert_eq!(result.job_status, JobStatus::Failed);
    let chunk = &result.chunks[0];
    assert_eq!(chunk.error.as_ref().map(|error| error.code), Some(ErrorCode::DeadLettered));
    assert_eq!(records(&world, job).await, [(AttemptOutcome::Overdue, Some(1)); 3]);
    assert_eq!(chunk.attempts, 3);
}
