//! Stopping: take nothing new, finish or give back what is in hand, end in time.

use std::sync::Arc;
use std::time::Duration;

use longhand_worker::lease::Stop;
use longhand_worker::runner::{Limits, Outcome, Runner};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Fault, FaultyQueue, Kind, Running, eventually, limits, message, messages, script, secs, unavailable,
};

/// What is allowed over a limit: the clock's rounding, and a last tick.
const A_MOMENT: Duration = Duration::from_millis(200);

#[tokio::test(start_paused = true)]
async fn what_a_receive_brings_after_the_stop_is_given_back_and_not_started() {
    let queue = FaultyQueue::holding(&[]).await;
    let handler = script(|_, lease| async move {
        tokio::select! {
            biased;
            why = lease.stopped() => {
                assert_eq!(why, Stop::Draining);
                Outcome::Requeue { delay: Duration::ZERO }
            }
            () = sleep(secs(5)) => Outcome::Done,
        }
    });
    let running = Running::start(&queue, None, handler.clone(), limits(4));
    sleep(secs(2)).await;
    running.stop.cancel();
    sleep(secs(1)).await;
    queue.put(&messages(3)).await;
    let took = running.stop().await;
    assert!(took <= A_MOMENT, "nothing was worked on: {took:?}");
    assert_eq!(handler.begun().len(), 3);
    assert_eq!(queue.calls(Kind::Receive).len(), 1, "nothing was received after the stop");
    let left = queue.drain().await;
    assert_eq!(left.len(), 3, "visible at once");
    assert!(left.iter().all(|delivery| delivery.receive_count == 1 && delivery.envelope.requeues == 1));
    assert_eq!(queue.len().await, 3, "no old copy is left");
}

#[tokio::test(start_paused = true)]
async fn work_done_in_time_finishes_and_the_rest_is_stopped() {
    let queue = FaultyQueue::holding(&[message("short"), message("long"), message("waiting")]).await;
    let handler = script(|delivery, lease| async move {
        let work = if delivery.body == "short" { secs(10) } else { secs(1000) };
        tokio::select! {
            why = lease.stopped() => {
                assert_eq!(why, Stop::Draining);
                Outcome::Requeue { delay: Duration::ZERO }
            }
            () = sleep(work) => Outcome::Done,
        }
    });
    let running = Running::start(&queue, None, handler.clone(), limits(2));
    eventually("two are in hand", || handler.begun().len() == 2).await;
    let took = running.stop().await;
    assert!((secs(16)..secs(16) + A_MOMENT).contains(&took), "after two thirds of 24 s: {took:?}");
    assert_eq!(handler.begun().len(), 2, "nothing new was begun");
    let mut left: Vec<_> = queue.drain().await.into_iter().map(|it| (it.body, it.receive_count)).collect();
    left.sort();
    assert_eq!(left, [("long".to_owned(), 1), ("waiting".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_hand_is_renewed_while_it_is_finished() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    let handler = script(|_, _| async {
        sleep(secs(45)).await;
        Outcome::Done
    });
    let running = Running::start(&queue, None, handler.clone(), limits_with_drain(90));
    eventually("it is in hand", || handler.begun().len() == 1).await;
    let took = running.stop().await;
    assert!((secs(44)..secs(46)).contains(&took), "{took:?}");
    assert_eq!((handler.receive_counts("0"), queue.len().await), (vec![1], 0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_whose_time_runs_out_ends_though_a_handler_ignores_it() {
    let queue = FaultyQueue::holding(&messages(2)).await;
    let handler = script(|_, _| std::future::pending());
    let running = Running::start(&queue, None, handler.clone(), limits(2));
    eventually("both are in hand", || handler.begun().len() == 2).await;
    let took = running.stop().await;
    assert!(took <= secs(24) + A_MOMENT, "{took:?}");
    sleep(secs(31)).await;
    assert_eq!(queue.held().await.visible, 2, "nobody renews them any more: others can have them");
}

#[tokio::test(start_paused = true)]
async fn no_call_that_is_never_answered_holds_the_end_up() {
    for kind in [Kind::Receive, Kind::Change, Kind::Delete, Kind::Send] {
        let queue = FaultyQueue::holding(&messages(2)).await;
        let handler = script(|delivery, lease| async move {
            if delivery.body == "1" {
                sleep(secs(12)).await;
                return Outcome::Done;
            }
            lease.stopped().await;
            Outcome::Requeue { delay: Duration::ZERO }
        });
        let running = Running::start(&queue, None, handler.clone(), limits(3));
        eventually("both are in hand", || handler.begun().len() == 2).await;
        queue.hang(kind);
        // By then a renewal and a new receive are in flight.
        sleep(secs(11)).await;
        let took = running.stop().await;
        assert!(took <= secs(24) + A_MOMENT, "with {kind:?} hanging: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_double_stop_is_one_stop() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    let handler = script(|_, _| async {
        sleep(secs(3)).await;
        Outcome::Done
    });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    eventually("it is in hand", || handler.begun().len() == 1).await;
    running.stop.cancel();
    sleep(secs(1)).await;
    running.stop.cancel();
    assert!(running.is_running());
    assert!(running.stop().await < secs(3));
    assert_eq!((handler.ended().len(), queue.len().await), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_the_queue_fails_ends_at_once() {
    let queue = FaultyQueue::holding(&[]).await;
    queue.fail(Kind::Receive, unavailable());
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler, limits(1));
    sleep(secs(600)).await;
    let took = running.stop().await;
    assert!(took <= A_MOMENT, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_first_message_ends_with_the_poll() {
    let queue = FaultyQueue::holding(&[]).await;
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler, limits(1));
    let began = Instant::now();
    let took = running.stop().await;
    assert!(took <= secs(5) + A_MOMENT, "{took:?}");
    assert!(queue.calls(Kind::Receive).iter().all(|call| call.began == began));
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_begins_after_the_stop_receives_nothing() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    let handler = script(|_, _| async { Outcome::Done });
    let stop = CancellationToken::new();
    stop.cancel();
    let runner = Runner::new(Arc::clone(&queue) as _, None, handler.clone(), limits(1));
    runner.run(stop).await.expect("it ends when it is asked to");
    assert_eq!((queue.calls(Kind::Receive).len(), handler.begun().len()), (0, 0));
}

/// The same receipt handle twice is one message in hand.
#[tokio::test(start_paused = true)]
async fn a_message_that_came_twice_in_one_answer_is_given_back_by_a_stop() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    queue.fault(|call| if call.kind == Kind::Receive { Fault::Double } else { Fault::None });
    let handler = script(|_, lease| async move {
        lease.stopped().await;
        Outcome::Requeue { delay: Duration::ZERO }
    });
    let running = Running::start(&queue, None, handler.clone(), limits(4));
    eventually("it is in hand", || !handler.begun().is_empty()).await;
    let took = running.stop().await;
    assert!(took <= secs(16) + A_MOMENT, "all work was asked to stop: {took:?}");
    let left = queue.drain().await;
    assert_eq!((left.len(), left[0].receive_count, left[0].envelope.requeues), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn deletes_are_done_before_the_end() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    let mut left = 2;
    queue.fault(move |call| {
        if call.kind == Kind::Delete && left > 0 {
            left -= 1;
            return Fault::Fail(unavailable());
        }
        Fault::None
    });
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    eventually("it is done", || handler.ended().len() == 1).await;
    running.stop().await;
    assert_eq!(queue.len().await, 0);
}

fn limits_with_drain(seconds: u64) -> Limits {
    Limits { drain: secs(seconds), ..limits(4) }
}
