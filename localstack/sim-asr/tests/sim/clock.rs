//! Times under tokio's paused clock, with real sockets.

use std::time::Duration;

use longhand_sim_asr::{Answer, Behaviour, Latency, Schedule, Step};
use tokio::time::{Instant, sleep, timeout};

use crate::{answer, form, post, start, status};

#[tokio::test(start_paused = true)]
async fn a_latency_is_exact_and_a_shorter_timeout_expires() {
    let sim = start(Behaviour::taking(Latency::Fixed(7_000))).await;
    let begun = Instant::now();
    let answered = timeout(Duration::from_secs(10), answer(&sim, form("a"))).await;
    assert_eq!(answered.expect("an answer in time").status(), 200);
    // The clock rounds timers up to its next millisecond.
    assert!((7_000..=7_001).contains(&begun.elapsed().as_millis()));

    let too_short = timeout(Duration::from_secs(6), post(&sim, form("a"))).await;
    assert!(too_short.is_err());
}

#[tokio::test(start_paused = true)]
async fn gaps_between_calls_follow_the_clock() {
    let sim = start(Behaviour::default()).await;
    for pause in [0, 500, 1_000, 2_000] {
        sleep(Duration::from_millis(pause)).await;
        assert_eq!(status(&sim, form("a")).await, 200);
    }
    assert_eq!(sim.books().file("a").gaps(), [500, 1_000, 2_000].map(Duration::from_millis));
}

#[tokio::test(start_paused = true)]
async fn durations_of_aborted_and_answered_calls_are_recorded() {
    let sim = start(Behaviour::taking(Latency::Fixed(5_000))).await;
    sim.script("a", [Answer::status(503).after_ms(40), Answer::Hang]);
    assert_eq!(status(&sim, form("a")).await, 503);
    let aborted = timeout(Duration::from_secs(9), post(&sim, form("a"))).await;
    assert!(aborted.is_err());
    assert!(sim.wait_until(|books| books.file("a").aborted == 1, Duration::from_secs(10)).await);
    assert_eq!(status(&sim, form("a")).await, 200);
    let took: Vec<u128> = sim.books().file("a").took.iter().map(Duration::as_millis).collect();
    assert_eq!(took.len(), 3, "{took:?}");
    // The clock rounds timers up to its next millisecond.
    for (took, expected) in took.iter().zip([40, 9_000, 5_000]) {
        assert!((expected..=expected + 1).contains(took), "{took} of {expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_have_its_own_latency() {
    let sim = start(Behaviour::taking(Latency::Fixed(1_000))).await;
    sim.script("late", [Answer::Echo.after_ms(3_000)]);
    let begun = Instant::now();
    let order = async |file: &str| {
        assert_eq!(status(&sim, form(file)).await, 200);
        begun.elapsed().as_secs()
    };
    assert_eq!(tokio::join!(order("late"), order("other")), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_schedule_changes_the_behaviour_at_its_times() {
    let sim = start(Behaviour::answering(Answer::status(418))).await;
    sim.schedule(Schedule(vec![
        Step::new(60_000, Behaviour::answering(Answer::status(503))),
        Step::new(90_000, Behaviour::default()),
    ]));
    assert_eq!(status(&sim, form("a")).await, 418);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(status(&sim, form("a")).await, 503);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(status(&sim, form("a")).await, 200);
    sim.schedule(Schedule(vec![Step::new(0, Behaviour::answering(Answer::status(500)))]));
    sim.set(Behaviour::default());
    assert_eq!(status(&sim, form("a")).await, 200, "a new behaviour ends the schedule");
}

#[tokio::test(start_paused = true)]
async fn latencies_are_within_their_bounds() {
    let sim = start(Behaviour::taking(Latency::Uniform { from_ms: 5_000, to_ms: 10_000 })).await;
    let mut times = Vec::new();
    for file in ["a", "b", "c", "d"] {
        let begun = Instant::now();
        assert_eq!(status(&sim, form(file)).await, 200);
        times.push(begun.elapsed());
    }
    assert!(times.iter().all(|took| (5_000..=10_001).contains(&took.as_millis())), "{times:?}");
    assert!(times.windows(2).any(|pair| pair[0] != pair[1]), "{times:?}");
}
