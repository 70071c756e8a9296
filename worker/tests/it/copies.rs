//! Several copies of one message, as they arise when a message is put back and the answer is lost: the chunk ends about
//! as soon as with one, and the model is called little more often. And an old receipt handle that still works does no
//! harm.

use std::time::Duration;

use longhand_shared::domain::job::{ChunkStatus, JobStatus};
use longhand_shared::queue::Depth;
use longhand_sim_asr::{Answer, Behaviour, Latency};
use tokio::time::{Instant, sleep};

use crate::support::{Fault, Kind, Op, StoreFault, World, eventually, limits, secs};

/// How the copies differ.
#[derive(Clone, Copy, Debug)]
enum Copies {
    /// All were sent by the same put-back.
    Twins,
    /// Each was sent by a put-back of the one before.
    Chain,
    /// The same, and the last arrives first.
    ChainBackwards,
}

/// How often each copy was put back, in the order of their arrival.
fn generations(copies: Copies, count: u32) -> Vec<u32> {
    match copies {
        Copies::Twins => vec![1; count as usize],
        Copies::Chain => (1..=count).collect(),
        Copies::ChainBackwards => (1..=count).rev().collect(),
    }
}

/// How one call of the model ends, each after the same time.
fn kinds(call: Duration) -> [(&'static str, Vec<Answer>); 4] {
    let after = u64::try_from(call.as_millis()).expect("minutes");
    let refused = |status| Answer::status(status).after_ms(after);
    [
        ("always 500", vec![refused(500); 100]),
        ("always too late", vec![Answer::Hang; 100]),
        ("402 twice, then a transcription", vec![refused(402), refused(402), Answer::Echo.after_ms(after)]),
        ("500 twice, then a transcription", vec![refused(500), refused(500), Answer::Echo.after_ms(after)]),
    ]
}

struct Ended {
    status: JobStatus,
    took: Duration,
    calls: u64,
}

/// A job of one chunk with copies of its message, which arrive `apart` from each other.
async fn run(answers: &[Answer], call: Duration, generations: &[u32], apart: Duration) -> Ended {
    let world = World::new(Behaviour::taking(Latency::Fixed(100))).await;
    world.sim.script("a.wav", answers.iter().cloned());
    let job = world.submit(&["a.wav"]).await;
    let first = world.queue.drain().await.remove(0);
    for (number, generation) in (0..).zip(generations) {
        let mut copy = first.requeued(apart * number);
        copy.envelope.requeues = *generation;
        world.queue.put(&[copy]).await;
    }
    let timeout = if answers[0] == Answer::Hang { call } else { call * 2 };
    let (began, workers) = (Instant::now(), [world.whole(8, timeout), world.whole(8, timeout)]);
    let result = world.ended(job).await;
    let took = began.elapsed();
    // The first message is in the test's own hands.
    while world.queue.held().await != (Depth { in_flight: 1, ..Depth::default() }) {
        assert!(began.elapsed() < secs(3_600), "the copies are not deleted");
        sleep(secs(1)).await;
    }
    for worker in workers {
        worker.stop().await;
    }
    Ended { status: result.job_status, took, calls: world.sim.books().file("a.wav").calls }
}

/// A later copy takes the chunk over from the one before, which then makes no further call.
#[tokio::test(start_paused = true)]
async fn copies_waste_one_call_each_and_delay_little() {
    // Attempts of 8 s and of 120 s.
    for call in [secs(1), secs(29)] {
        for (kind, answers) in kinds(call) {
            let attempt = call * 4 + secs(4);
            for copies in [Copies::Twins, Copies::Chain, Copies::ChainBackwards] {
                for count in [2, 5] {
                    let last = if matches!(copies, Copies::Twins) { 1 } else { count };
                    let alone = run(&answers, call, &[last], Duration::ZERO).await;
                    for apart in [Duration::ZERO, call] {
                        let what = format!("{kind}, calls of {call:?}, {count} {copies:?}, {apart:?} apart");
                        let ended = run(&answers, call, &generations(copies, count), apart).await;
                        assert_eq!(ended.status, alone.status, "{what}");
                        // The pauses of messages that are put back are random.
                        let jitter = if kind.starts_with("402") { alone.took } else { Duration::ZERO };
                        let longest = alone.took + attempt * 2 + jitter;
                        assert!(ended.took <= longest, "{what}: {:?}, alone {:?}", ended.took, alone.took);
                        let most = alone.calls + u64::from(count);
                        assert!(ended.calls <= most, "{what}: {} calls, alone {}", ended.calls, alone.calls);
                    }
                }
            }
        }
    }
}

/// The put-back is done and its answer lost, each time: the message and its copy are both in the queue.
#[tokio::test(start_paused = true)]
async fn a_message_whose_put_back_is_never_answered_does_not_multiply() {
    let world = World::new(Behaviour::default()).await;
    let busy = std::iter::repeat_n(Answer::status(402), 6);
    world.sim.script("a.wav", busy);
    let job = world.submit(&["a.wav"]).await;
    world.queue.fault(|call| if call.kind == Kind::Send { Fault::LostAnswer } else { Fault::None });
    let worker = world.work_with(world.processor(), limits(8));
    let result = world.ended(job).await;
    assert_eq!(result.job_status, JobStatus::Completed);
    world.emptied().await;
    worker.stop().await;
    let calls = world.sim.books().file("a.wav").calls;
    assert!(calls <= 7 + 2, "{calls} calls where 7 do");
}

/// The first worker's renewals fail, so that the message is delivered to a second one. The first does not notice: its
/// receipt handle still works. It then fails to put the message back, or fails the chunk, and must not make the
/// second's message visible or delete it.
#[tokio::test(start_paused = true)]
async fn a_message_that_another_has_is_not_touched_with_an_old_receipt() {
    for status in [402, 500] {
        let world = World::new(Behaviour::default()).await;
        world.queue.keep_receipts_valid();
        let slow = Answer::status(status).after_ms(12_000);
        world.sim.script("a.wav", [slow, Answer::Echo.after_ms(25_000)]);
        let job = world.submit(&["a.wav"]).await;
        let mut bounds = limits(1);
        bounds.visibility = secs(10);
        let first = world.work_with(world.processor(), bounds);
        eventually("the first has called", || world.sim.books().file("a.wav").calls == 1).await;
        // SQS says that the renewal was done, and forgets it.
        world.queue.fault(|call| if call.kind == Kind::Change { Fault::Ignored } else { Fault::None });
        let second = world.work_with(world.processor(), bounds);
        eventually("the second has called", || world.sim.books().file("a.wav").calls == 2).await;
        world.queue.heal();
        let before = world.queue.calls(Kind::Send).len();
        eventually("the first has its answer", || world.sim.books().file("a.wav").errors == 1).await;
        let result = world.ended(job).await;
        assert_eq!(result.job_status, JobStatus::Completed, "{status}: by the second");
        assert_eq!(world.sim.books().file("a.wav").calls, 2, "{status}: no third worker had the message");
        assert_eq!(world.queue.calls(Kind::Send).len(), before, "{status}: no copy was sent");
        world.emptied().await;
        first.stop().await;
        second.stop().await;
    }
}

/// A model that refuses the detailed form is asked for the plain one at once, without a pause: that is a call like any
/// other, and a worker that has lost the chunk meanwhile does not make it.
#[tokio::test(start_paused = true)]
async fn a_superseded_worker_does_not_ask_again_in_another_form() {
    let world = World::new(Behaviour::default()).await;
    // The first worker's refusal comes when a later copy has the chunk.
    world.sim.script("a.wav", [Answer::status(400).after_ms(10_000), Answer::Echo.after_ms(20_000)]);
    let job = world.submit(&["a.wav"]).await;
    let message = world.queue.drain().await.remove(0);
    let copy = |generation| {
        let mut copy = message.requeued(Duration::ZERO);
        copy.envelope.requeues = generation;
        copy
    };
    world.queue.put(&[copy(1)]).await;
    let first = world.work_with(world.processor(), limits(1));
    eventually("the first has called", || world.sim.books().file("a.wav").calls == 1).await;
    world.queue.put(&[copy(2)]).await;
    let second = world.work_with(world.processor(), limits(1));
    assert_eq!(world.ended(job).await.job_status, JobStatus::Completed);
    assert_eq!(world.sim.books().file("a.wav").calls, 2, "one for each worker");
    first.stop().await;
    second.stop().await;
}

/// A claim that cannot be checked before a retry is taken to be there.
#[tokio::test(start_paused = true)]
async fn a_table_that_is_down_between_two_calls_does_not_stop_the_second() {
    let world = World::new(Behaviour::default()).await;
    world.sim.script("a.wav", [Answer::status(500)]);
    world.store.fault(|op| if op == Op::IsClaimed { StoreFault::Fail } else { StoreFault::None });
    let job = world.submit(&["a.wav"]).await;
    let worker = world.work();
    assert_eq!(world.ended(job).await.job_status, JobStatus::Completed);
    let chunk = world.chunk(job, 0).await;
    assert_eq!((chunk.status(), chunk.attempt), (ChunkStatus::Completed, 1));
    worker.stop().await;
}
