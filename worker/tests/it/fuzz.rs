//! Ten thousand messages that nobody should send, among real ones, through a worker whose table has hiccups.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::JobStatus;
use longhand_shared::queue::{ChunkMessage, Delivery, Envelope, Outgoing, Progress};
use longhand_sim_asr::{Behaviour, text_for};
use longhand_worker::dead_letters::DeadLetters;
use longhand_worker::lease::Lease;
use longhand_worker::runner::{Handler, Outcome, Runner};
use longhand_worker::slots::Slots;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::{Op, StoreFault, World, limits, secs};

const MESSAGES: usize = 10_000;
const SLOTS: usize = 8;

/// Another one by `LONGHAND_TEST_SEED`.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("LONGHAND_TEST_SEED").ok();
    given.map_or(1, |text| text.parse().expect("LONGHAND_TEST_SEED is a number"))
}

/// A handler, watched: what it was given, what came of it, and whether it panicked.
struct Watched<H> {
    inner: H,
    dice: Mutex<StdRng>,
    outcomes: Mutex<Vec<Outcome>>,
    wrong: Mutex<Vec<String>>,
}

impl<H> Watched<H> {
    fn new(inner: H) -> Arc<Self> {
        let dice = Mutex::new(StdRng::seed_from_u64(seed()));
        Arc::new(Self { inner, dice, outcomes: Mutex::default(), wrong: Mutex::default() })
    }

    fn complain(&self, what: &str, delivery: &Delivery) {
        self.wrong.lock().push(format!("{what}: {delivery:?}"));
    }

    fn wrong(&self) -> Vec<String> {
        self.wrong.lock().clone()
    }

    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        let outcomes = self.outcomes.lock();
        outcomes.iter().filter(|outcome| which(outcome)).count()
    }
}

#[async_trait]
impl<H: Handler> Handler for Watched<H> {
    async fn handle(&self, delivery: &Delivery, lease: &Lease) -> Outcome {
        let receive_count = {
            let mut dice = self.dice.lock();
            *[delivery.receive_count, delivery.receive_count, 0, 7, u32::MAX]
                .choose(&mut *dice)
                .expect("some")
        };
        let odd = Delivery { receive_count, ..delivery.clone() };
        let Ok(outcome) = AssertUnwindSafe(self.inner.handle(&odd, lease)).catch_unwind().await else {
            self.complain("panic", &odd);
            return Outcome::Retry { delay: Duration::ZERO };
        };
        self.outcomes.lock().push(outcome.clone());
        outcome
    }
}

/// What SQS takes in a body and in an attribute of type String.
fn is_fit_for_sqs(text: &str) -> bool {
    let fit = |c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    !text.is_empty() && text.chars().all(fit)
}

fn text(dice: &mut StdRng, longest: usize) -> String {
    let length = dice.random_range(0..=longest);
    let character = |dice: &mut StdRng| match dice.random_range(0..4) {
        0 => dice.random_range(' '..='~'),
        1 => dice.random_range('\0'..='\u{ff}'),
        2 => *['"', '\\', '{', '}', '[', '\u{feff}', '\u{fffe}', '\u{2028}'].choose(dice).expect("some"),
        _ => dice.random::<char>(),
    };
    (0..length).map(|_| character(dice)).collect()
}

fn any_json(dice: &mut StdRng, depth: usize) -> Value {
    match dice.random_range(0..if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => dice.random::<bool>().into(),
        2 => dice.random::<i64>().into(),
        3 => [0.5, 1e300, -0.0, 24.0].choose(dice).copied().into(),
        4 => [0, 1, 2, MAX_CHUNKS as u64 - 1, MAX_CHUNKS as u64, u64::MAX].choose(dice).copied().into(),
        5 => text(dice, 20).into(),
        6 => (0..dice.random_range(0..5)).map(|_| any_json(dice, depth - 1)).collect(),
        _ => Value::Object(
            (0..dice.random_range(0..5))
                .map(|_| (text(dice, 8), any_json(dice, depth - 1)))
                .collect::<Map<_, _>>(),
        ),
    }
}

/// A real body with a field taken away, or of another type or value.
fn changed_field(dice: &mut StdRng, body: &str) -> String {
    let mut value: Value = serde_json::from_str(body).expect("a real body");
    let fields = ["version", "jobId", "chunkIndex", "audioChunkPath", "options", "unknown"];
    let field = *fields.choose(dice).expect("some");
    let paths = [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "s3://../x",
        "file:///etc/passwd",
        "s3://other/x",
        "\0",
    ];
    value[field] = match (field, dice.random_range(0..3)) {
        ("version", 0) => json!(2),
        ("chunkIndex", 0) => [json!(MAX_CHUNKS), json!(-1), json!(1.5), json!(1e300), json!(255), json!(256)]
            .choose(dice)
            .cloned()
            .into(),
        ("jobId", 0) => longhand_shared::JobId::random().to_string().into(),
        ("jobId", 1) => value["jobId"].as_str().map(str::to_uppercase).into(),
        ("audioChunkPath", 0 | 1) => paths.choose(dice).copied().into(),
        ("options", 0) => json!({"language": text(dice, 10), "prompt": text(dice, 1200)}),
        _ => any_json(dice, 3),
    };
    if dice.random_range(0..4) == 0 {
        value.as_object_mut().expect("an object").remove(field);
    }
    value.to_string()
}

/// A real body with bytes flipped, put in, or cut off; or with a field there twice.
fn damaged(dice: &mut StdRng, body: &str) -> String {
    let mut bytes = body.as_bytes().to_vec();
    let place = dice.random_range(0..bytes.len());
    match dice.random_range(0..5) {
        0 => bytes[place] ^= 1 << dice.random_range(0..8),
        1 => bytes.truncate(place),
        2 => drop(bytes.splice(place..place, text(dice, 5).into_bytes())),
        3 => drop(bytes.splice(1..1, br#""chunkIndex":0,"#.iter().copied())),
        _ => bytes.extend_from_slice(body.as_bytes()),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn some_count(dice: &mut StdRng) -> u32 {
    [0, 0, 1, 299, 300, u32::MAX].choose(dice).copied().unwrap_or(0)
}

fn envelope(dice: &mut StdRng) -> Envelope {
    let mut some = |chance: u32| dice.random_ratio(1, chance).then(|| text(dice, 40));
    let (origin, reason, traceparent) = (some(3), some(3), some(4));
    Envelope {
        traceparent,
        origin,
        reason,
        requeues: some_count(dice),
        progress: Progress { tries: some_count(dice), outages: some_count(dice), audio: some_count(dice) },
    }
}

/// A message that nobody should send; where it is like a real one, like one of these.
fn odd_message(dice: &mut StdRng, real: &[String]) -> Outgoing {
    let like = real.choose(dice).expect("some");
    let body = match dice.random_range(0..12) {
        0 => text(dice, 300),
        1 => any_json(dice, 5).to_string(),
        2 => "[{\"a\":".repeat(dice.random_range(1..3_000)),
        3 => format!("{{\"version\":{}}}", "9".repeat(dice.random_range(1..2_000))),
        4..7 => damaged(dice, like),
        7..11 => changed_field(dice, like),
        _ => like.clone(),
    };
    let group = dice.random::<bool>().then(|| text(dice, 10));
    let delay =
        Duration::from_secs(if dice.random_range(0..20) == 0 { dice.random_range(0..900) } else { 0 });
    Outgoing { body, group, envelope: envelope(dice), delay }
}

/// Real jobs complete, jobs whose messages were forged end, invalid messages are among the dead letters
/// with a reason, and every slot is free again.
#[tokio::test(start_paused = true)]
#[expect(clippy::too_many_lines, reason = "one scenario, in order")]
async fn ten_thousand_messages_that_nobody_should_send_harm_nobody() {
    eprintln!("LONGHAND_TEST_SEED={}", seed());
    let mut dice = StdRng::seed_from_u64(seed());
    let world = World::new(Behaviour::default()).await;
    let mut faults = StdRng::seed_from_u64(seed());
    world.store.fault(move |op| match faults.random_range(0..60) {
        0 if op != Op::Create => StoreFault::Fail,
        1 if op != Op::Create => StoreFault::LostAnswer,
        _ => StoreFault::None,
    });
    let (slots, stop) = (Slots::new(SLOTS), CancellationToken::new());
    let working = Watched::new(world.processor());
    let dead_letters = Watched::new(DeadLetters { lifecycle: world.lifecycle() });
    let (queue, dead) = (Arc::clone(&world.queue), Arc::clone(&world.dead));
    let runner = Runner::with_slots(
        Arc::clone(&queue) as _,
        Some(Arc::clone(&dead) as _),
        working.clone(),
        limits(SLOTS),
        Arc::clone(&slots),
    );
    let pulse = runner.pulse();
    let running = tokio::spawn(runner.run(stop.clone()));
    let consumer = Runner::new(dead.clone(), None, dead_letters.clone(), limits(4));
    let consuming = tokio::spawn(consumer.run(stop.clone()));

    let (mut forged, mut real) = (Vec::new(), Vec::new());
    for turn in 0..20 {
        let names = [format!("forged{turn}.wav"), format!("forged{turn}b.wav")];
        let new = world.job(&names.each_ref().map(String::as_str), true);
        let bodies: Vec<_> =
            new.chunks().iter().map(|chunk| ChunkMessage::outgoing(&new.job(), chunk, None).body).collect();
        let half: Vec<_> = (0..MESSAGES / 40).map(|_| odd_message(&mut dice, &bodies)).collect();
        queue.put(&half).await;
        forged.push(world.send(&new).await);
        let half: Vec<_> = (0..MESSAGES / 40).map(|_| odd_message(&mut dice, &bodies)).collect();
        queue.put(&half).await;
        let names = [0, 1, 2].map(|chunk| format!("real{turn}-{chunk}.wav"));
        let job = world.submit(&names.each_ref().map(String::as_str)).await;
        real.push((job, names.map(|name| text_for(&name)).join(" ")));
        // The queue in memory is slow when it is long.
        while queue.held().await.visible > 100 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    for (job, text) in real {
        let result = world.ended(job).await;
        assert_eq!((result.job_status, result.transcription), (JobStatus::Completed, Some(text)));
    }
    for job in forged {
        world.ended(job).await;
    }
    world.emptied().await;
    assert_eq!(pulse.in_hand(), 0);
    let late = world.submit(&["late.wav"]).await;
    assert_eq!(world.ended(late).await.job_status, JobStatus::Completed);

    stop.cancel();
    running.await.expect("no panic").expect("it ends when it is asked to");
    consuming.await.expect("no panic").expect("it ends when it is asked to");
    assert_eq!(slots.take().await.len(), SLOTS, "all slots are free");
    assert_eq!((working.wrong(), dead_letters.wrong()), (vec![], vec![]));
    // Whatever was parked among the dead letters is visible again.
    sleep(secs(1_000)).await;
    let letters = dead.drain().await;
    assert_eq!(letters.len(), working.count(|outcome| matches!(outcome, Outcome::Reject { .. })));
    for letter in &letters {
        let reason = letter.envelope.reason.as_deref().unwrap_or_default();
        assert!(ChunkMessage::parse(&letter.body).is_err(), "{letter:?}");
        assert!(is_fit_for_sqs(reason) && reason.len() < 1_000, "{reason:?} of {} bytes", reason.len());
    }
    let done = working.count(|outcome| *outcome == Outcome::Done);
    assert!(letters.len() > MESSAGES / 4 && done > MESSAGES / 8, "{} letters, {done} done", letters.len());
}
