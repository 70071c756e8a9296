//! `waiting`: a benchmark of many clients that wait for jobs. It prints the calls to the table, the api's memory
//! and CPU time, and the delay from a job's end to the responses. It needs an emulator: run it with `make bench`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::Parser;
use futures::StreamExt;
use futures::stream::iter;
use longhand_e2e::calls::Calls;
use longhand_e2e::processes::{Process, free_address, ready};
use longhand_e2e::redis::RedisServer;
use longhand_e2e::resources::Resources;
use longhand_shared::domain::job::{Metadata, NewJob, TranscribeOptions, Transcription, Verdict};
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::store::FIRST_CHECK;
use longhand_shared::{Attempt, ChunkRef, JobId, Timestamp};
use reqwest::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Benchmark of many clients that wait for jobs.
#[derive(Debug, Parser)]
struct Args {
    /// The number of clients.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// The number of jobs, each with six chunks.
    #[arg(long, default_value_t = 100)]
    jobs: usize,
    /// The time before the first job ends, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Use Redis.
    #[arg(long)]
    redis: bool,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let aws = Resources::deploy().await.clients(&Calls::default()).await;
    let redis = if args.redis { Some(RedisServer::start().await) } else { None };
    let mut lifecycle = Lifecycle::new(aws.store(), aws.queue());
    if let Some(redis) = &redis {
        lifecycle = lifecycle.with_cache(redis.cache());
    }
    let address = free_address();
    let url = format!("http://{address}");
    let mut variables = aws.resources.variables();
    variables.extend([
        ("LONGHAND_LISTEN", address),
        ("REDIS_URL", redis.as_ref().map(RedisServer::url).unwrap_or_default()),
        ("RUST_LOG", "warn".to_owned()),
    ]);
    let api = Process::start("longhand-api", &variables);
    ready(&format!("{url}/readyz")).await;
    let jobs = create(&lifecycle, args.jobs).await;

    let http = Client::new();
    let (reads_before, used_before) = (reads(&http, &url).await, api.used());
    let waiting = wait(&http, &url, &jobs, args.clients);
    sleep(Duration::from_secs(args.seconds)).await;
    let reads_waiting = reads(&http, &url).await;
    // Ten at a time, like ten workers.
    let ended: BTreeMap<JobId, Instant> =
        iter(jobs).map(|job| end(&lifecycle, job)).buffer_unordered(10).collect().await;
    let answers = waiting.join_all().await;
    let reads_after = reads(&http, &url).await;
    let reads = [0, 1, 2].map(|n| reads_after[n] - reads_before[n]);
    report(&args, &answers, &ended, reads, reads_waiting[0] - reads_before[0], used_before, api.used());
}

async fn create(lifecycle: &Lifecycle, count: usize) -> Vec<JobId> {
    let mut jobs = Vec::new();
    for n in 0..count {
        let (user, path) = (format!("user{n}").parse().expect("a user"), "a.wav".parse().expect("a path"));
        let (paths, options) = (vec![path; 6], TranscribeOptions::default());
        let job = NewJob::new(user, paths, options, Metadata::new(), Timestamp::now()).expect("a job");
        lifecycle.store().create(&job, job.submitted.plus(FIRST_CHECK)).await.expect("created");
        jobs.push(job.id);
    }
    jobs
}

/// The api's calls of `GetItem`, `BatchGetItem` and `Query`.
async fn reads(http: &Client, url: &str) -> [f64; 3] {
    let text = http.get(format!("{url}/metrics")).send().await.expect("an answer");
    let text = text.text().await.expect("a text");
    ["GetItem", "BatchGetItem", "Query"].map(|operation| {
        let lines = text.lines().filter(|line| line.starts_with("longhand_aws_calls_total{"));
        let lines = lines.filter(|line| line.contains(&format!("operation=\"{operation}\"")));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    })
}

/// An answered wait: the job, the time of the answer, and whether the job was completed.
type Waited = (JobId, Instant, bool);

fn wait(http: &Client, url: &str, jobs: &[JobId], clients: usize) -> JoinSet<Waited> {
    let mut waiting = JoinSet::new();
    for client in 0..clients {
        let job = jobs[client % jobs.len()];
        let request = http.get(format!("{url}/transcript/{job}")).header("prefer", "wait=25");
        waiting.spawn(async move {
            let began = Instant::now();
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "after {:?}: {:?}", began.elapsed(), answer.headers());
            let text = answer.text().await.expect("a text");
            (job, Instant::now(), text.contains("\"jobStatus\":\"COMPLETED\""))
        });
    }
    waiting
}

fn report(
    args: &Args,
    answers: &[Waited],
    ended: &BTreeMap<JobId, Instant>,
    [get, batch, query]: [f64; 3],
    polls: f64,
    (memory_before, cpu_before): (u64, f64),
    (memory, cpu): (u64, f64),
) {
    let mut late: Vec<f64> =
        answers.iter().map(|(job, at, _)| at.saturating_duration_since(ended[job]).as_secs_f64()).collect();
    late.sort_by(f64::total_cmp);
    let at = |part: usize| late[(late.len() - 1) * part / 100];
    let _ = writeln!(
        std::io::stdout(),
        "{} clients waited for {} jobs, {}; {} got the result\n\
         table calls: {get} GetItem ({polls} of them in the first {} s), {batch} BatchGetItem, {query} Query\n\
         response after the job's end: p50 {:.3} s, p99 {:.3} s, maximum {:.3} s\n\
         api: peak memory {memory} MB ({memory_before} MB before), CPU time {:.1} s",
        args.clients,
        args.jobs,
        if args.redis { "with Redis" } else { "without Redis" },
        answers.iter().filter(|(_, _, completed)| *completed).count(),
        args.seconds,
        at(50),
        at(99),
        at(100),
        cpu - cpu_before,
    );
}

/// Settles all chunks of a job. Returns the time of the end.
async fn end(lifecycle: &Lifecycle, job: JobId) -> (JobId, Instant) {
    let words = Transcription::new("words ".repeat(100), Some(60.0), vec![]).expect("small");
    let words = Verdict::Completed(words);
    for index in 0..6_u64 {
        let chunk = ChunkRef { job, index: index.try_into().expect("small") };
        let settled = lifecycle.settle(chunk, &Attempt::number(0), &words, Timestamp::now()).await;
        settled.expect("settled");
    }
    (job, Instant::now())
}
