//! Deletes: in batches, every entry's answer read, the failed ones tried again.

use longhand_shared::queue::QueueError;
use longhand_worker::runner::Outcome;
use tokio::time::sleep;

use crate::support::{
    Fault, FaultyQueue, Kind, Running, eventually, limits, messages, script, secs, unavailable,
};

#[tokio::test(start_paused = true)]
async fn what_ends_within_a_moment_is_deleted_in_one_call() {
    let queue = FaultyQueue::holding(&messages(25)).await;
    let handler = script(|_, _| async {
        sleep(secs(3)).await;
        Outcome::Done
    });
    let running = Running::start(&queue, None, handler.clone(), limits(25));
    eventually("all are done", || handler.ended().len() == 25).await;
    running.stop().await;
    assert_eq!(queue.sizes(Kind::Delete), [10, 10, 5]);
    assert_eq!(queue.len().await, 0);
}

#[tokio::test(start_paused = true)]
async fn of_a_partial_batch_delete_the_failed_entries_are_tried_again_and_no_others() {
    let queue = FaultyQueue::holding(&messages(5)).await;
    let mut calls = 0;
    queue.fault(move |call| {
        calls += usize::from(call.kind == Kind::Delete);
        match (call.kind, calls) {
            (Kind::Delete, 1) => Fault::FailEntries(vec![1, 3], unavailable()),
            (Kind::Delete, 2) => Fault::FailEntries(vec![0], QueueError::Refused("no".to_owned())),
            _ => Fault::None,
        }
    });
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler.clone(), limits(5));
    eventually("three deletes were asked for", || queue.calls(Kind::Delete).len() == 3).await;
    running.stop().await;
    let deletes = queue.calls(Kind::Delete);
    assert_eq!(queue.sizes(Kind::Delete), [5, 2, 1]);
    assert_eq!(deletes[1].entries, [deletes[0].entries[1].clone(), deletes[0].entries[3].clone()]);
    assert_eq!(deletes[2].entries, [deletes[1].entries[0].clone()]);
    assert_eq!((queue.len().await, handler.ended().len()), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn a_delete_of_what_is_no_longer_ours_is_not_tried_again() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    queue.fail(Kind::Delete, QueueError::LeaseLost("ran out".to_owned()));
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler, limits(1));
    sleep(secs(20)).await;
    assert_eq!(queue.calls(Kind::Delete).len(), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_delete_fails_for_good_comes_again_and_is_deleted_then() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    queue.fail(Kind::Delete, unavailable());
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    sleep(secs(29)).await;
    assert_eq!(queue.calls(Kind::Delete).len(), 4, "tried four times and no more");
    assert_eq!(handler.ended().len(), 1);
    queue.heal();
    eventually("it came again", || handler.ended().len() == 2).await;
    running.stop().await;
    assert_eq!(handler.receive_counts("0"), [1, 2]);
    assert_eq!(queue.len().await, 0);
}
