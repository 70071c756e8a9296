//! The second scenario: the model is down for some time in the middle of the load. There are no other faults.

use std::time::Duration;

use clap::{Args, ValueEnum};
use longhand_sim_asr::{Answer, Behaviour};
use tokio::time::{Instant, sleep_until};

use crate::load::{Load, Submitted, submit};
use crate::report::Report;
use crate::run::{conclude, settle, with_progress};
use crate::world::{CONCURRENCY, Plan, Size, World};

/// The duration of the load before the outage, and after it.
const MARGIN: Duration = Duration::from_secs(15);

/// The time until every worker's circuit is open: a hanging call and a hanging probe take twice
/// [`crate::world::ASR_TIMEOUT_SECONDS`].
const OPENING: Duration = Duration::from_secs(15);

/// The first and the longest pause of a circuit in seconds (`worker/src/asr/guard.rs`), and the smallest jitter factor.
const PAUSES: (f64, f64) = (2.0, 30.0);
const SHORTEST: f64 = 0.5;

#[derive(Clone, Debug, Args)]
#[group(id = "outage-arguments")] // the command has a group of its own name
pub struct Outage {
    /// The kinds of outage, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "status,hang,refuse", num_args = 1..)]
    pub how: Vec<Down>,
    /// The duration of the outage, in seconds.
    #[arg(long, default_value_t = 60)]
    pub down_seconds: u64,
    /// The time limit for the end of all jobs after the outage, in seconds.
    #[arg(long, default_value_t = 120)]
    pub soon_seconds: u64,
}

/// A kind of outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Down {
    /// The model answers 503.
    #[strum(serialize = "503")]
    Status,
    /// The model accepts calls and never answers.
    Hang,
    /// Connections are refused.
    Refuse,
}

pub async fn run(size: &Size, outage: &Outage, how: Down, seed: u64) -> Report {
    let name = format!("outage: {how}");
    let began = Instant::now();
    let good = Behaviour { seed: Some(seed), ..Behaviour::taking(size.asr_latency) };
    let folder = format!("outage-{how}");
    let plan = Plan {
        name: &folder,
        seed,
        aws_faults: 0.0,
        model: good.clone(),
        gated: how == Down::Refuse,
        slots: CONCURRENCY,
        redis: false,
        old: None,
    };
    let world = World::start(size, plan).await;
    let down_for = Duration::from_secs(outage.down_seconds);
    let down_at = Instant::now() + MARGIN;
    let up_at = down_at + down_for;
    let load = Load {
        seed,
        jobs: size.jobs,
        chunks: size.chunks,
        over: MARGIN + down_for + MARGIN,
        with_doomed: false,
        until: began + Duration::from_secs(size.limit_seconds),
    };
    let submitted = Submitted::default();
    let outage_task = async {
        sleep_until(down_at).await;
        set(&world, how, false, &good);
        sleep_until(up_at).await;
        set(&world, how, true, &good);
    };
    let load = async {
        tokio::join!(submit(&world, load, &submitted), outage_task);
        settle(&world, began, size.limit_seconds).await;
    };
    with_progress(&name, began, size.jobs, &world, &submitted, load).await;
    let after = up_at.elapsed();
    let model_began = world.model_began;
    let mut report = conclude(world, &submitted, None, name, size, began).await;
    judge(&mut report, size, outage, &Times { model_began, down_at, up_at, after });
    report
}

fn set(world: &World, how: Down, up: bool, good: &Behaviour) {
    let bad = |answer| Behaviour { answer, ..good.clone() };
    match (how, up, &world.gate) {
        (Down::Refuse, up, Some(gate)) => gate.set(up.then(|| world.model.address())),
        (_, true, _) => world.model.set(good.clone()),
        (Down::Hang, false, _) => world.model.set(bad(Answer::Hang)),
        (Down::Status | Down::Refuse, false, _) => world.model.set(bad(Answer::status(503))),
    }
}

/// The times of the outage, and the time from its end to the end of all jobs.
struct Times {
    model_began: Instant,
    down_at: Instant,
    up_at: Instant,
    after: Duration,
}

fn judge(report: &mut Report, size: &Size, outage: &Outage, times: &Times) {
    let arrivals = |from: Instant| {
        let files = report.model.per_file.values().flat_map(|file| &file.arrived);
        files.map(|at| times.model_began + *at).filter(|at| (from..times.up_at).contains(at)).count()
    };
    let (all, late) = (arrivals(times.down_at), arrivals(times.down_at + OPENING));
    let allowed = size.workers * most_probes(times.up_at - times.down_at);
    let found = &mut report.findings;
    report.notes.push(format!(
        "the model was down for {} s: {all} calls reached it, {late} of them after the first {} s ({allowed} probes of {} circuits allowed); all jobs ended {:.1} s after its return",
        outage.down_seconds,
        OPENING.as_secs(),
        size.workers,
        times.after.as_secs_f64(),
    ));
    if late > allowed {
        found.violations.push(format!("CALLED a model that was down {late} times, {allowed} allowed"));
    }
    if found.failed > 0 {
        found
            .violations
            .push(format!("FAILED {} jobs: an outage must fail none ({:?})", found.failed, found.codes));
    }
    if times.after > Duration::from_secs(outage.soon_seconds) {
        let after = times.after.as_secs();
        found.violations.push(format!(
            "LATE: the jobs ended {after} s after the outage, {} s allowed",
            outage.soon_seconds
        ));
    }
}

/// The maximum number of probes of one circuit during the outage: with the shortest pauses.
fn most_probes(down: Duration) -> usize {
    let (mut longest, mut at, mut probes) = (PAUSES.0, 0.0, 0);
    while at + longest * SHORTEST <= down.as_secs_f64() {
        at += longest * SHORTEST;
        probes += 1;
        longest = (longest * 2.0).min(PAUSES.1);
    }
    probes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_probes_grow() {
        assert_eq!(most_probes(Duration::from_millis(900)), 0);
        assert_eq!(most_probes(Duration::from_secs(4)), 2);
        assert_eq!(most_probes(Duration::from_mins(1)), 7);
        let day = most_probes(Duration::from_hours(24));
        assert!((5_700..5_800).contains(&day), "one in 15 s: {day}");
    }
}
