//! The third scenario: the model fails on one user's chunks, beside good jobs of other users. There are no other faults.
//! Good jobs must take no longer than without the bad ones, and the bad ones must end.

use longhand_shared::domain::id::MAX_CHUNKS;
use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use longhand_e2e::service::wav;
use longhand_sim_asr::{Answer, Behaviour, Latency};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::load::{Submitted, post};
use crate::report::Report;
use crate::run::{conclude, settle, with_progress};
use crate::world::{ASR_TIMEOUT_SECONDS, Plan, Size, World};

/// The concurrency of a worker: more than the chunks of a bad job.
const SLOTS: usize = 32;

/// The duration of the model's call for a good chunk.
const MODEL: Duration = Duration::from_millis(300);

/// The time that Longhand and the emulator may add for a good job.
const GOOD_SLACK: Duration = Duration::from_secs(2);

/// The time that a bad job may take in addition to its calls and pauses.
const BAD_SLACK: Duration = Duration::from_secs(30);

/// The calls of one bad chunk, and the pauses between them.
const CALLS: u32 = 4;
const PAUSES: Duration = Duration::from_millis(3_500);

/// The number of good jobs beside each bad one, and the time between them.
const GOOD_JOBS: u32 = 20;
const GOOD_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Args)]
#[group(id = "poison-arguments")] // the command has a group of its own name
pub struct Poison {
    /// Chunks of each bad job.
    #[arg(long, default_value_t = MAX_CHUNKS as u64, value_parser = clap::value_parser!(u64).range(1..=MAX_CHUNKS as u64))]
    pub bad_chunks: u64,
    /// The numbers of worker processes, separated by commas: one run for each.
    #[arg(long, value_delimiter = ',', default_value = "1,3", num_args = 1..)]
    pub with_workers: Vec<usize>,
}

/// The faults of the model on bad chunks.
fn kinds() -> [(&'static str, Answer); 5] {
    [
        ("500", Answer::status(500)),
        ("502", Answer::status(502)),
        ("reset", Answer::Cut),
        ("hang", Answer::Hang),
        ("401", Answer::status(401)),
    ]
}

/// A submitted job.
struct Job {
    kind: &'static str,
    id: String,
    bad: bool,
}

/// Runs one kind of fault after the other, each with a bad job and good ones beside it.
pub async fn run(size: &Size, poison: &Poison, workers: usize, seed: u64) -> Report {
    let name = format!("poison: {workers} workers");
    let began = Instant::now();
    let size = Size { workers, apis: 1, balanced: false, ..size.clone() };
    #[expect(clippy::cast_possible_truncation, reason = "less than a second")]
    let model = Behaviour::taking(Latency::Fixed(MODEL.as_millis() as u64));
    let folder = format!("poison-{workers}");
    let (gated, redis, old) = (false, false, None);
    let plan = Plan { name: &folder, seed, aws_faults: 0.0, model, gated, slots: SLOTS, redis, old };
    let world = World::start(&size, plan).await;
    let submitted = Submitted::default();
    let load = async {
        let mut jobs = Vec::new();
        for (kind, answer) in kinds() {
            jobs.extend(beside(&world, &submitted, poison, kind, &answer).await);
        }
        settle(&world, began, size.limit_seconds).await;
        jobs
    };
    let count = kinds().len() * (GOOD_JOBS as usize + 1);
    let jobs = with_progress(&name, began, count, &world, &submitted, load).await;
    let times = join_all(jobs.iter().map(|job| turnaround(&world, &job.id))).await;
    let mut report = conclude(world, &submitted, None, name, &size, began).await;
    report.submitted.0 = count;
    judge(&mut report, poison, workers, &jobs, &times);
    report
}

/// Submits a bad job, and good ones while it is processed.
async fn beside(
    world: &World,
    submitted: &Submitted,
    poison: &Poison,
    kind: &'static str,
    answer: &Answer,
) -> Vec<Job> {
    let (mut jobs, http) = (Vec::new(), reqwest::Client::new());
    let mut submit = async |user: String, chunks: u64, bad: bool| {
        let mut paths = Vec::new();
        for chunk in 0..chunks {
            let file = format!("{user}-{chunk}.wav");
            if bad {
                world.model.script(&file, vec![answer.clone(); 200]);
                if kind == "401" {
                    submitted.doomed.lock().insert(file.clone(), "ASR_REJECTED");
                }
            }
            paths.push(world.aws.put(&file, wav(1_000)).await);
        }
        let body = json!({"userId": user, "audioChunkPaths": paths});
        if let Some(api) = world.fleet.apis().first()
            && let Some(id) = post(&http, api, submitted, &body).await
        {
            jobs.push(Job { kind, id, bad });
        }
    };
    submit(format!("bad-{kind}"), poison.bad_chunks, true).await;
    for number in 0..GOOD_JOBS {
        submit(format!("good-{kind}-{number}"), 2, false).await;
        sleep(GOOD_EVERY).await;
    }
    jobs
}

/// The turnaround by the service's clock. `None` for a job that has not ended.
async fn turnaround(world: &World, id: &str) -> Option<Duration> {
    let url = world.fleet.apis().into_iter().next()?;
    let answer = reqwest::Client::new().get(format!("{url}/transcript/{id}")).send().await.ok()?;
    let job: Value = answer.json().await.ok()?;
    let time = |name: &str| job[name].as_str()?.parse::<longhand_shared::Timestamp>().ok();
    Some(Duration::from_millis(time("completedTime")?.millis_since(time("submittedTime")?)))
}

fn judge(report: &mut Report, poison: &Poison, workers: usize, jobs: &[Job], times: &[Option<Duration>]) {
    let timeout = Duration::from_secs(ASR_TIMEOUT_SECONDS);
    let chunks = usize::try_from(poison.bad_chunks).unwrap_or(usize::MAX);
    let rounds = u32::try_from(chunks.div_ceil(SLOTS * workers)).unwrap_or(u32::MAX);
    let bad_bound = (timeout * CALLS + PAUSES) * rounds + BAD_SLACK;
    for (kind, _) in kinds() {
        let good_bound = MODEL + GOOD_SLACK + if kind == "hang" { timeout } else { Duration::ZERO };
        let of = |bad: bool| {
            let all = jobs.iter().zip(times).filter(move |(job, _)| job.kind == kind && job.bad == bad);
            all.map(|(job, time)| (job.id.as_str(), *time)).collect::<Vec<_>>()
        };
        let longest = |all: &[(&str, Option<Duration>)]| {
            all.iter().filter_map(|(_, time)| *time).max().unwrap_or_default().as_secs_f64()
        };
        let (good, bad) = (of(false), of(true));
        report.notes.push(format!(
            "{kind}: {} good jobs took {:.1} s at most ({:.1} s allowed), the bad one {:.1} s ({:.1} s allowed)",
            good.len(),
            longest(&good),
            good_bound.as_secs_f64(),
            longest(&bad),
            bad_bound.as_secs_f64(),
        ));
        for (all, bound) in [(good, good_bound), (bad, bad_bound)] {
            for (id, time) in all {
                if time.is_none_or(|time| time > bound) {
                    let took =
                        time.map_or("no end".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
                    let allowed = bound.as_secs_f64();
                    report
                        .findings
                        .violations
                        .push(format!("LATE ({kind}) job {id}: {took}, {allowed:.1} s allowed"));
                }
            }
        }
    }
}
