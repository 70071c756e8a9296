//! Chunks that the model cannot transcribe do not delay other users' chunks, and they end themselves.

use std::time::Duration;

use futures::future::join_all;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::JobStatus;
use longhand_shared::queue::ChunkQueue;
use longhand_sim_asr::{Answer, Behaviour, Latency, Schedule, Step};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep_until};

use crate::support::{Whole, World, secs};

/// What a call of the model takes for good chunks.
const MODEL: Duration = Duration::from_millis(500);

/// `ASR_TIMEOUT_SECONDS`.
const TIMEOUT: Duration = secs(3);

/// The pauses of one chunk between its calls, at most.
const PAUSES: Duration = Duration::from_millis(3_500);

/// What the test's own looks at a job add.
const LOOKS: Duration = Duration::from_millis(100);

/// A user's job: when it is submitted, and what the model answers to each of its chunks, if not a transcription.
#[derive(Clone, Debug)]
struct Plan {
    user: String,
    at: Duration,
    chunks: usize,
    bad: Option<Answer>,
}

impl Plan {
    fn good(number: u32, at: Duration) -> Self {
        Self { user: format!("good-{number}"), at, chunks: 2, bad: None }
    }

    fn bad(number: usize, at: Duration, chunks: usize, answer: Answer) -> Self {
        Self { user: format!("bad-{number}"), at, chunks, bad: Some(answer) }
    }
}

struct Ended {
    plan: Plan,
    status: JobStatus,
    took: Duration,
    attempts: u32,
    errors: Vec<String>,
}

/// Submits it in its time; how it ended.
async fn one(world: &World, began: Instant, plan: &Plan) -> Ended {
    sleep_until(began + plan.at).await;
    let files: Vec<String> = (0..plan.chunks).map(|chunk| format!("{}-{chunk}.wav", plan.user)).collect();
    if let Some(answer) = &plan.bad {
        for file in &files {
            world.sim.script(file, std::iter::repeat_n(answer.clone(), 100));
        }
    }
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let submitted = Instant::now();
    let job = world.send(&world.job_of(&plan.user, &files, true)).await;
    let result = world.ended(job).await;
    let attempts = result.chunks.iter().map(|chunk| chunk.attempts).max().unwrap_or_default();
    let errors =
        result.chunks.iter().filter_map(|chunk| Some(chunk.error.as_ref()?.message.clone())).collect();
    Ended { plan: plan.clone(), status: result.job_status, took: submitted.elapsed(), attempts, errors }
}

async fn run(world: &World, workers: usize, slots: usize, plans: &[Plan]) -> Vec<Ended> {
    let workers: Vec<Whole> = (0..workers).map(|_| world.whole(slots, TIMEOUT)).collect();
    let began = Instant::now();
    let ended = join_all(plans.iter().map(|plan| one(world, began, plan))).await;
    for worker in workers {
        worker.stop().await;
    }
    ended
}

fn model() -> Behaviour {
    #[expect(clippy::cast_possible_truncation, reason = "half a second")]
    Behaviour::taking(Latency::Fixed(MODEL.as_millis() as u64))
}

/// The bound of a bad job: rounds of its chunks, each with all calls and pauses, and half a minute.
fn bad_bound(chunks: usize, slots: usize) -> Duration {
    let rounds = u32::try_from(chunks.div_ceil(slots)).expect("few");
    (TIMEOUT * 4 + PAUSES) * rounds + secs(30)
}

fn kinds() -> [(&'static str, Answer); 5] {
    [
        ("500", Answer::status(500).after_ms(10)),
        ("502", Answer::status(502).after_ms(10)),
        ("reset", Answer::Cut.after_ms(10)),
        ("hang", Answer::Hang),
        ("401", Answer::status(401).after_ms(10)),
    ]
}

/// A bad job on this many workers, in this order, beside this many good jobs.
async fn beside(kind: &str, answer: &Answer, traffic: u32, workers: usize, seed: Option<u64>, slots: usize) {
    let what = format!("{kind}, {traffic} good jobs, {workers} workers, seed {seed:?}, {slots} slots");
    let world = World::with_order(model(), seed).await;
    let mut plans = vec![Plan::bad(0, Duration::ZERO, MAX_CHUNKS, answer.clone())];
    plans.extend((0..traffic).map(|number| Plan::good(number, Duration::from_millis(300) * (number + 1))));
    // Bad chunks that hang hold a slot for a timeout each at first, and later half of all slots.
    let waits = if answer == &Answer::Hang {
        TIMEOUT * u32::try_from((24_usize - 1) / (slots * workers) * 2 + 1).expect("few")
    } else {
        Duration::ZERO
    };
    for Ended { plan, status, took, .. } in run(&world, workers, slots, &plans).await {
        if plan.bad.is_some() {
            assert_eq!(status, JobStatus::Failed, "{what}");
            assert!(took <= bad_bound(MAX_CHUNKS, slots * workers), "{what}: the bad job took {took:?}");
        } else {
            assert_eq!(status, JobStatus::Completed, "{what}");
            assert!(took <= MODEL + secs(2) + waits + LOOKS, "{what}: {} took {took:?}", plan.user);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bad_chunks_delay_nobody_else_and_end() {
    for (kind, answer) in kinds() {
        for traffic in [1, 40] {
            for workers in [1, 3] {
                for seed in [None, Some(7)] {
                    beside(kind, &answer, traffic, workers, seed, 32).await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn more_bad_chunks_than_slots_delay_nobody_else() {
    for (kind, answer) in kinds() {
        for seed in [None, Some(7)] {
            beside(kind, &answer, 20, 1, seed, 8).await;
        }
    }
}

/// For five minutes the model is down, and one user has all the traffic.
#[tokio::test(start_paused = true)]
async fn an_outage_of_five_minutes_costs_no_attempt() {
    for down in [Answer::status(503), Answer::Hang, Answer::Cut, Answer::status(401), Answer::status(402)] {
        let world = World::new(model()).await;
        let bad = Behaviour::answering(down.clone());
        world.sim.schedule(Schedule(vec![Step::new(2_000, bad), Step::new(302_000, model())]));
        let plans: Vec<Plan> = (0..30)
            .map(|number| Plan { user: "ana".to_owned(), at: secs(2) * number, chunks: 6, bad: None })
            .collect();
        let began = Instant::now();
        let worker = world.whole(8, TIMEOUT);
        let calls = async {
            sleep_until(began + secs(20)).await;
            let before = world.sim.books().calls;
            sleep_until(began + secs(301)).await;
            world.sim.books().calls - before
        };
        let jobs = join_all(plans.iter().map(|plan| one(&world, began, plan)));
        let (calls, ended) = tokio::join!(calls, jobs);
        assert!(calls <= 20, "{down:?}: {calls} calls in 281 s, one probe in 15 to 30 s");
        for Ended { status, attempts, .. } in ended {
            assert_eq!((status, attempts), (JobStatus::Completed, 1), "{down:?}");
        }
        let books = world.sim.books();
        assert!(books.most_in_flight <= 9, "{down:?}: {} calls at once", books.most_in_flight);
        worker.stop().await;
    }
}

/// A chunk that stops the model for a while each time it is sent fails, and only that one: also if others are sent with
/// it each time, since calls are long and all returning chunks wait for the same probe.
#[tokio::test(start_paused = true)]
async fn a_chunk_that_stops_the_model_fails_after_three_outages() {
    for seed in [None, Some(1), Some(2), Some(3)] {
        stops_the_model(seed).await;
    }
}

async fn stops_the_model(seed: Option<u64>) {
    let model = || Behaviour::taking(Latency::Fixed(2_500));
    let world = World::with_order(model(), seed).await;
    let worker = world.whole(16, TIMEOUT);
    let killer = async {
        loop {
            let before = world.sim.books().file("bad-0-0.wav").calls;
            let killed = world.sim.wait_until(|books| books.file("bad-0-0.wav").calls > before, secs(3_600));
            if !killed.await {
                return;
            }
            world.sim.set(Behaviour::answering(Answer::Cut));
            world.sim.cut_calls();
            tokio::time::sleep(secs(20)).await;
            world.sim.set(model());
        }
    };
    let began = Instant::now();
    let mut plans = vec![Plan::bad(0, Duration::ZERO, 1, Answer::Cut)];
    plans.extend((0..5).map(|number| Plan::good(number, Duration::ZERO)));
    plans.extend((5..10).map(|number| Plan::good(number, secs(5) * number)));
    let jobs = join_all(plans.iter().map(|plan| one(&world, began, plan)));
    let ended = tokio::select! {
        ended = jobs => ended,
        () = killer => panic!("the chunk is sent again within an hour"),
    };
    for Ended { plan, status, errors, .. } in ended {
        let expected = if plan.bad.is_some() { JobStatus::Failed } else { JobStatus::Completed };
        assert_eq!(status, expected, "seed {seed:?}: {} {errors:?}", plan.user);
    }
    worker.stop().await;
}

/// Chunks that met two outages are sent one at a time. The others wait in the queue, so that they take no slots.
#[tokio::test(start_paused = true)]
async fn chunks_before_their_last_chance_delay_nobody_else() {
    let world = World::new(model()).await;
    let files: Vec<String> = (0..MAX_CHUNKS).map(|chunk| format!("suspect-{chunk}.wav")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let job = world.send(&world.job_of("ana", &files, true)).await;
    let mut copies = Vec::new();
    for delivery in world.queue.drain().await {
        let mut copy = delivery.requeued(Duration::ZERO);
        copy.envelope.progress.outages = 2;
        copies.push(copy);
        world.queue.delete(&[delivery.receipt]).await;
    }
    assert_eq!(copies.len(), MAX_CHUNKS);
    world.queue.put(&copies).await;
    let worker = world.whole(2, TIMEOUT);
    for number in 0..4 {
        let Ended { status, took, .. } =
            one(&world, Instant::now(), &Plan::good(number, Duration::ZERO)).await;
        assert_eq!(status, JobStatus::Completed);
        assert!(took <= MODEL + secs(2) + LOOKS, "{number}: {took:?}");
    }
    assert_eq!(world.ended(job).await.job_status, JobStatus::Completed);
    worker.stop().await;
}

/// Random mixes of users, bad chunks and outages: every good job ends as completed, in bounded time, every bad one
/// ends.
#[tokio::test(start_paused = true)]
async fn every_job_ends_whatever_the_mix() {
    let seed: u64 = std::env::var("LONGHAND_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for round in 0..12 {
        let mut dice = StdRng::seed_from_u64(seed * 1_000 + round);
        let what = format!("LONGHAND_TEST_SEED={seed}, round {round}");
        let world = World::with_order(model(), dice.random_bool(0.5).then_some(round)).await;
        let outage = secs(dice.random_range(0..90));
        let from = secs(dice.random_range(1..20));
        let bad = Behaviour::answering(kinds()[dice.random_range(0..4)].1.clone());
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).expect("minutes");
        world.sim.schedule(Schedule(vec![
            Step::new(milliseconds(from), bad),
            Step::new(milliseconds(from + outage), model()),
        ]));
        let slots = dice.random_range(4..32);
        let mut plans = Vec::new();
        let mut bad_chunks = 0;
        for number in 0..dice.random_range(1..4) {
            let answer = kinds()[dice.random_range(0..4)].1.clone();
            let chunks = dice.random_range(1..=MAX_CHUNKS);
            bad_chunks += chunks;
            plans.push(Plan::bad(number, secs(dice.random_range(0..30)), chunks, answer));
        }
        plans.extend((0..20).map(|number| Plan::good(number, secs(dice.random_range(0..60)))));
        // An outage is noticed after two timeouts, and its end after the longest pause; each chunk may meet it twice.
        let slack = outage + secs(120);
        for Ended { plan, status, took, errors, .. } in
            run(&world, dice.random_range(1..=3), slots, &plans).await
        {
            if plan.bad.is_some() {
                assert_eq!(status, JobStatus::Failed, "{what}");
                assert!(took <= bad_bound(bad_chunks, slots) * 2 + slack, "{what}: {plan:?} took {took:?}");
            } else {
                assert_eq!(status, JobStatus::Completed, "{what}: {plan:?} {errors:?}");
                assert!(took <= bad_bound(bad_chunks, slots) + slack, "{what}: {plan:?} took {took:?}");
            }
        }
    }
}
