//! The first scenario: load while processes are killed, the model fails and AWS calls are lost.

use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use longhand_sim_asr::share;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::audit::{Evidence, audit};
use crate::client::Clients;
use crate::load::{Load, Submitted, submit};
use crate::report::Report;
use crate::world::{CONCURRENCY, Plan, Size, World, seconds_range};
use crate::{client, fleet, gather, model};

/// The time limit for empty queues after the end of all jobs.
const DRAIN: Duration = Duration::from_secs(90);

/// The time between lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Args)]
pub struct Badness {
    /// The time between kills, in seconds. Every fourth is a SIGTERM.
    #[arg(long, default_value = "1..3", value_parser = seconds_range)]
    pub kill_every: Range<u64>,
    /// The end of the kills, in seconds from the start.
    #[arg(long, default_value_t = 60)]
    pub kill_seconds: u64,
    /// The time over which jobs are submitted, in seconds.
    #[arg(long, default_value_t = 20)]
    pub submit_seconds: u64,
    /// The share of the model's calls that fail, 0 to 1.
    #[arg(long, default_value_t = 0.2, value_parser = share)]
    pub asr_faults: f64,
    /// The share of AWS calls with a fault, 0 to 1.
    #[arg(long, default_value_t = 0.02, value_parser = share)]
    pub aws_faults: f64,
}

/// Runs with one seed. With an even seed the model does not support `verbose_json`. `old` is the folder of the programs
/// of 0.1.0, which every second api and worker uses.
pub async fn run(size: &Size, badness: &Badness, seed: u64, old: Option<&Path>) -> Report {
    let name = match old {
        Some(_) => format!("with 0.1.0, seed {seed}"),
        None if size.balanced => format!("nginx, seed {seed}"),
        None => format!("seed {seed}"),
    };
    let began = Instant::now();
    let plan = Plan {
        name: &name.replace(", ", "-").replace(' ', "-"),
        seed,
        aws_faults: badness.aws_faults,
        model: model::behaviour(seed, badness.asr_faults, size.asr_latency, !seed.is_multiple_of(2)),
        gated: false,
        slots: CONCURRENCY,
        redis: true,
        old,
    };
    let world = World::start(size, plan).await;
    let (submitted, clients) = (Submitted::default(), Clients::default());
    let load = Load {
        seed,
        jobs: size.jobs,
        chunks: size.chunks,
        over: Duration::from_secs(badness.submit_seconds),
        with_doomed: true,
        until: began + Duration::from_secs(size.limit_seconds),
    };
    let end_of_kills = CancellationToken::new();
    let until = Instant::now() + Duration::from_secs(badness.kill_seconds);
    let (every, end) = (badness.kill_every.clone(), end_of_kills.clone());
    let killer = tokio::spawn(Arc::clone(&world.fleet).kill(seed, every, until, end));
    let work = async {
        if size.balanced {
            clients.run(&world, load, &submitted).await;
        } else {
            submit(&world, load, &submitted).await;
        }
        settle(&world, began, size.limit_seconds).await;
    };
    with_progress(&name, began, size.jobs, &world, &submitted, work).await;
    end_of_kills.cancel();
    killer.await.expect("the killer does not panic");
    let clients = size.balanced.then(|| clients.books());
    let mut report = conclude(world, &submitted, clients, name, size, began).await;
    if old.is_some() {
        report.judge_versions();
    }
    report
}

/// Waits until all jobs have ended and the queues are empty, up to the time limit.
pub async fn settle(world: &World, began: Instant, limit_seconds: u64) {
    let limit = began + Duration::from_secs(limit_seconds);
    while gather::open(&gather::table(&world.aws).await) > 0 {
        if Instant::now() > limit {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
    let limit = Instant::now() + DRAIN;
    while gather::depth(&world.aws).await > 0 && Instant::now() < limit {
        sleep(Duration::from_secs(1)).await;
    }
}

/// Does the work, and prints the progress to stderr every few seconds. `jobs` is their expected number.
pub async fn with_progress<T>(
    name: &str,
    began: Instant,
    jobs: usize,
    world: &World,
    submitted: &Submitted,
    work: impl Future<Output = T>,
) -> T {
    tokio::select! {
        result = work => result,
        () = progress(name, began, jobs, world, submitted) => unreachable!("the progress never ends"),
    }
}

async fn progress(name: &str, began: Instant, jobs: usize, world: &World, submitted: &Submitted) {
    let mut ticks = interval(PROGRESS);
    loop {
        ticks.tick().await;
        let open = gather::open(&gather::table(&world.aws).await);
        let accepted = submitted.accepted.lock().len();
        let fleet::Books { killed, stopped, .. } = world.fleet.books();
        let books = world.model.books();
        let faults: u64 = world.proxy.books().faults().values().sum();
        let _ = writeln!(
            std::io::stderr(),
            "{name} {:>3.0} s: {accepted} of {jobs} jobs accepted, {open} open; the model: {} calls, {} now; {} kills; {faults} AWS faults; {} messages",
            began.elapsed().as_secs_f64(),
            books.calls,
            books.in_flight,
            killed + stopped,
            gather::depth(&world.aws).await,
        );
    }
}

/// Gathers the evidence, stops everything, and audits.
pub async fn conclude(
    world: World,
    submitted: &Submitted,
    clients: Option<client::Books>,
    name: String,
    size: &Size,
    began: Instant,
) -> Report {
    let took = began.elapsed();
    // The audit reads through the proxy, without faults.
    world.proxy.set_rate(0.0);
    let ids: Vec<String> = gather::table(&world.aws).await.into_keys().collect();
    let mut by_each = gather::shown_by_each(&world, &ids).await;
    let shown = by_each.remove(0);
    let others = by_each.iter().flatten().filter(|(id, other)| shown.get(*id) != Some(other));
    let mut surprises: Vec<String> =
        others.map(|(id, other)| format!("job {id} differs between two apis: {other:?}")).collect();
    surprises.extend(clients.iter().flat_map(|clients| clients.surprises.clone()));
    world.fleet.stop().await;
    let jobs = gather::table(&world.aws).await;
    let (fleet, aws, model) = (world.fleet.books(), world.proxy.books(), world.model.books());
    let (accepted, doomed) = (submitted.accepted.lock().clone(), submitted.doomed.lock().clone());
    let evidence = Evidence {
        accepted,
        jobs,
        shown,
        left: gather::drain(&world.aws).await,
        model: model.clone(),
        doomed,
        forbidden: aws.forbidden.clone(),
        ledger: aws.ledger.clone(),
        exits: fleet.exits.clone(),
        surprises,
        calls_at_once: world.calls_at_once,
    };
    let findings = audit(&evidence);
    let submitted = (size.jobs, *submitted.tries.lock());
    let notes = vec![format!("logs of the processes: {}", world.logs.display())];
    Report { name, took, submitted, findings, fleet, clients, aws, model, notes }
}
