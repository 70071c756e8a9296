//! Receiving that neither dies nor spins.

use std::time::Duration;

use longhand_shared::queue::QueueError;
use longhand_worker::runner::Outcome;
use tokio::time::{Instant, sleep};

use crate::support::{FaultyQueue, Kind, Running, eventually, limits, message, script, secs, unavailable};

#[tokio::test(start_paused = true)]
async fn every_kind_of_error_backs_off_up_to_30_s_and_recovers() {
    let errors = [
        unavailable(),
        QueueError::Refused("403: not yours".to_owned()),
        QueueError::LeaseLost("an odd answer to a receive".to_owned()),
    ];
    for error in errors {
        let queue = FaultyQueue::holding(&[message("a")]).await;
        queue.fail(Kind::Receive, error.clone());
        let handler = script(|_, _| async { Outcome::Done });
        let running = Running::start(&queue, None, handler.clone(), limits(3));
        sleep(secs(1800)).await;

        let began: Vec<Instant> = queue.calls(Kind::Receive).iter().map(|call| call.began).collect();
        let gaps: Vec<Duration> = began.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((60..=135).contains(&gaps.len()), "{error}: {} receives in half an hour", gaps.len());
        for (turn, gap) in gaps.iter().enumerate() {
            let longest = Duration::from_millis(500 << turn.min(6)).min(secs(30));
            let bounds = longest / 2..=longest + Duration::from_millis(2);
            assert!(bounds.contains(gap), "{error}: pause {turn} is {gap:?}, not within {bounds:?}");
        }
        let late = &gaps[10..];
        assert!(late.iter().any(|gap| gap.abs_diff(late[0]) > Duration::from_millis(100)), "no jitter");
        assert!(
            running.pulse.last_poll_age() <= secs(31),
            "it goes on asking, which is all that a restart would do"
        );

        queue.heal();
        let healed = Instant::now();
        eventually("the message is done", || handler.ended().len() == 1).await;
        assert!(healed.elapsed() <= secs(31));
        assert!(running.pulse.last_poll_age() <= secs(1));
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_good_receive_makes_the_pauses_short_again() {
    let queue = FaultyQueue::holding(&[]).await;
    queue.fail(Kind::Receive, unavailable());
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler, limits(1));
    sleep(secs(300)).await;
    queue.heal();
    sleep(secs(40)).await;
    let good = Instant::now();
    queue.fail(Kind::Receive, unavailable());
    sleep(secs(12)).await;
    let after = queue.calls(Kind::Receive).iter().filter(|call| call.began >= good).count();
    assert!((3..=8).contains(&after), "{after} receives in 12 s");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_queue_is_asked_as_often_as_long_polling_says() {
    let queue = FaultyQueue::holding(&[]).await;
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler.clone(), limits(8));
    sleep(secs(3600)).await;
    let receives = queue.calls(Kind::Receive).len();
    assert!((715..=721).contains(&receives), "{receives} receives in an hour of 5 s polls");
    assert_eq!(queue.calls(Kind::Change).len() + queue.calls(Kind::Delete).len(), 0);
    let sent = Instant::now();
    queue.put(&[message("a")]).await;
    eventually("the message is done", || handler.ended().len() == 1).await;
    assert!(sent.elapsed() < secs(1), "a long poll wakes");
    running.stop().await;
}
