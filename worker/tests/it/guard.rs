//! The protection of the model: the concurrency limit, the circuit, and the probe that decides about it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use longhand_worker::asr::guard::{
    Ended, Guard, OPEN_PAUSES, PROBE_BURST, PROBE_INTERVAL, ProbeError, Verdict,
};
use longhand_worker::failure::Failure;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep, timeout};

use crate::support::secs;

const SECOND: Duration = Duration::from_secs(1);

/// A probe that takes so long and ends so, and how often it was called.
#[derive(Debug)]
struct Probe {
    calls: AtomicU32,
    answer: Mutex<(Duration, bool)>,
}

struct Protected {
    guard: Arc<Guard>,
    probe: Arc<Probe>,
    probing: JoinHandle<()>,
}

impl Drop for Protected {
    fn drop(&mut self) {
        self.probing.abort();
    }
}

impl Protected {
    fn new(ceiling: usize) -> Self {
        let guard = Guard::new(ceiling, true);
        let probe = Arc::new(Probe {
            calls: AtomicU32::new(0),
            answer: Mutex::new((Duration::from_millis(100), true)),
        });
        let probing = tokio::spawn({
            let (guard, probe) = (Arc::clone(&guard), Arc::clone(&probe));
            async move {
                let call = || {
                    probe.calls.fetch_add(1, Ordering::Relaxed);
                    let (takes, succeeds) = *probe.answer.lock().expect("nobody panics");
                    async move {
                        sleep(takes).await;
                        let error = ProbeError { message: "503".to_owned(), timed_out: takes >= secs(30) };
                        if succeeds { Ok(()) } else { Err(error) }
                    }
                    .boxed()
                };
                guard.run(call).await;
            }
        });
        Self { guard, probe, probing }
    }

    /// From now on the model takes so long for the probe, and answers it or fails.
    fn model(&self, takes: Duration, works: bool) {
        *self.probe.answer.lock().expect("nobody panics") = (takes, works);
    }

    fn probes(&self) -> u32 {
        self.probe.calls.load(Ordering::Relaxed)
    }

    async fn call(&self, ended: Ended, took: Duration) {
        let permit = self.guard.permit().await.expect("the circuit is closed");
        sleep(took).await;
        permit.ended(ended, true);
    }

    /// So many calls at once, which end together.
    async fn calls(&self, count: usize, ended: Ended, took: Duration) {
        futures::future::join_all((0..count).map(|_| self.call(ended, took))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttling_model_gets_fewer_calls_once_a_round_and_never_none() {
    let model = Protected::new(30);
    model.calls(30, Err(Failure::Throttled), SECOND).await;
    assert_eq!((model.guard.limit(), model.guard.slots().size()), (20, 20));
    for _ in 0..20 {
        model.call(Err(Failure::Throttled), SECOND * 2).await;
    }
    assert_eq!(model.guard.limit(), 1);
    assert!(model.guard.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_always_throttled_cuts_the_limit_once() {
    let model = Protected::new(30);
    model.call(Err(Failure::Throttled), SECOND).await;
    for _ in 0..20 {
        let permit = model.guard.permit().await.expect("closed");
        sleep(SECOND * 2).await;
        permit.ended(Err(Failure::Throttled), false);
    }
    assert_eq!(model.guard.limit(), 20);
}

#[tokio::test(start_paused = true)]
async fn the_limit_grows_by_one_a_round_up_to_the_ceiling() {
    let model = Protected::new(9);
    model.call(Err(Failure::Throttled), SECOND).await;
    assert_eq!(model.guard.limit(), 6);
    model.calls(6, Ok(()), SECOND).await;
    let after_a_round = model.guard.limit();
    assert!((6..=7).contains(&after_a_round), "{after_a_round}");
    for _ in 0..10 {
        let limit = model.guard.limit();
        model.calls(limit, Ok(()), SECOND).await;
    }
    assert_eq!((model.guard.limit(), model.guard.slots().size()), (9, 9));
}

#[tokio::test(start_paused = true)]
async fn failures_of_chunks_leave_a_working_model_alone() {
    for failure in [Failure::ServerError, Failure::Timeout, Failure::ConnectionLost, Failure::CallRefused] {
        let model = Protected::new(16);
        for _ in 0..30 {
            let failed = Instant::now() + SECOND;
            model.calls(16, Err(failure), SECOND).await;
            assert_eq!(model.guard.verdict(failed).await, Verdict::Healthy, "{failure:?}");
        }
        assert!(model.guard.is_closed());
        assert_eq!((model.guard.limit(), model.guard.slots().size()), (16, 16), "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_are_rare_however_many_calls_fail() {
    let model = Protected::new(16);
    let began = Instant::now();
    while began.elapsed() < secs(60) {
        model.calls(16, Err(Failure::ServerError), Duration::from_millis(50)).await;
    }
    let most = 60 / PROBE_INTERVAL.as_secs() + u64::from(PROBE_BURST);
    assert!(u64::from(model.probes()) <= most, "{} probes", model.probes());
    let before = model.probes();
    sleep(secs(600)).await;
    assert!(model.probes() <= before + 1, "nothing fails, so nothing is probed");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_opens_the_circuit_and_only_the_probe_closes_it() {
    let model = Protected::new(16);
    model.model(Duration::ZERO, false);
    let failed = Instant::now();
    model.call(Err(Failure::ServerError), Duration::ZERO).await;
    assert!(matches!(model.guard.verdict(failed).await, Verdict::Down(_)));
    assert_eq!((model.probes(), model.guard.slots().size()), (3, 0), "one failed call is not enough");
    assert_eq!(model.guard.problem().as_deref(), Some("503"));
    assert!(model.guard.permit().await.is_err());

    let began = Instant::now();
    sleep(secs(300)).await;
    let most = 300 / (OPEN_PAUSES.1.as_secs() / 2) + 5;
    assert!(u64::from(model.probes()) <= most, "{} probes in five minutes", model.probes());
    assert!(!model.guard.is_closed());
    model.model(Duration::ZERO, true);
    timeout(OPEN_PAUSES.1, async {
        while model.guard.permit().await.is_err() {
            sleep(SECOND).await;
        }
    })
    .await
    .expect("it closes after the next probe");
    assert!(began.elapsed() >= secs(300));

    // From there the limit doubles.
    let mut seen = vec![model.guard.limit()];
    for _ in 0..5 {
        let limit = model.guard.limit();
        model.calls(limit, Ok(()), SECOND).await;
        seen.push(model.guard.limit());
    }
    assert_eq!(seen, [1, 2, 4, 8, 16, 16]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_opens_the_circuit_after_one_call() {
    let model = Protected::new(16);
    model.model(secs(30), false);
    let failed = Instant::now();
    model.call(Err(Failure::Timeout), Duration::ZERO).await;
    assert!(matches!(model.guard.verdict(failed).await, Verdict::Down(_)));
    assert_eq!((model.probes(), failed.elapsed()), (1, secs(30)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_succeeds_is_as_good_as_a_probe() {
    let model = Protected::new(16);
    // The probe's recording is refused, for whatever reason, and the model works.
    model.model(Duration::ZERO, false);
    for _ in 0..20 {
        let failed = Instant::now();
        let ((), (), verdict) = tokio::join!(
            model.call(Err(Failure::ServerError), Duration::ZERO),
            async {
                for _ in 0..20 {
                    model.call(Ok(()), Duration::from_millis(100)).await;
                }
            },
            async {
                sleep(Duration::from_millis(1)).await;
                model.guard.verdict(failed).await
            }
        );
        assert_eq!(verdict, Verdict::Healthy);
    }
    assert!(model.guard.is_closed());
}

#[tokio::test(start_paused = true)]
async fn slow_answers_cut_the_limit_only_if_the_probe_is_slow_too() {
    for (probe, cut) in [(Duration::from_millis(100), false), (Duration::from_millis(500), true)] {
        let model = Protected::new(12);
        for _ in 0..20 {
            model.calls(6, Ok(()), SECOND).await;
        }
        assert_eq!((model.guard.limit(), model.probes()), (12, 1), "one probe to know what is usual");
        model.model(probe, true);
        for _ in 0..6 {
            model.calls(6, Ok(()), SECOND * 5).await;
        }
        assert_eq!(model.guard.limit() < 12, cut, "{probe:?}: {}", model.guard.limit());
        assert!(model.guard.limit() >= 3, "it may be that the chunks are longer");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quick_refusal_and_a_lucky_first_call_are_no_measure() {
    let model = Protected::new(10);
    model.calls(10, Err(Failure::ChunkRefused), Duration::from_millis(2)).await;
    model.call(Ok(()), Duration::from_millis(50)).await;
    for _ in 0..10 {
        model.calls(10, Ok(()), SECOND * 5).await;
        assert_eq!(model.guard.limit(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_probe_every_failure_is_the_chunks() {
    let guard = Guard::new(4, false);
    for _ in 0..100 {
        let permit = guard.permit().await.expect("closed");
        permit.ended(Err(Failure::Timeout), true);
        advance(SECOND).await;
        assert_eq!(guard.verdict(Instant::now()).await, Verdict::Healthy);
    }
    assert_eq!((guard.is_closed(), guard.limit()), (true, 4));
}

#[tokio::test(start_paused = true)]
async fn calls_over_the_limit_wait_and_a_cancelled_one_gives_its_permit_back() {
    let guard = Guard::new(1, true);
    let first = guard.permit().await.expect("free");
    assert!(timeout(SECOND, guard.permit()).await.is_err(), "there is one already");
    drop(first);
    assert!(guard.permit().await.is_ok());
}
