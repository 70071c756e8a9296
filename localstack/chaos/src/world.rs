//! The environment of a scenario: its own resources, the model, the proxy and the processes.

use longhand_shared::domain::id::MAX_CHUNKS;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use longhand_e2e::calls::Calls;
use longhand_e2e::relay::Relay;
use longhand_e2e::resources::{Clients, Resources, endpoint};
use longhand_sim_asr::{Behaviour, Latency, SimAsr};
use tokio::time::Instant;

use crate::fleet::{Crew, Fleet};
use crate::proxy::Proxy;

/// The concurrency of a worker: low, so that the work lasts longer than the kills.
pub const CONCURRENCY: usize = 8;

/// The timeout of a call of the model, in seconds.
pub const ASR_TIMEOUT_SECONDS: u64 = 4;

#[derive(Clone, Debug, Args)]
pub struct Size {
    /// The number of jobs.
    #[arg(long, default_value_t = 100)]
    pub jobs: usize,
    /// Chunks of each job.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=MAX_CHUNKS as u64))]
    pub chunks: u64,
    /// The number of worker processes.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub workers: usize,
    /// The number of api processes.
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    pub apis: usize,
    /// Put nginx in front of the apis, with the configuration of `make up SCALE=3`. It is killed, too. No client may see
    /// an error that it would not retry.
    #[arg(long)]
    pub balanced: bool,
    /// The latency of the model in milliseconds: `250`, `500..2000` or `700~0.3` (median~sigma).
    #[arg(long, default_value = "500..2000")]
    pub asr_latency: Latency,
    /// The time limit for the end of all jobs, in seconds from the start.
    #[arg(long, default_value_t = 600)]
    pub limit_seconds: u64,
    /// The folder of the processes' logs, with a folder for each scenario.
    #[arg(long, default_value = "target/chaos")]
    pub logs: PathBuf,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be a number from 1".to_owned())
}

/// Parses a range of seconds, `1..3`, into milliseconds.
pub fn seconds_range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("expected a range of seconds such as 1..3, not {text:?}");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let milliseconds = |text: &str| {
        let seconds = text.parse().ok().filter(|seconds: &f64| *seconds > 0.0);
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        duration.and_then(|duration| u64::try_from(duration.as_millis()).ok()).ok_or_else(wrong)
    };
    let (from, to) = (milliseconds(from)?, milliseconds(to)?);
    if from < to { Ok(from..to) } else { Err(wrong()) }
}

pub struct World {
    /// Clients of the emulator without the proxy.
    pub aws: Clients,
    pub proxy: Proxy,
    pub model: SimAsr,
    /// The start of the model, from which the times in its books count.
    pub model_began: Instant,
    /// The gate in front of the model, if the scenario needs one.
    pub gate: Option<Relay>,
    pub fleet: Arc<Fleet>,
    /// The folder of the logs.
    pub logs: PathBuf,
    /// The maximum of concurrent calls of the model by all workers, with their probes.
    pub calls_at_once: usize,
}

/// The parameters of a [`World`].
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The name of the folder of its logs.
    pub name: &'a str,
    pub seed: u64,
    /// The share of AWS calls with a fault.
    pub aws_faults: f64,
    /// The model's behaviour at the start.
    pub model: Behaviour,
    /// Whether the model has a gate.
    pub gated: bool,
    /// The concurrency of a worker.
    pub slots: usize,
    /// Whether apis and workers share a Redis. Behind nginx they always do.
    pub redis: bool,
    /// The folder of the programs of 0.1.0, which every second api and worker uses.
    pub old: Option<&'a Path>,
}

impl World {
    pub async fn start(size: &Size, plan: Plan<'_>) -> Self {
        let Plan { name, seed, aws_faults, model, gated, slots, redis, old } = plan;
        let aws = Resources::deploy().await.clients(&Calls::default()).await;
        let calls_at_once = size.workers * (slots + 1);
        let model_began = Instant::now();
        let model = SimAsr::start(model).await.expect("the model starts");
        let gate = if gated { Some(Relay::start(model.address()).await) } else { None };
        let model_url = format!("http://{}", gate.as_ref().map_or(model.address(), Relay::address));
        let proxy = Proxy::start(&endpoint(), seed, aws_faults).await.expect("a port for the proxy");
        let logs = size.logs.join(name);
        // The logs of an earlier run, if any.
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
        Self { aws, proxy, model, model_began, gate, fleet, logs, calls_at_once }
    }
}

/// The settings of the processes: short times, so that the run includes the recovery from crashes.
fn variables(resources: &Resources, aws: &str, model: &str, slots: usize) -> Vec<(&'static str, String)> {
    // Four calls, a probe, and three pauses of at most 20 s: the minimum that the worker accepts.
    let longest = 5 * ASR_TIMEOUT_SECONDS + 3 * 20;
    let mut variables = resources.variables();
    variables.extend([
        ("AWS_ENDPOINT_URL", aws.to_owned()),
        ("ASR_BASE_URL", model.to_owned()),
        ("LONGHAND_CONCURRENCY", slots.to_string()),
        ("LONGHAND_VISIBILITY_SECONDS", "6".to_owned()),
        ("LONGHAND_POLL_SECONDS", "2".to_owned()),
        // An api closes its port after at most half of it, so that nginx can notice.
        ("LONGHAND_DRAIN_SECONDS", "10".to_owned()),
        ("LONGHAND_SWEEP_SECONDS", "2".to_owned()),
        ("LONGHAND_MAX_CHUNK_SECONDS", longest.to_string()),
        ("ASR_TIMEOUT_SECONDS", ASR_TIMEOUT_SECONDS.to_string()),
        ("RUST_LOG", std::env::var("LONGHAND_TEST_LOG").unwrap_or_else(|_| "info".to_owned())),
    ]);
    variables
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
