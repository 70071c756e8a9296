//! The first scenario: load while processes are killed, the model fails and AWS calls are lost.

use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::audit::{Evidence, audit};
use crate::client::Clients;
use crate::load::{Load, Submitted, submit, submit_and_follow};
use crate::report::Report;
use crate::world::{CONCURRENCY, Plan, Size, World, seconds_range};
use crate::{client, fleet, gather, model};

/// How long the queues may take to become empty once all jobs have ended.
const DRAIN: Duration = Duration::from_secs(90);

/// From one line of progress to the next.
const PROGRESS: Duration = Duration::from_secs(5);

/// How bad it gets.
#[derive(Clone, Debug, Args)]
pub struct Badness {
    /// From one kill to the next, in seconds. Every fourth is a SIGTERM.
    #[arg(long, default_value = "1..3", value_parser = seconds_range)]
    pub kill_every: Range<u64>,
    /// How long processes are killed, in seconds from the start.
    #[arg(long, default_value_t = 60)]
    pub kill_seconds: u64,
    /// Over how long jobs are submitted, in seconds.
    #[arg(long, default_value_t = 20)]
    pub submit_seconds: u64,
    /// The share of the model's calls that fail, 0 to 1.
    #[arg(long, default_value_t = 0.2, value_parser = share)]
    pub asr_faults: f64,
    /// The share of AWS calls that something goes wrong with, 0 to 1.
    #[arg(long, default_value_t = 0.02, value_parser = share)]
    pub aws_faults: f64,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// Runs it with one seed. Seeds that are even have a model that does not speak `verbose_json`. Where `old` names a folder
/// with programs of 0.1.0, each second api and each second worker is one of those.
pub async fn run(size: &Size, badness: &Badness, seed: u64, old: Option<&Path>) -> Report {
    let name = match old {
        Some(_) => format!("with 0.1.0, seed {seed}"),
        None if size.balanced => format!("nginx, seed {seed}"),
        None => format!("seed {seed}"),
    };
    let began = Instant::now();
    let behaviour = model::behaviour(seed, badness.asr_faults, size.asr_latency, !seed.is_multiple_of(2));
    let (folder, aws_faults) = (name.replace(", ", "-").replace(' ', "-"), badness.aws_faults);
    let plan = Plan {
        name: &folder,
        seed,
        aws_faults,
        model: behaviour,
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
    let kill = Arc::clone(&world.fleet).kill(seed, badness.kill_every.clone(), end_of_kills.clone());
    let killer = tokio::spawn(kill);
    let timer = tokio::spawn({
        let (end, after) = (end_of_kills.clone(), Duration::from_secs(badness.kill_seconds));
        async move {
            sleep(after).await;
            end.cancel();
        }
    });
    let work = async {
        if size.balanced {
            submit_and_follow(&world, load, &submitted, &clients).await;
        } else {
            submit(&world, load, &submitted).await;
        }
        settle(&world, began, size.limit_seconds).await;
    };
    let summary = RunSummary { name: &name, began, jobs: size.jobs };
    tokio::select! {
        () = work => {}
        () = summary.progress(&world, &submitted) => {}
    }
    end_of_kills.cancel();
    timer.abort();
    killer.await.expect("the killer does not panic");
    let clients = size.balanced.then(|| clients.books());
    let mut report = conclude(world, &submitted, clients, name, size, began).await;
    if old.is_some() {
        report.judge_versions();
    }
    report
}

/// Waits until all jobs have ended and the queues are empty; or for as long as is allowed.
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

/// What the progress lines show of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunSummary<'a> {
    /// The scenario.
    pub name: &'a str,
    /// When it began.
    pub began: Instant,
    /// The expected number of jobs.
    pub jobs: usize,
}

impl RunSummary<'_> {
    /// Prints the progress to stderr every few seconds. Never returns.
    pub async fn progress(self, world: &World, submitted: &Submitted) {
        let mut ticks = interval(PROGRESS);
        loop {
            ticks.tick().await;
            let jobs = gather::table(&world.aws).await;
            let fleet::Books { kills, stops, .. } = world.fleet.books();
            let books = world.model.books();
            let faults: u64 = world.proxy.books().faults().values().sum();
            let _ = writeln!(
                std::io::stderr(),
                "{} {:>3.0} s: {} of {} jobs accepted, {} open; the model: {} calls, {} now; {} kills; {faults} AWS faults; {} messages",
                self.name,
                self.began.elapsed().as_secs_f64(),
                submitted.accepted().len(),
                self.jobs,
                gather::open(&jobs),
                books.calls,
                books.in_flight,
                kills + stops,
                gather::depth(&world.aws).await,
            );
        }
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
    // The audit is of what stands, not of how hard it is to read.
    world.proxy.set_rate(0.0);
    let ids: Vec<String> = gather::table(&world.aws).await.into_keys().collect();
    let mut by_each = gather::shown_by_each(&world, &ids).await;
    let shown = by_each.remove(0);
    let others = by_each.iter().flatten().filter(|(id, other)| shown.get(*id) != Some(other));
    let mut surprises: Vec<String> =
        others.map(|(id, other)| format!("job {id} by one api, unlike by another: {other:?}")).collect();
    surprises.extend(clients.iter().flat_map(|clients| clients.surprises.clone()));
    world.fleet.stop().await;
    let jobs = gather::table(&world.aws).await;
    let (fleet, aws, model) = (world.fleet.books(), world.proxy.books(), world.model.books());
    let evidence = Evidence {
        accepted: submitted.accepted(),
        jobs,
        shown,
        left: gather::drain(&world.aws).await,
        model: model.clone(),
        doomed: submitted.doomed(),
        forbidden: aws.forbidden.clone(),
        ledger: aws.ledger.clone(),
        exits: fleet.exits.clone(),
        surprises,
        bounds: world.bounds,
    };
    let findings = audit(&evidence);
    let submitted = (size.jobs, submitted.tries());
    let notes = vec![format!("logs of the processes: {}", world.logs.display())];
    Report { name, took, submitted, findings, fleet, clients, aws, model, notes }
}
