//! The model is down, or has too much to do, under load: a whole worker, with its limit and its circuit.

use std::time::Duration;

use longhand_shared::JobId;
use longhand_shared::domain::job::JobStatus;
use longhand_shared::queue::{ChunkQueue, Depth};
use longhand_sim_asr::{Answer, Behaviour, ErrorBody, Latency, Schedule, Step};
use tokio::time::Instant;

use crate::support::{Whole, World, secs};

const SLOTS: usize = 20;

fn work(world: &World) -> Whole {
    world.whole(SLOTS, secs(10))
}

async fn jobs(world: &World, count: usize) -> Vec<JobId> {
    let mut jobs = Vec::new();
    for job in 0..count {
        let names: Vec<String> = (0..6).map(|chunk| format!("{job}-{chunk}.wav")).collect();
        jobs.push(world.submit(&names.iter().map(String::as_str).collect::<Vec<_>>()).await);
    }
    jobs
}

fn good() -> Behaviour {
    Behaviour::taking(Latency::Fixed(1_000))
}

/// A minute of `answer` after two seconds that went well.
async fn an_outage_of_a_minute(answer: Answer) {
    let world = World::new(good()).await;
    let bad = Behaviour::answering(answer);
    world.sim.schedule(Schedule(vec![Step::new(2_000, bad), Step::new(62_000, good())]));
    let began = Instant::now();
    let jobs = jobs(&world, 20).await;
    let worker = work(&world);
    tokio::time::sleep_until(began + secs(3)).await;
    let at_first = world.sim.books().calls;
    tokio::time::sleep_until(began + secs(61)).await;
    let during = world.sim.books().calls - at_first;
    // The calls in flight, four for each slot until the probe has failed, and probes, ever more rarely.
    assert!(during <= 5 * SLOTS as u64 + 12, "{during} calls while the model was down");
    assert!(!worker.guard.is_closed());

    for job in jobs {
        let result = world.ended(job).await;
        assert_eq!(result.job_status, JobStatus::Completed, "{result:?}");
        assert!(result.chunks.iter().all(|chunk| chunk.attempts == 1), "no attempt is burnt: {result:?}");
    }
    let books = world.sim.books();
    assert!(books.most_in_flight <= SLOTS + 1, "{} calls at once, a probe among them", books.most_in_flight);
    assert_eq!(world.dead.depth().await, Ok(Depth::default()), "nothing was dead-lettered");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_answers_503_for_a_minute_fails_nothing() {
    an_outage_of_a_minute(Answer::status(503)).await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_answers_500_for_a_minute_fails_nothing() {
    an_outage_of_a_minute(Answer::status_body(500, ErrorBody::Html)).await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_hangs_for_a_minute_fails_nothing() {
    an_outage_of_a_minute(Answer::Hang).await;
}

/// It answers five calls at once, and 429 to the others.
#[tokio::test(start_paused = true)]
async fn a_model_that_throttles_is_given_what_it_takes() {
    let world = World::new(Behaviour { max_concurrent: Some(5), ..good() }).await;
    let jobs = jobs(&world, 40).await;
    let worker = work(&world);
    for job in jobs {
        assert_eq!(world.ended(job).await.job_status, JobStatus::Completed);
    }
    let books = world.sim.books();
    // 240 answers; without the limit there would be several refusals for each.
    assert!(books.status(429) < 120, "{} refusals", books.status(429));
    assert_eq!(world.dead.depth().await, Ok(Depth::default()));
    worker.stop().await;
}

/// One user's audio that the model cannot bear must not stop everybody else's.
#[tokio::test(start_paused = true)]
async fn chunks_that_the_model_cannot_bear_fail_and_the_circuit_stays_closed() {
    let world = World::new(good()).await;
    for chunk in 0..6 {
        world.sim.script(&format!("0-{chunk}.wav"), std::iter::repeat_n(Answer::status(500), 40));
    }
    let jobs = jobs(&world, 2).await;
    let worker = work(&world);
    let bad = world.ended(jobs[0]).await;
    let good = world.ended(jobs[1]).await;
    assert_eq!((bad.job_status, good.job_status), (JobStatus::Failed, JobStatus::Completed));
    assert!(worker.guard.is_closed());
    tokio::time::sleep(Duration::from_millis(1)).await;
    worker.stop().await;
}
