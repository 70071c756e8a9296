//! Three apis and three workers behind nginx, as in `make up SCALE=3`. One instance of each kind after the other is killed
//! or stopped under load. No job is lost, and no client sees an error that a standard client does not retry.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use longhand_chaos::client::Clients;
use longhand_chaos::fleet::How;
use longhand_chaos::load::{Load, Submitted};
use longhand_chaos::member::Kind;
use longhand_chaos::run::{conclude, settle};
use longhand_chaos::world::{CONCURRENCY, Plan, Size, World};
use longhand_e2e::eventually;
use longhand_shared::JobId;
use longhand_sim_asr::{Behaviour, Latency};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The number of concurrent clients.
const LANES: usize = 9;

/// The number of concurrent clients that only send requests: enough for connections to be in use at any moment.
const STORM: usize = 64;

#[tokio::test]
async fn no_killed_instance_loses_a_job_or_surprises_a_client() {
    let began = Instant::now();
    let (size, world) = start("all", 3).await;
    let (submitted, clients, end) = (Submitted::default(), Clients::default(), CancellationToken::new());
    let until = began + Duration::from_secs(size.limit_seconds);
    let (jobs, over) = (0, Duration::ZERO);
    let load = Load { seed: 1, jobs, chunks: size.chunks, over, with_doomed: false, until };

    let lane = async |lane: usize| {
        let mut number = lane;
        while !end.is_cancelled() {
            clients.one(&world, load, &submitted, number).await;
            // Each lane uses the ways of waiting in turn.
            number += LANES + 1;
        }
    };
    let strikes = async {
        under_load(&clients).await;
        for (kind, how) in [
            (Kind::Api, How::Kill),
            (Kind::Api, How::Gently),
            (Kind::Worker, How::Kill),
            (Kind::Worker, How::Gently),
            (Kind::Nginx, How::Gently),
            (Kind::Nginx, How::Kill),
            (Kind::Redis, How::Kill),
        ] {
            let before = clients.books().again;
            world.fleet.take_down_first(kind, how, Duration::from_millis(500)).await;
            under_load(&clients).await;
            // A gentle stop of one of several instances causes no retries.
            if how == How::Gently && kind != Kind::Nginx {
                assert_eq!(clients.books().again, before, "during the stop of a {}", kind.name());
            }
        }
        end.cancel();
    };
    tokio::join!(join_all((0..LANES).map(lane)), strikes);
    settle(&world, began, size.limit_seconds).await;

    let books = clients.books();
    let report =
        conclude(world, &submitted, Some(books.clone()), "one of each".to_owned(), &size, began).await;
    assert!(report.is_good(), "{}", report.text());
    assert_eq!(report.findings.failed, 0, "{}", report.text());
    assert_eq!(report.findings.unasked, 0, "{}", report.text());
    assert_eq!(report.findings.completed as u64, books.done, "{}", report.text());
    assert_eq!((report.fleet.killed, report.fleet.stopped, report.fleet.reloaded), (4, 2, 1));
    std::fs::remove_dir_all(size.logs).expect("the logs were there");
}

#[tokio::test]
async fn restarted_apis_lose_no_request_that_nginx_does_not_retry() {
    let (size, world) = start("apis", 0).await;
    let url = format!("{}/transcript/{}/retry", world.fleet.apis()[0], JobId::random());
    let http = reqwest::Client::new();
    let (end, answered) = (CancellationToken::new(), AtomicUsize::new(0));
    // nginx never repeats a POST, so each one that meets a closed port or connection fails.
    let lane = async || {
        while !end.is_cancelled() {
            let answer = http.post(&url).send().await.expect("an answer");
            assert_eq!(answer.status(), 404, "{}", answer.text().await.unwrap_or_default());
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    let restarts = async {
        for _ in 0..3 {
            let enough = answered.load(Ordering::Relaxed) + 500;
            eventually("answers", async || (answered.load(Ordering::Relaxed) > enough).then_some(())).await;
            world.fleet.take_down_first(Kind::Api, How::Gently, Duration::ZERO).await;
        }
        end.cancel();
    };
    tokio::join!(join_all((0..STORM).map(|_| lane())), restarts);
    let exits = world.fleet.books().exits;
    assert!(exits.len() == 3 && exits.iter().all(|exit| exit.success), "{exits:?}");
    std::fs::remove_dir_all(size.logs).expect("the logs were there");
}

/// Three apis behind nginx and this many workers, without faults of AWS or the model.
async fn start(name: &str, workers: usize) -> (Size, World) {
    let asr_latency = Latency::Uniform { from_ms: 200, to_ms: 600 };
    let logs = std::env::temp_dir().join(format!("longhand-one-of-each-{name}-{}", std::process::id()));
    let (jobs, chunks, apis, limit_seconds) = (0, 2, 3, 600);
    let size = Size { jobs, chunks, workers, apis, balanced: true, asr_latency, limit_seconds, logs };
    let model = Behaviour::taking(asr_latency);
    let (gated, redis, old) = (false, true, None);
    let plan = Plan { name, seed: 1, aws_faults: 0.0, model, gated, slots: CONCURRENCY, redis, old };
    let world = World::start(&size, plan).await;
    (size, world)
}

/// Waits until more jobs are done.
async fn under_load(clients: &Clients) {
    let enough = clients.books().done + LANES as u64;
    eventually("more jobs", async || {
        let books = clients.books();
        assert_eq!(books.surprises, [""; 0]);
        (books.done >= enough).then_some(())
    })
    .await;
}
