//! Slots, and what becomes of a message for each outcome.

use std::sync::Arc;
use std::time::Duration;

use longhand_shared::queue::{Envelope, Outgoing, QueueError};
use longhand_worker::runner::{EndedEarly, Outcome, Runner};
use longhand_worker::slots::Slots;
use tokio::sync::Barrier;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Fault, FaultyQueue, Kind, Running, eventually, limits, message, messages, script, secs, unavailable,
};

#[tokio::test(start_paused = true)]
async fn there_are_never_more_in_hand_than_slots() {
    let queue = FaultyQueue::holding(&messages(30)).await;
    let handler = script(|delivery, _| async move {
        sleep(Duration::from_millis(delivery.body.parse::<u64>().expect("a number") * 37 % 400)).await;
        Outcome::Done
    });
    let running = Running::start(&queue, None, handler.clone(), limits(4));
    eventually("all are done", || handler.ended().len() == 30).await;
    running.stop().await;
    assert_eq!(handler.most(), 4);
    assert_eq!(queue.len().await, 0);
    assert!(queue.calls(Kind::Receive).iter().all(|call| (1..=4).contains(&call.max)));
}

#[tokio::test(start_paused = true)]
async fn concurrent_receives_over_the_same_slots_never_have_more_in_hand() {
    let queue = FaultyQueue::holding(&messages(60)).await;
    let (slots, stop) = (Slots::new(5), CancellationToken::new());
    let handler = script(|delivery, _| async move {
        sleep(Duration::from_millis(delivery.body.parse::<u64>().expect("a number") * 53 % 700)).await;
        Outcome::Done
    });
    let runners = [(); 3].map(|()| {
        let (queue, slots) = (Arc::clone(&queue) as _, Arc::clone(&slots));
        let runner = Runner::with_slots(queue, None, handler.clone(), limits(99), slots);
        tokio::spawn(runner.run(stop.clone()))
    });
    eventually("some are in hand", || handler.begun().len() > 5).await;
    // What is in hand stays there; nothing new is taken before it is fewer than that.
    slots.resize(2);
    eventually("half are done", || handler.ended().len() > 30).await;
    slots.resize(5);
    eventually("all are done", || handler.ended().len() == 60).await;
    assert_eq!(handler.most(), 5);
    stop.cancel();
    for runner in runners {
        runner.await.expect("no panic").expect("it ends when it is asked to");
    }
    assert_eq!((queue.len().await, slots.take().await.len()), (0, 5), "all slots are free again");
}

#[tokio::test(start_paused = true)]
async fn a_full_worker_does_not_ask_for_more() {
    let queue = FaultyQueue::holding(&messages(3)).await;
    let handler = script(|_, _| async {
        sleep(secs(60)).await;
        Outcome::Done
    });
    let running = Running::start(&queue, None, handler.clone(), limits(2));
    sleep(secs(59)).await;
    assert_eq!(queue.calls(Kind::Receive).len(), 1);
    assert_eq!((handler.begun().len(), queue.held().await.visible), (2, 1));
    assert_eq!(running.pulse.in_hand(), 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_at_most_ten() {
    let queue = FaultyQueue::holding(&messages(25)).await;
    let together = Arc::new(Barrier::new(25));
    let handler = script(move |_, _| {
        let together = Arc::clone(&together);
        async move {
            together.wait().await;
            Outcome::Done
        }
    });
    let running = Running::start(&queue, None, handler.clone(), limits(25));
    eventually("all are done", || handler.ended().len() == 25).await;
    running.stop().await;
    let asked: Vec<_> = queue.calls(Kind::Receive).iter().take(3).map(|call| call.max).collect();
    assert_eq!(asked, [10, 10, 5]);
    assert_eq!(queue.sizes(Kind::Delete), [10, 10, 5]);
}

#[tokio::test(start_paused = true)]
async fn slots_are_refilled_one_by_one() {
    let queue = FaultyQueue::holding(&messages(6)).await;
    let handler = script(|delivery, _| async move {
        sleep(if delivery.body == "0" { secs(100) } else { secs(1) }).await;
        Outcome::Done
    });
    let began = Instant::now();
    let running = Running::start(&queue, None, handler.clone(), limits(2));
    eventually("the short ones are done", || handler.ended().len() == 5).await;
    assert!(began.elapsed() < secs(6), "the long one held nobody up: {:?}", began.elapsed());
    eventually("the long one is done", || handler.ended().len() == 6).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_message_id_in_one_batch_takes_no_slot_away() {
    let queue = FaultyQueue::holding(&messages(3)).await;
    queue.fault(|call| if call.kind == Kind::Receive { Fault::Duplicate } else { Fault::None });
    let handler = script(|_, _| async {
        sleep(secs(1)).await;
        Outcome::Done
    });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    eventually("all came twice", || handler.ended().len() == 6).await;
    queue.heal();
    queue.put(&[message("late")]).await;
    eventually("the slot is free", || handler.ended().len() >= 7).await;
    sleep(secs(1)).await;
    assert_eq!(running.pulse.in_hand(), 0);
    running.stop().await;
    assert_eq!(queue.len().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_frees_its_slot_and_goes_to_the_dead_letters_with_its_reason() {
    let (queue, dead) = (FaultyQueue::holding(&[]).await, FaultyQueue::holding(&[]).await);
    let envelope = Envelope { traceparent: Some("00-1-2-01".to_owned()), requeues: 2, ..Envelope::default() };
    let sent = Outgoing { group: Some("ana".to_owned()), envelope, ..message("garbage") };
    queue.put(&vec![sent; 3]).await;
    let handler = script(|_, _| async { Outcome::Reject { reason: "no JSON".to_owned() } });
    let began = Instant::now();
    let running = Running::start(&queue, Some(&dead), handler.clone(), limits(1));
    eventually("all are rejected", || handler.ended().len() == 3).await;
    assert!(began.elapsed() < secs(1));
    running.stop().await;
    assert_eq!(queue.len().await, 0);
    let letters = dead.drain().await;
    assert_eq!(letters.len(), 3);
    for letter in letters {
        assert_eq!((letter.body.as_str(), letter.group.as_deref()), ("garbage", Some("ana")));
        assert_eq!(letter.envelope.reason.as_deref(), Some("no JSON"));
        assert_eq!(letter.envelope.requeues, 2);
        assert_eq!(letter.envelope.traceparent.as_deref(), Some("00-1-2-01"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_stays_while_the_dead_letters_cannot_be_reached() {
    let (queue, dead) = (FaultyQueue::holding(&messages(1)).await, FaultyQueue::holding(&[]).await);
    dead.fail(Kind::Send, unavailable());
    let handler = script(|_, _| async { Outcome::Reject { reason: "no JSON".to_owned() } });
    let running = Running::start(&queue, Some(&dead), handler.clone(), limits(1));
    eventually("it came twice", || handler.ended().len() == 2).await;
    assert_eq!((queue.calls(Kind::Delete).len(), queue.len().await), (0, 1));
    dead.heal();
    eventually("it came once more", || handler.ended().len() == 3).await;
    running.stop().await;
    assert_eq!((queue.len().await, dead.len().await), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_requeued_message_is_a_fresh_copy() {
    let envelope = Envelope { traceparent: Some("00-1-2-01".to_owned()), requeues: 3, ..Envelope::default() };
    let sent = Outgoing { group: Some("ana".to_owned()), envelope: envelope.clone(), ..message("a") };
    let queue = FaultyQueue::holding(&[sent]).await;
    let handler = script(|delivery, _| async move {
        if delivery.envelope.requeues < 5 { Outcome::Requeue { delay: secs(7) } } else { Outcome::Done }
    });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    eventually("it is done", || handler.ended().len() == 3).await;
    running.stop().await;
    let begun = handler.begun();
    for (turn, (_, delivery)) in (3..).zip(&begun) {
        assert_eq!((delivery.receive_count, delivery.group.as_deref()), (1, Some("ana")));
        assert_eq!(delivery.origin(), begun[0].1.message_id, "what all copies have in common");
        let origin = (turn > 3).then(|| begun[0].1.message_id.clone());
        assert_eq!(delivery.envelope, Envelope { requeues: turn, origin, ..envelope.clone() });
    }
    assert!(begun.windows(2).all(|pair| pair[1].0 - pair[0].0 >= secs(7)));
    assert_eq!(queue.len().await, 0, "the old ones are deleted");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_requeued_is_made_visible_instead() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    queue.fail(Kind::Send, unavailable());
    let handler = script(|delivery, _| async move {
        if delivery.receive_count == 1 { Outcome::Requeue { delay: secs(7) } } else { Outcome::Done }
    });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    eventually("it is done", || handler.ended().len() == 2).await;
    running.stop().await;
    let begun = handler.begun();
    let gap = begun[1].0 - begun[0].0;
    assert!((secs(7)..secs(8)).contains(&gap), "not after its visibility of 30 s: {gap:?}");
    assert_eq!(begun[1].1.envelope.requeues, 0);
    assert_eq!((queue.calls(Kind::Delete).len(), queue.len().await), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_retried_message_comes_again_after_its_delay_and_its_receives_count_on() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    let handler = script(|delivery, _| async move {
        if delivery.receive_count < 3 { Outcome::Retry { delay: secs(40) } } else { Outcome::Done }
    });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    eventually("it is done", || handler.ended().len() == 3).await;
    running.stop().await;
    assert_eq!(handler.receive_counts("0"), [1, 2, 3]);
    let begun = handler.begun();
    assert!(begun.windows(2).all(|pair| (secs(40)..secs(41)).contains(&(pair[1].0 - pair[0].0))));
    assert_eq!(queue.calls(Kind::Send).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_retry_whose_visibility_cannot_be_set_comes_when_it_runs_out() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    queue.fail(Kind::Change, QueueError::Refused("12 hours at most".to_owned()));
    let handler = script(|delivery, _| async move {
        if delivery.receive_count == 1 { Outcome::Retry { delay: secs(1) } } else { Outcome::Done }
    });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    eventually("it is done", || handler.ended().len() == 2).await;
    running.stop().await;
    let begun = handler.begun();
    assert!((secs(30)..secs(31)).contains(&(begun[1].0 - begun[0].0)));
}

#[tokio::test(start_paused = true)]
async fn a_panic_frees_the_slot_and_the_message_comes_again() {
    let queue = FaultyQueue::holding(&messages(2)).await;
    let handler = script(|delivery, _| async move {
        assert!(delivery.body != "0" || delivery.receive_count > 1, "a bug in the handler");
        Outcome::Done
    });
    let began = Instant::now();
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    eventually("both are done", || handler.ended().len() == 2).await;
    assert!(began.elapsed() < secs(5), "sooner than its visibility runs out");
    running.stop().await;
    assert_eq!(handler.receive_counts("0"), [1, 2]);
    assert_eq!(handler.receive_counts("1"), [1]);
    assert_eq!(queue.len().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_receive_that_is_never_answered_keeps_no_other_from_being_received() {
    let queue = FaultyQueue::holding(&[]).await;
    let mut receives = 0;
    queue.fault(move |call| {
        receives += usize::from(call.kind == Kind::Receive);
        if call.kind == Kind::Receive && receives == 1 { Fault::Hang } else { Fault::None }
    });
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler.clone(), limits(20));
    sleep(secs(1)).await;
    queue.put(&messages(3)).await;
    let sent = Instant::now();
    eventually("all are done", || handler.ended().len() == 3).await;
    assert!(
        sent.elapsed() <= secs(6),
        "a second after the first receive should have ended: {:?}",
        sent.elapsed()
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_queue_is_received_by_many_loops() {
    let queue = FaultyQueue::holding(&messages(400)).await;
    queue.fault(|call| if call.kind == Kind::Receive { Fault::Slow(secs(1)) } else { Fault::None });
    let handler = script(|_, _| async { Outcome::Done });
    let began = Instant::now();
    let running = Running::start(&queue, None, handler.clone(), limits(300));
    eventually("all are done", || handler.ended().len() == 400).await;
    assert!(began.elapsed() < secs(10), "{:?} for 40 receives of a second", began.elapsed());
    let during = queue.calls(Kind::Receive).len();
    assert!((41..=48).contains(&during), "{during} receives");
    // Quiet again: one loop with a long poll.
    queue.heal();
    sleep(secs(600)).await;
    let quiet = queue.calls(Kind::Receive).len() - during;
    assert!((118..=122).contains(&quiet), "{quiet} receives in 600 s of polls of 5 s");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_receive_that_is_never_answered_is_given_up() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    queue.hang(Kind::Receive);
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    sleep(secs(9)).await;
    assert_eq!(queue.calls(Kind::Receive).len(), 1);
    queue.heal();
    eventually("it is done", || handler.ended().len() == 1).await;
    running.stop().await;
}

/// No part of a worker may end unnoticed: the whole of it drains, and says which part it was.
#[tokio::test(start_paused = true)]
async fn a_part_that_ends_by_itself_ends_the_runner() {
    for (kind, part) in [(Kind::Receive, "a receive loop"), (Kind::Change, "the lease keeper")] {
        let queue = FaultyQueue::holding(&messages(1)).await;
        queue.fault(move |call| if call.kind == kind { panic!("as the test wants it") } else { Fault::None });
        let handler = script(|_, lease| async move {
            lease.stopped().await;
            Outcome::Requeue { delay: Duration::ZERO }
        });
        let runner = Runner::new(Arc::clone(&queue) as _, None, handler, limits(1));
        let stop = CancellationToken::new();
        assert_eq!(runner.run(stop.clone()).await, Err(EndedEarly(part)));
        assert!(!stop.is_cancelled(), "who runs it decides about the rest");
        assert_eq!(queue.len().await, 1, "the message is kept");
    }
}
