//! What a scenario stands on: resources of its own, the model, the proxy, and the processes between them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use longhand_e2e::calls::Calls;
use longhand_e2e::resources::{Clients, Resources, endpoint};
use longhand_sim_asr::{Behaviour, Latency, SimAsr};
use tokio::time::Instant;

use crate::audit::Bounds;
use crate::fleet::{Crew, Fleet};
use crate::gate::Gate;
use crate::proxy::Proxy;

/// Chunks in hand in one worker: few, so that the work lasts longer than the killing.
pub const CONCURRENCY: usize = 8;

/// One call of the model, in seconds.
pub const ASR_TIMEOUT_SECONDS: u64 = 4;

/// How big a scenario is.
#[derive(Clone, Debug, Args)]
pub struct Size {
    /// Jobs to submit.
    #[arg(long, default_value_t = 100)]
    pub jobs: usize,
    /// Chunks of each job, 1 to 24.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=24))]
    pub chunks: u64,
    /// Worker processes.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub workers: usize,
    /// Api processes.
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    pub apis: usize,
    /// Clients go to an nginx before the apis, with the configuration of `make up SCALE=3`; it is killed too, and no client may see an error that is not worth another try.
    #[arg(long)]
    pub balanced: bool,
    /// What a call of the model takes, in milliseconds: `250`, `500..2000` or `700~0.3` (median~sigma).
    #[arg(long, default_value = "500..2000")]
    pub asr_latency: Latency,
    /// When a job that has not ended is called stuck, in seconds from the start.
    #[arg(long, default_value_t = 600)]
    pub limit_seconds: u64,
    /// Where the processes' logs go, one folder a scenario.
    #[arg(long, default_value = "target/chaos")]
    pub logs: PathBuf,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be a number from 1".to_owned())
}

/// `1..3`: from so many seconds to so many, as milliseconds.
pub fn seconds_range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text:?} must be like 1..3, in seconds");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let milliseconds = |text: &str| {
        let seconds = text.parse().ok().filter(|seconds: &f64| *seconds > 0.0);
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        duration.and_then(|duration| u64::try_from(duration.as_millis()).ok()).ok_or_else(wrong)
    };
    let (from, to) = (milliseconds(from)?, milliseconds(to)?);
    if from < to { Ok(from..to) } else { Err(wrong()) }
}

/// All that a scenario stands on.
pub struct World {
    /// Clients that nothing stands before.
    pub aws: Clients,
    /// What stands before the processes' clients.
    pub proxy: Proxy,
    /// The model.
    pub model: SimAsr,
    /// When it began, by which its books tell the time.
    pub model_began: Instant,
    /// What stands before the model, where somebody wants it to be closed.
    pub gate: Option<Gate>,
    /// The processes.
    pub fleet: Arc<Fleet>,
    /// Their logs.
    pub logs: PathBuf,
    /// What the audit holds the model's books against.
    pub bounds: Bounds,
}

/// What a world is to be like.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The folder of its logs.
    pub name: &'a str,
    /// What chance is drawn from.
    pub seed: u64,
    /// The share of AWS calls that something goes wrong with.
    pub aws_faults: f64,
    /// How the model behaves at first.
    pub model: Behaviour,
    /// Whether a gate stands before the model.
    pub gated: bool,
    /// Chunks in hand in one worker.
    pub slots: usize,
    /// Whether apis and workers share a Redis; those behind nginx always do.
    pub redis: bool,
    /// Programs of 0.1.0: each second api and each second worker is one of those.
    pub old: Option<&'a Path>,
}

impl World {
    /// Makes everything and starts it.
    pub async fn start(size: &Size, plan: Plan<'_>) -> Self {
        let Plan { name, seed, aws_faults, model, gated, slots, redis, old } = plan;
        let aws = Resources::deploy().await.clients(&Calls::default()).await;
        let bounds = Bounds { calls_at_once: size.workers * (slots + 1) };
        let model_began = Instant::now();
        let model = SimAsr::start(model).await.expect("the model starts");
        let gate =
            if gated { Some(Gate::start(model.address()).await.expect("a port for the gate")) } else { None };
        let model_url = gate.as_ref().map_or_else(|| model.base_url(), Gate::url);
        let proxy = Proxy::start(&endpoint(), seed, aws_faults).await.expect("a port for the proxy");
        let logs = size.logs.join(name);
        // Of an earlier run, perhaps, or not there.
        let _ = std::fs::remove_dir_all(&logs);
        std::fs::create_dir_all(&logs).expect("a folder for the logs");
        let variables = variables(&aws.resources, &proxy.url(), &model_url, slots);
        let crew = Crew {
            apis: size.apis,
            workers: size.workers,
            balanced: size.balanced,
            redis: redis || size.balanced,
            old: old.map(Path::to_owned),
        };
        let fleet = Fleet::start(crew, &variables, &logs).await;
        Self { aws, proxy, model, model_began, gate, fleet, logs, bounds }
    }
}

/// The processes' settings: short times, so that what a crash leaves is found within the run.
fn variables(resources: &Resources, aws: &str, model: &str, slots: usize) -> Vec<(&'static str, String)> {
    // Four calls, a probe, and the longest pause, 20 s, between the calls: the worker insists.
    let longest = 5 * ASR_TIMEOUT_SECONDS + 3 * 20;
    vec![
        ("AWS_ENDPOINT_URL", aws.to_owned()),
        ("ASR_BASE_URL", model.to_owned()),
        ("LONGHAND_TABLE", resources.table.clone()),
        ("LONGHAND_QUEUE_URL", resources.queue_url.clone()),
        ("LONGHAND_DLQ_URL", resources.dlq_url.clone()),
        ("LONGHAND_AUDIO_BUCKETS", resources.bucket.clone()),
        ("LONGHAND_CONCURRENCY", slots.to_string()),
        ("LONGHAND_VISIBILITY_SECONDS", "6".to_owned()),
        ("LONGHAND_POLL_SECONDS", "2".to_owned()),
        // Half of it at most passes before an api closes its door, which nginx has to hear of.
        ("LONGHAND_DRAIN_SECONDS", "10".to_owned()),
        ("LONGHAND_SWEEP_SECONDS", "2".to_owned()),
        ("LONGHAND_MAX_CHUNK_SECONDS", longest.to_string()),
        ("ASR_TIMEOUT_SECONDS", ASR_TIMEOUT_SECONDS.to_string()),
        ("RUST_LOG", std::env::var("LONGHAND_TEST_LOG").unwrap_or_else(|_| "info".to_owned())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_seconds_is_parsed() {
        assert_eq!(seconds_range("1..3"), Ok(1_000..3_000));
        assert_eq!(seconds_range("0.3..1"), Ok(300..1_000));
        for bad in ["", "1", "3..1", "1..1", "-1..2", "0..2", "1..1e30", "a..b"] {
            assert!(seconds_range(bad).is_err(), "{bad}");
        }
    }
}
