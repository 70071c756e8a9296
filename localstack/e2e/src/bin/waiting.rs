//! `waiting`: many clients wait for some jobs at once. Prints what that costs the table and the api, and how
//! long after a job's end its clients were answered. Needs the emulator: `make bench` runs it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures::StreamExt;
use futures::stream::iter;
use longhand_e2e::calls::Calls;
use longhand_e2e::processes::{Process, free_port, ready};
use longhand_e2e::redis::RedisServer;
use longhand_e2e::resources::Resources;
use longhand_shared::cache::observed::ObservedStore;
use longhand_shared::job::{Metadata, NewJob, TranscribeOptions, Transcription, Verdict};
use longhand_shared::lifecycle;
use longhand_shared::store::JobStore;
use longhand_shared::{Attempt, ChunkRef, JobId, Timestamp};
use reqwest::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Many clients, some jobs.
#[derive(Debug, Parser)]
struct Args {
    /// Clients that wait.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Jobs of six chunks that they wait for.
    #[arg(long, default_value_t = 100)]
    jobs: usize,
    /// How long they wait before the first job ends, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// With a Redis.
    #[arg(long)]
    redis: bool,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let aws = Resources::deploy().await.clients(&Calls::default()).await;
    let redis = if args.redis { Some(RedisServer::start().await) } else { None };
    let mut store: Arc<dyn JobStore> = aws.store();
    if let Some(redis) = &redis {
        store = Arc::new(ObservedStore::new(store, redis.cache()));
    }
    let address = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{address}");
    let api = Process::start(
        "longhand-api",
        &[
            ("LONGHAND_TABLE", aws.resources.table.clone()),
            ("LONGHAND_QUEUE_URL", aws.resources.queue_url.clone()),
            ("LONGHAND_AUDIO_BUCKETS", aws.resources.bucket.clone()),
            ("LONGHAND_LISTEN", address),
            ("REDIS_URL", redis.as_ref().map(RedisServer::url).unwrap_or_default()),
            ("RUST_LOG", "warn".to_owned()),
        ],
    );
    ready(&format!("{url}/readyz")).await;
    let mut jobs: Vec<JobId> = Vec::new();
    for n in 0..args.jobs {
        let (user, path) = (format!("user{n}").parse().expect("a user"), "a.wav".parse().expect("a path"));
        let (paths, options) = (vec![path; 6], TranscribeOptions::default());
        let job = NewJob::new(user, paths, options, Metadata::new(), Timestamp::now()).expect("a job");
        store.create(&job, job.submitted.plus(lifecycle::FIRST_CHECK)).await.expect("created");
        jobs.push(job.id);
    }

    let http = Client::new();
    let reads = async || {
        let text = http.get(format!("{url}/metrics")).send().await.expect("an answer");
        let text = text.text().await.expect("a text");
        let of = |operation: &str| -> f64 {
            let lines = text.lines().filter(|line| line.starts_with("longhand_aws_calls_total{"));
            let lines = lines.filter(|line| line.contains(&format!("operation=\"{operation}\"")));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        [of("GetItem"), of("BatchGetItem"), of("Query")]
    };
    let (reads_before, (memory_before, cpu_before)) = (reads().await, api.used());
    let mut waiting = JoinSet::new();
    for client in 0..args.clients {
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
    sleep(Duration::from_secs(args.seconds)).await;
    let reads_waiting = reads().await;
    // Ten at a time, as so many workers would.
    let ended: BTreeMap<JobId, Instant> =
        iter(jobs.clone()).map(|job| end(store.as_ref(), job)).buffer_unordered(10).collect().await;
    let answers = waiting.join_all().await;
    let mut late: Vec<f64> =
        answers.iter().map(|(job, at, _)| at.saturating_duration_since(ended[job]).as_secs_f64()).collect();
    late.sort_by(f64::total_cmp);
    let at = |part: usize| late[(late.len() - 1) * part / 100];
    let (reads_after, (memory, cpu)) = (reads().await, api.used());
    let [get, batch, query] = [0, 1, 2].map(|n| reads_after[n] - reads_before[n]);
    let looks = reads_waiting[0] - reads_before[0];
    let mut out = std::io::stdout();
    let _ = writeln!(
        out,
        "{} clients waited for {} jobs, {}; {} were answered with the result\n\
         table calls: {get} GetItem ({looks} of them in the first {} s), {batch} BatchGetItem, {query} Query\n\
         answered after the job's end: p50 {:.3} s, p99 {:.3} s, at most {:.3} s\n\
         the api: {memory} MB at its peak, {memory_before} MB before; {:.1} s of CPU",
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

/// Settles all chunks of a job; when it was over.
async fn end(store: &dyn JobStore, job: JobId) -> (JobId, Instant) {
    let words = Transcription::new("words ".repeat(100), Some(60.0), vec![]).expect("small");
    let words = Verdict::Completed(words);
    for index in 0..6_u64 {
        let chunk = ChunkRef { job, index: index.try_into().expect("small") };
        let settled = lifecycle::settle(store, chunk, &Attempt::number(0), &words, Timestamp::now()).await;
        settled.expect("settled");
    }
    (job, Instant::now())
}
