//! `thousand`: a benchmark of one worker with 1,000 chunks in flight. It prints the time beyond the model's own,
//! and the worker's peak memory and CPU time. It needs an emulator: run it with `make bench`.

use std::io::Write;
use std::time::Duration;

use clap::Parser;
use longhand_e2e::calls::Calls;
use longhand_e2e::processes::{Process, free_address, ready};
use longhand_e2e::resources::Resources;
use longhand_e2e::service::wav;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::{Metadata, NewJob, TranscribeOptions};
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::store::{JobStore, read};
use longhand_shared::{AudioPath, JobId, Timestamp};
use longhand_sim_asr::{Behaviour, Books, Latency, SimAsr};
use tokio::time::Instant;

/// Benchmark of one worker with many chunks in flight.
#[derive(Debug, Parser)]
struct Args {
    /// The number of jobs, each with the most chunks.
    #[arg(long, default_value_t = 42)]
    jobs: usize,
    /// The worker's concurrency limit.
    #[arg(long, default_value_t = 1008)]
    concurrency: usize,
    /// The size of each chunk's audio, in bytes.
    #[arg(long, default_value_t = 5 * 1024 * 1024)]
    audio_bytes: usize,
    /// The latency of a model call, in milliseconds.
    #[arg(long, default_value_t = 5000)]
    latency_ms: u64,
    /// Read the audio from the emulator's bucket instead of a folder.
    #[arg(long)]
    s3: bool,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let aws = Resources::deploy().await.clients(&Calls::default()).await;
    let asr = SimAsr::start(Behaviour::taking(Latency::Fixed(args.latency_ms))).await.expect("the model");
    let folder = tempfile::tempdir().expect("a folder");
    let audio = wav(args.audio_bytes);
    let path: AudioPath = if args.s3 {
        aws.put("a.wav", audio).await.parse().expect("a path")
    } else {
        std::fs::write(folder.path().join("a.wav"), audio).expect("written");
        "a.wav".parse().expect("a path")
    };
    let lifecycle = Lifecycle::new(aws.store(), aws.queue());
    let mut jobs: Vec<JobId> = Vec::new();
    for n in 0..args.jobs {
        let user = format!("user{n}").parse().expect("a user");
        let (paths, options) = (vec![path.clone(); MAX_CHUNKS], TranscribeOptions::default());
        let job = NewJob::new(user, paths, options, Metadata::new(), Timestamp::now()).expect("a job");
        lifecycle.submit(&job, None).await.expect("submitted");
        jobs.push(job.id);
    }

    let health = free_address();
    let mut variables = aws.resources.variables();
    variables.extend([
        ("LONGHAND_AUDIO_ROOT", folder.path().display().to_string()),
        ("LONGHAND_CONCURRENCY", args.concurrency.to_string()),
        ("LONGHAND_HEALTH_LISTEN", health.clone()),
        ("ASR_BASE_URL", asr.base_url()),
        ("RUST_LOG", "warn".to_owned()),
    ]);
    let worker = Process::start("longhand-worker", &variables);
    let began = Instant::now();
    ready(&format!("http://{health}/healthz")).await;
    let chunks = u64::try_from(args.jobs * MAX_CHUNKS).expect("a count");
    let limit = Duration::from_mins(10);
    let answered = asr.wait_until(|books| books.by_status.get(&200) >= Some(&chunks), limit).await;
    assert!(answered, "the model answered {} calls of {chunks}", asr.books().status(200));
    for id in &jobs {
        while !ended(aws.store().as_ref(), *id).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    report(&args, chunks, began.elapsed(), &worker, &asr.books());
}

fn report(args: &Args, chunks: u64, took: Duration, worker: &Process, books: &Books) {
    let latency = Duration::from_millis(args.latency_ms);
    let (memory, cpu) = worker.used();
    let _ = writeln!(
        std::io::stdout(),
        "{chunks} chunks of {} bytes ({}): {:.1} s in total, {:.1} s more than the model's {:.1} s\n\
         model: {} calls, at most {} in flight\n\
         worker: peak memory {memory} MB, CPU time {cpu:.1} s",
        args.audio_bytes,
        if args.s3 { "from the bucket" } else { "from a folder" },
        took.as_secs_f64(),
        took.saturating_sub(latency).as_secs_f64(),
        latency.as_secs_f64(),
        books.calls,
        books.most_in_flight,
    );
}

async fn ended(store: &dyn JobStore, id: JobId) -> bool {
    let result = read(store, id).await.expect("read").expect("there");
    result.completed_time.is_some()
}
