//! Dead letters end their jobs; invalid messages wait for an operator.

use std::sync::Arc;

use longhand_shared::domain::job::{ChunkStatus, ErrorCode, JobStatus};
use longhand_shared::lifecycle::MAX_REQUEUES;
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery, Envelope, Outgoing};
use longhand_shared::store::JobStore;
use longhand_shared::{Attempt, Timestamp};
use longhand_sim_asr::{Answer, Behaviour, Latency, text_for};
use longhand_worker::runner::{Handler, Outcome};
use tokio::time::sleep;

use crate::support::{
    CLAIM_TIMEOUT, Kind, Op, Running, StoreFault, World, by, chunk_of, limits, message, script, secs,
    unavailable,
};

/// The message as it is when it has gone back as often as may be.
fn last_straw(delivery: &Delivery) -> Outgoing {
    let mut letter = delivery.requeued(secs(0));
    letter.envelope.requeues = MAX_REQUEUES;
    letter
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_kills_nine_workers_fails_and_its_job_ends() {
    let world = World::new(Behaviour::default()).await;
    world.sim.script("a.wav", [Answer::Echo]);
    let job = world.submit(&["a.wav", "poison.wav"]).await;
    let processor = Arc::new(world.processor());
    let store = Arc::clone(&world.store);
    let handler = script(move |delivery, lease| {
        let (processor, store) = (Arc::clone(&processor), Arc::clone(&store));
        async move {
            if delivery.body.contains("poison") {
                let now = Timestamp::now();
                store.claim(chunk_of(job, 1), delivery.claimant("w"), now, CLAIM_TIMEOUT).await.expect("up");
                panic!("this chunk kills its worker");
            }
            processor.handle(&delivery, &lease).await
        }
    });
    let working = Running::start(&world.queue, Some(&world.dead), handler.clone(), limits(2));
    let consumer = world.consume_dead_letters();
    let result = world.ended(job).await;
    working.stop().await;
    consumer.stop().await;
    assert_eq!(result.job_status, JobStatus::Failed);
    assert_eq!(result.transcription, Some(format!("{} [chunk 1 failed]", text_for("a.wav"))));
    let error = result.chunks[1].error.as_ref().expect("it failed");
    assert_eq!(error.code, ErrorCode::DeadLettered);
    let poison = handler.begun().iter().filter(|(_, it)| it.body.contains("poison")).count();
    assert_eq!((poison, world.queue.len().await, world.dead.len().await), (9, 0, 0));
    assert_eq!(result.chunks[1].attempts, 9);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_of_a_settled_chunk_changes_nothing_and_goes() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["a.wav"], true);
    let job = world.send(&new).await;
    let (working, consumer) = (world.work(), world.consume_dead_letters());
    let before = world.ended(job).await;
    world.dead.put(&[ChunkMessage::outgoing(&new.job(), &new.chunks()[0], None)]).await;
    sleep(secs(10)).await;
    working.stop().await;
    consumer.stop().await;
    assert_eq!(world.result(job).await, before);
    assert_eq!((before.job_status, world.dead.len().await), (JobStatus::Completed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_of_a_job_that_is_gone_goes_too() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["a.wav"], true);
    world.dead.put(&[ChunkMessage::outgoing(&new.job(), &new.chunks()[0], None)]).await;
    let consumer = world.consume_dead_letters();
    sleep(secs(10)).await;
    consumer.stop().await;
    assert_eq!(world.dead.len().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_waits_for_the_table() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["a.wav"], true);
    let job = world.send(&new).await;
    let letter = world.queue.drain().await;
    assert_eq!(letter.len(), 1);
    world.dead.put(&[last_straw(&letter[0])]).await;
    world.store.fault(|op| if op == Op::Settle { StoreFault::Fail } else { StoreFault::None });
    let consumer = world.consume_dead_letters();
    sleep(secs(1200)).await;
    assert_eq!(world.dead.len().await, 1);
    assert!(world.store.count(Op::Settle) >= 5);
    world.store.heal();
    let result = world.ended(job).await;
    consumer.stop().await;
    assert_eq!((result.job_status, world.dead.len().await), (JobStatus::Failed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_message_goes_to_the_dead_letters_and_stays_there_in_peace() {
    let world = World::new(Behaviour::taking(Latency::Fixed(1_000))).await;
    let foreign = ["", "hello", "{}", r#"{"version":2,"jobId":"x"}"#, "\u{0}\u{FFFD}"];
    world.queue.put(&foreign.map(message)).await;
    let job = world.submit(&["a.wav"]).await;
    let (working, consumer) = (world.work(), world.consume_dead_letters());
    assert_eq!(world.ended(job).await.job_status, JobStatus::Completed);
    sleep(secs(10)).await;
    let before = world.dead.calls(Kind::Change).len();
    sleep(secs(3600)).await;
    let looks: usize = world.dead.sizes(Kind::Change)[before..].iter().sum();
    assert!((1..=5 * foreign.len()).contains(&looks), "{looks} looks at {} in an hour", foreign.len());
    working.stop().await;
    consumer.stop().await;
    assert_eq!((world.dead.len().await, world.queue.len().await), (5, 0));
    sleep(secs(1000)).await;
    let letters = world.dead.drain().await;
    assert!(letters.iter().all(|letter| letter.envelope.reason.is_some()), "each with its reason");
}

#[tokio::test(start_paused = true)]
async fn foreign_messages_do_not_hold_the_dead_letters_of_jobs_up() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["a.wav"], true);
    let job = world.send(&new).await;
    let letter = world.queue.drain().await.swap_remove(0);
    let letter = last_straw(&letter);
    let mut letters = vec![message("garbage"); 50];
    letters.push(letter);
    world.dead.put(&letters).await;
    let consumer = world.consume_dead_letters();
    sleep(secs(5)).await;
    assert_eq!(world.result(job).await.job_status, JobStatus::Failed);
    consumer.stop().await;
    assert_eq!(world.dead.len().await, 50);
}

#[tokio::test(start_paused = true)]
async fn a_message_rejected_where_there_are_no_dead_letters_stays() {
    let world = World::new(Behaviour::default()).await;
    world.queue.put(&[message("garbage")]).await;
    let handler = script(|_, _| async { Outcome::Reject { reason: "garbage".to_owned() } });
    let running = Running::start(&world.queue, None, handler.clone(), limits(1));
    sleep(secs(20)).await;
    running.stop().await;
    assert_eq!((handler.ended().len(), world.queue.len().await), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_whose_chunk_was_given_back_goes_back_too() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["a.wav"], true);
    let job = world.send(&new).await;
    let letter = world.queue.drain().await.swap_remove(0);
    // Each of three workers gave it back, as one that loses its lease does.
    world
        .store
        .claim(chunk_of(job, 0), by(letter.origin()), Timestamp::now(), CLAIM_TIMEOUT)
        .await
        .expect("up");
    world.store.release(chunk_of(job, 0), &Attempt::number(1)).await.expect("up");
    let mut old = letter.requeued(secs(0));
    old.envelope.requeues = 0;
    world.dead.put(&[old]).await;
    world.queue.fail(Kind::Send, unavailable());
    let consumer = world.consume_dead_letters();
    sleep(secs(30)).await;
    assert_eq!(world.dead.len().await, 1, "it stays while the queue is down");
    world.queue.heal();
    world.queue.delete(&[letter.receipt]).await;
    let working = world.work();
    let result = world.ended(job).await;
    world.emptied().await;
    working.stop().await;
    consumer.stop().await;
    assert_eq!((result.job_status, result.chunks[0].attempts), (JobStatus::Completed, 1));
    assert_eq!(world.dead.len().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_whose_chunk_another_message_has_in_hand_changes_nothing_and_goes() {
    let world = World::new(Behaviour::taking(Latency::Fixed(20_000))).await;
    let new = world.job(&["a.wav"], true);
    let job = world.send(&new).await;
    let (working, consumer) = (world.work(), world.consume_dead_letters());
    assert!(world.sim.wait_until(|books| books.calls == 1, secs(5)).await);
    let copy = ChunkMessage::outgoing(&new.job(), &new.chunks()[0], None);
    let origin = Some("another".to_owned());
    let envelope = Envelope { origin, ..copy.envelope.clone() };
    world.dead.put(&[Outgoing { envelope, ..copy }]).await;
    sleep(secs(5)).await;
    assert_eq!(world.chunk(job, 0).await.status(), ChunkStatus::InProgress);
    assert_eq!(world.dead.len().await, 0);
    assert_eq!(world.ended(job).await.job_status, JobStatus::Completed);
    working.stop().await;
    consumer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_an_older_worker_did_not_know_goes_back_to_the_queue() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["a.wav"], true);
    world.store.create(&new, Timestamp::now()).await.expect("made");
    let mut rejected = ChunkMessage::outgoing(&new.job(), &new.chunks()[0], None);
    rejected.envelope.reason =
        Some("unsupported version 2 of the chunk message: only 1 is supported".to_owned());
    world.dead.put(&[rejected]).await;
    let (working, consumer) = (world.work(), world.consume_dead_letters());
    let result = world.ended(new.id).await;
    working.stop().await;
    consumer.stop().await;
    assert_eq!(result.job_status, JobStatus::Completed, "{result:?}");
    assert_eq!(world.dead.len().await, 0);
}
