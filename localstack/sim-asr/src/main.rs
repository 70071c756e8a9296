//! `longhand-sim-asr`: the simulated ASR as a program, for load tests and for a stack without a model.

use std::{fs, io, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use longhand_sim_asr::{Answer, Behaviour, Latency, Schedule, Script, SimAsr, share};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A simulated ASR with the OpenAI-compatible POST /v1/audio/transcriptions and configurable faults.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The address to listen on. Port 0 selects a free port and logs it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8790")]
    listen: SocketAddr,

    /// The latency of calls in milliseconds: `250`, `5000..10000` (uniform) or `7000~0.3` (log-normal: median~sigma).
    #[arg(long, value_name = "MS", default_value = "0")]
    latency_ms: Latency,

    /// The probability of a transient fault, 0 to 1 (503, 500, 429 or a closed connection).
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    fault_rate: f64,

    /// Answer with this many words instead of a short text that contains the file name.
    #[arg(long, value_name = "COUNT")]
    words: Option<usize>,

    /// The concurrency limit. Further calls get a 429.
    #[arg(long, value_name = "CALLS")]
    max_concurrent: Option<usize>,

    /// The `Retry-After` header of those 429s.
    #[arg(long, value_name = "SECONDS|DATE", requires = "max_concurrent")]
    retry_after: Option<String>,

    /// Refuse `response_format=verbose_json`, as some models do.
    #[arg(long)]
    no_verbose_json: bool,

    /// The random seed. With the same seed a file gets the same faults and latencies.
    #[arg(long)]
    seed: Option<u64>,

    /// A JSON file with a schedule of behaviours: `[{"after_ms": 0, "behaviour": {}}]`.
    #[arg(long, value_name = "FILE")]
    schedule: Option<PathBuf>,
}

impl Options {
    fn behaviour(&self) -> Behaviour {
        Behaviour {
            latency: self.latency_ms,
            answer: self.words.map_or(Answer::Echo, |count| Answer::Words { count, script: Script::Latin }),
            faults: Behaviour::usual_faults(self.fault_rate),
            max_concurrent: self.max_concurrent,
            retry_after: self.retry_after.clone(),
            supports_verbose_json: !self.no_verbose_json,
            seed: self.seed,
            ..Behaviour::default()
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), String> {
    let schedule = options.schedule.as_ref().map(read_schedule).transpose()?;
    let no_signals = |error| format!("cannot listen for signals: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;

    let sim = SimAsr::start_on(options.listen, options.behaviour())
        .await
        .map_err(|error| listen_error(options.listen, &error))?;
    if let Some(schedule) = schedule {
        sim.schedule(schedule);
    }
    tracing::info!("listening on {}", sim.base_url());

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let books = sim.books();
    tracing::info!(
        calls = books.calls,
        in_flight = books.in_flight,
        most_in_flight = books.most_in_flight,
        "stopping"
    );
    sim.stop().await;
    Ok(())
}

fn read_schedule(path: &PathBuf) -> Result<Schedule, String> {
    let json = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_slice(&json)
        .map_err(|error| format!("{} is not a valid schedule: {error}", path.display()))
}

fn listen_error(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{address} is in use by another process: stop that process, or choose another address with --listen"
        ),
        _ => format!("cannot listen on {address}: {error}"),
    }
}
