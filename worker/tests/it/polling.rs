//! Receiving that neither dies nor spins.

use std::io::{Seek, read_to_string};
use std::sync::Arc;
use std::time::Duration;

use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::queue::QueueError;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::store::memory::MemoryStore;
use longhand_worker::asr::guard::Guard;
use longhand_worker::runner::Outcome;
use longhand_worker::sweeper::SweepSettings;
use longhand_worker::{Parts, Worker, health};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Fault, FaultyQueue, Kind, Running, asr_settings, audio_store, eventually, limits, message, script, secs,
    unavailable,
};

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

/// A restart would not mend a queue that is silent; and a receive that is tried thrice takes half a minute.
#[tokio::test(start_paused = true)]
async fn receives_that_are_never_answered_in_time_are_signs_of_life() {
    let queue = FaultyQueue::holding(&[]).await;
    queue.fault(|call| if call.kind == Kind::Receive { Fault::SlowFail(secs(33)) } else { Fault::None });
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler, limits(1));
    for _ in 0..1800 {
        sleep(secs(1)).await;
        let age = running.pulse.last_poll_age();
        assert!(age <= secs(35), "{age:?}");
    }
    running.stop().await;
}

/// Set for the process that is measured.
const ALONE: &str = "LONGHAND_TEST_ALONE";

/// A whole worker, with chunks, dead letters and sweeper, that has nothing to do. Memory is a process's, so
/// this test runs itself once more in a process of its own.
#[tokio::test(start_paused = true)]
async fn half_a_day_of_empty_polling_takes_no_memory() {
    if std::env::var_os(ALONE).is_none() {
        let program = std::env::current_exe().expect("this program's path");
        let test = ["--exact", "polling::half_a_day_of_empty_polling_takes_no_memory"];
        let output = std::process::Command::new(program).args(test).env(ALONE, "1").output();
        let output = output.expect("it runs");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
        return;
    }
    let (queue, dead) = (Arc::new(MemoryQueue::new()), Arc::new(MemoryQueue::new()));
    let asr = asr_settings("http://127.0.0.1:1".to_owned());
    let audio = audio_store(std::path::Path::new("/"));
    let store = Arc::new(MemoryStore::new());
    let worker = Worker::new(Parts {
        lifecycle: Lifecycle::new(store, queue),
        dead_letters: dead,
        webhooks: None,
        audio,
        asr,
        limits: limits(8),
        sweep: SweepSettings { every: secs(15) },
        name: "w".to_owned(),
    });
    let worker = worker.expect("a worker");
    let (pulse, stop) = (worker.pulse(), CancellationToken::new());
    let running = tokio::spawn(worker.run(stop.clone()));
    sleep(secs(3600)).await;
    let (kilobytes, tasks) = (resident(), Handle::current().metrics().num_alive_tasks());
    sleep(secs(11 * 3600)).await;
    let grown = resident().saturating_sub(kilobytes);
    assert!(grown < 1_024, "{grown} KB more after half a day, on {kilobytes} KB after the first hour");
    assert_eq!((Handle::current().metrics().num_alive_tasks(), pulse.in_hand()), (tasks, 0));
    stop.cancel();
    running.await.expect("no panic").expect("it ends when it is asked to");
}

/// The memory that this process has, in KB, as Linux counts it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux's account of this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(start_paused = true)]
async fn once_a_minute_the_log_has_a_line_that_alarms_can_count() {
    let log = Arc::new(tempfile::tempfile().expect("a file"));
    // With one alone, events that another test's thread is first to come by would be off for all threads.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(Arc::clone(&log)).finish();
    let _logging = tracing::subscriber::set_default(lines);
    let queue = FaultyQueue::holding(&[]).await;
    let handler = script(|_, _| async { Outcome::Done });
    let running = Running::start(&queue, None, handler, limits(3));
    let reporting = tokio::spawn(health::report(Arc::clone(&running.pulse), Guard::new(3, false)));
    sleep(secs(150)).await;
    // Nobody answers any more: that is what no poll looks like.
    queue.fail(Kind::Receive, unavailable());
    sleep(secs(100)).await;
    reporting.abort();
    running.stop().await;

    (&*log).rewind().expect("a file");
    let text = read_to_string(log.as_ref()).expect("a file");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let states: Vec<Value> = lines.filter(|line| line["message"] == "worker state").collect();
    let polls: Vec<u64> = states.iter().map(|state| state["polls"].as_u64().expect("a number")).collect();
    assert!(matches!(polls[..], [(1..), (1..), (1..), 0]), "{text}");
    assert_eq!((&states[0]["circuit_open"], &states[0]["slots"]), (&json!(0), &json!(3)), "{text}");
}
