//! Leases: renewed in time and in batches; a lost lease stops its work; none is renewed after its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longhand_shared::queue::{ChunkQueue, Delivery, QueueError};
use longhand_worker::lease::{Lease, Leases, Stop};
use longhand_worker::runner::{Limits, Outcome};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Fault, FaultyQueue, Kind, Running, eventually, limits, message, messages, script, secs, unavailable,
};

/// Leases of 30 s, 100 s at most, being kept.
struct Kept {
    queue: Arc<FaultyQueue>,
    leases: Arc<Leases>,
    deliveries: Vec<Delivery>,
    held: Vec<Lease>,
    began: Instant,
}

async fn keep(count: usize) -> Kept {
    let queue = FaultyQueue::holding(&messages(count)).await;
    let leases = Arc::new(Leases::new(Arc::clone(&queue) as _, secs(30), secs(100)));
    let began = Instant::now();
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        deliveries.extend(queue.receive(10, secs(1), secs(30)).await.expect("memory answers"));
    }
    let held = deliveries.iter().map(|it| leases.begin(it.receipt.clone(), began)).collect();
    let keeper = Arc::clone(&leases);
    tokio::spawn(async move { keeper.keep(&CancellationToken::new()).await });
    Kept { queue, leases, deliveries, held, began }
}

/// When and why a lease was stopped.
async fn stopped(kept: &Kept, place: usize) -> (Stop, Duration) {
    let why = timeout(secs(1000), kept.held[place].stopped()).await.expect("it is stopped");
    (why, kept.began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn visibility_is_renewed_after_half_of_its_timeout() {
    let kept = keep(1).await;
    sleep(secs(95)).await;
    let mut at = vec![kept.began];
    at.extend(kept.queue.calls(Kind::Change).iter().map(|call| call.began));
    let gaps: Vec<_> = at.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert!((5..=7).contains(&gaps.len()), "{gaps:?}");
    assert!(gaps.iter().all(|gap| (13_700..=16_300).contains(gap)), "{gaps:?}");
    assert_eq!(kept.queue.held().await.in_flight, 1, "it was ours all the time");
}

#[tokio::test(start_paused = true)]
async fn short_work_is_not_renewed() {
    let queue = FaultyQueue::holding(&messages(5)).await;
    let handler = script(|_, _| async {
        sleep(secs(8)).await;
        Outcome::Done
    });
    let running = Running::start(&queue, None, handler.clone(), limits(5));
    eventually("all are done", || handler.ended().len() == 5).await;
    running.stop().await;
    assert_eq!(queue.calls(Kind::Change).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn short_work_that_came_late_in_a_long_poll_is_not_renewed() {
    let queue = FaultyQueue::holding(&[]).await;
    let handler = script(|_, _| async {
        sleep(secs(8)).await;
        Outcome::Done
    });
    let limits = Limits { poll: secs(20), ..limits(5) };
    let running = Running::start(&queue, None, handler.clone(), limits);
    sleep(secs(19)).await;
    queue.put(&messages(1)).await;
    eventually("it is done", || handler.ended().len() == 1).await;
    running.stop().await;
    assert_eq!(queue.calls(Kind::Change).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn renewals_of_more_than_ten_go_ten_to_a_call() {
    let kept = keep(25).await;
    sleep(secs(18)).await;
    let mut sizes = kept.queue.sizes(Kind::Change);
    sizes.sort_unstable();
    assert_eq!(sizes, [5, 10, 10]);
    assert_eq!(kept.leases.in_hand(), 25);
}

#[tokio::test(start_paused = true)]
async fn a_failed_entry_is_renewed_again_soon_and_the_others_are_not() {
    let kept = keep(3).await;
    let mut first = true;
    kept.queue.fault(move |call| {
        if call.kind == Kind::Change && std::mem::take(&mut first) {
            return Fault::FailEntries(vec![1], unavailable());
        }
        Fault::None
    });
    sleep(secs(22)).await;
    let calls = kept.queue.calls(Kind::Change);
    assert_eq!(kept.queue.sizes(Kind::Change), [3, 1]);
    assert_eq!(calls[1].entries, [calls[0].entries[1].clone()]);
    let gap = calls[1].began - calls[0].began;
    assert!((secs(2)..=secs(6)).contains(&gap), "{gap:?}");
    sleep(secs(40)).await;
    assert_eq!(kept.queue.held().await.in_flight, 3, "all are ours");
}

#[tokio::test(start_paused = true)]
async fn work_is_stopped_when_its_visibility_runs_out_while_renewals_fail() {
    let kept = keep(1).await;
    kept.queue.fail(Kind::Change, unavailable());
    let (why, after) = stopped(&kept, 0).await;
    assert_eq!(why, Stop::LeaseLost);
    assert!(
        (secs(25)..secs(30)).contains(&after),
        "just before the deadline, which was not moved: {after:?}"
    );
    let tries = kept.queue.calls(Kind::Change).len();
    assert!((4..=9).contains(&tries), "{tries} renewals were tried");
    sleep(secs(60)).await;
    assert_eq!(kept.queue.calls(Kind::Change).len(), tries, "no renewal of what is lost");
    assert!(kept.leases.end(&kept.deliveries[0].receipt).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_never_answered_hides_no_lost_lease() {
    let kept = keep(1).await;
    kept.queue.hang(Kind::Change);
    let (why, after) = stopped(&kept, 0).await;
    assert_eq!(why, Stop::LeaseLost);
    assert!((secs(25)..secs(30)).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_never_answered_costs_the_others_nothing() {
    let kept = keep(15).await;
    let mut first = true;
    kept.queue.fault(move |call| {
        let hangs = call.kind == Kind::Change && call.entries.len() == 10 && std::mem::take(&mut first);
        // No request succeeds at once.
        if hangs { Fault::Hang } else { Fault::Slow(Duration::from_millis(100)) }
    });
    sleep(secs(80)).await;
    assert!(kept.held.iter().all(|lease| !has_stopped(lease)), "one call in trouble lost a lease");
    assert_eq!(kept.queue.held().await.in_flight, 15);
}

fn has_stopped(lease: &Lease) -> bool {
    futures::FutureExt::now_or_never(lease.stopped()).is_some()
}

#[tokio::test(start_paused = true)]
async fn a_renewal_answered_with_lease_lost_stops_that_work_alone() {
    let kept = keep(2).await;
    kept.queue.fault(|call| {
        if call.kind == Kind::Change {
            return Fault::FailEntries(vec![0], QueueError::LeaseLost("gone".to_owned()));
        }
        Fault::None
    });
    sleep(secs(18)).await;
    let lost: Vec<bool> = kept.held.iter().map(has_stopped).collect();
    assert_eq!(lost.iter().filter(|lost| **lost).count(), 1);
    let place = lost.iter().position(|lost| *lost).expect("one is");
    assert_eq!(kept.held[place].stopped().await, Stop::LeaseLost);
    assert!(kept.leases.end(&kept.deliveries[place].receipt).await.is_none());
    assert!(kept.leases.end(&kept.deliveries[1 - place].receipt).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_message_stolen_mid_work_is_left_alone_by_the_one_who_lost_it() {
    let outcomes = [
        Outcome::Requeue { delay: Duration::ZERO },
        Outcome::Retry { delay: Duration::ZERO },
        Outcome::Reject { reason: "it is somebody else's to say so".to_owned() },
    ];
    for outcome in outcomes {
        let queue = FaultyQueue::holding(&messages(1)).await;
        queue.fail(Kind::Change, QueueError::LeaseLost("stolen".to_owned()));
        let returned = outcome.clone();
        let handler = script(move |delivery, lease| {
            let returned = returned.clone();
            async move {
                if delivery.receive_count > 1 {
                    return Outcome::Done;
                }
                assert_eq!(lease.stopped().await, Stop::LeaseLost);
                returned
            }
        });
        let running = Running::start(&queue, None, handler.clone(), limits(1));
        eventually("the work was stopped", || handler.ended().len() == 1).await;
        sleep(secs(10)).await;
        assert_eq!(queue.calls(Kind::Send).len() + queue.calls(Kind::Delete).len(), 0, "{outcome:?}");
        assert_eq!(queue.calls(Kind::Change).len(), 1, "{outcome:?}: the renewal, and nothing after it");
        eventually("the second delivery is done", || handler.ended().len() == 2).await;
        running.stop().await;
        assert_eq!(handler.receive_counts("0"), [1, 2]);
    }
}

/// A handler may take long after it was stopped for another reason. Its message may have been delivered again then.
#[tokio::test(start_paused = true)]
async fn a_message_that_is_lost_after_its_work_was_stopped_is_left_alone() {
    let long = limits(1);
    let cases = [
        (Stop::Overdue, Limits { visibility: secs(12), longest: secs(10), ..long }),
        (Stop::Draining, Limits { visibility: secs(12), drain: secs(60), ..long }),
    ];
    for (expected, limits) in cases {
        let queue = FaultyQueue::holding(&messages(1)).await;
        let stopped = Arc::new(AtomicBool::new(false));
        let lost = Arc::clone(&stopped);
        queue.fault(move |call| match call.kind {
            Kind::Change if lost.load(Ordering::Relaxed) => {
                Fault::Fail(QueueError::LeaseLost("stolen".to_owned()))
            }
            _ => Fault::None,
        });
        let handler = script(move |_, lease: Lease| {
            let stopped = Arc::clone(&stopped);
            async move {
                assert_eq!(lease.stopped().await, expected);
                stopped.store(true, Ordering::Relaxed);
                sleep(secs(13)).await;
                Outcome::Requeue { delay: Duration::ZERO }
            }
        });
        let running = Running::start(&queue, None, handler.clone(), limits);
        eventually("it is in hand", || handler.begun().len() == 1).await;
        if expected == Stop::Draining {
            running.stop.cancel();
        }
        eventually("the work has ended", || handler.ended().len() == 1).await;
        sleep(secs(1)).await;
        assert_eq!(queue.calls(Kind::Send).len() + queue.calls(Kind::Delete).len(), 0, "{expected:?}");
        drop(running);
    }
}

/// Also while a worker drains. Otherwise another worker could receive a message whose copy is on its way.
#[tokio::test(start_paused = true)]
async fn a_message_is_renewed_while_its_copy_is_sent() {
    for (drains, work, send) in [(false, secs(5), secs(25)), (true, secs(1_000), secs(13))] {
        let queue = FaultyQueue::holding(&messages(1)).await;
        queue.fault(move |call| if call.kind == Kind::Send { Fault::Slow(send) } else { Fault::None });
        let handler = script(move |delivery, lease: Lease| async move {
            if delivery.envelope.requeues > 0 {
                return Outcome::Done;
            }
            let _ = timeout(work, lease.stopped()).await;
            Outcome::Requeue { delay: Duration::ZERO }
        });
        let limits = Limits { visibility: secs(12), drain: secs(60), ..limits(2) };
        let running = Running::start(&queue, None, handler.clone(), limits);
        eventually("it is in hand", || handler.begun().len() == 1).await;
        if drains {
            running.stop.cancel();
        }
        eventually("it is deleted", || queue.calls(Kind::Delete).len() == 1).await;
        let sent = queue.calls(Kind::Send).remove(0);
        let renewed = |from, to| {
            let renewals = queue.calls(Kind::Change);
            renewals.into_iter().filter(|renewal| (from..to).contains(&renewal.began)).count()
        };
        assert!(renewed(sent.began, sent.ended.expect("answered")) >= 1, "drains: {drains}");
        assert_eq!(renewed(sent.ended.expect("answered"), Instant::now() + secs(1)), 0, "drains: {drains}");
        assert!(handler.receive_counts("0").iter().all(|count| *count == 1), "drains: {drains}");
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_renewed_up_to_the_longest_time_only_and_its_work_is_stopped() {
    let kept = keep(1).await;
    let (why, after) = stopped(&kept, 0).await;
    assert_eq!(why, Stop::Overdue);
    assert!((secs(100)..=secs(103)).contains(&after), "{after:?}");
    let renewals = kept.queue.calls(Kind::Change).len();
    sleep(secs(60)).await;
    assert_eq!(kept.queue.calls(Kind::Change).len(), renewals);
    assert_eq!(kept.queue.held().await.visible, 1, "others can have it");
}

#[tokio::test(start_paused = true)]
async fn only_the_first_reason_to_stop_counts() {
    let kept = keep(1).await;
    kept.leases.stop_all(Stop::Draining);
    kept.held[0].stop(Stop::LeaseLost);
    assert_eq!(kept.held[0].stopped().await, Stop::Draining);
    assert!(kept.leases.end(&kept.deliveries[0].receipt).await.is_some(), "it is still ours to give back");
    assert!(kept.leases.end(&kept.deliveries[0].receipt).await.is_none(), "it ends once");
    assert_eq!(kept.leases.in_hand(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_in_flight_ends_before_the_delete_and_none_follows() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    queue.fault(|call| if call.kind == Kind::Change { Fault::Slow(secs(4)) } else { Fault::None });
    let handler = script(|_, _| async {
        sleep(secs(16)).await;
        Outcome::Done
    });
    let running = Running::start(&queue, None, handler.clone(), limits(1));
    eventually("it is deleted", || queue.calls(Kind::Delete).len() == 1).await;
    sleep(secs(60)).await;
    running.stop().await;
    let (renewals, deletes) = (queue.calls(Kind::Change), queue.calls(Kind::Delete));
    assert_eq!(renewals.len(), 1, "none after the end");
    assert!(renewals[0].began < handler.ended()[0].0, "it was in flight when the work ended");
    assert!(renewals[0].ended.expect("answered") <= deletes[0].began);
    assert_eq!((queue.len().await, handler.ended().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_very_short_visibility_is_kept_up() {
    let queue = FaultyQueue::holding(&messages(1)).await;
    let handler = script(|_, lease: Lease| async move {
        tokio::select! {
            why = lease.stopped() => panic!("stopped: {why:?}"),
            () = sleep(secs(20)) => Outcome::Done,
        }
    });
    let limits = Limits { visibility: secs(3), ..limits(2) };
    let running = Running::start(&queue, None, handler.clone(), limits);
    eventually("it is done", || handler.ended().len() == 1).await;
    running.stop().await;
    assert_eq!((handler.receive_counts("0"), queue.len().await), (vec![1], 0));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_came_late_in_a_poll_longer_than_its_visibility_is_ours() {
    let queue = FaultyQueue::holding(&[]).await;
    let handler = script(|_, lease: Lease| async move {
        tokio::select! {
            why = lease.stopped() => Outcome::Reject { reason: format!("stopped: {why:?}") },
            () = sleep(secs(20)) => Outcome::Done,
        }
    });
    let limits = Limits { visibility: secs(3), ..limits(2) };
    let running = Running::start(&queue, None, handler.clone(), limits);
    sleep(Duration::from_millis(4_500)).await;
    queue.put(&[message("late")]).await;
    eventually("it has ended", || !handler.ended().is_empty()).await;
    running.stop().await;
    let took = handler.ended()[0].0 - handler.begun()[0].0;
    assert_eq!(took.as_secs(), 20, "its work was not stopped");
    assert_eq!((handler.receive_counts("late"), queue.len().await), (vec![1], 0));
}
